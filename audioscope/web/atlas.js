// The atlas: its views, the links between them, and the address that opens any of them again.
import { Cell } from "./cell.js";
import { Slider } from "./slider.js";
import { wireFigures, wireSearch } from "./features.js";
import { hush, signed } from "./player.js";

const data = JSON.parse(document.getElementById("atlas").textContent);
const find = name => document.querySelector(name);
const dark = matchMedia("(prefers-color-scheme: dark)");

// Packs of sound: in the page, or in scripts beside it, since a page opened from a disk may load nothing else.
const arriving = new Map();
window.audioscopePack = (name, content) => arriving.get(name)?.(content);
const packs = {
  opened: new Map(),
  longest: data.longest ?? Infinity, // s
  missing: data.folder
    ? "No clip of it was kept."
    : "This clip is not in this file, which holds the best ones; the folder made by save_site has them all.",
  // The pack, if it holds all these names; null where it does not.
  open(name, wanted) {
    if (!wanted.every(each => data.packs[name]?.includes(String(each)))) return Promise.resolve(null);
    const pack = this.opened.get(name) ?? this.load(name);
    this.opened.delete(name); // and in again, as the latest; only a few are kept, as decoded sound is large
    this.opened.set(name, pack);
    for (const old of [...this.opened.keys()].slice(0, -12)) this.opened.delete(old);
    pack.catch(() => this.opened.delete(name)); // to be tried again
    return pack;
  },
  load(name) {
    const inside = document.getElementById(`pack-${name}`);
    if (inside) return Promise.resolve(JSON.parse(inside.textContent));
    return new Promise((resolve, reject) => {
      const script = document.createElement("script"), failed = () => reject(new Error(`packs/${name}.js could not be loaded.`));
      arriving.set(name, resolve);
      script.src = `${data.folder}/${name}.js`;
      script.onload = failed; // too late where the pack has come
      script.onerror = failed;
      document.head.append(script);
    }).finally(() => arriving.delete(name));
  },
};

// What is shown is what the address says: every choice writes it, and reading it shows the choice.
const HOME = { view: "atlas", chart: "0", sort: "group", group: "all", unit: "", axis: "", sae: "", feature: "", arm: "0", ...data.start };
const read = () => ({ ...HOME, ...Object.fromEntries(new URLSearchParams(location.hash.slice(1))) });
let state = read(), shown = {};
// A number of a list from an address, or 0 where it is none.
const place = (value, count) => (/^\d+$/.test(value) && Number(value) < count ? Number(value) : 0);

// Another concept or layer is another cell: what belonged to the last one is forgotten.
const AFRESH = { unit: "", axis: "", sae: "", feature: "" };

function address(changes) {
  const next = { ...state, ...("concept" in changes || "site" in changes ? AFRESH : {}), ...changes };
  const moved = ["map", "concept", "site"].some(name => String(next[name]) !== String(HOME[name]));
  const wanted = Object.entries(next).filter(([name, value]) => String(value) !== String(HOME[name] ?? "") || (moved && ["concept", "site"].includes(name)));
  return [next, `#${new URLSearchParams(wanted)}`];
}

function go(changes, step = true) {
  const [next, hash] = address(changes);
  state = next; // at once, so that a second key counts from the first
  if (hash === (location.hash || "#")) return show();
  if (step) location.hash = hash;
  else location.replace(location.href.split("#")[0] + hash); // whole, for in a notebook's frame "#..." alone is the notebook's
}

// A click that means this page, not a new tab.
const plain = event => !(event.ctrlKey || event.metaKey || event.shiftKey || event.button);

// ---- the heatmap

let heat = null; // Vega's view of the heatmap
// concept and module path -> the row of the heatmap that says what the cell is
const facts = data.charts.map(chart => {
  const rows = Object.values(chart.spec.datasets).flat().filter(row => "by_group" in row && row.reading);
  return rows.filter(row => chart.map !== null || row.model);
});
// The map that stands for a model where all models are shown.
const mapOf = model => data.maps.findIndex(map => map.model === model);
const factsOf = (map, concept, site) => facts[data.charts.findIndex(chart => chart.map === map)]?.find(row => row.concept === concept && row.site === site);

