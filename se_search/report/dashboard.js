"use strict";
const chosen = new Set();
const stale = new Set();
const panel = document.getElementById("chosen");
const several = document.getElementById("several");
const overlays = new Set(["parallel", "objectives"]);
const intervals = document.getElementById("intervals");
const logarithmic = document.getElementById("logarithmic");
const scattered = new Set(["overhead", "latency"]);
const numbersOf = (trace) => (trace.customdata && !Array.isArray(trace.customdata[0]) ? trace.customdata : null);

function readAddress() {
  const listed = location.hash.match(/^#trials=([\d,]+)$/)?.[1].split(",").filter(Boolean) ?? [];
  chosen.clear();
  for (const number of listed.map(Number)) if (number in pageData.hover) chosen.add(number);
}

function writeAddress() {
  const address = chosen.size ? `#trials=${[...chosen].join(",")}` : location.pathname + location.search;
  try { history.replaceState(null, "", address); } catch { /* an embedded page has no address */ }
}

/** Select trials in all figures and tables, the panel and the page's address; keep what ends at `bottom` above the panel. */
function choose(numbers, more = false, bottom = 0) {
  const add = more || several.getAttribute("aria-pressed") === "true";
  const toggled = add || (numbers.length === 1 && chosen.size === 1 && chosen.has(numbers[0]));
  if (!toggled) chosen.clear();
  for (const number of numbers) {
    if (toggled && chosen.has(number)) chosen.delete(number);
    else chosen.add(number);
  }
  show();
  const covered = bottom + 24 - panel.getBoundingClientRect().top;
  if (!panel.hidden && covered > 0) scrollBy(0, covered);
}

function show() {
  showInTables();
  showInPanel();
  for (const [name, place] of drawn) {
    if (near.has(place)) showInFigure(name, place);
    else stale.add(name);
  }
  writeAddress();
  tell(chosen.size === 0 ? "No trial selected" : document.getElementById("chosen-title").textContent);
}

function showInTables() {
  for (const row of document.querySelectorAll("tr[data-trial]")) {
    const one = chosen.has(Number(row.dataset.trial));
    row.classList.toggle("chosen", one);
    row.querySelector("button.trial")?.setAttribute("aria-pressed", one);
  }
  for (const button of document.querySelectorAll("button[data-choose]")) {
    button.setAttribute("aria-pressed", chosen.has(Number(button.dataset.choose)));
  }
  for (const scroll of document.querySelectorAll(".scroll")) {
    const row = scroll.querySelector("tr.chosen:not([hidden])");
    if (!row) continue;
    const head = scroll.querySelector("thead").offsetHeight;
    const above = row.offsetTop - head < scroll.scrollTop;
    if (above || row.offsetTop + row.offsetHeight > scroll.scrollTop + scroll.clientHeight) scroll.scrollTop = row.offsetTop - head;
  }
}

function showInPanel() {
  panel.hidden = chosen.size === 0;
  document.body.classList.toggle("choosing", chosen.size > 0);
  const cards = [...chosen].sort((a, b) => a - b).slice(0, 12).map((number) => {
    const card = document.getElementById("card").content.firstElementChild.cloneNode(true);
    card.querySelector(".drawn").innerHTML = coloured(pageData.hover[number]);
    const command = pageData.command.join(number) + (pageData.verified.includes(number) ? " --verified" : "");
    card.querySelector("code").textContent = command;
    card.querySelector(".copy").addEventListener("click", () => copy(command, card.querySelector("code")));
    card.querySelector(".drop").addEventListener("click", () => {
      choose([number], true);
      (panel.querySelector(".drop") ?? document.querySelector(`#front tr[data-trial="${number}"] button.trial`))?.focus();
    });
    card.querySelector(".drop").setAttribute("aria-label", `Deselect trial ${number}`);
    return card;
  });
  document.getElementById("cards").replaceChildren(...cards);
  document.getElementById("chosen-title").textContent =
    chosen.size === 1 ? "1 trial selected" : `${chosen.size} trials selected${chosen.size > 12 ? ", the first 12 shown" : ""}`;
}

async function copy(text, shown) {
  try {
    await navigator.clipboard.writeText(text);
    tell("Copied");
  } catch {
    getSelection().selectAllChildren(shown);
    tell(document.execCommand("copy") ? "Copied" : "The browser blocks copying: the command is selected, press Ctrl+C");
  }
}

function showInFigure(name, place) {
  if (!place.data) return; // not drawn: WebGL is off
  if (name === "heat_map") {
    const columns = place.data[0]?.customdata?.[0] ?? [];
    const frames = columns.flatMap((number, index) => (chosen.has(number) ? [{
      type: "rect", xref: "x", yref: "paper", x0: index - 0.5, x1: index + 0.5, y0: 0, y1: 1,
      line: { color: accent(), width: 3 }, name: "chosen",
    }] : []));
    const others = (place.layout.shapes ?? []).filter((shape) => shape.name !== "chosen");
    Plotly.relayout(place, { shapes: [...others, ...frames] });
    return;
  }
  if (overlays.has(name)) {
    showOverlay(place);
    return;
  }
  const traces = place.data.flatMap((trace, index) => (numbersOf(trace) && trace.mode !== "lines" ? [index] : []));
  if (!traces.length) return;
  const selectedpoints = traces.map((index) => (chosen.size === 0 ? null
    : numbersOf(place.data[index]).flatMap((number, point) => (chosen.has(number) ? [point] : []))));
  Plotly.restyle(place, { selectedpoints }, traces);
  if (place.layout.selections?.length) Plotly.relayout(place, { selections: [] });
}

const accent = () => getComputedStyle(document.documentElement).getPropertyValue("--warm").trim();

/** Draw selected trials again on top, in figures that cannot fade the others. */
function showOverlay(place) {
  const last = place.data.length - 1;
  const own = place.data[last].name === "chosen";
  const traces = own ? place.data.slice(0, -1) : place.data;
  const axes = ["x", "y", "z"].filter((axis) => traces.some((trace) => trace[axis]));
  const points = Object.fromEntries(axes.map((axis) => [axis, []]));
  for (const number of chosen) {
    for (const trace of traces) {
      (numbersOf(trace) ?? []).forEach((one, index) => {
        if (one === number) for (const axis of axes) points[axis].push(trace[axis][index]);
      });
    }
    for (const axis of axes) points[axis].push(null);
  }
  if (own) {
    Plotly.restyle(place, Object.fromEntries(axes.map((axis) => [axis, [points[axis]]])), [last]);
  } else if (chosen.size) {
    const flat = axes.length === 2;
    Plotly.addTraces(place, {
      type: traces[0].type, ...points, name: "chosen", showlegend: false, hoverinfo: "skip",
      mode: flat ? "lines+markers" : "markers", line: { color: accent(), width: 3 },
      marker: { color: accent(), size: flat ? 7 : 11, symbol: flat ? "circle" : "diamond-open", line: { color: accent(), width: 3 } },
    });
  }
}

/** Show costs on a logarithmic axis, with 0 at its left end. */
function useLogarithms(data, layout) {
  const costs = data.flatMap(({ x }) => (x ?? []).filter((cost) => cost !== null));
  const least = Math.min(...costs.filter((cost) => cost > 0));
  if (!Number.isFinite(least)) return;
  const place = (cost) => (cost === 0 ? least / 3 : cost);
  const most = Math.max(...costs, ...(layout.shapes ?? []).map(({ x0 }) => x0));
  for (const trace of data) if (trace.x) trace.x = trace.x.map(place);
  for (const shape of layout.shapes ?? []) { shape.x0 = place(shape.x0); shape.x1 = place(shape.x1); }
  for (const label of layout.annotations ?? []) if (label.xref !== "paper") label.x = Math.log10(place(label.x));
  const low = costs.includes(0) ? least / 3 : least;
  const margin = 0.05 * Math.log10(most / low) || 0.1;
  Object.assign(layout.xaxis, { type: "log", range: [Math.log10(low) - margin, Math.log10(most) + margin] });
  if (low < least) {
    const ticks = [];
    for (let power = Math.floor(Math.log10(least)); power <= Math.log10(most); power += 1) {
      ticks.push(...[1, 2, 5].map((digit) => Number(`${digit}e${power}`)).filter((tick) => tick >= least / 1.5 && tick <= most * 1.1));
    }
    Object.assign(layout.xaxis, { tickvals: [low, ...ticks], ticktext: ["0", ...ticks.map(String)] });
  }
}

adjustments.push((name, data, layout) => {
  if (!scattered.has(name)) return;
  if (!intervals.checked) for (const trace of data) { delete trace.error_x; delete trace.error_y; }
  if (logarithmic?.checked) useLogarithms(data, layout);
});
for (const box of [intervals, logarithmic]) {
  box?.addEventListener("change", () => { for (const [name, place] of drawn) if (scattered.has(name)) draw(place); });
}

document.addEventListener("drawn", ({ detail: name, target: place }) => {
  place.on("plotly_click", ({ points, event }) => {
    const numbers = points.map(({ customdata }) => (Array.isArray(customdata) ? customdata[0] : customdata));
    const trials = [...new Set(numbers)].filter((number) => number in pageData.hover);
    if (trials.length) choose([trials[0]], event?.shiftKey || event?.ctrlKey || event?.metaKey, event?.clientY);
  });
  place.on("plotly_selected", (selection) => {
    const numbers = new Set((selection?.points ?? []).map(({ customdata }) => customdata).filter((number) => number in pageData.hover));
    if (numbers.size) { chosen.clear(); choose([...numbers], true); }
  });
  if (chosen.size) showInFigure(name, place);
});
document.addEventListener("near", ({ target: place }) => {
  const name = nameOf(place);
  if (stale.delete(name)) showInFigure(name, place);
});
document.addEventListener("theme", showInPanel);
document.addEventListener("redrawn", ({ detail: name, target: place }) => showInFigure(name, place));

for (const button of document.querySelectorAll("button[data-copies]")) {
  const shown = document.getElementById(button.dataset.copies);
  button.addEventListener("click", () => copy(shown.textContent, shown));
}

for (const button of document.querySelectorAll("button[data-choose]")) {
  button.addEventListener("click", (event) => choose([Number(button.dataset.choose)], event.shiftKey || event.ctrlKey || event.metaKey));
}

document.addEventListener("click", (event) => {
  const row = event.target.closest("tr[data-trial]");
  if (row && Number(row.dataset.trial) in pageData.hover && !getSelection().toString()) {
    choose([Number(row.dataset.trial)], event.shiftKey || event.ctrlKey || event.metaKey, row.getBoundingClientRect().bottom);
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && chosen.size && !event.target.matches("input, select")) { chosen.clear(); show(); }
});
addEventListener("hashchange", () => { readAddress(); show(); });
several.addEventListener("click", () => several.setAttribute("aria-pressed", several.getAttribute("aria-pressed") !== "true"));
document.getElementById("fold").addEventListener("click", (event) => {
  const folded = document.getElementById("cards").toggleAttribute("hidden");
  event.target.textContent = folded ? "Expand" : "Collapse";
  event.target.setAttribute("aria-expanded", !folded);
});
document.getElementById("clear").addEventListener("click", () => { chosen.clear(); show(); });

const tools = document.querySelector('.tools[data-table="trials"]');
const states = [...document.querySelectorAll(".counts button")];

/** List the trials of one state, or all with "". */
function listState(state) {
  for (const button of states) button.setAttribute("aria-pressed", button.dataset.state === state);
  tools.dataset.state = state;
  filterTable(tools);
}

for (const button of states) {
  button.addEventListener("click", () => {
    const on = button.getAttribute("aria-pressed") !== "true";
    listState(on ? button.dataset.state : "");
    tools.closest("details").open = true;
    if (on) tools.scrollIntoView({ block: "start" });
  });
}

/** Reload a live page and keep its state; wait while the user types. */
function reload() {
  if (document.activeElement.matches("input") || document.hidden) { setTimeout(reload, 1000); return; }
  const kept = {
    open: [...document.querySelectorAll("details")].map((details) => details.open),
    words: [...document.querySelectorAll(".tools input")].map((input) => input.value),
    state: tools?.dataset.state ?? "",
    place: scrollY,
  };
  try { sessionStorage.setItem("se-search-kept", JSON.stringify(kept)); } catch { /* the state is lost */ }
  location.reload();
}

function restoreKept() {
  let kept = null;
  try { kept = JSON.parse(sessionStorage.getItem("se-search-kept")); } catch { /* no state */ }
  if (!kept) return;
  document.querySelectorAll("details").forEach((details, index) => { details.open = kept.open[index] ?? false; });
  document.querySelectorAll(".tools input").forEach((input, index) => { input.value = kept.words[index] ?? ""; });
  if (tools) listState(kept.state);
  document.querySelectorAll(".tools[data-table]").forEach(filterTable);
  scrollTo(0, kept.place);
}

readAddress();
if (chosen.size) show();
if (pageData.live) {
  restoreKept();
  setTimeout(reload, pageData.live * 1000);
}
