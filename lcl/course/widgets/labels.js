// The label scrubber: the targets of a batch at every saved step, computed here from its cosines.

function targets(cosines, alpha, temperature) { // LightCLIP's softened labels, our reading: (1 - α)[i = j] + α softmax over the others of s / T
  return cosines.map((row, i) => {
    const top = Math.max(...row.filter((_, j) => j !== i)), weights = row.map((s, j) => (j === i ? 0 : Math.exp((s - top) / temperature)));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return weights.map((weight, j) => (j === i ? 1 - alpha : alpha * weight / total));
  });
}

function small(label) { // in words where digits would say nothing
  return label > 0 && label < 0.001 ? "under 0.001" : label.toFixed(3);
}

export default exhibit("labels", ({ data, body, say, guard }) => {
  const N = data.captions.length, SIZE = 336, cell = SIZE / N, LOW = Math.log(1e-3);
  const state = { at: data.steps.length - 1, own: true, alpha: 0, temperature: data.temperature, row: 0, column: Math.min(1, N - 1) };
  const canvas = (label) => h("canvas", { width: SIZE, height: SIZE, tabindex: 0, role: "application", "aria-label": label });
  const labels = canvas("labels of the batch; arrow keys move from cell to cell"), truth = canvas("objects that the scenes share; arrow keys move from cell to cell");
  const detail = h("div", { class: "lcl-row" });

  function alphaNow() { return state.own ? data.alphas[state.at] : state.alpha; }

  function paint(target, colour) {
    const context = target.getContext("2d");
    for (let i = 0; i < N; i++) for (let j = 0; j < N; j++) {
      context.fillStyle = `rgb(${colour(i, j).join(",")})`;
      context.fillRect(j * cell, i * cell, cell + 0.5, cell + 0.5);
    }
    context.strokeStyle = COLOURS.red;
    context.lineWidth = 3;
    context.strokeRect(state.column * cell + 1, state.row * cell + 1, cell - 2, cell - 2);
  }

  const draw = guard(() => {
    const y = targets(data.cosines[state.at], alphaNow(), state.temperature), most = Math.max(1, ...data.shared.flat()), { row: i, column: j } = state;
    paint(labels, (a, b) => viridis((Math.log(Math.max(y[a][b], 1e-3)) - LOW) / -LOW));
    paint(truth, (a, b) => viridis(data.shared[a][b] / most));
    let landed = 0, given = 0;
    y.forEach((row, a) => row.forEach((label, b) => { if (a !== b) { given += label; landed += data.shared[a][b] ? label : 0; } }));
    detail.replaceChildren(
      h("figure", {}, thumbnail(data.atlas, i, 96, data.captions[i]), h("figcaption", {}, `image ${i}`)),
      h("figure", {}, thumbnail(data.atlas, j, 96, data.captions[j]), h("figcaption", {}, `caption ${j}: “${data.captions[j]}”`)));
    const kin = data.shared[i][j], whose = i === j ? "its own caption" : kin ? `of a scene that shares ${kin} object${kin > 1 ? "s" : ""} with it` : "of a scene that shares no object with it";
    const right = given > 0 ? ` ${percent(landed / given)} of the negatives' share falls on scenes that share an object.` : "";
    say(`Step ${data.steps[state.at]}, α ${alphaNow().toFixed(3)}, T ${state.temperature.toFixed(2)}: image ${i} has the label ${small(y[i][j])} for caption ${j}, ${whose}.${right}`);
  });

  for (const target of [labels, truth]) {
    target.addEventListener("mousemove", (event) => {
      const place = (at) => Math.max(0, Math.min(N - 1, Math.floor(at / cell))), box = target.getBoundingClientRect();
      [state.row, state.column] = [place((event.clientY - box.top) * SIZE / box.height), place((event.clientX - box.left) * SIZE / box.width)];
      draw();
    });
    target.addEventListener("keydown", (event) => {
      const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -state.column], End: [0, N - 1 - state.column] }[event.key];
      if (!move || modified(event)) return;
      event.preventDefault();
      event.stopPropagation();
      [state.row, state.column] = [(state.row + move[0] + N) % N, (state.column + move[1] + N) % N];
      draw();
    });
  }

  const alpha = range("α", 0, 1, 0.01, data.alphas[state.at], (value) => { state.own = false; schedule.checked = false; state.alpha = value; draw(); }, (value) => value.toFixed(2));
  const schedule = h("input", { type: "checkbox", checked: true, onchange: () => { state.own = schedule.checked; state.alpha = alphaNow(); alpha.set(alphaNow()); draw(); } });
  body.append(
    h("div", { class: "lcl-controls" },
      range("step", 0, data.steps.length - 1, 1, state.at, (value) => { state.at = value; if (state.own) alpha.set(alphaNow()); draw(); }, (value) => String(data.steps[value])),
      h("label", { class: "lcl-control" }, schedule, "α of the recipe at this step"), alpha,
      range("T", 0.01, 1, 0.01, data.temperature, (value) => { state.temperature = value; draw(); }, (value) => value.toFixed(2))),
    h("div", { class: "lcl-row" },
      h("div", {}, h("div", {}, "labels: images down, captions across"), labels, h("div", { class: "lcl-scale" }, "0.001 or less", h("i"), "1")),
      h("div", {}, h("div", {}, "shared objects: images down, captions across"), truth, h("div", { class: "lcl-scale" }, "none", h("i"), "most")), detail));
  draw();
});
