// Before anything is drawn: the theme that was chosen here, or that of the system.
"use strict";
(() => {
  const root = document.documentElement, system = matchMedia("(prefers-color-scheme: dark)");
  const stored = () => { try { return localStorage.getItem("lcl-theme"); } catch { return null; } };
  const set = () => { root.dataset.theme = stored() ?? (system.matches ? "dark" : "light"); };
  root.classList.add("js");
  set();
  system.addEventListener("change", set);
})();
