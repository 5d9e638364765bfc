// One cell of the atlas: clean, corrupted and patched in sync, their scores among all others, and the code that regenerates them.
import { Player, playButton, scope, signed } from "audioscope/player.js";

const VERSIONS = ["clean", "corrupted", "patched"];

export class Cell extends EventTarget {
  constructor(root, packs, scoreChart) {
    super();
    Object.assign(this, { root, packs, scoreChart, version: 2, player: new Player() });
    this.boxes = VERSIONS.map((name, i) => {
      const box = root.querySelector(`[data-version=${name}]`);
      box.querySelector("button").addEventListener("click", () => this.hear(i));
      scope(box.querySelector(".plot"), this.player, () => this.seconds, () => this.choose(i));
      return box;
    });
    playButton(this.find("button.play"), this.player);
    this.find("select").addEventListener("change", event => this.dispatchEvent(new CustomEvent("unit", { detail: event.target.value })));
    for (const button of root.querySelectorAll("[data-copy]")) {
      button.addEventListener("click", async () => {
        await copy(this.find(button.dataset.copy));
        button.textContent = "Copied";
        setTimeout(() => (button.textContent = "Copy"), 1500);
      });
    }
    this.player.addEventListener("failed", () => this.#say("This browser cannot decode the clips."));
    root.cell = this;
  }

  find(name) { return this.root.querySelector(name); }

  #say(text) { this.find(".message").textContent = text; }

  // Switch to one version, at the position of the others.
  choose(version) {
    this.version = version;
    this.boxes.forEach((box, i) => {
      box.classList.toggle("on", i === version);
      box.querySelector("button").setAttribute("aria-pressed", String(i === version));
    });
    this.player.fade(this.#mix());
  }

  hear(version) {
    this.choose(version);
    if (!this.player.wanted) this.player.play();
  }

  #mix() { return VERSIONS.map((_, i) => (i === this.version && !this.muted ? 1 : 0)); }

  // map: the page's data for one atlas; facts: the heatmap's row for the cell; unit: the index of the pair and seed.
  async show(map, facts, concept, site, unit) {
    const turn = (this.turn = {}), what = [map.number, concept, unit].join(" "), number = map.sites.findIndex(([path]) => path === site);
    this.seconds = Math.min(map.seconds, this.packs.longest);
    this.find("h2").textContent = concept;
    this.find(".layer").textContent = `${map.noun} ${map.sites[number][1]} of ${map.name}`;
    this.find(".reading b").textContent = facts?.defined ? facts.reading.split(" ")[0] : "";
    this.find(".reading span").textContent = !facts ? "not measured" : facts.defined ? facts.reading.split(" ").slice(1).join(" ") : facts.reading;
    this.find(".control").textContent = facts?.defined && map.units ? `control ${facts.control}, ${facts.pairs} pairs` : "";
    this.find(".module").replaceChildren(...site.split(/(?<=\.)/).flatMap((part, i) => (i ? [document.createElement("wbr"), part] : [part])));
    const units = map.units?.[concept] ?? [], chosen = units[unit], scores = map.scores?.[concept];
    this.find(".sound").hidden = !chosen;
    if (what !== this.what) this.#waiting(true); // otherwise, the old music would play under the new labels until the new music arrives
    this.what = what;
    this.boxes[2].querySelector(".role").textContent = map.role;
    if (!chosen) {
      this.player.set([]);
      this.#say(map.units ? "No prompt pair of this concept was kept." : "Published as a number only: there are no clips.");
      return;
    }
    const values = VERSIONS.map(name => scores[name === "patched" ? site : name]);
    this.boxes.forEach((box, i) => {
      const own = values[i][chosen.index], all = values[i].filter(value => value !== null);
      const below = all.filter(value => value < own).length, ties = all.filter(value => value === own).length - 1;
      const place = all.length > 1 ? `, higher than ${below}${ties > 0 ? ` and equal to ${ties}` : ""} of ${all.length - 1} others` : "";
      box.querySelector(".score").replaceChildren("score ", bold(own === null ? "failed" : signed(own)), own === null ? "" : place);
    });
    this.find(".clean-prompt").replaceChildren(...marked(chosen.clean, chosen.clean_marks));
    this.find(".corrupted-prompt").replaceChildren(...marked(chosen.corrupted, chosen.corrupted_marks));
    const words = { clean: chosen.clean, corrupted: chosen.corrupted, site, seed: chosen.seed };
    this.find(".code").textContent = map.code.replace(/«(\w+)»/g, (_, word) => JSON.stringify(words[word]));
    const menu = this.find("select");
    menu.replaceChildren(...units.map((each, i) => new Option(`pair ${each.pair}${each.again ? `, seed ${each.seed}` : ""}${each.example ? ", example" : ""}`, i, false, i === unit)));
    menu.disabled = units.length < 2;
    const rows = VERSIONS.flatMap((row, i) => values[i].map((score, j) => ({ row, score, chosen: j === chosen.index })));
    this.scoreChart(map, rows.filter(({ score }) => score !== null));
    const sounds = await this.#sounds(map, units, unit, concept, number).catch(error => {
      if (turn === this.turn) {
        this.what = null; // to try again
        this.player.set([]);
      }
      throw error;
    });
    if (turn !== this.turn) return;
    this.#say(sounds ? "" : !map.heard ? "No sound was kept for this map." : this.packs.missing);
    this.boxes.forEach((box, i) => {
      if (sounds) box.querySelector("img").src = sounds[i].picture;
      box.querySelector("img").alt = `Mel spectrogram of the ${VERSIONS[i]} clip`;
    });
    this.#waiting(false, !sounds);
    await this.player.set(sounds ?? [], this.#mix());
  }

  // Nothing of the last cell is heard or seen while the next one's sound is loading.
  #waiting(muted, hidden = muted) {
    this.muted = muted;
    this.find(".listen").hidden = hidden;
    for (const box of this.boxes) {
      box.querySelector(".plot").hidden = hidden;
      box.querySelector("button").disabled = hidden;
    }
    this.choose(this.version);
  }

  async #sounds(map, units, unit, concept, number) {
    const name = `m${map.number}-c${map.concepts.indexOf(concept)}-u${units[unit].index}`;
    const pack = await this.packs.open(name, [...VERSIONS.slice(0, 2), number]);
    return pack && [pack.clean, pack.corrupted, pack[number]];
  }
}

function bold(text) {
  const element = document.createElement("b");
  element.textContent = text;
  return element;
}

// A prompt in which the words that the other prompt lacks are marked; marks: their indices.
function marked(prompt, marks) {
  const words = prompt.split(/\s+/).filter(Boolean), found = [];
  for (let i = 0; i < words.length; i++) {
    const swapped = marks.includes(i), run = [words[i]];
    while (i + 1 < words.length && marks.includes(i + 1) === swapped) run.push(words[++i]);
    const node = swapped ? document.createElement("mark") : document.createElement("span");
    node.textContent = run.join(" ");
    found.push(node, " ");
  }
  return found;
}

// The clipboard needs a secure context; elsewhere, the text is selected, and the browser's own command copies it.
async function copy(element) {
  try {
    await navigator.clipboard.writeText(element.textContent);
  } catch {
    const range = document.createRange();
    range.selectNodeContents(element);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    document.execCommand("copy");
  }
}
