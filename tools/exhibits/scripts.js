// The figures' scripts for tests: each is the shared part and its own, one module, as the course sends them to a page.
import { readFileSync } from "node:fs";
import vm from "node:vm";

const FOLDER = new URL("../../lcl/course/widgets/", import.meta.url);
const SITE = new URL("../website/static/", import.meta.url);

export const KINDS = ["alignment", "board", "curves", "guesser", "labels", "map", "neighbours"];

/** Import the script of a kind. names: functions of it that a test calls. */
export async function script(kind, ...names) {
  const text = ["common", kind].map((part) => readFileSync(new URL(`${part}.js`, FOLDER), "utf8")).join("");
  return import(`data:text/javascript,${encodeURIComponent(`${text}\nexport { ${names.join(", ")} };`)}`);
}

/** Run the site's scripts without a page; returns what they offer. */
export function site() {
  const context = vm.createContext({ TextEncoder, atob });
  for (const name of ["site.js", "towers.js"]) vm.runInContext(readFileSync(new URL(name, SITE), "utf8"), context);
  return context.LCL;
}

/** The least of a page that `h` needs: elements with attributes, listeners and children. */
export class Part {
  constructor(tag) { Object.assign(this, { tag, attributes: {}, children: [], listeners: {}, style: { setProperty: (name, value) => { this.style[name] = value; } } }); }
  setAttribute(name, value) { this.attributes[name] = String(value); if (name === "value") this.value = String(value); }
  addEventListener(name, listener) { this.listeners[name] = listener; }
  append(...children) { this.children.push(...children); }
  replaceChildren(...children) { this.children = children; }
  get textContent() { return this.children.map((child) => child.textContent ?? String(child)).join(""); }
  set textContent(text) { this.children = [text]; }
  /** All elements below, itself first. */
  all() { return [this, ...this.children.flatMap((child) => (child instanceof Part ? child.all() : []))]; }
}

/** Give the scripts a page to draw on. */
export function fakePage() {
  globalThis.document = { createElement: (tag) => new Part(tag), createElementNS: (_, tag) => new Part(tag) };
}
