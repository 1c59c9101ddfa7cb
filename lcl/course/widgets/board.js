// The run board: two runs compared by their curves, their metrics, and the pictures on which they disagree.

function difference(one, other) { // in points; above 0 where the first run is better
  return one === undefined || other === undefined ? null : one - other;
}

export default exhibit("board", ({ data, body, say, guard }) => {
  const W = 395, H = 230, LEFT = 44, BOTTOM = 30, TOP = 24, RIGHT = 22;
  const VIEWS = ["curves", "metrics", "pictures"], WAYS = ["image to text", "text to image"];
  const state = { a: 0, b: 1, view: 0, split: 0, way: 0, who: 0, at: 0 };
  const sheet = h("div", {}), more = h("span", { class: "lcl-controls" });
  const names = data.runs.map((run) => run.name), both = () => [data.runs[state.a], data.runs[state.b]];
  const MARKS = [COLOURS.blue, COLOURS.orange];

  function curve(title, column, scale) { // of both runs: a value of every validation step, by the share of the training that is done
    const high = scale ?? Math.max(...both().flatMap((run) => run.validations.map((one) => one[column])), 1e-9);
    const x = (share) => LEFT + (W - LEFT - RIGHT) * share, y = (value) => H - BOTTOM - (H - BOTTOM - TOP) * value / high, parts = [];
    for (let part = 0; part <= 4; part++) {
      const value = high * part / 4, told = scale ? `${25 * part}` : value.toFixed(1);
      parts.push(h("line", { x1: LEFT, x2: W - RIGHT, y1: y(value), y2: y(value), stroke: "currentColor", "stroke-opacity": 0.12 }), h("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end", "font-size": 11, fill: "currentColor" }, told), h("text", { x: x(part / 4), y: H - BOTTOM + 16, "text-anchor": "middle", "font-size": 11, fill: "currentColor" }, `${25 * part} %`));
    }
    parts.push(h("text", { x: LEFT, y: 13, "font-size": 12, "font-weight": "bold", fill: "currentColor" }, title), h("text", { x: W - RIGHT, y: H - 2, "text-anchor": "end", "font-size": 11, fill: "currentColor" }, "share of the steps"));
    both().forEach((run, number) => {
      parts.push(h("polyline", { points: run.validations.map((one) => `${x(one[0] / run.steps)},${y(one[column])}`).join(" "), fill: "none", stroke: MARKS[number], "stroke-width": 2, "stroke-dasharray": number ? "6 3" : "none" }));
    });
    return h("svg", { viewBox: `0 0 ${W} ${H}`, width: W, height: H, role: "img", "aria-label": `${title} of ${both().map((run) => run.name).join(" and ")}` }, parts);
  }

  function curves() {
    const key = h("div", { class: "lcl-legend" }, both().map((run, number) => legendEntry(run.name, MARKS[number], number ? "dashed" : "solid")));
    sheet.replaceChildren(key, h("div", { class: "lcl-row" }, curve("InfoNCE on validation pairs", 1), curve("validation recall@1, image to text (%)", 2, 1), curve("validation recall@1, text to image (%)", 3, 1)));
    const last = (run) => run.validations.at(-1);
    say(both().map((run) => last(run) ? `${run.name}: InfoNCE ${last(run)[1].toFixed(2)}, recall@1 ${percent(last(run)[2])} and ${percent(last(run)[3])} at its last validation step` : `${run.name} has no validation step`).join("; ") + ".");
  }

  function metrics() {
    const split = data.splits[state.split], [a, b] = both(), cell = (value) => (value === undefined ? "–" : value.toFixed(1)), rows = [];
    let best = null;
    for (const title of data.metrics) {
      const [one, other] = [a, b].map((run) => run.table[split]?.[title]);
      if (one === undefined && other === undefined) continue;
      const gap = difference(one, other);
      if (gap !== null && (best === null || Math.abs(gap) > Math.abs(best.gap))) best = { title, gap };
      const bar = gap === null ? null : h("i", { style: `display:block;height:.8em;width:${Math.min(100, 2 * Math.abs(gap))}px;margin-left:${gap < 0 ? 100 - Math.min(100, 2 * Math.abs(gap)) : 100}px;background:${gap < 0 ? MARKS[1] : MARKS[0]}` });
      rows.push(h("tr", {}, h("th", { scope: "row" }, title), h("td", {}, cell(one)), h("td", {}, cell(other)), h("td", {}, gap === null ? "–" : `${gap > 0 ? "+" : ""}${gap.toFixed(1)}`), h("td", { style: "min-width:200px", "aria-hidden": "true" }, bar)));
    }
    const head = h("tr", {}, ["percent", a.name, b.name, `${a.name} − ${b.name}`, ""].map((text) => h("th", { scope: "col" }, text)));
    sheet.replaceChildren(h("table", { class: "lcl-table" }, h("thead", {}, head), h("tbody", {}, rows)));
    say(best ? `On ${split} they differ most in ${best.title}: ${best.gap > 0 ? "+" : ""}${best.gap.toFixed(1)} points for ${a.name}.` : `On ${split} no metric was measured for both.`);
  }

  function disagreements() { // queries that one run answers correctly and the other does not
    const [right, wrong] = state.who ? [state.b, state.a] : [state.a, state.b], way = WAYS[state.way];
    const found = (run) => data.runs[run].answers[way];
    return { right, wrong, rows: found(right).map((answer, query) => query).filter((query) => found(right)[query] === query && found(wrong)[query] !== query) };
  }

  function pictures() {
    const { right, wrong, rows } = disagreements(), way = WAYS[state.way], number = data.captions.length;
    const [r, w] = [names[right], names[wrong]], score = (run) => data.runs[run].answers[way].filter((answer, query) => answer === query).length;
    if (!rows.length) { sheet.replaceChildren(); return say(`There is no pair of ${number} that ${r} finds and ${w} does not.`); }
    state.at = Math.min(state.at, rows.length - 1);
    const query = rows[state.at], answer = data.runs[wrong].answers[way][query], wide = 128;
    const card = (title, shown, kin, text) => h("figure", { class: kin ? "kin" : "", style: `width:${wide}px` }, thumbnail(data.atlas, shown, wide, `picture of “${data.captions[shown]}”`), h("figcaption", {}, title, h("br"), text ? data.captions[shown] : ""));
    const asked = state.way ? h("figure", {}, h("figcaption", {}, `query: “${data.captions[query]}”`)) : card("query", query, false, false);
    sheet.replaceChildren(h("div", { class: "lcl-row" }, asked, card(`${r} finds (right)`, query, true, true), card(`${w} finds`, answer, false, true)));
    say(`${state.at + 1} of ${rows.length} pairs that ${r} finds among ${number}, ${way}, and ${w} does not. (${names[state.a]} finds ${score(state.a)}, ${names[state.b]} ${score(state.b)}.) Query: “${data.captions[query]}”; ${w} finds “${data.captions[answer]}”.`);
  }

  const draw = guard(() => [curves, metrics, pictures][state.view]());
  const arrange = guard(() => { // the controls of the view
    const set = (name) => (value) => { state[name] = value; if (name !== "at") { state.at = 0; arrange(); } else draw(); };
    const controls = [[], [picker("split", data.splits, set("split"), state.split)], [picker("direction", WAYS, set("way"), state.way), picker("found by", [`${names[state.a]} only`, `${names[state.b]} only`], set("who"), state.who)]][state.view];
    const many = state.view === 2 ? disagreements().rows.length : 0;
    if (many > 1) controls.push(range("which", 1, many, 1, state.at + 1, (value) => set("at")(value - 1)));
    const kept = more.contains(document.activeElement) ? [...more.querySelectorAll("select, input")].indexOf(document.activeElement) : -1;
    more.replaceChildren(...controls);
    if (kept >= 0) more.querySelectorAll("select, input")[kept]?.focus(); // keep the focus
    draw();
  });
  const choose = (which) => (value) => { state[which] = value; state.at = 0; arrange(); };
  body.append(
    h("div", { class: "lcl-controls" }, picker("run", names, choose("a"), 0), picker("compared with", names, choose("b"), 1), picker("show", VIEWS, (value) => { state.view = value; arrange(); })),
    more, sheet);
  arrange();
});
