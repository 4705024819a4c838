"use strict";

// The headers of tables sort them, and long ones can be filtered.
const ROWS_WORTH_FILTERING = 12;
const collator = new Intl.Collator(undefined, { numeric: true });

function valueOf(row, column) {
  const cell = row.cells[column];
  return cell.dataset.value ?? cell.textContent.trim();
}

// Numbers by their size, before words; what is not known comes last, whichever way.
function compare(a, b, direction) {
  if (a === "–" || b === "–") return (a === "–") - (b === "–");
  const [x, y] = [parseFloat(a), parseFloat(b)];
  const numbers = !isNaN(x) && !isNaN(y) && !/[^\d.e+\-\s%]/.test(a + b);
  return (numbers && x !== y ? x - y : collator.compare(a, b)) * direction;
}

function sortBy(header) {
  const body = header.closest("table").tBodies[0];
  const column = header.cellIndex;
  const ascending = header.getAttribute("aria-sort") !== "ascending";
  const keyed = [...body.rows].map((row) => [valueOf(row, column), row]);
  keyed.sort((a, b) => compare(a[0], b[0], ascending ? 1 : -1));
  for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  body.append(...keyed.map((pair) => pair[1]));
}

function addFilter(table) {
  const rows = [...table.tBodies[0].rows];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const input = document.createElement("input");
  input.type = "search";
  input.className = "filter";
  input.placeholder = "filter";
  input.setAttribute("aria-label", `Filter: ${table.caption.textContent}`);
  const told = document.createElement("output");
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const [number, row] of rows.entries()) {
      row.hidden = !words.every((word) => texts[number].includes(word));
      shown += !row.hidden;
    }
    told.textContent = words.length ? `${shown} of ${rows.length}` : "";
  });
  const line = document.createElement("p");
  line.className = "filtering";
  line.append(input, " ", told);
  table.closest(".scroll").before(line);
}

for (const table of document.querySelectorAll("table.sortable")) {
  if (table.tBodies[0].rows.length > ROWS_WORTH_FILTERING) addFilter(table);
  if (table.tBodies[0].rows.length < 2) continue;
  for (const header of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.className = "sort";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => sortBy(header));
  }
}
