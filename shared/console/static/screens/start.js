// @ts-check
/** From texts to a job: what was dropped, how it is cut, which tasks, ten pairs to look at, the start. */

import { html, useMemo, useRef, useState } from "../vendor/htm-preact.js";
import { ApiError, call, events } from "../api.js";
import { KINDS, chosen, dropped, sortOut } from "../files.js";
import { bytes, count, duration, many } from "../format.js";
import { Empty, Field, Head, Histogram, PairTable, Stats, Trouble, colourOf, tell, useAction, useAsked } from "../ui.js";

/** @typedef {import("../files.js").Item} Item */
/**
 * What the services say of the files.
 * @typedef {{documents: number, passages: number, duplicates: number, bad: string[], warnings: string[],
 *   histogram: Record<string, number>, first: {document: string, title: string, text: string}[],
 *   sentences: string[], tables: Record<string, Table>}} Cut
 * @typedef {{columns: string[], used: string}} Table which column has the texts; none is `used` where the usual one was
 */

const FIRST = ["sts", "retrieval", "topic", "paraphrase"];
const SHOWN_FIRST = 2;
const PREVIEW = 10;
const MOST_AT_FIRST = 200;
const PATIENCE_S = 120;
const RETRY_S = 3;

export default function Start() {
  const [items, setItems] = useState(/** @type {Item[]} */ ([]));
  const [others, setOthers] = useState(/** @type {string[]} */ ([]));
  const [pasted, setPasted] = useState("");
  const [size, setSize] = useState(256);
  const add = (/** @type {[string, File][]} */ named) => {
    const found = sortOut(named);
    const names = new Set(found.items.map((item) => item.name));
    setItems((last) => [...last.filter((item) => !names.has(item.name)), ...found.items]);
    setOthers(found.others);
  };
  const texts = useMemo(() => pasted.split("\n").map((line) => line.trim()).filter(Boolean), [pasted]);
  const [read, setRead] = useState(0);
  const cut = useAsked(async (signal) => ({ items, size, ...(await cutAll(items, size, signal, setRead)) }), [items, size], (data) => (data ? 0 : RETRY_S));
  const known = /** @type {Cut} */ (cut.data ?? emptyCut());
  // Until all is read, what is shown is of the files before.
  const isKnown = cut.data?.items === items && cut.data.size === size;
  const sentences = useMemo(() => [...new Set([...known.sentences, ...texts])], [known, texts]);

  return html`
    <${Head} title="Start" about="Drop what you have. The teacher writes labelled pairs from it, and the student learns from them." />
    <section class="panel" aria-labelledby="texts">
      <h2 id="texts">Your texts</h2>
      <${Drop} onFiles=${add} />
      ${others.length > 0 && html`<div class="note warn">Left out, because of its kind or because it is larger than 16 MiB:
        ${" "}${others.slice(0, 5).join(", ")}${others.length > 5 ? ` and ${others.length - 5} more` : ""}. Read are ${KINDS.join(", ")}.</div>`}
      ${items.length > 0 && html`<${Files} items=${items} setItems=${setItems} tables=${known.tables} />`}
      <details><summary>Or paste sentences, one a line</summary>
        <${Field} label="Sentences"><textarea value=${pasted} onInput=${(/** @type {any} */ event) => setPasted(event.target.value)}></textarea><//>
      </details>
    </section>
    ${items.length > 0 && html`<${Pieces} cut=${known} reading=${isKnown ? "" : `${Math.min(read + 1, items.length)} of ${items.length}`} error=${cut.error} size=${size} setSize=${setSize} />`}
    <${Tasks} items=${items} cut=${known} isKnown=${isKnown} sentences=${sentences} size=${size} />`;
}

/** @param {{onFiles: (named: [string, File][]) => void}} props */
function Drop({ onFiles }) {
  const [isOver, setIsOver] = useState(false);
  const files = useRef(/** @type {HTMLInputElement|null} */ (null));
  const folder = useRef(/** @type {HTMLInputElement|null} */ (null));
  const take = (/** @type {any} */ event) => {
    onFiles(chosen(event.target.files));
    event.target.value = "";
  };
  const drop = async (/** @type {DragEvent} */ event) => {
    event.preventDefault();
    setIsOver(false);
    if (event.dataTransfer) onFiles(await dropped(event.dataTransfer));
  };
  const over = (/** @type {DragEvent} */ event) => {
    event.preventDefault();
    setIsOver(true);
  };
  return html`<div class=${isOver ? "drop over" : "drop"} id="drop" onDragOver=${over} onDragLeave=${() => setIsOver(false)} onDrop=${drop}>
    <p>Drop files or a folder here</p>
    <div class="row">
      <button onClick=${() => files.current?.click()}>Choose files</button>
      <button onClick=${() => folder.current?.click()}>Choose a folder</button>
    </div>
    <p class="muted small">Markdown, text, HTML, PDF and Word are documents. Tables (CSV, TSV, JSON, Parquet) have a text in each row.</p>
    <input ref=${files} class="hidden" type="file" multiple tabindex="-1" aria-label="Files" onChange=${take} />
    <input ref=${folder} class="hidden" type="file" webkitdirectory tabindex="-1" aria-label="Folder" onChange=${take} />
  </div>`;
}

