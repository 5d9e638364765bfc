"""What the atlas page knows: of each atlas its scores, prompts and clips, of each axis its arms, as values for its script."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np

from audioscope import charts
from audioscope.atlas import Atlas
from audioscope.audio import Clip
from audioscope.gains import Steering
from audioscope.page import sound
from audioscope.patching import third

PATCHES = {"text": "text swap", "output": "output patch"}
ROLES = {
    ("text", "sufficient"): "corrupted, but this layer reads the clean prompt",
    ("output", "sufficient"): "corrupted, but this layer speaks as in the clean run",
    ("text", "necessary"): "clean, but this layer reads the corrupted prompt",
    ("output", "necessary"): "clean, but this layer speaks as in the corrupted run",
}
ARMS = {  # how the cells of a steering sweep are called on the page, in their order
    "caa own": "localised: its own layers",
    "caa shared": "localised: shared layers",
    "caa all": "everywhere",
    "caa random layers": "random layers",
    "random direction own": "random direction",
}


@dataclass(frozen=True)
class Piece:
    """One thing that a pack holds, made when it is wanted. rank: what comes first where space is short, small before large."""

    pack: str
    name: str
    make: Callable[[], Any]
    rank: tuple[float, ...]


def name_of(settings: dict[str, Any]) -> str:
    """An atlas in a few words: its model, what was patched, and when."""
    parts = [PATCHES.get(settings.get("patch", ""), str(settings.get("patch")))]
    if settings.get("direction") == "necessary":
        parts.append("out of the clean run")
    if settings.get("when"):
        parts.append(f"{settings['when']} third of the steps")
    if "source" in settings:
        parts.append("published")
    return f"{settings['model']}: {', '.join(parts)}"


def swapped(prompt: str, other: str) -> list[int]:
    """The numbers of the words that the other prompt lacks there."""
    words, others = prompt.split(), other.split()
    steps = SequenceMatcher(None, others, words, autojunk=False).get_opcodes()
    return [i for step, _, _, start, stop in steps if step != "equal" for i in range(start, stop)]


def code_of(settings: dict[str, Any]) -> str:
    """Python that makes a cell's three clips again; «clean», «corrupted», «site» and «seed» stand for its own values."""
    run = {name: settings[name] for name in ("steps", "guidance", "seconds") if settings.get(name) is not None}
    kind = "PatchText" if settings["patch"] == "text" else "PatchOutput"
    into, source = ("corrupted", "clean") if settings["direction"] == "sufficient" else ("clean", "corrupted")
    window = f", steps={third(settings['when'], settings['steps'])}" if settings.get("when") else ""
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
        "audioscope.in_a_row(*clips)",
    ]
    if settings.get("negative_prompt"):
        lines.insert(3, f"# the sweep also had the negative prompt {settings['negative_prompt']!r}: see audioscope.localize")
    return "\n".join(lines)


def atlas_data(atlas: Atlas, number: int) -> tuple[dict[str, Any], list[Piece]]:
    """What the page knows of one atlas, and the clips that its packs may hold; number: its place on the page.

    Raises FileNotFoundError where the atlas names a clip that is not there.
    """
    settings = atlas.settings
    impacts = atlas.impacts()
    defined = impacts[impacts["defined"] & impacts["impact"].notna()]
    best = defined.loc[defined.groupby("concept", sort=False)["impact"].idxmax()].set_index("concept")["site"].to_dict()
    shown = {row.concept: row for row in atlas.examples().itertuples()}
    best |= {concept: row.site for concept, row in shown.items()}
    facts: dict[str, Any] = {
        "number": number, "name": name_of(settings), "model": settings["model"], "sites": [[s.path, s.layer] for s in atlas.sites],
        "concepts": atlas.concepts, "best": best, "seconds": settings.get("seconds"),
    }  # fmt: skip
    if "row" not in atlas.table:  # published: numbers alone
        return facts, []
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
        scores[concept] = {
            name: [None if np.isnan(v) else round(v, 2) for v in values[name]] for name in ["clean", "corrupted", *paths]
        }
        prompts = part.drop_duplicates(["pair", "seed"]).set_index(["pair", "seed"])
        example = shown.get(concept)
        units[concept] = []
        for index, key in enumerate(wide.index):
            clips = wide["clip"].loc[key]
            held = [name for name in ("clean", "corrupted") if clips[name]]
            is_shown = (example.pair, example.seed) == key if example is not None else index == 0
            if len(held) < 2 and not is_shown:
                continue
            clean, corrupted = prompts.loc[key, ["clean_prompt", "corrupted_prompt"]]
            units[concept].append({
                "index": index, "pair": int(key[0]), "seed": int(key[1]), "shown": bool(is_shown), "clean": clean, "corrupted": corrupted,
                "clean_marks": swapped(clean, corrupted), "corrupted_marks": swapped(corrupted, clean),
            })  # fmt: skip
            if len(held) < 2:
                continue
            wanted = {
                **{name: clips[name] for name in held},
                **{str(i): clips[path] for i, path in enumerate(paths) if clips[path]},
            }
            for name, file in wanted.items():
                path = _there(atlas.folder / file)
                first = name in held or paths[int(name)] == best.get(concept)
                weight = 0.0 if name in held else -float(np.nan_to_num(strength.get((concept, paths[int(name)]), 0.0)))
                rank = (not is_shown, not first, number, weight)
                pieces.append(Piece(f"m{number}-c{place}-u{index}", name, lambda path=path: sound(Clip.load(path)), rank))  # type: ignore[misc]
    facts |= {
        "units": units, "scores": scores, "heard": bool(pieces), "code": code_of(settings), "strip": charts.score_strip(settings["units"]).to_dict(),
        "role": ROLES[settings["patch"], settings["direction"]],
    }  # fmt: skip
    return facts, pieces


