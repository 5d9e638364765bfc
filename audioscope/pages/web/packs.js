// Packs of sound: in the page, or in scripts next to it, since a page opened from a disk may load nothing else.
import { data } from "audioscope/state.js";

const arriving = new Map();
window.audioscopePack = (name, content) => arriving.get(name)?.(content);
export const packs = {
  opened: new Map(),
  longest: data.longest ?? Infinity, // s
  missing: data.folder
    ? "No clip was kept."
    : "This clip is not in this file, which holds the best ones; the folder written by save_site has them all.",
  // The pack, if it holds all these names, or null.
  open(name, wanted) {
    if (!wanted.every(each => data.packs[name]?.includes(String(each)))) return Promise.resolve(null);
    const pack = this.opened.get(name) ?? this.load(name);
    this.opened.delete(name); // and add it again as the latest; only a few are kept, as decoded sound is large
    this.opened.set(name, pack);
    for (const old of [...this.opened.keys()].slice(0, -12)) this.opened.delete(old);
    pack.catch(() => this.opened.delete(name)); // to try again
    return pack;
  },
  load(name) {
    const inside = document.getElementById(`pack-${name}`);
    if (inside) return Promise.resolve(JSON.parse(inside.textContent));
    const script = document.createElement("script");
    return new Promise((resolve, reject) => {
      const failed = () => reject(new Error(`packs/${name}.js could not be loaded.`));
      arriving.set(name, resolve);
      script.src = `${data.folder}/${name}.js`;
      script.onload = failed; // has no effect if the pack has arrived
      script.onerror = failed;
      document.head.append(script);
    }).finally(() => {
      arriving.delete(name);
      script.remove();
    });
  },
};
