"use strict";
// Draws the charts when they come near the screen, in the colours of the page, and again when these change.
(() => {
  const specs = JSON.parse(document.getElementById("specs").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const drawn = new Set();

  function config() {
    const style = getComputedStyle(document.documentElement);
    const [ink, soft, line, paper] = ["--ink", "--soft", "--line", "--paper"].map((name) => style.getPropertyValue(name).trim());
    return {
      font: getComputedStyle(document.body).fontFamily,
      axis: {
        labelColor: soft, titleColor: soft, gridColor: line, domainColor: line, tickColor: line,
        titleFontWeight: 500, titleFontSize: 11, labelFontSize: 11,
      },
      text: { color: ink },
      style: { ink: { color: ink }, halo: { stroke: paper, fill: paper } },
    };
  }

  function draw(id) {
    drawn.add(id);
    // `ast`: expressions are interpreted, since the page forbids code made from text.
    const options = {
      actions: false, renderer: "svg", ast: true, config: config(), tooltip: { theme: dark.matches ? "dark" : "light" },
    };
    vegaEmbed("#" + CSS.escape(id), specs[id], options).catch(console.error);
  }

  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting && !drawn.has(entry.target.id)) draw(entry.target.id);
    }
  }, { rootMargin: "800px" });
  for (const id of Object.keys(specs)) seen.observe(document.getElementById(id));
  dark.addEventListener("change", () => drawn.forEach(draw));
  window.addEventListener("beforeprint", () => Object.keys(specs).filter((id) => !drawn.has(id)).forEach(draw));
})();
