// @ts-check
/** Small parts that every view uses, and the ways in which views ask for data. */

import { html, useCallback, useEffect, useRef, useState } from "./vendor/htm-preact.js";
import { count, fixed } from "./format.js";

/** @typedef {{kind: "good"|"bad"|"", text: string, id: number}} Toast */

/** @type {((toast: Toast) => void)|undefined} */
let showToast;
/** @param {(toast: Toast) => void} show */
export function onToast(show) {
  showToast = show;
}
let toasts = 0;
/** Say something at the edge of the page. @param {string} text @param {"good"|"bad"|""} [kind] */
export function tell(text, kind = "") {
  showToast?.({ kind, text, id: (toasts += 1) });
}

/**
 * Ask now, again whenever an input changes, and every so many seconds; what was last answered stays through an error.
 * @param {(signal: AbortSignal) => Promise<any>} ask @param {any[]} inputs
 * @param {number|((data: any) => number)} [seconds] 0: once; may depend on what was last answered
 * @returns {{data: any, error: Error|null, refresh: () => void}}
 */
export function useAsked(ask, inputs, seconds = 0) {
  const [state, setState] = useState(/** @type {{data: any, error: Error|null}} */ ({ data: undefined, error: null }));
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    const stop = new AbortController();
    /** @type {ReturnType<typeof setTimeout>|undefined} */
    let timer;
    /** @type {any} */
    let data;
    const once = async () => {
      try {
        data = await ask(stop.signal);
        if (!stop.signal.aborted) setState({ data, error: null });
      } catch (error) {
        if (!stop.signal.aborted) setState((last) => ({ ...last, error: /** @type {Error} */ (error) }));
      }
      const wait = typeof seconds === "function" ? seconds(data) : seconds;
      if (wait && !stop.signal.aborted) timer = setTimeout(once, wait * 1000);
    };
    once();
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
  }, [...inputs, turn]);
  return { ...state, refresh: useCallback(() => setTurn((last) => last + 1), []) };
}

/**
 * Something that a person starts: at most once at a time, its error shown.
 * @param {(...values: any[]) => Promise<any>} act
 * @returns {[(...values: any[]) => Promise<any>, boolean, Error|null]} to run it, whether it runs, its last error
 */
export function useAction(act) {
  const [runs, setRuns] = useState(false);
  const [error, setError] = useState(/** @type {Error|null} */ (null));
  const running = useRef(false);
  const run = async (/** @type {any[]} */ ...values) => {
    if (running.current) return undefined;
    running.current = true;
    setRuns(true);
    setError(null);
    try {
      return await act(...values);
    } catch (problem) {
      setError(/** @type {Error} */ (problem));
      return undefined;
    } finally {
      running.current = false;
      setRuns(false);
    }
  };
  return [run, runs, error];
}

/** @param {{title: string, about?: string, children?: any}} props */
export const Head = ({ title, about, children }) => html`
  <div class="head"><h1 tabindex="-1">${title}</h1>${children}${about && html`<p>${about}</p>`}</div>`;

/** @param {{error: Error|null|undefined}} props */
export const Trouble = ({ error }) =>
  error ? html`<div class="note bad" role="alert">${error.message}</div>` : null;

/** @param {{children?: any}} props */
export const Empty = ({ children }) => html`<div class="empty">${children}</div>`;

/** @param {{items: [string, any][]}} props name and value of each */
export const Stats = ({ items }) => html`
  <dl class=${items.length === 4 ? "stats four" : "stats"}>${items.map(([name, value]) => html`<div class="stat"><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;

/** @param {{label: string, wide?: boolean, children?: any}} props */
export const Field = ({ label, wide, children }) =>
  html`<label class=${wide ? "field wide" : "field"}><span>${label}</span>${children}</label>`;

/**
 * Counts by name, as bars; with `onPick` the names are buttons.
 * @param {{counts: Record<string, number>, label: string, onPick?: (name: string) => void, picked?: string}} props
 */
