// @ts-check
/** Jobs: how far each is, live; its newest pairs, and what was rejected. */

import { html, useEffect, useState } from "../vendor/htm-preact.js";
import { ApiError, call, events, lines } from "../api.js";
import { count, duration, fixed, short, when, words } from "../format.js";
import { Bars, Empty, Head, PairTable, Stats, Trouble, tell, useAction, useAsked } from "../ui.js";

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
        <ul class="list">${jobs.map((job) => html`<li key=${job.id}><a class="button pick" href=${`#watch/${job.id}`} aria-current=${job.id === id ? "true" : undefined}>
          <span class="row between"><span><strong>${job.task}</strong> <span class="mono muted">${short(job.id)}</span></span><${State} job=${job} /></span>
          <progress max=${job.requested || 1} value=${job.accepted} aria-label=${`${job.task} ${short(job.id)}: pairs`}></progress>
          <span class="small muted">${count(job.accepted)} of ${count(job.requested)} pairs · ${when(job.created)}</span>
        </a></li>`)}</ul></section>
      ${id && html`<${Job} key=${id} id=${id} onChange=${asked.refresh} />`}
    </div>`}`;
}

/** @param {{job: any}} props */
const State = ({ job }) => html`<span class=${`chip ${KINDS[/** @type {keyof typeof KINDS} */ (job.state)] ?? ""}`}>${job.dry_run ? "preview, " : ""}${job.state}</span>`;

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

/** @param {{id: string, onChange: () => void}} props */
function Job({ id, onChange }) {
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
    ["time left", isOpen ? duration(job.eta_seconds) : "–"], ["time so far", duration(job.seconds)],
    ["samples", count(job.samples)], ["rejected", count(job.rejected)],
  ];
  return html`<section class="panel" aria-labelledby="job">
    <div class="row between"><h2 id="job">${job.task} <span class="mono muted">${short(job.id)}</span></h2>
      <div class="row"><${State} job=${job} />
        ${isOpen && html`<button class="danger" disabled=${isStopping} onClick=${stop}>Stop</button>`}
        ${job.state === "cancelled" && html`<button disabled=${isResuming} onClick=${resume}>Resume</button>`}</div></div>
    <${Trouble} error=${error ?? stopError ?? resumeError} />
    ${job.error && html`<div class="note bad">${job.error}</div>`}
    ${job.waiting_for && html`<div class="note warn">Waits for ${job.waiting_for}</div>`}
    ${job.warnings.map((/** @type {string} */ text) => html`<div class="note warn">${text}</div>`)}
    <progress max=${job.requested || 1} value=${job.accepted} aria-label="Pairs of this job"></progress>
    <${Stats} items=${facts} />
    <div class="columns">
      <div><h3>Pairs by label</h3><${Bars} counts=${job.accepted_by_label} label="Pairs by label" /></div>
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
    ${asked.data && html`<div class="scroll" tabindex="0" role="region" aria-label="Rejected texts"><table>
      <thead><tr><th>Label</th><th>Given</th><th>Thrown away</th></tr></thead>
      <tbody>${asked.data.slice(0, KEPT).map((/** @type {any} */ row) => html`<tr><td>${row.label ?? "first sentence"}</td>
        <td class="text">${row.sentence1 ?? row.sentence2 ?? ""}</td><td class="text">${row.text}</td></tr>`)}</tbody></table></div>`}
  </div>`;
}
