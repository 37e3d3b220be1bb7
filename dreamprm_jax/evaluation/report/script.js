"use strict";
// Sort a table by the clicked column: by the first number in a cell where there is one, by text otherwise.
const key = (row, column) => {
  const text = row.cells[column].textContent.trim();
  const found = text.match(/^[<\[]?([+-]?\d+(\.\d+)?)/);
  return found ? Number(found[1]) : text === "" || text === "-" ? null : text;
};
const compare = (a, b) => {
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
};
for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => header.addEventListener("click", () => {
    const down = header.getAttribute("aria-sort") === "ascending";
    headers.forEach((other) => other.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows].map((row) => [key(row, column), row]);
    rows.sort(([a], [b]) => a === null || b === null ? compare(a, b) : down ? compare(b, a) : compare(a, b));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }));
}
// Show the rows that hold every word of the search.
for (const search of document.querySelectorAll("input.search")) {
  const rows = search.parentElement.querySelectorAll("tbody tr");
  search.addEventListener("input", () => {
    const words = search.value.toLowerCase().split(/\s+/);
    for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
  });
}
// Choose the reward model that colours the code.
const arm = document.getElementById("arm");
const heat = document.querySelector(".heat");
const paint = () => { heat.dataset.arm = arm.value; };
arm.addEventListener("change", paint);
paint();
