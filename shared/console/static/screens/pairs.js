// @ts-check
/** The dataset's pairs: to search, to filter, to correct. What is corrected is in the next round. */

import { html, useEffect, useRef, useState } from "../vendor/htm-preact.js";
import { ApiError, call, lines, send } from "../api.js";
import { count, fixed, short, when, words } from "../format.js";
import { Empty, Field, Head, RejectedTable, Trouble, colourOf, save, tell, useAction, useAsked } from "../ui.js";

const PAGE = 50;
const ORDERS = { newest: "Newest first", oldest: "Oldest first", surprise: "Most surprising first" };
const NO_FILTER = { order: "newest", job: "", task: "", label: "", min_score: "", max_score: "", text: "", checked: "" };
const MOST_REJECTED = 100;

/** @param {{rest: string[]}} props `job`, ID: that job's */
export default function Pairs({ rest }) {
  const [filter, setFilter] = useState({ ...NO_FILTER, job: rest[0] === "job" ? (rest[1] ?? "") : "" });
  const [cursors, setCursors] = useState(/** @type {string[]} */ ([]));
  const [reason, setReason] = useState("");
  const summary = useAsked((signal) => call("trainer", "pairs/summary", { signal }), [], 10);
  const jobs = useAsked((signal) => call("generation", "jobs", { query: { limit: 50 }, signal }), [], 10);
  const rejecting = /** @type {any[]} */ (jobs.data ?? []).filter((job) => job.rejected && !job.dry_run
    && (!filter.job || job.id === filter.job) && (!filter.task || job.task === filter.task));
  const cursor = cursors[cursors.length - 1];
  const asked = useAsked((signal) => call("trainer", "pairs", { query: { ...filter, limit: PAGE, cursor }, signal }), [JSON.stringify(filter), cursor]);
  const change = (/** @type {Partial<typeof NO_FILTER>} */ part) => {
    setFilter({ ...filter, ...part });
    setCursors([]);
  };
  const [download, isDownloading, downloadError] = useAction(async () => {
    const answer = await send("trainer", "pairs", { query: { ...filter, format: "jsonl" }, headers: { accept: "application/jsonl" } });
    save("pairs.jsonl", await answer.blob());
  });
  const page = asked.data;
  return html`
    <${Head} title="Pairs" about="What the student learns from. Correct a score, mark what is right, delete what is wrong: the next round has it.">
      <div class="row">${summary.data && html`<span class="chip">${count(summary.data.total)} in the dataset</span><span class="chip">${count(summary.data.new)} new since the last round</span><span class="chip">${count(summary.data.checked)} checked</span>`}</div>
    <//>
    <${Filter} filter=${filter} change=${change} summary=${summary.data} reasons=${reasonsOf(rejecting)} reason=${reason} setReason=${setReason} />
    ${reason ? html`<${Rejected} key=${reason} reason=${reason} jobs=${rejecting} filter=${filter} />` : html`<section class="panel" aria-label="Pairs">
      <div class="row between"><span class="muted small" role="status">${page ? `${count(page.pairs.length)} on this page` : "…"}</span>
        <div class="row"><button disabled=${isDownloading} onClick=${download}>${isDownloading ? "Exporting …" : "Export what is filtered"}</button>
          <button disabled=${!cursors.length} onClick=${() => setCursors(cursors.slice(0, -1))}>Back</button>
          <button disabled=${!page?.next} onClick=${() => setCursors([...cursors, page.next])}>Next</button></div></div>
      <${Trouble} error=${asked.error ?? downloadError} />
      ${page && (page.pairs.length ? html`<${Rows} pairs=${page.pairs} onChange=${summary.refresh} />`
        : html`<${Empty}>${page.next ? "None among those that were looked at. Next looks on." : page.total ? nothingFound(filter) : html`No pairs yet. <a href="#start">Start a job</a>.`}<//>`)}
    </section>`}`;
}

