// The one player of every page and widget: sounds that loop in sync, of which any mix is audible, at equal loudness.

let context = null; // created at the first play, since a page may not make sound before a user gesture
let heard = null; // the player that plays: starting one stops the other
const decoded = new WeakMap(); // sound -> promise of its buffer
let players = 0;
const FADE = 0.012; // s, short enough to be a switch and long enough not to click

// Browsers let a page start sound only within a click or a key press, and a sound may have to be loaded first: so wake up early.
function wake() {
  if (!players) return;
  context ??= new AudioContext();
  if (context.state === "suspended") context.resume();
}
for (const kind of ["pointerdown", "keydown"]) globalThis.document?.addEventListener(kind, wake, true);

function bytes(uri) {
  const raw = atob(uri.slice(uri.indexOf(",") + 1));
  return Uint8Array.from(raw, letter => letter.charCodeAt(0)).buffer;
}

// sound: {sound: data URI, gain: dB}
function decode(sound) {
  if (!decoded.has(sound)) decoded.set(sound, context.decodeAudioData(bytes(sound.sound)));
  return decoded.get(sound);
}

// Fade from now on and cancel what was scheduled: sounds start a little later than requested, and a switch may come earlier.
function towards(gain, value) {
  gain.gain.cancelScheduledValues(context.currentTime);
  gain.gain.setTargetAtTime(value, context.currentTime, FADE);
}

export class Player extends EventTarget {
  sounds = [];
  weights = []; // how much of each sound is audible, 0 to 1
  #nodes = [];
  #duration = 0;
  #place = 0; // s, the position where it is, or where it started to play
  #began = 0; // the context's time at that moment
  #turn = 0; // counts requests, so that a late decoding does not overtake a newer request
  wanted = false; // whether it plays, or will as soon as its sounds are decoded
  output = null;
  plots = new Set(); // pictures whose cursors it moves

  constructor() {
    super();
    players++;
  }

  get playing() { return this.#nodes.length > 0; }
  get duration() { return this.#duration; }
  get currentTime() {
    if (!this.playing) return this.#place;
    return this.#at(context.currentTime) % this.#duration;
  }

  #at(time) { return this.#place + Math.max(0, time - this.#began); }

  // Change the sounds; if it is playing, the new ones continue at the same position. An empty list stops it.
  set(sounds, weights) {
    this.sounds = sounds;
    this.weights = weights ?? sounds.map((_, i) => (i === 0 ? 1 : 0));
    if (!sounds.length) this.pause();
    return this.wanted ? this.play() : Promise.resolve();
  }

  fade(weights) {
    this.weights = weights;
    this.#nodes.forEach(({ gain, level }, i) => towards(gain, level * (weights[i] ?? 0)));
  }

  async play() {
    const turn = ++this.#turn, sounds = this.sounds;
    if (!sounds.length) return;
    if (heard !== this) heard?.pause();
    heard = this;
    this.wanted = true;
    wake();
    this.#changed();
    let buffers;
    try {
      await context.resume();
      buffers = await Promise.all(sounds.map(decode));
    } catch (error) {
      if (turn !== this.#turn) return;
      this.pause();
      this.dispatchEvent(new CustomEvent("failed", { detail: error }));
      return;
    }
    if (turn !== this.#turn || !this.wanted) return;
    const now = context.currentTime + 0.02, duration = Math.min(...buffers.map(buffer => buffer.duration));
    const place = (this.playing ? this.#at(now) : this.#place) % duration;
    this.#silence();
    this.output ??= new GainNode(context);
    this.output.connect(context.destination);
    this.#nodes = buffers.map((buffer, i) => {
      const source = new AudioBufferSourceNode(context, { buffer, loop: true, loopEnd: duration });
      const level = 10 ** ((sounds[i].gain ?? 0) / 20), gain = new GainNode(context, { gain: 0 });
      source.connect(gain).connect(this.output);
      source.start(now, place);
      gain.gain.setTargetAtTime(level * (this.weights[i] ?? 0), now, FADE / 2);
      return { source, gain, level };
    });
    this.#duration = duration;
    this.#place = place;
    this.#began = now;
    this.#changed();
    this.dispatchEvent(new Event("start"));
  }

  pause() {
    this.#turn++;
    this.#place = this.currentTime;
    this.wanted = false;
    this.#silence();
    if (heard === this) heard = null;
    this.#changed();
  }

  toggle() { return this.wanted ? this.pause() : this.play(); }

  // Go to a position, s, and play from there.
  seek(seconds) {
    this.#place = Math.max(0, seconds);
    this.#silence();
    return this.play();
  }

  #silence() {
    for (const { source, gain } of this.#nodes) {
      towards(gain, 0);
      source.stop(context.currentTime + 6 * FADE);
    }
    this.#nodes = [];
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
    if (this.playing && this.plots.size) move(this);
  }
}

// How much of each strength is audible at a position of the slider: the two neighbors share, since they are similar and in phase.
export function between(strengths, value) {
  const mix = strengths.map(() => 0), last = strengths.length - 1;
  const at = Math.min(Math.max(value, strengths[0]), strengths[last]);
  const high = Math.max(1, strengths.findIndex(strength => strength >= at)), low = high - 1;
  const share = (at - strengths[low]) / (strengths[high] - strengths[low]);
  mix[low] = 1 - share;
  mix[high] = share;
  return mix;
}

function move(player) {
  const part = player.duration ? player.currentTime / player.duration : 0;
  for (const plot of player.plots) {
    const cursor = plot.querySelector("i");
    cursor.style.opacity = 1;
    cursor.style.transform = `translateX(${part * plot.clientWidth}px)`;
  }
  cancelAnimationFrame(player.frame);
  if (player.playing) player.frame = requestAnimationFrame(() => move(player));
}

// A picture of a player's sound: its cursor moves, and a click plays from there. seconds: the sound's length, known before decoding.
export function scope(plot, player, seconds, before = () => {}) {
  player.plots.add(plot);
  plot.addEventListener("click", event => {
    before();
    const box = plot.getBoundingClientRect();
    player.seek(((event.clientX - box.left) / box.width) * (player.duration || seconds()));
  });
}

// Stop whatever is playing.
export const hush = () => heard?.pause();

// A button that plays and stops, labeled with what it will do and, if it has data-what, with which sound. Its arrow keys seek half a second.
export function playButton(button, player) {
  const show = () => {
    button.textContent = player.wanted ? "Stop" : "Play";
    if (button.dataset.what) button.setAttribute("aria-label", `${button.textContent}: ${button.dataset.what}`);
  };
  button.addEventListener("click", () => player.toggle());
  button.addEventListener("keydown", event => {
    const by = { ArrowLeft: -0.5, ArrowRight: 0.5 }[event.key];
    if (!by || !player.duration || modified(event)) return;
    event.preventDefault();
    player.seek((player.currentTime + by + player.duration) % player.duration);
  });
  player.addEventListener("failed", () => (button.textContent = "Cannot play"));
  player.addEventListener("change", show);
  show();
}

// JupyterLab takes the keys of whatever has the focus unless it has this attribute: without it, an "a" on a button adds a cell.
export function keepKeys(...controls) {
  for (const control of controls) control.dataset.lmSuppressShortcuts = "true";
}

// A keyboard shortcut of the browser, such as Alt and an arrow key to go back.
export const modified = event => event.ctrlKey || event.metaKey || event.altKey;

export function signed(value, digits = 2) {
  const text = Math.abs(value).toFixed(digits);
  return Number(text) === 0 ? text : `${value > 0 ? "+" : "−"}${text}`;
}
