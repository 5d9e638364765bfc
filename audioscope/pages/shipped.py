"""What ships with the atlas of `tiny` for its page: more maps, steering with sound, features; and the published atlases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from audioscope import datasets
from audioscope.atlas.atlas import Atlas
from audioscope.atlas.published import NAMES, published
from audioscope.audio import Clip
from audioscope.concepts import Pair, choose
from audioscope.errors import as_path
from audioscope.model import BATCH, Model
from audioscope.pages.atlas_data import name_of
from audioscope.pages.features import best_features, feature_set, searched
from audioscope.steer.cells import ALL, OWN, RANDOM_LAYERS
from audioscope.steer.methods import method_again
from audioscope.steer.results import SteeringSweep
from audioscope.steer.vectors import SteeringVector
from audioscope.store import batches, safe_name
from audioscope.tracing import Row, Sampling
from audioscope.workers import collect

HEARD = (str(OWN), str(ALL), str(RANDOM_LAYERS[0]))  # localized, everywhere, and at random


def rows_again(sweep: SteeringSweep, vector: SteeringVector, lines: pd.DataFrame) -> list[Row]:
    """The rows that made some lines of a sweep's table, from what its settings say about each method.

    vector: the sweep's, at all sites. Raises ValueError for a method that cannot be reconstructed from it.
    """
    settings = sweep.settings
    made_of = settings.get("methods", {})
    methods = {cell: method_again(cell, made_of[cell], vector) for cell in lines["cell"].unique() if cell in made_of}
    rows = []
    for line in lines.to_dict("records"):
        method = methods.get(line["cell"])
        if method is None:
            raise ValueError(
                f"The clips of {line['cell']!r} were not kept, and it cannot be reconstructed from the given vector. "
                "Run the sweep with clips=True."
            )
        # random draws for each clip depended on the method's name in the sweep
        method = replace(method, name=line["method"], sites=line["sites"])
        pair = Pair(int(line["prompt"]), settings["split"], line["towards"], line["away"], line["text"])
        rows.append(Row(pair.neutral, int(line["seed"]), method.on(pair, float(line["strength"]), int(line["seed"]))))
    return rows


def with_sound(
    model: Model, axis: str, folder: str | Path, cells: Sequence[str] = HEARD, *, progress: bool = True
) -> SteeringSweep:
    """A shipped steering sweep with the clips of its first prompt and seed, regenerated in `folder`; existing clips are kept.

    The table keeps the scores that were measured. Raises ValueError if the model is another one.
    """
    sweep = datasets.steering(axis)
    if sweep.settings["fingerprint"] != model.fingerprint:
        raise ValueError(
            f"The shipped steering was made with weights {sweep.settings['fingerprint']}, "
            f"not with {model.name!r} ({model.fingerprint})."
        )
    table = sweep.table
    number, seed = table[["prompt", "seed"]].iloc[0]
    chosen = table.index[(table["prompt"] == number) & (table["seed"] == seed) & table["cell"].isin(cells)]
    rows_of = dict(zip(chosen, rows_again(sweep, datasets.vector(axis), table.loc[chosen]), strict=True))
    folder, todo, files = as_path(folder), {}, {}
    for line in chosen:
        cell, strength = table.loc[line, ["cell", "strength"]]
        files[line] = f"{safe_name(axis)}/{safe_name(cell) + f'_{strength:+.9g}' if strength else 'unsteered'}.flac"
        if not (folder / files[line]).exists():
            todo[files[line]] = rows_of[line]
    how = Sampling.of(sweep.settings)
    for part in batches(list(todo.items()), BATCH, f"steering {axis}", "clip", progress and bool(todo)):
        run = model.run([row for _, row in part], **how)
        assert run.audio is not None
        for (name, _), audio in zip(part, run.audio, strict=True):
            Clip(audio.numpy(), sweep.settings["rate"]).save(folder / name)
    clip = table["clip"].astype(object)
    clip.loc[list(files)] = list(files.values())
    return replace(sweep, table=table.assign(clip=clip), folder=folder)


def known_answers_page(folder: Path) -> Path:
    """A page of its own for the shipped atlases of known answers, in `folder`."""
    first, *others = datasets.planted().values()
    return first.save_site(folder, others, links={"The atlas with nothing planted": "../index.html"}, progress=False)


def page_extras(model: Model, atlas: Atlas, folder: Path, *, progress: bool = True) -> dict[str, Any]:
    """What a page of an atlas of `tiny` adds to it, as arguments of `save_site`: maps, published atlases, axes and features.

    folder: where the steered clips go. Axes and features are those of the atlas's concepts.
    """
    ends = {axis: {axis, choose([axis])[0].opposite} for axis in datasets.steering_table()["concept"].unique()}
    axes = [axis for axis, names in ends.items() if names & set(atlas.concepts)]
    wanted: dict[str, list[int]] = {}
    saes = {site: datasets.sae(site) for site in datasets.saes() if "cross" in site}
    for site, sae in saes.items():
        best = best_features(sae).query("concept in @atlas.concepts")
        if sae.report["passes"] and len(best):
            wanted[site] = list(dict.fromkeys(best["feature"].astype(int)))
    clips = searched([saes[site] for site in wanted], model, progress=progress) if wanted else []
    sets = [
        feature_set(saes[site], model, wanted[site], found=found, progress=progress)
        for site, found in zip(wanted, clips, strict=True)
    ]

    def make(axis: str) -> dict[str, Tensor]:
        """The clips of an axis, as files."""
        with_sound(model, axis, folder, progress=False)
        return {}

    list(collect(model, None, make, axes, "steering", "axis", progress))
    steering = [with_sound(model, axis, folder, progress=False) for axis in axes]
    papers = [published(name) for name in NAMES]
    maps = [each for each in (datasets.atlas(), *datasets.maps().values()) if name_of(each.settings) != name_of(atlas.settings)]
    return {"others": [*maps, *papers], "steering": steering, "features": sets}
