"""The gate: does an SAE say enough about the activations, at every noise level, that its features may be used?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from audioscope.sae import SAE
from audioscope.streams import TokenStream, some_prompts

GATED = 256  # held-out prompts: fewer would count rare features as dead


@dataclass(frozen=True, eq=False)
class Gate:
    """What an SAE leaves unsaid, by noise level, and how its features are used.

    levels: one row per noise level: sigma, fvu (variance unexplained over the variance about that level's mean), pca_fvu (what
    the best directions for these very tokens leave), components (how many directions: k, or l0 rounded up where that is more), l0
    (active features a token) and passes (fvu below pca_fvu).
    density: float64 [d_sae], the share of tokens at which each feature is active.
    """

    levels: pd.DataFrame
    density: np.ndarray

    @property
    def dead_share(self) -> float:
        """Share of features that are active at no token."""
        return float((self.density == 0).mean())

    @property
    def passes(self) -> bool:
        """Whether every noise level passes and at most a tenth of the features are dead."""
        return bool(self.levels["passes"].all()) and self.dead_share <= 0.1

    def report(self) -> dict[str, Any]:
        """JSON values: fvu, fvu_per_level, pca_fvu, l0, dead_share, sigmas, passes."""
        table = self.levels
        weight = table["variance"] / table["variance"].sum()
        return {
            "passes": self.passes, "fvu": round(float((table["fvu"] * weight).sum()), 5), "sigmas": table["sigma"].tolist(),
            "fvu_per_level": table["fvu"].round(5).tolist(), "pca_fvu": table["pca_fvu"].round(5).tolist(), "pca_components": table["components"].tolist(),
            "l0": round(float(table["l0"].mean()), 3), "l0_per_level": table["l0"].round(3).tolist(),
            "dead_share": round(self.dead_share, 5), "density": [round(float(value), 6) for value in self.density],
        }  # fmt: skip

    def __repr__(self) -> str:
        verdict = "passes" if self.passes else "fails"
        shown = self.levels[["sigma", "fvu", "pca_fvu", "l0", "passes"]].round(3).to_string(index=False)
        return f"Gate({verdict}: {self.dead_share:.1%} of {len(self.density)} features dead)\n{shown}"

    def _repr_html_(self) -> str:
        verdict = "passes" if self.passes else "fails"
        table = self.levels[["sigma", "fvu", "pca_fvu", "l0", "passes"]].round(3).to_html(index=False)
        return f"<p>The gate: the SAE {verdict}. {self.dead_share:.1%} of its {len(self.density)} features are dead.</p>{table}"


@torch.no_grad()
def gate_sae(sae: SAE, stream: TokenStream, prompts: Sequence[str] | None = None, progress: bool = True) -> Gate:
    """Measure an SAE on tokens that it was not trained on, and keep the result in `sae.report`.

    stream: where the tokens come from; its prompts are not used but for the default. prompts: held-out ones; None is 256 of the
    shipped concepts' test split, and of no other. PCA is fitted on the very tokens that are measured: no other directions of a level leave
    less, so that it is the harder bar. Raises ValueError for a stream of another site or model.
    """
    check_fits(sae, stream)
    prompts = some_prompts(GATED) if prompts is None else prompts
    tokens: list[Tensor] = []
    sigmas = torch.empty(0)
    with tqdm(total=len(prompts), desc="gate", unit="prompt", disable=not progress) as bar:
        for start in range(0, len(prompts), stream.batch):
            part = prompts[start : start + stream.batch]
            branch = stream.branches[start // stream.batch % len(stream.branches)]
            values, sigmas = stream.read(part, [10_000_019 + start + i for i in range(len(part))], branch)
            tokens.append(values)
            bar.update(len(part))
    return gate_tokens(sae, torch.cat(tokens).transpose(0, 1).flatten(1, 2), sigmas)


@torch.no_grad()
def gate_tokens(sae: SAE, tokens: Tensor, sigmas: Tensor) -> Gate:
    """The gate on given tokens [levels, n, d_in] of noise levels [levels]; keeps the result in `sae.report`."""
    rows = []
    active = torch.zeros(sae.d_sae, dtype=torch.float64)
    for x, sigma in zip(tokens, sigmas.tolist(), strict=True):
        centred = x - x.mean(0)
        variance = centred.square().sum().clamp_min(1e-12)
        left, fired = 0.0, torch.zeros(sae.d_sae, dtype=torch.float64)
        for part in x.split(16_384):
            features = sae.encode(part, sigma)
            left += float((part - sae.decode(features, sigma)).square().sum())
            fired += (features > 0).double().sum(0)
        spectrum = torch.linalg.svdvals(centred).square()
        active += fired
        l0 = float(fired.sum() / len(x))
        components = max(sae.k, math.ceil(l0))  # an SAE that spends more than k somewhere meets a PCA that may do so, too
        rows.append({
            "sigma": sigma, "fvu": left / float(variance), "pca_fvu": float(spectrum[components:].sum() / variance),
            "components": components, "l0": l0, "variance": float(variance / len(x)),
        })  # fmt: skip
    table = pd.DataFrame(rows)
    found = Gate(table.assign(passes=table["fvu"] < table["pca_fvu"]), (active / tokens.shape[:2].numel()).numpy())
    sae.report = {**sae.report, **found.report()}
    return found


def check_fits(sae: SAE, stream: TokenStream) -> None:
    """Raise ValueError for an SAE that was trained on another model's or site's activations."""
    for name, there in (("site", stream.site), ("fingerprint", stream.model.fingerprint)):
        if name in sae.facts and sae.facts[name] != there:
            raise ValueError(f"The SAE is of {name} {sae.facts[name]!r}, but the stream of {there!r}.")
