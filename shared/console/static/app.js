// @ts-check
/** The frame: which view is shown, the key, and what the services say of themselves. */

import { html, render, useEffect, useRef, useState } from "./vendor/htm-preact.js";
import { call, keys, onMissingKey } from "./api.js";
import { Field, onToast, useAsked } from "./ui.js";

/** Each view is fetched when it is first shown: name, title, the icon's path. */
const VIEWS = [
  ["start", "Start", "M5 3v18l15-9z"],
  ["watch", "Watch", "M3 12h4l3-8 4 16 3-8h4"],
  ["pairs", "Pairs", "M4 5h7v14H4zM13 5h7v14h-7z"],
  ["rounds", "Rounds", "M4 19V5M4 19h16M7 15l4-5 3 3 5-7"],
  ["versions", "Versions", "M6 4v16M6 8h9a3 3 0 0 1 3 3v9M18 20l-3-3M18 20l3-3"],
  ["map", "Map", "M6 7h.01M11 5h.01M17 8h.01M8 12h.01M14 13h.01M18 16h.01M6 18h.01M12 19h.01"],
  ["playground", "Playground", "M4 4h7v7H4zM13 13h7v7h-7zM13 4h7v7h-7zM4 13h7v7H4z"],
  ["system", "System", "M4 5h16v6H4zM4 14h16v6H4zM7 8h.01M7 17h.01"],
];
const SERVICES = /** @type {const} */ (["generation", "trainer", "embedding"]);

/** The hash as a view and what comes after it: `#watch/ID`. */
function place() {
  const [view, ...rest] = location.hash.slice(1).split("/").map(decodeURIComponent);
  return { view: VIEWS.some(([name]) => name === view) ? view : "start", rest };
}

