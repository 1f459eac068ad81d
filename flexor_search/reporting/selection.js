// The selected model: its facts, its layers and its export command, and a ring around it in the figure.
const panel = document.getElementById("selected");
if (panel) {
  const data = JSON.parse(document.getElementById("selection-data").textContent);
  const part = (name) => panel.querySelector("." + name);
  const chip = (name, rate) => {
    const item = document.createElement("li");
    const share = data.shares[rate];
    item.className = share === null ? "kept" : "";
    item.style.setProperty("--share", share || 0);
    const [label, value] = [document.createElement("span"), document.createElement("b")];
    label.textContent = name || "(model)";
    value.textContent = rate;
    item.append(label, value);
    return item;
  };
  const show = (number) => {
    const trial = data.trials[number];
    if (!trial) return;
    part("number").textContent = number;
    part("kind").textContent = trial.kind;
    part("facts").textContent = trial.facts;
    part("chips").replaceChildren(...trial.rates.map((rate, i) => chip(data.layers[i], rate)));
    const left = trial.state === "done";
    part("command").hidden = !left; // what was stopped or failed left no model
    part("command").querySelector("code").textContent = data.command.replace("'{trial}'", number);
  };
  // A new ring takes the place of the last one, which is the last trace of its figure.
  let ringed = null;
  const ring = (plot, point) => {
    if (ringed) Plotly.deleteTraces(ringed, -1);
    const { xaxis = "x", yaxis = "y" } = point.data;
    const marker = { symbol: "circle-open", size: 17, color: "#e0439b", line: { width: 2.5 } };
    const trace = { x: [point.x], y: [point.y], xaxis, yaxis, mode: "markers", marker, hoverinfo: "skip", cliponaxis: false };
    Plotly.addTraces(plot, { ...trace, name: "selected", type: "scatter" });
    ringed = plot;
  };
  addEventListener("choose", ({ detail }) => {
    if (!data.trials[detail.trial]) return; // a published figure
    show(String(detail.trial));
    ring(detail.plot, detail.point);
  });
  document.querySelectorAll("[data-trial]").forEach((link) => link.addEventListener("click", () => show(link.dataset.trial)));
}
