// @ts-check
/** The dataset's texts as the student sees them: near where they mean the same. */

import { html, useEffect, useMemo, useRef, useState } from "../vendor/htm-preact.js";
import { send } from "../api.js";
import { count, fixed, origin, shorten, when } from "../format.js";
import { MapCanvas } from "../map-canvas.js";
import { Empty, Field, Head, Trouble, save, useAsked } from "../ui.js";

/**
 * @typedef {{x: number, y: number, text: string, kind: string, label: string|null, source: string|null, cluster: number,
 *   neighbours: number[], duplicate_of: number|null, surprise?: number|null}} Point
 * @typedef {{version: string, computed: string, points: Point[], clusters: {id: number, words: string[], size: number}[]}} Plane
 */

const MOST = 20_000;
const COLOURS = 7;
const COLOURINGS = { label: "Label", source: "Source", cluster: "Cluster", disagreement: "Disagreement", duplicates: "Near-duplicates" };
const STEP_PX = 60;
const FOUND = 20;
/** Upper edges of |cosine - score|, and their names. @type {[number, string][]} */
const GAPS = [[0.1, "up to 0.1"], [0.25, "up to 0.25"], [0.5, "up to 0.5"], [Infinity, "more than 0.5"]];

export default function Map_() {
  const renew = useRef(false);
  const asked = useAsked(async (signal) => {
    const answer = await send("trainer", "map", { query: { limit: MOST, renew: renew.current || undefined }, signal });
    renew.current = false;
    const body = await answer.json();
    return answer.status === 200 ? { plane: planeOf(body) } : { progress: body };
  }, [], (data) => (data?.plane ? 0 : 1));
  const plane = /** @type {Plane|undefined} */ (asked.data?.plane);
  const progress = asked.data?.progress;
  return html`
    <${Head} title="Map" about="Up to 20,000 texts of the dataset, placed by the current version: near where it finds them alike." />
    <${Trouble} error=${asked.error} />
    ${!asked.data && !asked.error && html`<p class="muted">…</p>`}
    ${progress && html`<section class="panel"><p role="status">The map is ${progress.state.startsWith("waiting") ? "" : "being computed: "}${progress.state}.</p>
      <progress max=${progress.of || 1} value=${progress.of ? progress.done : undefined} aria-label="The map's computation"></progress></section>`}
    ${plane && (plane.points.length ? html`<${Plot} key=${plane.version} plane=${plane} onAgain=${() => {
      renew.current = true;
      asked.refresh();
    }} />`
      : html`<section class="panel"><${Empty}>The dataset has no texts yet. <a href="#start">Start a job</a>.<//></section>`)}`;
}

/** Rows, whether they came as rows or as columns. @param {any} body @returns {Plane} */
function planeOf(body) {
  if (Array.isArray(body.points)) return body;
  const names = Object.keys(body.points);
  const length = names.length ? body.points[names[0]].length : 0;
  const points = Array.from({ length }, (_, place) => Object.fromEntries(names.map((name) => [name, body.points[name][place]])));
  return { ...body, points: /** @type {any} */ (points) };
}

/** Each point's group, and the groups' names. @param {Plane} plane @param {string} by */
function groupsOf(plane, by) {
  const nameOf = naming(plane, by);
  const names = plane.points.map(nameOf);
  /** @type {Map<string, number>} */
  const counts = new Map();
  for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1);
  const ordered = by === "disagreement" ? [...GAPS.map(([, name]) => name), "not measured"].filter((name) => counts.has(name))
    : [...counts.keys()].sort((one, other) => (counts.get(other) ?? 0) - (counts.get(one) ?? 0));
  // The most frequent ones have colours of their own, the others share the last.
  const shown = ordered.length > COLOURS + 1 ? [...ordered.slice(0, COLOURS), "others"] : ordered;
  const numbers = new Map(ordered.map((name, place) => [name, Math.min(place, shown.length - 1)]));
  return { names: shown, groups: Int16Array.from(names, (name) => numbers.get(name) ?? 0) };
}

/** @param {Plane} plane @param {string} by @returns {(point: Point) => string} */
function naming(plane, by) {
  if (by === "cluster") {
    const words = new Map(plane.clusters.map((one) => [one.id, one.words.slice(0, 3).join(", ")]));
    return (point) => words.get(point.cluster) ?? "no cluster";
  }
  if (by === "duplicates") return (point) => (point.duplicate_of === null || point.duplicate_of === undefined ? "alone" : "near-duplicate");
  if (by === "disagreement") {
    return ({ surprise: gap }) => (gap === null || gap === undefined ? "not measured" : (GAPS.find(([edge]) => gap <= edge)?.[1] ?? ""));
  }
  return by === "source" ? origin : (point) => point.label ?? point.kind;
}

