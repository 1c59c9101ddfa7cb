// What all exhibits share. Each exhibit's own file follows in the same module: no imports, no network.

const COLOURS = { blue: "#0072B2", orange: "#E69F00", green: "#009E73", red: "#D55E00", purple: "#CC79A7", sky: "#56B4E9", yellow: "#F0E442", grey: "#666666" };
const CYCLE = [COLOURS.blue, COLOURS.orange, COLOURS.green, COLOURS.red, COLOURS.purple, COLOURS.sky];
const VIRIDIS = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];

const SVG = new Set(["svg", "rect", "polyline", "line", "text", "image", "g", "circle"]);
const OWN = `lcl-${Math.random().toString(36).slice(2, 8)}`; // so that ids of two exhibits on one page differ
let numbered = 0;

// h("div", {class: "x", onclick: f}, child, …): an element; text children are never read as HTML.
function h(tag, attributes = {}, ...children) {
  const element = SVG.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith("aria-")) element.setAttribute(name, String(value)); // "true" and "false" are words there
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  // keys pressed in the exhibit are its own, not shortcuts of the notebook
  if ("tabindex" in attributes || ["input", "select", "button"].includes(tag)) element.setAttribute("data-lm-suppress-shortcuts", "true");
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

// A choice with its label. options: strings. changed(number of the option).
function picker(label, options, changed, chosen = 0) {
  const id = `${OWN}-${++numbered}`;
  const select = h("select", { id, onchange: () => changed(select.selectedIndex) }, options.map((text) => h("option", {}, text)));
  select.selectedIndex = chosen;
  return h("span", { class: "lcl-control" }, h("label", { for: id }, label), select);
}

// A slider with its label and its value in words. say(value): the words.
function range(label, low, high, step, value, changed, say = String) {
  const id = `${OWN}-${++numbered}`, shown = h("output", { for: id }, say(value));
  const input = h("input", {
    id, type: "range", min: low, max: high, step, value,
    oninput: () => { shown.textContent = say(Number(input.value)); input.setAttribute("aria-valuetext", shown.textContent); changed(Number(input.value)); },
  });
  input.setAttribute("aria-valuetext", say(value));
  const control = h("span", { class: "lcl-control" }, h("label", { for: id }, label), input, shown);
  control.set = (next) => { input.value = next; shown.textContent = say(next); input.setAttribute("aria-valuetext", say(next)); };
  return control;
}

// One small picture of an atlas, which holds `columns` of them side by side. The atlas itself is stored once, on the root.
function thumbnail(atlas, number, pixels, alt) {
  const x = (number % atlas.columns) * pixels, y = Math.floor(number / atlas.columns) * pixels;
  const style = `width:${pixels}px;height:${pixels}px;background:var(--atlas) -${x}px -${y}px / ${atlas.columns * pixels}px auto;image-rendering:pixelated`;
  return h("span", { class: "lcl-thumbnail", role: "img", "aria-label": alt, style });
}

// An entry of a legend: a piece of line, then its name.
function legendEntry(name, colour, style = "solid") {
  return h("span", {}, h("i", { class: "lcl-key", style: `border-top:3px ${style} ${colour}` }), name);
}

// A sentence with captions in it. Their overrides of direction are written as codes: they would reverse the rest of the sentence.
function inOrder(text) { return text.replace(/[\u202a-\u202e\u2066-\u2069]/g, (mark) => `\\u${mark.charCodeAt(0).toString(16)}`); }

// Is a key press meant for the browser, such as Ctrl and +?
function modified(event) { return event.ctrlKey || event.metaKey || event.altKey; }

function percent(share) { return `${Math.round(100 * share)} %`; }

function viridis(share) { // 0 to 1 → [r, g, b]
  const place = Math.max(0, Math.min(1, share)) * (VIRIDIS.length - 1), low = Math.min(Math.floor(place), VIRIDIS.length - 2);
  const channel = (text, at) => parseInt(text.slice(at, at + 2), 16);
  return [1, 3, 5].map((at) => Math.round(channel(VIRIDIS[low], at) + (place - low) * (channel(VIRIDIS[low + 1], at) - channel(VIRIDIS[low], at))));
}

// An exhibit: draw(data, root, say, model) fills `root`; errors are shown in words in its place.
function exhibit(kind, draw) {
  return {
    render({ model, el }) {
      const problem = h("p", { class: "lcl-problem", role: "alert" });
      const status = h("p", { class: "lcl-says", role: "status", "aria-live": "polite" });
      const body = h("div", {}), root = h("div", { class: "lcl", role: "group", "aria-label": model.get("label"), "data-lcl": kind }, body, status, problem);
      const guard = (work) => (...parts) => {
        try { problem.textContent = ""; return work(...parts); } catch (error) { problem.textContent = `This figure met an error: ${error.message}`; }
      };
      if (model.get("data")?.atlas) root.style.setProperty("--atlas", `url("${model.get("data").atlas.src}")`);
      el.append(root);
      let end;
      const begin = guard(() => { end = draw({ data: model.get("data"), body, say: (text) => { status.textContent = inOrder(text); }, guard, model }); });
      begin();
      return () => { if (typeof end === "function") end(); };
    },
  };
}

function gaps(caption, words) { // what stands before each word, and after the last one
  let from = 0;
  const before = words.map((word) => { const at = caption.indexOf(word, from), text = caption.slice(from, at); from = at + word.length; return text; });
  return [...before, caption.slice(from)];
}
