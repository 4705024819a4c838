// A client as anybody would write it: lists in parts, a file in ranges, and a feed that is taken up again.
import { createHash } from "node:crypto";

const base = new URL(`${process.argv[2]}/`);

async function json(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

async function every(url) {
  const items = [];
  while (url) {
    const page = await json(url);
    items.push(...page.items);
    url = page.next && new URL(page.next, url);
  }
  return items;
}

async function inRanges(url, size, step) {
  const parts = [];
  for (let begin = 0; begin < size; begin += step) {
    const answer = await fetch(url, { headers: { Range: `bytes=${begin}-${begin + step - 1}` } });
    if (answer.status !== 206) throw new Error(`${url}: ${answer.status}`);
    parts.push(Buffer.from(await answer.arrayBuffer()));
  }
  return Buffer.concat(parts);
}

// Follows a feed until `enough` says so, and leaves in the middle.
async function follow(url, last, enough) {
  const answer = await fetch(url, { headers: last ? { "Last-Event-ID": last } : {} });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  const events = [];
  let text = "";
  while (!enough(events)) {
    const end = text.indexOf("\n\n");
    if (end < 0) {
      const { value, done } = await reader.read();
      if (done) throw new Error("the feed ended");
      text += value;
      continue;
    }
    const fields = Object.fromEntries(text.slice(0, end).split("\n").map((line) => line.split(/: (.*)/s)));
    text = text.slice(end + 2);
    if (fields.data) events.push({ id: fields.id, kind: fields.event, data: JSON.parse(fields.data) });
  }
  await reader.cancel();
  return events;
}

const attempts = await every(new URL("attempts?limit=7", base));
const [product] = await every(new URL("products", base));
const content = await inRanges(new URL(product.content, base), product.size, 1000);
const digest = createHash("sha256").update(content).digest("hex");

console.log("following");
const first = await follow(new URL("events", base), null, (events) => events.length === 5);
const rest = await follow(new URL("events", base), first.at(-1).id, (events) => events.at(-1)?.kind === "commit" && events.at(-1).data.stage === "last");
console.log(
  JSON.stringify({
    attempts: attempts.map((attempt) => attempt.job),
    same: digest === product.sha256,
    told: [...first, ...rest].map((event) => [event.kind, event.data.job ?? event.data.stage ?? event.data.name]),
  }),
);