async function drawHeat() {
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

function embed(place, spec, more = {}) {
  // ast: Vega's own expression interpreter, so that the page's policy can forbid eval
  const options = { actions: false, renderer: "svg", ast: true, tooltip: { theme: dark.matches ? "dark" : "light" }, ...more };
  return vegaEmbed(place, { ...spec, config: data.themes[dark.matches ? 1 : 0] }, options);
}

const modelOf = chart => (chart.map === null ? data.maps[state.map].model : "");
const signals = () => ({
  sort_by: state.sort, only_group: state.group, chosen_concept: state.concept, chosen_site: state.site, chosen_model: modelOf(data.charts[state.chart]),
});

// Choose the cell of a heatmap's row.
function choose(row, play) {
  const chart = data.charts[state.chart];
  wish = play;
  go({ map: chart.map ?? mapOf(row.model), concept: row.concept, site: row.site });
}
let wish = false; // whether the next cell is to play

// Concepts and sites as they stand on the screen, for the arrow keys.
function lines() {
  const chart = data.charts[state.chart], by = `by_${state.sort}`, map = data.maps[state.map];
  const rows = facts[state.chart].filter(row => (state.group === "all" || row.group === state.group) && (chart.map !== null || row.model === map.model));
  const places = new Map(rows.map(row => [row.concept, row[by]]));
  return { rows, concepts: [...places.keys()].sort((a, b) => places.get(a) - places.get(b)), sites: map.sites.toSorted((a, b) => a[1] - b[1]).map(([path]) => path) };
}

find("#grid").addEventListener("keydown", event => {
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  if (event.key === "Enter") return void cell.hear(2);
  if (!step) return;
  event.preventDefault();
  const { rows, concepts, sites } = lines();
  const clamp = (value, list) => list[Math.min(Math.max(value, 0), list.length - 1)];
  const concept = clamp(concepts.indexOf(state.concept) + step[0], concepts), site = clamp(sites.indexOf(state.site) + step[1], sites);
  if (rows.some(each => each.concept === concept && each.site === site)) go({ concept, site }, false);
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
  const unit = state.unit === "" ? Math.max(0, units.findIndex(each => each.shown)) : place(state.unit, units.length);
  const row = factsOf(map.number, state.concept, state.site), play = wish;
  wish = false;
  const layer = map.sites.find(([path]) => path === state.site)[1];
  find("#said").textContent = `${state.concept}, layer ${layer}: ${row ? row.reading : "not measured"}`;
  if (play) cell.choose(2);
  await cell.show(map, row, state.concept, state.site, unit);
  if (play && cell.player.sounds.length && !cell.player.wanted) await cell.player.play();
  // on a narrow screen the cell stands below the heatmap
  const smooth = matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth";
  if (play && cell.root.getBoundingClientRect().top > innerHeight - 200) cell.root.scrollIntoView({ behavior: smooth });
}

// Single keys act only where the focus is on the heatmap or the cell.
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, summary")) return;
  const version = { a: 0, b: 1, x: 2 }[event.key.toLowerCase()];
  const player = event.target.closest("#grid, #cell") ? cell.player : event.target.closest("#view-steering") ? slider.player : null;
  if (!player?.sounds.length) return;
  if (player === cell.player && version !== undefined) cell.hear(version);
  else if (event.key === " " && !event.target.closest("button, a")) {
    event.preventDefault();
    player.toggle();
  }
});

// ---- steering

const slider = find("#view-steering") && new Slider(find("#view-steering .slider"));
let curve = null;

