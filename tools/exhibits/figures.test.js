import assert from "node:assert/strict";
import test from "node:test";
import { KINDS, Part, fakePage, script } from "./scripts.js";

fakePage();

for (const kind of KINDS) {
  test(`${kind}: its script offers one figure, which says what went wrong`, async () => {
    const { default: view } = await script(kind);
    const el = new Part("div");
    const end = view.render({ model: { get: (name) => (name === "label" ? "a figure" : undefined), on() {}, off() {} }, el });
    const root = el.children[0], alert = root.all().find((part) => part.attributes.role === "alert");
    assert.equal(root.attributes["data-lcl"], kind);
    assert.equal(root.attributes["aria-label"], "a figure");
    assert.match(alert.textContent, /^This figure met an error: /); // it has no data
    end();
  });
}

test("a label's words are never read as HTML, and no handler becomes an attribute", async () => {
  const { h } = await script("labels", "h");
  let clicked = 0;
  const button = h("button", { onclick: () => { clicked += 1; }, "aria-pressed": false, disabled: false, hidden: true }, "<b>", [null, "x"]);
  button.listeners.click();
  assert.equal(clicked, 1);
  assert.equal(button.textContent, "<b>x");
  assert.deepEqual(button.attributes, { "aria-pressed": "false", hidden: "", "data-lm-suppress-shortcuts": "true" });
});

test("a slider says its value in words, before and after it moves", async () => {
  const { range } = await script("labels", "range");
  const seen = [], control = range("step", 0, 9, 1, 3, (value) => seen.push(value), (value) => `step ${value}`);
  const [label, input, output] = control.children;
  assert.equal(label.attributes.for, input.attributes.id);
  assert.equal(input.attributes["aria-valuetext"], "step 3");
  input.value = "5";
  input.listeners.input();
  assert.deepEqual(seen, [5]);
  assert.equal(input.attributes["aria-valuetext"], "step 5");
  assert.equal(output.textContent, "step 5");
  control.set(7);
  assert.equal(output.textContent, "step 7");
});

test("two controls of a page never share an id", async () => {
  const { picker } = await script("board", "picker");
  const ids = [1, 2, 3].map(() => picker("x", ["a"], () => {}).children[1].attributes.id);
  assert.equal(new Set(ids).size, 3);
});

test("softened labels of an image sum to 1, and α 0 leaves the own caption alone", async () => {
  const { targets } = await script("labels", "targets");
  const cosines = [[0.9, 0.2, -0.1], [0.3, 0.8, 0.1], [0, 0.2, 0.7]];
  for (const row of targets(cosines, 0.4, 0.1)) assert.ok(Math.abs(row.reduce((sum, one) => sum + one) - 1) < 1e-12);
  targets(cosines, 0, 0.1).forEach((row, at) => row.forEach((label, column) => assert.equal(label, at === column ? 1 : 0)));
});

test("the lasso holds what lies inside it, also where it is not convex", async () => {
  const { inside } = await script("map", "inside");
  const corner = [[0, 0], [4, 0], [4, 1], [1, 1], [1, 4], [0, 4]];
  assert.ok(inside(0.5, 3, corner) && inside(3, 0.5, corner));
  assert.ok(!inside(3, 3, corner) && !inside(-1, 0.5, corner));
});

test("a weight of 0 smooths nothing, and a constant stays what it is", async () => {
  const { smoothed, ticks } = await script("curves", "smoothed", "ticks");
  assert.deepEqual(smoothed([3, 1, 2], 0), [3, 1, 2]);
  assert.deepEqual(smoothed([2, 2, 2], 0.9).map((value) => Number(value.toFixed(12))), [2, 2, 2]);
  for (const [low, high, log] of [[0, 7, false], [0.01, 5, true]]) for (const tick of ticks(low, high, log)) assert.ok(low <= tick && tick <= high + 1e-9);
});
