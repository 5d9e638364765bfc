// Feature pages: clips with their activation, played from where a picture is clicked, and the searchable list of features.
import { Player, playButton, scope } from "audioscope/player.js";

export function wireFigures(root) {
  for (const figure of root.querySelectorAll("figure.clip")) {
    const player = new Player(), { sound, gain, seconds, peak } = figure.dataset;
    player.set([{ sound, gain: Number(gain) }]);
    figure.player = player;
    scope(figure.querySelector(".plot"), player, () => Number(seconds));
    playButton(figure.querySelector("button.play"), player);
    figure.querySelector("button.peak")?.addEventListener("click", () => player.seek(Number(peak)));
  }
}

// Filter the rows of a list by words. Returns the function that filters again.
export function wireSearch(root) {
  const search = root.querySelector("input[type=search]"), count = root.querySelector("[role=status]");
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = [...root.querySelectorAll("tbody tr")];
    for (const row of rows) row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word));
    count.textContent = `${rows.filter(row => !row.hidden).length} of ${rows.length} features`;
  };
  search.addEventListener("input", filter);
  filter();
  return filter;
}

if (document.body.dataset.page === "features") {
  wireFigures(document);
  if (document.querySelector("input[type=search]")) wireSearch(document);
}
