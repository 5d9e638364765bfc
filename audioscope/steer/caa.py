"""Contrastive Activation Addition: a steering vector from pairs of prompts.

vector = audioscope.caa(model, "fast")
with model.steer(vector, strength=1.5):
    model.generate("a jazz song with drums")
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
import torch
from torch import Tensor

from audioscope.atlas.atlas import Atlas
from audioscope.concepts import Concept, Pairs, choose_one
from audioscope.edits import Branch
from audioscope.errors import Damaged, choice, of_kind, said, truth, whole
from audioscope.installed import __version__
from audioscope.model import BATCH, Model
from audioscope.sites import Site
from audioscope.steer.vectors import SteeringVector, vector_files
from audioscope.store import check_same, content_hash, data_folder
from audioscope.tracing import Read, Row, Run, Sampling, SamplingKeywords
from audioscope.workers import Workers, collect

Against = Literal["opposite", "neutral"]
STRONGEST = 3  # layers that stand in for a concept's own layers if none passes the rule


def steering_sites(model: Model, concept: Concept, sites: Any = "cross", atlas: Atlas | None = None) -> tuple[Site, ...]:
    """The sites to steer at, by what they are for.

    "own" sites are those that pass the atlas's rule for the concept or its opposite; if none does, the three strongest in the atlas.

    Args:
        model: The model.
        concept: The concept.
        sites: "functional" (shared by the concepts), "own" (the concept's), or what `Sites.select` takes.
        atlas: An atlas of this model, for the first two; None is the one that ships.

    Returns:
        The sites, in running order.

    Raises:
        ValueError: An atlas is needed but belongs to another model, has no functional layers, or does not contain the concept.

    Example:
        >>> concept = audioscope.datasets.concepts()["fast"]
        >>> [site.layer for site in audioscope.steer.steering_sites(model, concept, "own")]
        [1, 2]
    """
    concept = choose_one(concept)
    of_kind("model", model, Model)
    if not (isinstance(sites, str) and sites in ("functional", "own")):
        return model.sites.select(sites)
    if atlas is None:
        atlas = Atlas.load(data_folder() / "atlas")
    if of_kind("atlas", atlas, Atlas).settings.get("fingerprint") != model.fingerprint:
        raise ValueError(
            f"sites={said(sites)} needs an atlas of {model.name!r} with weights {model.fingerprint}, but this one is of "
            f"{atlas.settings['model']!r} with weights {atlas.settings.get('fingerprint')}: pass "
            "atlas=audioscope.localize(model, ...), or name the sites."
        )
    if sites == "functional":
        if not atlas.functional:
            raise ValueError("The atlas has no functional layers: use sites='own', 'cross', or a list.")
        return model.sites.select(atlas.functional)
    ends = [name for name in (concept.name, concept.opposite) if name in atlas.concepts]
    if not ends:
        raise ValueError(f"The atlas does not contain {concept.name!r}, so its own layers are unknown: name the sites.")
    own = [path for name in ends for path in atlas.own_layers(name)]
    if not own:
        impacts = atlas.impacts().query("concept in @ends and defined").groupby("site")["impact"].mean()
        if impacts.empty:
            raise ValueError(
                f"The atlas has no defined impact for {concept.name!r}, so its own layers are unknown: name the sites."
            )
        own = list(impacts.nlargest(STRONGEST).index)
    return model.sites.select(own)


@dataclass(frozen=True)
class Contrast:
    """What a direction is made from, after all checks: prompts with and without a concept, at some sites.

    rows: each with the half of the pairs that it is in (0 or 1), and its sign, 1 with the concept and -1 without; the two prompts of a
    pair and seed follow each other.
    """

    concept: Concept
    sites: tuple[Site, ...]
    settings: Sampling
    branch: Branch
    rows: list[tuple[Row, int, int]]
    metadata: dict[str, Any]
    batch_size: int

    @property
    def said(self) -> str:
        """What a progress bar says."""
        return f"reading {self.concept.name}"

    def parts(self, together: int = 1) -> list[list[tuple[Row, int, int]]]:
        """The rows in batches, of which each has `together` rows that follow each other, or none of them."""
        size = max(together, self.batch_size // together * together)
        return [self.rows[start : start + size] for start in range(0, len(self.rows), size)]

    def run(self, model: Model, part: Sequence[tuple[Row, int, int]], pool: bool = True) -> Run:
        """One batch, with the outputs of the sites. Raises FloatingPointError if it is not finite."""
        read = Read(self.sites, pool=pool, branch=self.branch)
        run = model.run([row for row, *_ in part], read=read, decode=False, **self.settings)
        if not bool(run.finite.all()):
            raise FloatingPointError(f"{model.name} produced NaN or infinity for a prompt of {self.concept.name!r}: try float32.")
        return run


def contrast(
    model: Model, concept: str | Concept | Pairs, sites: Any, pairs: int | None, *, against: Against | None, split: str, seeds: int,
    branch: Branch, memory: bool = True, normalize: bool | None = None, shuffle: int | None = None, atlas: Atlas | None = None, batch_size: int = BATCH,
    **sampling: Unpack[SamplingKeywords],
) -> Contrast:  # fmt: skip
    """Check what a direction is to be made from, before anything is generated. The arguments and errors are those of `caa`."""
    of_kind("model", model, Model).check_unsteered("a vector")
    memory, normalize = truth("memory", memory), None if normalize is None else truth("normalize", normalize)
    chosen = choose_one(concept)
    bare = not (chosen.opposite or chosen.counterfactual)  # nothing is known of the second prompts but that they are the contrast
    neutral = all(pair.neutral for pair in chosen.split(split))
    if against is None:
        against = "opposite" if chosen.opposite or (bare and not neutral) else "neutral"
    choice("against", against, ("opposite", "neutral"))
    if against == "opposite" and not (chosen.opposite or bare):
        raise ValueError(f"{chosen.name!r} has no opposite: use against='neutral'.")
    choice("branch", branch, ("cond", "uncond"), ": a vector belongs to one branch")
    where = steering_sites(model, chosen, sites, atlas)
    if other := next((site for site in where if site.of_text), None):
        raise ValueError(f"{other.path} belongs to the text, not to the sound: steer the module itself.")
    read = tuple(dict.fromkeys(each for site in where for each in (site, *(site.memory if memory else ()))))
    settings = model.sampling(**sampling)
    there = len(chosen.split(split))
    if there < 2:
        raise ValueError(f"{chosen.name!r} has {there} pairs in split {split!r}, expected at least 2: name another split.")
    pairs = there if pairs is None else whole("pairs", pairs, 2, there, f", the pairs in split {split!r}")
    seeds, batch_size = whole("seeds", seeds, 1), whole("batch_size", batch_size, 1)
    found = chosen.split(split)[:pairs]
    shuffle = None if shuffle is None else whole("shuffle", shuffle)
    texts = [(pair.clean, pair.corrupted if against == "opposite" else pair.neutral) for pair in found]
    empty = next((pair for pair, (_, other) in zip(found, texts, strict=True) if not other), None)
    if empty is not None:
        raise ValueError(
            f"Pair {empty.index} of {chosen.name!r} ({empty.clean!r}) has no neutral prompt: add one in a column 'neutral'."
        )
    for text in {text for pair in texts for text in pair}:
        model.check_prompt(text)
    metadata = {
        "concept": chosen.name, "against": "neutral wording" if against == "neutral" else chosen.opposite or "the second prompts", "branch": branch,
        "sites": [site.path for site in where], **({"memory": True} if len(read) > len(where) else {}), "pairs": pairs, "seeds": seeds, "split": split, **({} if normalize is None else {"normalize": normalize}),
        "shuffle": shuffle, **settings, "prompts": content_hash(texts), "audioscope": __version__,
        **({"planted": model.planted} if model.planted else {}),
    }  # fmt: skip
    swapped = np.zeros(len(texts), bool)
    if shuffle is not None:
        swapped[np.random.default_rng(shuffle).permutation(len(texts))[: len(texts) // 2]] = True
    rows: list[tuple[Row, int, int]] = [
        (Row(text, chosen.seed(pair, number)), place % 2, sign * (-1 if swap else 1))
        for place, (pair, both, swap) in enumerate(zip(found, texts, swapped, strict=True))
        for number in range(seeds) for text, sign in zip(both, (1, -1), strict=True)
    ]  # fmt: skip
    return Contrast(chosen, read, settings, branch, rows, metadata, batch_size)


def caa(
    model: Model,
    concept: str | Concept | Pairs,
    sites: Any = "cross",
    pairs: int | None = None,
    *,
    against: Against | None = None,
    split: str = "build",
    seeds: int = 1,
    branch: Branch = "cond",
    memory: bool = True,
    normalize: bool = True,
    shuffle: int | None = None,
    atlas: Atlas | None = None,
    batch_size: int = BATCH,
    file: str | Path | None = None,
    workers: Workers = None,
    progress: bool = True,
    **sampling: Unpack[SamplingKeywords],
) -> SteeringVector:
    """Make a steering vector: the mean output of sites over prompts with a concept, minus the mean over prompts without it.

    Contrastive Activation Addition is computed per site and noise level, over time tokens, and apart from them for the memory that
    some models put before these, with one generation per prompt and seed; both prompts of a pair start from the same noise (TADA,
    section 3, eq. 6, with each direction normalized to norm 1 as there; its model has no memory). Means are accumulated batch by
    batch, so what is kept does not grow with the number of prompts.

    Args:
        model: The model.
        concept: The name of a shipped concept, a Concept, or pairs such as (with, without) tuples of prompts.
        sites: Where, as for `audioscope.steer.steering_sites`.
        pairs: How many pairs of the split; None is all.
        against: "opposite" (slow for fast; for your own pairs, their second prompts) or "neutral" (the same sentence without the
            concept). None is the opposite if the concept has one, else the neutral prompts, or where pairs of yours lack these, the
            second prompts.
        split: Which pairs of a concept, see `Concept.split`.
        seeds: Seeds of each pair.
        branch: The guidance branch whose outputs are read, "cond" or "uncond".
        memory: Whether the vector also has what the sites give to the tokens before those of the music, where there are any.
        normalize: Scale directions to norm 1. False keeps the length of each difference, relative to the mean norm of the site's
            output, so that strength 1 adds the mean difference that the prompts make.
        shuffle: A control: exchange the two prompts in half of the pairs, drawn with this seed. None does not.
        atlas: For sites="own" or "functional"; None is the one that ships.
        batch_size: Prompts at a time.
        file: Where the vector is stored; it is read instead if it exists and was made with the same settings.
        workers: In how many processes, as for `audioscope.localize`.
        progress: Whether to show a progress bar.
        **sampling: `steps`, `guidance`, `seconds`, `negative_prompt`; the model's defaults if omitted.

    Returns:
        The vector, with a direction for each site and noise level. Its metadata "halves" say how reliable it is, by the cosine at each
        site between the vector of the pairs at even places and that of the pairs at odd places, averaged over noise levels.

    Raises:
        ValueError: Input is out of range, or the file holds another vector. Nothing has been generated then.
        UnknownName: A concept or site does not exist (a KeyError that lists the nearest).

    Example:
        >>> pairs = [("a fast song", "a slow song"), ("a fast jazz song", "a slow jazz song")]
        >>> vector = audioscope.caa(model, pairs, sites=[1, 2], steps=2, progress=False)
        >>> {path: list(vector.directions[path].shape) for path in vector.paths}
        {'transformer.transformer_blocks.1.cross_attn': [2, 128], 'transformer.transformer_blocks.2.cross_attn': [2, 128]}
    """
    found = contrast(
        model, concept, sites, pairs, against=against, split=split, seeds=seeds, branch=branch, memory=memory, normalize=normalize,
        shuffle=shuffle, atlas=atlas, batch_size=batch_size, **sampling,
    )  # fmt: skip
    if file is not None and (there := kept(file, model, found.metadata)):
        return there
    where, rows = found.sites, found.rows
    total: dict[str, Tensor] = {}
    lengths: dict[str, Tensor] = {}
    sigmas = torch.empty(0)

    def read(part: Sequence[tuple[Row, int, int]]) -> dict[str, Tensor]:
        """Of one batch, at each site: sums of differences in each half of the pairs [2, steps, width], and of norms."""
        run = found.run(model, part)
        signs = torch.zeros(2, len(part))  # of the pairs with even and with odd places
        for place, (_, half, sign) in enumerate(part):
            signs[half, place] = sign
        differences = {f"sum {path}": torch.einsum("hr,rsw->hsw", signs, values) for path, values in run.reads.items()}
        return differences | {f"norm {path}": run.norms[path].sum(0) for path in run.reads} | {"sigmas": run.sigmas}

    for sums in collect(model, workers, read, found.parts(), found.said, progress=progress, size=len):
        sigmas = sums["sigmas"]
        for site in where:
            total[site.path] = total.get(site.path, 0) + sums[f"sum {site.path}"]
            lengths[site.path] = lengths.get(site.path, 0) + sums[f"norm {site.path}"]
    norms = {path: value / len(rows) for path, value in lengths.items()}
    mean = {path: value.sum(0) / (len(rows) / 2) for path, value in total.items()}
    alike = {path: torch.nn.functional.cosine_similarity(value[0], value[1], dim=-1).mean() for path, value in total.items()}
    metadata = found.metadata | {"halves": {path: round(float(value), 4) for path, value in alike.items()}}
    directions = {
        path: torch.nn.functional.normalize(value, dim=1) if normalize else value / norms[path].clamp_min(1e-12)[:, None]
        for path, value in mean.items()
    }
    vector = SteeringVector(directions, norms, sigmas, model.name, model.fingerprint, metadata)
    if file is not None:
        vector.save(file)
    return vector


def kept(file: str | Path, model: Model, metadata: dict[str, Any]) -> SteeringVector | None:
    """The vector in a file, if it is the one that would be made now; None if there is none, or a damaged one, with a warning."""
    if not all(part.exists() for part in vector_files(file)):
        return None
    try:
        return _same(SteeringVector.load(file), file, model, metadata)
    except Damaged as error:
        warnings.warn(f"{error} It is made again.", stacklevel=3)
        return None


def _same(found: SteeringVector, file: str | Path, model: Model, metadata: dict[str, Any]) -> SteeringVector:
    """The vector in a file, if it is the one that would be made now. Raises ValueError with what differs."""
    found.check(model.name, model.fingerprint, model.sites)
    made = ("audioscope", "halves")  # by the making, and not asked for
    there, now = ({name: value for name, value in each.items() if name not in made} for each in (found.metadata, metadata))
    check_same(f"{file} holds a vector", there, now, "choose another file, or delete it")
    return found
