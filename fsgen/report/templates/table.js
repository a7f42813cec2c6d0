"use strict";
// A table of runs, or of candidates: headings sort its rows (numbers by value, words by letter, what is not known last), words and
// choices filter them.
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

  // ---- filters

  const search = document.querySelector("[data-search]");
  const choices = [...document.querySelectorAll("select[data-column]")];
  const count = document.querySelector("[data-count]");

  for (const choice of choices) {
    const values = new Set([...body.rows].map((row) => row.cells[choice.dataset.column].textContent));
    for (const value of [...values].sort((a, b) => a.localeCompare(b))) choice.add(new Option(value, value));
  }

  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of body.rows) {
      const text = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
      const chosen = choices.every((each) => !each.value || row.cells[each.dataset.column].textContent === each.value);
      row.hidden = !(chosen && words.every((word) => text.includes(word)));
      shown += !row.hidden;
    }
    const of = shown === body.rows.length ? "" : ` of ${body.rows.length}`;
    count.textContent = `${shown}${of} ${count.dataset.count}`;
  };

  search.addEventListener("input", filter);
  choices.forEach((choice) => choice.addEventListener("change", filter));
}
