// @ts-check
/** Prometheus' text format, and quantiles of its histograms. */

/** @typedef {{labels: Record<string, string>, value: number}} Sample */
/** @typedef {Map<string, Sample[]>} Samples by metric */

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** @param {string} text @returns {Samples} */
export function parseMetrics(text) {
  /** @type {Samples} */
  const samples = new Map();
  for (const line of text.split("\n")) {
    const [, name, labels, value] = LINE.exec(line) ?? [];
    if (!name) continue;
    const found = Object.fromEntries([...(labels ?? "").matchAll(LABEL)].map(([, key, one]) => [key, one]));
    const list = samples.get(name) ?? [];
    list.push({ labels: found, value: Number(value.replace("Inf", "Infinity")) });
    samples.set(name, list);
  }
  return samples;
}

/**
 * The upper edge of the bucket in which a share of what came between two looks lies; null if nothing came.
 * @param {Sample[]|undefined} now @param {Sample[]|undefined} before @param {number} share
 * @param {(labels: Record<string, string>) => boolean} keep
 */
export function quantile(now, before, share, keep) {
  /** @type {Map<number, number>} */
  const counts = new Map();
  for (const [samples, sign] of /** @type {[Sample[]|undefined, number][]} */ ([[now, 1], [before, -1]])) {
    for (const { labels, value } of samples ?? []) {
      const edge = Number((labels.le ?? "").replace("+Inf", "Infinity"));
      if (keep(labels)) counts.set(edge, (counts.get(edge) ?? 0) + sign * value);
    }
  }
  const all = counts.get(Infinity) ?? 0;
  if (!all) return null;
  return [...counts.keys()].sort((one, other) => one - other).find((edge) => (counts.get(edge) ?? 0) >= share * all) ?? null;
}