/** @param {{items: Item[], setItems: (items: Item[]) => void, tables: Record<string, Table>}} props */
function Files({ items, setItems, tables }) {
  const change = (/** @type {Item} */ item, /** @type {Partial<Item>} */ part) =>
    setItems(items.map((one) => (one === item ? { ...one, ...part } : one)));
  const total = items.reduce((sum, item) => sum + item.file.size, 0);
  return html`
    <div class="row between"><span>${many(items.length, "file")}, ${bytes(total)}</span>
      <button class="plain" onClick=${() => setItems([])}>Take all out</button></div>
    <div class="scroll low" tabindex="0" role="region" aria-label="Files"><table><thead><tr><th>File</th><th>Read as</th><th class="number">Size</th><th></th></tr></thead>
      <tbody>${items.slice(0, 50).map((item) => html`<tr key=${item.name}>
        <td class="text">${item.name}</td>
        <td><div class="row"><select class="auto" aria-label=${`${item.name}: read as`} value=${item.use} onChange=${(/** @type {any} */ event) => change(item, { use: event.target.value, column: "" })}>
          <option value="documents">documents</option><option value="sentences">sentences</option></select>
          ${tables[item.name]?.columns.length > 0 && html`<label class="row small muted">of column <select class="auto" value=${item.column || tables[item.name].used || tables[item.name].columns[0]}
            onChange=${(/** @type {any} */ event) => change(item, { column: event.target.value })}>
            ${tables[item.name].columns.map((name) => html`<option value=${name}>${name}</option>`)}</select></label>`}</div></td>
        <td class="number">${bytes(item.file.size)}</td>
        <td><button class="plain small" aria-label=${`Take out ${item.name}`} onClick=${() => setItems(items.filter((one) => one !== item))}>✕</button></td>
      </tr>`)}</tbody></table></div>
    ${items.length > 50 && html`<p class="muted small">and ${items.length - 50} more</p>`}`;
}

/** @param {{cut: Cut, reading: string, error: Error|null, size: number, setSize: (size: number) => void}} props */
function Pieces({ cut, reading, error, size, setSize }) {
  const changeSize = (/** @type {any} */ event) => {
    const value = Number(event.target.value);
    if (value >= 16 && value <= 512) setSize(value);
  };
  return html`<section class="panel" aria-labelledby="pieces" aria-busy=${reading ? "true" : "false"}>
    <div class="row between end"><h2 id="pieces">How it is cut</h2>
      <${Field} label="Most tokens of a passage"><input type="number" min="16" max="512" value=${size} onChange=${changeSize} /><//></div>
    <${Trouble} error=${error} />
    ${reading && !error && html`<p class="muted" role="status">Reading file ${reading} …</p>`}
    ${!reading && html`
      <${Stats} items=${[["documents", count(cut.documents)], ["passages", count(cut.passages)], ["left out as repeated", count(cut.duplicates)], ["sentences", count(cut.sentences.length)]]} />
      ${cut.bad.map((text) => html`<div class="note warn">${text}</div>`)}
      ${cut.warnings.map((text) => html`<div class="note warn">${text}</div>`)}
      <div class="columns">
        ${cut.passages > 0 && html`<div><h3>Lengths of passages</h3><${Histogram} counts=${cut.histogram} unit="tokens" /></div>`}
        ${cut.first.length > 0 && html`<div><h3>First passages</h3><ul class="list small">${cut.first.slice(0, 3).map((one) => html`
          <li><div class="muted break">${one.title || one.document}</div><div class="break">${one.text.slice(0, 300)}</div></li>`)}</ul></div>`}
        ${cut.sentences.length > 0 && html`<div><h3>First sentences</h3><ul class="list small">${cut.sentences.slice(0, 5).map((one) => html`
          <li class="break">${one}</li>`)}</ul></div>`}
      </div>`}
  </section>`;
}

