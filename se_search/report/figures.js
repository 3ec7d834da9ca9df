"use strict";
const darkPreferred = matchMedia("(prefers-color-scheme: dark)");
const drawn = new Map();
/** Functions of a figure's name, data and layout that change it before it is drawn. */
const adjustments = [];

function recall(key) { try { return localStorage.getItem(key); } catch { return null; } }
function remember(key, value) { try { localStorage.setItem(key, value); } catch { /* no storage */ } }

/** Replace the colours in a text by those of the theme. */
function coloured(text) {
  if (document.documentElement.dataset.theme !== "dark") return text;
  return Object.entries(darkColours).reduce((done, [light, dark]) => done.replaceAll(light, dark), text);
}

/** A figure's data in the colours of the theme, with hover texts of its trials. */
function themed(figure) {
  const copy = JSON.parse(coloured(JSON.stringify(figure)));
  for (const trace of copy.data) {
    if (pageData.hover && trace.customdata && !Array.isArray(trace.customdata[0])) {
      trace.text = trace.customdata.map((number) => coloured(pageData.hover[number] ?? ""));
    }
  }
  return copy;
}

function nameOf(place) {
  return place.id.replace("figure-", "");
}

function draw(place) {
  const name = nameOf(place);
  const { data, layout } = themed(drawings[name]);
  for (const adjust of adjustments) adjust(name, data, layout);
  const config = {
    responsive: true, displaylogo: false, showSendToCloud: false, modeBarButtonsToRemove: ["lasso2d", "autoScale2d"],
  };
  const first = !drawn.has(name);
  drawn.set(name, place);
  if (data.some((trace) => trace.type === "scatter3d") && !canDrawSpace()) {
    place.style.minHeight = "";
    place.textContent = "A 3D figure needs WebGL, and WebGL is off in this browser. The other figures show the same trials.";
    return Promise.resolve();
  }
  return Plotly.react(place, data, layout, config).then(() => {
    for (const button of place.querySelectorAll(".modebar-btn")) button.tabIndex = -1;
    place.dispatchEvent(new CustomEvent(first ? "drawn" : "redrawn", { bubbles: true, detail: name }));
  });
}

function canDrawSpace() {
  canDrawSpace.known ??= Boolean(document.createElement("canvas").getContext("webgl"));
  return canDrawSpace.known;
}

const places = [...document.querySelectorAll(".figure")];
// Reserve the height of each figure, so that drawing it moves nothing.
for (const place of places) place.style.minHeight = `${drawings[nameOf(place)].layout.height}px`;
const near = new Set();
const outdated = new Set();

const queue = [];

/** Draw the next figure of the queue; the browser shows it, and responds, before the one after it. */
function drawNext() {
  const place = queue[0];
  requestAnimationFrame(() => setTimeout(() => { queue.shift(); if (queue.length) drawNext(); }));
  if (near.has(place) && (!isDrawn(place) || outdated.delete(place))) draw(place);
}

/** Draw a figure when it comes near the viewport, not all at once. */
const watch = new IntersectionObserver((entries) => {
  const idle = !queue.length;
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) { near.delete(target); continue; }
    near.add(target);
    if (!isDrawn(target) || outdated.has(target)) queue.push(target);
    else target.dispatchEvent(new Event("near", { bubbles: true }));
  }
  if (idle && queue.length) drawNext();
}, { rootMargin: "300px" });
// Start after all scripts have added their listeners.
addEventListener("DOMContentLoaded", () => { for (const place of places) watch.observe(place); });

function isDrawn(place) {
  return drawn.get(nameOf(place)) === place;
}

function setTheme(theme, all = false) {
  if (theme === document.documentElement.dataset.theme) return;
  document.documentElement.dataset.theme = theme;
  for (const one of document.querySelectorAll("[data-colour]")) {
    one.style[one.tagName === "line" ? "stroke" : "background"] = coloured(one.dataset.colour);
  }
  for (const place of drawn.values()) {
    if (all || near.has(place)) draw(place);
    else outdated.add(place);
  }
  document.dispatchEvent(new Event("theme"));
}

setTheme(recall("se-search-theme") ?? (darkPreferred.matches ? "dark" : "light"));
darkPreferred.addEventListener("change", (event) => { if (!recall("se-search-theme")) setTheme(event.matches ? "dark" : "light"); });
document.getElementById("theme").addEventListener("click", () => {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  remember("se-search-theme", theme);
  setTheme(theme);
});

const PRINTED_WIDTH = 690; // a page of A4 between usual margins, in CSS pixels
let before = null;
addEventListener("beforeprint", () => {
  before = { theme: document.documentElement.dataset.theme, closed: [...document.querySelectorAll("details.printed:not([open])")] };
  for (const details of before.closed) details.open = true;
  setTheme("light", true);
  for (const place of places) if (!place.closest("[hidden]") && !isDrawn(place)) draw(place);
  for (const place of drawn.values()) if (place.layout) Plotly.relayout(place, { width: PRINTED_WIDTH });
});
addEventListener("afterprint", () => {
  if (!before) return;
  for (const details of before.closed) details.open = false;
  for (const place of drawn.values()) if (place.layout) Plotly.relayout(place, { width: null, autosize: true });
  setTheme(before.theme);
});
