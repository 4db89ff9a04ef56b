// @ts-check
/** Numbers, times and names as people read them. */

const counts = new Intl.NumberFormat("en");

/** @param {number|null|undefined} value */
export const count = (value) => (value === null || value === undefined ? "–" : counts.format(Math.round(value)));

/** `1 row`, `2 rows`. @param {number} value @param {string} noun */
export const many = (value, noun) => `${count(value)} ${noun}${value === 1 ? "" : "s"}`;

/** @param {number|null|undefined} value @param {number} [digits] */
export function fixed(value, digits = 2) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const text = value.toFixed(digits);
  return Number(text) === 0 ? text.replace("-", "") : text;
}

/** @param {number|null|undefined} seconds */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 90) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** @param {number} value */
export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value < 10 && unit ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

/** @param {string|number|null|undefined} time an ISO time, or Unix seconds */
export function when(time) {
  if (time === null || time === undefined) return "–";
  const date = new Date(typeof time === "number" ? time * 1000 : time);
  const isToday = date.toDateString() === new Date().toDateString();
  return date.toLocaleString([], isToday ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" });
}

/** @param {string} text @param {number} most characters */
export const shorten = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

/** @param {string} name `near_duplicate` as `near duplicate` */
export const words = (name) => name.replaceAll("_", " ");

/** Where a text comes from: a pair from a job, a passage from a file. @param {{kind: string, source: string|null}} text */
export const origin = ({ kind, source }) => (kind === "pair" && source ? `job ${short(source)}` : (source ?? kind));

/** @param {string} id of a job: enough to tell it from others */
export const short = (id) => id.slice(0, 8);
