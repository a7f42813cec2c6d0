"use strict";
// The server's state: what runs and waits, and what was written over the last hour.
(async () => {
  const { headers, make } = await playground;
  const box = document.getElementById("state");
  const SVG = "http://www.w3.org/2000/svg";
  const ratio = (part, whole) => (whole ? part / whole : null);
  const CHARTS = [
    ["frequency (and, dashed, System 2 consulted)", [(e) => ratio(e.differing, e.known), (e) => ratio(e.consulted, e.trusted + e.accepted + e.recovered + e.bonus)], 1],
    ["acceptance", [(e) => ratio(e.accepted, e.accepted + e.recovered)], 1],
    ["rows in use (and, dashed, waiting)", [(e) => e.running, (e) => e.waiting], null],
    ["tokens/s", [(e) => (e.trusted + e.accepted + e.recovered + e.bonus) / 5], null],
  ];

  function line(given, top, second) {
    const values = given.length === 1 ? [given[0], given[0]] : given;
    const points = values.map((value, n) => (value === null ? null : `${(100 * n) / Math.max(1, values.length - 1)},${100 - (100 * value) / top}`));
    const found = document.createElementNS(SVG, "polyline");
    found.setAttribute("points", points.filter((point) => point !== null).join(" "));
    if (second) found.setAttribute("class", "second");
    return found;
  }

  function chart([title, series, top], history) {
    const columns = series.map((value) => history.map(value));
    const most = top ?? Math.max(1, ...columns.flat().filter((value) => value !== null));
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", "0 0 100 100");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    const last = columns.map((column) => column.findLast((value) => value !== null) ?? null);
    const said = `${title}: now ${last.map((value) => (value === null ? "unknown" : Number(value.toFixed(2)))).join(", ")}; the scale ends at ${most.toFixed(most > 1 ? 0 : 1)}`;
    svg.setAttribute("aria-label", said);
    svg.append(...columns.map((values, n) => line(values, most, n > 0)));
    return make("div", "panel", make("h4", "", said), svg);
  }

  async function refresh() {
    if (!box.open || document.hidden) return;
    let found;
    try {
      const response = await fetch("/fsgen/state", { headers: headers() });
      found = await response.json();
      if (!response.ok) throw new Error(found.error.message);
    } catch (error) {
      document.getElementById("numbers").replaceChildren(make("dt", "", "not known"), make("dd", "", error.message));
      return;
    }
    const rows = [
      ["rows", `${found.running} of ${found.rows} in use`], ["queue", `${found.waiting} of ${found.queue}`],
      ["method", `${found.method}, router ${found.router}`], ["ending", found.draining ? "yes" : "no"],
    ];
    document.getElementById("numbers").replaceChildren(...rows.flatMap(([name, text]) => [make("dt", "", name), make("dd", "", text)]));
    document.getElementById("charts").replaceChildren(...CHARTS.map((each) => chart(each, found.history)));
  }

  box.addEventListener("toggle", refresh);
  setInterval(refresh, 2000);
})();