async function showSteering() {
  const known = data.steering.findIndex(each => each.concept === state.concept || each.opposite === state.concept);
  const number = state.axis === "" ? known : place(state.axis, data.steering.length), axis = data.steering[number], view = find("#view-steering");
  find("#axis").value = axis ? number : "";
  view.querySelector(".there").hidden = !axis;
  if (shown.axis !== number) {
    shown.axis = number;
    slider.player.set([]);
    slider.tracks = null;
    view.querySelector(".missing").textContent = axis ? "" : `${state.concept} was not steered: choose another axis.`;
    if (!axis) return;
    view.querySelector("h2").textContent = axis.title;
    view.querySelector(".said-prompt").textContent = axis.text;
    view.querySelector(".left-out").textContent = axis.left_out;
    arms(axis);
    try {
      const pack = await packs.open(`s${number}`, axis.arms.flatMap(arm => arm.clips));
      if (shown.axis !== number) return;
      view.querySelector(".slider").hidden = !pack;
      if (pack) slider.set(axis.arms.map(arm => ({ ...arm, sounds: arm.clips.map(name => pack[name]) })), place(state.arm, axis.arms.length), Math.min(axis.seconds, packs.longest));
      else view.querySelector(".missing").textContent = packs.missing;
    } catch (error) {
      if (shown.axis === number) shown.axis = null;
      throw error;
    }
    const drawn = await embed("#curve", { ...axis.chart, datasets: { ...axis.chart.datasets, now: [] } });
    if (shown.axis !== number) return;
    curve = drawn.view;
  }
  if (!axis) return;
  chooseArm(axis);
  moved();
}

function arms(axis) {
  find("#arms").replaceChildren(...axis.arms.map((arm, i) => {
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.append(arm.label, document.createElement("span"), document.createElement("span"));
    button.addEventListener("click", () => go({ arm: i }, false));
    return button;
  }));
}

function chooseArm(axis) {
  const arm = place(state.arm, axis.arms.length);
  [...find("#arms").children].forEach((button, i) => {
    button.setAttribute("aria-pressed", String(i === arm));
    button.querySelectorAll("span")[1].textContent = layersOf(axis.arms[i]);
  });
  if (slider.tracks && slider.track !== arm) slider.choose(arm);
}

// Where an arm acts, in words, and whether the chosen layer is among them.
function layersOf({ at, drawn }) {
  if (drawn) return "drawn anew for each prompt";
  const layers = new Map(data.maps[state.map].sites), known = at.filter(path => layers.has(path)).map(path => layers.get(path));
  if (!known.length) return "";
  const text = known.length > 5 ? `${known.length} layers` : `layer ${known.join(", ")}`;
  if (!at.includes(state.site)) return text;
  return known.length === 1 ? `${text} (chosen)` : `${text} (${layers.get(state.site)} is chosen)`;
}

// The point of each arm at the slider's place: on the curve, and in words.
function moved() {
  const axis = data.steering[shown.axis];
  if (!axis || !slider.tracks) return;
  const points = axis.arms.map((arm, i) => {
    const low = Math.min(Math.floor(slider.place), arm.points.length - 2), share = slider.place - low;
    const [distance, score] = [0, 1].map(j => {
      const [from, to] = [arm.points[low][j], arm.points[low + 1][j]];
      return from === null || to === null ? null : from + share * (to - from);
    });
    const known = distance !== null && score !== null;
    find("#arms").children[i].querySelector("span").textContent = known ? `score ${signed(score)}, distance ${Math.abs(distance).toFixed(3)}` : "not measured";
    return { cell: arm.cell, distance, score };
  });
  curve?.data("now", points.filter(({ distance, score }) => distance !== null && score !== null)).run();
}
if (slider) {
  slider.addEventListener("input", moved);
  find("#axis").addEventListener("change", event => {
    const { concept } = data.steering[event.target.value];
    go({ ...(data.maps[state.map].concepts.includes(concept) ? { concept } : {}), axis: event.target.value });
  });
}

// ---- features

const lists = [...document.querySelectorAll(".feature-list")];
const siteOf = number => (data.maps[state.map].sites.some(([path]) => path === data.saes[number].site) ? { site: data.saes[number].site } : {});
lists.forEach((list, i) => {
  wireSearch(list);
  list.querySelector("tbody").addEventListener("click", event => {
    const link = event.target.closest("a");
    if (!link || !plain(event)) return;
    event.preventDefault();
    const { feature, concept } = link.closest("tr").dataset;
    go({ ...siteOf(i), ...(data.maps[state.map].concepts.includes(concept) ? { concept } : {}), sae: i, feature });
  });
});
find("#sae")?.addEventListener("change", event => go({ ...siteOf(event.target.value), sae: event.target.value }));

