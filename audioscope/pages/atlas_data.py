"""The data of the atlas page, for its script: the scores, prompts and clips of each atlas, and the methods of each axis."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from audioscope.atlas.atlas import Atlas, Scale, ends
from audioscope.atlas.charts import agreement_heatmap, noun, score_strip, side_by_side
from audioscope.atlas.windows import window_of
from audioscope.audio import Clip
from audioscope.pages.html import sound
from audioscope.sites import labels_of, said_kind
from audioscope.steer.cells import CELLS, label_of
from audioscope.steer.charts import steering_chart
from audioscope.steer.results import SteeringSweep

PLANTED = {
    "each": "planted", "all": "planted, all layers needed", "any": "planted, any layer enough", "trained": "planted by training",
}  # fmt: skip
PATCHES = {"text": "text swap", "output": "output patch"}
ROLES = {
    ("text", "sufficient"): "corrupted, but this layer reads the clean prompt",
    ("output", "sufficient"): "corrupted, but this layer's output is that of the clean run",
    ("text", "necessary"): "clean, but this layer reads the corrupted prompt",
    ("output", "necessary"): "clean, but this layer's output is that of the corrupted run",
}


@dataclass(frozen=True)
class Piece:
    """One item of a pack, made on demand.

    pack: m... for a cell, by map, concept and unit; s... for an axis; f... for a feature. make: takes the maximum length of a
    clip in s, or None for all of it. rank: the priority if space is short, smallest first; for a cell's clip: (not of the unit
    shown first, not needed to hear the best layer, number of the map, minus the impact).
    """

    pack: str
    name: str
    make: Callable[[float | None], Any]
    rank: tuple[float, ...]


def clip_piece(pack: str, name: str, path: Path, rank: tuple[float, ...]) -> Piece:
    """A clip stored in a file. Raises FileNotFoundError if the file is missing."""
    if not path.is_file():
        raise FileNotFoundError(f"The results list the clip {path}, but the file is missing: run the sweep again to generate it.")
    return Piece(pack, name, partial(_sound_of, path), rank)


def _sound_of(path: Path, longest: float | None) -> dict[str, Any]:
    return sound(Clip.load(path), longest)


def number(value: float, digits: int) -> float | None:
    """A number for JSON, which has no NaN or infinity."""
    return round(float(value), digits) if np.isfinite(value) else None


def name_of(settings: dict[str, Any]) -> str:
    """An atlas in a few words: its model, what was patched, and when."""
    parts = [PATCHES.get(settings.get("patch", ""), str(settings.get("patch")))]
    kinds = {site["kind"] for site in settings["sites"]}
    if kinds != {"cross"}:
        parts.append("cross- and self-attention" if kinds == {"cross", "self"} else " and ".join(map(said_kind, sorted(kinds))))
    if settings.get("direction") == "necessary":
        parts.append("into the clean run")
    if (when := settings.get("when")) is not None:
        part = "steps" if settings.get("window") else "third of the steps"
        parts.append(f"step {when}" if isinstance(when, int) else f"{when} {part}")
    if plan := settings.get("planted"):
        parts.append(PLANTED[plan["needs"]])
    if "source" in settings:
        parts.append("published")
    return f"{settings['model']}: {', '.join(parts)}"


def names_of(atlases: Sequence[Atlas]) -> list[str]:
    """The names of atlases shown together: equal names get their number of pairs or, if they are still equal, a number."""
    names = [name_of(atlas.settings) for atlas in atlases]
    for more in ([f", {atlas.settings['pairs']} pairs" for atlas in atlases], [f" ({i + 1})" for i in range(len(atlases))]):
        names = [name + extra if names.count(name) > 1 else name for name, extra in zip(names, more, strict=True)]
    return names


def swapped(prompt: str, other: str) -> list[int]:
    """The indices of the words that the other prompt lacks at that place."""
    words, others = prompt.split(), other.split()
    steps = SequenceMatcher(None, others, words, autojunk=False).get_opcodes()
    return [i for step, _, _, start, stop in steps if step != "equal" for i in range(start, stop)]


def code_of(settings: dict[str, Any]) -> str:
    """Python code that regenerates a cell's three clips; «clean», «corrupted», «site» and «seed» stand for its own values."""
    run = {name: settings[name] for name in ("steps", "guidance", "seconds", "negative_prompt") if settings.get(name) is not None}
    kind = "PatchText" if settings["patch"] == "text" else "PatchOutput"
    into, source = ends(settings["direction"])
    window = f", steps={window_of(settings)}" if window_of(settings) else ""
    lines = [
        "import audioscope",
        "",
        f"model = audioscope.load({settings['model']!r})",
        f"settings = {run!r}",
        "clean = «clean»",
        "corrupted = «corrupted»",
        f"patch = audioscope.{kind}(«site», {source}{window})",
        f"runs = [(clean, ()), (corrupted, ()), ({into}, patch)]",
        "clips = [model.generate(prompt, seed=«seed», edits=edits, **settings) for prompt, edits in runs]",
        "audioscope.show_clips(*clips)",
    ]
    return "\n".join(lines)


