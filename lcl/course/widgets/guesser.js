// The masked-word guesser: hide a word, guess it, and see what the model predicts with the true image, none, and a wrong one.

export default exhibit("guesser", ({ data, body, say, guard }) => {
  const state = { scene: 0, word: 0, guess: "", open: false }, sentence = h("div", { class: "lcl-controls", role: "group", "aria-label": "words of the caption; press one to hide it" }), panels = h("div", { class: "lcl-row" });
  const mine = h("input", { type: "text", id: `${OWN}-${++numbered}`, size: 14, oninput: guard(() => { state.guess = mine.value.trim().toLowerCase(); say(verdict()); }), onkeydown: guard((event) => { if (event.key === "Enter" && !modified(event)) { event.stopPropagation(); reveal(); } }) });
  const show = h("button", { onclick: () => reveal() }, "show the predictions");
  const reveal = guard(() => { state.open = true; draw(); });
  const hide = (scene, word) => { Object.assign(state, { scene, word, guess: "", open: false }); mine.value = ""; draw(); };

  const draw = guard(() => {
    const scene = data.scenes[state.scene], hidden = scene.words[state.word];
    const between = gaps(scene.caption, scene.words.map((word) => word.text)), buttons = scene.words.map((word, number) => h("button", { "aria-pressed": number === state.word, onclick: () => { hide(state.scene, number); sentence.children[number].focus(); } }, number === state.word ? "[MASK]" : word.text));
    sentence.replaceChildren(...buttons.flatMap((button, number) => [between[number].trim(), button]), between[buttons.length].trim());
    panels.replaceChildren(...data.conditions.map((condition, number) => {
      const shown = number === 0 ? thumbnail(data.atlas, scene.image, 128, scene.caption) : number === 2 ? thumbnail(data.atlas, hidden.wrong, 128, "another scene") : h("span", { class: "lcl-thumbnail", style: "width:128px;height:128px;border:1px dashed #888", role: "img", "aria-label": "no image" });
      const bars = !state.open ? h("div", {}, "?") : hidden.guesses[number].map(([text, share]) => h("div", { class: `lcl-bar${text === hidden.token ? " right" : ""}` }, text, h("i", { style: `width:${Math.max(1, 100 * share)}%`, role: "img", "aria-label": percent(share) }), `${percent(share)}${text === hidden.token ? " ✓" : ""}`));
      return h("div", { "data-condition": condition }, h("div", {}, condition), shown, bars);
    }));
    const told = data.conditions.map((condition, number) => `${condition}: “${hidden.guesses[number][0][0]}” ${percent(hidden.guesses[number][0][1])}`).join(", ");
    show.disabled = state.open;
    say(state.open ? `Word ${state.word + 1} is “${hidden.text}”. ${told}. ${verdict()}` : `Word ${state.word + 1} is hidden. ${verdict()}`);
  });

  function verdict() {
    const { text } = data.scenes[state.scene].words[state.word];
    if (!state.guess) return state.open ? "" : "Look at the picture and type your guess, then press Enter.";
    if (!state.open) return `Your guess is “${state.guess}”. Press Enter to see the answer and the predictions.`;
    return state.guess === text.toLowerCase() ? `Your guess is right: it is “${text}”.` : `“${state.guess}” is not it.`;
  }

  body.append(
    h("div", { class: "lcl-controls" }, range("scene", 0, data.scenes.length - 1, 1, 0, (value) => hide(value, Math.min(data.scenes[value].start, data.scenes[value].words.length - 1))),
      h("span", { class: "lcl-control" }, h("label", { for: mine.id }, "your guess"), mine), show),
    sentence, panels);
  state.word = data.scenes[0].start;
  draw();
});
