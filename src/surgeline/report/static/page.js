"use strict";

// A link into a closed part of the page opens it.
function openTarget() {
  let target = null;
  try {
    target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  } catch {
    // What stands there is no anchor.
  }
  if (!target) return;
  for (let part = target; part; part = part.parentElement) {
    if (part.tagName === "DETAILS") part.open = true;
  }
  target.scrollIntoView();
}
addEventListener("hashchange", openTarget);
openTarget();

// On a phone the menu is closed until it is asked for.
const menu = document.querySelector("button.menu");
menu.hidden = false;
document.documentElement.classList.add("script");
menu.addEventListener("click", () => {
  const open = document.documentElement.classList.toggle("menu-open");
  menu.setAttribute("aria-expanded", open);
});

for (const button of document.querySelectorAll("button.copy")) {
  const code = document.getElementById(button.dataset.copies);
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      // Some browsers give a page from a file no clipboard.
      getSelection().selectAllChildren(code);
      button.textContent = "Selected: press Ctrl-C";
    }
  });
}

// What lasts still is counted on.
function countOn() {
  for (const part of document.querySelectorAll("[data-since]")) {
    const whole = Math.max(0, Math.round(Date.now() / 1000 - part.dataset.since));
    const [hours, minutes, seconds] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
    part.textContent = hours ? `${hours} h ${minutes} min` : minutes ? `${minutes} min ${seconds} s` : `${seconds} s`;
  }
}
