// @ts-check
/** What a person drops or chooses: files with their folders, and which of them can be read. */

/**
 * `column`: of a table, the one that a person chose; "" for the usual one.
 * @typedef {{name: string, file: File, use: "documents"|"sentences", column: string}} Item
 */

const DOCUMENTS = [".md", ".markdown", ".html", ".htm", ".pdf", ".docx"];
const TABLES = [".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson", ".parquet"];
export const KINDS = [...DOCUMENTS, ...TABLES];
export const MOST_BYTES = 16 * 1024 * 1024;

/** @param {string} name */
function kindOf(name) {
  const [last, before] = name.toLowerCase().match(/\.[a-z0-9]+/g)?.reverse() ?? [];
  return last === ".gz" && before && TABLES.includes(before) ? before : (last ?? "");
}

/**
 * Those that can be read, by name, and how many others there were.
 * @param {[string, File][]} named
 * @returns {{items: Item[], others: string[]}}
 */
export function sortOut(named) {
  /** @type {Item[]} */
  const items = [];
  const others = [];
  for (const [name, file] of named) {
    if (name.split("/").some((part) => part.startsWith("."))) continue;
    const kind = kindOf(name);
    if (!KINDS.includes(kind) || file.size > MOST_BYTES) others.push(name);
    else items.push({ name, file, use: DOCUMENTS.includes(kind) ? "documents" : "sentences", column: "" });
  }
  // Tables first: there is more to choose, and a long list of documents would hide them.
  const rank = (/** @type {Item} */ item) => `${item.use === "sentences" ? 0 : 1}${item.name}`;
  items.sort((one, other) => (rank(one) < rank(other) ? -1 : 1));
  return { items, others };
}

/** @param {FileList|null} list @returns {[string, File][]} */
export const chosen = (list) => [...(list ?? [])].map((file) => [file.webkitRelativePath || file.name, file]);

/** Files of a drop, those in folders too. @param {DataTransfer} transfer @returns {Promise<[string, File][]>} */
export async function dropped(transfer) {
  // All entries first: the transfer is empty after the first wait.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.());
  if (!entries.some(Boolean)) return chosen(transfer.files);
  /** @type {[string, File][]} */
  const found = [];
  for (const entry of entries) if (entry) await walk(entry, found);
  return found;
}

/** @param {FileSystemEntry} entry @param {[string, File][]} found */
async function walk(entry, found) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => /** @type {FileSystemFileEntry} */ (entry).file(resolve, reject));
    found.push([entry.fullPath.replace(/^\//, ""), file]);
    return;
  }
  const reader = /** @type {FileSystemDirectoryEntry} */ (entry).createReader();
  for (;;) {
    // A folder is read in portions, until one is empty.
    const portion = /** @type {FileSystemEntry[]} */ (await new Promise((resolve, reject) => reader.readEntries(resolve, reject)));
    if (!portion.length) return;
    for (const one of portion) await walk(one, found);
  }
}
