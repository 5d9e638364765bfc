// The steering view: one slider over the clips of several ways to steer, and where it stands on their curves.
import { embed } from "audioscope/charts.js";
import { packs } from "audioscope/packs.js";
import { signed } from "audioscope/player.js";
import { Slider } from "audioscope/slider.js";
import { data, find, go, place, state } from "audioscope/state.js";

export const slider = find("#view-steering") && new Slider(find("#view-steering .slider"));
let axisShown, curve = null, curveOf; // the number of the axis that is shown; Vega's view of its curve, and the axis that was drawn

// Draw the curve anew the next time.
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
    arms(axis);
    try {
      const pack = await packs.open(`s${number}`, axis.arms.flatMap(arm => arm.clips));
      if (axisShown !== number) return;
      view.querySelector(".slider").hidden = !pack;
      if (pack) slider.set(axis.arms.map(arm => ({ ...arm, sounds: arm.clips.map(name => pack[name]) })), place(state.arm, axis.arms.length), Math.min(axis.seconds, packs.longest));
      else view.querySelector(".missing").textContent = packs.missing;
    } catch (error) {
      if (axisShown !== number) return; // of an axis that is no longer asked for
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

// The point of each arm at the slider's place, between two of its curve; none where nothing was measured.
function points(axis) {
  return axis.arms.map(arm => {
    const at = slider.tracks ? slider.place : 0, low = Math.min(Math.floor(at), arm.points.length - 2), share = at - low;
    const [distance, score] = [0, 1].map(j => {
      const [from, to] = [arm.points[low][j], arm.points[low + 1][j]];
      return from === null || to === null ? null : from + share * (to - from);
    });
    return { cell: arm.cell, distance, score };
  });
}

// Say and draw where the slider stands.
function moved() {
  const axis = data.steering[axisShown];
  if (!axis || !slider.tracks) return;
  const now = points(axis), known = ({ distance, score }) => distance !== null && score !== null;
  now.forEach((point, i) => {
    const words = known(point) ? `score ${signed(point.score)}, distance ${Math.abs(point.distance).toFixed(3)}` : "not measured";
    find("#arms").children[i].querySelector("span").textContent = words;
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
