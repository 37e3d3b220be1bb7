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
const paint = () => { for (const heat of document.querySelectorAll(".heat")) heat.dataset.arm = arm.value; };
arm.addEventListener("change", paint);
// Show every program of one problem. The data is untrusted text: it only ever becomes text nodes.
const data = JSON.parse(document.getElementById("viewer-data").textContent);
const viewer = document.getElementById("viewer");
const chooser = document.getElementById("problem");
const element = (name, className, text) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};
const colour = (score) => {
  if (score === null) return "transparent";
  const rgb = score < 0.5 ? "209,87,27" : "43,131,186";
  return `rgba(${rgb},${(0.42 * Math.abs(2 * score - 1)).toFixed(2)})`;
};
const coloured = (made, scores) => {
  scores.forEach((score, index) => made.style.setProperty(`--c${index}`, colour(score)));
  return made;
};
const definition = (className, name, value) => {
  const row = element("div", className);
  row.append(element("dt", "", name), element("dd", "", value));
  return row;
};
const stepOf = ([code, scores, value, wrong]) => {
  const step = coloured(element("div", "step"), scores);
  const list = element("dl");
  scores.forEach((score, index) => list.append(definition(`a${index}`, data.arms[index], score === null ? "-" : score.toFixed(2))));
  if (value !== null) list.append(definition("truth", "true value", value.toFixed(2)));
  if (wrong) list.append(definition("wrong", wrong === 2 ? "first wrong step" : "wrong step", ""));
  step.append(element("pre", "", code), list);
  return step;
};
const programOf = (program, open) => {
  const details = element("details");
  const summary = element("summary");
  const strip = element("span", "strip");
  for (const step of program.steps) strip.append(coloured(element("i"), step[1]));
  summary.append(element("span", `verdict ${program.passed ? "pass" : "fail"}`, program.passed ? "passes" : "fails"), ` sample ${program.sample} `, element("code", "", program.hash), " ", strip);
  for (const name of program.picked) summary.append(element("span", "pick", `picked by ${name}`));
  const body = element("div", "program");
  body.append(...program.steps.map(stepOf));
  details.append(summary, body);
  details.open = open;
  return details;
};
const show = () => {
  const problem = data.problems[chooser.value];
  viewer.replaceChildren();
  if (!problem) return;
  const title = element("h3", "", `${problem.title} `);
  title.append(element("small", "", `${problem.id}, ${problem.difficulty}`));
  const statement = element("details");
  statement.append(element("summary", "", "Statement"), element("pre", "statement", problem.statement));
  const first = problem.programs.findIndex((program) => program.picked.length);
  viewer.append(title, statement, ...problem.programs.map((program, index) => programOf(program, index === first)));
};
data.problems.forEach((problem, index) => {
  const option = element("option", "", `${problem.id}: ${problem.title}`);
  option.value = index;
  chooser.append(option);
});
chooser.addEventListener("change", show);
// A row of the table of problems opens its programs.
const places = new Map(data.problems.map((problem, index) => [problem.id, index]));
for (const row of document.querySelectorAll("#problems tbody tr")) {
  const place = places.get(row.cells[0].textContent);
  if (place === undefined) continue;
  row.classList.add("opens");
  row.addEventListener("click", () => {
    chooser.value = place;
    show();
    document.getElementById("any").scrollIntoView();
  });
}
paint();
show();
