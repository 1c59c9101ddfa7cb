import js from "@eslint/js";

const browser = Object.fromEntries(
  ["document", "location", "matchMedia", "localStorage", "addEventListener", "setInterval", "clearInterval", "globalThis", "Event",
    "console", "URL", "devicePixelRatio"].map((name) => [name, "readonly"]),
);
const shared = Object.fromEntries( // what common.js offers to every figure's own script, which follows it in one module
  ["COLOURS", "CYCLE", "h", "picker", "range", "thumbnail", "legendEntry", "inOrder", "modified", "percent", "viridis", "exhibit"]
    .map((name) => [name, "readonly"]),
);
const tried = Object.fromEntries( // what the page on which one tries a model needs
  ["LCL", "load", "performance", "WebAssembly", "DecompressionStream", "Blob", "Response", "TextEncoder", "Image", "ImageData", "atob",
    "createImageBitmap"].map((name) => [name, "readonly"]),
);
const counted = { OWN: "readonly", numbered: "writable" }; // of which a figure makes ids of its own
const rules = {
  ...js.configs.recommended.rules,
  eqeqeq: "error", "no-var": "error", "prefer-const": "error", "no-implicit-globals": "off", "no-eval": "error", "no-implied-eval": "error",
  "no-restricted-globals": ["error", "fetch", "XMLHttpRequest", "WebSocket"], // a figure asks nobody
  "no-restricted-properties": ["error", { property: "innerHTML" }, { property: "outerHTML" }, { property: "insertAdjacentHTML" }],
};

export default [
  { ignores: ["**/node_modules/**"] },
  {
    files: ["lcl/course/widgets/*.js"], ignores: ["**/common.js"], rules,
    languageOptions: { ecmaVersion: 2022, sourceType: "module", globals: { ...browser, ...shared, ...counted } },
  },
  {
    files: ["lcl/course/widgets/common.js"], languageOptions: { ecmaVersion: 2022, sourceType: "module", globals: browser },
    rules: { ...rules, "no-unused-vars": ["error", { varsIgnorePattern: `^(${Object.keys(shared).join("|")})$` }] },
  },
  { files: ["tools/website/static/*.js"], languageOptions: { ecmaVersion: 2022, sourceType: "script", globals: browser }, rules },
  { files: ["tools/website/static/{towers,try}.js"], languageOptions: { globals: tried } },
  {
    files: ["tools/exhibits/**/*.js"], rules,
    languageOptions: { ecmaVersion: 2024, sourceType: "module", globals: Object.fromEntries(["URL", "process", "globalThis", "TextEncoder", "atob", "btoa"].map((name) => [name, "readonly"])) },
  },
];
