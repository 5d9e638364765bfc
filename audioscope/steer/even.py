"""Strengths that are even to the ear: equal steps of a slider sound like equal steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from tqdm.auto import tqdm

from audioscope.concepts import Concept, Pair, Pairs
from audioscope.errors import quiet, real, whole
from audioscope.model import Model
from audioscope.scoring.scorers import Scorer, feature_distance, scores_of
from audioscope.steer.methods import SteeringMethod
from audioscope.steer.results import between_ends
from audioscope.steer.sweeps import BATCH, bench_of, check_sides, checked_methods
from audioscope.steer.vectors import SteeringVector
from audioscope.tracing import Row, SamplingKeywords

EVEN, RISING = 0.3, 0.9  # the largest variation, and the smallest rank correlation, of an even slider
ROUNDS = 3  # from equidistant strengths on; the most even of these is taken


@dataclass(frozen=True)
class EvenStrengths:
    """Strengths at which a slider moves the sound in equal steps; `audioscope.steer.even_strengths` makes them.

    Args:
        strengths: From the lowest to the highest.
        table: One row per strength, with the columns strength, step (the distance from the clip at the strength before; NaN for the first)
            and score: means over prompts that had no part in choosing the strengths.
        before: The variation of the steps of as many equidistant strengths.

    Example:
        >>> import pandas as pd
        >>> table = pd.DataFrame({"strength": [-1.0, 0.0, 1.0], "step": [float("nan"), 0.2, 0.25], "score": [-3.0, 0.0, 4.0]})
        >>> found = audioscope.steer.EvenStrengths((-1.0, 0.0, 1.0), table, before=0.4)
        >>> found.even, round(found.variation, 2)
        (True, 0.16)
    """

    strengths: tuple[float, ...]
    table: pd.DataFrame
    before: float

    @property
    def variation(self) -> float:
        """The coefficient of variation of the steps: their standard deviation over their mean."""
        return _variation(self.table["step"].dropna())

    @property
    def rising(self) -> float:
        """The rank correlation of strength and mean score."""
        return float(spearmanr(self.table["strength"], self.table["score"]).statistic)

    @property
    def even(self) -> bool:
        """Whether the steps vary by less than .3 and the score rises with the strength (rank correlation at least .9)."""
        return self.variation < EVEN and self.rising >= RISING

    def __repr__(self) -> str:
        shown = ", ".join(f"{strength:.3g}" for strength in self.strengths)
        said = "even" if self.even else "not even" if self.rising >= RISING else "not monotone"
        return (
            f"EvenStrengths({shown}: {said}; steps vary by {self.variation:.2f}, equidistant ones by {self.before:.2f}; "
            f"rank correlation with the score {self.rising:.2f})"
        )


def even_strengths(
    model: Model, concept: str | Concept | Pairs, method: SteeringMethod | SteeringVector, low: float, high: float, count: int = 9, *,
    prompts: int = 8, split: str = "select", scorer: Scorer | None = None, price: Scorer | None = None, batch_size: int = BATCH,
    progress: bool = True, **sampling: Unpack[SamplingKeywords],
) -> EvenStrengths:  # fmt: skip
    """Choose strengths between two ends so that each sounds as far from the one before, as a slider should.

    A method's effect is rarely even in its strength. On half of the prompts, the way from end to end is measured by the network that
    measures prices, and cut into equal parts; twice, and the most even strengths are taken, which may be the equidistant ones. The
    other half of the prompts tells how even their steps are.

    Args:
        model: The model to steer.
        concept: What to steer toward, as for `audioscope.caa`.
        method: The way to steer, or a vector.
        low: The lowest strength, such as -2.
        high: The highest.
        count: How many strengths, with both ends.
        prompts: How many neutral prompts, half of them to choose and half to test.
        split: Which neutral prompts, see `Concept.split`.
        scorer, price: As for `steering_sweep`.
        batch_size: Rows at a time.
        progress: Whether to show a progress bar.
        **sampling: `steps`, `guidance`, `seconds`, `negative_prompt`; the model's defaults if omitted.

    Returns:
        The strengths, and how even they are.

    Raises:
        ValueError: Input is out of range.
        FloatingPointError: The model produced NaN or infinity.

    Example:
        >>> vector = audioscope.datasets.vector("fast")
        >>> how = {"count": 3, "prompts": 2, "steps": 2, "progress": False}
        >>> found = audioscope.steer.even_strengths(model, "fast", vector, -1.0, 1.0, **how)
        >>> found.strengths[0], found.strengths[-1], len(found.table)
        (-1.0, 1.0, 3)
    """
    low, high, count = real("low", low), real("high", high), whole("count", count, 3, 1000)
    if not low < high:
        raise ValueError(f"low is {low:g} and high is {high:g}, expected low < high.")
    chosen, *others = checked_methods(method)
    if others:
        raise ValueError(f"There are {len(others) + 1} methods, expected one.")
    if chosen.largest is not None and max(-low, high) > chosen.largest:
        raise ValueError(f"{chosen.cell!r} goes to strength {chosen.largest:g} at most, but low is {low:g} and high is {high:g}.")
    bench = bench_of(model, concept, scorer, price, batch_size, None, sampling)
    check_sides(bench.concept, [(chosen, low)])
    pairs = bench.pairs(split, whole("prompts", prompts, 2))
    halves = pairs[: len(pairs) // 2], pairs[len(pairs) // 2 :]
    ends = bench.concept.name, bench.concept.opposite
    equal = np.linspace(low, high, count)
    bar = tqdm(total=ROUNDS * len(halves[0]) + 2 * len(halves[1]), desc="even strengths", disable=quiet(progress))

    def walked(pairs: Sequence[Pair], strengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The mean distance between clips at neighboring strengths, and the mean scores."""
        steps, scores = [], []
        for pair in pairs:
            seed = bench.concept.seed(pair)
            audio, finite = bench.sound([Row(pair.neutral, seed, chosen.on(pair, float(s), seed)) for s in strengths])
            if not finite.all():
                raise FloatingPointError(f"{model.name} produced NaN or infinity between strengths {low:g} and {high:g}.")
            layers = bench.features(bench.price, audio)
            steps.append(feature_distance([x[1:] for x in layers], [x[:-1] for x in layers]).cpu().numpy())
            scores.append(between_ends(scores_of(bench.scorer, audio, model.rate), "", *ends))
            bar.update()
        return np.mean(steps, 0), np.mean(scores, 0)

    tried: dict[float, np.ndarray] = {}
    strengths = equal
    for _ in range(ROUNDS):
        steps, _scores = walked(halves[0], strengths)
        tried.setdefault(_variation(steps), strengths)
        way = np.concatenate([[0.0], steps.cumsum()])
        strengths = np.interp(np.linspace(0, way[-1], count), way, strengths)
        strengths[[0, -1]] = low, high
    strengths = tried[min(tried)]
    steps, scores = walked(halves[1], strengths)
    before, _scores = walked(halves[1], equal)
    bar.close()
    table = pd.DataFrame({"strength": strengths, "step": [np.nan, *steps], "score": scores})
    return EvenStrengths(tuple(float(s) for s in strengths), table, _variation(before))


def _variation(steps: Any) -> float:
    return float(np.std(steps, ddof=1) / max(float(np.mean(steps)), 1e-12))