def atlas_data(atlas: Atlas, place_of: int, name: str, scale: Scale | None = None) -> tuple[dict[str, Any], list[Piece]]:
    """The page's data for one atlas, and the clips that its packs may hold.

    place_of, name: its place and its name on the page. scale: of its impacts; the scores shown are raw.
    Raises FileNotFoundError if the atlas lists a clip that is missing.
    """
    settings = atlas.settings
    impacts = atlas.impacts(scale)
    defined = impacts[impacts["defined"] & impacts["impact"].notna()]
    best = defined.loc[defined.groupby("concept", sort=False)["impact"].idxmax()].set_index("concept")["site"].to_dict()
    shown = {row.concept: row for row in atlas.examples(scale).itertuples()}
    best |= {concept: row.site for concept, row in shown.items()}
    metadata: dict[str, Any] = {
        "number": place_of, "name": name, "model": settings["model"], "sites": [[path, label] for path, label in labels_of(atlas.sites).items()],
        "noun": noun(impacts["layer"]),
        "concepts": atlas.concepts, "best": best, "seconds": settings.get("seconds"),
    }  # fmt: skip
    if "row" not in atlas.table:  # published: numbers only
        return metadata, []
    paths = [s.path for s in atlas.sites]
    strength = impacts.set_index(["concept", "site"])["impact"].abs()
    units: dict[str, list[dict[str, Any]]] = {}
    scores: dict[str, dict[str, Any]] = {}
    pieces: list[Piece] = []
    table = atlas.table
    table = table[table["scored"].astype(str) == table["concept"].astype(str)]
    text = {name: table[name].astype(str) for name in ("concept", "clip", "clean_prompt", "corrupted_prompt")}
    cell = table["site"].astype(str).where(table["row"] == "patched", table["row"].astype(str))
    table = table[["pair", "seed", "score"]].assign(cell=cell, **text)
    for place, concept in enumerate(atlas.concepts):
        part = table[table["concept"] == concept]
        wide = part.pivot(index=["pair", "seed"], columns="cell", values=["score", "clip"])
        values = wide["score"].astype(float)
        scores[concept] = {row: [number(v, 2) for v in values[row]] for row in ["clean", "corrupted", *paths]}
        prompts = part.drop_duplicates(["pair", "seed"]).set_index(["pair", "seed"])
        example = shown.get(concept)
        heard = wide["clip"][["clean", "corrupted"]].ne("").all(axis=1).to_numpy()
        # what is shown first: the example, or else the first unit that can be heard
        first = wide.index.get_loc((example.pair, example.seed)) if example is not None else int(heard.argmax())
        pairs = wide.index.get_level_values("pair")
        units[concept] = []
        for index, key in enumerate(wide.index):
            if not heard[index] and index != first:
                continue
            clean, corrupted = prompts.loc[key, ["clean_prompt", "corrupted_prompt"]]
            units[concept].append({
                "index": index, "pair": int(key[0]), "seed": int(key[1]), "shown": index == first,
                "example": index == first and example is not None, "again": bool((pairs == key[0]).sum() > 1),
                "clean": clean, "corrupted": corrupted,
                "clean_marks": swapped(clean, corrupted), "corrupted_marks": swapped(corrupted, clean),
            })  # fmt: skip
            if not heard[index]:
                continue
            clips = wide["clip"].loc[key]
            for row, site in [("clean", ""), ("corrupted", ""), *((str(i), path) for i, path in enumerate(paths))]:
                file = clips[site or row]
                if not file:
                    continue
                weight = -float(np.nan_to_num(strength.get((concept, site), 0.0)))
                rank = (index != first, site not in ("", best.get(concept)), place_of, weight)
                pieces.append(clip_piece(f"m{place_of}-c{place}-u{index}", row, atlas.folder / file, rank))
    metadata |= {
        "units": units, "scores": scores, "heard": bool(pieces), "code": code_of(settings),
        "strip": score_strip(settings["units"], settings.get("calibrated")).to_dict(),
        "role": ROLES[settings["patch"], settings["direction"]],
    }  # fmt: skip
    return metadata, pieces


