// @ts-check
/** What each service says of itself: whether it works, what waits, what it takes, and what to do. */

import { html, useRef } from "../vendor/htm-preact.js";
import { call, send } from "../api.js";
import { bytes, count, duration, fixed } from "../format.js";
import { Head, Stats, Trouble, useAsked } from "../ui.js";
import { parseMetrics, quantile } from "../metrics.js";

/** @typedef {import("../metrics.js").Samples} Samples */

const SERVICES = /** @type {const} */ (["generation", "trainer", "embedding"]);
const ABOUT = { generation: "The teacher writes pairs", trainer: "Collects pairs, trains and publishes", embedding: "Serves the student" };

/** What to do when a check isn't ok, by what it begins with. @type {[string, RegExp, string][]} */
const ADVICE = [
  ["", /needs a key|401/i, "Type a key: the button Key, at the left."],
  ["engine", /start|load/i, "The teacher is being loaded. It takes about half a minute; a large one takes longer."],
  ["engine", /./, "The teacher's engine is down. The process ends and `make up` starts it again; see logs/generation.log."],
  ["redis", /./, "The queue doesn't answer. Nothing is lost. `make up` starts its own again; for another, see PAIRWRIGHT_REDIS_URL."],
  ["collecting", /./, "The trainer can't take pairs: see the reason, and logs/trainer.log. They wait in the queue."],
  ["rounds", /./, "The last round failed and is tried again; see Rounds, and logs/trainer.log."],
  ["version", /./, "No version is loaded: the trainer publishes the first one. See Versions, and logs/embedding.log."],
];

/** @param {string} name @param {string} state */
const adviceFor = (name, state) => ADVICE.find(([check, pattern]) => name.startsWith(check) && pattern.test(state))?.[2];

export default function System() {
  return html`<${Head} title="System" about="What works, what waits, and what to do about it. It looks again every two seconds." />
    <div class="columns">${SERVICES.map((service) => html`<${ServiceCard} key=${service} service=${service} />`)}</div>`;
}

/** @param {{service: "generation"|"trainer"|"embedding"}} props */
function ServiceCard({ service }) {
  const before = useRef(/** @type {Samples|null} */ (null));
  const asked = useAsked(async (signal) => {
    // A service that isn't ready says why, with status 503.
    const ready = await call(service, "readyz", { signal }).catch((error) => {
      if (error.body?.checks) return error.body;
      throw error;
    });
    const metrics = parseMetrics(await (await send(service, "metrics", { signal })).text());
    const state = { ready, metrics, before: before.current };
    before.current = metrics;
    return state;
  }, [service], 2);
  const isDown = asked.error !== null;
  const state = asked.data;
  const isReady = !isDown && state?.ready.status === "ready";
  const checks = Object.entries(state?.ready.checks ?? {});
  return html`<section class="panel" aria-labelledby=${service}>
    <div class="row between"><h2 id=${service}>${service}</h2>
      <span class=${`chip ${isDown ? "bad" : isReady ? "good" : "warn"}`}>${isDown ? "down" : state ? state.ready.status : "…"}</span></div>
    <p class="muted small">${ABOUT[service]}</p>
    <${Trouble} error=${asked.error} />
    ${isDown && html`<div class="note"><code>make up</code> starts it again by itself; if that does not run, start it. ${service === "generation" ? "Jobs go on where they stopped." : service === "trainer" ? "Pairs wait in the queue meanwhile." : "The last version is loaded again."}</div>`}
    ${!isDown && state && html`
      <ul class="list small">${checks.map(([name, text]) => {
        const value = String(text);
        const isFine = value.split(";")[0] === "ok";
        const advice = value !== "ok" && adviceFor(name, value);
        return html`<li><div class="row between"><span>${name}</span><span class=${`chip ${isFine ? (value === "ok" ? "good" : "warn") : "bad"}`}>${isFine ? "ok" : "not ok"}</span></div>
          ${value !== "ok" && html`<div class="break">${value}</div>`}${advice && html`<div class="muted">${advice}</div>`}</li>`;
      })}</ul>
      <${Stats} items=${FACTS[service](state.metrics, state.before)} />`}
  </section>`;
}

/** Latency of the requests since the last look, else of all. @param {Samples} now @param {Samples|null} before */
function latency(now, before) {
  const name = "pairwright_http_request_seconds_bucket";
  const keep = (/** @type {Record<string, string>} */ labels) => !/^\/(console|metrics|readyz|livez|jobs\/{job_id}\/events)/.test(labels.route ?? "");
  const value = quantile(now.get(name), before?.get(name), 0.95, keep) ?? quantile(now.get(name), undefined, 0.95, keep);
  if (value === null || Number.isFinite(value)) return value === null ? "–" : `≤ ${duration(value)}`;
  const edges = (now.get(name) ?? []).map(({ labels }) => Number(labels.le)).filter(Number.isFinite);
  return `> ${duration(Math.max(...edges))}`;
}

/** @param {Samples} metrics @param {string} name */
const value = (metrics, name) => metrics.get(name)?.reduce((sum, sample) => sum + sample.value, 0);

/** @param {Samples} metrics */
const memory = (metrics) => bytes(value(metrics, "process_resident_memory_bytes") ?? 0);

/** @type {Record<string, (now: Samples, before: Samples|null) => [string, any][]>} */
const FACTS = {
  generation: (now, before) => [
    ["pairs in the queue", `${count(value(now, "pairwright_generation_backlog_pairs"))} of ${count(value(now, "pairwright_generation_backlog_limit_pairs"))}`],
    ["lanes that decode", count(value(now, "pairwright_generation_lanes_running"))],
    ["open jobs", count(value(now, "pairwright_generation_open_jobs"))],
    ["pairs accepted", count(value(now, "pairwright_generation_pairs_accepted_total"))],
    ["memory", memory(now)],
    ["95 % of answers", latency(now, before)],
  ],
  trainer: (now, before) => [
    ["pairs in the dataset", count(value(now, "pairwright_trainer_dataset_pairs"))],
    ["new since the last round", count(value(now, "pairwright_trainer_new_pairs"))],
    ["put aside as unreadable", count(value(now, "pairwright_trainer_dead_letters"))],
    ["a round runs", value(now, "pairwright_trainer_round_running") ? "yes" : "no"],
    ["memory", memory(now)],
    ["95 % of answers", latency(now, before)],
  ],
  embedding: (now, before) => [
    ["served", (now.get("pairwright_embedding_serving") ?? []).filter((one) => one.value === 1).map((one) => one.labels.version).join(", ") || "–"],
    ["versions in memory", count(value(now, "pairwright_embedding_loaded_versions"))],
    ["inputs that wait", count(value(now, "pairwright_embedding_queued_inputs"))],
    ["known from the cache", share(value(now, "pairwright_embedding_cache_hits_total"), value(now, "pairwright_embedding_cache_misses_total"))],
    ["memory", memory(now)],
    ["95 % of answers", latency(now, before)],
  ],
};

/** @param {number} [hits] @param {number} [misses] */
const share = (hits = 0, misses = 0) => (hits + misses ? `${fixed((100 * hits) / (hits + misses), 0)} %` : "–");
