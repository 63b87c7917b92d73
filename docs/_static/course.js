// The theme's fold marks in the navigation have no name that a screen reader could read.
for (const mark of document.querySelectorAll("li.has-children > details > summary")) {
  const link = mark.closest("li").querySelector("a");
  mark.setAttribute("aria-label", `Pages of "${link.textContent.trim()}"`);
}
