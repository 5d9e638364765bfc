"""Other directions than the difference of means, from the same pairs: probes, and dimensions that agree in sign."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from audioscope.atlas.atlas import Atlas
from audioscope.concepts import Concept, Pairs
from audioscope.edits import Branch
from audioscope.errors import real, whole
from audioscope.model import BATCH, Model
from audioscope.steer.caa import Against, Contrast, contrast, kept
from audioscope.steer.vectors import SteeringVector
from audioscope.tracing import Row, SamplingKeywords
from audioscope.workers import Workers, collect

Part = Sequence[tuple[Row, int, int]]


def probe_vector(
    model: Model, concept: str | Concept | Pairs, sites: Any = "cross", pairs: int | None = None, *, penalty: float = 1.0,
    against: Against | None = None, split: str = "build", seeds: int = 1, branch: Branch = "cond", memory: bool = True, atlas: Atlas | None = None,
    batch_size: int = BATCH, file: str | Path | None = None, workers: Workers = None, progress: bool = True,
    **sampling: Unpack[SamplingKeywords],
) -> SteeringVector:  # fmt: skip
    """Make a steering vector of probes: at each site and noise level, the direction in which a linear classifier tells the concept.

    A logistic regression on the clips' mean outputs, standardized, tells prompts with the concept from those without; its weights, in
    the units of the output, point along the direction. Unlike a difference of means, it discounts what varies anyway.

    Args:
        model: The model.
        concept: As for `audioscope.caa`.
        sites: Where, as for `audioscope.steer.steering_sites`.
        pairs: How many pairs of the split; None is all.
        penalty: The weight of the L2 penalty (the inverse of scikit-learn's C).
        against: As for `audioscope.caa`.
        split: Which pairs of a concept, see `Concept.split`.
        seeds: Seeds of each pair.
        branch: The guidance branch whose outputs are read, "cond" or "uncond".
        memory: As for `audioscope.caa`.
        atlas: For sites="own" or "functional"; None is the one that ships.
        batch_size: Prompts at a time.
        file: As for `audioscope.caa`.
        workers: In how many processes, as for `audioscope.localize`.
        progress: Whether to show a progress bar.
        **sampling: `steps`, `guidance`, `seconds`, `negative_prompt`; the model's defaults if omitted.

    Returns:
        The vector, with a direction of norm 1 for each site and noise level; its metadata "halves" are as for `audioscope.caa`.

    Raises:
        ValueError: Input is out of range. Nothing has been generated then.
        UnknownName: A concept or site does not exist (a KeyError that lists the nearest).

    Example:
        >>> vector = audioscope.steer.probe_vector(model, "fast", sites=[1, 2], pairs=4, steps=2, progress=False)
        >>> vector.metadata["method"], len(vector.paths)
        ('probe', 2)
    """
    if (penalty := real("penalty", penalty)) <= 0:
        raise ValueError(f"penalty is {penalty:g}, expected a positive number.")
    found = contrast(
        model, concept, sites, pairs, against=against, split=split, seeds=seeds, branch=branch, memory=memory, atlas=atlas, batch_size=batch_size,
        **sampling,
    )  # fmt: skip

    metadata = found.metadata | {"method": "probe", "penalty": penalty}
    if file is not None and (there := kept(file, model, metadata)):
        return there

    def read(part: Part) -> dict[str, Tensor]:
        """Of one batch, at each site: the clips' means [rows, steps, width] and norms [rows, steps]."""
        run = found.run(model, part)
        return {f"mean {path}": values for path, values in run.reads.items()} | {
            f"norm {path}": values for path, values in run.norms.items()
        } | {"sigmas": run.sigmas}  # fmt: skip

    parts = list(collect(model, workers, read, found.parts(), found.said, progress=progress, size=len))
    half = np.array([half for _, half, _ in found.rows])
    label = np.array([sign for *_, sign in found.rows])

    def fitted(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """The direction [steps, width] from the chosen rows of values [rows, steps, width]."""
        directions = []
        for step in range(values.shape[1]):
            here = values[chosen, step]
            scale = here.std(0) + 1e-8
            probe = LogisticRegression(C=1 / penalty, max_iter=1000).fit((here - here.mean(0)) / scale, label[chosen])
            directions.append(probe.coef_[0] / scale)
        return np.stack(directions)

    directions, norms, halves = {}, {}, {}
    for site in found.sites:
        values = torch.cat([part[f"mean {site.path}"] for part in parts]).double().numpy()
        norms[site.path] = torch.cat([part[f"norm {site.path}"] for part in parts]).mean(0)
        whole_set, *each = (fitted(values, chosen) for chosen in (half >= 0, half == 0, half == 1))
        directions[site.path] = torch.nn.functional.normalize(torch.from_numpy(whole_set).float(), dim=1)
        halves[site.path] = _alike(*map(torch.from_numpy, each))
    vector = SteeringVector(directions, norms, parts[0]["sigmas"], model.name, model.fingerprint, metadata | {"halves": halves})
    return _kept_in(file, vector)


def sign_vector(
    model: Model, concept: str | Concept | Pairs, sites: Any = "cross", pairs: int | None = None, *, dimensions: int | None = None,
    against: Against | None = None, split: str = "build", seeds: int = 1, branch: Branch = "cond", atlas: Atlas | None = None,
    batch_size: int = BATCH, file: str | Path | None = None, workers: Workers = None, progress: bool = True,
    **sampling: Unpack[SamplingKeywords],
) -> SteeringVector:  # fmt: skip
    """Make a steering vector of the dimensions whose change agrees in sign over pairs and moments, as AUSteer does.

    For each dimension of each site, the share of pairs and moments in which the concept's prompt gives more, and less; the larger
    share, with its sign, is the dimension's weight, and of all sites together only the `dimensions` largest are kept at each noise
    level. The memory, in which a clip has one token and not one for each moment, is left out (TADA, appendix; its unit of strength is
    not published: here it is that of all vectors, with a mean norm of 1 over sites).

    Args:
        model: The model.
        concept: As for `audioscope.caa`.
        sites: Where, as for `audioscope.steer.steering_sites`.
        pairs: How many pairs of the split; None is all.
        dimensions: How many dimensions are kept, of all sites together; None is 256, or all if there are fewer.
        against: As for `audioscope.caa`.
        split: Which pairs of a concept, see `Concept.split`.
        seeds: Seeds of each pair.
        branch: The guidance branch whose outputs are read, "cond" or "uncond".
        atlas: For sites="own" or "functional"; None is the one that ships.
        batch_size: Prompts at a time.
        file: As for `audioscope.caa`.
        workers: In how many processes, as for `audioscope.localize`.
        progress: Whether to show a progress bar.
        **sampling: `steps`, `guidance`, `seconds`, `negative_prompt`; the model's defaults if omitted.

    Returns:
        The vector; its metadata "halves" are as for `audioscope.caa`.

    Raises:
        ValueError: Input is out of range, such as more dimensions than the sites have. Nothing has been generated then.
        UnknownName: A concept or site does not exist (a KeyError that lists the nearest).

    Example:
        >>> vector = audioscope.steer.sign_vector(model, "fast", sites=[1, 2], pairs=4, dimensions=32, steps=2, progress=False)
        >>> [int(sum((vector.directions[path][step] != 0).sum() for path in vector.paths)) for step in range(2)]
        [32, 32]
    """
    found = contrast(
        model, concept, sites, pairs, against=against, split=split, seeds=seeds, branch=branch, memory=False, atlas=atlas, batch_size=batch_size,
        **sampling,
    )  # fmt: skip
    most = sum(site.width for site in found.sites)
    dimensions = min(256, most) if dimensions is None else dimensions
    dimensions = whole("dimensions", dimensions, 1, most, f", the dimensions of {len(found.sites)} sites")

    metadata = found.metadata | {"method": "sign", "dimensions": dimensions}
    if file is not None and (there := kept(file, model, metadata)):
        return there

    def read(part: Part) -> dict[str, Tensor]:
        """Of one batch, at each site: in how large a share of moments each pair's output is more, and less, summed in each half."""
        run = found.run(model, part, pool=False)
        halves = torch.tensor([half for _, half, _ in part[::2]])
        shares = {}
        for path, values in run.reads.items():
            change = values[::2] - values[1::2]  # [pairs, steps, moments, width]
            each = torch.stack([(change > 0).float().mean(2), (change < 0).float().mean(2)])
            shares[f"share {path}"] = torch.stack([each[:, halves == half].sum(1) for half in (0, 1)])
        return shares | {f"norm {path}": run.norms[path].sum(0) for path in run.reads} | {"sigmas": run.sigmas}

    parts = list(collect(model, workers, read, found.parts(2), found.said, progress=progress, size=len))

    def total(name: str) -> Tensor:
        return torch.stack([part[name] for part in parts]).sum(0)

    totals = {site.path: total(f"share {site.path}") for site in found.sites}  # [halves, signs, steps, width]
    norms = {site.path: total(f"norm {site.path}") / len(found.rows) for site in found.sites}
    signed, one, other = (_signed(found, totals, dimensions, chosen) for chosen in ((0, 1), (0,), (1,)))
    halves = {path: _alike(one[path], other[path]) for path in signed}
    vector = SteeringVector(signed, norms, parts[0]["sigmas"], model.name, model.fingerprint, metadata | {"halves": halves})
    return _kept_in(file, vector)


def _kept_in(file: str | Path | None, vector: SteeringVector) -> SteeringVector:
    if file is not None:
        vector.save(file)
    return vector


def _signed(found: Contrast, totals: dict[str, Tensor], dimensions: int, halves: Sequence[int]) -> dict[str, Tensor]:
    """The signed shares [steps, width] at each site of the dimensions that agree most, from some halves of the pairs."""
    many = sum(half in halves for _, half, _ in found.rows) / 2
    shares = torch.cat([totals[site.path][list(halves)].sum(0) / many for site in found.sites], -1)  # [signs, steps, all widths]
    larger = shares.amax(0)
    kept = torch.zeros_like(larger, dtype=torch.bool).scatter_(1, larger.topk(dimensions, dim=1).indices, True)
    weights = torch.where(shares[0] >= shares[1], larger, -larger) * kept
    parts = weights.split([site.width for site in found.sites], dim=1)
    scale = torch.stack([part.norm(dim=1) for part in parts]).mean(0).clamp_min(1e-12)
    return {site.path: part / scale[:, None] for site, part in zip(found.sites, parts, strict=True)}


def _alike(one: Tensor, other: Tensor) -> float:
    """The cosine of two directions [steps, width], averaged over the noise levels at which neither is 0."""
    cosine = torch.nn.functional.cosine_similarity(one.double(), other.double(), dim=1)
    there = (one.norm(dim=1) > 0) & (other.norm(dim=1) > 0)
    return round(float(cosine[there].mean()), 4) if bool(there.any()) else 0.0
