// Draws the figures that stand in the page as JSON. Their colors for light and dark come from the style sheet.
"use strict";
const plots = [...document.querySelectorAll(".plot")];
for (const plot of plots) {
  const figure = JSON.parse(document.getElementById(plot.id + "-data").textContent);
  // A finger on a figure scrolls the page; with a mouse it zooms.
  if (matchMedia("(pointer: coarse)").matches) figure.layout.dragmode = false;
  Plotly.newPlot(plot, figure.data, figure.layout, { responsive: true, displayModeBar: false });
}
addEventListener("beforeprint", () => plots.forEach((plot) => Plotly.relayout(plot, { width: 690 })));
addEventListener("afterprint", () => plots.forEach((plot) => Plotly.relayout(plot, { width: null, autosize: true })));