function App() {
  const [at, setAt] = useState(place);
  const [shown, setShown] = useState(/** @type {{view: string, component: any}|null} */ (null));
  const [toasts, setToasts] = useState(/** @type {import("./ui.js").Toast[]} */ ([]));
  const [isAsking, setIsAsking] = useState(false);
  const [session, setSession] = useState(0);
  const main = useRef(/** @type {HTMLElement|null} */ (null));
  const isFirst = useRef(true);

  useEffect(() => {
    const move = () => setAt(place());
    addEventListener("hashchange", move);
    onMissingKey(() => setIsAsking(true));
    onToast((toast) => {
      setToasts((last) => [...last.slice(-3), toast]);
      setTimeout(() => setToasts((last) => last.filter((one) => one.id !== toast.id)), 6000);
    });
    return () => removeEventListener("hashchange", move);
  }, []);

  useEffect(() => {
    let isWanted = true;
    import(`./screens/${at.view}.js`).then((module) => isWanted && setShown({ view: at.view, component: module.default }));
    return () => {
      isWanted = false;
    };
  }, [at.view]);

  useEffect(() => {
    if (!shown) return;
    document.title = `${VIEWS.find(([name]) => name === shown.view)?.[1]} – Pairwright`;
    // Whoever navigates by keyboard or by ear lands at the view's title, but not when the page has only just come.
    if (!isFirst.current) main.current?.querySelector("h1")?.focus();
    isFirst.current = false;
  }, [shown?.view]);

  return html`
    <a class="skip" href=${`#${at.view}`} onClick=${(/** @type {Event} */ event) => {
      event.preventDefault();
      main.current?.querySelector("h1")?.focus();
    }}>Skip to the content</a>
    <div class="frame">
      <header class="side">
        <div class="brand"><img src="icon.svg" alt="" />Pairwright</div>
        <nav aria-label="Views"><ul>${VIEWS.map(([name, title, path]) => html`
          <li><a href=${`#${name}`} aria-current=${at.view === name ? "page" : undefined}>
            <svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round"
              stroke-linejoin="round" aria-hidden="true"><path d=${path} /></svg>${title}</a></li>`)}</ul></nav>
        <footer>
          <${Lamps} key=${session} />
          <div class="row small">
            <${Theme} />
            <button class="plain" onClick=${() => setIsAsking(true)}>Key</button>
          </div>
        </footer>
      </header>
      <main ref=${main} id="main">${shown && html`<${shown.component} key=${`${shown.view}/${session}`} rest=${at.rest} />`}</main>
    </div>
    <div class="toasts" aria-live="polite">${toasts.map((one) => html`
      <div class=${`note ${one.kind}`} key=${one.id}>${one.text}</div>`)}</div>
    ${isAsking && html`<${KeyDialog} onDone=${(/** @type {boolean} */ isNew) => {
      setIsAsking(false);
      if (isNew) setSession(session + 1);
    }} />`}`;
}

const LAMPS = { ready: ["ok", "ready"], waits: ["", "not ready"], down: ["down", "down"], key: ["", "needs a key"], asked: ["", "…"] };

/** @param {any} error of asking a service whether it is ready */
const stateOf = (error) => (error?.status === 401 ? "key" : error?.body?.checks ? "waits" : "down");

/** Whether each service can do its work. */
function Lamps() {
  const asked = useAsked(async (signal) => {
    const states = await Promise.allSettled(SERVICES.map((service) => call(service, "readyz", { signal })));
    return states.map((state) => (state.status === "fulfilled" ? "ready" : stateOf(state.reason)));
  }, [], 3);
  return html`<ul class="lamps small" aria-label="Services">${SERVICES.map((service, number) => {
    const state = asked.data?.[number] ?? "asked";
    const [kind, text] = LAMPS[/** @type {keyof typeof LAMPS} */ (state)];
    return html`<li class=${`lamp ${kind}`}><i aria-hidden="true"></i><span>${service} <span class="muted">${text}</span></span></li>`;
  })}</ul>`;
}

/** Light or dark: the system's choice until it is turned. */
function Theme() {
  const turn = () => {
    const isDark = getComputedStyle(document.documentElement).colorScheme === "dark"
      || (!document.documentElement.style.colorScheme && matchMedia("(prefers-color-scheme: dark)").matches);
    document.documentElement.style.colorScheme = isDark ? "light" : "dark";
    localStorage.setItem("pairwright-theme", document.documentElement.style.colorScheme);
    dispatchEvent(new Event("themechange"));
  };
  return html`<button class="plain" onClick=${turn}>Light / dark</button>`;
}

/** @param {{onDone: (isNew: boolean) => void}} props */
function KeyDialog({ onDone }) {
  const dialog = useRef(/** @type {HTMLDialogElement|null} */ (null));
  const [key, setKey] = useState(keys.get());
  const [admin, setAdmin] = useState(keys.getAdmin());
  useEffect(() => dialog.current?.showModal(), []);
  const keep = (/** @type {Event} */ event) => {
    event.preventDefault();
    keys.set(key.trim(), admin.trim());
    onDone(true);
  };
  return html`<dialog ref=${dialog} aria-labelledby="key-title" onClose=${() => onDone(false)}>
    <form onSubmit=${keep}>
      <h2 id="key-title">API key</h2>
      <p class="muted small">One of PAIRWRIGHT_API_KEYS. It stays in this tab until you close it.</p>
      <${Field} label="Key"><input type="password" autocomplete="off" value=${key}
        onInput=${(/** @type {any} */ event) => setKey(event.target.value)} /><//>
      <${Field} label="Admin key, if activating versions needs one"><input type="password" autocomplete="off" value=${admin}
        onInput=${(/** @type {any} */ event) => setAdmin(event.target.value)} /><//>
      <div class="row"><button class="primary" type="submit">Use it</button>
        <button type="button" onClick=${() => dialog.current?.close()}>Close</button></div>
    </form>
  </dialog>`;
}

document.documentElement.style.colorScheme = localStorage.getItem("pairwright-theme") ?? "";
render(html`<${App} />`, /** @type {Element} */ (document.getElementById("app")));
