// Words under a spectrogram: bands show when the model looks at each; a pressed word is heard cut out, in phase with the clip as it is.
import { Player, playButton, scope } from "audioscope/player.js";

// data: {seconds, axes: ["layer", ...], labels: [[...], ...], shape: [..., words, moments], values: base64 of bytes, top, clips: [{title, sound, picture, gain} or null]}
const data = JSON.parse(document.getElementById("attention").textContent);
const section = document.querySelector("section.attention");
const find = name => section.querySelector(name);
const values = Uint8Array.from(atob(data.values), letter => letter.charCodeAt(0));
const [words, moments] = data.shape.slice(-2);
const buttons = [...section.querySelectorAll("button.word")], bands = [...section.querySelectorAll("canvas")];
const player = new Player(), clips = [data.clips[0], ...data.clips.slice(1).filter(Boolean)];
const chosen = data.labels.map(() => -1); // of each axis: -1 is the mean over it
let muted = -1; // the row of the word that is cut out

// The mean over what is not chosen, for every word and moment, 0 to 255.
function shown() {
  const sum = new Float64Array(words * moments);
  let count = 0;
  const visit = (axis, start) => {
    if (axis === data.labels.length) {
      count++;
      for (let i = 0; i < sum.length; i++) sum[i] += values[start * sum.length + i];
      return;
    }
    data.labels[axis].forEach((_, i) => (chosen[axis] < 0 || chosen[axis] === i) && visit(axis + 1, start * data.labels[axis].length + i));
  };
  visit(0, 0);
  return sum.map(value => value / count);
}

function draw() {
  const now = shown(), top = Math.max(1, ...now.slice(0, data.named * moments));
  bands.forEach((canvas, row) => {
    const context = canvas.getContext("2d"), pixels = context.createImageData(moments, 1);
    for (let i = 0; i < moments; i++) pixels.data.set([240, 160, 90, Math.min(255, (255 * now[row * moments + i]) / top)], 4 * i);
    context.putImageData(pixels, 0, 0);
  });
}

const heard = () => data.clips[muted + 1];

// What is heard, and of which layer and step the bands are.
function say() {
  const places = data.labels.map((labels, axis) => (chosen[axis] < 0 ? `all ${data.axes[axis]}s` : `${data.axes[axis]} ${labels[chosen[axis]]}`));
  find(".caption").textContent = `Now: ${heard().title}. Bands: ${places.join(", ")}`;
}

function choose(row) {
  muted = muted === row ? -1 : row;
  buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(i === muted)));
  const clip = heard();
  player.fade(clips.map(each => (each === clip ? 1 : 0)));
  find("img").src = clip.picture;
  find("img").alt = `Mel spectrogram: ${clip.title}`;
  say();
}

buttons.forEach((button, row) => button.addEventListener("click", () => choose(row)));
section.querySelectorAll("input[type=range]").forEach(range =>
  range.addEventListener("input", () => {
    const axis = Number(range.dataset.axis), place = Number(range.value) - 1;
    chosen[axis] = place;
    const text = place < 0 ? "all" : data.labels[axis][place];
    range.nextElementSibling.textContent = text.split(" (")[0];
    range.setAttribute("aria-valuetext", text);
    say();
    draw();
  }),
);
playButton(find("button.play"), player);
scope(find(".plot"), player, () => data.seconds);
player.set(clips);
section.player = player;
draw();
choose(-1);
