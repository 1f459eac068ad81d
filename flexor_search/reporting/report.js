// The theme, and the figures that stand in the page as JSON: each is drawn when it comes near the window, and all of them
// before printing. Their colors for light and dark come from the style sheet.
const root = document.documentElement;
const dark = () => (root.style.colorScheme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
document.getElementById("theme").addEventListener("click", () => {
  root.style.colorScheme = dark() ? "light" : "dark";
  try { localStorage.setItem("flexor-search", root.style.colorScheme); } catch { /* a file may have no storage */ }
});

const plots = [...document.querySelectorAll(".plot")];
function library() {
  if (window.Plotly) return;
  const script = document.createElement("script");
  script.textContent = document.getElementById("plotly").textContent;
  document.head.append(script);
}
function draw(plot) {
  if (plot.drawn || !plot.offsetParent) return; // one in a closed tab is drawn when that opens
  plot.drawn = true;
  library();
  const figure = JSON.parse(document.getElementById(plot.id + "-data").textContent);
  // A finger on a figure scrolls the page; with a mouse it zooms.
  if (matchMedia("(pointer: coarse)").matches) figure.layout.dragmode = false;
  Plotly.newPlot(plot, figure.data, figure.layout, { responsive: true, displayModeBar: false });
  plot.on("plotly_click", (event) => {
    const data = event.points[0].customdata;
    if (Array.isArray(data)) dispatchEvent(new CustomEvent("choose", { detail: { trial: data[1], point: event.points[0], plot } }));
  });
}
const watcher = new IntersectionObserver(
  (entries) => entries.forEach((entry) => { if (entry.isIntersecting) { watcher.unobserve(entry.target); draw(entry.target); } }),
  { rootMargin: "300px" },
);
requestAnimationFrame(() => setTimeout(() => plots.forEach((plot) => watcher.observe(plot)))); // the text paints first

const seen = () => plots.filter((plot) => plot.drawn && plot.offsetParent);
addEventListener("beforeprint", () => {
  plots.forEach(draw);
  seen().forEach((plot) => Plotly.relayout(plot, { width: 690 }));
});
addEventListener("afterprint", () => seen().forEach((plot) => Plotly.relayout(plot, { width: null, autosize: true })));

document.querySelectorAll(".copy").forEach((button) => button.addEventListener("click", async () => {
  const code = button.parentElement.querySelector("code");
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
  } catch { // not allowed: mark it, so that it can be copied by hand
    getSelection().selectAllChildren(code);
    button.textContent = "Marked";
  }
  setTimeout(() => (button.textContent = "Copy"), 1500);
}));
