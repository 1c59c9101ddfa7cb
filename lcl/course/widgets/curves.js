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

export default exhibit("curves", ({ body, say, guard, model }) => {
  const W = 395, H = 230, LEFT = 48, BOTTOM = 30, TOP = 24, RIGHT = 8, LEGEND = 110;
  const state = { smooth: 0, log: false, at: null };
  const panels = ["loss", "recall@1"].map((name) => h("svg", { viewBox: `0 0 ${W} ${H}`, width: W, height: H, tabindex: 0, role: "application", "aria-label": `${name} by step; arrow keys read the values` }));

  function plot(svg, title, lines, low, high, last, log, unit, dashed) {
    const x = (step) => LEFT + (W - LEFT - RIGHT) * step / Math.max(1, last), f = log ? Math.log : (value) => value;
    const y = (value) => H - BOTTOM - (H - BOTTOM - TOP) * (f(Math.max(value, low)) - f(low)) / (f(high) - f(low) || 1), parts = [];
    for (const tick of ticks(low, high, log)) parts.push(h("line", { x1: LEFT, x2: W - RIGHT, y1: y(tick), y2: y(tick), stroke: "currentColor", "stroke-opacity": 0.12 }), h("text", { x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end", "font-size": 11, fill: "currentColor" }, String(Number(tick.toPrecision(3)))));
    for (const tick of ticks(0, last, false)) parts.push(h("text", { x: x(tick), y: H - BOTTOM + 16, "text-anchor": "middle", "font-size": 11, fill: "currentColor" }, String(tick)));
    parts.push(h("text", { x: W - RIGHT, y: H - 2, "text-anchor": "end", "font-size": 11, fill: "currentColor" }, "step"), h("text", { x: 2, y: TOP + 2, "font-size": 11, fill: "currentColor", transform: `rotate(-90 10 ${TOP + 2})`, "text-anchor": "end" }, unit), h("text", { x: LEFT, y: 13, "font-size": 12, "font-weight": "bold", fill: "currentColor" }, title));
    if (dashed) parts.push(h("line", { x1: LEFT, x2: W - RIGHT, y1: y(dashed.value), y2: y(dashed.value), stroke: COLOURS.grey, "stroke-dasharray": "5 4" }), h("text", { x: W - RIGHT, y: y(dashed.value) + 13, "text-anchor": "end", "font-size": 11, fill: COLOURS.grey }, dashed.name));
    lines.forEach((each, number) => {
      const { name, steps, values, marks } = each, colour = CYCLE[number % CYCLE.length];
      parts.push(h("polyline", { points: points(each, x, y), fill: "none", stroke: colour, "stroke-width": 1.6 }));
      if (marks) steps.forEach((step, at) => parts.push(h("circle", { cx: x(step), cy: y(values[at]), r: 3, fill: colour })));
      const line = H - BOTTOM - 12 - 14 * number, left = dashed ? LEFT + 8 : W - RIGHT - LEGEND; // a loss falls, a recall rises
      parts.push(h("line", { x1: left, x2: left + 16, y1: line, y2: line, stroke: colour, "stroke-width": 3 }), h("text", { x: left + 21, y: line + 4, "font-size": 11, fill: "currentColor" }, name));
    });
    if (state.at !== null) parts.push(h("line", { x1: x(state.at), x2: x(state.at), y1: TOP, y2: H - BOTTOM, stroke: COLOURS.red }));
    svg.replaceChildren(...parts);
  }

  const draw = guard(() => {
    const data = model.get("data"), names = Object.keys(data.losses), last = Math.max(data.total, 1);
    pace.textContent = data.pace;
    if (!data.steps.length) return say(data.message);
    const lines = lossLines(data, state.smooth), all = lines.flatMap(({ values }) => values), high = Math.max(...all, data.chance), low = state.log ? Math.max(1e-3, Math.min(...all)) : 0;
    plot(panels[0], "loss", lines, low, high, last, state.log, "nats", { value: data.chance, name: data.chance_name });
    plot(panels[1], "recall@1, validation pairs", recallLines(data), 0, 100, last, false, "percent");
    const done = data.steps.at(-1), at = state.at ?? done, nearest = data.steps.reduce((best, step, number) => (Math.abs(step - at) < Math.abs(data.steps[best] - at) ? number : best), 0);
    const parts = names.map((name) => `${name} ${data.losses[name][nearest].toFixed(3)}`), latest = data.validations.filter(([step]) => step <= at).at(-1);
    if (latest) parts.push(`validation recall@1 ${percent(latest[2])} and ${percent(latest[3])} at step ${latest[0]}`);
    const news = `${data.message} ${data.validations.length} ${state.at}`; // while it trains, speak only at validation steps
    if (news === state.told && data.message === "Training.") return;
    state.told = news;
    say(`${data.message} Step ${data.steps[nearest]} of ${data.total}: ${parts.join(", ")}.`);
  });

  panels.forEach((svg) => {
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
  });
  const pace = h("div", { "aria-hidden": "true" }); // shown at every update; spoken only at validation steps
  const log = h("input", { type: "checkbox", onchange: () => { state.log = log.checked; draw(); } });
  body.append(
    h("div", { class: "lcl-controls" }, range("smoothing", 0, 0.98, 0.02, 0, (value) => { state.smooth = value; draw(); }, (value) => value.toFixed(2)), h("label", { class: "lcl-control" }, log, "logarithmic loss")),
    h("div", { class: "lcl-row" }, panels), pace);
  model.on("change:data", draw);
  draw();
  return () => model.off("change:data", draw);
});
