"use strict";
const chosen = new Set(location.hash.startsWith("#trials=") ? location.hash.slice(8).split(",").map(Number) : []);
for (const number of chosen) if (!(number in pageData.hover)) chosen.delete(number);
const panel = document.getElementById("chosen");
const overlays = new Set(["parallel", "objectives"]);
const numbersOf = (trace) => (trace.customdata && !Array.isArray(trace.customdata[0]) ? trace.customdata : null);

/** Choose trials everywhere: in all figures and tables, in the panel and in the page's address. */
function choose(numbers, add = false) {
  const toggled = add || (numbers.length === 1 && chosen.size === 1 && chosen.has(numbers[0]));
  if (!toggled) chosen.clear();
  for (const number of numbers) {
    if (toggled && chosen.has(number)) chosen.delete(number);
    else chosen.add(number);
  }
  show();
}

function show() {
  history.replaceState(null, "", chosen.size ? `#trials=${[...chosen].join(",")}` : location.pathname);
  showInTables();
  showInPanel();
  for (const [name, place] of drawn) showInFigure(name, place);
}

function showInTables() {
  for (const row of document.querySelectorAll("tr[data-trial]")) {
    const one = chosen.has(Number(row.dataset.trial));
    row.classList.toggle("chosen", one);
    row.querySelector("button.trial")?.setAttribute("aria-pressed", one);
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
  const cards = [...chosen].slice(0, 12).map((number) => {
    const card = document.getElementById("card").content.firstElementChild.cloneNode(true);
    card.querySelector(".drawn").innerHTML = coloured(pageData.hover[number]);
    const command = pageData.command.join(number);
    card.querySelector("code").textContent = command;
    card.querySelector(".copy").addEventListener("click", () => copy(command));
    card.querySelector(".drop").addEventListener("click", () => choose([number], true));
    card.querySelector(".drop").setAttribute("aria-label", `Let go of trial ${number}`);
    return card;
  });
  document.getElementById("cards").replaceChildren(...cards);
  document.getElementById("chosen-title").textContent =
    chosen.size === 1 ? "1 trial chosen" : `${chosen.size} trials chosen${chosen.size > 12 ? ", the first 12 shown" : ""}`;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  tell("Copied");
}

function showInFigure(name, place) {
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

/** Draw chosen trials once more above the others, where a figure cannot fade those. */
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

document.addEventListener("drawn", ({ detail: name, target: place }) => {
  place.on("plotly_click", ({ points, event }) => {
    const numbers = points.map(({ customdata }) => (Array.isArray(customdata) ? customdata[0] : customdata));
    const trials = [...new Set(numbers)].filter((number) => number in pageData.hover);
    if (trials.length) choose([trials[0]], event?.shiftKey || event?.ctrlKey || event?.metaKey);
  });
  place.on("plotly_selected", (selection) => {
    const numbers = new Set((selection?.points ?? []).map(({ customdata }) => customdata).filter((number) => number in pageData.hover));
    if (numbers.size) { chosen.clear(); choose([...numbers], true); }
  });
  if (chosen.size) showInFigure(name, place);
});
document.addEventListener("theme", showInPanel);
document.addEventListener("redrawn", ({ detail: name, target: place }) => showInFigure(name, place));

document.addEventListener("click", (event) => {
  const row = event.target.closest("tr[data-trial]");
  if (row && Number(row.dataset.trial) in pageData.hover && !getSelection().toString()) {
    choose([Number(row.dataset.trial)], event.shiftKey || event.ctrlKey || event.metaKey);
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && chosen.size) { chosen.clear(); show(); }
});
document.getElementById("clear").addEventListener("click", () => { chosen.clear(); show(); });

const tools = document.querySelector('.tools[data-table="trials"]');
for (const button of document.querySelectorAll(".counts button")) {
  button.addEventListener("click", () => {
    const on = button.getAttribute("aria-pressed") !== "true";
    for (const other of document.querySelectorAll(".counts button")) other.setAttribute("aria-pressed", other === button && on);
    tools.dataset.state = on ? button.dataset.state : "";
    filterTable(tools);
    tools.closest("details").open = true;
    if (on) tools.scrollIntoView({ block: "start" });
  });
}

if (chosen.size) show();
for (const place of places) watch.observe(place);
if (pageData.live) setTimeout(() => location.reload(), pageData.live * 1000);
