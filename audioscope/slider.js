// Plays the clips of a track in phase and cross-fades between the two strengths nearest to the slider.
// Everything is in the page: each sound is a data URI, decoded once, when it is first played.

let context = null;
const tracks = JSON.parse(document.getElementById("data").textContent);

function bytes(uri) {
  const raw = atob(uri.slice(uri.indexOf(",") + 1));
  return Uint8Array.from(raw, letter => letter.charCodeAt(0)).buffer;
}

// The gain of each clip at a place of the slider: equal sums, since neighbours are alike and in phase.
function gains(strengths, value) {
  const result = strengths.map(() => 0);
  value = Math.min(value, strengths[strengths.length - 1]);
  const high = Math.max(0, strengths.findIndex(strength => strength >= value));
  const low = Math.max(0, high - 1);
  const gap = strengths[high] - strengths[low];
  const share = gap > 0 ? (value - strengths[low]) / gap : 1;
  result[low] += 1 - share;
  result[high] += share;
  return result;
}

class Player {
  constructor(section, track) {
    this.track = track;
    this.slider = section.querySelector("input");
    this.button = section.querySelector("button");
    this.output = section.querySelector("output");
    this.caption = section.querySelector(".caption");
    this.picture = section.querySelector("img");
    this.title = section.querySelector("h2").textContent;
    this.sources = [];
    this.slider.addEventListener("input", () => this.show());
    // arrow keys go from clip to clip, as a slider without steps would hardly move
    this.slider.addEventListener("keydown", event => this.key(event));
    this.button.addEventListener("click", () => (this.wanted ? this.stop() : this.play()));
    section.player = this;
    this.show();
  }

  key(event) {
    const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const { strengths } = this.track, value = Number(this.slider.value);
    const next = by > 0 ? strengths.find(s => s > value + 1e-9) : strengths.findLast(s => s < value - 1e-9);
    if (next !== undefined) this.slider.value = next;
    this.show();
  }

  show() {
    const value = Number(this.slider.value), mix = gains(this.track.strengths, value);
    const nearest = mix.indexOf(Math.max(...mix));
    const text = `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value).toFixed(2)}`;
    this.output.textContent = text;
    this.slider.setAttribute("aria-valuetext", `strength ${text}`);
    if (this.nearest !== nearest) {
      this.nearest = nearest;
      this.caption.textContent = this.track.captions[nearest];
      this.picture.src = this.track.pictures[nearest];
      this.picture.alt = `Mel spectrogram at strength ${this.track.strengths[nearest].toFixed(2)}: ${this.title}`;
    }
    this.sources.forEach(({ gain }, i) => gain.gain.setTargetAtTime(mix[i], context.currentTime, 0.015));
  }

  async play() {
    for (const other of players) if (other !== this) other.stop();
    this.wanted = true;
    context ??= new AudioContext();
    if (context.state === "suspended") await context.resume();
    this.buffers ??= await Promise.all(this.track.sounds.map(uri => context.decodeAudioData(bytes(uri))));
    if (!this.wanted || this.sources.length) return; // stopped, or played again, while the sounds were decoded
    const start = context.currentTime + 0.05;
    this.sources = this.buffers.map(buffer => {
      const source = new AudioBufferSourceNode(context, { buffer, loop: true }), gain = new GainNode(context, { gain: 0 });
      source.connect(gain).connect(context.destination);
      source.start(start);
      return { source, gain };
    });
    this.button.textContent = "Stop";
    this.button.setAttribute("aria-pressed", "true");
    this.show();
  }

  stop() {
    this.sources.forEach(({ source }) => source.stop());
    this.sources = [];
    this.wanted = false;
    this.button.textContent = "Play";
    this.button.setAttribute("aria-pressed", "false");
  }
}

const players = [...document.querySelectorAll("section.track")].map((section, i) => new Player(section, tracks[i]));
