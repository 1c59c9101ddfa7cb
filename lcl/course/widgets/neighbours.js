// The neighbour browser: a scene, its nearest by image and by caption, and which half of each is a target (NN, XNN).

export default exhibit("neighbours", ({ data, body, say, guard }) => {
  const state = { at: 0, target: 0, path: [] }, sheet = h("div", {}); // scenes are numbers in the atlas; those to begin with come first
  const TARGETS = ["all", "NN of the image", "XNN of the image", "NN of the caption", "XNN of the caption"];
  const MEANING = ["", "the pictures of the scenes nearest by image", "the captions of the scenes nearest by image", "the captions of the scenes nearest by caption", "the pictures of the scenes nearest by caption"];

  function card(number, title, kin, part) { // part: which half is the target, "image", "caption" or null
    const open = number < data.by_image.length && number !== state.at;
    const picture = thumbnail(data.atlas, number, 104, `picture of “${data.captions[number]}”`);
    const words = h("figcaption", {}, title, h("br"), h("span", {}, data.captions[number]));
    if (part === "image") picture.classList.add("lcl-target");
    if (part === "caption") words.lastChild.classList.add("lcl-target");
    const inner = open ? h("button", { onclick: () => go(number), "aria-label": `go to ${data.captions[number]}` }, picture) : picture;
    return h("figure", { class: `${kin ? "kin" : ""} ${part ? "target" : ""}` }, inner, words);
  }

  const go = guard((number) => { state.path.push(state.at); state.at = number; draw(); back.focus(); });

  const draw = guard(() => {
    const { at, target } = state, rows = [["nearest by image", data.by_image[at], 1], ["nearest by caption", data.by_caption[at], 3]];
    back.disabled = !state.path.length;
    sheet.replaceChildren(
      h("div", { class: "lcl-row" }, card(at, "the scene", false, null)),
      ...rows.map(([title, found, first]) => h("div", {}, h("div", {}, title), h("div", { class: "lcl-row" }, found.map(([number, cosine, shared]) => {
        const half = target === first ? (first === 1 ? "image" : "caption") : target === first + 1 ? (first === 1 ? "caption" : "image") : null;
        return card(number, `${cosine.toFixed(2)}${shared ? `, shares ${shared}` : ""}`, shared > 0, half);
      })))));
    const kin = rows.map(([title, found]) => `${title}, ${found.filter(([, , shared]) => shared).length} of ${found.length} share an object with it`).join("; ");
    const closed = rows.some(([, found]) => found.some(([number]) => number >= data.by_image.length)) ? ` This browser holds ${data.captions.length.toLocaleString("en")} scenes; neighbours without a button are at its border.` : "";
    say(`“${data.captions[at]}”: ${kin}.${target ? ` ${TARGETS[target]}: ${MEANING[target]}, outlined.` : ""}${closed}`);
  });

  const back = h("button", { onclick: guard(() => { if (state.path.length) { state.at = state.path.pop(); draw(); } }) }, "← back");
  const slider = range("scene", 0, data.queries - 1, 1, 0, (value) => { state.at = value; state.path = []; draw(); });
  body.append(h("div", { class: "lcl-controls" }, slider, back, picker("targets", TARGETS, (value) => { state.target = value; draw(); })), sheet);
  draw();
});