/** @param {{plane: Plane, onAgain: () => void}} props */
function Plot({ plane, onAgain }) {
  const canvas = useRef(/** @type {HTMLCanvasElement|null} */ (null));
  const map = useRef(/** @type {MapCanvas|null} */ (null));
  const [by, setBy] = useState("label");
  const [hovered, setHovered] = useState(-1);
  const [chosen, setChosen] = useState(-1);
  const [search, setSearch] = useState("");
  const [cluster, setCluster] = useState(-1);
  const [group, setGroup] = useState(-1);
  const { names, groups } = useMemo(() => groupsOf(plane, by), [plane, by]);
  const shown = useMemo(() => shownOf(plane, search, cluster, groups, group), [plane, search, cluster, groups, group]);

  useEffect(() => {
    if (!canvas.current) return undefined;
    const made = new MapCanvas(canvas.current, {
      x: Float64Array.from(plane.points, (point) => point.x), y: Float64Array.from(plane.points, (point) => point.y),
    });
    map.current = made;
    const again = () => made.draw();
    addEventListener("resize", again);
    return () => removeEventListener("resize", again);
  }, [plane]);
  useEffect(() => {
    const paint = () => map.current?.set({ colours: coloursOf(canvas.current, names.length, by), groups });
    paint();
    addEventListener("themechange", paint);
    return () => removeEventListener("themechange", paint);
  }, [names, groups, plane]);
  useEffect(() => map.current?.set({ shown }), [shown, plane]);
  useEffect(() => map.current?.set({ chosen, linked: chosen < 0 ? [] : neighboursOf(plane, chosen) }), [chosen, plane]);

  const found = shown ? plane.points.map((_, place) => place).filter((place) => shown[place]) : [];
  return html`
    <section class="panel" aria-label="Map">
      <div class="row end">
        <${Field} label="Colour by"><select value=${by} onChange=${(/** @type {any} */ event) => {
          setBy(event.target.value);
          setGroup(-1);
        }}>
          ${Object.entries(COLOURINGS).map(([name, title]) => html`<option value=${name}>${title}</option>`)}</select><//>
        <${Field} label="Find" wide=${true}><input type="search" value=${search} onInput=${(/** @type {any} */ event) => setSearch(event.target.value)} placeholder="what a text contains" /><//>
        <button onClick=${() => map.current?.zoom(1 / 1.5)} aria-label="Nearer">+</button>
        <button onClick=${() => map.current?.zoom(1.5)} aria-label="Farther">−</button>
        <button onClick=${() => map.current?.fit()}>All</button>
        <button onClick=${onAgain}>Compute anew</button>
        <button onClick=${() => save("map.jsonl", exported(plane))}>Export</button>
      </div>
      <div class="row legend" role="group" aria-label="Show one alone">${names.map((name, place) => html`<button class="plain key break" aria-pressed=${group === place ? "true" : "false"}
        onClick=${() => setGroup(group === place ? -1 : place)}><i style=${{ background: colourAt(place, names.length, by) }}></i>${shorten(name, 40)}</button>`)}</div>
      <div class="map">
        <canvas ref=${canvas} tabindex="0" role="application" aria-label=${`Map of ${plane.points.length} texts. Arrow keys move, plus and minus zoom, 0 shows all.`}
          ...${handlers(map, setHovered, setChosen)}></canvas>
        ${hovered >= 0 && map.current && html`<${Tip} map=${map.current} place=${hovered} point=${plane.points[hovered]} />`}
      </div>
      <p class="small muted">${count(plane.points.length)} texts by ${plane.version}, ${when(plane.computed)}. Drag to move, turn the wheel to zoom, click a text for its neighbours, a colour's name to show it alone.</p>
    </section>
    <div class="columns">
      ${chosen >= 0 && html`<section class="panel" aria-labelledby="chosen"><h2 id="chosen">Chosen text</h2>
        <p class="break">${plane.points[chosen].text}</p>
        <p class="small muted">${about(plane.points[chosen])}</p>
        <h3>Nearest by the current version</h3>
        <${Texts} plane=${plane} places=${neighboursOf(plane, chosen)} choose=${setChosen} /></section>`}
      ${shown && html`<section class="panel" aria-labelledby="found"><h2 id="found">Shown: ${count(found.length)}</h2>
        <${Texts} plane=${plane} places=${found.slice(0, FOUND)} choose=${setChosen} /></section>`}
      <section class="panel" aria-labelledby="clusters"><h2 id="clusters">Clusters</h2>
        ${plane.clusters.length ? html`<div class="scroll" tabindex="0" role="region" aria-label="Clusters"><table><thead><tr><th>Words</th><th class="number">Texts</th></tr></thead>
          <tbody>${[...plane.clusters].sort((one, other) => other.size - one.size).map((one) => html`<tr class=${cluster === one.id ? "chosen" : ""} key=${one.id}>
            <td><button class="plain" aria-pressed=${cluster === one.id ? "true" : "false"} onClick=${() => setCluster(cluster === one.id ? -1 : one.id)}>${one.words.join(", ")}</button></td>
            <td class="number">${count(one.size)}</td></tr>`)}</tbody></table></div>` : html`<p class="muted small">Too few texts for clusters.</p>`}
      </section>
    </div>`;
}

