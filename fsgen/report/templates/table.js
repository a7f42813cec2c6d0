"use strict";
// Tables whose headings sort their rows: numbers by value, words by letter, what is not known last.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];

  const compare = (one, two) => {
    const [a, b] = [Number(one), Number(two)];
    return Number.isNaN(a) || Number.isNaN(b) ? one.localeCompare(two) : a - b;
  };

  const sort = (index) => {
    const heading = headings[index];
    const turn = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    headings.forEach((each) => each.setAttribute("aria-sort", "none"));
    heading.setAttribute("aria-sort", turn === 1 ? "ascending" : "descending");
    const keyed = [...body.rows].map((row) => [row.cells[index].dataset.key, row]);
    keyed.sort(([a], [b]) => {
      if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
      return turn * compare(a, b);
    });
    body.append(...keyed.map(([, row]) => row));
  };

  headings.forEach((heading, index) => heading.querySelector("button").addEventListener("click", () => sort(index)));
}
