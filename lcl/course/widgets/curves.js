// Live curves: a training's losses and recall by step, while it runs; smoothing, logarithm and reading values work without the kernel.

function smoothed(values, weight) { // exponential mean
  let mean = values[0];
  return values.map((value) => (mean = weight * mean + (1 - weight) * value));
}

function ticks(low, high, log) {
  if (log) { const found = []; for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) for (const lead of [1, 2, 5]) { const tick = lead * 10 ** power; if (tick >= low && tick <= high) found.push(tick); } return found; }
  const rough = (high - low) / 5 || 1, size = 10 ** Math.floor(Math.log10(rough)), step = [1, 2, 5, 10].find((lead) => lead * size >= rough) * size, found = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + 1e-9; tick += step) found.push(tick);
  return found;
}

function lossLines(data, weight) { // a line for each part of the loss, smoothed, and one for the validation loss
  const lines = Object.keys(data.losses).map((name) => ({ name, steps: data.steps, values: smoothed(data.losses[name], weight) }));
  const validation = { name: "validation", steps: data.validations.map(([step]) => step), values: data.validations.map(([, loss]) => loss), marks: true };
  return data.validations.length ? [...lines, validation] : lines;
}

function recallLines(data) { // in percent
  const steps = data.validations.map(([step]) => step);
  const lines = ["image to text", "text to image"].map((name, number) => ({ name, steps, values: data.validations.map((one) => 100 * one[2 + number]), marks: true }));
  return data.validations.length ? lines : [];
}

function points(line, x, y) { // of a polyline
  return line.steps.map((step, at) => `${x(step)},${y(line.values[at])}`).join(" ");
}

function panelsOf(data, weight) { // what each panel shows: a part of the loss and its chance level, or recall
  const lines = lossLines(data, weight), validation = lines.find(({ name }) => name === "validation"), names = Object.keys(data.losses);
  const home = names.includes("info_nce") ? "info_nce" : names[0]; // validation measures InfoNCE
  const losses = names.map((name) => ({ title: name, unit: "nats", chance: data.chances[name], lines: lines.filter((line) => line.name === name || (line === validation && name === home)) }));
  return [...losses, { title: "recall@1, validation pairs", unit: "percent", lines: recallLines(data) }];
}

