// @ts-check
/** Jobs: how far each is, live; its newest pairs, and what was rejected. */

import { html, useEffect, useState } from "../vendor/htm-preact.js";
import { ApiError, call, events, lines } from "../api.js";
import { count, duration, fixed, short, when, words } from "../format.js";
import { Bars, Empty, Head, PairTable, RejectedTable, Stats, Trouble, tell, useAction, useAsked } from "../ui.js";

const KEPT = 30;
const KINDS = { complete: "good", running: "accent", queued: "", exhausted: "warn", cancelled: "warn", failed: "bad" };

/** @param {{rest: string[]}} props */
export default function Watch({ rest }) {
  const asked = useAsked((signal) => call("generation", "jobs", { query: { limit: 50 }, signal }), [], 2);
  const jobs = /** @type {any[]} */ (asked.data ?? []);
  const id = rest[0] ?? jobs[0]?.id;
  return html`
    <${Head} title="Watch" about="What the teacher writes, as it comes." />
    <${Trouble} error=${asked.error} />
    ${asked.data && !jobs.length && html`<section class="panel"><${Empty}>No job has run yet. <a href="#start">Start one</a>.<//></section>`}
    ${jobs.length > 0 && html`<div class="master">
      <section class="panel" aria-labelledby="jobs"><h2 id="jobs">Jobs</h2>
        <ul class="list picks">${jobs.map((job) => html`<li key=${job.id}><a class="button pick" href=${`#watch/${job.id}`} aria-current=${job.id === id ? "true" : undefined}>
          <span class="row between"><span><strong>${titleOf(job)}</strong> <span class="mono muted">${short(job.id)}</span></span><${State} job=${job} /></span>
          <progress max=${job.requested || 1} value=${job.accepted} aria-label=${`${job.task} ${short(job.id)}: pairs`}></progress>
          <span class="small muted">${count(job.accepted)} of ${count(job.requested)} pairs · ${when(job.created)}</span>
        </a></li>`)}</ul></section>
      ${id && html`<${Job} key=${id} id=${id} seconds=${jobs.find((job) => job.id === id)?.seconds} onChange=${asked.refresh} />`}
    </div>`}`;
}

/** @param {any} job */
const titleOf = (job) => (job.dry_run ? `${job.task} preview` : job.task);

/** @param {{job: any}} props */
const State = ({ job }) => html`<span class=${`chip ${KINDS[/** @type {keyof typeof KINDS} */ (job.state)] ?? ""}`}>${job.state}</span>`;

/**
 * Follow a job's events to its end, and take up the thread when the service comes back.
 * @param {string} id @param {number} turn follows anew when it changes
 */
function useJob(id, turn) {
  const [job, setJob] = useState(/** @type {any} */ (null));
  const [pairs, setPairs] = useState(/** @type {any[]} */ ([]));
  const [error, setError] = useState(/** @type {Error|null} */ (null));
  useEffect(() => {
    const stop = new AbortController();
    let last = -1;
    let number = 0;
    const follow = async () => {
      const first = await call("generation", `jobs/${id}`, { signal: stop.signal });
      setJob(first);
      setError(null);
      if (last < 0) last = Math.max(0, first.work_items_done - KEPT);
      const options = { query: { pairs: true }, signal: stop.signal, headers: { "last-event-id": String(last) } };
      for await (const { event, id: at, data } of events("generation", `jobs/${id}/events`, options)) {
        last = Number(at);
        if (event === "pairs") {
          const fresh = data.map((/** @type {any} */ pair) => ({ ...pair, key: (number += 1) })).reverse();
          setPairs((old) => [...fresh, ...old].slice(0, KEPT));
        } else setJob(data);
        if (event === "done") return true;
      }
      return false;
    };
    const keepOn = async () => {
      while (!stop.signal.aborted) {
        try {
          if (await follow()) return;
        } catch (problem) {
          if (stop.signal.aborted) return;
          const trouble = /** @type {Error} */ (problem);
          setError(trouble);
          if (trouble instanceof ApiError && [401, 404].includes(trouble.status)) return;
        }
        await new Promise((resolve) => setTimeout(resolve, 1000));
      }
    };
    keepOn();
    return () => stop.abort();
  }, [id, turn]);
  return { job, pairs, error };
}

/** @param {{id: string, seconds: number|undefined, onChange: () => void}} props seconds: as it was last listed; events are rarer */
function Job({ id, seconds, onChange }) {
  const [turn, setTurn] = useState(0);
  const { job, pairs, error } = useJob(id, turn);
  const [reason, setReason] = useState("");
  const [stop, isStopping, stopError] = useAction(async () => {
    await call("generation", `jobs/${id}`, { method: "DELETE" });
    tell("The job has stopped. Its pairs stay.", "good");
    onChange();
  });
  const [resume, isResuming, resumeError] = useAction(async () => {
    await call("generation", `jobs/${id}/resume`, { method: "POST" });
    setTurn(turn + 1);
    onChange();
  });
  if (!job) return html`<section class="panel"><${Trouble} error=${error} />${!error && html`<p class="muted">…</p>`}</section>`;
  const isOpen = ["queued", "running"].includes(job.state);
  const facts = [
    ["pairs", `${count(job.accepted)} of ${count(job.requested)}`], ["pairs a second", fixed(job.pairs_per_second, 1)],
    ["time left", isOpen ? duration(job.eta_seconds) : "–"], ["time so far", duration(isOpen ? Math.max(job.seconds ?? 0, seconds ?? 0) : job.seconds)],
    ["samples", count(job.samples)], ["rejected", count(job.rejected)],
  ];
  return html`<section class="panel" aria-labelledby="job">
    <div class="row between"><h2 id="job">${titleOf(job)} <span class="mono muted">${short(job.id)}</span></h2>
      <div class="row"><${State} job=${job} />
        ${isOpen && html`<button class="danger" disabled=${isStopping} onClick=${stop}>Stop</button>`}
        ${job.state === "cancelled" && html`<button disabled=${isResuming} onClick=${resume}>Resume</button>`}</div></div>
    <${Trouble} error=${error ?? stopError ?? resumeError} />
    ${job.error && html`<div class="note bad">${job.error}</div>`}
    ${job.waiting_for && html`<div class="note warn">Waits for ${job.waiting_for}</div>`}
    ${job.warnings.map((/** @type {string} */ text) => html`<div class="note warn">${text}</div>`)}
    ${job.state === "exhausted" && html`<div class="note warn">It has fewer pairs than were asked for: at some places, everything that the teacher wrote was rejected. The reasons are below.</div>`}
    ${job.state === "queued" && html`<p class="small muted" role="status">It waits for its turn.</p>`}
    ${job.state === "running" && !job.samples && !job.waiting_for && html`<p class="small muted" role="status">The teacher writes many samples side by side, so the first ones come late and together.</p>`}
    <progress max=${job.requested || 1} value=${isOpen && !job.samples ? undefined : job.accepted} aria-label="Pairs of this job"></progress>
    <${Stats} items=${facts} />
    <div class="columns">
      <div><h3>Pairs by label</h3>${job.accepted ? html`<${Bars} counts=${job.accepted_by_label} label="Pairs by label" />` : html`<p class="muted small">None yet.</p>`}</div>
      <div><h3>Rejected by reason</h3>
        ${job.rejected ? html`<${Bars} counts=${job.rejected_by_reason} label="Rejected by reason" picked=${reason} onPick=${(/** @type {string} */ name) => setReason(name === reason ? "" : name)} />` : html`<p class="muted small">None.</p>`}</div>
    </div>
    ${reason && html`<${Rejected} key=${reason} id=${id} reason=${reason} />`}
    <div><h3>Newest pairs</h3>
      ${pairs.length ? html`<${PairTable} pairs=${pairs} label="Newest pairs" />` : html`<p class="muted small">None yet.</p>`}</div>
    ${job.accepted > 0 && !job.dry_run && html`<p class="small"><a href=${`#pairs/job/${id}`}>All of this job's pairs in the dataset</a></p>`}
  </section>`;
}

/** @param {{id: string, reason: string}} props */
function Rejected({ id, reason }) {
  const asked = useAsked((signal) => lines("generation", `jobs/${id}/rejected`, { query: { reason }, signal }), [id, reason]);
  return html`<div><h3>Rejected: ${words(reason)}</h3>
    <${Trouble} error=${asked.error} />
    ${asked.data && html`<${RejectedTable} rows=${asked.data.slice(0, KEPT)} />`}
  </div>`;
}
