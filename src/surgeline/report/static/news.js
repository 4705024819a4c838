"use strict";

// While a session runs, its pages look every few seconds whether they were made anew, by a script that says so: a page
// from a file may read nothing else. What a reader has opened, filtered and sorted stays so when a page is read again.
const SECONDS_BETWEEN_LOOKS = 3;
const INPUTS = "input.filter, input.plane";
const page = document.documentElement.dataset;

function keepState() {
  const open = {};
  for (const [number, part] of [...document.querySelectorAll("main details")].entries()) open[number] = part.open;
  const filters = [...document.querySelectorAll("input.filter")].map((input) => input.value);
  const planes = [...document.querySelectorAll("input.plane")].map((input) => input.value);
  const sorted = [...document.querySelectorAll("table.sortable")].map((table) => {
    const header = table.querySelector("[aria-sort]");
    return header ? [header.cellIndex, header.getAttribute("aria-sort")] : null;
  });
  const focused = [...document.querySelectorAll(INPUTS)].indexOf(document.activeElement);
  history.replaceState({ open, filters, planes, sorted, focused }, "");
}

function bringBack(kept) {
  if (!kept || !kept.open) return;
  for (const [number, part] of [...document.querySelectorAll("main details")].entries()) {
    if (number in kept.open) part.open = kept.open[number];
  }
  const fill = (selector, values) => {
    for (const [number, input] of [...document.querySelectorAll(selector)].entries()) {
      if (values[number] === undefined) continue;
      input.value = values[number];
      input.dispatchEvent(new Event("input"));
    }
  };
  fill("input.filter", kept.filters);
  fill("input.plane", kept.planes);
  for (const [number, table] of [...document.querySelectorAll("table.sortable")].entries()) {
    const [column, order] = kept.sorted[number] ?? [];
    if (column === undefined) continue;
    const button = table.tHead.rows[0].cells[column]?.querySelector("button");
    button?.click();
    if (order === "descending") button?.click();
  }
  document.querySelectorAll(INPUTS)[kept.focused]?.focus();
}
if (performance.getEntriesByType("navigation")[0]?.type === "reload") bringBack(history.state);

function showStages(stages) {
  for (const [file, state] of Object.entries(stages)) {
    const entry = document.querySelector(`nav a[href="${CSS.escape(file)}"] .state`);
    if (!entry) continue;
    entry.className = `state ${state}`;
    entry.textContent = state;
  }
}

window.surgelineNews = (news) => {
  const digest = news.pages[page.page];
  if (digest !== undefined && digest !== page.digest && !document.querySelector("dialog[open]")) {
    keepState();
    location.reload();
    return;
  }
  showStages(news.stages);
  if (news.state === "running") setTimeout(look, SECONDS_BETWEEN_LOOKS * 1000);
};

function look() {
  const script = document.createElement("script");
  script.src = `now.js?${Date.now()}`;
  script.addEventListener("load", () => script.remove());
  script.addEventListener("error", () => {
    script.remove();
    setTimeout(look, SECONDS_BETWEEN_LOOKS * 1000);
  });
  document.head.append(script);
}
if (page.state === "running") {
  countOn();
  setInterval(countOn, 1000);
  look();
}
