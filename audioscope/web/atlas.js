// The atlas: its views, the links between them, and the address that opens any of them again.
import { Cell } from "./cell.js";
import { Slider } from "./slider.js";
import { wireFigures, wireSearch } from "./features.js";
import { signed } from "./player.js";

const data = JSON.parse(document.getElementById("atlas").textContent);
const find = name => document.querySelector(name);
const dark = matchMedia("(prefers-color-scheme: dark)");

// Packs of sound: in the page, or in scripts beside it, since a page opened from a disk may load nothing else.
const arriving = new Map();
window.audioscopePack = (name, content) => arriving.get(name)?.(content);
const packs = {
  opened: new Map(),
  // The pack, if it holds all these names; null where it does not.
  async open(name, wanted) {
    if (!wanted.every(each => data.packs[name]?.includes(String(each)))) return null;
    if (!this.opened.has(name)) {
      const inside = document.getElementById(`pack-${name}`);
      this.opened.set(name, inside ? Promise.resolve(JSON.parse(inside.textContent)) : this.load(name));
    }
    return this.opened.get(name);
  },
  load(name) {
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      arriving.set(name, resolve);
      script.src = `packs/${name}.js`;
      script.onerror = () => reject(new Error(`packs/${name}.js could not be loaded.`));
      document.head.append(script);
    });
  },
};

// What is shown is what the address says: every choice writes it, and reading it shows the choice.
const HOME = { view: "atlas", chart: "0", sort: "group", group: "all", unit: "", sae: "", feature: "", arm: "0", ...data.start };
const read = () => ({ ...HOME, ...Object.fromEntries(new URLSearchParams(location.hash.slice(1))) });
let state = read(), shown = {};

function go(changes, step = true) {
  const next = { ...state, ...changes }, moved = ["map", "concept", "site"].some(name => String(next[name]) !== String(HOME[name]));
  const wanted = Object.entries(next).filter(([name, value]) => String(value) !== String(HOME[name] ?? "") || (moved && ["concept", "site"].includes(name)));
  const hash = `#${new URLSearchParams(wanted)}`;
  state = next; // at once, so that a second key counts from the first
  if (hash === (location.hash || "#")) return show();
  if (step) location.hash = hash;
  else location.replace(hash);
}

// ---- the heatmap

let heat = null; // Vega's view of the heatmap
const chartOf = number => data.charts[number] ?? data.charts[0];
// concept and module path -> the row of the heatmap that says what the cell is
const facts = data.charts.map(chart => {
  const rows = Object.values(chart.spec.datasets).flat().filter(row => "by_group" in row && "reading" in row);
  return rows.filter(row => chart.map !== null || row.model);
});
const factsOf = (map, concept, site) => facts[data.charts.findIndex(chart => chart.map === map)]?.find(row => row.concept === concept && row.site === site);

async function drawHeat() {
  const chart = chartOf(state.chart), spec = structuredClone(chart.spec);
  const given = signals();
  for (const param of spec.params) if (param.name in given) param.value = given[param.name];
  const result = await embed("#chart", spec, { bind: "#menus" });
  heat = result.view;
  heat.addEventListener("click", (event, item) => {
    const row = item?.datum;
    if (row?.concept && row.site && row.defined !== undefined) choose(row, true);
  });
  heat.addSignalListener("sort_by", (_, value) => value !== state.sort && go({ sort: value }, false));
  heat.addSignalListener("only_group", (_, value) => value !== state.group && go({ group: value }, false));
}

function embed(place, spec, more = {}) {
  // ast: Vega's own expression interpreter, so that the page's policy can forbid eval
  const options = { actions: false, renderer: "svg", ast: true, tooltip: { theme: dark.matches ? "dark" : "light" }, ...more };
  return vegaEmbed(place, { ...spec, config: data.themes[dark.matches ? 1 : 0] }, options);
}

