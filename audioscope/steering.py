"""Contrastive Activation Addition: a steering vector from pairs of prompts.

vector = audioscope.caa(model, "fast")
with model.steer(vector, strength=1.5):
    model.generate("a jazz song with drums")
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

import audioscope
from audioscope.atlas import Atlas
from audioscope.concepts import Concept, choose
from audioscope.edits import Branch
from audioscope.model import BATCH, Model
from audioscope.sites import Site
from audioscope.sweep import key, seed_of
from audioscope.tracing import Read, Row
from audioscope.vectors import SteeringVector

Against = Literal["opposite", "neutral"]
STRONGEST = 3  # layers that stand in for a concept's own ones where none passes the rule


def steering_sites(model: Model, concept: Concept, sites: Any = "functional", atlas: Atlas | None = None) -> tuple[Site, ...]:
    """The sites to steer at: "functional" (shared by the concepts), "own" (the concept's), "cross", "self", "all", or a list.

    "own": those that pass the atlas's rule for the concept or its opposite; where none does, the three strongest of the atlas.
    atlas: one of this model; None is the shipped one. Raises ValueError where an atlas is needed and there is none of this
    model, where it has no functional layers, or does not know the concept.
    """
    if not (isinstance(sites, str) and sites in ("functional", "own")):
        return model.sites.select(sites)
    if atlas is None:
        atlas = Atlas.load()
    if atlas.settings.get("fingerprint") != model.fingerprint:
        raise ValueError(
            f"sites={sites!r} needs an atlas of {model.name!r} with weights {model.fingerprint}, but this one is of "
            f"{atlas.settings['model']!r} with weights {atlas.settings.get('fingerprint')}: pass atlas=audioscope.localize(model, ...), or name sites."
        )
    if sites == "functional":
        if not atlas.functional:
            raise ValueError("The atlas has no functional layers: use sites='own', 'cross', or a list.")
        return model.sites.select(atlas.functional)
    ends = [name for name in (concept.name, concept.opposite) if name in atlas.concepts]
    if not ends:
        raise ValueError(f"The atlas does not know {concept.name!r}, so it cannot say its own layers: name sites.")
    own = [path for name in ends for path in atlas.own_layers(name)]
    if not own:
        impacts = atlas.impacts().query("concept in @ends and defined").groupby("site")["impact"].mean()
        if impacts.empty:
            raise ValueError(f"The atlas has no defined impact of {concept.name!r}, so it cannot say its own layers: name sites.")
        own = list(impacts.nlargest(STRONGEST).index)
    return model.sites.select(own)


def caa(
    model: Model,
    concept: str | Concept,
    sites: Any = "functional",
    pairs: int = 50,
    *,
    against: Against | None = None,
    split: str = "build",
    seeds: int = 1,
    branch: Branch = "cond",
    unit: bool = True,
    shuffle: int | None = None,
    atlas: Atlas | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    seconds: float | None = None,
    batch: int = BATCH,
    file: str | Path | None = None,
    progress: bool = True,
) -> SteeringVector:
    """Contrastive Activation Addition: the mean output of sites over prompts with a concept, minus that without it.

    Per site and noise level, over time tokens only, one generation for each prompt and seed; both prompts of a pair start from
    the same noise (TADA, section 3, eq. 6, with the norm of each direction made 1 as there). Means run along, so memory does not grow
    with the number of prompts.

    sites, atlas: as for `steering_sites`. against: "opposite" (slow for fast) or "neutral" (the same sentence without the
    concept); None is the opposite where the concept has one. branch: of guidance, whose outputs are read. unit: directions of
    norm 1; False keeps the length of each difference, over the mean norm of the site's output, so that strength 1 is what the
    prompt does. shuffle: a control: half of the pairs, drawn by this seed, have their two prompts exchanged. file: where
    the vector is kept, read when it is there and was made in the same way.
    Raises ValueError, or UnknownName, for input out of range or a file of another vector, before anything is generated.
    """
    model.check_unsteered("a vector")
    chosen = choose([concept])[0]
    against = against or ("opposite" if chosen.opposite else "neutral")
    if against not in ("opposite", "neutral"):
        raise ValueError(f"against is {against!r}, expected 'opposite' or 'neutral'.")
    if against == "opposite" and not chosen.opposite:
        raise ValueError(f"{chosen.name!r} has no opposite: use against='neutral'.")
    if branch == "both":
        raise ValueError("branch is 'both', expected 'cond' or 'uncond': one vector is of one branch.")
    where = steering_sites(model, chosen, sites, atlas)
    settings = model.settings(steps, guidance, seconds)
    found = chosen.split(split)[:pairs]
    if pairs < 2 or seeds < 1 or len(found) < pairs:
        raise ValueError(
            f"pairs is {pairs} and seeds is {seeds}, expected 2 to {len(chosen.split(split))} pairs (split {split!r}) and at least 1 seed."
        )
    texts = [(pair.clean, pair.corrupted if against == "opposite" else pair.neutral) for pair in found]
    empty = next((pair for pair, (_, other) in zip(found, texts, strict=True) if not other), None)
    if empty is not None:
        raise ValueError(
            f"Pair {empty.number} of {chosen.name!r} ({empty.clean!r}) has no neutral prompt: give a column 'neutral'."
        )
    for text in {text for pair in texts for text in pair}:
        model.check_prompt(text)
    facts = {
        "concept": chosen.name, "against": chosen.opposite if against == "opposite" else "neutral wording", "branch": branch,
        "sites": [site.path for site in where], "pairs": pairs, "seeds": seeds, "split": split, "unit": unit,
        "shuffle": shuffle, **settings, "prompts": key(texts), "audioscope": audioscope.__version__,
    }  # fmt: skip
    if file is not None and Path(file).with_suffix(".safetensors").exists():
        return _same(SteeringVector.load(file), file, model, facts)
    swapped = np.zeros(len(texts), bool)
    if shuffle is not None:
        swapped[np.random.default_rng(shuffle).permutation(len(texts))[: len(texts) // 2]] = True
    rows: list[tuple[Row, int]] = [
        (Row(text, seed_of(chosen.name, pair.number, number)), sign * (-1 if swap else 1))
        for pair, both, swap in zip(found, texts, swapped, strict=True)
        for number in range(seeds) for text, sign in zip(both, (1, -1), strict=True)
    ]  # fmt: skip
    total: dict[str, Tensor] = {}
    lengths: dict[str, Tensor] = {}
    sigmas = torch.empty(0)
    with tqdm(total=len(rows), desc=f"reading {chosen.name}", unit="prompt", disable=not progress) as bar:
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            run = model.run([row for row, _ in part], read=Read(where, branch=branch), decode=False, **settings)
            if not bool(run.finite.all()):
                raise FloatingPointError(f"{model.name} gave NaN or infinity for a prompt of {chosen.name!r}: try float32.")
            sigmas = run.sigmas
            signs = torch.tensor([float(sign) for _, sign in part])
            for path, values in run.reads.items():
                # sums of differences, so that nothing but one [steps, width] is kept a site
                total[path] = total.get(path, 0) + torch.einsum("r,rsw->sw", signs, values)
                lengths[path] = lengths.get(path, 0) + run.norms[path].sum(0)
            bar.update(len(part))
    norms = {path: value / len(rows) for path, value in lengths.items()}
    mean = {path: value / (len(rows) / 2) for path, value in total.items()}
    directions = {
        path: torch.nn.functional.normalize(value, dim=1) if unit else value / norms[path].clamp_min(1e-12)[:, None]
        for path, value in mean.items()
    }
    vector = SteeringVector(directions, norms, sigmas, model.name, model.fingerprint, facts)
    if file is not None:
        vector.save(file)
    return vector


def _same(found: SteeringVector, file: str | Path, model: Model, facts: dict[str, Any]) -> SteeringVector:
    """The vector of a file, if it is the one that would be made now. Raises ValueError that says what differs."""
    found.check(model.name, model.fingerprint, model.sites)
    for name in facts.keys() - {"audioscope"}:
        if found.facts.get(name) != facts[name]:
            raise ValueError(
                f"{file} holds another vector ({name}: {found.facts.get(name)!r} there, {facts[name]!r} now): choose another place, or delete it."
            )
    return found