export default exhibit("curves", ({ body, say, guard, model }) => {
  const W = 320, H = 220, LEFT = 44, BOTTOM = 30, TOP = 24, RIGHT = 12;
  const state = { smooth: 0, log: false, at: null }, row = h("div", { class: "lcl-row" }), svgs = [];

  function panel(number) { // the drawing of a panel, made when it is first needed
    if (svgs[number]) return svgs[number];
    const svg = h("svg", { viewBox: `0 0 ${W} ${H}`, width: W, height: H, tabindex: 0, role: "application" });
    listen(svg);
    svgs[number] = svg;
    row.append(svg);
    return svg;
  }

  function plot(svg, { title, unit, chance, lines }, last) {
    const recall = chance === undefined && unit === "percent", log = state.log && !recall, all = lines.flatMap(({ values }) => values);
    const high = recall ? 100 : Math.max(...all, chance ?? 0, 1e-9), low = log ? Math.max(1e-3, Math.min(...all)) : 0;
    const x = (step) => LEFT + (W - LEFT - RIGHT) * step / Math.max(1, last), f = log ? Math.log : (value) => value;
    const y = (value) => H - BOTTOM - (H - BOTTOM - TOP) * (f(Math.max(value, low)) - f(low)) / (f(high) - f(low) || 1), parts = [];
    svg.setAttribute("aria-label", `${title} by step; arrow keys read the values`);
    const marks = ticks(low, high, log);
    for (const tick of marks.length > 1 ? marks : [low, high]) parts.push(h("line", { x1: LEFT, x2: W - RIGHT, y1: y(tick), y2: y(tick), stroke: "currentColor", "stroke-opacity": 0.12 }), h("text", { x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end", "font-size": 12, fill: "currentColor" }, String(Number(tick.toPrecision(3)))));
    for (const tick of ticks(0, last, false)) parts.push(h("text", { x: Math.min(x(tick), W - RIGHT - 6), y: H - BOTTOM + 16, "text-anchor": "middle", "font-size": 12, fill: "currentColor" }, String(tick)));
    parts.push(h("text", { x: W - RIGHT, y: H - 2, "text-anchor": "end", "font-size": 12, fill: "currentColor" }, "step"), h("text", { x: LEFT, y: 14, "font-size": 13, "font-weight": "bold", fill: "currentColor" }, `${title} (${unit})`));
    if (chance !== undefined) parts.push(h("line", { x1: LEFT, x2: W - RIGHT, y1: y(chance), y2: y(chance), stroke: COLOURS.grey, "stroke-width": 1.5, "stroke-dasharray": "5 4" }));
    lines.forEach((each, number) => {
      const { steps, values, marks } = each, colour = [COLOURS.blue, COLOURS.orange][number];
      parts.push(h("polyline", { points: points(each, x, y), fill: "none", stroke: colour, "stroke-width": 1.8 }));
      if (marks) steps.forEach((step, at) => parts.push(number ? h("rect", { x: x(step) - 3, y: y(values[at]) - 3, width: 6, height: 6, fill: colour }) : h("circle", { cx: x(step), cy: y(values[at]), r: 3, fill: colour })));
    });
    if (state.at !== null) parts.push(h("line", { x1: x(state.at), x2: x(state.at), y1: TOP, y2: H - BOTTOM, stroke: COLOURS.red }));
    svg.replaceChildren(...parts);
  }

  const draw = guard(() => {
    const data = model.get("data"), names = Object.keys(data.losses), last = Math.max(data.total, 1);
    pace.textContent = data.pace;
    if (!data.steps.length) return say(data.message);
    panelsOf(data, state.smooth).forEach((each, number) => plot(panel(number), each, last));
    const done = data.steps.at(-1), at = state.at ?? done, nearest = data.steps.reduce((best, step, number) => (Math.abs(step - at) < Math.abs(data.steps[best] - at) ? number : best), 0);
    const parts = names.map((name) => `${name} ${data.losses[name][nearest].toFixed(3)}${name in data.chances ? ` (chance ${data.chances[name].toFixed(2)})` : ""}`), latest = data.validations.filter(([step]) => step <= at).at(-1);
    if (latest) parts.push(`validation recall@1 ${percent(latest[2])} and ${percent(latest[3])} at step ${latest[0]}`);
    const news = `${data.message} ${data.validations.length} ${state.at}`; // while it trains, speak only at validation steps
    if (news === state.told && data.message === "Training.") return;
    state.told = news;
    say(`${data.message} Step ${data.steps[nearest]} of ${data.total}: ${parts.join(", ")}.`);
  });

  function listen(svg) {
    const move = (step) => { const total = model.get("data").total; state.at = Math.max(1, Math.min(total, Math.round(step))); draw(); };
    svg.addEventListener("mousemove", (event) => { const box = svg.getBoundingClientRect(); move(((event.clientX - box.left) * W / box.width - LEFT) / (W - LEFT - RIGHT) * model.get("data").total); });
    svg.addEventListener("mouseleave", () => { state.at = null; draw(); });
    svg.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by || modified(event)) return;
      event.preventDefault();
      event.stopPropagation();
      const data = model.get("data");
      move((state.at ?? data.steps.at(-1) ?? 1) + by * Math.max(1, Math.round(data.total / 50)));
    });
  }
  const pace = h("div", { "aria-hidden": "true" }); // shown at every update; spoken only at validation steps
  const log = h("input", { type: "checkbox", onchange: () => { state.log = log.checked; draw(); } });
  body.append(
    h("div", { class: "lcl-controls" }, range("smoothing", 0, 0.98, 0.02, 0, (value) => { state.smooth = value; draw(); }, (value) => value.toFixed(2)), h("label", { class: "lcl-control" }, log, "logarithmic loss")),
    row, h("div", { class: "lcl-legend" }, legendEntry("training; image to text", COLOURS.blue), legendEntry("validation; text to image", COLOURS.orange), legendEntry("chance level", COLOURS.grey, "dashed")), pace);
  model.on("change:data", draw);
  draw();
  return () => model.off("change:data", draw);
});
