// The neighbour browser: a scene, its nearest by image and by caption, and which half of each is a target (NN, XNN).

export default exhibit("neighbours", ({ data, body, say, guard }) => {
  const state = { query: 0, target: 0 }, sheet = h("div", {});
  const TARGETS = ["all", "NN of the image", "XNN of the image", "NN of the caption", "XNN of the caption"];
  const MEANING = ["", "the pictures of the scenes nearest by image", "the captions of the scenes nearest by image", "the captions of the scenes nearest by caption", "the pictures of the scenes nearest by caption"];

  function card(number, title, kin, part) { // part: which half is the target, "image", "caption" or null
    const go = data.queries.indexOf(number);
    const picture = thumbnail(data.atlas, number, 104, `picture of “${data.captions[number]}”`);
    const words = h("figcaption", {}, title, h("br"), h("span", {}, data.captions[number]));
    if (part === "image") picture.classList.add("lcl-target");
    if (part === "caption") words.lastChild.classList.add("lcl-target");
    const inner = go >= 0 && go !== state.query ? h("button", { onclick: () => { state.query = go; slider.set(go); draw(); slider.querySelector("input").focus(); }, "aria-label": `go to ${data.captions[number]}` }, picture) : picture;
    return h("figure", { class: `${kin ? "kin" : ""} ${part ? "target" : ""}` }, inner, words);
  }

  const draw = guard(() => {
    const { query, target } = state, rows = [["nearest by image", data.by_image[query], 1], ["nearest by caption", data.by_caption[query], 3]];
    sheet.replaceChildren(
      h("div", { class: "lcl-row" }, card(data.queries[query], "the scene", false, null)),
      ...rows.map(([title, found, first]) => h("div", {}, h("div", {}, title), h("div", { class: "lcl-row" }, found.map(([number, cosine, shared]) => {
        const half = target === first ? (first === 1 ? "image" : "caption") : target === first + 1 ? (first === 1 ? "caption" : "image") : null;
        return card(number, `${cosine.toFixed(2)}${shared ? `, shares ${shared}` : ""}`, shared > 0, half);
      })))));
    const kin = rows.map(([title, found]) => `${title}, ${found.filter(([, , shared]) => shared).length} of ${found.length} share an object with it`).join("; ");
    say(`“${data.captions[data.queries[query]]}”: ${kin}.${target ? ` ${TARGETS[target]}: ${MEANING[target]}, outlined.` : ""}`);
  });

  const slider = range("scene", 0, data.queries.length - 1, 1, 0, (value) => { state.query = value; draw(); });
  body.append(h("div", { class: "lcl-controls" }, slider, picker("targets", TARGETS, (value) => { state.target = value; draw(); })), sheet);
  draw();
});
