"use strict";
const blockChoices = [...document.querySelectorAll("select.blocks")];
const ownScales = [...document.querySelectorAll("input.own-scale")];

/** Show the blocks of a menu option: the picked ones, all, or one stage. */
function showBlocks(choice) {
  for (const select of blockChoices) select.value = choice;
  for (const multiple of document.querySelectorAll(".multiple")) {
    const { picked, stage } = multiple.dataset;
    const appears = multiple.hidden;
    multiple.hidden = !(choice === "all" || (choice === "picked" ? picked === "yes" : stage === choice));
    const place = multiple.querySelector(".figure");
    // The window may have been resized while the figure was hidden.
    if (appears && !multiple.hidden && place.querySelector(".main-svg")) Plotly.Plots.resize(place);
  }
}

/** Give a block's figure its own vertical axis or the shared one. */
function scaleFigure(place) {
  if (!place.closest(".multiple")) return;
  const change = ownScales[0].checked ? { "yaxis.autorange": true } : { "yaxis.range": [...pageData.range], "yaxis.autorange": false };
  Plotly.relayout(place, change);
}

for (const select of blockChoices) select.addEventListener("change", () => showBlocks(select.value));
for (const box of ownScales) {
  box.addEventListener("change", () => {
    for (const other of ownScales) other.checked = box.checked;
    for (const place of drawn.values()) scaleFigure(place);
  });
}
for (const event of ["drawn", "redrawn"]) {
  addEventListener(event, ({ target }) => { if (ownScales[0].checked) scaleFigure(target); });
}
