// Before the first paint: colours and language as they were chosen, so that nothing flickers. Not a module, so that it blocks.
(function () {
  let chosen = {};
  try { chosen = JSON.parse(localStorage.getItem("doran.settings")) || {}; } catch { /* nothing chosen yet */ }
  document.documentElement.dataset.theme = chosen.theme || "auto";
  document.documentElement.lang = chosen.language || (/^ko\b/i.test(navigator.language) ? "ko" : "en");
})();
