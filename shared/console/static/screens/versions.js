// @ts-check
/** What was published and what wasn't: why, by how much, and which one serves. */

import { html, useState } from "../vendor/htm-preact.js";
import { call } from "../api.js";
import { fixed, many, when } from "../format.js";
import Report from "../report.js";
import { Empty, Field, Head, Trouble, tell, useAction, useAsked } from "../ui.js";

const SAMPLE = 2000;

/** @param {{rest: string[]}} props */
export default function Versions({ rest }) {
  const asked = useAsked((signal) => call("embedding", "versions", { signal }), [], 4);
  const published = /** @type {any[]} */ (asked.data?.versions ?? []);
  const candidates = /** @type {any[]} */ (asked.data?.candidates ?? []);
  const all = [...published, ...candidates].sort((one, other) => other.round - one.round || (one.created < other.created ? 1 : -1));
  return html`
    <${Head} title="Versions" about="Each round makes a candidate. The gate publishes it if it is surely better on your own texts." />
    <${Trouble} error=${asked.error} />
    ${asked.data && !all.length && html`<section class="panel"><${Empty}>No version is published yet. The trainer publishes the untrained student first.<//></section>`}
    ${all.length > 0 && html`
      <section class="panel" aria-labelledby="timeline"><h2 id="timeline">Timeline</h2>
        <ol class="timeline">${all.map((one) => html`<${Version} key=${one.id} version=${one} pinned=${asked.data.pinned ?? null}
          isOpen=${rest[0] === one.id} onChange=${asked.refresh} />`)}</ol></section>
      ${published.length > 0 && html`<${Compare} versions=${published} />`}`}`;
}

/** @param {{version: any, pinned: string|null, isOpen: boolean, onChange: () => void}} props */
function Version({ version, pinned, isOpen, onChange }) {
  const [shows, setShows] = useState(isOpen ? "numbers" : "");
  const isCandidate = !("serving" in version);
  const isPinned = pinned === version.id;
  const change = (/** @type {string} */ path, /** @type {string} */ method, /** @type {string} */ text) => async () => {
    await call("embedding", path, { method });
    tell(text, "good");
    onChange();
  };
  // Whoever promotes a candidate overrules the gate.
  const path = `versions/${version.id}/activate${isCandidate ? "?rejected=true" : ""}`;
  const [activate, isActivating, activateError] = useAction(change(path, "POST", `${version.id} serves now.`));
  const [pin, isPinning, pinError] = useAction(isPinned
    ? change("versions/pin", "DELETE", "Newer versions are served again.")
    : change(`versions/${version.id}/pin`, "POST", `${version.id} stays, whatever is published.`));
  const toggle = (/** @type {string} */ what) => () => setShows(shows === what ? "" : what);
  const label = version.state === "previous" ? "Roll back" : isCandidate ? "Promote all the same" : "Promote";
  return html`<li class=${version.serving ? "now" : ""} data-version=${version.id}>
    <div class="row between"><div class="row"><strong class="mono">${version.id}</strong>
        <span class=${`chip ${{ current: "good", rejected: "bad", quarantined: "bad", held: "warn" }[/** @type {string} */ (version.state)] ?? ""}`}>${version.state}</span>
        ${version.serving && html`<span class="chip good">serves</span>`}
        ${isPinned && html`<span class="chip accent">pinned</span>`}
        <span class="muted small">${version.round ? `round ${version.round} · ${many(version.pairs, "pair")}` : "the untrained student"} · ${when(version.created)}</span></div>
      <div class="row">
        ${!version.serving && html`<button disabled=${isActivating} onClick=${activate}>${label}</button>`}
        ${!isCandidate && html`<button disabled=${isPinning} aria-pressed=${isPinned ? "true" : "false"} onClick=${pin}>${isPinned ? "Unpin" : "Pin"}</button>`}
        <button aria-expanded=${shows === "numbers" ? "true" : "false"} onClick=${toggle("numbers")}>Before and after</button>
        <button aria-expanded=${shows === "report" ? "true" : "false"} onClick=${toggle("report")}>Report</button>
      </div></div>
    ${version.gate || version.reason ? html`<p class="small break">${version.gate ?? version.reason}</p>` : null}
    <${Trouble} error=${activateError ?? pinError} />
    ${shows === "numbers" && html`<${Numbers} version=${version} />`}
    ${shows === "report" && html`<${Report} version=${version.id} />`}
  </li>`;
}

/** Label-free estimates of it and of those that it was compared with. @param {{version: any}} props */
function Numbers({ version }) {
  const students = Object.keys(version.estimates ?? {}).sort((one) => (one === "candidate" ? 1 : one === "base" ? -1 : 0));
  const kinds = [...new Set(students.flatMap((student) => Object.keys(version.estimates[student])))];
  const scores = version.scores ?? {};
  const hasDev = "dev_after" in scores;
  if (!kinds.length && !hasDev) return html`<p class="muted small">It was not measured: there was nothing to compare it with.</p>`;
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Before and after"><table>
    <caption class="hidden">Before and after, with 95 % intervals</caption>
    <thead><tr><th>x 100, with 95 % intervals</th>${students.map((student) => html`<th class="number">${student === "candidate" ? "this version" : student}</th>`)}${hasDev && !students.length && html`<th class="number">before</th><th class="number">after</th>`}</tr></thead>
    <tbody>${kinds.map((kind) => html`<tr><th scope="row">label-free estimate: ${kind.replaceAll("_", " ")}</th>
      ${students.map((student) => html`<td class="number">${interval(version.estimates[student][kind])}</td>`)}</tr>`)}
      ${hasDev && html`<tr><th scope="row">on generated pairs that were held out</th>
        ${(students.length ? students : ["base", "candidate"]).map((student) => html`<td class="number">${fixed({ candidate: scores.dev_after, base: scores.dev_before }[student])}</td>`)}</tr>`}
    </tbody></table></div>`;
}

