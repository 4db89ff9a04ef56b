// Vectors with JavaScript's fetch: node 18 or newer, or a browser (then set PAIRWRIGHT_EMBEDDING_CORS_ORIGINS).
const url = process.env.PAIRWRIGHT_URL ?? "http://localhost:8002";

const answer = await fetch(`${url}/embed`, {
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify({ inputs: ["A dog runs.", "A dog is running.", "Stocks fell."] }),
});
if (!answer.ok) throw new Error(`${answer.status}: ${await answer.text()}`);
const [one, two, three] = await answer.json();
const dot = (a, b) => a.reduce((sum, value, place) => sum + value * b[place], 0);
console.log(answer.headers.get("x-pairwright-version"));
console.log(dot(one, two).toFixed(3), dot(one, three).toFixed(3));
