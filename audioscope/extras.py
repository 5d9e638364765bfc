"""What ships beside the atlas of `tiny` for its page: more maps, steering with sound, features; and the published atlases."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from audioscope.arms import arm_again
from audioscope.atlas import Atlas
from audioscope.atlas_data import name_of
from audioscope.audio import Clip
from audioscope.axes import shipped_steering
from audioscope.concepts import Pair, choose
from audioscope.feature_pages import best_features, feature_set
from audioscope.gains import Steering
from audioscope.model import BATCH, Model
from audioscope.paper import NAMES, published
from audioscope.patching import WINDOWS
from audioscope.paths import data_folder
from audioscope.sae_files import load_sae, shipped_saes
from audioscope.sweep import safe_name
from audioscope.tracing import Row
from audioscope.vectors import SteeringVector

MAPS = (*WINDOWS, "output")
CELLS = ("caa own", "caa all", "caa random layers 1")  # localised, everywhere, and at random


def shipped_fingerprint() -> str:
    """The weights that the shipped results are of, from the atlas's settings alone: its table is large."""
    return str(json.loads((data_folder() / "atlas" / "atlas.json").read_text())["fingerprint"])


def is_shipped(model: Model) -> bool:
    """Whether the shipped results are of this model."""
    return shipped_fingerprint() == model.fingerprint


def shipped_maps() -> list[Atlas]:
    """Further atlases of `tiny`, without sound: the swap in the early, middle and late third of the log signal-to-noise ratio, and the output patch."""
    return [Atlas.load(data_folder() / "maps" / name) for name in MAPS]


def shipped_vector(axis: str) -> SteeringVector:
    """The CAA vector of an axis at all cross-attention sites of `tiny`, as `shipped_steering` measured it."""
    return SteeringVector.load(data_folder() / "results" / "vectors" / axis)


def rows_again(sweep: Steering, model: Model, vector: SteeringVector, lines: pd.DataFrame) -> list[Row]:
    """The rows that made some lines of a sweep's table, from what its settings say of each way to steer.

    vector: the sweep's, at all sites. Raises ValueError for a way that cannot be made again of it.
    """
    settings = sweep.settings
    made_of = settings.get("arms", {})
    arms = {cell: arm_again(cell, made_of[cell], vector) for cell in lines["cell"].unique() if cell in made_of}
    rows = []
    for line in lines.to_dict("records"):
        arm = arms.get(line["cell"])
        if arm is None:
            raise ValueError(
                f"The clips of {line['cell']!r} were not kept, and it cannot be made again of the vector at hand. Run the sweep with clips=True."
            )
        # what is drawn anew for each clip was drawn by the arm's name in the sweep
        arm = replace(arm, method=line["method"], sites=line["sites"])
        pair = Pair(int(line["prompt"]), settings["split"], line["towards"], line["away"], line["text"])
        rows.append(Row(pair.neutral, int(line["seed"]), arm.on(pair, float(line["alpha"]), int(line["seed"]))))
    return rows


def with_sound(model: Model, axis: str, folder: str | Path, cells: Sequence[str] = CELLS, *, progress: bool = True) -> Steering:
    """A shipped steering sweep with the clips of its first prompt and seed, made again in `folder`; those there are kept.

    The table's scores are as they were measured. Raises ValueError where the model is another one.
    """
    sweep = shipped_steering(axis)
    if sweep.settings["fingerprint"] != model.fingerprint:
        raise ValueError(
            f"The shipped steering is of weights {sweep.settings['fingerprint']}, not of {model.name!r} ({model.fingerprint})."
        )
    table = sweep.table
    number, seed = table[["prompt", "seed"]].iloc[0]
    chosen = table.index[(table["prompt"] == number) & (table["seed"] == seed) & table["cell"].isin(cells)]
    rows_of = dict(zip(chosen, rows_again(sweep, model, shipped_vector(axis), table.loc[chosen]), strict=True))
    folder, todo, files = Path(folder), {}, {}
    for line in chosen:
        cell, alpha = table.loc[line, ["cell", "alpha"]]
        files[line] = f"{safe_name(axis)}/{safe_name(cell) + f'_{alpha:+.3f}' if alpha else 'unsteered'}.flac"
        if not (folder / files[line]).exists():
            todo[files[line]] = rows_of[line]
    settings = {name: sweep.settings[name] for name in ("steps", "guidance", "seconds")}
    names, rows = list(todo), list(todo.values())
    with tqdm(total=len(rows), desc=f"steering {axis}", unit="clip", disable=not progress or not rows) as bar:
        for start in range(0, len(rows), BATCH):
            run = model.run(rows[start : start + BATCH], **settings)
            assert run.audio is not None
            for name, audio in zip(names[start : start + BATCH], run.audio, strict=True):
                Clip(audio.numpy(), sweep.settings["rate"]).save(folder / name)
                bar.update()
    clip = table["clip"].astype(object)
    clip.loc[list(files)] = list(files.values())
    return replace(sweep, table=table.assign(clip=clip), folder=folder)


def page_extras(model: Model, atlas: Atlas, folder: Path, *, progress: bool = True) -> dict[str, Any]:
    """What a page of an atlas of `tiny` shows beside it, as arguments of `save_site`: maps, published atlases, axes and features.

    folder: where the steered clips go. Axes and features are those of the atlas's concepts.
    """
    ends = {axis: {axis, choose([axis])[0].opposite} for axis in shipped_steering()["concept"].unique()}
    axes = [axis for axis, names in ends.items() if names & set(atlas.concepts)]
    sets = []
    for site in shipped_saes():
        sae = load_sae(site)
        best = best_features(sae).query("concept in @atlas.concepts")
        wanted = list(dict.fromkeys(best["feature"].astype(int)))
        if sae.report["passes"] and "cross" in site and wanted:
            sets.append(feature_set(sae, model, wanted, progress=progress))
    steering = [with_sound(model, axis, folder, progress=progress) for axis in axes]
    papers = [published(name) for name in NAMES]
    maps = [other for other in (Atlas.load(), *shipped_maps()) if name_of(other.settings) != name_of(atlas.settings)]
    return {"others": [*maps, *papers], "steering": steering, "features": sets}
