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
// Show the rows that contain every word of the search.
for (const search of document.querySelectorAll("input.search")) {
  const rows = search.parentElement.querySelectorAll("tbody tr");
  search.addEventListener("input", () => {
    const words = search.value.toLowerCase().split(/\s+/);
    for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
  });
}
// The programs of one problem. The data is untrusted text: it only ever becomes text nodes.
const data = JSON.parse(document.getElementById("viewer-data").textContent);
const [viewer, chooser, arm] = ["viewer", "problem", "arm"].map((id) => document.getElementById(id));
const element = (name, className, text) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};
const shown = (score) => (score === null || score === undefined ? "-" : score.toFixed(2));
const colored = (made, score) => {
  if (score !== null && score !== undefined) {
    made.style.background = `rgba(${score < 0.5 ? "209,87,27" : "43,131,186"},${(0.42 * Math.abs(2 * score - 1)).toFixed(2)})`;
  }
  return made;
};
const definition = (className, name, value) => {
  const row = element("div", className);
  row.append(element("dt", "", name), element("dd", "", value));
  return row;
};
const stepOf = ([code, name, scores, value, wrong], passed) => {
  const step = element("div", "step");
  const list = element("dl");
  if (name) list.append(definition("name", name, ""));
  scores.forEach((score, index) => list.append(definition(index === Number(arm.value) ? "by" : "", data.arms[index], shown(score))));
  if (value !== null) list.append(definition("truth", "true value", value.toFixed(2)));
  if (wrong) list.append(definition("wrong", passed ? "wrong, but no test fails" : wrong === 2 ? "first wrong step" : "wrong step", ""));
  step.append(colored(element("pre", "", code), scores[arm.value]), list);
  return step;
};
const programOf = (program, open) => {
  const details = element("details");
  const summary = element("summary");
  const strip = element("span", "strip");
  for (const step of program.steps) strip.append(colored(element("i"), step[2][arm.value]));
  summary.append(
    element("span", `verdict ${program.passed ? "pass" : "fail"}`, program.verdict),
    element("strong", "", ` ${shown(program.numbers[arm.value])} `), `sample ${program.sample} `, strip);
  for (const index of program.picked) summary.append(element("span", "pick", `picked by ${data.arms[index]}`));
  const body = element("div", "program");
  const fill = () => { if (details.open && !body.firstChild) body.append(...program.steps.map((step) => stepOf(step, program.passed))); };
  details.append(summary, body);
  details.addEventListener("toggle", fill);
  details.open = open;
  fill();
  return details;
};
const FIRST = 30; // candidates shown before "Show all"
const show = () => {
  const place = Number(chooser.value);
  const problem = data.problems[place];
  viewer.replaceChildren();
  if (!problem) return;
  const title = element("h3", "", `${problem.title} `);
  title.append(element("small", "", `${problem.id}, ${problem.difficulty}`));
  const statement = element("details");
  statement.append(element("summary", "", "Statement"), element("pre", "statement", problem.statement));
  const number = (program) => program.numbers[arm.value] ?? -1;
  const picked = (program) => program.picked.includes(Number(arm.value));
  const sorted = [...problem.programs].sort((a, b) => number(b) - number(a) || picked(b) - picked(a));
  viewer.append(title, statement, ...sorted.slice(0, FIRST).map((program, index) => programOf(program, index === 0)));
  if (sorted.length > FIRST) {
    const more = element("button", "all", `Show all ${sorted.length} candidates`);
    more.type = "button";
    more.addEventListener("click", () => more.replaceWith(...sorted.slice(FIRST).map((program) => programOf(program, false))));
    viewer.append(more);
  }
  document.getElementById("previous").disabled = place === 0;
  document.getElementById("next").disabled = place === data.problems.length - 1;
};
data.problems.forEach((problem, index) => {
  const option = element("option", "", `${problem.id}: ${problem.title}`);
  option.value = index;
  chooser.append(option);
});
// The address names the problem: #problem=ID. Links, the chooser and the arrows set it.
const places = new Map(data.problems.map((problem, index) => [problem.id, index]));
const address = (place) => `#problem=${encodeURIComponent(data.problems[place].id)}`;
const problemInAddress = () => {
  const named = location.hash.match(/^#problem=(.*)$/);
  try {
    return named ? decodeURIComponent(named[1]) : undefined;
  } catch {
    return named[1]; // typed by hand, with a lone percent sign
  }
};
const follow = () => {
  const place = places.get(problemInAddress());
  if (place === undefined) return;
  chooser.value = place;
  show();
  document.getElementById("code").scrollIntoView();
};
const go = (place) => { if (data.problems[place]) location.hash = address(place); };
chooser.addEventListener("change", () => go(Number(chooser.value)));
document.getElementById("previous").addEventListener("click", () => go(Number(chooser.value) - 1));
document.getElementById("next").addEventListener("click", () => go(Number(chooser.value) + 1));
arm.addEventListener("change", show);
window.addEventListener("hashchange", follow);
for (const row of document.querySelectorAll("#problems tbody tr")) {
  const cell = row.cells[0];
  const place = places.get(cell.textContent);
  if (place === undefined) continue;
  const link = element("a", "", cell.textContent);
  link.href = address(place);
  cell.replaceChildren(link);
}
show();
follow();
