// A strength slider in a notebook, over clips that were generated earlier: as on the pages, with its position shared with Python.
import { keepKeys } from "audioscope/player.js";
import { Slider } from "audioscope/slider.js";

function render({ model, el }) {
  el.classList.add("audioscope");
  el.innerHTML = model.get("_controls"); // our own template, in which all text is escaped
  keepKeys(...el.querySelectorAll("button, input"));
  const slider = new Slider(el);
  let setting = false;
  const set = () => {
    const tracks = model.get("tracks");
    el.hidden = !tracks.length;
    if (!tracks.length) return void slider.player.set([]);
    const place = model.get("place"); // the position to set; a new slider starts at strength 0
    setting = true;
    slider.set(tracks, 0, tracks[0].seconds);
    slider.range.value = place;
    slider.show();
    setting = false;
  };
  const told = () => {
    if (setting || model.get("place") === slider.place) return;
    model.set("place", slider.place);
    model.save_changes();
  };
  const follow = () => {
    if (!model.get("tracks").length || model.get("place") === slider.place) return;
    slider.range.value = model.get("place");
    slider.show();
  };
  slider.addEventListener("input", told);
  const wires = { tracks: set, place: follow };
  for (const [name, work] of Object.entries(wires)) model.on(`change:${name}`, work);
  set();
  return () => {
    for (const [name, work] of Object.entries(wires)) model.off(`change:${name}`, work);
    slider.player.pause();
  };
}

export default { render };
