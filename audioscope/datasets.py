"""Everything that ships: the atlas of `tiny`, its maps, vectors, SAEs and results, the concepts, and the published atlases.

datasets.atlas().chart()
datasets.steering("fast").chart()
datasets.sae("transformer.transformer_blocks.0.cross_attn").explore()
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from audioscope.atlas.atlas import Atlas
from audioscope.atlas.published import published
from audioscope.atlas.windows import WINDOWS
from audioscope.concepts import concept_prompts, some_prompts
from audioscope.concepts import shipped_concepts as concepts
from audioscope.errors import UnknownName
from audioscope.model import Model
from audioscope.sae.files import load_sae
from audioscope.sae.sae import SAE
from audioscope.steer.results import SteeringSweep
from audioscope.steer.vectors import SteeringVector
from audioscope.store import data_folder

__all__ = [
    "atlas", "concept_prompts", "concepts", "data_folder", "fingerprint", "is_shipped", "maps", "published", "sae", "saes",
    "some_prompts", "steering", "steering_table", "steps", "vector",
]  # fmt: skip
MAPS = (*WINDOWS, "output")


def atlas() -> Atlas:
    """The atlas of `tiny`: the text swap at every cross-attention site, for all 21 concepts, with an audio example of each."""
    return Atlas.load(data_folder() / "atlas")


def maps() -> dict[str, Atlas]:
    """More atlases of `tiny`, by name, without sound.

    "early", "middle" and "late" swap the text in that third of the log signal-to-noise ratio; "output" patches the output.
    """
    return {name: Atlas.load(data_folder() / "maps" / name) for name in MAPS}


def steps() -> pd.DataFrame:
    """The table of `patch_steps` for `tiny`: the text of every layer swapped in one step at a time."""
    return pd.read_parquet(data_folder() / "results" / "steps.parquet")


def vector(axis: str) -> SteeringVector:
    """The CAA vector of an axis at all cross-attention sites of `tiny`, the one whose sweep is `steering(axis)`.

    Raises UnknownName for another axis.
    """
    folder = data_folder() / "results" / "vectors"
    known = sorted(file.stem for file in folder.glob("*.safetensors"))
    if axis not in known:
        raise UnknownName(f"No shipped vector for {axis!r}. Available: {', '.join(known)}.")
    return SteeringVector.load(folder / axis)


def steering_table(name: str = "steering") -> pd.DataFrame:
    """The results of all axes of `tiny`: one row per axis, method and sites, as `SteeringSweep.summary` returns it.

    name: "steering", or "sae_steering" for the comparison of SAE features with CAA.
    """
    return pd.read_parquet(data_folder() / "results" / f"{name}.parquet")


def steering(axis: str, name: str = "steering") -> SteeringSweep:
    """The steering sweep of one axis of `tiny`, without sound; name: as for `steering_table`.

    Raises UnknownName for another axis.
    """
    folder = data_folder() / "results"
    settings = json.loads((folder / f"{name}_settings.json").read_text())
    if axis not in settings:
        raise UnknownName(f"No shipped steering results for {axis!r}. Available: {', '.join(settings)}.")
    clips = pd.read_parquet(folder / f"{name}_clips.parquet", filters=[("concept", "==", axis)])
    texts = clips.select_dtypes("category").columns
    return SteeringSweep(clips.astype(dict.fromkeys(texts, str)).reset_index(drop=True), settings[axis], folder)


def saes() -> dict[str, Path]:
    """The folders of the SAEs of `tiny`, by the module path of their site."""
    folders = sorted((data_folder() / "tiny" / "sae").glob("*"))
    return {folder.name: folder for folder in folders if (folder / "cfg.json").exists()}


def sae(site: str) -> SAE:
    """The SAE of a site of `tiny`, by its module path. Raises UnknownName for a site that has none."""
    if str(site) not in saes():
        raise UnknownName(f"No shipped SAE for site {str(site)!r}. Available: {', '.join(saes())}.")
    return load_sae(saes()[str(site)])


def fingerprint() -> str:
    """The hash of the weights that all of this was measured on, from the atlas's settings alone, since its table is large."""
    return str(json.loads((data_folder() / "atlas" / "atlas.json").read_text())["fingerprint"])


def is_shipped(model: Model) -> bool:
    """Whether all of this was measured on this model's weights."""
    return fingerprint() == model.fingerprint