/** @param {{value: number, low: number, high: number}|undefined} one */
const interval = (one) => (one ? html`${fixed(one.value)} <span class="muted small">${fixed(one.low, 1)} to ${fixed(one.high, 1)}</span>` : "–");

/** Two versions, one query: what moved. @param {{versions: any[]}} props oldest first */
function Compare({ versions }) {
  const ids = versions.map((one) => one.id).reverse();
  const serving = versions.find((one) => one.serving)?.id ?? ids[0];
  const [chosen, setChosen] = useState(["", ""]);
  // Until a person chooses: the one that serves, against the newest of the others.
  const pair = [chosen[0] || (ids.find((id) => id !== serving) ?? serving), chosen[1] || serving];
  const [query, setQuery] = useState("");
  const [pasted, setPasted] = useState("");
  const [found, setFound] = useState(/** @type {{texts: string[], rankings: any[], moved: any[]}|null} */ (null));
  const [compare, runs, error] = useAction(async (/** @type {Event} */ event) => {
    event.preventDefault();
    const own = pasted.split("\n").map((line) => line.trim()).filter(Boolean);
    const texts = own.length ? own : (await call("trainer", "texts", { query: { limit: SAMPLE } })).texts.map((/** @type {any} */ one) => one.text);
    if (!texts.length) throw new Error("The dataset has no texts yet: paste some, or start a job.");
    const answer = await call("embedding", "compare", { method: "POST", json: { query, texts, versions: pair, top_n: 10 } });
    setFound({ texts, ...answer });
  });
  const choose = (/** @type {number} */ side) => html`<${Field} label=${side ? "Right" : "Left"}><select value=${pair[side]}
    onChange=${(/** @type {any} */ event) => setChosen(side ? [pair[0], event.target.value] : [event.target.value, pair[1]])}>${ids.map((id) => html`<option value=${id}>${id}${id === serving ? ", serves" : ""}</option>`)}</select><//>`;
  return html`<section class="panel" aria-labelledby="compare">
    <h2 id="compare">Two versions side by side</h2>
    <form class="row end" onSubmit=${compare}>
      ${choose(0)}${choose(1)}
      <${Field} label="Your query" wide=${true}><input value=${query} onInput=${(/** @type {any} */ event) => setQuery(event.target.value)} /><//>
      <button class="primary" type="submit" disabled=${!query.trim() || runs}>Compare</button>
    </form>
    <details><summary>Search in a list of your own instead of the dataset's texts</summary>
      <${Field} label="Texts, one a line"><textarea value=${pasted} onInput=${(/** @type {any} */ event) => setPasted(event.target.value)}></textarea><//></details>
    <${Trouble} error=${error} />
    ${found && html`<div class="columns">${found.rankings.map((ranking, side) => html`<div><h3 class="mono">${ranking.version}</h3>
      <ol class="list small">${ranking.results.map((/** @type {any} */ result) => html`<li><div class="row between"><span>${result.rank}. ${move(found, result.index, side)}</span><span class="score">${fixed(result.score)}</span></div>
        <div class="break">${found.texts[result.index]}</div></li>`)}</ol></div>`)}</div>`}
  </section>`;
}

/** By how many places the other version ranks a text elsewhere. @param {{moved: any[]}} found @param {number} index @param {number} side */
function move(found, index, side) {
  const ranks = found.moved.find((one) => one.index === index)?.ranks;
  if (!ranks || ranks[0] === ranks[1]) return html`<span class="muted">same place</span>`;
  const [own, other] = side ? [ranks[1], ranks[0]] : ranks;
  if (other === null || other === undefined) return html`<span class="chip accent">only here</span>`;
  return html`<span class="chip">${own < other ? "▲" : "▼"} ${Math.abs(other - own)}, there ${other}</span>`;
}
