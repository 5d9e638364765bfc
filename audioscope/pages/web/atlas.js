// The atlas page: its views, one of which is shown, and the cell next to the heatmap.
import { Cell } from "audioscope/cell.js";
import { dark, embed } from "audioscope/charts.js";
import { showFeatures } from "audioscope/feature_view.js";
import { choose, drawHeat, follow, wish } from "audioscope/heatmap.js";
import { packs } from "audioscope/packs.js";
import { hush, modified } from "audioscope/player.js";
import { address, data, facts, factsOf, find, go, page, place, plain, settle, state } from "audioscope/state.js";
import { redraw, showSteering, slider } from "audioscope/steering.js";

const shown = {}; // the view, the map and the cell on the screen

// ---- the cell

let scores = null, scoresOf = null; // Vega's view of the chart of scores, and the units it is for
const cell = new Cell(find("#cell"), packs, async (map, rows) => {
  if (scoresOf !== map.number) {
    scoresOf = map.number;
    scores = (await embed("#strip", { ...map.strip, datasets: { ...map.strip.datasets, scores: rows } })).view;
  }
  await scores?.data("scores", rows).runAsync();
});
cell.addEventListener("unit", event => go({ unit: event.detail }, false));

// What the heatmap on the screen says of the cell, which may be another heatmap than that of the impacts.
const shownFacts = map => facts[state.chart].find(row => row.concept === state.concept && row.site === state.site && (!row.model || row.model === map.model));

async function showCell() {
  const map = data.maps[state.map], units = map.units?.[state.concept] ?? [];
  const unit = state.unit === "" ? Math.max(0, units.findIndex(each => each.shown)) : place(state.unit, units.length);
  const row = factsOf(map.number, state.concept, state.site), { play } = wish;
  wish.play = false;
  const layer = map.sites.find(([path]) => path === state.site)[1];
  find("#said").textContent = `${state.concept}, ${map.noun} ${layer}: ${(shownFacts(map) ?? row)?.reading ?? "not measured"}`;
  find(".related").replaceChildren(...related(map));
  if (play) cell.choose(2);
  await cell.show(map, row, state.concept, state.site, unit);
  if (state.view !== "atlas") return cell.player.pause(); // the view was left while the sound was loading
  if (play && cell.player.sounds.length && !cell.player.wanted) await cell.player.play();
  // on a narrow screen, the cell is below the heatmap
  const smooth = matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth";
  if (play && cell.root.getBoundingClientRect().top > innerHeight - 200) cell.root.scrollIntoView({ behavior: smooth });
}

// Links to the inside of this layer in other maps of the model, such as its heads, and to what it is inside of: to the strongest there.
function related(map) {
  return data.charts.flatMap((chart, number) => {
    const other = data.maps[chart.map];
    if (!other || other === map || chart.kind !== "impact" || other.model !== map.model) return [];
    const within = row => row.site.startsWith(`${state.site}.`), around = row => state.site.startsWith(`${row.site}.`);
    const rows = facts[number].filter(row => row.concept === state.concept && (within(row) || around(row)));
    if (!rows.length) return [];
    const best = rows.reduce((one, row) => (Math.abs(row.impact ?? 0) > Math.abs(one.impact ?? 0) ? row : one)), link = document.createElement("a");
    link.href = address({ chart: number, concept: state.concept, site: best.site })[1];
    link.textContent = `${within(best) ? "Inside" : "Around"}: ${best.layer} of ${other.name}, ${best.reading}`;
    return [link, document.createElement("br")];
  });
}

// Single keys act only if the focus is on the heatmap, the cell or the steering view.
document.addEventListener("keydown", event => {
  if (modified(event) || event.target.closest("input, select, textarea, summary")) return;
  const version = { a: 0, b: 1, x: 2 }[event.key.toLowerCase()];
  const player = event.target.closest("#grid, #cell") ? cell.player : event.target.closest("#view-steering") ? slider.player : null;
  if (!player?.sounds.length) return;
  if (player === cell.player && version !== undefined) cell.hear(version);
  else if (event.key === " " && !event.target.closest("button, a")) {
    event.preventDefault();
    player.toggle();
  }
});

// ---- the views

page.show = async () => {
  find("#error").textContent = "";
  try {
    settle();
    showTabs();
    if (state.view === "atlas") await showAtlas(data.charts[state.chart]);
    if (state.view === "steering") await showSteering();
    if (state.view === "features") await showFeatures();
  } catch (error) {
    find("#error").textContent = String(error.message ?? error);
  }
  document.body.dataset.ready = "true";
};

function showTabs() {
  for (const section of document.querySelectorAll("[id^=view-]")) section.hidden = section.id !== `view-${state.view}`;
  for (const link of document.querySelectorAll("a[data-view]")) {
    if (link.dataset.view === state.view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
    link.href = address({ view: link.dataset.view })[1];
  }
  if (shown.view !== state.view && shown.view) hush();
  shown.view = state.view;
}

async function showAtlas(chart) {
  const look = `${state.chart} ${dark.matches}`;
  if (look === shown.chart) {
    await Promise.all([showNewCell(), follow()]); // the cell first, since that was requested
    return;
  }
  shown.chart = look;
  find("#map").value = state.chart;
  find("#map-title").textContent = chart.title;
  find("#map-notes").textContent = chart.notes;
  find("#chart").setAttribute("aria-label", chart.spec.description);
  find(".two").classList.toggle("wide", chart.wide);
  await drawHeat();
  await follow();
  await showNewCell();
}

async function showNewCell() {
  const now = [state.map, state.concept, state.site, state.unit].join(" "), { kind } = data.charts[state.chart];
  for (const table of document.querySelectorAll("#tables > div")) table.hidden = Number(table.dataset.map) !== state.map || table.dataset.kind !== kind;
  if (now === shown.cell && !wish.play) return;
  shown.cell = now;
  try {
    await showCell();
  } catch (error) {
    if (shown.cell !== now) return; // for a cell that is no longer requested
    shown.cell = null; // to try again
    if (state.view === "atlas") throw error;
  }
}

// ---- clicks

find("#map").addEventListener("change", event => go({ chart: event.target.value }));
for (const link of document.querySelectorAll("a[data-view]")) {
  link.addEventListener("click", event => {
    if (!plain(event)) return;
    event.preventDefault();
    go({ view: link.dataset.view });
  });
}
find("#tables").addEventListener("click", event => {
  const cell = event.target.closest("a")?.closest("td");
  if (!cell) return;
  event.preventDefault();
  const site = cell.closest("table").tHead.rows[0].cells[cell.cellIndex].title;
  choose({ concept: cell.parentElement.cells[0].textContent, site, model: data.maps[state.map].model }, true);
});
addEventListener("hashchange", page.show);
dark.addEventListener("change", () => {
  shown.chart = shown.cell = scoresOf = null;
  redraw();
  page.show();
});
page.show();
