// A notebook as a page: its charts, embedded as pictures, become interactive.
const data = document.getElementById("charts");
if (data && globalThis.vegaEmbed) {
  const specs = JSON.parse(data.textContent);
  for (const figure of document.querySelectorAll("figure[data-chart]")) {
    const spec = specs[Number(figure.dataset.chart)], place = document.createElement("div");
    // ast: Vega's own expression interpreter, since the page's policy forbids eval
    vegaEmbed(place, spec, { actions: false, renderer: "svg", ast: true, mode: "vega-lite" })
      .then(() => figure.replaceChildren(place))
      .catch(error => console.warn("a chart remains a picture:", error));
  }
}
