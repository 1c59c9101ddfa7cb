// The trained model of the page on which one tries it: its tokenizer, how it takes pictures, and both towers. All is computed in the reader's browser.
"use strict";

/** @typedef {{pixels: Uint8ClampedArray | Uint8Array, width: number, height: number}} Picture four bytes a pixel, row by row */
/** @typedef {{ids: number[], words: string[], of: number[]}} Caption token ids; its words; the word of each token, or -1 */
/** @typedef {{row: number, cosine: number}} Found a row of the index */

LCL.tryout = { about: null, engine: null, sheets: [] };

const LETTER = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}"; // what \w means to the tokenizer
const PIECES = new RegExp(`[${LETTER}]+|[^${LETTER}\\p{White_Space}]+`, "gu");

/** How byte-level BPE writes each byte: as itself if it is a visible character, else as one above 255. */
const BYTES = (() => {
  let unseen = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    const seen = (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
    return String.fromCharCode(seen ? byte : unseen++);
  });
})();

/**
 * A function from a caption to what the text tower takes, as `lcl.models.tokenizer` does it.
 * @param {{model: {vocab: Record<string, number>, merges: [string, string][]}}} saved tokenizer.json
 * @param {number} length tokens at most; a longer caption keeps its end token
 * @returns {(caption: string) => Caption}
 */
LCL.tokenizer = (saved, length) => {
  const { vocab, merges } = saved.model, ranks = new Map(merges.map(([left, right], rank) => [`${left} ${right}`, rank]));
  /** @param {string} piece */
  const tokens = (piece) => {
    const parts = [...new TextEncoder().encode(piece)].map((byte) => BYTES[byte]);
    for (;;) {
      let best = Infinity, at = -1; // the merge that was learned first, of equal ones the leftmost
      for (let left = 0; left + 1 < parts.length; left++) {
        const rank = ranks.get(`${parts[left]} ${parts[left + 1]}`) ?? Infinity;
        if (rank < best) { best = rank; at = left; }
      }
      if (at < 0) return parts.map((part) => vocab[part]);
      parts.splice(at, 2, parts[at] + parts[at + 1]);
    }
  };
  return (caption) => {
    // eslint-disable-next-line no-control-regex
    const text = caption.replace(/[\x01-\x1f\x7f-\x9f]/g, " ").normalize("NFC"); // control characters separate words
    const lower = [...text].map((letter) => letter.toLowerCase()).join(""); // one by one: a sigma at a word's end stays σ
    const words = [], ids = [vocab["[BEGIN]"]], of = [-1];
    for (const [piece] of lower.matchAll(PIECES)) {
      const added = tokens(piece), isWord = /[\p{L}\p{N}]/u.test(piece);
      if (isWord && ids.length < length - 1) words.push(piece);
      ids.push(...added);
      of.push(...added.map(() => (isWord ? words.length - 1 : -1)));
    }
    return { ids: [...ids.slice(0, length - 1), vocab["[END]"]], of: [...of.slice(0, length - 1), -1], words };
  };
};

/**
 * The middle square of a picture as (3, size, size), with Pillow's bicubic filter, its order and its rounding.
 * @param {Picture} picture opaque @param {number} size in pixels
 */
LCL.square = ({ pixels, width, height }, size) => {
  const tall = height > width, side = Math.min(width, height), long = Math.max(width, height);
  /** The weights of the pixels from `first` on, for each pixel of the result. @param {number} length @returns {{first: number, weights: number[]}[]} */
  const filters = (length) => Array.from({ length: size }, (_, place) => {
    const scale = side / size, wide = Math.max(1, scale), centre = (length - side) / 2 + (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - 2 * wide + 0.5)), end = Math.min(length, Math.trunc(centre + 2 * wide + 0.5));
    const raw = Array.from({ length: end - first }, (_, at) => {
      const x = Math.abs(at + first - centre + 0.5) / wide; // Keys' cubic, a = -1/2
      return x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
    });
    const sum = raw.reduce((total, weight) => total + weight);
    return { first, weights: raw.map((weight) => Math.trunc((weight / sum) * 2 ** 22 + Math.sign(weight) / 2)) };
  });
  /** @param {{first: number, weights: number[]}} filter @param {(at: number) => number} value */
  const weighed = ({ first, weights }, value) => {
    let sum = 2 ** 21;
    for (let at = 0; at < weights.length; at++) sum += weights[at] * value(first + at);
    return Math.max(0, Math.min(255, Math.floor(sum / 2 ** 22)));
  };
  const along = filters(long), across = filters(side), lines = new Uint8Array(side * size), result = new Uint8Array(3 * size * size);
  const [next, step] = tall ? [4, 4 * width] : [4 * width, 4]; // bytes to the next line, and to the next pixel of the longer side
  for (let colour = 0; colour < 3; colour++) {
    for (let line = 0; line < side; line++) for (let place = 0; place < size; place++) {
      lines[line * size + place] = weighed(along[place], (at) => pixels[line * next + at * step + colour]);
    }
    for (let line = 0; line < size; line++) for (let place = 0; place < size; place++) {
      const [y, x] = tall ? [place, line] : [line, place];
      result[(colour * size + y) * size + x] = weighed(across[line], (at) => lines[at * size + place]);
    }
  }
  return result;
};

