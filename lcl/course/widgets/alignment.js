// The alignment inspector: a scene and its words; a word highlights the patches that it is matched with.

export default exhibit("alignment", ({ data, body, say, guard }) => {
  const LARGE = 320, state = { scene: 0, checkpoint: 0, solver: 0, word: null };
  const svg = h("svg", { viewBox: `0 0 ${LARGE} ${LARGE}`, width: LARGE, height: LARGE, role: "img" });
  const words = h("div", { class: "lcl-words", role: "list", "aria-label": "words of the caption" });
  const step = LARGE / data.rows, scale = LARGE / data.side;

  function shares(word) { return data.plans[state.checkpoint][state.solver][state.scene][word]; }

  function lit(word) { // what the image shows for a word
    const scene = data.scenes[state.scene], parts = [h("image", { href: scene.src, width: LARGE, height: LARGE, style: "image-rendering:pixelated" })];
    if (word === null) return svg.replaceChildren(...parts);
    for (const [patch, share] of shares(word)) {
      const x = (patch % data.rows) * step, y = Math.floor(patch / data.rows) * step;
      parts.push(h("rect", { class: "lit", x, y, width: step, height: step, fill: COLOURS.yellow, "fill-opacity": 0.75 * share, stroke: COLOURS.red, "stroke-width": 3, "stroke-opacity": share }));
    }
    for (const [left, top, right, bottom] of scene.boxes[word]) {
      parts.push(h("rect", { class: "box", x: left * scale, y: top * scale, width: (right - left) * scale, height: (bottom - top) * scale, fill: "none", stroke: COLOURS.blue, "stroke-width": 2, "stroke-dasharray": "6 4" }));
    }
    svg.replaceChildren(...parts);
  }

  function tell(word) {
    const scene = data.scenes[state.scene], found = shares(word), binned = data.binned[state.checkpoint][state.solver][state.scene][word];
    const parts = found.map(([patch, share]) => `patch ${patch} (row ${Math.floor(patch / data.rows) + 1}, column ${(patch % data.rows) + 1}): ${percent(share)}`);
    if (binned > 0.02) parts.push(`dustbin: ${percent(binned)}`);
    if (!parts.length) parts.push("spread thinly over many patches");
    const [best, share] = found.reduce((most, one) => (one[1] > most[1] ? one : most), [-1, 0]); // the verdict is about the largest share
    const size = data.side / data.rows, x = ((best % data.rows) + 0.5) * size, y = (Math.floor(best / data.rows) + 0.5) * size;
    const inside = scene.boxes[word].some(([left, top, right, bottom]) => left <= x && x < right && top <= y && y < bottom);
    const verdict = scene.boxes[word].length === 0 ? "names no object" : binned > share ? "unmatched" : inside ? "in the box of its object" : "outside the box of its object";
    say(`“${scene.words[word]}” → ${parts.join(", ")}; ${verdict}.`);
  }

  const show = guard((word) => {
    state.word = word;
    lit(word);
    [...words.children].forEach((item, number) => item.firstChild.setAttribute("aria-pressed", number === word));
    if (word !== null) tell(word); else say("Point at a word, or tab to it.");
  });

  const draw = guard(() => {
    const scene = data.scenes[state.scene];
    svg.setAttribute("aria-label", `the scene of “${scene.caption}”`);
    words.replaceChildren(...scene.words.map((word, number) => h("div", { role: "listitem" }, h("button", { onmouseenter: () => show(number), onfocus: () => show(number), onclick: () => show(number), "aria-pressed": false }, word))));
    show(state.word !== null && state.word < scene.words.length ? state.word : null);
  });

  const chosen = (name) => (value) => { state[name] = value; if (name === "scene") state.word = null; draw(); };
  body.append(
    h("div", { class: "lcl-controls" },
      range("scene", 0, data.scenes.length - 1, 1, 0, chosen("scene")),
      picker("checkpoint", data.checkpoints, chosen("checkpoint")), picker("solver", data.solvers, chosen("solver"))),
    h("div", { class: "lcl-row" }, svg, words));
  draw();
});
