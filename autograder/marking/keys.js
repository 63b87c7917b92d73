/* A key clicks the button that has its class. Keys that are typed into a field, a cell or another part of JupyterLab
   are left alone. It listens before JupyterLab does, whose own keys would change the notebook. */
(() => {
  if (window.loraMarkingKeys) window.removeEventListener("keydown", window.loraMarkingKeys, true);
  const nameOf = (event) => {
    const digit = /^(?:Digit|Numpad)(\d)$/.exec(event.code);
    if (digit) return (event.shiftKey ? "shift-" : "") + digit[1];
    return event.key.length === 1 ? event.key.toLowerCase() : event.key;
  };
  window.loraMarkingKeys = (event) => {
    const panel = [...document.querySelectorAll(".lora-marking")].find((found) => found.offsetParent !== null);
    const target = event.target;
    if (!panel || !(target instanceof Element)) return;
    const stop = () => { event.preventDefault(); event.stopImmediatePropagation(); };
    const click = (name) => panel.querySelector(`.lora-key-${CSS.escape(name)}`)?.click();
    if (target.closest("input, textarea, select, [contenteditable='true'], .cm-editor")) {
      const saves = event.key === "Enter" && (event.ctrlKey || event.metaKey);
      if (target.closest(".lora-text") && (event.key === "Escape" || saves)) {
        stop();
        target.blur();
        if (saves) setTimeout(() => click("Enter"), 200);  // the text goes first
      }
      return;
    }
    const place = panel.closest(".jp-NotebookPanel");
    if (target !== document.body && place && !place.contains(target)) return;
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if ((event.key === "Enter" || event.key === " ") && target.closest(".lora-marking button, summary")) return;
    if (event.key === "t") { stop(); panel.querySelector(".lora-text textarea")?.focus(); return; }
    if (panel.querySelector(`.lora-key-${CSS.escape(nameOf(event))}`)) { stop(); click(nameOf(event)); }
  };
  window.addEventListener("keydown", window.loraMarkingKeys, true);
  document.addEventListener("click", (event) => {  // or Enter would press the button again that was clicked last
    const button = event.target instanceof Element && event.detail > 0 && event.target.closest(".lora-marking button");
    if (button) button.blur();
  });
  const begin = (left) => setTimeout(() => {  // when the widgets are there, and JupyterLab has gone on to the next cell
    const panel = [...document.querySelectorAll(".lora-marking")].pop();
    if (!panel && left) return begin(left - 1);
    if (!panel) return;
    panel.tabIndex = -1;
    panel.focus({ preventScroll: true });
    panel.scrollIntoView({ block: "start" });
  }, 300);
  begin(100);
})();