/** @param {typeof NO_FILTER} filter */
const nothingFound = ({ order }) => (order === "surprise"
  ? "No version has measured a pair like this yet. Each round measures the pairs that it finds." : "No pair is like this.");

/** How often each reason was met. @param {any[]} jobs @returns {[string, number][]} */
function reasonsOf(jobs) {
  /** @type {Record<string, number>} */
  const counts = {};
  for (const job of jobs) for (const [name, value] of Object.entries(job.rejected_by_reason)) counts[name] = (counts[name] ?? 0) + value;
  return Object.entries(counts).sort(([, one], [, other]) => other - one);
}

/** What the filters threw away, of the jobs that are still known. @param {{reason: string, jobs: any[], filter: typeof NO_FILTER}} props */
function Rejected({ reason, jobs, filter }) {
  const ids = jobs.filter((job) => job.rejected_by_reason[reason]).map((job) => job.id);
  const asked = useAsked(async (signal) =>
    (await Promise.all(ids.map((id) => lines("generation", `jobs/${id}/rejected`, { query: { reason }, signal })))).flat(), [ids.join()]);
  const has = (/** @type {any} */ row) => !filter.text || [row.text, row.sentence1, row.sentence2].some((text) => text?.includes(filter.text));
  const rows = /** @type {any[]|undefined} */ (asked.data)?.filter((row) => (!filter.label || row.label === filter.label) && has(row));
  return html`<section class="panel" aria-labelledby="rejected"><h2 id="rejected">Rejected: ${words(reason)}</h2>
    <p class="small muted">These are not in the dataset. Of each job, the first hundred are kept. Search, task, label and job narrow them.</p>
    <${Trouble} error=${asked.error} />
    ${rows && (rows.length ? html`<${RejectedTable} rows=${rows.slice(0, MOST_REJECTED)} />` : html`<${Empty}>None is like this.<//>`)}
  </section>`;
}

/**
 * @param {{filter: typeof NO_FILTER, change: (part: any) => void, summary: any, reasons: [string, number][], reason: string,
 *   setReason: (reason: string) => void}} props
 */
function Filter({ filter, change, summary, reasons, reason, setReason }) {
  const [text, setText] = useState(filter.text);
  const timer = useRef(/** @type {ReturnType<typeof setTimeout>|undefined} */ (undefined));
  useEffect(() => () => clearTimeout(timer.current), []);
  const type = (/** @type {any} */ event) => {
    const value = event.target.value;
    setText(value);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => change({ text: value.trim() }), 300);
  };
  const pick = (/** @type {keyof typeof NO_FILTER} */ name, /** @type {string} */ label, /** @type {[string, string][]} */ choices) => html`
    <${Field} label=${label}><select value=${filter[name]} onChange=${(/** @type {any} */ event) => change({ [name]: event.target.value })}>
      ${name !== "order" && html`<option value="">all</option>`}
      ${choices.map(([value, shown]) => html`<option value=${value}>${shown}</option>`)}</select><//>`;
  const counted = (/** @type {Record<string, number>} */ counts) => /** @type {[string, string][]} */ (Object.entries(counts ?? {}).map(([name, value]) => [name, `${name} (${count(value)})`]));
  const jobs = /** @type {[string, string][]} */ ((summary?.jobs ?? []).map((/** @type {any} */ one) => [one.job, `${short(one.job)} (${count(one.pairs)})`]));
  if (filter.job && !jobs.some(([id]) => id === filter.job)) jobs.push([filter.job, short(filter.job)]);
  return html`<section class="panel" aria-label="Filters"><div class="row end">
    <${Field} label="Search" wide=${true}><input type="search" value=${text} onInput=${type} placeholder="what a sentence contains" /><//>
    ${pick("order", "Order", Object.entries(ORDERS))}
    ${pick("task", "Task", counted(summary?.tasks))}
    ${pick("label", "Label", counted(summary?.labels))}
    ${pick("job", "Job", jobs)}
    ${pick("checked", "Checked", [["true", "checked"], ["false", "not yet"]])}
    <${Field} label="Score from"><input type="number" min="0" max="1" step="0.05" value=${filter.min_score} onChange=${(/** @type {any} */ event) => change({ min_score: event.target.value })} /><//>
    <${Field} label="to"><input type="number" min="0" max="1" step="0.05" value=${filter.max_score} onChange=${(/** @type {any} */ event) => change({ max_score: event.target.value })} /><//>
    <${Field} label="Show"><select value=${reason} onChange=${(/** @type {any} */ event) => setReason(event.target.value)}>
      <option value="">accepted pairs</option>
      ${reasons.map(([name, number]) => html`<option value=${name}>rejected: ${words(name)} (${count(number)})</option>`)}</select><//>
    <button onClick=${() => { setText(""); setReason(""); change(NO_FILTER); }}>Clear</button>
  </div></section>`;
}

