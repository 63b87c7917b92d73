/* Keys, clicks and the free text go to the kernel in the order in which they were made: as a log in one hidden field.
   (Each widget has a channel of its own, and JupyterLab gives some of them a thread of their own: a click on one may
   overtake a click on another.) Keys that are typed into a field, a cell or another part of JupyterLab are left alone.
   It listens before JupyterLab does, whose own keys would change the notebook. */
(() => {
  if (window.loraMarking) window.loraMarking.abort();
  window.loraMarking = new AbortController();
  const listen = (type, heard) =>
    window.addEventListener(type, heard, { capture: true, signal: window.loraMarking.signal });
  const KEPT = 200;
  let log = null;
  const shown = () => [...document.querySelectorAll(".lora-marking")].find((found) => found.offsetParent !== null);
  const tell = (panel, entry) => {
    const field = panel.querySelector(".lora-log input");
    log = log || { count: JSON.parse(field.value || "{}").count || 0, entries: [] };
    log = { count: log.count + 1, entries: [...log.entries, entry].slice(-KEPT) };
    field.value = JSON.stringify(log);
    field.dispatchEvent(new Event("change", { bubbles: true }));
  };
  const keyOf = (event) => {
    const digit = /^(?:Digit|Numpad)(\d)$/.exec(event.code);
    if (digit) return (event.shiftKey ? "shift+" : "") + digit[1];
    return event.key.length === 1 ? event.key.toLowerCase() : event.key;
  };
  const stop = (event) => { event.preventDefault(); event.stopImmediatePropagation(); };
  listen("keydown", (event) => {
    const panel = shown();
    const target = event.target;
    if (!panel || !(target instanceof Element)) return;
    if (target.closest("input, textarea, select, [contenteditable='true'], .cm-editor")) {
      const saves = event.key === "Enter" && (event.ctrlKey || event.metaKey);
      if (target.closest(".lora-text") && (event.key === "Escape" || saves)) {
        stop(event);
        panel.focus({ preventScroll: true });  // the field says that it has changed
        if (saves) tell(panel, "Enter");
      }
      return;
    }
    const place = panel.closest(".jp-NotebookPanel");
    if (target !== document.body && place && !place.contains(target)) return;
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if ((event.key === "Enter" || event.key === " ") && target.closest(".lora-marking button, summary")) return;
    const key = keyOf(event);
    if (key === "t") {
      stop(event);
      panel.querySelector(".lora-text textarea").focus();
    } else if (/^(shift\+)?[1-9]$/.test(key) || panel.querySelector(`.lora-do-${CSS.escape(key)}`)) {
      stop(event);
      tell(panel, key);
    }
  });
  listen("click", (event) => {
    const button = event.target instanceof Element && event.target.closest(".lora-marking button");
    const name = button && [...button.classList].find((found) => found.startsWith("lora-do-"));
    if (!name || button.disabled) return;
    stop(event);
    if (event.detail > 0) button.blur();  // or Enter would press again what was clicked last
    tell(button.closest(".lora-marking"), name.slice("lora-do-".length));
  });
  listen("change", (event) => {
    const text = event.target instanceof Element && event.target.closest(".lora-text");
    if (!text) return;
    event.stopImmediatePropagation();
    tell(text.closest(".lora-marking"), `=${event.target.value}`);
  });
  const begin = (left) => setTimeout(() => {  // when the widgets are there, and JupyterLab has gone on to the next cell
    const panel = shown();
    if (!panel && left) return begin(left - 1);
    if (!panel) return;
    panel.tabIndex = -1;
    panel.focus({ preventScroll: true });
    panel.scrollIntoView({ block: "start" });
  }, 300);
  begin(100);
})();
