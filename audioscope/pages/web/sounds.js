// Clips to compare in a notebook: they play in sync at equal loudness, one of them is audible, and new ones continue where the old ones were.
import { Player, keepKeys, playButton, scope } from "audioscope/player.js";

function made(tag, values = {}, ...children) {
  const element = Object.assign(document.createElement(tag), values);
  element.append(...children);
  return element;
}

function area({ width, points }) {
  const [svg, polygon] = ["svg", "polygon"].map(tag => document.createElementNS("http://www.w3.org/2000/svg", tag));
  for (const [name, value] of Object.entries({ viewBox: `0 0 ${width} 100`, preserveAspectRatio: "none", "aria-hidden": "true" })) svg.setAttribute(name, value);
  polygon.setAttribute("class", "area");
  polygon.setAttribute("points", points);
  svg.append(polygon);
  return svg;
}

// ipywidgets gives the handle of a slider no accessible name.
function nameSliders(el) {
  for (const slider of el.closest(".audioscope-live")?.querySelectorAll(".widget-slider") ?? []) {
    slider.querySelector("[role=slider]")?.setAttribute("aria-label", slider.querySelector("label, .widget-label")?.textContent ?? "");
  }
}

function render({ model, el }) {
  el.classList.add("audioscope");
  const player = (el.player = new Player());
  const versions = made("div", { className: "versions" });
  const play = made("button", { type: "button", className: "play" });
  const progress = made("progress", { max: 1 }), cancel = made("button", { type: "button", textContent: "Cancel" });
  const said = made("span");
  said.setAttribute("role", "status");
  versions.setAttribute("role", "group");
  const row = made("div", { className: "row" }, play, progress, cancel, said);
  el.append(versions, row);
  playButton(play, player);
  keepKeys(play, cancel);

  const mix = () => model.get("sounds").map((_, i) => (i === model.get("version") ? 1 : 0));
  const choose = number => {
    model.set("version", number);
    model.save_changes();
    heard();
  };
  const heard = () => {
    [...versions.children].forEach((box, i) => {
      box.classList.toggle("on", i === model.get("version"));
      box.firstChild.setAttribute("aria-pressed", String(i === model.get("version")));
    });
    player.fade(mix());
  };
  const show = () => {
    const sounds = model.get("sounds"), focused = [...versions.children].findIndex(box => box.contains(document.activeElement));
    player.plots.clear();
    versions.replaceChildren(...sounds.map((sound, i) => {
      const button = made("button", { type: "button", textContent: sound.name, onclick: () => (choose(i), player.wanted || player.play()) });
      keepKeys(button);
      const plot = made("div", { className: "plot" }, made("img", { src: sound.picture, alt: `Mel spectrogram: ${sound.name}` }), ...(sound.points ? [area(sound)] : []), made("i"));
      scope(plot, player, () => sound.seconds, () => choose(i));
      return made("div", { className: "version" }, button, plot, made("div", { className: "quiet", textContent: sound.caption ?? "" }));
    }));
    if (focused >= 0) (versions.children[focused]?.firstChild ?? play).focus();
    play.hidden = !sounds.length;
    play.dataset.what = model.get("label");
    versions.setAttribute("aria-label", model.get("label"));
    player.set(sounds, mix());
    heard();
    player.dispatchEvent(new Event("change")); // the button's name
  };
  const tell = () => {
    nameSliders(el);
    const share = model.get("progress");
    if (share < 0 && document.activeElement === cancel) play.focus(); // a hidden button would leave the keys to JupyterLab
    progress.hidden = cancel.hidden = share < 0;
    progress.value = Math.max(0, share);
    progress.setAttribute("aria-label", "Progress");
    el.classList.toggle("making", share >= 0);
  };
  const say = () => {
    said.textContent = model.get("message");
    said.classList.toggle("failed", model.get("failed"));
  };
  cancel.addEventListener("click", () => {
    model.set("cancelled", model.get("cancelled") + 1);
    model.save_changes();
  });
  player.addEventListener("failed", () => (said.textContent = "This browser cannot decode the clips."));
  const wires = { sounds: show, version: heard, progress: tell, message: say, failed: say };
  for (const [name, work] of Object.entries(wires)) model.on(`change:${name}`, work);
  show();
  tell();
  say();
  const later = setTimeout(() => nameSliders(el), 500); // when the widgets around this one exist, too
  return () => {
    clearTimeout(later);
    for (const [name, work] of Object.entries(wires)) model.off(`change:${name}`, work);
    player.pause();
  };
}

export default { render };