/** @param {{items: Item[], cut: Cut, isKnown: boolean, sentences: string[], size: number}} props */
function Tasks({ items, cut, isKnown, sentences, size }) {
  const asked = useAsked((signal) => call("generation", "tasks", { signal }), []);
  const isReady = useAsked((signal) => call("generation", "readyz", { signal }).then(() => true, (error) => !error.body?.checks), [], 3);
  const [choice, setChoice] = useState(/** @type {Record<string, boolean>} */ ({}));
  const [amounts, setAmounts] = useState(/** @type {Record<string, number>} */ ({}));
  const [jobs, setJobs] = useState(/** @type {any[]} */ ([]));
  const [step, setStep] = useState("");
  const tasks = useMemo(() => inOrder(asked.data ?? []), [asked.data]);
  const isPossible = (/** @type {any} */ task) => task.writes === "pairs" || cut.passages > 0;
  const isOn = (/** @type {any} */ task) =>
    isPossible(task) && (choice[task.task] ?? isDefault(task, cut.passages > 0, sentences.length > 0));
  const on = tasks.filter(isOn);
  const amount = (/** @type {any} */ task) => {
    const all = task.writes === "queries" ? cut.passages : sentences.length;
    return amounts[task.task] ?? Math.max(1, Math.min(MOST_AT_FIRST, all || 50));
  };

  const [preview, isPreviewing, previewError] = useAction(async () => {
    setJobs([]);
    const each = Math.max(1, Math.round(PREVIEW / on.length));
    const show = (/** @type {any} */ job) =>
      setJobs((last) => (last.some((one) => one.id === job.id) ? last.map((one) => (one.id === job.id ? job : one)) : [...last, job]));
    await Promise.all(on.map((task) => follow(previewOf(task, cut, sentences, each), show)));
  });
  const [start, isStarting, startError] = useAction(async () => {
    const documents = items.filter((item) => item.use === "documents");
    if (documents.length) await sendAll(documents, cut.tables, size, setStep);
    let last;
    for (const task of on) {
      setStep(`Starting ${task.task} …`);
      last = await call("generation", "generate", { method: "POST", json: planOf(task, amount(task), sentences) });
    }
    tell(on.length > 1 ? `${on.length} jobs have started.` : "The job has started.", "good");
    location.hash = `#watch/${last.id}`;
  });

  const others = tasks.slice(SHOWN_FIRST);
  const cards = (/** @type {any[]} */ some) => html`<div class="columns">${some.map((task) => html`<${Task} key=${task.task} task=${task} isOn=${isOn(task)} isPossible=${isPossible(task)}
    hasSentences=${sentences.length > 0} most=${task.writes === "pairs" && sentences.length ? sentences.length : 100000} amount=${amount(task)}
    turn=${(/** @type {boolean} */ isWanted) => setChoice({ ...choice, [task.task]: isWanted })}
    setAmount=${(/** @type {number} */ value) => setAmounts({ ...amounts, [task.task]: value })} />`)}</div>`;
  return html`<section class="panel" aria-labelledby="tasks">
    <h2 id="tasks">What to write</h2>
    <${Trouble} error=${asked.error} />
    ${cards(tasks.slice(0, SHOWN_FIRST))}
    ${others.length > 0 && html`<details><summary>Other tasks: ${others.map((task) => task.task).join(", ")}</summary>${cards(others)}</details>`}
    </section>
    <section class="panel" aria-labelledby="go">
      <h2 id="go">Look, then start</h2>
      <div class="row">
        <button disabled=${!on.length || !isKnown || isPreviewing || isStarting} onClick=${preview}>${isPreviewing ? "Writing …" : "Preview ten pairs"}</button>
        <button class="primary" disabled=${!on.length || !isKnown || isStarting} onClick=${start}>${isStarting ? step || "Starting …" : on.length > 1 ? `Start ${on.length} jobs` : "Start the job"}</button>
        <span class="muted small">A preview is not kept in the dataset.</span>
      </div>
      ${isReady.data === false && html`<div class="note warn" role="status">The teacher is not ready yet, which takes about half a minute after the start. What you begin now waits for it.</div>`}
      <${Trouble} error=${previewError} /><${Trouble} error=${startError} />
      ${jobs.map((job) => html`<${Preview} key=${job.id} job=${job} />`)}
    </section>`;
}

/**
 * @param {{task: any, isOn: boolean, isPossible: boolean, hasSentences: boolean, most: number, amount: number,
 *   turn: (isWanted: boolean) => void, setAmount: (amount: number) => void}} props
 */
