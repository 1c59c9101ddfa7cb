// The picture search: a folder or dropped pictures, a sentence, the nearest pictures. The kernel embeds; no picture leaves the machine.

export default exhibit("search", ({ data, body, say, guard, model }) => {
  const field = (label, value, size, act) => {
    const id = `${OWN}-${++numbered}`;
    const input = h("input", { type: "text", id, size, value, onkeydown: guard((event) => { if (event.key === "Enter" && !modified(event)) { event.preventDefault(); event.stopPropagation(); act(); } }) });
    return { input, control: h("span", { class: "lcl-control" }, h("label", { for: id }, label), input) };
  };
  const ask = (message, buffers = []) => { say("One moment …"); model.send(message, undefined, buffers); };
  const openFolder = guard(() => { refused.replaceChildren(); ask({ folder: folder.input.value }); });
  const search = guard(() => { refused.replaceChildren(); ask({ words: words.input.value }); });
  const folder = field("folder", data.folder, 36, openFolder), words = field("sentence", data.words, 36, search);
  const results = h("div", { class: "lcl-row" }), refused = h("ul", { class: "lcl-problem", "aria-live": "polite" });

  const add = guard(async (files) => { // one file a message: Jupyter bounds a message
    refused.replaceChildren();
    for (const file of [...files].slice(0, data.most)) {
      if (file.size > data.limit) refused.append(h("li", {}, inOrder(`${file.name} is larger than ${data.limit / 2 ** 20} MiB; type the path of its folder.`)));
      else ask({ picture: file.name }, [await file.arrayBuffer()]);
    }
    if (files.length > data.most) refused.append(h("li", {}, `Only the first ${data.most} of ${files.length} files were taken.`));
  });

  const id = `${OWN}-${++numbered}`;
  const chooser = h("input", { type: "file", id, multiple: true, accept: "image/*", onchange: () => { add(chooser.files); chooser.value = ""; } });
  const zone = h("div", {
    class: "lcl-drop",
    ondragover: (event) => { event.preventDefault(); event.stopPropagation(); },
    ondrop: (event) => { event.preventDefault(); event.stopPropagation(); add(event.dataTransfer.files); },
  }, h("label", { for: id }, "or drop pictures here: "), chooser);

  const draw = guard(() => {
    const answer = model.get("answer");
    if (answer.problem) refused.append(h("li", {}, inOrder(answer.problem)));
    else if (answer.found.length) refused.replaceChildren();
    results.replaceChildren(...answer.found.map((one) => h("figure", {},
      h("img", { src: one.src, alt: `picture ${inOrder(one.name)}`, width: 96, height: 96 }),
      h("figcaption", {}, h("bdi", {}, inOrder(one.name)), h("br"), `cosine ${one.cosine.toFixed(3)}`))));
    say(answer.problem ? `This was not possible. There are ${answer.count} pictures.` : answer.told);
  });
  model.on("change:answer", draw);
  body.append(
    h("div", { class: "lcl-controls" }, folder.control, h("button", { onclick: openFolder }, "open the folder")),
    zone,
    h("div", { class: "lcl-controls" }, words.control, h("button", { onclick: search }, "search")),
    refused, results);
  draw();
  return () => model.off("change:answer", draw);
});