export function Bars({ counts, label, onPick, picked }) {
  const rows = Object.entries(counts).sort(([, one], [, other]) => other - one);
  const most = Math.max(1, ...rows.map(([, value]) => value));
  return html`<ul class="bars" aria-label=${label}>${rows.map(([name, value]) => html`
    <li class="bar" key=${name}>
      ${onPick
        ? html`<button class="plain break" aria-pressed=${picked === name ? "true" : "false"}
            onClick=${() => onPick(name)}>${name.replaceAll("_", " ")}</button>`
        : html`<span class="break">${name.replaceAll("_", " ")}</span>`}
      <span class="track"><span class="fill" style=${{ width: `${(100 * value) / most}%`, background: colourOf(name) }}></span></span>
      <span class="number">${count(value)}</span>
    </li>`)}</ul>`;
}

/** One of eight colours, always the same for a name. @param {string} name */
export function colourOf(name) {
  let sum = 7;
  for (const character of name) sum = (sum * 31 + character.charCodeAt(0)) >>> 0;
  return `var(--c${sum % 8})`;
}

/** How finely the services count lengths. */
const STEP = 16;

/** @param {{counts: Record<string, number>, unit: string}} props counts by the upper edge of their bucket */
export function Histogram({ counts, unit }) {
  const edges = Object.keys(counts).map(Number).sort((one, other) => one - other);
  if (!edges.length) return null;
  const step = edges.length > 1 ? Math.min(...edges.slice(1).map((edge, place) => edge - edges[place])) : Math.min(edges[0], STEP);
  const last = edges[edges.length - 1];
  const columns = Array.from({ length: Math.round(last / step) }, (_, place) => (place + 1) * step);
  const most = Math.max(...Object.values(counts));
  return html`<div>
    <div class="histogram" role="img" aria-label=${`Lengths in ${unit}: up to ${last}`}>
      ${columns.map((edge) => html`<span key=${edge} title=${`${edge - step + 1}–${edge} ${unit}: ${counts[edge] ?? 0}`}
        style=${{ height: `${(100 * (counts[edge] ?? 0)) / most}%` }}></span>`)}
    </div>
    <div class="axis"><span>0</span><span>length in ${unit}</span><span>${last}</span></div>
  </div>`;
}

/** @param {{pairs: any[], label: string}} props */
export const PairTable = ({ pairs, label }) => html`
  <div class="scroll tall" tabindex="0" role="region" aria-label=${label}>
    <table class="stack"><caption class="hidden">${label}</caption>
      <thead><tr><th>Label</th><th>Score</th><th>Sentence 1</th><th>Sentence 2</th></tr></thead>
      <tbody>${pairs.map((pair, place) => html`<tr key=${pair.key ?? place}>
        <td><span class="key"><i style=${{ background: colourOf(pair.label ?? "") }}></i>${pair.label}</span></td>
        <td class="score">${fixed(pair.score)}</td>
        <td class="text">${pair.sentence1}</td><td class="text">${pair.sentence2}</td></tr>`)}</tbody>
    </table>
  </div>`;

/** What filters threw away. @param {{rows: any[]}} props */
export const RejectedTable = ({ rows }) => html`
  <div class="scroll tall" tabindex="0" role="region" aria-label="Rejected texts"><table class="stack">
    <thead><tr><th>Label</th><th>Given</th><th>Thrown away</th></tr></thead>
    <tbody>${rows.map((row) => html`<tr><td>${row.label ?? "first sentence"}</td>
      <td class="text">${row.sentence1 ?? row.sentence2 ?? ""}</td><td class="text">${row.text}</td></tr>`)}</tbody></table></div>`;

/** Copies its text. @param {{text: string, label?: string}} props */
export function Copy({ text, label = "Copy" }) {
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      tell("Copied.", "good");
    } catch {
      // Browsers give the clipboard to pages of this machine and of HTTPS alone.
      tell("The browser doesn't let this page copy. Select the text instead.", "bad");
    }
  };
  return html`<button class="plain small" onClick=${copy}>${label}</button>`;
}

/** Saves a file. @param {string} name @param {Blob} content */
export function save(name, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
