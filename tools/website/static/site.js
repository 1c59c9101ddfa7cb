// The site's own script: living figures, the search over pages, the menu and the theme. It asks nobody for anything.
"use strict";

/** @typedef {{label: string, data: any}} State what a figure's script reads */
/** @typedef {[string, string, string, string]} Entry address, title of the page, heading, words */

const LCL = (/** @type {any} */ (globalThis).LCL = /** @type {any} */ ({ views: {}, states: {}, index: null }));

/**
 * What anywidget gives a figure's script in a notebook: values by name, and who listens to them. Nothing is sent anywhere.
 * @param {Record<string, any>} state
 */
LCL.model = (state) => {
  /** @type {Record<string, any>} */
  const values = { ...state };
  /** @type {Record<string, Array<() => void>>} */
  const listeners = {};
  return {
    /** @param {string} name */
    get: (name) => values[name],
    /** @param {string} name @param {any} value */
    set(name, value) { values[name] = value; for (const listener of [...(listeners[`change:${name}`] ?? [])]) listener(); },
    save_changes() {},
    send() {},
    /** @param {string} event @param {() => void} listener */
    on(event, listener) { (listeners[event] ??= []).push(listener); },
    /** @param {string} event @param {() => void} [listener] */
    off(event, listener) { listeners[event] = listener ? (listeners[event] ?? []).filter((one) => one !== listener) : []; },
  };
};

/**
 * Put a living figure in the place of its still picture. Without its data or its script the picture stays.
 * @param {HTMLElement} place
 */
LCL.mount = (place) => {
  const state = LCL.states[place.dataset.exhibit ?? ""], view = LCL.views[place.dataset.kind ?? ""];
  if (!state || !view) return false;
  place.replaceChildren();
  place.classList.add("alive");
  view.render({ model: LCL.model(state), el: place });
  return true;
};

/**
 * The sections that have all words of a query, best first: words in a heading count most, then those in a title.
 * @param {Entry[]} index @param {string} query
 */
LCL.search = (index, query, most = 20) => {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return [];
  const scored = [];
  for (const entry of index) {
    const [, title, heading, text] = entry.map((part) => part.toLowerCase());
    let score = 0;
    for (const word of words) {
      const found = (heading.includes(word) ? 8 : 0) + (title.includes(word) ? 3 : 0) + Math.min(4, text.split(word).length - 1);
      if (!found) { score = 0; break; }
      score += found;
    }
    if (score) scored.push({ entry, score });
  }
  return scored.sort((a, b) => b.score - a.score).slice(0, most).map(({ entry }) => entry);
};

/**
 * Some words of a text around the first word of a query: before, the word itself, after.
 * @param {string} text @param {string} query @returns {[string, string, string]}
 */
LCL.excerpt = (text, query, around = 70) => {
  const word = query.toLowerCase().split(/\s+/).filter(Boolean).find((one) => text.toLowerCase().includes(one));
  if (!word) return [text.slice(0, 2 * around), "", ""];
  const at = text.toLowerCase().indexOf(word), from = Math.max(0, at - around), to = at + word.length;
  return [(from ? "…" : "") + text.slice(from, at), text.slice(at, to), text.slice(to, to + around) + (to + around < text.length ? "…" : "")];
};

/** @param {string} address a script of this site, loaded once */
function load(address) {
  return new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = address;
    script.onload = () => done(address);
    script.onerror = () => failed(new Error(`${address} could not be loaded`));
    document.head.append(script);
  });
}

function startFigures() {
  for (const place of document.querySelectorAll("[data-exhibit]")) LCL.mount(/** @type {HTMLElement} */ (place));
  const moving = /** @type {HTMLElement | null} */ (document.querySelector(".moving.alive"));
  if (moving && !matchMedia("(prefers-reduced-motion: reduce)").matches) wander(moving);
}

/**
 * Go from word to word of an alignment inspector until somebody uses it. Nothing of it is spoken.
 * @param {HTMLElement} place
 */
function wander(place) {
  const status = place.querySelector("[role=status]");
  status?.setAttribute("aria-live", "off");
  let at = 0;
  const timer = setInterval(() => {
    const words = place.querySelectorAll(".lcl-words button");
    at = (at + 1) % Math.max(1, words.length);
    words[at]?.dispatchEvent(new Event("mouseenter"));
  }, 1200);
  const stop = () => { clearInterval(timer); status?.setAttribute("aria-live", "polite"); };
  for (const event of ["pointerenter", "pointerdown", "focusin", "keydown"]) place.addEventListener(event, stop, { once: true });
}