const Task = ({ task, isOn, isPossible, hasSentences, most, amount, turn, setAmount }) => html`<div class=${isOn ? "task on" : "task"}>
  <label class="check"><input type="checkbox" checked=${isOn} disabled=${!isPossible} onChange=${(/** @type {any} */ event) => turn(event.target.checked)} />
    <span><strong>${task.task}</strong> <span class="muted small">writes ${task.writes}</span></span></label>
  <p class="small">${task.description}</p>
  ${!isPossible && html`<p class="small muted">Needs documents.</p>`}
  <div class="row small">${labelsOf(task).map(([name, score]) => html`
    <span class="key"><i style=${{ background: colourOf(name) }}></i>${name === String(score) ? name : `${name} ${score}`}</span>`)}</div>
  ${isOn && html`<${Field} label=${task.writes === "queries" ? "Queries" : hasSentences ? "Of your sentences, use" : "First sentences, which the teacher writes"}>
    <input type="number" min="1" max=${most} value=${amount}
      onInput=${(/** @type {any} */ event) => setAmount(Math.max(1, Math.floor(Number(event.target.value)) || 1))} /><//>`}
</div>`;

/** @param {{job: any}} props a job with its `pairs` as they have come */
const Preview = ({ job }) => html`<div>
  <p class="small muted" role="status">${job.task}: ${job.isDone ? `${many(job.rejected, "sample")} rejected, ${duration(job.seconds)}` : `writing, ${job.pairs.length} of ${job.requested} pairs are here`}</p>
  ${(job.warnings ?? []).map((/** @type {string} */ text) => html`<div class="note warn">${text}</div>`)}
  ${job.error && html`<div class="note bad">${job.error}</div>`}
  ${job.pairs.length > 0 && html`<${PairTable} pairs=${job.pairs} label=${`Preview of ${job.task}`} />`}
  ${job.isDone && !job.pairs.length && !job.error && html`<${Empty}>All samples were rejected: ${reasons(job)}.<//>`}
