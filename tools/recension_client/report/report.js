"use strict";
(() => {
  const search = document.getElementById("search");
  if (!search) return;
  const pages = [...document.querySelectorAll("details.page")].map((node) => ({ node, text: "" }));
  const chips = [...document.querySelectorAll("button.chip")];
  const shown = document.getElementById("shown");
  const none = document.getElementById("none");
  const first = pages.map(({ node }) => node.open);

  const apply = () => {
    const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const kinds = new Set(
      chips.filter((chip) => chip.getAttribute("aria-pressed") === "true").map((chip) => chip.dataset.kind),
    );
    let count = 0;
    pages.forEach((page, number) => {
      if (!page.text) page.text = page.node.textContent.toLowerCase();
      const fits = kinds.has(page.node.dataset.kind) && wanted.every((word) => page.text.includes(word));
      page.node.hidden = !fits;
      if (fits) count += 1;
      if (!wanted.length) page.node.open = first[number];
    });
    shown.value = `${count.toLocaleString("en")} shown`;
    none.hidden = count > 0;
  };

  let waiting = 0;
  search.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(apply, 80);
  });
  for (const chip of chips) {
    chip.addEventListener("click", () => {
      chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true"));
      apply();
    });
  }
})();
