// @ts-check
/** Sentences against each other, a query against the dataset's texts, and the request to copy. */

import { html, useState } from "../vendor/htm-preact.js";
import { call, keys, send } from "../api.js";
import { fixed, origin, shorten } from "../format.js";
import { Copy, Empty, Field, Head, Trouble, useAction, useAsked } from "../ui.js";

const EXAMPLE = "A man is playing a guitar.\nSomebody makes music.\nThe stock market fell on Monday.\nShares lost value this week.";
const MOST = 20;
const SAMPLE = 2000;

export default function Playground() {
  const versions = useAsked((signal) => call("embedding", "versions", { signal }), []);
  const [version, setVersion] = useState("");
  const ids = /** @type {string[]} */ ((versions.data?.versions ?? []).map((/** @type {any} */ one) => one.id)).reverse();
  return html`
    <${Head} title="Playground" about="Ask the student that is served, or any version.">
      <${Field} label="Version"><select value=${version} onChange=${(/** @type {any} */ event) => setVersion(event.target.value)}>
        <option value="">current</option>${ids.map((id) => html`<option value=${id}>${id}</option>`)}</select><//>
    <//>
    <${Trouble} error=${versions.error} />
    <${Similarity} version=${version} />
    <${Nearest} version=${version} />`;
}

/** @param {string} version @returns {Record<string, string>} */
const pinned = (version) => (version ? { "x-pairwright-version": version } : {});

/** @param {{version: string}} props */
function Similarity({ version }) {
  const [text, setText] = useState(EXAMPLE);
  const [found, setFound] = useState(/** @type {{texts: string[], cosines: number[][], version: string}|null} */ (null));
  const texts = text.split("\n").map((line) => line.trim()).filter(Boolean).slice(0, MOST);
  const [compute, isComputing, error] = useAction(async () => {
    const answer = await send("embedding", "embed", { method: "POST", json: { inputs: texts }, headers: pinned(version) });
    const vectors = /** @type {number[][]} */ (await answer.json());
    const cosines = vectors.map((one) => vectors.map((other) => one.reduce((sum, value, place) => sum + value * other[place], 0)));
    setFound({ texts, cosines, version: answer.headers.get("x-pairwright-version") ?? "" });
  });
  return html`<section class="panel" aria-labelledby="similar">
    <h2 id="similar">How similar are these?</h2>
    <${Field} label=${`Sentences, one a line, up to ${MOST}`}><textarea value=${text} onInput=${(/** @type {any} */ event) => setText(event.target.value)}></textarea><//>
    <div class="row"><button class="primary" disabled=${texts.length < 2 || isComputing} onClick=${compute}>Compare</button>
      ${found && html`<span class="muted small">by ${found.version}</span>`}</div>
    <${Trouble} error=${error} />
    ${found && html`<${Heat} texts=${found.texts} cosines=${found.cosines} />`}
    <${Request} path="embed" body=${{ inputs: texts }} version=${version} />
  </section>`;
}

/** @param {{texts: string[], cosines: number[][]}} props */
const Heat = ({ texts, cosines }) => html`<div class="scroll" tabindex="0" role="region" aria-label="Cosines of the sentences">
  <table class="heat small"><caption class="hidden">Cosine of each sentence with each</caption>
    <thead><tr><td></td>${texts.map((text, place) => html`<th scope="col" title=${text}>${place + 1}</th>`)}</tr></thead>
    <tbody>${texts.map((text, row) => html`<tr><th scope="row">${row + 1}. ${shorten(text, 60)}</th>
      ${cosines[row].map((value) => html`<td style=${heat(value)}>${fixed(value)}</td>`)}</tr>`)}</tbody>
  </table></div>`;

/** Light to dark blue by a cosine from 0 to 1, with letters that can be read on it. @param {number} value */
function heat(value) {
  const share = Math.max(0, Math.min(1, value));
  return { background: `hsl(222 62% ${95 - 62 * share}%)`, color: share > 0.48 ? "#ffffff" : "#10151f" };
}

