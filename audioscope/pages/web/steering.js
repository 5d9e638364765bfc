// The steering view: one slider over the clips of several steering methods, and its position on their curves.
import { embed } from "audioscope/charts.js";
import { packs } from "audioscope/packs.js";
import { signed } from "audioscope/player.js";
import { Slider } from "audioscope/slider.js";
import { data, find, go, place, state } from "audioscope/state.js";

export const slider = find("#view-steering") && new Slider(find("#view-steering .slider"));
let axisShown, curve = null, curveOf; // the number of the axis that is shown; Vega's view of its curve, and the axis that was drawn

// Redraw the curve the next time.
export const redraw = () => (curveOf = undefined);

export async function showSteering() {
  const known = data.steering.findIndex(each => each.concept === state.concept || each.opposite === state.concept);
  const number = state.axis === "" ? known : place(state.axis, data.steering.length), axis = data.steering[number], view = find("#view-steering");
  find("#axis").value = axis ? number : "";
  view.querySelector(".there").hidden = !axis;
  if (axisShown !== number) {
    axisShown = number;
    slider.player.set([]);
    slider.tracks = null;
    view.querySelector(".missing").textContent = axis ? "" : `${state.concept} was not steered: choose another axis.`;
    if (!axis) return;
    view.querySelector("h2").textContent = axis.title;
    view.querySelector(".said-prompt").textContent = axis.text;
    view.querySelector(".left-out").textContent = axis.left_out;
    methods(axis);
    try {
      const pack = await packs.open(`s${number}`, axis.methods.flatMap(method => method.clips));
      if (axisShown !== number) return;
      view.querySelector(".slider").hidden = !pack;
      if (pack) slider.set(axis.methods.map(method => ({ ...method, sounds: method.clips.map(name => pack[name]) })), place(state.method, axis.methods.length), Math.min(axis.seconds, packs.longest));
      else view.querySelector(".missing").textContent = packs.missing;
    } catch (error) {
      if (axisShown !== number) return; // for an axis that is no longer requested
      axisShown = null;
      if (state.view === "steering") throw error;
    }
  }
  if (!axis || axisShown !== number) return;
  if (curveOf !== number) {
    curveOf = number;
    curve = null;
    const drawn = await embed("#curve", { ...axis.chart, datasets: { ...axis.chart.datasets, now: points(axis) } });
    if (curveOf !== number) return;
    curve = drawn.view;
  }
  chooseArm(axis);
  moved();
}

function methods(axis) {
  find("#methods").replaceChildren(...axis.methods.map((method, i) => {
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.append(method.label, document.createElement("span"), document.createElement("span"));
    button.addEventListener("click", () => go({ method: i }, false));
    return button;
  }));
}

function chooseArm(axis) {
  const method = place(state.method, axis.methods.length);
  [...find("#methods").children].forEach((button, i) => {
    button.setAttribute("aria-pressed", String(i === method));
    button.querySelectorAll("span")[1].textContent = layersOf(axis.methods[i]);
  });
  if (slider.tracks && slider.track !== method) slider.choose(method);
}

// Where a method acts, in words, and whether the selected layer is included.
function layersOf({ at }) {
  const layers = new Map(data.maps[state.map].sites), known = at.filter(path => layers.has(path)).map(path => layers.get(path));
  if (!known.length) return "";
  const text = known.length > 5 ? `${known.length} layers` : `${known.length > 1 ? "layers" : "layer"} ${known.join(", ")}`;
  if (!at.includes(state.site)) return text;
  return known.length === 1 ? `${text} (selected)` : `${text} (${layers.get(state.site)} is selected)`;
}

// The point of each method at the slider's position, interpolated on its curve; null if nothing was measured.
function points(axis) {
  return axis.methods.map(method => {
    const at = slider.tracks ? slider.place : 0, low = Math.min(Math.floor(at), method.points.length - 2), share = at - low;
    const [distance, score] = [0, 1].map(j => {
      const [from, to] = [method.points[low][j], method.points[low + 1][j]];
      return from === null || to === null ? null : from + share * (to - from);
    });
    return { cell: method.cell, distance, score };
  });
}

// Show the slider's position in words and on the curve.
function moved() {
  const axis = data.steering[axisShown];
  if (!axis || !slider.tracks) return;
  const now = points(axis), known = ({ distance, score }) => distance !== null && score !== null;
  now.forEach((point, i) => {
    const words = known(point) ? `score ${signed(point.score)}, distance ${Math.abs(point.distance).toFixed(3)}` : "not measured";
    find("#methods").children[i].querySelector("span").textContent = words;
  });
  curve?.data("now", now.filter(known)).run();
}

if (slider) {
  slider.addEventListener("input", moved);
  find("#axis").addEventListener("change", event => {
    const { concept } = data.steering[event.target.value];
    go({ ...(data.maps[state.map].concepts.includes(concept) ? { concept } : {}), axis: event.target.value });
  });
}