</div>`;

/**
 * Start a job, and show its pairs as they come, to its end.
 * @param {any} plan @param {(job: any) => void} show
 */
async function follow(plan, show) {
  let job = { ...(await call("generation", "generate", { method: "POST", json: plan })), pairs: /** @type {any[]} */ ([]), isDone: false };
  show(job);
  for await (const { event, data } of events("generation", `jobs/${job.id}/events`, { query: { pairs: true } })) {
    job = event === "pairs" ? { ...job, pairs: [...job.pairs, ...data] } : { ...job, ...data, isDone: event === "done" };
    show(job);
  }
  if (!job.isDone) throw new Error("The preview was cut off. See System, and try again.");
}

/** Those that write pairs or queries, the usual ones first. @param {any[]} tasks */
function inOrder(tasks) {
  const rank = (/** @type {any} */ task) => (FIRST.includes(task.task) ? FIRST.indexOf(task.task) : FIRST.length);
  return tasks.filter((task) => task.writes !== "first sentences").sort((one, other) => rank(one) - rank(other));
}

/** Names and scores, the highest first. @param {any} task @returns {[string, number][]} */
const labelsOf = (task) =>
  Object.entries(task.labels)
    .map(([name, label]) => /** @type {[string, number]} */ ([name, /** @type {any} */ (label).score]))
    .sort(([, one], [, other]) => other - one);

/** @param {any} job */
const reasons = (job) => Object.entries(job.rejected_by_reason ?? {}).map(([name, value]) => `${name} ${value}`).join(", ") || "no reason is known";

/** @param {any} task @param {boolean} hasPassages @param {boolean} hasSentences */
function isDefault(task, hasPassages, hasSentences) {
  if (task.writes === "queries") return hasPassages && task.task === "retrieval";
  return task.task === "sts" && (hasSentences || !hasPassages);
}

/** @param {any} task @param {number} amount @param {string[]} sentences */
function planOf(task, amount, sentences) {
  if (task.writes === "queries") return { task: task.task, queries: amount };
  return sentences.length ? { task: task.task, inputs: sentences.slice(0, amount) } : { task: task.task, num_inputs: amount };
}

/** @param {any} task @param {Cut} cut @param {string[]} sentences @param {number} pairs */
function previewOf(task, cut, sentences, pairs) {
  const common = { task: task.task, dry_run: true };
  if (task.writes === "queries") {
    return { ...common, inputs: cut.first.slice(0, pairs).map((one) => (one.title ? `${one.title} ${one.text}` : one.text)) };
  }
  const inputs = Math.ceil(pairs / Object.keys(task.labels).length);
  return sentences.length ? { ...common, inputs: sentences.slice(0, inputs) } : { ...common, num_inputs: inputs };
}

/** @returns {Cut} */
const emptyCut = () => ({ documents: 0, passages: 0, duplicates: 0, bad: [], warnings: [], histogram: {}, first: [], sentences: [], tables: {} });

/**
 * Have every file read, and nothing kept.
 * @param {Item[]} items @param {number} size @param {AbortSignal} signal @param {(read: number) => void} say @returns {Promise<Cut>}
 */
async function cutAll(items, size, signal, say) {
  const cut = emptyCut();
  for (const [place, item] of items.entries()) {
    say(place);
    const found = await readOnce(item, size, signal);
    if (found.columns?.length) cut.tables[item.name] = { columns: found.columns, used: found.used };
    if (found.refused) cut.bad.push(found.refused.startsWith(item.name) ? found.refused : `${item.name}: ${found.refused}`);
    else if (item.use === "sentences") {
      cut.sentences = cut.sentences.concat(found.sentences);
      if (found.bad) cut.bad.push(`${item.name}: ${many(found.bad, "row")} without a sentence. The first, ${found.errors[0].place}: ${found.errors[0].message}`);
    } else addDocuments(cut, found);
  }
  return cut;
}

/** @param {Cut} cut @param {any} found */
function addDocuments(cut, found) {
  cut.documents += found.documents;
  cut.passages += found.passages;
  cut.duplicates += found.duplicates + found.near_duplicates;
  for (const [edge, number] of Object.entries(found.histogram)) cut.histogram[edge] = (cut.histogram[edge] ?? 0) + number;
  if (cut.first.length < PREVIEW) cut.first.push(...found.first);
  if (found.errors.length) cut.bad.push(`${found.errors[0].place}: ${found.errors[0].message}`);
  for (const text of found.warnings) if (!cut.warnings.includes(text)) cut.warnings.push(text);
}

/** What was said of a file when it was last read: one more file isn't a reason to send all the others again. */
const readBefore = /** @type {WeakMap<File, {how: string, found: any}>} */ (new WeakMap());

/**
 * What the services say of one file, with the column that was `used`, or why they have `refused` it.
 * @param {Item} item @param {number} size @param {AbortSignal} signal
 */
async function readOnce(item, size, signal) {
  const how = JSON.stringify([item.use, item.column, size]);
  const before = readBefore.get(item.file);
  if (before?.how === how) return before.found;
  let found = await readAs(item, item.column, size, signal);
  // Where no column has a usual name, the one with most text is meant, until a person says otherwise.
  if (found.refused && found.columns?.length && !item.column) found = await readAs(item, found.columns[0], size, signal);
  readBefore.set(item.file, { how, found });
  return found;
}

/** @param {Item} item @param {string} column @param {number} size @param {AbortSignal} signal @returns {Promise<any>} */
async function readAs(item, column, size, signal) {
  const options = item.use === "sentences" ? {} : { size, overlap: 0, dry_run: true, skip_bad: true };
  try {
    const query = { name: item.name, column, ...options };
    return { ...(await call("generation", item.use === "sentences" ? "sentences" : "documents/files", { method: "POST", body: item.file, query, signal })), used: column };
  } catch (error) {
    if (!(error instanceof ApiError) || error.status !== 422) throw error;
    return { refused: error.message, columns: error.body.columns, used: column };
  }
}

/**
 * Send the documents, and wait until the trainer has them: a job sees those alone.
 * @param {Item[]} items @param {Record<string, Table>} tables @param {number} size @param {(step: string) => void} say
 */
async function sendAll(items, tables, size, say) {
  let changed = 0;
  const before = (await call("trainer", "documents")).documents;
  for (const [place, item] of items.entries()) {
    say(`Sending ${place + 1} of ${items.length} …`);
    const query = { name: item.name, column: tables[item.name]?.used, size, skip_bad: true };
    try {
      const told = await call("generation", "documents/files", { method: "POST", body: item.file, query });
      changed += told.documents - told.unchanged;
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 422) throw error;
      tell(`${item.name}: ${error.message}`, "bad");
    }
  }
  say("Waiting for the trainer to keep them …");
  let quiet = 0;
  let last = -1;
  for (let waited = 0; waited < PATIENCE_S; waited += 1) {
    const { documents } = await call("trainer", "documents");
    // A document that came under its name before takes that one's place: then the number stays.
    quiet = documents === last ? quiet + 1 : 0;
    last = documents;
    if (documents >= before + changed || (documents > 0 && quiet >= 3)) return;
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
  throw new Error("The trainer has not taken the documents yet. See System, and start the job again later.");
}
