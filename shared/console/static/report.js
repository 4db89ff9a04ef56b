// @ts-check
/** A version's report, shown as a page of ours: of its HTML, only the elements named here, and no attributes. */

import { h, html, useEffect, useState } from "./vendor/htm-preact.js";
import { send } from "./api.js";
import { Trouble, useAsked } from "./ui.js";

const KEPT = new Set("H1 H2 H3 H4 P UL OL LI TABLE THEAD TBODY TR TH TD STRONG EM CODE PRE BLOCKQUOTE HR BR DIV".split(" "));
const PICTURE = /^data:(image\/(?:png|svg\+xml|webp));base64,([A-Za-z0-9+/=\s]+)$/;

/** @param {{version: string}} props */
export default function Report({ version }) {
  const [content, setContent] = useState(/** @type {any} */ (null));
  const asked = useAsked(async (signal) => (await send("trainer", `versions/${version}/report`, { signal })).text(), [version]);
  useEffect(() => {
    if (asked.data === undefined) return undefined;
    /** @type {string[]} */
    const addresses = [];
    // What is in a template is inert: nothing loads, and no style is applied.
    const page = document.createElement("template");
    page.innerHTML = asked.data;
    setContent(children(page.content, addresses));
    return () => addresses.forEach((address) => URL.revokeObjectURL(address));
  }, [asked.data]);
  return html`<div class="report panel break"><${Trouble} error=${asked.error} />${content ?? (!asked.error && html`<p class="muted">…</p>`)}</div>`;
}

/** @param {Node} node @param {string[]} addresses of the pictures, to be revoked */
const children = (node, addresses) => [...node.childNodes].map((child) => shown(child, addresses));

/** @param {Node} node @param {string[]} addresses @returns {any} */
function shown(node, addresses) {
  if (node.nodeType === Node.TEXT_NODE) return node.textContent;
  if (!(node instanceof Element)) return null;
  if (node instanceof HTMLImageElement) return picture(node, addresses);
  if (["SCRIPT", "STYLE", "TEMPLATE", "TITLE"].includes(node.tagName)) return null;
  const inner = children(node, addresses);
  if (node.tagName === "H1") return h("h2", null, inner);
  if (node.tagName === "TH" && !node.textContent?.trim()) return h("td", null, inner);
  return KEPT.has(node.tagName) ? h(node.tagName.toLowerCase(), null, inner) : inner;
}

/** @param {HTMLImageElement} image @param {string[]} addresses */
function picture(image, addresses) {
  const [, type, data] = PICTURE.exec(image.getAttribute("src") ?? "") ?? [];
  if (!type) return null;
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const address = URL.createObjectURL(new Blob([bytes], { type }));
  addresses.push(address);
  return html`<img src=${address} alt=${image.alt} />`;
}
