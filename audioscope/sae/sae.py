"""A sparse autoencoder: many features, few of which are active, each with a direction that it adds.

    features = relu((x - b_dec) W_enc + b_enc), of which the k largest are kept;   x' = features W_dec + b_dec

Plain torch. Training is in training.py, reading and writing in files.py, what the features mean in features.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from audioscope.edits import Branch, Edit, Here, Which, check_seconds, within
from audioscope.sae.levels import Levels
from audioscope.sites import Site, Sites
from audioscope.steer.vectors import SteeringVector
from audioscope.views import view

Kind = Literal["batchtopk", "topk"]
Do = Literal["set", "scale", "add", "ablate"]
# The baselines: an SAE's fvu must be below both at a noise level; see `audioscope.sae.evaluation.SAEEvaluation`.
BARS = ("topk_pca_fvu", "tokens_fvu")


class SAE(nn.Module):
    """A TopK or BatchTopK sparse autoencoder (Gao et al. 2024; Bussmann et al. 2024, which TADA uses, section 4).

    d_in: width of the activations. d_sae: number of features. k: active features per token; "topk" keeps the k largest of
    every token, "batchtopk" the same number over a whole batch during training and, afterward, those above a learned threshold,
    so that features do not depend on a token's neighbors. levels: how inputs from several noise levels are made comparable, or
    None; if set, `encode` and `decode` need the noise level. metadata: model, site path, branch and training, JSON values.
    report, scores, log: the results of `audioscope.sae.evaluate_sae`, `audioscope.sae.score_features` and training, if any.
    """

    def __init__(self, d_in: int, d_sae: int, k: int, kind: Kind = "batchtopk", seed: int = 0):
        super().__init__()
        if not 1 <= k <= d_sae or d_in < 1:
            raise ValueError(f"k is {k}, d_sae {d_sae} and d_in {d_in}, expected 1 <= k <= d_sae and d_in at least 1.")
        if kind not in ("batchtopk", "topk"):
            raise ValueError(f"kind is {kind!r}, expected 'batchtopk' or 'topk'.")
        self.d_in, self.d_sae, self.k, self.kind = d_in, d_sae, k, kind
        rows = normalize(torch.randn(d_sae, d_in, generator=torch.Generator().manual_seed(seed)), dim=1)
        # both have one row per feature, so that a training step sums only the rows of active features
        self.encoder, self.decoder = nn.Parameter(rows.clone()), nn.Parameter(rows)
        self.b_enc, self.b_dec = nn.Parameter(torch.zeros(d_sae)), nn.Parameter(torch.zeros(d_in))
        self.register_buffer("threshold", torch.zeros(d_sae))
        self.threshold: Tensor
        self.levels: Levels | None = None
        self.metadata: Mapping[str, Any] = {}
        self.report: dict[str, Any] = {}
        self.scores: Any = None
        self.units: Any = None
        self.log: Any = None

    @property
    def W_enc(self) -> Tensor:
        """float32 [d_in, d_sae], as in SAELens."""
        return self.encoder.T

    @property
    def W_dec(self) -> Tensor:
        """float32 [d_sae, d_in]: the direction of each feature, of norm 1."""
        return self.decoder

    def pre_topk(self, x: Tensor) -> Tensor:
        """All features of inputs [..., d_in] before the largest are selected, float [..., d_sae], not negative."""
        return torch.relu((x - self.b_dec) @ self.encoder.T + self.b_enc)

    def encode(self, x: Tensor, sigma: float | None = None) -> Tensor:
        """Features [..., d_sae] of activations [..., d_in]; most are 0. sigma: their noise level, if the SAE has levels."""
        there, x = x.device, x.to(self.b_dec.device)
        values = self.pre_topk(x if self.levels is None else self.levels.scale(x, sigma))
        if self.kind == "batchtopk":
            return torch.where(values > self.threshold, values, 0.0).to(there)
        top = values.topk(self.k, dim=-1)
        return torch.zeros_like(values).scatter(-1, top.indices, top.values).to(there)

    def decode(self, features: Tensor, sigma: float | None = None) -> Tensor:
        """Activations [..., d_in] of features [..., d_sae]."""
        x = features.to(self.b_dec.device) @ self.decoder + self.b_dec
        return (x if self.levels is None else self.levels.unscale(x, sigma)).to(features.device)

    def decode_delta(self, more: Tensor, sigma: float | None = None, which: Tensor | None = None) -> Tensor:
        """How the activations [..., d_in] change when features increase by `more` [..., features]: without bias and mean.

        which: int [features], the indices of these features; None means all.
        """
        rows = (self.decoder if which is None else self.decoder[which.to(self.decoder.device)]).to(more.device)
        return more @ rows * (1.0 if self.levels is None else self.levels.at(sigma)[1])

    def forward(self, x: Tensor, sigma: float | None = None) -> Tensor:
        return self.decode(self.encode(x, sigma), sigma)

    def step(self, x: Tensor, dead: Tensor | None = None, aux_loss_coefficient: float = 0.25) -> Step:
        """One training pass over inputs [n, d_in], already scaled. dead: bool [d_sae], features that have long been inactive.

        The loss is the fraction of variance unexplained plus `aux_loss_coefficient` times the auxiliary loss: dead features must
        explain what the others leave unexplained (Gao et al. 2024, section 2.2).
        Only active (token, feature) pairs count: the gradients of all others are 0.
        """
        values = self.pre_topk(x).flatten()
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
        centered = x - self.b_dec
        # sums the rows of each token's features without copying them for every token
        made = nn.functional.embedding_bag(feature, self.decoder, begins, mode="sum", per_sample_weights=active)
        variance = (x - x.mean(0)).square().sum().clamp_min(1e-12)
        left = centered - made
        loss = fvu = left.square().sum() / variance
        if dead is not None and bool(dead.any()):
            loss = loss + aux_loss_coefficient * self._aux_loss(x, left.detach(), dead)
        fired = torch.zeros(self.d_sae, dtype=torch.bool, device=x.device)
        fired[feature] = True
        smallest = active.detach().min() if len(active) else x.new_tensor(0.0)
        return Step(loss, fvu.detach(), fired, smallest, len(active) / len(x))

    def _aux_loss(self, x: Tensor, left: Tensor, dead: Tensor) -> Tensor:
        """Fraction of the error `left` [n, d_in] that each token's strongest d_in / 2 dead features leave unexplained."""
        which = dead.nonzero().flatten()
        values = (x - self.b_dec) @ self.encoder[which].T + self.b_enc[which]
        top = torch.relu(values).topk(min(len(which), max(1, self.d_in // 2)), sorted=False)
        kept = torch.zeros_like(values).scatter(1, top.indices, top.values)
        return (left - kept @ self.decoder[which]).square().sum() / left.square().sum().clamp_min(1e-12)

    @torch.no_grad()
    def unit(self) -> None:
        """Normalize every decoder row to norm 1, as is required after each optimizer step."""
        self.decoder.copy_(normalize(self.decoder, dim=1))

    @torch.no_grad()
    def drop_parallel(self) -> None:
        """Remove the part of the decoder's gradient that would only change the norms of its rows."""
        if self.decoder.grad is not None:
            self.decoder.grad -= (self.decoder.grad * self.decoder).sum(1, keepdim=True) * self.decoder

    def vector(self, concept: str, features: int = 20, **keywords: Any) -> SteeringVector:
        """A steering vector of the features that detect a concept; see `audioscope.sae.vectors.sae_vector`."""
        return view("SAE.vector")(self, concept, features, **keywords)

    def explore(self, model: Any = None) -> Any:
        """A widget for JupyterLab: search the features, hear where one fires, and change it while the model responds.

        model: the model that the SAE was trained on; None means the shipped `tiny`, if the SAE belongs to its weights. Raises
        ValueError for another model.
        """
        return view("SAE.explore")(self, model)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the SAE in the layout of SAELens; see `audioscope.sae.files.save_sae`."""
        return view("SAE.save_pretrained")(self, folder)

    @classmethod
    def from_pretrained(cls, source: str | Path) -> SAE:
        """Read an SAE; see `audioscope.sae.files.load_sae`."""
        return view("SAE.from_pretrained")(source)

    def failed(self, sigmas: Sequence[float]) -> list[float]:
        """The noise levels among `sigmas` at which the SAE fails its evaluation, or that lie beyond the measured range.

        Each is judged by the nearest measured level. All fail without a report, or with one that lacks a baseline.
        """
        if not {"sigmas", "fvu_per_level", *BARS} <= self.report.keys():
            return list(sigmas)
        known, fvu = np.asarray(self.report["sigmas"]), np.asarray(self.report["fvu_per_level"])
        passed = np.all([fvu < np.asarray(self.report[bar]) for bar in BARS], axis=0)
        low, high = 0.99 * known.min(), 1.01 * known.max()
        return [sigma for sigma in sigmas if not (low <= sigma <= high and passed[np.abs(known - sigma).argmin()])]

    def check(self, model: str, fingerprint: str, sites: Iterable[Site]) -> None:
        """Raise ValueError if the SAE cannot act at these sites: other weights, another site or width, or no site given."""
        found = list(sites)
        wrong = [site.path for site in found if site.path != self.metadata.get("site", site.path) or site.width != self.d_in]
        if self.metadata.get("fingerprint", fingerprint) != fingerprint or wrong or not found:
            raise ValueError(
                f"{self!r} (weights {self.metadata.get('fingerprint')}) does not belong to {', '.join(wrong) or 'a site'} of "
                f"{model!r} with weights {fingerprint}."
            )

    def __repr__(self) -> str:
        where = f" of {self.metadata['model']} {self.metadata['site']}" if "site" in self.metadata else ""
        return f"SAE({self.d_sae} features, {self.k} active, width {self.d_in}, {self.kind}{where})"


@dataclass(frozen=True)
class Step:
    """The result of a training pass.

    loss; fvu: fraction of variance unexplained; fired: which features were active, bool [d_sae]; smallest: the smallest active
    value; l0: active features per token.
    """

    loss: Tensor
    fvu: Tensor
    fired: Tensor
    smallest: Tensor
    l0: float


@dataclass(frozen=True)
class SAEEdit(Edit):
    """Change selected features of a sparse autoencoder in a site's output, and nothing else: what the SAE does not explain stays.

    features: their indices. do: "set" to a value, "scale" by a factor, "add" a value, or "ablate" (set to 0). value: in the
    feature's own units, those of `sae.encode`; features never fall below 0, but "add" may push against a feature's direction.
    seconds: only tokens between these two times, in s. sites: None means the site of the SAE. branch: "cond" by default, as for
    `AddVector`. Tokens that do not represent time are left unchanged. Raises ValueError for features that the SAE does not have.
    """

    sites: Which = field(default=None, kw_only=True)
    branch: Branch = field(default="cond", kw_only=True)
    sae: SAE
    features: tuple[int, ...]
    do: Do = "ablate"
    value: float | None = None
    seconds: tuple[float, float] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.sae, SAE):
            raise TypeError(f"sae is a {type(self.sae).__name__}, expected an SAE, such as SAE.from_pretrained returns.")
        numbers = (self.features,) if isinstance(self.features, int) else tuple(int(f) for f in self.features)
        object.__setattr__(self, "features", numbers)
        if not numbers or len(set(numbers)) < len(numbers) or not all(0 <= f < self.sae.d_sae for f in numbers):
            raise ValueError(f"features is {numbers}, expected distinct indices from 0 to {self.sae.d_sae - 1}.")
        if self.do not in ("set", "scale", "add", "ablate"):
            raise ValueError(f"do is {self.do!r}, expected 'set', 'scale', 'add' or 'ablate'.")
        if (self.value is None) != (self.do == "ablate"):
            raise ValueError(
                f"value is {self.value} for do={self.do!r}, expected a number for 'set', 'scale' and 'add', None for 'ablate'."
            )
        if self.value is not None and not (abs(self.value) < 1e6 and (self.value >= 0 or self.do == "add")):
            raise ValueError(f"value is {self.value}, expected a finite number, not negative unless do='add'.")
        check_seconds(self.seconds)
        if self.sites is None:
            if "site" not in self.sae.metadata:
                raise ValueError("The metadata of the SAE does not name its site: pass sites=...")
            object.__setattr__(self, "sites", (self.sae.metadata["site"],))

    @property
    def made_for(self) -> SAE:
        return self.sae

    def check(self, model: str, fingerprint: str, sites: Sites) -> None:
        self.sae.check(model, fingerprint, sites.select(self.sites))

    def failed(self, sigmas: Sequence[float]) -> list[float]:
        return self.sae.failed(sigmas)

    @property
    def idle(self) -> bool:
        return (self.do, self.value) in (("scale", 1), ("add", 0))

    def change(self, own: Tensor, other: Tensor | None, here: Here) -> Tensor:
        old = own[here.leading :].float()
        chosen = torch.tensor(self.features, device=own.device)
        now = self.sae.encode(old, here.sigma)[:, chosen]
        match self.do:
            case "scale":
                more = now * (self.value - 1)  # type: ignore[operator]
            case "add":
                more = torch.full_like(now, self.value)  # type: ignore[arg-type]
            case _:
                more = (self.value or 0.0) - now
        new = old + self.sae.decode_delta(more, here.sigma, chosen)
        return torch.cat([own[: here.leading], within(self.seconds, new, old, here).to(own.dtype)])