function startSearch() {
  const form = document.getElementById("search"), query = /** @type {HTMLInputElement | null} */ (document.getElementById("query"));
  const found = document.getElementById("found");
  if (!form || !query || !found) return;
  /** @type {Promise<any> | undefined} */
  let loading; // of the index, once, however fast somebody types
  const show = async () => {
    await (loading ??= load("assets/index.js"));
    const entries = /** @type {Entry[]} */ (LCL.search(LCL.index, query.value));
    found.replaceChildren(...entries.map(([address, title, heading, text]) => {
      const link = document.createElement("a"), words = document.createElement("span"), mark = document.createElement("mark");
      const [before, word, after] = LCL.excerpt(text, query.value), name = document.createElement("b");
      link.href = address;
      name.textContent = heading === title ? title : `${title}: ${heading}`;
      mark.textContent = word;
      words.append(before, mark, after);
      link.append(name, words);
      return link;
    }));
    if (query.value.trim() && !entries.length) found.textContent = `No page has all words of “${query.value.trim()}”.`;
    found.hidden = !query.value.trim();
  };
  const close = () => { found.hidden = true; };
  query.addEventListener("input", show);
  query.addEventListener("focus", () => { if (query.value.trim()) show(); });
  form.addEventListener("submit", (event) => { event.preventDefault(); found.querySelector("a")?.click(); });
  form.addEventListener("keydown", (event) => {
    const links = [...found.querySelectorAll("a")], at = links.indexOf(/** @type {HTMLAnchorElement} */ (document.activeElement));
    if (event.key === "Escape") { close(); query.focus(); }
    else if (event.key === "ArrowDown") links[Math.min(at + 1, links.length - 1)]?.focus();
    else if (event.key === "ArrowUp") (at > 0 ? links[at - 1] : query).focus();
    else return;
    event.preventDefault();
  });
  found.addEventListener("click", (event) => { if (/** @type {Element} */ (event.target).closest("a")) close(); });
  document.addEventListener("pointerdown", (event) => { if (!form.contains(/** @type {Node} */ (event.target))) close(); });
  document.addEventListener("keydown", (event) => {
    const inField = /** @type {Element} */ (event.target).closest("input, select, textarea, [role=application]");
    if (event.key === "/" && !inField && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); query.focus(); }
  });
}

function startButtons() {
  const root = document.documentElement, menu = document.getElementById("menu");
  const opener = document.getElementById("menu-button"), theme = document.getElementById("theme-button");
  opener?.addEventListener("click", () => { opener.setAttribute("aria-expanded", String(menu?.classList.toggle("open"))); });
  const tell = () => theme?.setAttribute("aria-pressed", String(root.dataset.theme === "dark"));
  theme?.addEventListener("click", () => {
    root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("lcl-theme", root.dataset.theme); } catch { /* it holds for this page only */ }
    tell();
  });
  tell();
  menu?.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
}

function startAlone() { // the page that opens each figure alone
  const place = document.getElementById("alone"), list = document.getElementById("alone-list");
  if (!place || !list) return;
  const open = async () => {
    const name = decodeURIComponent(location.hash.slice(1));
    const link = /** @type {HTMLElement | undefined} */ ([...list.querySelectorAll("a[data-kind]")].find((one) => one.getAttribute("href") === `#${name}`));
    for (const one of list.querySelectorAll("[aria-current]")) one.removeAttribute("aria-current");
    place.replaceChildren();
    if (!link) return;
    const kind = link.dataset.kind ?? "", figure = document.createElement("div");
    link.setAttribute("aria-current", "true");
    if (!LCL.views[kind]) await load(`assets/figures/${kind}.js`);
    if (!LCL.states[name]) await load(`assets/figures/${name}.js`);
    figure.className = "exhibit";
    Object.assign(figure.dataset, { exhibit: name, kind });
    place.replaceChildren(figure);
    LCL.mount(figure);
    place.scrollIntoView();
  };
  addEventListener("hashchange", open);
  open();
}

if (typeof document !== "undefined") document.addEventListener("DOMContentLoaded", () => { // all figures' scripts have run by then
  startFigures();
  startSearch();
  startButtons();
  startAlone();
});