/** @param {{pairs: any[], onChange: () => void}} props */
function Rows({ pairs, onChange }) {
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Pairs of the dataset"><table class="stack">
    <caption class="hidden">Pairs of the dataset</caption>
    <thead><tr><th>Sentence 1</th><th>Sentence 2</th><th>Score</th><th class="number"><abbr title="The student's cosine, by the version that measured it last">Student</abbr></th><th>Label</th><th>Came</th><th><span class="hidden">Change</span></th></tr></thead>
    <tbody>${pairs.map((pair) => html`<${Row} key=${pair.id} given=${pair} onChange=${onChange} />`)}</tbody></table></div>`;
}

/** @param {{given: any, onChange: () => void}} props */
function Row({ given, onChange }) {
  const [pair, setPair] = useState(given);
  const [isGone, setIsGone] = useState(false);
  const patch = (/** @type {any} */ part) => async () => {
    setPair(await call("trainer", `pairs/${pair.id}`, { method: "PATCH", json: part }));
    onChange();
  };
  const [change, runs] = useAction(async (/** @type {() => Promise<void>} */ act) => {
    try {
      await act();
    } catch (error) {
      setPair(pair);
      // Somebody, or a correction from elsewhere, was faster.
      if (error instanceof ApiError && error.status === 404) setIsGone(true);
      tell(/** @type {Error} */ (error).message, "bad");
    }
  });
  const score = (/** @type {any} */ event) => {
    const value = event.target.valueAsNumber;
    if (value >= 0 && value <= 1 && value !== pair.score) change(patch({ score: value })).then(() => tell("Corrected. The next round learns it.", "good"));
  };
  const remove = async () => {
    await call("trainer", `pairs/${pair.id}`, { method: "DELETE" });
    setIsGone(true);
    onChange();
  };
  const check = () => {
    setPair({ ...pair, checked: !pair.checked });
    change(patch({ checked: !pair.checked }));
  };
  if (isGone) return html`<tr><td colspan="7" class="muted small">Deleted.</td></tr>`;
  const gap = pair.cosine === null || pair.cosine === undefined ? 0 : Math.abs(pair.cosine - pair.score);
  return html`<tr aria-busy=${runs ? "true" : "false"}>
    <td class="text">${pair.sentence1}</td><td class="text">${pair.sentence2}</td>
    <td><input type="number" min="0" max="1" step="0.05" value=${pair.score} aria-label="Score" disabled=${runs} onChange=${score} />
      ${pair.corrected && html`<div class="chip accent">corrected</div>`}</td>
    <td class="number"><span class=${gap > 0.4 ? "chip warn" : ""} title=${pair.version ?? "no version has measured it yet"}>${fixed(pair.cosine)}</span></td>
    <td><span class="key"><i style=${{ background: colourOf(pair.label) }}></i>${pair.label}</span><div class="small muted">${pair.task}</div></td>
    <td class="small muted">${when(pair.collected)}</td>
    <td><div class="row actions"><label class="check small"><input type="checkbox" checked=${pair.checked} disabled=${runs} onChange=${check} />checked</label>
      <button class="plain small danger" disabled=${runs} onClick=${() => change(remove)}>Delete</button></div></td>
  </tr>`;
}
