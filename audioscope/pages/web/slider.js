// A strength slider over clips that were generated earlier: the two nearest strengths are cross-faded in phase.
import { Player, between, modified, playButton, scope, signed } from "audioscope/player.js";

// tracks: [{title, strengths, captions, sounds: [{sound, picture, gain}]}], all with the same number of strengths. The slider's
// place is counted in clips from the first, so that tracks with different strengths can share it; one of them is audible.
export class Slider extends EventTarget {
  constructor(section) {
    super();
    const find = name => section.querySelector(name);
    Object.assign(this, { range: find("input[type=range]"), output: find("output"), caption: find(".caption"), picture: find("img") });
    this.player = new Player();
    this.range.addEventListener("input", () => this.show());
    this.range.addEventListener("change", () => this.dispatchEvent(new Event("change")));
    // arrow keys move from clip to clip, since a slider without steps would hardly move
    this.range.addEventListener("keydown", event => this.#key(event));
    playButton(find("button.play"), this.player);
    scope(find(".plot"), this.player, () => this.seconds);
    section.slider = this;
  }

  set(tracks, track = 0, seconds = 0) {
    Object.assign(this, { tracks, seconds });
    this.track = Math.min(track, tracks.length - 1);
    const { strengths } = tracks[this.track];
    this.range.max = strengths.length - 1;
    this.range.value = strengths.indexOf(strengths.reduce((a, b) => (Math.abs(b) < Math.abs(a) ? b : a)));
    this.nearest = null;
    this.player.set(tracks.flatMap(each => each.sounds), this.#mix());
    this.show();
  }

  choose(track) {
    this.track = track;
    this.nearest = null;
    this.show();
  }

  get place() { return Number(this.range.value); }

  // The strength of a track at the slider's place.
  strength({ strengths }) {
    const low = Math.min(Math.floor(this.place), strengths.length - 2);
    return strengths[low] + (this.place - low) * (strengths[low + 1] - strengths[low]);
  }

  #mix() {
    return this.tracks.flatMap((each, i) => (i === this.track ? between(each.strengths, this.strength(each)) : each.strengths.map(() => 0)));
  }

  #key(event) {
    const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (!by || modified(event)) return;
    event.preventDefault();
    const next = by > 0 ? Math.floor(this.place + 1e-9) + 1 : Math.ceil(this.place - 1e-9) - 1;
    this.range.value = next;
    this.show();
    this.dispatchEvent(new Event("change"));
  }

  show() {
    if (!this.tracks) return;
    const track = this.tracks[this.track], nearest = Math.round(this.place), text = signed(this.strength(track));
    this.output.textContent = text;
    this.range.setAttribute("aria-label", `Strength: ${track.title}`);
    this.range.setAttribute("aria-valuetext", `strength ${text}`);
    if (this.nearest !== nearest) {
      this.nearest = nearest;
      this.caption.textContent = track.captions[nearest];
      this.picture.src = track.sounds[nearest].picture;
      this.picture.alt = `Mel spectrogram at strength ${signed(track.strengths[nearest])}: ${track.title}`;
    }
    this.player.fade(this.#mix());
    this.dispatchEvent(new Event("input"));
  }
}

const data = document.getElementById("tracks");
if (data) {
  const tracks = JSON.parse(data.textContent);
  document.querySelectorAll("section.track").forEach((section, i) => new Slider(section).set([tracks[i]], 0, tracks[i].seconds));
}
