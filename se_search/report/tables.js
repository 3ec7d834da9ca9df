"use strict";
const { figures: drawings, dark: darkColours, page: pageData } = JSON.parse(document.getElementById("data").textContent);

/** Show a short message, which screen readers announce. */
function tell(text) {
  const place = document.getElementById("told");
  place.textContent = text;
  clearTimeout(tell.timer);
  tell.timer = setTimeout(() => { place.textContent = ""; }, 2500);
}

function sortTable(table, column, direction) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((one, index) => one.setAttribute("aria-sort", index === column ? direction : "none"));
  const sign = direction === "ascending" ? 1 : -1;
  const key = (row) => row.cells[column].dataset.value;
  const rows = [...table.tBodies[0].rows];
  const numbers = rows.every((row) => !Number.isNaN(Number(key(row))));
  rows.sort((a, b) => {
    if (key(a) === "" || key(b) === "") return (key(a) === "") - (key(b) === "");
    return sign * (numbers ? Number(key(a)) - Number(key(b)) : key(a).localeCompare(key(b)));
  });
  table.tBodies[0].append(...rows);
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((heading, column) => heading.querySelector("button").addEventListener("click", () => {
    sortTable(table, column, heading.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending");
  }));
}

/** Show the rows of a table that contain all words and have the selected state. */
function filterTable(tools) {
  const { state } = tools.dataset;
  const words = tools.querySelector("input").value.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = [...document.getElementById(tools.dataset.table).tBodies[0].rows];
  for (const row of rows) {
    row.words ??= row.textContent.replace(/\s+/g, " ").toLowerCase();
    row.hidden = !words.every((word) => row.words.includes(word)) || Boolean(state && !row.dataset.state.split(" ").includes(state));
  }
  const shown = rows.filter((row) => !row.hidden).length;
  tools.querySelector("output").textContent = shown < rows.length ? `${shown} of ${rows.length}` : "";
}

for (const tools of document.querySelectorAll(".tools[data-table]")) {
  tools.querySelector("input").addEventListener("input", () => filterTable(tools));
  tools.querySelector(".csv")?.addEventListener("click", () => {
    const rows = [...document.getElementById(tools.dataset.table).tBodies[0].rows].filter((row) => !row.hidden);
    const { header, lines, name } = pageData.csv;
    const text = [header, ...rows.map((row) => lines[row.dataset.trial])].join("\r\n") + "\r\n";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = name;
    link.click();
    URL.revokeObjectURL(link.href);
  });
}
