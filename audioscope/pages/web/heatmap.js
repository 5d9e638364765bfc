// The heatmap: drawn once per map, then updated with each selection; a click or an arrow key selects a cell.
import { embed } from "audioscope/charts.js";
import { modified } from "audioscope/player.js";
import { data, facts, find, go, mapOf, state } from "audioscope/state.js";

export const wish = { play: false }; // whether the next cell should play
let heat = null; // Vega's view

export async function drawHeat() {
  heat = null;
  const chart = data.charts[state.chart], spec = structuredClone(chart.spec);
  const given = signals();
  for (const param of spec.params) if (param.name in given) param.value = given[param.name];
  const result = await embed("#chart", spec, { bind: "#menus" });
  heat = result.view;
  heat.addEventListener("click", (event, item) => {
    const row = item?.datum;
    if (!(row?.concept && row.site && row.reading)) return;
    find("#grid").focus({ preventScroll: true }); // for the keys
    choose(row, true);
  });
  heat.addSignalListener("sort_by", (_, value) => value !== state.sort && go({ sort: value }, false));
  heat.addSignalListener("only_group", (_, value) => value !== state.group && go({ group: value }, false));
}

// Update the drawn heatmap with the current selection.
export async function follow() {
  if (!heat) return; // it is being drawn; follow() is called again afterward
  const now = signals();
  for (const [name, value] of Object.entries(now)) if (heat.signal(name) !== value) heat.signal(name, value);
  await heat.runAsync();
  for (const name of ["sort_by", "only_group"]) {
    const menu = find(`#menus [name=${name}]`);
    if (menu) menu.value = now[name];
  }
}

const modelOf = chart => (chart.map === null ? data.maps[state.map].model : "");
const signals = () => ({
  sort_by: state.sort, only_group: state.group, chosen_concept: state.concept, chosen_site: state.site, chosen_model: modelOf(data.charts[state.chart]),
});

// Select the cell of a heatmap's row.
export function choose(row, play) {
  const chart = data.charts[state.chart];
  wish.play = play;
  go({ map: chart.map ?? mapOf(row.model), concept: row.concept, site: row.site });
}

// Concepts and sites in their order on the screen, for the arrow keys.
function lines() {
  const chart = data.charts[state.chart], by = `by_${state.sort}`, map = data.maps[state.map];
  const rows = facts[state.chart].filter(row => (state.group === "all" || row.group === state.group) && (chart.map !== null || row.model === map.model));
  const places = new Map(rows.map(row => [row.concept, row[by]]));
  return { rows, concepts: [...places.keys()].sort((a, b) => places.get(a) - places.get(b)), sites: map.sites.toSorted((a, b) => parseInt(a[1]) - parseInt(b[1])).map(([path]) => path) };
}

find("#grid").addEventListener("keydown", event => {
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  if (modified(event)) return;
  if (event.key === "Enter") return void find("#cell").cell.hear(2);
  if (!step) return;
  event.preventDefault();
  const { rows, concepts, sites } = lines();
  const clamp = (value, list) => list[Math.min(Math.max(value, 0), list.length - 1)];
  const concept = clamp(concepts.indexOf(state.concept) + step[0], concepts), site = clamp(sites.indexOf(state.site) + step[1], sites);
  if (rows.some(each => each.concept === concept && each.site === site)) go({ concept, site }, false);
});
