"use strict";
// A click on a heading sorts its table; again, the other way round. Cells say what they sort by in data-key.
const keyOf = (row, column) => row.cells[column].dataset.key ?? row.cells[column].textContent;
const compare = (a, b) => {
  const [x, y] = [Number(a), Number(b)];
  return a === "" || b === "" ? (a === "") - (b === "") : Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
};
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const body = heading.closest("table").tBodies[0];
    const way = heading.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    for (const other of heading.parentElement.cells) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", way);
    const rows = [...body.rows].sort((a, b) => compare(keyOf(a, heading.cellIndex), keyOf(b, heading.cellIndex)));
    body.append(...(way === "ascending" ? rows : rows.reverse()));
  });
}
// On paper everything is open.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
