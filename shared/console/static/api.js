// @ts-check
/** The three services, as the page asks them: always through the service that served it, so there is one origin. */

/** @typedef {"generation"|"embedding"|"trainer"|"services"} Service `services`: the addresses of the others */

const KEY = "pairwright-key";
const ADMIN_KEY = "pairwright-admin-key";

/** An answer that is an error, or no answer (status 0). */
export class ApiError extends Error {
  /** @param {number} status @param {string} title @param {string} detail @param {any} [body] */
  constructor(status, title, detail, body) {
    super(detail || title);
    this.status = status;
    this.title = title;
    this.body = body;
  }
}

/** Keys are kept for this tab's session and sent as headers alone. */
export const keys = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  getAdmin: () => sessionStorage.getItem(ADMIN_KEY) ?? "",
  /** @param {string} key @param {string} admin */
  set(key, admin) {
    sessionStorage.setItem(KEY, key);
    sessionStorage.setItem(ADMIN_KEY, admin);
  },
};

/** @type {() => void} */
let askForKey = () => {};
/** @param {() => void} ask what opens the dialog for the key */
export function onMissingKey(ask) {
  askForKey = ask;
}

/**
 * @param {Service} service
 * @param {string} path
 * @param {Record<string, any>} [query] what is undefined, null or "" is left out
 */
export function address(service, path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const text = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  return `api/${service}${path && `/${path}`}${text ? `?${text}` : ""}`;
}

/**
 * @typedef {{method?: string, query?: Record<string, any>, json?: any, body?: BodyInit, signal?: AbortSignal,
 *   headers?: Record<string, string>}} Options
 */

/**
 * The answer itself. Throws `ApiError` for every status of 400 and more, and when nothing answers.
 * @param {Service} service @param {string} path @param {Options} [options]
 */
export async function send(service, path, { method = "GET", query, json, body, signal, headers = {} } = {}) {
  if (keys.get()) headers.authorization = `Bearer ${keys.get()}`;
  if (keys.getAdmin() && service === "embedding" && path.startsWith("versions")) {
    headers["x-pairwright-admin-key"] = keys.getAdmin();
  }
  if (json !== undefined) headers["content-type"] = "application/json";
  const sent = json === undefined ? body : JSON.stringify(json);
  let answer;
  try {
    answer = await fetch(address(service, path, query), { method, headers, body: sent, signal, cache: "no-store" });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, "No answer", "The service that serves this page doesn't answer. Is `make up` still running?");
  }
  if (!answer.ok) throw await problem(answer);
  return answer;
}

/** @param {Response} answer */
async function problem(answer) {
  const text = await answer.text();
  let body;
  try {
    body = JSON.parse(text);
  } catch {
    body = { detail: text.slice(0, 300) };
  }
  if (answer.status === 401) askForKey();
  const detail = body.detail ?? body.message ?? body.error?.message ?? body.error ?? answer.statusText;
  return new ApiError(answer.status, body.title ?? `Error ${answer.status}`, String(detail), body);
}

/**
 * The answer's JSON; undefined for an empty one.
 * @param {Service} service @param {string} path @param {Options} [options] @returns {Promise<any>}
 */
export async function call(service, path, options) {
  const text = await (await send(service, path, options)).text();
  return text ? JSON.parse(text) : undefined;
}

/**
 * JSON Lines as a list.
 * @param {Service} service @param {string} path @param {Options} [options] @returns {Promise<any[]>}
 */
export async function lines(service, path, options) {
  const text = await (await send(service, path, options)).text();
  return text.split("\n").filter(Boolean).map((line) => JSON.parse(line));
}

/**
 * Server-sent events. `EventSource` can't send a key, so they are read by hand.
 * @param {Service} service @param {string} path @param {Options} options
 * @returns {AsyncGenerator<{event: string, id: string, data: any}>}
 */
export async function* events(service, path, options) {
  const answer = await send(service, path, options);
  const reader = /** @type {ReadableStream<Uint8Array>} */ (answer.body).getReader();
  const decoder = new TextDecoder();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += decoder.decode(value, { stream: true });
      const blocks = text.split(/\r?\n\r?\n/);
      text = blocks.pop() ?? "";
      for (const block of blocks) {
        const event = parseEvent(block);
        if (event) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** @param {string} block */
function parseEvent(block) {
  /** @type {Record<string, string>} */
  const fields = {};
  for (const line of block.split(/\r?\n/)) {
    const [, name, value] = /^(\w+): ?(.*)$/.exec(line) ?? [];
    if (name) fields[name] = name in fields ? `${fields[name]}\n${value}` : value;
  }
  return fields.data ? { event: fields.event ?? "message", id: fields.id ?? "", data: JSON.parse(fields.data) } : null;
}