const modelOf = chart => (chart.map === null ? data.maps[state.map].model : "");
const signals = () => ({
  sort_by: state.sort, only_group: state.group, chosen_concept: state.concept, chosen_site: state.site, chosen_model: modelOf(chartOf(state.chart)),
});

// Choose the cell of a heatmap's row.
function choose(row, play) {
  const chart = chartOf(state.chart);
  const map = chart.map ?? data.maps.findIndex(each => each.model === row.model);
  wish = play;
  go({ map, concept: row.concept, site: row.site, unit: "" });
}
let wish = false; // whether the next cell is to play

// Concepts and sites as they stand on the screen, for the arrow keys.
function lines() {
  const chart = chartOf(state.chart), by = `by_${state.sort}`, map = data.maps[state.map];
  const rows = facts[state.chart].filter(row => (state.group === "all" || row.group === state.group) && (chart.map !== null || row.model === map.model));
  const places = new Map(rows.map(row => [row.concept, row[by]]));
  return { rows, concepts: [...places.keys()].sort((a, b) => places.get(a) - places.get(b)), sites: map.sites.map(([path]) => path) };
}

find("#grid").addEventListener("keydown", event => {
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  if (event.key === "Enter") return void cell.hear(2);
  if (!step) return;
  event.preventDefault();
  const { rows, concepts, sites } = lines();
  const clamp = (value, list) => list[Math.min(Math.max(value, 0), list.length - 1)];
  const concept = clamp(concepts.indexOf(state.concept) + step[0], concepts), site = clamp(sites.indexOf(state.site) + step[1], sites);
  const row = rows.find(each => each.concept === concept && each.site === site);
  if (row) go({ concept, site, unit: "" }, false);
});

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

async function showCell() {
  const map = data.maps[state.map], units = map.units?.[state.concept] ?? [];
  const unit = state.unit === "" ? Math.max(0, units.findIndex(each => each.shown)) : Number(state.unit);
  const row = factsOf(map.number, state.concept, state.site), play = wish;
  wish = false;
  if (play) cell.choose(2);
  await cell.show(map, row, state.concept, state.site, Math.min(unit, units.length - 1));
  if (play && cell.player.sounds.length) await cell.player.play();
  // on a narrow screen the cell stands below the heatmap
  if (play && cell.root.getBoundingClientRect().top > innerHeight - 200) cell.root.scrollIntoView({ behavior: "smooth" });
  find("#said").textContent = `${state.concept}, layer ${map.sites.find(([path]) => path === state.site)?.[1]}: ${row ? row.reading : "not measured"}`;
  for (const link of document.querySelectorAll("[data-go]")) link.hidden = !find(`#view-${link.dataset.go}`);
}

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, summary")) return;
  const version = { a: 0, b: 1, x: 2 }[event.key.toLowerCase()];
  if (state.view === "atlas" && version !== undefined && !find(".listen").hidden) cell.hear(version);
  else if (event.key === " " && !event.target.closest("button, a")) {
    const player = { atlas: cell.player, steering: slider?.player }[state.view];
    if (player?.sounds.length) { event.preventDefault(); player.toggle(); }
  }
});

// ---- steering

const slider = find("#view-steering") && new Slider(find("#view-steering .slider"));
let curve = null;
const axisOf = concept => data.steering.findIndex(each => each.concept === concept || each.opposite === concept);

async function showSteering() {
  const number = axisOf(state.concept), axis = data.steering[number], view = find("#view-steering");
  find("#axis").value = number >= 0 ? data.steering[number].concept : "";
  view.querySelector(".there").hidden = !axis;
  view.querySelector(".missing").textContent = axis ? "" : `${state.concept} was not steered: choose another concept.`;
  if (!axis) return slider.player.pause();
  if (shown.axis !== number) {
    shown.axis = number;
    view.querySelector("h2").textContent = axis.title;
    view.querySelector(".said-prompt").textContent = axis.text;
    const wanted = axis.arms.flatMap(arm => arm.clips), pack = await packs.open(`s${number}`, wanted);
    view.querySelector(".slider").hidden = !pack;
    view.querySelector(".missing").textContent = pack ? "" : "These clips are not in this file; the folder made by save_site has them.";
    arms(axis);
    if (pack) slider.set(axis.arms.map(arm => ({ ...arm, sounds: arm.clips.map(name => pack[name]) })), Number(state.arm), axis.seconds);
    else slider.player.pause();
    const points = axis.arms.map(({ cell, points }) => ({ cell, distance: 0, score: points[0][1] }));
    curve = (await embed("#curve", { ...axis.chart, datasets: { ...axis.chart.datasets, now: points } })).view;
  }
  chooseArm(axis);
  moved();
}

