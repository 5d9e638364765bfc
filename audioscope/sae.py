"""A sparse autoencoder: many features of which few are active, each with a direction that it adds.

    features = relu((x - b_dec) W_enc + b_enc), of which the k largest stay;   x' = features W_dec + b_dec

Plain torch. Training is in sae_training.py, files in sae_files.py, what the features mean in features.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from audioscope.levels import Levels
from audioscope.sites import Site

if TYPE_CHECKING:
    from audioscope.vectors import SteeringVector

Kind = Literal["batchtopk", "topk"]
BARS = ("topk_pca_fvu", "tokens_fvu")  # what an SAE's fvu has to be below at a noise level; see `audioscope.gate.Gate`


class SAE(nn.Module):
    """A TopK or BatchTopK sparse autoencoder (Gao et al. 2024; Bussmann et al. 2024, which TADA uses, section 4).

    d_in: width of the activations. d_sae: number of features. k: active features a token; "topk" keeps the k largest of
    every token, "batchtopk" as many of a whole batch when training and, after it, those above a learned threshold, so that
    features do not depend on a token's neighbours. levels: how inputs are made comparable, if they come from several noise
    levels; `encode` and `decode` then take the noise level. facts: model, site path, branch and training, JSON values.
    report, scores, log: what `audioscope.gate_sae`, `audioscope.score_features` and the training found, if anything.
    """

    def __init__(self, d_in: int, d_sae: int, k: int, kind: Kind = "batchtopk", seed: int = 0):
        super().__init__()
        if not 1 <= k <= d_sae or d_in < 1:
            raise ValueError(f"k is {k}, d_sae {d_sae} and d_in {d_in}, expected 1 <= k <= d_sae and d_in at least 1.")
        if kind not in ("batchtopk", "topk"):
            raise ValueError(f"kind is {kind!r}, expected 'batchtopk' or 'topk'.")
        self.d_in, self.d_sae, self.k, self.kind = d_in, d_sae, k, kind
        rows = normalize(torch.randn(d_sae, d_in, generator=torch.Generator().manual_seed(seed)), dim=1)
        # one row a feature in both, so that a training step sums the rows of active features only
        self.encoder, self.decoder = nn.Parameter(rows.clone()), nn.Parameter(rows)
        self.b_enc, self.b_dec = nn.Parameter(torch.zeros(d_sae)), nn.Parameter(torch.zeros(d_in))
        self.register_buffer("threshold", torch.zeros(d_sae))
        self.threshold: Tensor
        self.levels: Levels | None = None
        self.facts: Mapping[str, Any] = {}
        self.report: dict[str, Any] = {}
        self.scores: Any = None
        self.units: Any = None
        self.log: Any = None

    @property
    def W_enc(self) -> Tensor:
        """float32 [d_in, d_sae], as SAELens has it."""
        return self.encoder.T

    @property
    def W_dec(self) -> Tensor:
        """float32 [d_sae, d_in]: the direction of each feature, of norm 1."""
        return self.decoder

    def pre(self, x: Tensor) -> Tensor:
        """All features of inputs [..., d_in] before the choice of the largest, float [..., d_sae], not negative."""
        return torch.relu((x - self.b_dec) @ self.encoder.T + self.b_enc)

    def encode(self, x: Tensor, sigma: float | None = None) -> Tensor:
        """Features [..., d_sae] of activations [..., d_in]; most are 0. sigma: their noise level, for an SAE with levels."""
        there, x = x.device, x.to(self.b_dec.device)
        values = self.pre(x if self.levels is None else self.levels.scale(x, sigma))
        if self.kind == "batchtopk":
            return torch.where(values > self.threshold, values, 0.0).to(there)
        top = values.topk(self.k, dim=-1)
        return torch.zeros_like(values).scatter(-1, top.indices, top.values).to(there)

    def decode(self, features: Tensor, sigma: float | None = None) -> Tensor:
        """Activations [..., d_in] of features [..., d_sae]."""
        x = features.to(self.b_dec.device) @ self.decoder + self.b_dec
        return (x if self.levels is None else self.levels.unscale(x, sigma)).to(features.device)

    def difference(self, more: Tensor, sigma: float | None = None, which: Tensor | None = None) -> Tensor:
        """What more of some features, [..., features], does to the activations [..., d_in]: no bias, no mean. which: int [features],
        their numbers; None is all."""
        rows = (self.decoder if which is None else self.decoder[which.to(self.decoder.device)]).to(more.device)
        return more @ rows * (1.0 if self.levels is None else self.levels.at(sigma)[1])

    def forward(self, x: Tensor, sigma: float | None = None) -> Tensor:
        return self.decode(self.encode(x, sigma), sigma)

    def step(self, x: Tensor, idle: Tensor | None = None, aux: float = 0.25) -> Step:
        """One training pass over inputs [n, d_in], already scaled. idle: bool [d_sae], features that long did nothing.

        The loss is the fraction of variance unexplained, plus `aux` times the auxiliary loss: idle features must explain what the others
        leave (Gao et al. 2024, section 2.2).
        Only active (token, feature) pairs count: gradients of the others are 0.
        """
        values = self.pre(x).flatten()
        with torch.no_grad():
            if self.kind == "batchtopk":
                place = values.topk(self.k * len(x), sorted=False).indices
            else:
                rows = torch.arange(len(x), device=x.device)[:, None] * self.d_sae
                place = (values.view(len(x), -1).topk(self.k, sorted=False).indices + rows).flatten()
            place = place[values[place] > 0].sort().values
            token, feature = place // self.d_sae, place % self.d_sae
            begins = torch.searchsorted(token, torch.arange(len(x), device=x.device))
        active = values.gather(0, place)
        centred = x - self.b_dec
        # sums the rows of each token's features, without a copy of them for every one
        made = nn.functional.embedding_bag(feature, self.decoder, begins, mode="sum", per_sample_weights=active)
        variance = (x - x.mean(0)).square().sum().clamp_min(1e-12)
        left = centred - made
        fvu = left.square().sum() / variance
        loss = fvu
        if idle is not None and bool(idle.any()):
            loss = loss + aux * self._idle_loss(x, left.detach(), idle)
        fired = torch.zeros(self.d_sae, dtype=torch.bool, device=x.device)
        fired[feature] = True
        smallest = active.detach().min() if len(active) else x.new_tensor(0.0)
        return Step(loss, fvu.detach(), fired, smallest, len(active) / len(x))

    def _idle_loss(self, x: Tensor, left: Tensor, idle: Tensor) -> Tensor:
        """Fraction of the error `left` [n, d_in] that the strongest d_in / 2 idle features of each token leave."""
        which = idle.nonzero().flatten()
        values = (x - self.b_dec) @ self.encoder[which].T + self.b_enc[which]
        top = torch.relu(values).topk(min(len(which), max(1, self.d_in // 2)), sorted=False)
        kept = torch.zeros_like(values).scatter(1, top.indices, top.values)
        return (left - kept @ self.decoder[which]).square().sum() / left.square().sum().clamp_min(1e-12)

    @torch.no_grad()
    def unit(self) -> None:
        """Give every decoder row norm 1, as it has to be after each step of an optimiser."""
        self.decoder.copy_(normalize(self.decoder, dim=1))

    @torch.no_grad()
    def drop_parallel(self) -> None:
        """Take from the decoder's gradient what would only change the norms of its rows."""
        if self.decoder.grad is not None:
            self.decoder.grad -= (self.decoder.grad * self.decoder).sum(1, keepdim=True) * self.decoder

    def vector(self, concept: str, features: int = 20, **keywords: Any) -> SteeringVector:
        """A steering vector of the features that say a concept; see `audioscope.feature_vectors.sae_vector`."""
        from audioscope.feature_vectors import sae_vector

        return sae_vector(self, concept, features, **keywords)

    def explore(self, model: Any = None) -> Any:
        """A widget for JupyterLab: search the features, hear where one fires, and turn it while the model answers.

        model: the one whose site this is; None is the shipped `tiny`, if the SAE is of its weights. Raises ValueError for another model.
        """
        from audioscope.sae_explorer import SAEExplorer

        return SAEExplorer(self, model)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the SAE in the layout of SAELens; see `audioscope.sae_files.save_sae`."""
        from audioscope.sae_files import save_sae

        return save_sae(self, folder)

    @classmethod
    def from_pretrained(cls, source: str | Path) -> SAE:
        """Read an SAE; see `audioscope.sae_files.load_sae`."""
        from audioscope.sae_files import load_sae

        return load_sae(source)

    def failed(self, sigmas: Sequence[float]) -> list[float]:
        """Those of some noise levels at which the gate was not passed, by the nearest level, or that lie beyond what was measured.

        All of them without a report, or with one that lacks a bar.
        """
        if not {"sigmas", "fvu_per_level", *BARS} <= self.report.keys():
            return list(sigmas)
        known, fvu = np.asarray(self.report["sigmas"]), np.asarray(self.report["fvu_per_level"])
        passed = np.all([fvu < np.asarray(self.report[bar]) for bar in BARS], axis=0)
        low, high = 0.99 * known.min(), 1.01 * known.max()
        return [sigma for sigma in sigmas if not (low <= sigma <= high and passed[np.abs(known - sigma).argmin()])]

    def check(self, model: str, fingerprint: str, sites: Iterable[Site]) -> None:
        """Raise ValueError if it cannot act at these sites: it is of other weights, another site or another width, or there are none."""
        found = list(sites)
        wrong = [site.path for site in found if site.path != self.facts.get("site", site.path) or site.width != self.d_in]
        if self.facts.get("fingerprint", fingerprint) != fingerprint or wrong or not found:
            raise ValueError(
                f"{self!r} (weights {self.facts.get('fingerprint')}) is not of {', '.join(wrong) or 'a site'} of {model!r} with weights {fingerprint}."
            )

    def __repr__(self) -> str:
        where = f" of {self.facts['model']} {self.facts['site']}" if "site" in self.facts else ""
        return f"SAE({self.d_sae} features, {self.k} active, width {self.d_in}, {self.kind}{where})"


@dataclass(frozen=True)
class Step:
    """What a training pass gives: the loss, fvu (fraction of variance unexplained), which features fired (bool [d_sae]), the
    smallest active value, and l0, the active features a token."""

    loss: Tensor
    fvu: Tensor
    fired: Tensor
    smallest: Tensor
    l0: float
