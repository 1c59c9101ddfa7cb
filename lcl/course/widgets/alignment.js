// The alignment inspector: a caption above its scene; a word shows the patches that it is matched with, or its cosine with each.

export default exhibit("alignment", ({ data, body, say, guard }) => {
  const LARGE = 400, SHOW = ["matched patches", "cosine of every patch"], state = { scene: 0, checkpoint: 0, solver: 0, show: 0, word: 0 };
  const svg = h("svg", { viewBox: `0 0 ${LARGE} ${LARGE}`, width: LARGE, height: LARGE, role: "img" });
  const words = h("p", { class: "lcl-words", role: "group", "aria-label": "words of the caption" }), legend = h("div", { class: "lcl-legend" });
  const step = LARGE / data.rows, scale = LARGE / data.side;

  function shares(word) { return data.plans[state.checkpoint][state.solver][state.scene][word]; }

  function lit(word) { // what the image shows for a word
    const scene = data.scenes[state.scene], parts = [h("image", { href: scene.src, width: LARGE, height: LARGE, style: "image-rendering:pixelated" })];
    const line = (at) => ({ stroke: "white", "stroke-opacity": 0.55, "stroke-width": 1, ...at });
    if (state.show) cosines(word).forEach((cosine, patch) => {
      const [low, high] = limits(word), [r, g, b] = viridis((cosine - low) / (high - low || 1));
      parts.push(h("rect", { class: "lit", x: (patch % data.rows) * step, y: Math.floor(patch / data.rows) * step, width: step, height: step, fill: `rgb(${r},${g},${b})`, "fill-opacity": 0.7 }));
    });
    for (let at = 1; at < data.rows; at++) parts.push(h("line", line({ x1: at * step, x2: at * step, y1: 0, y2: LARGE })), h("line", line({ x1: 0, x2: LARGE, y1: at * step, y2: at * step })));
    if (!state.show) for (const [patch, share] of shares(word)) {
      const x = (patch % data.rows) * step, y = Math.floor(patch / data.rows) * step, colour = !scene.boxes[word].length ? COLOURS.yellow : hits(word, patch) ? COLOURS.green : COLOURS.red;
      parts.push(h("rect", { class: "lit", x, y, width: step, height: step, fill: colour, "fill-opacity": 0.45 * share, stroke: colour, "stroke-width": 4, "stroke-opacity": share }));
      if (share > 0.5 && scene.boxes[word].length) parts.push(h("text", { x: x + step / 2, y: y + step / 2 + 6, "text-anchor": "middle", "font-size": 18, "font-weight": "bold", fill: "white", stroke: "black", "stroke-width": 0.6 }, hits(word, patch) ? "✓" : "✗"));
    }
    for (const [left, top, right, bottom] of scene.boxes[word]) {
      parts.push(h("rect", { class: "box", x: left * scale, y: top * scale, width: (right - left) * scale, height: (bottom - top) * scale, fill: "none", stroke: COLOURS.blue, "stroke-width": 2, "stroke-dasharray": "6 4" }));
    }
    svg.replaceChildren(...parts);
  }

  function cosines(word) { return data.cosines[state.checkpoint][state.scene][word].map((hundredths) => hundredths / 100); }

  function limits(word) { const all = cosines(word); return [Math.min(...all), Math.max(...all)]; }

  function hits(word, patch) { // is the middle of the patch in a box of what the word names?
    const size = data.side / data.rows, x = ((patch % data.rows) + 0.5) * size, y = (Math.floor(patch / data.rows) + 0.5) * size;
    return data.scenes[state.scene].boxes[word].some(([left, top, right, bottom]) => left <= x && x < right && top <= y && y < bottom);
  }

  function tell(word) {
    if (state.show) {
      const all = cosines(word), [low, high] = limits(word), best = all.indexOf(high);
      return say(`“${data.scenes[state.scene].words[word]}”: its cosines with the patches go from ${low.toFixed(2)} to ${high.toFixed(2)}; the highest is that of patch ${best} (row ${Math.floor(best / data.rows) + 1}, column ${(best % data.rows) + 1}).`);
    }
    const scene = data.scenes[state.scene], found = shares(word), binned = data.binned[state.checkpoint][state.solver][state.scene][word];
    const parts = found.map(([patch, share]) => `patch ${patch} (row ${Math.floor(patch / data.rows) + 1}, column ${(patch % data.rows) + 1}): ${percent(share)}`);
    if (binned > 0.02) parts.push(`unmatched: ${percent(binned)}`);
    if (!parts.length) parts.push("spread thinly over many patches");
    const [best, share] = found.reduce((most, one) => (one[1] > most[1] ? one : most), [-1, 0]); // the verdict is about the largest share
    const verdict = scene.boxes[word].length === 0 ? "names no object" : binned > share ? "unmatched" : hits(word, best) ? "in the box of its object" : "outside the box of its object";
    say(`“${scene.words[word]}” → ${parts.join(", ")}; ${verdict}.`);
  }

  const show = guard((word) => {
    state.word = word;
    lit(word);
    words.querySelectorAll("button").forEach((button, number) => button.setAttribute("aria-pressed", number === word));
    tell(word);
  });

  const draw = guard(() => {
    const scene = data.scenes[state.scene];
    svg.setAttribute("aria-label", `the scene of “${scene.caption}”`);
    const between = gaps(scene.caption, scene.words);
    words.replaceChildren(...scene.words.flatMap((word, number) => [between[number], h("button", { class: scene.boxes[number].length ? "names" : "", onmouseenter: () => show(number), onfocus: () => show(number), onclick: () => show(number), "aria-pressed": false }, word)]), between[scene.words.length]);
    legend.replaceChildren(...(state.show ? [h("span", { class: "lcl-scale" }, "lowest cosine", h("i"), "highest")] : [legendEntry("right patch", COLOURS.green), legendEntry("wrong patch", COLOURS.red), legendEntry("the word names no object", COLOURS.yellow)]), legendEntry("box of the object", COLOURS.blue, "dashed"));
    show(state.word);
  });
  const naming = () => Math.max(0, data.scenes[state.scene].boxes.findIndex((boxes) => boxes.length)); // begin with a word that names an object

  const chosen = (name) => (value) => { state[name] = value; if (name === "scene") state.word = naming(); draw(); };
  body.append(
    h("div", { class: "lcl-controls" },
      range("scene", 0, data.scenes.length - 1, 1, 0, chosen("scene")),
      picker("checkpoint", data.checkpoints, chosen("checkpoint")), picker("solver", data.solvers, chosen("solver")), picker("show", SHOW, chosen("show"))),
    words, svg, legend);
  state.word = naming();
  draw();
});