/** @param {{version: string}} props */
function Nearest({ version }) {
  const [query, setQuery] = useState("");
  const [found, setFound] = useState(/** @type {any[]|null} */ (null));
  const [search, isSearching, error] = useAction(async (/** @type {Event} */ event) => {
    event.preventDefault();
    const { texts } = await call("trainer", "texts", { query: { limit: SAMPLE } });
    if (!texts.length) throw new Error("The dataset has no texts yet: start a job first.");
    const json = { query, texts: texts.map((/** @type {any} */ one) => one.text), raw_scores: true };
    const ranks = await call("embedding", "rerank", { method: "POST", json, headers: pinned(version) });
    setFound(ranks.slice(0, 10).map((/** @type {any} */ rank) => ({ ...texts[rank.index], score: rank.score })));
  });
  return html`<section class="panel" aria-labelledby="nearest">
    <h2 id="nearest">What is nearest in the dataset?</h2>
    <form class="row end" onSubmit=${search}>
      <${Field} label="Query" wide=${true}><input value=${query} onInput=${(/** @type {any} */ event) => setQuery(event.target.value)} /><//>
      <button class="primary" type="submit" disabled=${!query.trim() || isSearching}>Search</button>
    </form>
    <${Trouble} error=${error} />
    ${found && (found.length ? html`<div class="scroll" tabindex="0" role="region" aria-label="Nearest texts"><table><thead><tr><th class="number">Cosine</th><th>Text</th><th>From</th></tr></thead>
      <tbody>${found.map((one) => html`<tr><td class="number score">${fixed(one.score)}</td><td class="text">${one.text}</td><td class="small muted">${origin(one)}</td></tr>`)}</tbody></table></div>` : html`<${Empty}>Nothing.<//>`)}
    <p class="small muted">Among up to ${SAMPLE} texts, drawn from the dataset.</p>
    <${Request} path="rerank" body=${{ query, raw_scores: true }} version=${version} sample=${SAMPLE} />
  </section>`;
}

/**
 * The request in three languages. With a `sample`, its texts are that many of the dataset's, which are asked for first.
 * @param {{path: string, body: any, version: string, sample?: number}} props
 */
function Request({ path, body, version, sample }) {
  const [kind, setKind] = useState("curl");
  const asked = useAsked((signal) => call("services", "", { signal }).catch(() => null), []);
  const url = `${asked.data?.embedding ?? "http://127.0.0.1:8002"}/${path}`;
  const texts = requestIn(url, body, version, sample ? `${asked.data?.trainer ?? "http://127.0.0.1:8003"}/texts?limit=${sample}` : "");
  return html`<details><summary>This request as a line to copy</summary>
    <div class="row"><div class="row" role="group" aria-label="Language">${Object.keys(texts).map((name) => html`
      <button class="small" aria-pressed=${kind === name ? "true" : "false"} onClick=${() => setKind(name)}>${name}</button>`)}</div>
      <${Copy} text=${texts[kind]} /></div>
    <pre tabindex="0">${texts[kind]}</pre>
    ${sample && kind === "curl" && html`<p class="small muted">It needs jq, which puts the dataset's texts into the request.</p>`}
    ${keys.get() && html`<p class="small muted">The services ask for a key: send it as the header Authorization: Bearer KEY.</p>`}</details>`;
}

/** @param {string} url @param {any} body @param {string} version @param {string} source where `texts` come from; "": none @returns {Record<string, string>} */
export function requestIn(url, body, version, source) {
  const headers = { "Content-Type": "application/json", ...(version ? { "X-Pairwright-Version": version } : {}) };
  const flags = Object.entries(headers).map(([name, value]) => `-H '${name}: ${value}'`).join(" ");
  const quoted = (/** @type {string} */ text) => `'${text.replaceAll("'", "'\\''")}'`;
  const json = JSON.stringify(body);
  const named = version ? `, headers={"X-Pairwright-Version": "${version}"}` : "";
  const sent = `{method: "POST", headers: ${JSON.stringify(headers)}, body: JSON.stringify(`;
  if (!source) {
    return {
      curl: `curl -s ${url} ${flags} -d ${quoted(json)}`,
      Python: `import httpx; print(httpx.post(${JSON.stringify(url)}, json=${inPython(body)}${named}).json())`,
      JavaScript: `console.log(await (await fetch(${JSON.stringify(url)}, ${sent}${json})})).json())`,
    };
  }
  const python = `import httpx; texts = [one["text"] for one in httpx.get(${JSON.stringify(source)}).json()["texts"]]; `;
  const script = `const texts = (await (await fetch(${JSON.stringify(source)})).json()).texts.map((one) => one.text); `;
  return {
    curl: `curl -s '${source}' | jq -c --argjson body ${quoted(json)} '$body + {texts: [.texts[].text]}' | curl -s ${url} ${flags} -d @-`,
    Python: `${python}print(httpx.post(${JSON.stringify(url)}, json=${inPython(body)} | {"texts": texts}${named}).json()[:10])`,
    JavaScript: `${script}console.log((await (await fetch(${JSON.stringify(url)}, ${sent}{...${json}, texts})})).json()).slice(0, 10))`,
  };
}

/** A JSON value as Python writes it. @param {any} value @returns {string} */
function inPython(value) {
  if (Array.isArray(value)) return `[${value.map(inPython).join(", ")}]`;
  if (value && typeof value === "object") return `{${Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${inPython(one)}`).join(", ")}}`;
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  return JSON.stringify(value);
}