/** @param {string} base64 */
LCL.bytes = (base64) => {
  const text = atob(base64), bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
  return bytes;
};

/** Embeddings from 16-bit integers in base64. @param {string} base64 */
LCL.embeddings = (base64) => {
  const whole = new Int16Array(LCL.bytes(base64).buffer), found = new Float32Array(whole.length);
  for (let at = 0; at < whole.length; at++) found[at] = whole[at] / 32767;
  return found;
};

/**
 * The rows of an index that are nearest to a query; of equally near ones the first comes first.
 * @param {Float32Array} index (N, d) @param {Float32Array} query (d,) @param {number} most @returns {Found[]}
 */
LCL.nearest = (index, query, most) => {
  const found = Array.from({ length: index.length / query.length }, (_, row) => ({ row, cosine: LCL.cosine(index, row, query) }));
  return found.sort((a, b) => b.cosine - a.cosine || a.row - b.row).slice(0, most);
};

/** The product of a row and a query. @param {Float32Array} rows @param {number} row @param {Float32Array} query */
LCL.cosine = (rows, row, query) => {
  let sum = 0;
  for (let at = 0; at < query.length; at++) sum += query[at] * rows[row * query.length + at];
  return sum;
};

/**
 * The cosine of each word of a caption with each patch: (m, n). A word is the mean of its tokens.
 * @param {Caption} caption @param {Float32Array} tokens (L, d) @param {Float32Array} patches (n, d), L2-normalised
 * @returns {number[][]}
 */
LCL.align = (caption, tokens, patches) => {
  const width = tokens.length / caption.ids.length;
  return caption.words.map((_, number) => {
    const word = new Float32Array(width);
    caption.of.forEach((one, at) => { if (one === number) for (let place = 0; place < width; place++) word[place] += tokens[at * width + place]; });
    const norm = Math.hypot(...word) || 1;
    return Array.from({ length: patches.length / width }, (_, patch) => LCL.cosine(patches, patch, word) / norm);
  });
};

/** Why the towers cannot run in this browser; "" if they can. */
LCL.lacks = () => {
  if (typeof WebAssembly !== "object") return "This browser has no WebAssembly, so the model cannot run in it; the other pages need none.";
  if (typeof DecompressionStream !== "function") return "This browser is too old to unpack the model; the other pages do not need that.";
  return "";
};

/**
 * Start the runtime and open the text tower; the image tower is opened when it is first used. Each gives an embedding (d,), and tokens
 * or patches.
 * @param {any} ort ONNX Runtime Web
 * @returns {Promise<{image: (pixels: Uint8Array) => Promise<Float32Array[]>, text: (caption: Caption) => Promise<Float32Array[]>}>}
 */
LCL.openTowers = async (ort) => {
  const { about, engine } = LCL.tryout, { wasm } = ort.env;
  const packed = new Blob([LCL.bytes(engine.wasm)]).stream().pipeThrough(new DecompressionStream("gzip"));
  wasm.wasmBinary = await new Response(packed).arrayBuffer();
  wasm.wasmPaths = { mjs: URL.createObjectURL(new Blob([engine.mjs], { type: "text/javascript" })) };
  wasm.numThreads = 1; // more would need headers that a folder cannot send
  /** More optimisation takes longer than it saves. @param {string} base64 */
  const open = (base64) => ort.InferenceSession.create(LCL.bytes(base64), { graphOptimizationLevel: "basic" });
  /** @param {any} session @param {Record<string, any>} inputs */
  const run = async (session, inputs) => {
    const found = await session.run(inputs);
    return session.outputNames.map((/** @type {string} */ name) => found[name].data);
  };
  const text = await open(about.text);
  /** @type {any} */
  let image;
  return {
    image: async (pixels) => run((image ??= await open(about.image)), { images: new ort.Tensor("uint8", pixels, [1, 3, about.size, about.size]) }),
    text: ({ ids }) => run(text, {
      ids: new ort.Tensor("int64", BigInt64Array.from(ids, BigInt), [1, ids.length]),
      mask: new ort.Tensor("bool", new Uint8Array(ids.length).fill(1), [1, ids.length]),
    }),
  };
};