function arms(axis) {
  find("#arms").replaceChildren(...axis.arms.map((arm, i) => {
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.append(arm.label, document.createElement("span"));
    button.addEventListener("click", () => go({ arm: i }, false));
    return button;
  }));
}

function chooseArm(axis) {
  const arm = Math.min(Number(state.arm), axis.arms.length - 1);
  [...find("#arms").children].forEach((button, i) => button.setAttribute("aria-pressed", String(i === arm)));
  if (slider.tracks && slider.track !== arm) slider.choose(arm);
}

// The point of each arm at the slider's place: on the curve, and in words.
function moved() {
  const axis = data.steering[shown.axis], place = slider.tracks ? slider.place : 0;
  if (!axis || !slider.tracks) return;
  const points = axis.arms.map((arm, i) => {
    const low = Math.min(Math.floor(place), arm.points.length - 2), share = place - low;
    const [distance, score] = [0, 1].map(j => arm.points[low][j] + share * (arm.points[low + 1][j] - arm.points[low][j]));
    find("#arms").children[i].querySelector("span").textContent = `score ${signed(score)}, distance ${Math.abs(distance).toFixed(3)}`;
    return { cell: arm.cell, distance, score };
  });
  curve?.data("now", points).run();
}
if (slider) {
  slider.addEventListener("input", moved);
  find("#axis").addEventListener("change", event => go({ concept: event.target.value, unit: "" }));
}

// ---- features

const lists = [...document.querySelectorAll(".feature-list")];
lists.forEach((list, i) => {
  wireSearch(list);
  list.querySelector("tbody").addEventListener("click", event => {
    const link = event.target.closest("a");
    if (!link) return;
    event.preventDefault();
    const row = link.closest("tr");
    go({ sae: i, feature: row.dataset.feature, ...(row.dataset.concept ? { concept: row.dataset.concept, unit: "" } : {}) });
  });
});
find("#sae")?.addEventListener("change", event => go({ sae: event.target.value, feature: "", ...siteOf(event.target.value) }));
const siteOf = number => (data.maps[state.map].sites.some(([path]) => path === data.saes[number].site) ? { site: data.saes[number].site } : {});

async function showFeatures() {
  const same = data.saes.findIndex(sae => sae.site === state.site);
  const number = state.sae !== "" && state.feature !== "" ? Number(state.sae) : same >= 0 ? same : Number(state.sae || 0);
  find("#sae").value = number;
  lists.forEach((list, i) => (list.hidden = i !== number));
  const rows = [...lists[number].querySelectorAll("tbody tr")];
  for (const row of rows) {
    row.classList.toggle("same", row.dataset.concept === state.concept);
    row.classList.toggle("open", row.dataset.feature === state.feature);
  }
  const held = name => `f${number}-${name}` in data.packs;
  const mine = rows.find(row => row.dataset.concept === state.concept && held(row.dataset.feature));
  const feature = state.feature || mine?.dataset.feature || rows.find(row => held(row.dataset.feature))?.dataset.feature || "";
  const name = `f${number}-${feature}`;
  if (shown.feature === name) return;
  shown.feature = name;
  const place = find("#feature"), pack = await packs.open(name, ["html"]);
  for (const figure of place.querySelectorAll("figure.clip")) figure.player?.pause();
  if (!pack) return void (place.textContent = "This feature's clips are not in this file; the folder made by save_site has them.");
  place.innerHTML = pack.html; // our own template, in which all text is escaped
  wireFigures(place);
  for (const link of place.querySelectorAll("[data-feature]")) {
    link.addEventListener("click", event => { event.preventDefault(); go({ sae: number, feature: link.dataset.feature }); });
  }
}