def steering_data(sweep: SteeringSweep, place_of: int) -> tuple[dict[str, Any], list[Piece]] | None:
    """The page's data for one axis, with the clips of one prompt; None if the sweep kept no clips.

    The methods are those with clips, localized ones first, that have as many strengths as most, since one slider serves all;
    the page lists those left out. place_of: the axis's place on the page.
    Raises FileNotFoundError if the sweep lists a clip that is missing.
    """
    table = sweep.table[sweep.table["clip"] != ""]
    if table.empty:
        return None
    text, seed = table[["text", "seed"]].iloc[0]
    table = table[(table["text"] == text) & (table["seed"] == seed)].sort_values("strength", kind="stable")
    curves = sweep.curves()
    points = curves.set_index(["cell", "strength"])
    ordered = sorted(table["cell"].unique(), key=lambda name: list(CELLS).index(name) if name in CELLS else len(CELLS))
    usual = int(table["cell"].value_counts().mode().max())
    left_out = [name for name in ordered if (table["cell"] == name).sum() != usual]
    ordered = [name for name in ordered if name not in left_out]
    reach = np.ptp(curves.loc[curves["cell"] == ordered[0], "score"])  # how far the first method moves the score
    methods: list[dict[str, Any]] = []
    pieces: dict[str, Piece] = {}
    for place, name in enumerate(ordered):
        rows = table[table["cell"] == name]
        clips = ["zero" if strength == 0 else f"{place}-{i}" for i, strength in enumerate(rows["strength"])]
        for key, file in zip(clips, rows["clip"], strict=True):
            pieces[key] = clip_piece(f"s{place_of}", key, sweep.folder / file, (-float(np.nan_to_num(reach)),))
        means = [points.loc[(name, strength)] for strength in rows["strength"]]
        acts = sweep.settings.get("methods", {}).get(name, {})
        methods.append({
            "cell": name, "label": label_of(name), "title": f"{sweep.concept}, {label_of(name)}", "clips": clips,
            "at": acts.get("at", []), "strengths": [round(float(a), 4) for a in rows["strength"]],
            "captions": [
                f"This clip: score {r.score:+.2f}, distance {r.distance:.3f}".replace("-", "−") for r in rows.itertuples()
            ],
            "points": [
                [number(np.sign(a) * m["distance"], 5), number(m["score"], 3)]
                for a, m in zip(rows["strength"], means, strict=True)
            ],
        })  # fmt: skip
    opposite = str(sweep.settings["opposite"])
    names = {name: label_of(name) for name in ordered}
    chart = steering_chart(curves[curves["cell"].isin(ordered)], sweep.concept, opposite, now=True, names=names)
    return {
        "concept": sweep.concept, "opposite": opposite, "title": f"{opposite} ↔ {sweep.concept}" if opposite else sweep.concept,
        "text": text, "methods": methods, "chart": spec_of(chart.to_dict()), "seconds": sweep.settings.get("seconds"),
        "left_out": f"Left out because of a different number of strengths or a failed clip: {', '.join(left_out)}."
        if left_out else "",
    }, list(pieces.values())  # fmt: skip


def spec_of(whole: dict[str, Any]) -> dict[str, Any]:
    """A chart's specification for the page: there, its title is HTML, which can wrap, and its colors are those of the theme."""
    return {name: value for name, value in whole.items() if name not in ("config", "title")}


def scale_on(atlas: Atlas, scale: Scale | None) -> Scale | None:
    """The page's scale if an atlas has it, otherwise the atlas's own: published maps have only one."""
    return scale if scale in atlas.scales else None


def agreements_of(atlases: Sequence[Atlas]) -> dict[int, pd.DataFrame]:
    """Of the atlases whose clips several scorers heard, by their places, where these agree."""
    return {place: each.agreement() for place, each in enumerate(atlases) if "row" in each.table and len(each.scorers) > 1}


def charts_of(
    atlases: Sequence[Atlas], names: Sequence[str], agreements: Mapping[int, pd.DataFrame], scale: Scale | None = None
) -> Iterator[dict[str, Any]]:
    """The heatmap of each atlas by its name, those of agreements, and the models side by side if there are several."""

    def entry(name: str, place: int | None, chart: Any, wide: bool, kind: str = "impact") -> dict[str, Any]:
        whole = chart.to_dict()
        title, notes = whole["title"]["text"], " ".join(whole["title"]["subtitle"])
        return {"name": name, "map": place, "title": title, "notes": notes, "spec": spec_of(whole), "wide": wide,
                "kind": kind}  # fmt: skip

    models: dict[str, Atlas] = {}
    for place, atlas in enumerate(atlases):
        models.setdefault(str(atlas.settings["model"]), atlas)
        yield entry(names[place], place, atlas.chart(scale_on(atlas, scale)), len(atlas.sites) > 30)
    for place, cells in agreements.items():
        name = f"{names[place]}, agreement of {' and '.join(atlases[place].scorers)}"
        yield entry(name, place, agreement_heatmap(cells), len(atlases[place].sites) > 30, "agreement")
    if len(models) > 1:
        yield entry("all models, by relative depth", None, side_by_side(models), True)
