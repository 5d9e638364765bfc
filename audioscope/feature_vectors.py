"""Steering vectors made of an SAE's features: those that score best for a concept, at each noise level."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, get_args
from zlib import crc32

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from audioscope.vectors import SteeringVector

if TYPE_CHECKING:
    from audioscope.sae import SAE

Score = Literal["ratio", "difference", "d", "auroc"]  # columns of `audioscope.score_features`
SCORES = get_args(Score)


def top_features(scores: pd.DataFrame, concept: str, count: int = 20, by: Score = "ratio") -> pd.DataFrame:
    """The best features of a concept at each noise level, best first, from a table of `score_features`.

    Raises ValueError for a concept that the table does not have, or a score that there is not.
    """
    mine = scores[(scores["concept"] == concept) & scores["sigma"].notna()]
    if mine.empty:
        raise ValueError(f"The scores hold no concept {concept!r}: they have {', '.join(scores['concept'].unique())}.")
    if by not in SCORES:
        raise ValueError(f"by is {by!r}, expected 'ratio', 'difference', 'd' or 'auroc'.")
    ordered = mine.sort_values([by, "feature"], ascending=[False, True], kind="stable")
    return (
        ordered.groupby("sigma", sort=False).head(count).sort_values("sigma", ascending=False, kind="stable", ignore_index=True)
    )


def sae_vector(
    sae: SAE,
    concept: str,
    features: int = 20,
    *,
    by: Score = "ratio",
    against: str | None = None,
    weighted: bool = False,
    random: int | None = None,
) -> SteeringVector:
    """A steering vector of an SAE's site: at each noise level the sum of the directions of a concept's best features (TADA, section 4).

    features: how many at each level. by: the score that chooses them, on the selection split. against: another concept, such as
    the opposite, whose features are subtracted; None is none. weighted: by how much more active a feature is with the concept,
    instead of all alike. random: a control, drawn by this seed: each feature's direction is replaced by that of another active feature,
    the same one wherever it stands, so that what cancels or changes from level to level does so here, too. Directions have norm 1, as
    those of `caa`. Warns where the SAE fails its gate. Raises ValueError where `sae.scores` is missing or lacks the concept.
    """
    if sae.scores is None or sae.levels is None or "site" not in sae.facts:
        raise ValueError(
            "This SAE has no scores of a site's noise levels: train it on a TokenStream and run audioscope.score_features(sae, model)."
        )
    if not 1 <= features <= sae.d_sae:
        raise ValueError(f"features is {features}, expected 1 to {sae.d_sae}.")
    names = [concept] if against is None else [concept, against]
    best = {name: top_features(sae.scores, name, features, by) for name in names}
    mine = sorted({int(f) for table in best.values() for f in table["feature"]})
    place = {f: f for f in mine}
    if random is not None:
        others = sorted({int(f) for f in sae.scores["feature"]} - set(mine))
        if len(others) < len(mine):
            raise ValueError(
                f"There are no {len(mine)} other active features to draw from, only {len(others)}: take fewer features."
            )
        place = dict(zip(mine, np.random.default_rng(random).permutation(others).tolist(), strict=False))
    rows = _rows(sae, best[concept], place, weighted)
    if against is not None:
        rows = rows - _rows(sae, best[against], place, weighted)
    failed = sae.failed(sae.levels.sigmas.tolist())
    if failed:
        warnings.warn(f"{sae!r} fails its gate at noise levels {', '.join(f'{s:.3g}' for s in failed)}.", stacklevel=3)
    path = str(sae.facts["site"])
    facts = {
        "concept": concept, "against": against, "sae": crc32(sae.decoder.detach().cpu().numpy().tobytes()), "features": features, "by": by, "weighted": weighted,
        "random_features": random, "levels_passed": {f"{s:.6g}": s not in failed for s in sae.levels.sigmas.tolist()}, "branch": sae.facts.get("branches"),
    }  # fmt: skip
    unit = torch.nn.functional.normalize(rows, dim=1)
    return SteeringVector(
        {path: unit}, {path: sae.levels.norms}, sae.levels.sigmas, sae.facts["model"], sae.facts["fingerprint"], facts
    )


def _rows(sae: SAE, best: pd.DataFrame, place: Mapping[int, int], weighted: bool) -> Tensor:
    """The sum of decoder rows at each level, [levels, d_in]. place: which feature's row stands for each."""
    assert sae.levels is not None
    found = []
    for sigma in sae.levels.sigmas.tolist():
        level = best[np.isclose(best["sigma"], sigma, rtol=1e-4)]
        if level.empty:
            raise ValueError(
                f"The scores are of other noise levels than the SAE's: none is of {sigma:.4g}. Score with the steps it was trained with."
            )
        rows = sae.decoder[torch.tensor([place[int(f)] for f in level["feature"]])]
        weights = torch.tensor(level["difference"].to_numpy(), dtype=torch.float32)
        found.append((rows * weights[:, None]).sum(0) if weighted else rows.sum(0))
    return torch.stack(found).detach()
