// The page on which one tries a model: a caption finds scenes, a picture finds captions, and the words of a caption find patches of a picture.
"use strict";

(() => {
  const { tryout } = LCL, SHOWN = 8, CAPTIONS = 5;
  const MOST_BYTES = 32 * 2 ** 20, SMALLEST = 8, LONGEST = 16; // of a picture's file; pixels of a side; times the other side
  const WIDEST = 1024; // pixels of the shorter side, beyond which the browser scales a picture down before we do
  /** @param {string} id @returns {any} */
  const part = (id) => document.getElementById(`try-${id}`);
  /** @type {any} */
  let towers = null;
  /** @type {Float32Array} */
  let v;
  /** @type {Float32Array} */
  let t;
  /** @type {(caption: string) => any} */
  let encode;
  /** @type {Set<string>} */
  let known;
  /** @type {{caption: any, tokens: Float32Array} | null} */
  let asked = null; // the caption whose words are shown
  /** @type {{pixels: Uint8Array, patches: Float32Array} | null} */
  let picture = null; // the picture on which they are shown
  /** @type {Promise<any>} */
  let last = Promise.resolve(); // one search after the other, and none before the towers are open

  /** Words from outside in a sentence: what reorders a line is left out. @param {string} text */
  const inOrder = (text) => text.replace(/[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "");

  /** @param {string} tag @param {Record<string, any>} values @param {...(string | Node)} children @returns {any} */
  function make(tag, values = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(values)) {
      if (typeof value === "function") element.addEventListener(name, value);
      else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  /** A search, whose failure is told in a sentence. @param {(...given: any[]) => any} work @returns {(...given: any[]) => void} */
  const queued = (work) => (...given) => {
    last = last.then(async () => {
      if (!towers) return;
      part("problem").textContent = "";
      await work(...given);
    }).catch((error) => { part("problem").textContent = error.message; });
  };

  /** @type {Record<number, Promise<HTMLImageElement>>} */
  const sheets = {};
  /** A scene, drawn anew. @param {number} row */
  async function drawn(row) {
    const number = Math.floor(row / tryout.about.sheet), place = row % tryout.about.sheet, { size, columns } = tryout.about;
    const sheet = await (sheets[number] ??= (async () => {
      await load(`assets/try/sheet-${number}.js`);
      const image = new Image();
      image.src = tryout.sheets[number];
      await image.decode();
      return image;
    })());
    const canvas = make("canvas", { width: size, height: size, role: "img", "aria-label": tryout.about.captions[row] });
    canvas.getContext("2d", { willReadFrequently: true }).drawImage(sheet, (place % columns) * size, Math.floor(place / columns) * size, size, size, 0, 0, size, size);
    return canvas;
  }

  /** What the image tower takes, of a canvas. @param {HTMLCanvasElement} canvas */
  function pixelsOf(canvas) {
    const { width, height } = canvas, { data } = /** @type {any} */ (canvas.getContext("2d")).getImageData(0, 0, width, height);
    return LCL.square({ pixels: data, width, height }, tryout.about.size);
  }

  /** A picture's file on a canvas. @param {File} file */
  async function opened(file) {
    const name = inOrder(file.name), must = "choose a JPEG, PNG or WebP file";
    if (file.size > MOST_BYTES) throw new Error(`${name} is larger than ${MOST_BYTES / 2 ** 20} MiB; ${must} that is smaller.`);
    const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" }).catch(() => null);
    if (!bitmap) throw new Error(`${name} is no picture that this browser can read; ${must}.`);
    const { width, height } = bitmap, side = Math.min(width, height);
    if (side < SMALLEST) throw new Error(`${name} is only ${width} × ${height} pixels large; ${must} of ${SMALLEST} pixels or more a side.`);
    if (Math.max(width, height) > LONGEST * side) throw new Error(`${name} is too long and thin; ${must} that is nearer to a square.`);
    const scale = Math.min(1, WIDEST / side), canvas = make("canvas", { width: Math.round(width * scale), height: Math.round(height * scale) });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    Object.assign(context, { fillStyle: "white", imageSmoothingQuality: "high" });
    context.fillRect(0, 0, canvas.width, canvas.height); // behind what is transparent
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    bitmap.close();
    return canvas;
  }

  /** @param {string} text */
  async function read(text) {
    const caption = encode(text), [embedding, tokens] = await towers.text(caption);
    return { caption, embedding, tokens };
  }

  const searchByWords = queued(async () => {
    const text = part("words").value;
    if (!text.trim()) throw new Error("Type a caption of one word or more.");
    if (/\0|\p{Surrogate}/u.test(text)) throw new Error("This caption holds a character that is no text; remove it.");
    const found = await read(text), nearest = /** @type {Found[]} */ (LCL.nearest(v, found.embedding, SHOWN));
    const canvases = await Promise.all(nearest.map(({ row }) => drawn(row)));
    part("scenes").replaceChildren(...nearest.map(({ row, cosine }, at) => make("li", {},
      make("button", { click: () => choose(row), "aria-label": `Choose the scene of “${tryout.about.captions[row]}”` }, canvases[at]), make("span", { class: "small" }, cosine.toFixed(2)))));
    const unread = [...new Set(found.caption.words)].filter((word) => !known.has(word)).slice(0, 5).map((word) => `“${inOrder(word).slice(0, 40)}”`).join(", ");
    const every = found.caption.words.every((/** @type {string} */ word) => !known.has(word));
    if (every) part("problem").textContent = `The model has read ${unread ? `none of these words before (${unread})` : "no word here"}, so the scenes below are no answer.`;
    else if (unread) part("problem").textContent = `The model has never read ${unread}, so the scenes may not show it.`;
    part("status").textContent = `The ${SHOWN} nearest of ${tryout.about.captions.length.toLocaleString("en")} scenes; the first shows “${tryout.about.captions[nearest[0].row]}”, with a cosine of ${nearest[0].cosine.toFixed(2)}.`;
    part("scenes-of").textContent = `Query: “${inOrder([...text.trim()].slice(0, 200).join(""))}”.`; // stays true when a picture is chosen later
    part("page").dataset.first ??= String(Math.round(performance.now())); // milliseconds until the first answer
    asked = found;
    await look(canvases[0]);
    align();
  });

  /** Let the image tower look at a canvas; returns its embedding. @param {HTMLCanvasElement} canvas */
  async function look(canvas) {
    const pixels = pixelsOf(canvas), [embedding, patches] = await towers.image(pixels);
    picture = { pixels, patches };
    return embedding;
  }

  /** Find captions of a picture. @param {HTMLCanvasElement} canvas @param {string} name */
  async function searchByPicture(canvas, name) {
    const embedding = await look(canvas), { captions } = tryout.about, seen = new Set();
    const every = /** @type {Found[]} */ (LCL.nearest(t, embedding, captions.length));
    const nearest = every.filter(({ row }) => !seen.has(captions[row]) && seen.add(captions[row])).slice(0, CAPTIONS); // scenes may share a caption
    part("captions").replaceChildren(...nearest.map(({ row, cosine }) => make("li", {},
      make("button", { click: () => show(captions[row]) }, captions[row]), make("span", { class: "small" }, ` ${cosine.toFixed(2)}`))));
    part("status").textContent = `${inOrder(name)}: the nearest caption is “${captions[nearest[0].row]}”, with a cosine of ${nearest[0].cosine.toFixed(2)}.`;
    part("captions-of").textContent = `Query: ${inOrder([...name].slice(0, 200).join(""))}.`;
    return captions[nearest[0].row];
  }

  const add = queued(async (/** @type {File} */ file) => {
    const nearest = await searchByPicture(await opened(file), file.name);
    asked = await read(nearest);
    align();
  });

  const choose = queued(async (/** @type {number} */ row) => { // a scene that was found
    await searchByPicture(await drawn(row), "The chosen scene");
    align();
  });

  const show = queued(async (/** @type {string} */ text) => { // a caption that was found
    asked = await read(text);
    align();
  });

  /** Show the words of the caption, and the picture's patches for the word that fits best; not for one such as “and” or “two”. */
  function align() {
    if (!asked || !picture) return;
    const cosines = /** @type {number[][]} */ (LCL.align(asked.caption, asked.tokens, picture.patches)), { size } = tryout.about, { pixels } = picture;
    const side = Math.sqrt(picture.patches.length / (asked.tokens.length / asked.caption.ids.length)), image = new ImageData(size, size);
    for (let at = 0; at < size * size; at++) image.data.set([pixels[at], pixels[size * size + at], pixels[2 * size * size + at], 255], 4 * at);
    part("picture").getContext("2d").putImageData(image, 0, 0);
    part("both").hidden = false;
    const veils = Array.from({ length: side * side }, () => make("i"));
    part("patches").style.gridTemplateColumns = `repeat(${side}, 1fr)`;
    part("patches").replaceChildren(...veils);
    /** @param {number} word */
    const light = (word) => {
      const low = Math.min(...cosines[word]), high = Math.max(...cosines[word]), best = cosines[word].indexOf(high);
      veils.forEach((veil, patch) => {
        veil.style.opacity = String(0.85 * (1 - (cosines[word][patch] - low) / (high - low || 1)));
        veil.className = patch === best ? "best" : "";
      });
      buttons.forEach((button, number) => button.setAttribute("aria-pressed", String(number === word)));
      part("word").textContent = `“${inOrder(names[word])}”: the cosine is highest, ${high.toFixed(2)}, in row ${Math.floor(best / side) + 1}, column ${(best % side) + 1}; the lowest is ${low.toFixed(2)}.`;
    };
    /** @type {string[]} */
    const names = asked.caption.words, buttons = names.map((name, word) => make("button", { click: () => light(word), focus: () => light(word), mouseenter: () => light(word) }, name));
    part("sentence").replaceChildren(...buttons);
    part("word").textContent = "";
    const peaks = cosines.map((row, word) => (/^(an?|and|four|of|on|the|three|to|two|with)$/i.test(names[word]) ? -2 : Math.max(...row)));
    if (names.length) light(peaks.indexOf(Math.max(...peaks)));
  }

  async function open() {
    const lacks = LCL.lacks();
    if (lacks) throw new Error(lacks);
    await Promise.all(["about", "engine", "runtime"].map((name) => load(`assets/try/${name}.js`)));
    const { about } = tryout;
    [v, t, encode, known] = [LCL.embeddings(about.v), LCL.embeddings(about.t), LCL.tokenizer(about.tokenizer, about.length), new Set(about.known)];
    for (const name of ["width", "height"]) part("picture").setAttribute(name, about.size);
    towers = await LCL.openTowers(/** @type {any} */ (globalThis).ort);
    tryout.model = { // for tests, and for the browser's console
      index: v,
      text: async (/** @type {string} */ text) => (await read(text)).embedding,
      picture: async (/** @type {File} */ file) => (await towers.image(pixelsOf(await opened(file))))[0],
    };
  }

  tryout.settled = () => last;
  document.addEventListener("DOMContentLoaded", () => {
    part("search").addEventListener("click", searchByWords);
    part("words").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => { if (event.key === "Enter") searchByWords(); });
    part("file").addEventListener("change", () => { if (part("file").files.length) add(part("file").files[0]); part("file").value = ""; });
    document.addEventListener("dragover", (event) => { if (event.dataTransfer?.types.includes("Files")) event.preventDefault(); });
    document.addEventListener("drop", (event) => {
      const file = event.dataTransfer?.files[0];
      if (file) { event.preventDefault(); add(file); }
    });
    part("status").textContent = "Loading the model: some 9 megabytes, once …";
    last = open().catch((error) => {
      part("status").textContent = "The model is not running.";
      part("problem").textContent = LCL.lacks() || `The model could not be started (${error.message}); the other pages do not need it.`;
    });
    searchByWords(); // the example
  });
})();