def _there(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"The results name the clip {path}, but it is not there: run the sweep again to make it.")
    return path


def steering_data(sweep: Steering, number: int) -> tuple[dict[str, Any], list[Piece]] | None:
    """What the page knows of one axis, with the clips of one prompt; None where the sweep kept no clips.

    The arms are those with clips, at most one each of localised ways first; each has as many strengths, so that one slider serves all.
    """
    table = sweep.table[sweep.table["clip"] != ""].sort_values("alpha")
    if table.empty:
        return None
    text, seed = table[["text", "seed"]].iloc[0]
    table = table[(table["text"] == text) & (table["seed"] == seed)]
    curves = sweep.curves()
    points = curves.set_index(["cell", "alpha"])
    ordered = sorted(table["cell"].unique(), key=lambda name: list(ARMS).index(name) if name in ARMS else len(ARMS))
    arms: list[dict[str, Any]] = []
    pieces: dict[str, Piece] = {}
    for place, name in enumerate(ordered):
        rows = table[table["cell"] == name]
        if arms and len(rows) != len(arms[0]["strengths"]):
            continue
        clips = []
        for i, row in enumerate(rows.itertuples()):
            key = "zero" if row.alpha == 0 else f"{place}-{i}"
            clips.append(key)
            path = _there(sweep.folder / row.clip)
            pieces[key] = Piece(f"s{number}", key, lambda path=path: sound(Clip.load(path)), (0.0,))  # type: ignore[misc]
        means = [points.loc[(name, alpha)] for alpha in rows["alpha"]]
        arms.append({
            "cell": name, "label": ARMS.get(name, name), "title": f"{sweep.concept}, {ARMS.get(name, name)}", "clips": clips,
            "strengths": [round(float(a), 4) for a in rows["alpha"]],
            "captions": [f"This clip: score {r.score:+.2f}, distance {r.lpaps:.3f}".replace("-", "−") for r in rows.itertuples()],
            "points": [[round(float(np.sign(a) * m["lpaps"]), 5), round(float(m["score"]), 3)] for a, m in zip(rows["alpha"], means, strict=True)],
        })  # fmt: skip
    opposite = str(sweep.settings["opposite"])
    chart = charts.steering_chart(
        curves[curves["cell"].isin([arm["cell"] for arm in arms])], sweep.concept, opposite, now=True, names=ARMS
    )
    return {
        "concept": sweep.concept, "opposite": opposite, "title": f"{opposite} ↔ {sweep.concept}" if opposite else sweep.concept, "text": text,
        "arms": arms, "chart": spec_of(chart), "seconds": sweep.settings.get("seconds"),
    }, list(pieces.values())  # fmt: skip


def spec_of(chart: Any) -> dict[str, Any]:
    """A chart for the page: its title is HTML there, where it can wrap, and its colours come from the page's theme."""
    return {name: value for name, value in chart.to_dict().items() if name not in ("config", "title")}


def charts_of(atlases: Sequence[Atlas]) -> Iterator[dict[str, Any]]:
    """The heatmap of each atlas, and the models side by side where there are several."""
    for number, atlas in enumerate(atlases):
        chart = atlas.heatmap()
        title = chart.to_dict()["title"]
        yield {"name": name_of(atlas.settings), "map": number, "title": title["text"], "notes": " ".join(title["subtitle"]),
               "spec": spec_of(chart), "wide": len(atlas.sites) > 30}  # fmt: skip
    models: dict[str, Atlas] = {}
    for atlas in atlases:
        models.setdefault(str(atlas.settings["model"]), atlas)
    if len(models) > 1:
        chart = charts.side_by_side(models)
        title = chart.to_dict()["title"]
        yield {"name": "all models, by relative depth", "map": None, "title": title["text"], "notes": " ".join(title["subtitle"]),
               "spec": spec_of(chart), "wide": True}  # fmt: skip
