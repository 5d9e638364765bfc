"""Everything that ships: the atlas of `tiny`, its maps, vectors, SAEs and results, the concepts, and the published atlases.

datasets.atlas().chart()
datasets.steering("fast").chart()
datasets.sae("transformer.transformer_blocks.6.cross_attn").explore()
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from audioscope.atlas.atlas import Atlas
from audioscope.atlas.published import published
from audioscope.atlas.windows import WINDOWS
from audioscope.concepts import concept_prompts, more_pairs, some_prompts
from audioscope.concepts import shipped_concepts as concepts
from audioscope.errors import known_name, of_kind
from audioscope.model import Model
from audioscope.sae.files import load_sae
from audioscope.sae.sae import SAE
from audioscope.steer.results import SteeringSweep
from audioscope.steer.vectors import SteeringVector
from audioscope.store import data_folder

__all__ = [
    "atlas", "concept_prompts", "concepts", "confirmed", "data_folder", "fingerprint", "is_shipped", "maps", "more_pairs", "outside", "planted", "pointing", "published",
    "sae", "saes", "screening", "some_prompts", "steering", "steering_table", "steps", "vector",
]  # fmt: skip
INSIDE = {
    "memory": "cross.memory",
    "heads": "cross.heads",
    "feed_forward": "feed_forward",
    "block": "block",
}  # maps of other sites, by name
MAPS = (*WINDOWS, "output", *INSIDE)
PLANTED = ("planted", "planted_all", "planted_all_necessary")
RESULTS = ("steering", "sae_steering")


def atlas() -> Atlas:
    """Load the shipped atlas of `tiny`: the text swap at every cross-attention site, for all 21 concepts, with sound.

    Returns:
        The atlas, with the clips of one example of each concept.

    Example:
        >>> atlas = audioscope.datasets.atlas()
        >>> len(atlas.concepts), len(atlas.sites)
        (21, 12)
    """
    return Atlas.load(data_folder() / "atlas")


def maps() -> dict[str, Atlas]:
    """Load more shipped atlases of `tiny`: the text swap in a part of the denoising, and patches of outputs.

    Returns:
        Atlases by name. "early", "middle" and "late" swap the text in that third of the log signal-to-noise ratio; "output" patches the
        output of each cross-attention module, "memory" what it gives to the memory alone, "heads" that of each of its heads,
        "feed_forward" and "block" those of the feed-forward modules and of the blocks. The last four have the sound of an example of
        each of six concepts.

    Example:
        >>> list(audioscope.datasets.maps())
        ['early', 'middle', 'late', 'output', 'memory', 'heads', 'feed_forward', 'block']
    """
    return {name: Atlas.load(data_folder() / "maps" / name) for name in MAPS}


def planted() -> dict[str, Atlas]:
    """Load the shipped atlases of known answers: `tiny`, with concepts planted in some layers by `audioscope.tiny.planted`.

    Returns:
        Atlases by name, with the sound of an example of each concept. "planted" has six concepts, each in one layer. "planted_all" has
        three, each in two layers that need each other, so that no layer alone is sufficient; "planted_all_necessary" is the same with
        patches into the clean run, which find both.

    Example:
        >>> atlas = audioscope.datasets.planted()["planted"]
        >>> cells = atlas.impacts().query("defined")
        >>> bool(((cells["impact"] - cells["planted"]).abs() < 0.01).all())
        True
    """
    return {name: Atlas.load(data_folder() / "maps" / name) for name in PLANTED}


def confirmed() -> dict[str, Atlas]:
    """Load the shipped test of what the map of heads suggests: that in layer 0, one head carries genre.

    Returns:
        Atlases "sufficient" and "necessary" of the four heads of layer 0, for genre and percussion, on 26 pairs of each concept; the map
        of heads (`maps`) has 8 others.

    Example:
        >>> atlas = audioscope.datasets.confirmed()["sufficient"]
        >>> atlas.settings["pairs"], len(atlas.sites)
        (26, 4)
    """
    folders = {"sufficient": "confirmed", "necessary": "confirmed_necessary"}
    return {name: Atlas.load(data_folder() / "maps" / folder) for name, folder in folders.items()}


def screening() -> pd.DataFrame:
    """Load the shipped table of how well `audioscope.screen` ranks what patching finds in `tiny`.

    Returns:
        A table with one row per mode, kind of cells ("heads", "layers", "windows") and concept, with the columns of `Screen.compare`
        and the mean number of generations a pair. Both the screens and the exact maps are of the same 4 pairs and seeds.

    Example:
        >>> table = audioscope.datasets.screening()
        >>> sorted(table["mode"].unique())
        ['path', 'quick']
    """
    return pd.read_parquet(data_folder() / "results" / "screening.parquet")


def pointing() -> pd.DataFrame:
    """Load the shipped table of how well attention points at what sounds, made by `audioscope.tiny.pointing`.

    Returns:
        A table with one row per song, word, layer and step, with the columns of `audioscope.tiny.pointing`.

    Example:
        >>> table = audioscope.datasets.pointing()
        >>> sorted(table["part"].unique())
        ['lead', 'percussion', 'voice']
    """
    return pd.read_parquet(data_folder() / "results" / "pointing.parquet")


def outside() -> Atlas:
    """Load the shipped atlas of `tiny` that an outside ear heard, too: the swaps of `atlas` for a few concepts, without sound.

    It has the concepts that musicnn, which never heard `tiny`, tells apart in rendered music with an AUROC of at least .75.

    Returns:
        The atlas, for `Atlas.heard_by` and `Atlas.agreement`.

    Example:
        >>> audioscope.datasets.outside().scorers
        ['listener', 'judge', 'musicnn']
    """
    return Atlas.load(data_folder() / "maps" / "outside")


def steps() -> pd.DataFrame:
    """Load the shipped table of `audioscope.atlas.patch_steps` for `tiny`: all text swapped, one step at a time.

    Returns:
        A table with one line per concept, pair, row and step, for `audioscope.atlas.step_impacts`.

    Example:
        >>> table = audioscope.datasets.steps()
        >>> sorted(table.loc[table["row"] == "patched", "step"].unique().tolist())
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    return pd.read_parquet(data_folder() / "results" / "steps.parquet")