/** @param {{map: MapCanvas, place: number, point: Point}} props */
function Tip({ map, place, point }) {
  const [x, y] = map.pixel(place);
  const isRight = x > map.canvas.clientWidth / 2;
  const at = { top: `${y + 12}px`, ...(isRight ? { right: `${map.canvas.clientWidth - x}px` } : { left: `${x + 10}px` }) };
  return html`<div class="tip" style=${at}>${shorten(point.text, 160)}<div class="muted">${about(point)}</div></div>`;
}

/** @param {{plane: Plane, places: number[], choose: (place: number) => void}} props */
const Texts = ({ plane, places, choose }) => html`<ul class="list small">${places.map((place) => html`
  <li key=${place}><button class="plain pick break" onClick=${() => choose(place)}>${plane.points[place].text}</button></li>`)}</ul>`;

/** @param {Point} point */
const about = (point) => [point.kind, point.label, origin(point), point.surprise != null && `disagreement ${fixed(point.surprise)}`,
  point.duplicate_of != null && "near-duplicate"].filter(Boolean).join(" · ");

/** @param {Plane} plane @param {number} place */
const neighboursOf = (plane, place) => (plane.points[place].neighbours ?? []).filter((other) => other >= 0 && other < plane.points.length);

/**
 * Which points a search, a cluster and a colour leave; null for all.
 * @param {Plane} plane @param {string} search @param {number} cluster @param {Int16Array} groups @param {number} group
 */
function shownOf(plane, search, cluster, groups, group) {
  const text = search.trim().toLowerCase();
  if (!text && cluster < 0 && group < 0) return null;
  return Uint8Array.from(plane.points, (point, place) =>
    Number((!text || point.text.toLowerCase().includes(text)) && (cluster < 0 || point.cluster === cluster) && (group < 0 || groups[place] === group)));
}

/** @param {number} place @param {number} of @param {string} by */
const colourAt = (place, of, by) => (place === of - 1 && (of > COLOURS || (by === "disagreement" && of > 1)) ? "var(--c7)" : `var(--c${place % 8})`);

/** As a canvas takes them. @param {HTMLElement|null} near @param {number} of @param {string} by */
function coloursOf(near, of, by) {
  if (!near?.parentElement) return [];
  const probe = document.createElement("i");
  near.parentElement.append(probe);
  const colours = Array.from({ length: of }, (_, place) => {
    probe.style.color = colourAt(place, of, by);
    return getComputedStyle(probe).color;
  });
  probe.remove();
  return colours;
}

/** @param {Plane} plane */
const exported = (plane) => new Blob(plane.points.map((point) => `${JSON.stringify({ ...point, words: plane.clusters.find((one) => one.id === point.cluster)?.words ?? [] })}\n`));

/**
 * What pointer, wheel and keys do.
 * @param {{current: MapCanvas|null}} map @param {(place: number) => void} setHovered @param {(place: number) => void} setChosen
 */
function handlers(map, setHovered, setChosen) {
  const drag = { x: 0, y: 0, isDown: false, hasMoved: false };
  const keys = /** @type {Record<string, (map: MapCanvas) => void>} */ ({
    ArrowLeft: (one) => one.pan(STEP_PX, 0), ArrowRight: (one) => one.pan(-STEP_PX, 0), ArrowUp: (one) => one.pan(0, STEP_PX), ArrowDown: (one) => one.pan(0, -STEP_PX),
    "+": (one) => one.zoom(1 / 1.5), "=": (one) => one.zoom(1 / 1.5), "-": (one) => one.zoom(1.5), 0: (one) => one.fit(),
  });
  return {
    onPointerDown: (/** @type {PointerEvent} */ event) => {
      Object.assign(drag, { x: event.offsetX, y: event.offsetY, isDown: true, hasMoved: false });
      /** @type {Element} */ (event.target).setPointerCapture(event.pointerId);
    },
    onPointerMove: (/** @type {PointerEvent} */ event) => {
      if (!map.current) return;
      if (!drag.isDown) return setHovered(map.current.at(event.offsetX, event.offsetY));
      const [dx, dy] = [event.offsetX - drag.x, event.offsetY - drag.y];
      if (!drag.hasMoved && Math.hypot(dx, dy) < 4) return;
      Object.assign(drag, { x: event.offsetX, y: event.offsetY, hasMoved: true });
      setHovered(-1);
      map.current.pan(dx, dy);
    },
    onPointerUp: (/** @type {PointerEvent} */ event) => {
      drag.isDown = false;
      if (!drag.hasMoved && map.current) setChosen(map.current.at(event.offsetX, event.offsetY));
    },
    onPointerLeave: () => setHovered(-1),
    onWheel: (/** @type {WheelEvent} */ event) => {
      event.preventDefault();
      map.current?.zoom(Math.exp(Math.max(-60, Math.min(60, event.deltaY)) * 0.004), event.offsetX, event.offsetY);
    },
    onKeyDown: (/** @type {KeyboardEvent} */ event) => {
      if (!map.current || !(event.key in keys) || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      keys[event.key](map.current);
    },
  };
}