// ---- the page

async function show() {
  const next = read();
  state = next;
  state.map = Math.min(Number(state.map ?? 0), data.maps.length - 1);
  if (!chartOf(state.chart) || !data.charts[state.chart]) state.chart = "0";
  const chart = chartOf(state.chart);
  if (chart.map !== null) state.map = chart.map;
  const map = data.maps[state.map];
  if (!map.concepts.includes(state.concept)) state.concept = map.concepts[0];
  const bare = location.hash.includes("concept=") && !location.hash.includes("site="); // an address written by hand
  if (bare || !map.sites.some(([path]) => path === state.site)) state.site = map.best?.[state.concept] ?? map.sites[0][0];
  if (!find(`#view-${CSS.escape(state.view)}`)) state.view = "atlas";
  for (const section of document.querySelectorAll("[id^=view-]")) section.hidden = section.id !== `view-${state.view}`;
  for (const link of document.querySelectorAll(".tabs a")) {
    if (link.dataset.view === state.view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (shown.view !== state.view) {
    if (shown.view === "atlas") cell.player.pause();
    if (shown.view === "steering") slider.player.pause();
    shown.view = state.view;
  }
  try {
    if (state.view === "atlas") await showAtlas(chart);
    if (state.view === "steering") await showSteering();
    if (state.view === "features") await showFeatures();
  } catch (error) {
    find("#error").textContent = String(error.message ?? error);
    throw error;
  }
  document.body.dataset.ready = "true";
}

async function showAtlas(chart) {
  const look = `${state.chart} ${dark.matches}`;
  if (look === shown.chart) {
    showNewCell(); // first, since it is what was asked for
    await follow();
    return;
  }
  shown.chart = look;
  find("#map").value = state.chart;
  find("#map-title").textContent = chart.title;
  find("#map-notes").textContent = chart.notes;
  find("#chart").setAttribute("aria-label", chart.spec.description);
  find(".two").classList.toggle("wide", chart.wide);
  for (const table of document.querySelectorAll("#tables > div")) table.hidden = Number(table.dataset.map) !== state.map;
  await drawHeat();
  showNewCell();
}

function showNewCell() {
  const now = [state.map, state.concept, state.site, state.unit].join(" ");
  if (now === shown.cell && !wish) return;
  shown.cell = now;
  showCell();
}

// The heatmap as drawn follows the choices.
async function follow() {
  const now = signals();
  for (const [name, value] of Object.entries(now)) if (heat.signal(name) !== value) heat.signal(name, value);
  await heat.runAsync();
  for (const name of ["sort_by", "only_group"]) {
    const menu = find(`#menus [name=${name}]`);
    if (menu) menu.value = now[name];
  }
}

find("#map").addEventListener("change", event => go({ chart: event.target.value }));
for (const link of document.querySelectorAll("[data-view]")) {
  link.addEventListener("click", event => { event.preventDefault(); go({ view: link.dataset.view }); });
}
for (const link of document.querySelectorAll("[data-go]")) link.addEventListener("click", event => { event.preventDefault(); go({ view: link.dataset.go, feature: "", sae: "" }); });
for (const link of document.querySelectorAll("#tables a")) {
  link.addEventListener("click", event => { event.preventDefault(); choose({ concept: link.dataset.concept, site: link.dataset.site, model: data.maps[state.map].model }, true); });
}
addEventListener("hashchange", show);
dark.addEventListener("change", () => { shown = { view: shown.view, cell: shown.cell, feature: shown.feature }; scoresOf = null; shown.cell = null; show(); });
show();