def vector(axis: str) -> SteeringVector:
    """Load the shipped CAA vector of an axis, at all cross-attention sites of `tiny`.

    It is the one whose sweep is `steering(axis)`.

    Args:
        axis: The concept at its positive end, such as "fast".

    Returns:
        The vector.

    Raises:
        UnknownName: There is no shipped vector for this axis.

    Example:
        >>> vector = audioscope.datasets.vector("fast")
        >>> len(vector.paths), len(vector.sigmas)  # sites, noise levels
        (12, 10)
    """
    folder = data_folder() / "results" / "vectors"
    known = sorted(file.stem for file in folder.glob("*.safetensors"))
    known_name("shipped vector for", axis, known)
    return SteeringVector.load(folder / axis)


def steering_table(name: str = "steering") -> pd.DataFrame:
    """Load the shipped steering results of all axes of `tiny`.

    Args:
        name: "steering", or "sae_steering", which compares SAE features with CAA.

    Returns:
        A table with one row per axis, method and sites, as `SteeringSweep.summary` returns it.

    Example:
        >>> table = audioscope.datasets.steering_table()
        >>> table["concept"].nunique()  # axes
        18
    """
    return pd.read_parquet(data_folder() / "results" / f"{known_name('shipped results', name, RESULTS)}.parquet")


def steering(axis: str, name: str = "steering") -> SteeringSweep:
    """Load the shipped steering sweep of one axis of `tiny`, without sound.

    Args:
        axis: The concept at its positive end, such as "fast".
        name: "steering", or "sae_steering", which compares SAE features with CAA.

    Returns:
        The sweep.

    Raises:
        UnknownName: There are no shipped results for this axis.

    Example:
        >>> audioscope.datasets.steering("fast").cells[:3]
        ['caa shared', 'caa own', 'caa all']
    """
    folder = data_folder() / "results"
    settings = json.loads((folder / f"{known_name('shipped results', name, RESULTS)}_settings.json").read_text())
    known_name("shipped steering results for", axis, settings)
    clips = pd.read_parquet(folder / f"{name}_clips.parquet", filters=[("concept", "==", axis)])
    texts = clips.select_dtypes("category").columns
    clips = clips.astype(dict.fromkeys(texts, str)).reset_index(drop=True)
    deaf = [column for column in clips if " scored " in column and clips[column].isna().all()]  # a scorer of other axes only
    return SteeringSweep(clips.drop(columns=deaf), settings[axis], folder)


def saes() -> dict[str, Path]:
    """Find the shipped SAEs of `tiny`.

    Returns:
        Their folders, by the module path of their site.

    Example:
        >>> for site in audioscope.datasets.saes():
        ...     print(site)
        transformer.transformer_blocks.0.cross_attn
        transformer.transformer_blocks.0.self_attn
        transformer.transformer_blocks.6.cross_attn
        transformer.transformer_blocks.6.self_attn
    """
    folders = sorted((data_folder() / "tiny" / "sae").glob("*"))
    return {folder.name: folder for folder in folders if (folder / "cfg.json").exists()}


def sae(site: str) -> SAE:
    """Load the shipped SAE of a site of `tiny`.

    Args:
        site: The site's module path.

    Returns:
        The SAE, with its evaluation and its scores for concepts.

    Raises:
        UnknownName: There is no shipped SAE for this site.

    Example:
        >>> sae = audioscope.datasets.sae("transformer.transformer_blocks.0.cross_attn")
        >>> sae.d_sae
        512
    """
    known_name("shipped SAE for site", str(site), saes())
    return load_sae(saes()[str(site)])


def fingerprint() -> str:
    """The hash of the weights that everything shipped was measured on.

    It is read from the atlas's settings alone, since its table is large.

    Returns:
        The hash, 16 hexadecimal digits.

    Example:
        >>> audioscope.datasets.fingerprint() == model.fingerprint
        True
    """
    return str(json.loads((data_folder() / "atlas" / "atlas.json").read_text())["fingerprint"])


def is_shipped(model: Model) -> bool:
    """Whether what ships was measured on a model's weights.

    Args:
        model: The model.

    Returns:
        True if the fingerprints are equal.

    Example:
        >>> audioscope.datasets.is_shipped(model)
        True
    """
    of_kind("model", model, Model)
    return fingerprint() == model.fingerprint
