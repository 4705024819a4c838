"use strict";

// Pictures are links to their files; here they open large on the page, and arrows lead from one to the next.
const viewer = document.getElementById("viewer");
const enlarged = viewer.querySelector("img");
let around = [];
let place = 0;

function enlarge(number) {
  place = (number + around.length) % around.length;
  const link = around[place];
  enlarged.src = link.href;
  enlarged.alt = link.querySelector("img").alt;
  viewer.querySelector("p").textContent = link.closest("figure").querySelector("figcaption").textContent;
  for (const button of viewer.querySelectorAll("[data-step]")) button.hidden = around.length < 2;
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a.enlarge");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  around = [...link.closest(".pictures").querySelectorAll("a.enlarge")];
  enlarge(around.indexOf(link));
  viewer.showModal();
});
viewer.addEventListener("click", (event) => {
  const step = event.target.dataset.step;
  if (step) enlarge(place + Number(step));
  else viewer.close();
});
viewer.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step) enlarge(place + step);
});

// The planes of a cube: a slider goes through them.
for (const browser of document.querySelectorAll(".planes")) {
  const links = [...browser.querySelectorAll("li a")];
  const picture = browser.querySelector("img.shown");
  const told = browser.querySelector("output");
  const slider = browser.querySelector("input.plane");
  const show = () => {
    const link = links[slider.value];
    picture.src = link.href;
    picture.alt = link.textContent;
    told.textContent = link.textContent;
    slider.setAttribute("aria-valuetext", link.textContent);
    for (const near of [1, -1]) {
      // What is likely to be asked for next is there already.
      const next = links[Number(slider.value) + near];
      if (next) new Image().src = next.href;
    }
  };
  slider.addEventListener("input", show);
  for (const button of browser.querySelectorAll("[data-step]")) {
    button.addEventListener("click", () => {
      slider.value = Number(slider.value) + Number(button.dataset.step);
      show();
    });
  }
  for (const [number, link] of links.entries()) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      slider.value = number;
      show();
      slider.focus();
    });
  }
  show();
  browser.querySelector(".controls").hidden = false;
}
