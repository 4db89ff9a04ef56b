// @ts-check
/** Training: the round that runs, and what became of those before. */

import { html, useEffect, useRef, useState } from "../vendor/htm-preact.js";
import { call } from "../api.js";
import { count, duration, fixed, when } from "../format.js";
import Report from "../report.js";
import { Empty, Head, Stats, Trouble, tell, useAction, useAsked } from "../ui.js";

const KINDS = { published: "good", rejected: "bad", failed: "bad", held: "warn" };

/** @param {{rest: string[]}} props */
export default function Rounds({ rest }) {
  const asked = useAsked((signal) => call("trainer", "rounds", { query: { limit: 30 }, signal }), [], 2);
  const rounds = /** @type {any[]} */ (asked.data ?? []);
  const [train, isAsking, trainError] = useAction(async () => {
    const { round } = await call("trainer", "rounds", { method: "POST" });
    tell(`Round ${round} starts.`, "good");
    location.hash = `#rounds/${round}`;
    asked.refresh();
  });
  const id = rest[0] ?? rounds[0]?.id;
  return html`
    <${Head} title="Rounds" about="A round trains a new student on all that the dataset holds. It starts by itself when enough pairs are new.">
      <button class="primary" disabled=${isAsking} onClick=${train}>${isAsking ? "Asking …" : "Train now"}</button>
    <//>
    <${Trouble} error=${asked.error ?? trainError} />
    ${asked.data && !rounds.length && html`<section class="panel"><${Empty}>No round has run yet.<//></section>`}
    ${rounds.length > 0 && html`<div class="master">
      <section class="panel" aria-labelledby="rounds"><h2 id="rounds">Rounds</h2>
        <ul class="list picks">${rounds.map((round) => html`<li key=${round.id}><a class="button pick" href=${`#rounds/${round.id}`} aria-current=${String(round.id) === String(id) ? "true" : undefined}>
          <span class="row between"><strong>Round ${round.id}</strong><span class=${`chip ${KINDS[/** @type {keyof typeof KINDS} */ (round.state)] ?? "accent"}`}>${round.state}</span></span>
          <span class="small muted">${count(round.pairs)} pairs · ${when(round.started)}</span></a></li>`)}</ul></section>
      <${Round} key=${id} id=${id} />
    </div>`}`;
}

/** @param {{id: string|number}} props */
function Round({ id }) {
  const asked = useAsked((signal) => call("trainer", `rounds/${id}`, { signal }), [id], 1.5);
  const round = asked.data;
  if (!round) return html`<section class="panel"><${Trouble} error=${asked.error} />${!asked.error && html`<p class="muted">…</p>`}</section>`;
  const progress = round.progress;
  const curves = round.curves ?? {};
  const took = round.finished && round.started ? (Date.parse(round.finished) - Date.parse(round.started)) / 1000 : null;
  return html`<section class="panel" aria-labelledby="round">
    <div class="row between"><h2 id="round">Round ${round.id}</h2><span class=${`chip ${KINDS[/** @type {keyof typeof KINDS} */ (round.state)] ?? "accent"}`}>${round.state}</span></div>
    <${Trouble} error=${asked.error} />
    ${progress && html`
      <progress max=${progress.steps || 1} value=${progress.steps ? (progress.step ?? 0) : undefined} aria-label="Steps of the round"></progress>
      <${Stats} items=${factsOf(round)} />`}
    ${!progress && html`<${Stats} items=${[["pairs", count(round.pairs)], ["took", duration(took)], ["started", when(round.started)]]} />`}
    ${(round.gate || round.reason) && html`<div class=${`note ${KINDS[/** @type {keyof typeof KINDS} */ (round.state)] ?? ""}`}>${sentence(round.gate || round.reason)}</div>`}
    ${round.version && html`<p class="small">Version <a class="mono" href=${`#versions/${round.version}`}>${round.version}</a>${["held", "rejected"].includes(round.state) && " is not served. There it can be promoted all the same."}</p>`}
    ${(curves.loss ?? []).length > 1 && html`<${Chart} title="Loss" points=${curves.loss} colour="--c0" />`}
    ${(curves.dev ?? []).length > 1 && html`<${Chart} title="Score on held-out pairs, Spearman x 100" points=${curves.dev} colour="--c2" />`}
    ${round.version && !progress && html`<${Reported} key=${round.version} version=${round.version} />`}
  </section>`;
}

/** What is known of a round that runs: before and after its steps, there are none to count. @param {any} round @returns {[string, any][]} */
function factsOf({ progress, pairs, started }) {
  /** @type {[string, any][]} */
  const facts = [["now", progress.state], ["pairs", count(pairs)], ["time so far", duration((Date.now() - Date.parse(started)) / 1000)]];
  if (progress.steps) facts.push(["steps", `${count(progress.step)} of ${count(progress.steps)}`], ["time left", duration(progress.eta_s)]);
  if (progress.loss !== null && progress.loss !== undefined) facts.push(["loss", fixed(progress.loss, 4)]);
  if (progress.dev !== null && progress.dev !== undefined) facts.push(["score on held-out pairs", fixed(progress.dev)]);
  return facts;
}

/** The report, once it is asked for. @param {{version: string}} props */
function Reported({ version }) {
  const [isOpen, setIsOpen] = useState(false);
  return html`<div><button aria-expanded=${isOpen ? "true" : "false"} onClick=${() => setIsOpen(!isOpen)}>Report</button></div>
    ${isOpen && html`<${Report} version=${version} />`}`;
}

/** @param {string} text */
const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

/** @param {{title: string, points: [number, number][], colour: string}} props */
function Chart({ title, points, colour }) {
  const place = useRef(/** @type {HTMLElement|null} */ (null));
  const last = JSON.stringify(points[points.length - 1]);
  useEffect(() => {
    /** @type {any} */
    let plot;
    let isWanted = true;
    const draw = async () => {
      const { default: UPlot } = await import("../vendor/uplot.js");
      if (!isWanted || !place.current) return;
      plot?.destroy();
      const style = getComputedStyle(place.current);
      const ink = style.getPropertyValue("--muted");
      const axis = { stroke: resolve(place.current, ink), grid: { stroke: resolve(place.current, style.getPropertyValue("--line")), width: 1 }, ticks: { show: false } };
      plot = new UPlot({
        width: place.current.clientWidth, height: 210, scales: { x: { time: false } }, axes: [axis, { ...axis, size: 56 }],
        // The title stands above: a label as long would not fit a phone.
        series: [{ label: "step" }, { label: "value", stroke: resolve(place.current, style.getPropertyValue(colour)), width: 2 }],
      }, [points.map(([step]) => step), points.map(([, value]) => value)], place.current);
    };
    draw();
    addEventListener("resize", draw);
    addEventListener("themechange", draw);
    return () => {
      isWanted = false;
      removeEventListener("resize", draw);
      removeEventListener("themechange", draw);
      plot?.destroy();
    };
  }, [last, points.length]);
  const values = points.map(([, value]) => value);
  return html`<div><h3>${title}</h3><div class="chart" ref=${place} role="img"
    aria-label=${`${title}: from ${fixed(values[0], 3)} to ${fixed(values[values.length - 1], 3)} in ${points.length} points`}></div></div>`;
}

/** A colour as a canvas takes it: `light-dark()` is only known to style sheets. @param {HTMLElement} near @param {string} colour */
function resolve(near, colour) {
  const probe = document.createElement("i");
  probe.style.color = colour;
  near.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}
