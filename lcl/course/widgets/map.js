// The embedding map: thousands of points; hover or arrow keys show one, a lasso or Enter gathers them into a gallery.

function inside(x, y, polygon) {
  let within = false;
  for (let a = 0, b = polygon.length - 1; a < polygon.length; b = a++) {
    const [xa, ya] = polygon[a], [xb, yb] = polygon[b];
    if (ya > y !== yb > y && x < (xb - xa) * (y - ya) / (yb - ya) + xa) within = !within;
  }
  return within;
}

export default exhibit("map", ({ data, body, say, guard, model }) => {
  const W = 620, H = 460, MARGIN = 12, N = data.captions.length, MOST = 60;
  const state = { way: 0, colour: 0, at: null, chosen: [], zoom: 1, centre: [0.5, 0.5], drag: null };
  const plane = h("div", { class: "lcl-plane", style: `aspect-ratio:${W}/${H}` });
  const points = h("canvas", { width: W, height: H, "aria-hidden": true });
  const over = h("canvas", { width: W, height: H, tabindex: 0, role: "application", "aria-label": "map of embeddings. Arrow keys go to the next point that way, Enter gathers it and its nearest, plus and minus zoom, Escape empties the gallery" });
  const card = h("div", { class: "lcl-card", hidden: true, "aria-hidden": true }), gallery = h("div", { class: "lcl-gallery", role: "list", "aria-label": "gathered points" }), legend = h("div", { class: "lcl-legend" });
  plane.append(points, over, card);

  function place(number) { // → pixels
    const [x, y] = data.coordinates[state.way].points[number];
    return [W / 2 + ((x - state.centre[0]) * (W - 2 * MARGIN)) * state.zoom, H / 2 + ((y - state.centre[1]) * (H - 2 * MARGIN)) * state.zoom];
  }

  function paint() {
    const context = points.getContext("2d"), scheme = data.colours[state.colour];
    context.clearRect(0, 0, W, H);
    context.globalAlpha = 0.75;
    for (let group = 0; group < scheme.names.length; group++) {
      context.fillStyle = context.strokeStyle = scheme.colours[group];
      context.lineWidth = 1.4;
      for (let number = 0; number < N; number++) {
        if (scheme.of[number] !== group) continue;
        const [x, y] = place(number);
        if (x < 0 || y < 0 || x > W || y > H) continue;
        context.beginPath();
        if (data.modality[number]) { context.moveTo(x - 3, y - 3); context.lineTo(x + 3, y + 3); context.moveTo(x + 3, y - 3); context.lineTo(x - 3, y + 3); context.stroke(); }
        else { context.arc(x, y, 3, 0, 7); context.fill(); }
      }
    }
    legend.replaceChildren("● images, ✕ captions.  ", ...scheme.names.map((name, group) => h("span", {}, h("b", { style: `color:${scheme.colours[group]}` }, "■ "), name)));
  }

  function mark() { // what lies over the points: the one that is looked at, those that are gathered, the lasso
    const context = over.getContext("2d");
    context.clearRect(0, 0, W, H);
    context.strokeStyle = COLOURS.red;
    for (const number of state.chosen) { const [x, y] = place(number); context.strokeRect(x - 4, y - 4, 8, 8); }
    if (state.drag) {
      context.setLineDash([5, 4]);
      context.beginPath();
      state.drag.forEach(([x, y], at) => (at ? context.lineTo(x, y) : context.moveTo(x, y)));
      context.stroke();
      context.setLineDash([]);
    }
    card.hidden = state.at === null;
    if (state.at === null) return;
    const [x, y] = place(state.at);
    context.lineWidth = 3;
    context.beginPath();
    context.arc(x, y, 7, 0, 7);
    context.stroke();
    context.lineWidth = 1;
    card.replaceChildren(thumbnail(data.atlas, data.picture[state.at], 72, ""), h("div", {}, tell(state.at)));
    card.style.left = `${100 * Math.max(0, Math.min(W - 200, x > W / 2 ? x - 215 : x + 14)) / W}%`;
    card.style.top = `${100 * Math.min(Math.max(0, y - 40), H - 130) / H}%`;
  }

  function tell(number) {
    const groups = data.colours.filter((scheme) => scheme.tell).map((scheme) => scheme.names[scheme.of[number]]);
    return `${data.modality[number] ? "caption" : "image"}: ${data.captions[number]} (${groups.join(", ")})`;
  }

  const look = guard((number) => {
    state.at = number;
    if (number !== null) {
      state.last = number;
      const [x, y] = place(number);
      if (x < 0 || y < 0 || x > W || y > H) { state.centre = [...data.coordinates[state.way].points[number]]; paint(); } // walk on
    }
    mark();
    if (number !== null) say(tell(number));
  });

  const gather = guard((numbers) => {
    state.chosen = numbers;
    gallery.replaceChildren(...numbers.slice(0, MOST).map((number) => h("figure", { role: "listitem" }, thumbnail(data.atlas, data.picture[number], 72, ""), h("figcaption", {}, tell(number)))));
    say(numbers.length ? `${numbers.length} points gathered${numbers.length > MOST ? `, the first ${MOST} shown` : ""}.` : "Nothing is gathered.");
    mark();
    model.set("chosen", numbers);
    model.save_changes();
  });

  function nearest(x, y, allowed = () => true, within = Infinity) {
    let best = null, least = within * within;
    for (let number = 0; number < N; number++) {
      const [a, b] = place(number), far = (a - x) ** 2 + (b - y) ** 2;
      if (far < least && allowed(a - x, b - y, number)) [best, least] = [number, far];
    }
    return best;
  }

  const at = (event) => { const box = over.getBoundingClientRect(); return [(event.clientX - box.left) * W / box.width, (event.clientY - box.top) * H / box.height]; };
  over.addEventListener("pointerdown", guard((event) => { if (event.button) return; over.setPointerCapture(event.pointerId); state.drag = [at(event)]; }));
  for (const name of ["pointercancel", "lostpointercapture"]) over.addEventListener(name, () => { if (state.drag) { state.drag = null; mark(); } });
  over.addEventListener("pointermove", guard((event) => {
    const [x, y] = at(event);
    if (state.drag) { state.drag.push([x, y]); state.at = null; mark(); } else look(nearest(x, y, undefined, 12));
  }));
  over.addEventListener("pointerup", guard((event) => {
    const drawn = state.drag ?? [], [x, y] = at(event);
    state.drag = null;
    const wide = Math.max(...[0, 1].map((axis) => Math.max(...drawn.map((one) => one[axis])) - Math.min(...drawn.map((one) => one[axis]))));
    if (wide > 8) gather([...Array(N).keys()].filter((number) => inside(...place(number), drawn)));
    else { const found = nearest(x, y, undefined, 12); if (found !== null) { look(found); gather(around(found)); } }
  }));
  over.addEventListener("pointerleave", () => { if (!state.drag) look(null); });

  function around(number, count = 12) { // the points nearest on the map
    const [x, y] = place(number), far = (other) => { const [a, b] = place(other); return (a - x) ** 2 + (b - y) ** 2; };
    return [...Array(N).keys()].map((other) => [far(other), other]).sort((a, b) => a[0] - b[0]).slice(0, count).map(([, other]) => other);
  }

  over.addEventListener("keydown", guard((event) => {
    if (modified(event)) return;
    const way = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
    if (way) {
      const [x, y] = state.at === null ? [W / 2, H / 2] : place(state.at), from = state.at;
      const found = state.at === null ? nearest(x, y) : nearest(x, y, (dx, dy, number) => number !== from && dx * way[0] + dy * way[1] > Math.abs(dx * way[1]) + Math.abs(dy * way[0]));
      if (found !== null) look(found);
    } else if (event.key === "Enter" && state.at !== null) gather(around(state.at));
    else if (event.key === "Escape") gather([]);
    else if (event.key === "+" || event.key === "-") zoom(event.key === "+" ? 1.4 : 1 / 1.4);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }));

  function zoom(factor) {
    state.zoom = Math.max(1, Math.min(40, state.zoom * factor));
    const at = state.at ?? state.last; // the pointer is on the button then, not on a point
    if (at !== undefined) state.centre = [...data.coordinates[state.way].points[at]];
    if (state.zoom === 1) state.centre = [0.5, 0.5];
    paint();
    mark();
  }

  const names = data.coordinates.map(({ name }) => name), schemes = data.colours.map(({ name }) => name);
  body.append(
    h("div", { class: "lcl-controls" },
      picker("map", names, guard((value) => { state.way = value; paint(); mark(); })), picker("colour", schemes, guard((value) => { state.colour = value; paint(); })),
      h("button", { onclick: guard(() => zoom(1.4)), "aria-label": "zoom in" }, "+"), h("button", { onclick: guard(() => zoom(1 / 1.4)), "aria-label": "zoom out" }, "−"),
      h("span", {}, "draw around points to gather them")),
    plane, legend, gallery);
  paint();
  mark();
  say(`${N.toLocaleString("en")} points. Point at one, or press an arrow key on the map.`);
});
