"""How quick the atlas page is in a browser, with 21 concepts by 24 layers: first paint, click to answer, frames a second.

    python benchmarks/atlas_page.py [--layers 24] [--turns 7] [--folder /tmp/atlas_page]

The scores are made up; every clip is one of tiny's, so that the page has its real weight. Each turn opens the page anew, as one file
and as a folder from a disk, clicks cells of other concepts (whose sound must be decoded first) and of the same one, and plays while the
mouse moves over the heatmap. A frame counts when the browser asks for one; there is no display here, so 60 a second is all it can ask.
Printed: median, and the least and largest.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import statistics
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from playwright.sync_api import Page, sync_playwright

from audioscope import datasets
from audioscope.atlas.atlas import Atlas
from audioscope.audio import Clip
from audioscope.concepts import shipped_groups
from audioscope.sites import Site

PAIRS = 4
CLICK = """([concept, layer]) => new Promise(done => {
  const find = () => [...document.querySelectorAll("#chart svg path")].find(path => {
    const row = path.__data__?.datum;
    return row?.concept === concept && row.layer === layer;
  });
  const cell = find(), { x, y } = cell.getBoundingClientRect(), player = document.querySelector("#cell").cell.player;
  const place = { bubbles: true, clientX: x + 5, clientY: y + 5, view: window };
  const begun = performance.now(), answer = {};
  player.addEventListener("start", () => { answer.sound ??= performance.now() - begun; });
  cell.dispatchEvent(new MouseEvent("click", place));
  const look = () => {
    if (document.querySelector("#cell-title").textContent === concept && document.querySelector("#cell .layer").textContent.startsWith(`layer ${layer} `)) {
      answer.words ??= performance.now() - begun;
    }
    const outline = [...document.querySelectorAll("#chart svg path")].some(path => {
      const { datum, stroke, fill, strokeWidth } = path.__data__ ?? {};
      return datum?.concept === concept && datum.layer === layer && strokeWidth === 3;
    });
    if (outline) answer.outline ??= performance.now() - begun;
    if (answer.words && answer.outline && answer.sound) done(answer);
    else if (performance.now() - begun > 5000) done(answer);
    else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
})"""
FRAMES = """() => new Promise(done => {
  const times = [];
  const count = time => { times.push(time); if (time - times[0] < 3000) requestAnimationFrame(count); else done(times); };
  requestAnimationFrame(count);
})"""


def made_up(folder: Path, layers: int) -> Atlas:
    """An atlas of the paper's 21 concepts with made-up scores and real clips."""
    rng = np.random.default_rng(0)
    shipped = datasets.atlas()
    concepts, groups = shipped.concepts, shipped_groups()
    source = Clip.load(shipped.folder / shipped.examples()["clean"].iloc[0])
    sites = [Site(f"transformer.transformer_blocks.{i}.cross_attn", "cross", i, 128) for i in range(layers)]
    source.save(folder / "clip.flac")
    lines = []
    for concept, pair in itertools.product(concepts, range(PAIRS)):
        for row, layer in [("clean", -1), ("corrupted", -1), *(("patched", i) for i in range(layers))]:
            for scored in concepts:
                share = {"clean": 1.0, "corrupted": 0.0}.get(row, 0.9 if layer in (6, 7) else 0.1 * rng.random())
                score = (8 * share - 4 if scored == concept else 0.0) + 0.3 * rng.standard_normal()
                lines.append(
                    (
                        row,
                        sites[layer].path if layer >= 0 else "",
                        layer,
                        "clip.flac",
                        False,
                        scored,
                        score,
                        "made up",
                        concept,
                        pair,
                        pair,
                    )
                )
    names = ["row", "site", "layer", "clip", "failed", "scored", "score", "model", "concept", "pair", "seed"]
    table = pd.DataFrame(lines, columns=names).assign(clean_prompt="a song with it", corrupted_prompt="a song without it")
    settings = {
        "model": "made up", "patch": "text", "direction": "sufficient", "when": None, "units": "log-odds", "steps": 10, "guidance": 3.0,
        "seconds": source.seconds, "pairs": PAIRS, "seeds": 1, "swaps_all_text": True, "sites": [asdict(site) for site in sites], "concepts": concepts,
        "groups": {c: {"group": groups[c], "changes": [groups[c]]} for c in concepts},
    }  # fmt: skip
    return Atlas(table, settings, folder)


def paint(page: Page, address: str) -> dict[str, float]:
    """Milliseconds from the start of loading to the first paint and to the drawn heatmap with its cell."""
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    found = page.evaluate("[performance.getEntriesByName('first-contentful-paint')[0].startTime, performance.now()]")
    return {"first paint, ms": found[0], "heatmap and cell drawn, ms": found[1]}


def clicks(page: Page, concepts: list[str]) -> dict[str, float]:
    """Milliseconds from a click to the cell's words, to its outline, and to its sound."""
    page.click("#cell button.play")
    other, same = page.evaluate(CLICK, [concepts[9], 6]), page.evaluate(CLICK, [concepts[9], 7])
    return {
        "click to words, ms": other["words"], "click to outline, ms": other["outline"], "click to sound of another concept, ms": other["sound"],
        "click to sound of another layer, ms": same["sound"],
    }  # fmt: skip


def frames(page: Page) -> dict[str, float]:
    """Frames a second over 3 s of playing, with the mouse moving over the heatmap, and the longest frame in ms."""
    box = page.locator("#chart").bounding_box()
    page.evaluate(f"window.frames_of = ({FRAMES})()")
    for i in range(60):
        page.mouse.move(box["x"] + 130 + 8 * i, box["y"] + 170 + 4 * i)
        page.wait_for_timeout(45)
    times = page.evaluate("window.frames_of")
    gaps = np.diff(times)
    return {"frames a second": 1000 * len(gaps) / (times[-1] - times[0]), "longest frame, ms": float(gaps.max())}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--layers", type=int, default=24)
    arguments.add_argument("--turns", type=int, default=7)
    arguments.add_argument("--folder", type=Path, default=Path("/tmp/atlas_page"))
    options = arguments.parse_args()
    atlas = made_up(options.folder, options.layers)
    addresses = {
        "one file": atlas.save_html(options.folder / "one.html", progress=False),
        "folder": atlas.save_site(options.folder / "site", progress=False),
    }
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        for name, path in addresses.items():
            turns: list[dict[str, float]] = []
            for _ in range(options.turns):
                window = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
                page = window.new_page(viewport={"width": 1440, "height": 1000})
                turns.append(paint(page, path.as_uri()) | clicks(page, atlas.concepts) | frames(page))
                window.close()
            print(f"{name}: {path.stat().st_size / 1e6:.1f} MB, {len(atlas.concepts)} x {options.layers} cells")
            for key in turns[0]:
                values = [turn[key] for turn in turns]
                print(f"  {key:42s} {statistics.median(values):7.1f}  [{min(values):.1f}, {max(values):.1f}]")


if __name__ == "__main__":
    main()
