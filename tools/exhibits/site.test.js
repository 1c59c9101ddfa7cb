import assert from "node:assert/strict";
import test from "node:test";
import { site } from "./scripts.js";

const { model, search, excerpt } = site();
const plain = (value) => JSON.parse(JSON.stringify(value)); // arrays of another context are not those of this one
const INDEX = [
  ["a.html#x", "Matching", "Sinkhorn's relaxation", "A plan by rounds."],
  ["b.html", "Results", "Results", "We compare Sinkhorn with the exact solver. Sinkhorn is fast."],
  ["c.html", "Help", "Costs", "Nothing of it."],
];

test("a figure's script reads its data, sets values, and hears of those that it listens to", () => {
  const heard = [], one = model({ label: "x", data: { a: 1 } }), listener = () => heard.push(one.get("chosen"));
  one.on("change:chosen", listener);
  one.set("chosen", [1, 2]);
  one.save_changes();
  one.set("other", 0);
  one.off("change:chosen", listener);
  one.set("chosen", []);
  assert.deepEqual(heard, [[1, 2]]);
  assert.equal(one.get("label"), "x");
  assert.equal(one.get("nothing"), undefined);
});

test("a search finds sections that have all words, headings first", () => {
  assert.deepEqual(plain(search(INDEX, "sinkhorn")).map(([address]) => address), ["a.html#x", "b.html"]);
  assert.deepEqual(plain(search(INDEX, "  SINKHORN exact ")).map(([address]) => address), ["b.html"]);
  assert.deepEqual(plain(search(INDEX, "absent")), []);
  assert.deepEqual(plain(search(INDEX, "  ")), []);
  assert.equal(search(INDEX, "s", 1).length, 1);
});

test("no sign of a query has a meaning of its own", () => {
  for (const query of ["(", "[a", "*", "\\", "$&", ".*"]) assert.deepEqual(plain(search(INDEX, query)), [], query);
});

test("an excerpt is cut around the first word that is there", () => {
  const text = `${"a ".repeat(60)}Word ${"b ".repeat(60)}`;
  const [before, word, after] = excerpt(text, "absent word");
  assert.equal(word, "Word");
  assert.ok(before.startsWith("…") && after.endsWith("…") && before.length + after.length < 160);
  assert.deepEqual(plain(excerpt("short", "absent")), ["short", "", ""]);
});
