// The page's data and its current selection. The address holds the whole selection: to select is to write it, to show is to read it.

export const data = JSON.parse(document.getElementById("atlas").textContent);
export const find = name => document.querySelector(name);
export const page = { show() {} }; // set by atlas.js

// concept and module path -> the row of the heatmap that describes the cell
export const facts = data.charts.map(chart => {
  const rows = Object.values(chart.spec.datasets).flat().filter(row => "by_group" in row && row.reading);
  return rows.filter(row => chart.map !== null || row.model);
});
// The map that represents a model where all models are shown.
export const mapOf = model => data.maps.findIndex(map => map.model === model);
export const factsOf = (map, concept, site) => facts[data.charts.findIndex(chart => chart.map === map)]?.find(row => row.concept === concept && row.site === site);

const HOME = { view: "atlas", chart: "0", sort: "group", group: "all", unit: "", axis: "", sae: "", feature: "", method: "0", ...data.start };
const read = () => ({ ...HOME, ...Object.fromEntries(new URLSearchParams(location.hash.slice(1))) });
export const state = read();
// The index of a list item, from an address, or 0 if it is not valid.
export const place = (value, count) => (/^\d+$/.test(value) && Number(value) < count ? Number(value) : 0);

export function address(changes) {
  // another concept or layer is another cell: what belonged to the last one is dropped, except the prompt pair of the same concept
  const cell = "concept" in changes || "site" in changes, other = "concept" in changes && changes.concept !== state.concept;
  const next = { ...state, ...(cell ? { axis: "", sae: "", feature: "" } : {}), ...(other ? { unit: "" } : {}), ...changes };
  // never empty, for an empty address leads to the top of the page
  const wanted = Object.entries(next).filter(([name, value]) => String(value) !== String(HOME[name] ?? "") || ["concept", "site"].includes(name));
  return [next, `#${new URLSearchParams(wanted)}`];
}

export function go(changes, step = true) {
  const [next, hash] = address(changes);
  Object.assign(state, next); // at once, so that a second key press counts from the first
  if (hash === (location.hash || "#")) return page.show();
  if (step) location.hash = hash;
  else location.replace(location.href.split("#")[0] + hash); // the whole address, since in a notebook's frame "#..." alone is the notebook's
}

// A click for this page, not for a new tab.
export const plain = event => !(event.ctrlKey || event.metaKey || event.shiftKey || event.button);

// Read the address, and replace what cannot be shown.
export function settle() {
  Object.assign(state, read());
  state.chart = place(state.chart, data.charts.length);
  const chart = data.charts[state.chart];
  // where all models are shown, a model's first map represents it
  state.map = chart.map ?? mapOf(data.maps[place(String(state.map), data.maps.length)].model);
  const map = data.maps[state.map];
  if (!map.concepts.includes(state.concept)) state.concept = map.concepts[0];
  const bare = location.hash.includes("concept=") && !location.hash.includes("site="); // an address written by hand
  if (bare || !map.sites.some(([path]) => path === state.site)) state.site = map.best?.[state.concept] ?? map.sites[0][0];
  if (!["group", "peak", "similarity"].includes(state.sort)) state.sort = HOME.sort;
  if (!facts[state.chart].some(row => row.group === state.group)) state.group = HOME.group;
  if (!["atlas", "steering", "features"].includes(state.view) || !find(`#view-${state.view}`)) state.view = HOME.view;
}
