import assert from "node:assert/strict";
import test from "node:test";
import { site } from "./scripts.js";

const LCL = site();
const plain = (value) => JSON.parse(JSON.stringify(value)); // arrays of another context are not those of this one
const BYTES = "abcdeCAT?Ãħ".split(""), VOCAB = ["[PAD]", "[BEGIN]", "[END]", "[MASK]", ...BYTES, "ca", "cat", "at"];
const SAVED = { model: { vocab: Object.fromEntries(VOCAB.map((token, id) => [token, id])), merges: [["c", "a"], ["a", "t"], ["ca", "t"]] } };
SAVED.model.vocab.t = VOCAB.length;
SAVED.model.vocab["©"] = VOCAB.length + 1;

test("words merge in the order that was learned, and marks are tokens of no word", () => {
  const read = LCL.tokenizer(SAVED, 8), { vocab } = SAVED.model;
  assert.deepEqual(plain(read("CAT\tat?")), { ids: [1, vocab.cat, vocab.at, vocab["?"], 2], of: [-1, 0, 1, -1, -1], words: ["cat", "at"] });
  assert.deepEqual(plain(read("e\u0301").ids), [1, vocab["Ã"], vocab["©"], 2]); // the accent joins its letter: é has two bytes
});

test("a caption that is too long keeps its end token, and loses the words that were cut off", () => {
  const cut = plain(LCL.tokenizer(SAVED, 4)("cat cat cat cat"));
  assert.deepEqual(cut, { ids: [1, SAVED.model.vocab.cat, SAVED.model.vocab.cat, 2], of: [-1, 0, 1, -1], words: ["cat", "cat"] });
});

test("a picture of the right size stays what it is, and of a larger one the middle is taken", () => {
  const picture = { pixels: Uint8Array.from({ length: 4 * 4 * 4 }, (_, at) => 3 * at), width: 4, height: 4 };
  const found = LCL.square(picture, 4);
  for (let at = 0; at < 16; at++) for (let colour = 0; colour < 3; colour++) assert.equal(found[16 * colour + at], picture.pixels[4 * at + colour]);
  for (const [width, height] of [[12, 4], [4, 12]]) {
    const pixels = new Uint8Array(4 * 48);
    for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) if ((width > height ? x : y) >> 2 === 1) pixels[4 * (y * width + x)] = 200;
    assert.deepEqual(plain(LCL.square({ pixels, width, height }, 4).slice(0, 16)), plain(new Uint8Array(16).fill(200)));
  }
});

test("the nearest rows come first, and of equal ones the earlier", () => {
  const index = new Float32Array([1, 0, 0, 1, 1, 0, -1, 0]);
  assert.deepEqual(plain(LCL.nearest(index, new Float32Array([1, 0]), 3)), [{ row: 0, cosine: 1 }, { row: 2, cosine: 1 }, { row: 1, cosine: 0 }]);
});

test("a word is the mean of its tokens", () => {
  const caption = { ids: [1, 5, 6, 7, 2], of: [-1, 0, 0, 1, -1], words: ["ab", "c"] };
  const tokens = new Float32Array([9, 9, 4, 0, 0, 4, 0, -3, 9, 9]), patches = new Float32Array([1, 0, 0, 1]);
  const [[first, second], third] = plain(LCL.align(caption, tokens, patches));
  assert.ok(Math.abs(first - Math.SQRT1_2) < 1e-6 && Math.abs(second - Math.SQRT1_2) < 1e-6);
  assert.deepEqual(third.map(Math.round), [0, -1]);
});

test("embeddings come back from 16-bit integers", () => {
  const bytes = new Uint8Array(new Int16Array([32767, -32767, 0]).buffer);
  assert.deepEqual([...LCL.embeddings(btoa(String.fromCharCode(...bytes)))], [1, -1, 0]);
});

test("a browser that lacks something hears what", () => {
  assert.match(LCL.lacks(), /too old to unpack/); // this one has WebAssembly, and was not given the other
});
