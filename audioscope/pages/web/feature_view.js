// The feature view: the list of an SAE's features, and the page of one.
import { wireFigures, wireSearch } from "audioscope/features.js";
import { packs } from "audioscope/packs.js";
import { hush } from "audioscope/player.js";
import { data, find, go, place, plain, state } from "audioscope/state.js";

let pageShown; // the pack of the feature that is shown
const lists = [...document.querySelectorAll(".feature-list")];
const siteOf = number => (data.maps[state.map].sites.some(([path]) => path === data.saes[number].site) ? { site: data.saes[number].site } : {});
lists.forEach((list, i) => {
  wireSearch(list);
  list.querySelector("tbody").addEventListener("click", event => {
    const link = event.target.closest("a");
    if (!link || !plain(event)) return;
    event.preventDefault();
    const { feature, concept } = link.closest("tr").dataset;
    go({ ...siteOf(i), ...(data.maps[state.map].concepts.includes(concept) ? { concept } : {}), sae: i, feature });
  });
});
find("#sae")?.addEventListener("change", event => go({ ...siteOf(event.target.value), sae: event.target.value }));

export async function showFeatures() {
  const same = data.saes.findIndex(sae => sae.site === state.site);
  const number = state.sae !== "" ? place(state.sae, lists.length) : Math.max(0, same);
  find("#sae").value = number;
  lists.forEach((list, i) => (list.hidden = i !== number));
  const rows = [...lists[number].querySelectorAll("tbody tr")], held = row => `f${number}-${row.dataset.feature}` in data.packs;
  const wanted = rows.find(row => row.dataset.feature === state.feature);
  const row = wanted ?? rows.find(each => each.dataset.concept === state.concept && held(each)) ?? rows.find(held);
  for (const each of rows) {
    each.classList.toggle("same", each.dataset.concept === state.concept);
    each.classList.toggle("open", each === row);
  }
  const name = `f${number}-${row?.dataset.feature}`;
  if (pageShown === name) return;
  pageShown = name;
  hush();
  const box = find("#feature");
  try {
    const pack = await packs.open(name, ["html"]);
    if (pageShown !== name) return;
    find("#said").textContent = row ? `Feature ${row.dataset.feature}` : "";
    if (!pack) return void (box.textContent = packs.missing);
    box.innerHTML = pack.html; // our own template, in which all text is escaped
  } catch (error) {
    if (pageShown !== name) return; // for a feature that is no longer requested
    pageShown = null;
    if (state.view === "features") throw error;
    return;
  }
  wireFigures(box);
  for (const link of box.querySelectorAll("[data-feature]")) {
    link.addEventListener("click", event => {
      if (!plain(event)) return;
      event.preventDefault();
      go({ sae: number, feature: link.dataset.feature });
    });
  }
}
