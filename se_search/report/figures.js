"use strict";
const darkPreferred = matchMedia("(prefers-color-scheme: dark)");
const drawn = new Map();

function recall(key) { try { return localStorage.getItem(key); } catch { return null; } }
function remember(key, value) { try { localStorage.setItem(key, value); } catch { /* a page that is only looked at */ } }

/** A text with the colours of the theme in it. */
function coloured(text) {
  if (document.documentElement.dataset.theme !== "dark") return text;
  return Object.entries(darkColours).reduce((done, [light, dark]) => done.replaceAll(light, dark), text);
}

/** A figure's data in the colours of the theme, with the texts of its trials. */
function themed(figure) {
  const copy = JSON.parse(coloured(JSON.stringify(figure)));
  for (const trace of copy.data) {
    if (pageData.hover && trace.customdata && !trace.text && !Array.isArray(trace.customdata[0])) {
      trace.text = trace.customdata.map((number) => coloured(pageData.hover[number] ?? ""));
    }
  }
  return copy;
}

function draw(place) {
  const name = place.id.replace("figure-", "");
  const { data, layout } = themed(drawings[name]);
  const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "autoScale2d"] };
  const first = !drawn.has(name);
  drawn.set(name, place);
  return Plotly.react(place, data, layout, config).then(() => {
    place.dispatchEvent(new CustomEvent(first ? "drawn" : "redrawn", { bubbles: true, detail: name }));
  });
}

const places = [...document.querySelectorAll(".figure")];
const watch = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) { watch.unobserve(entry.target); draw(entry.target); }
  }
}, { rootMargin: "300px" });

function setTheme(theme) {
  if (theme === document.documentElement.dataset.theme) return;
  document.documentElement.dataset.theme = theme;
  for (const square of document.querySelectorAll("[data-colour]")) square.style.background = coloured(square.dataset.colour);
  for (const place of drawn.values()) draw(place);
  document.dispatchEvent(new Event("theme"));
}

setTheme(recall("se-search-theme") ?? (darkPreferred.matches ? "dark" : "light"));
darkPreferred.addEventListener("change", (event) => { if (!recall("se-search-theme")) setTheme(event.matches ? "dark" : "light"); });
document.getElementById("theme").addEventListener("click", () => {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  remember("se-search-theme", theme);
  setTheme(theme);
});
let before = null;
addEventListener("beforeprint", () => {
  before = document.documentElement.dataset.theme;
  setTheme("light");
  for (const place of places) if (!place.closest("[hidden]") && !drawn.has(place.id.replace("figure-", ""))) draw(place);
});
addEventListener("afterprint", () => { if (before) setTheme(before); });