async function showFeatures() {
  const same = data.saes.findIndex(sae => sae.site === state.site);
  const number = state.sae !== "" ? place(state.sae, lists.length) : Math.max(0, same);
  find("#sae").value = number;
  lists.forEach((list, i) => (list.hidden = i !== number));
  const rows = [...lists[number].querySelectorAll("tbody tr")], held = row => `f${number}-${row.dataset.feature}` in data.packs;
  const wanted = rows.find(row => row.dataset.feature === state.feature);
  const row = wanted ?? rows.find(each => each.dataset.concept === state.concept && held(each)) ?? rows.find(held);
  for (const each of rows) {
    each.classList.toggle("same", each.dataset.concept === state.concept);
    each.classList.toggle("open", each === row);
  }
  const name = `f${number}-${row?.dataset.feature}`;
  if (shown.feature === name) return;
  shown.feature = name;
  hush();
  const box = find("#feature");
  try {
    const pack = await packs.open(name, ["html"]);
    if (shown.feature !== name) return;
    find("#said").textContent = row ? `Feature ${row.dataset.feature}` : "";
    if (!pack) return void (box.textContent = packs.missing);
    box.innerHTML = pack.html; // our own template, in which all text is escaped
  } catch (error) {
    if (shown.feature === name) shown.feature = null;
    throw error;
  }
  wireFigures(box);
  for (const link of box.querySelectorAll("[data-feature]")) {
    link.addEventListener("click", event => {
      if (!plain(event)) return;
      event.preventDefault();
      go({ sae: number, feature: link.dataset.feature });
    });
  }
}

// ---- the page

async function show() {
  find("#error").textContent = "";
  try {
    settle();
    if (state.view === "atlas") await showAtlas(data.charts[state.chart]);
    if (state.view === "steering") await showSteering();
    if (state.view === "features") await showFeatures();
  } catch (error) {
    find("#error").textContent = String(error.message ?? error);
  }
  document.body.dataset.ready = "true";
}

// Read the address, and make of it what can be shown.
function settle() {
  state = read();
  state.chart = place(state.chart, data.charts.length);
  const chart = data.charts[state.chart];
  // where all models are shown, a model's first map stands for it
  state.map = chart.map ?? mapOf(data.maps[place(String(state.map), data.maps.length)].model);
  const map = data.maps[state.map];
  if (!map.concepts.includes(state.concept)) state.concept = map.concepts[0];
  const bare = location.hash.includes("concept=") && !location.hash.includes("site="); // an address written by hand
  if (bare || !map.sites.some(([path]) => path === state.site)) state.site = map.best?.[state.concept] ?? map.sites[0][0];
  if (!(state.sort in { group: 0, peak: 0, similarity: 0 })) state.sort = HOME.sort;
  if (!facts[state.chart].some(row => row.group === state.group)) state.group = HOME.group;
  if (!["atlas", "steering", "features"].includes(state.view) || !find(`#view-${state.view}`)) state.view = HOME.view;
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
    const done = showNewCell(); // first, since it is what was asked for
    await follow();
    return done;
  }
  shown.chart = look;
  find("#map").value = state.chart;
  find("#map-title").textContent = chart.title;
  find("#map-notes").textContent = chart.notes;
  find("#chart").setAttribute("aria-label", chart.spec.description);
  find(".two").classList.toggle("wide", chart.wide);
  heat = null;
  await drawHeat();
  await follow();
  await showNewCell();
}

async function showNewCell() {
  const now = [state.map, state.concept, state.site, state.unit].join(" ");
  if (now === shown.cell && !wish) return;
  shown.cell = now;
  for (const table of document.querySelectorAll("#tables > div")) table.hidden = Number(table.dataset.map) !== state.map;
  try {
    await showCell();
  } catch (error) {
    if (shown.cell === now) shown.cell = null; // to be tried again
    throw error;
  }
}

// The heatmap as drawn follows the choices.
async function follow() {
  if (!heat) return; // it is being drawn, and follows then
  const now = signals();
  for (const [name, value] of Object.entries(now)) if (heat.signal(name) !== value) heat.signal(name, value);
  await heat.runAsync();
  for (const name of ["sort_by", "only_group"]) {
    const menu = find(`#menus [name=${name}]`);
    if (menu) menu.value = now[name];
  }
}

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
addEventListener("hashchange", show);
dark.addEventListener("change", () => { shown = { view: shown.view, cell: shown.cell, feature: shown.feature }; scoresOf = null; shown.cell = null; show(); });
show();
