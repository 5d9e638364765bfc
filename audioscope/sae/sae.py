"""A sparse autoencoder: many features, few of which are active, each with a direction that it adds.

    features = relu((x - b_dec) W_enc + b_enc), of which the k largest are kept;   x' = features W_dec + b_dec

Plain torch. Training is in training.py, reading and writing in files.py, what the features mean in features.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from audioscope.edits import Branch, Edit, Here, Which, span, within
from audioscope.errors import choice, index_of, listed, real, said, seed_number, whole
from audioscope.sae.levels import Levels
from audioscope.sites import Site, Sites
from audioscope.steer.vectors import SteeringVector
from audioscope.views import view

if TYPE_CHECKING:
    from audioscope.model import Model

Kind = Literal["batchtopk", "topk"]
Do = Literal["set", "scale", "add", "ablate"]
# The baselines: an SAE's fvu must be below both at a noise level; see `audioscope.sae.evaluation.SAEEvaluation`.
BARS = ("topk_pca_fvu", "tokens_fvu")


def float_tokens(name: str, x: Any, width: int) -> Tensor:
    """Floats [..., width] as a tensor, from a tensor or an array. Raises ValueError for anything else."""
    try:
        found = torch.as_tensor(x)
    except Exception as error:  # whatever it is
        raise ValueError(f"{name} is {said(x)}, expected a float tensor [..., {width}].") from error
    if not found.is_floating_point() or not found.ndim or found.shape[-1] != width:
        raise ValueError(
            f"{name} is {str(found.dtype).removeprefix('torch.')} {list(found.shape)}, expected floats [..., {width}]."
        )
    return found


class SAE(nn.Module):
    """A TopK or BatchTopK sparse autoencoder, whose features can be scored, searched and steered with.

    After Gao et al. 2024 (TopK) and Bussmann et al. 2024 (BatchTopK, which TADA uses, section 4). Features are
    `relu((x - b_dec) W_enc + b_enc)`, of which few are kept, and the reconstruction is `features W_dec + b_dec`. Train one with
    `audioscope.sae.train_sae`, read one with `from_pretrained` or `audioscope.datasets.sae`.

    Args:
        d_in: The width of the activations.
        d_sae: The number of features.
        k: Active features per token.
        kind: "topk" keeps the k largest of every token; "batchtopk" keeps the same number over a whole batch during training
            and, afterward, those above a learned threshold, so that features do not depend on a token's neighbors.
        seed: Of the random weights that it starts with.

    Attributes:
        levels: How inputs from several noise levels are made comparable (`audioscope.sae.Levels`), or None. If set, `encode` and
            `decode` need the noise level.
        metadata: The model, site path, branches and training, as JSON values.
        report: The result of `audioscope.sae.evaluate_sae`, and of `audioscope.sae.report_saes`, if any, as JSON values.
        scores: The table of `audioscope.sae.score_features`, or None.
        units: The data behind the report: how the compared units order the test prompts, or None.
        log: The table of the training's progress (tokens, fvu, dead, l0), or None.

    Raises:
        ValueError: `k` is not between 1 and `d_sae`, `d_in` is below 1, or `kind` has another value.

    Example:
        >>> import torch
        >>> sae = audioscope.datasets.sae("transformer.transformer_blocks.6.cross_attn")
        >>> sae
        SAE(512 features, 8 active, width 128, batchtopk of tiny transformer.transformer_blocks.6.cross_attn)
        >>> features = sae.encode(torch.zeros(5, 128), sigma=0.5)  # at noise level 0.5
        >>> features.shape, sae.decode(features, sigma=0.5).shape
        (torch.Size([5, 512]), torch.Size([5, 128]))
    """

    def __init__(self, d_in: int, d_sae: int, k: int, kind: Kind = "batchtopk", seed: int = 0):
        super().__init__()
        d_in, d_sae = whole("d_in", d_in, 1), whole("d_sae", d_sae, 1)
        k, seed = whole("k", k, 1, d_sae, ", the number of features"), seed_number(seed)
        choice("kind", kind, ("batchtopk", "topk"))
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
        """The encoder's weights, float32 [d_in, d_sae], as in SAELens."""
        return self.encoder.T

    @property
    def W_dec(self) -> Tensor:
        """The direction of each feature, of norm 1, float32 [d_sae, d_in]."""
        return self.decoder

    def pre_topk(self, x: Tensor) -> Tensor:
        """Compute all features before the largest are selected.

        Args:
            x: Inputs [..., d_in], already scaled by the noise level's mean and scale if the SAE has levels.

        Returns:
            Features, float [..., d_sae], not negative.
        """
        return torch.relu((x - self.b_dec) @ self.encoder.T + self.b_enc)

    def encode(self, x: Tensor, sigma: float | None = None) -> Tensor:
        """Encode activations as features, most of which are 0.

        Args:
            x: Activations [..., d_in].
            sigma: Their noise level, needed if the SAE has levels.

        Returns:
            Features [..., d_sae], on the device of `x`.

        Raises:
            ValueError: `x` has another width or is no float tensor, or the SAE has levels and `sigma` is None.

        Example:
            >>> import torch
            >>> sae = audioscope.SAE(d_in=16, d_sae=64, k=4, kind="topk")
            >>> features = sae.encode(torch.randn(10, 16, generator=torch.Generator().manual_seed(0)))
            >>> (features > 0).sum(1).tolist()  # 4 active features for each of the 10 tokens
            [4, 4, 4, 4, 4, 4, 4, 4, 4, 4]
        """
        x = float_tokens("x", x, self.d_in)
        there, x = x.device, x.to(self.b_dec)
        values = self.pre_topk(x if self.levels is None else self.levels.scale(x, sigma))
        if self.kind == "batchtopk":
            return torch.where(values > self.threshold, values, 0.0).to(there)
        top = values.topk(self.k, dim=-1)
        return torch.zeros_like(values).scatter(-1, top.indices, top.values).to(there)

    def decode(self, features: Tensor, sigma: float | None = None) -> Tensor:
        """Decode features to activations.

        Args:
            features: Features [..., d_sae].
            sigma: The noise level of the activations, needed if the SAE has levels.

        Returns:
            Activations [..., d_in], on the device of `features`.

        Raises:
            ValueError: `features` has another width or is no float tensor, or the SAE has levels and `sigma` is None.
        """
        features = float_tokens("features", features, self.d_sae)
        x = features.to(self.b_dec) @ self.decoder + self.b_dec
        return (x if self.levels is None else self.levels.unscale(x, sigma)).to(features.device)

    def decode_delta(self, more: Tensor, sigma: float | None = None, which: Tensor | None = None) -> Tensor:
        """Compute how the activations change when features increase, without bias and mean.

        Args:
            more: The increase of each feature, [..., features].
            sigma: The noise level of the activations, needed if the SAE has levels.
            which: The indices of these features, int [features]; None means all.

        Returns:
            The change of the activations [..., d_in].

        Raises:
            ValueError: The SAE has levels, and `sigma` is None.
        """
        rows = (self.decoder if which is None else self.decoder[which.to(self.decoder.device)]).to(more.device)
        return more @ rows * (1.0 if self.levels is None else self.levels.at(sigma)[1])

    def forward(self, x: Tensor, sigma: float | None = None) -> Tensor:
        """Reconstruct activations from their active features: `decode(encode(x))`.

        Args:
            x: Activations [..., d_in].
            sigma: Their noise level, needed if the SAE has levels.

        Returns:
            What the SAE explains of the activations, [..., d_in].
        """
        return self.decode(self.encode(x, sigma), sigma)

    def step(self, x: Tensor, dead: Tensor | None = None, aux_loss_coefficient: float = 0.25) -> Step:
        """Do one training pass, whose loss is to be minimized, over a batch of inputs.

        The loss is the fraction of variance unexplained plus `aux_loss_coefficient` times the auxiliary loss: dead features must
        explain what the others leave unexplained (Gao et al. 2024, section 2.2). Only active (token, feature) pairs count: the
        gradients of all others are 0.

        Args:
            x: Inputs [n, d_in], already scaled.
            dead: The features that have long been inactive, bool [d_sae]; None means none.
            aux_loss_coefficient: The weight of the auxiliary loss.

        Returns:
            An object with `loss`, `fvu` (fraction of variance unexplained), `fired` (which features were active, bool [d_sae]),
            `smallest` (the smallest active value) and `l0` (active features per token).
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
        """Make a steering vector of the features that detect a concept, with `audioscope.sae.sae_vector`.

        Args:
            concept: A concept that `scores` contains.
            features: The number of features at each noise level.
            **keywords: Those of `audioscope.sae.sae_vector`.

        Returns:
            The vector, at the SAE's site and noise levels.

        Raises:
            ValueError: The SAE lacks scores, noise levels or a site, or the scores lack the concept.

        Example:
            >>> sae = audioscope.datasets.sae("transformer.transformer_blocks.6.cross_attn")
            >>> sae.vector("fast", features=5, against="slow")
            SteeringVector(fast against slow, tiny: 1 sites, 10 noise levels from 1 to 0.235, reliability not measured)
        """
        return view("SAE.vector")(self, concept, features, **keywords)

    def explore(self, model: Any = None) -> Any:
        """Open a widget for JupyterLab: search the features, hear where one fires, and change it while the model responds.

        Args:
            model: The model that the SAE was trained on; None means the shipped `tiny`, if the SAE belongs to its weights.

        Returns:
            The widget.

        Raises:
            ValueError: The SAE belongs to another model.

        Example:
            >>> audioscope.datasets.sae("transformer.transformer_blocks.6.cross_attn").explore()  # doctest: +SKIP
        """
        return view("SAE.explore")(self, model)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the SAE to a folder in the layout of SAELens, which all its tools can read.

        A BatchTopK SAE is written as JumpReLU with its learned threshold. The saved SAE expects the same inputs as in training:
        with levels, (x - mean) / scale, as the metadata in cfg.json explains. Files that only audioscope reads hold the levels,
        the report, the scores and the units; those of an SAE that was in the folder before are deleted.

        Args:
            folder: The folder, created if it does not exist.

        Returns:
            The folder.

        Example:
            >>> folder = audioscope.SAE(d_in=16, d_sae=64, k=4).save_pretrained("mine")
            >>> sorted(file.name for file in folder.iterdir())
            ['cfg.json', 'sae_weights.safetensors']
            >>> audioscope.SAE.from_pretrained("mine")
            SAE(64 features, 4 active, width 16, batchtopk)
        """
        return view("SAE.save_pretrained")(self, folder)

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, revision: str | None = None, token: str | None = None, subfolder: str = ""
    ) -> SAE:
        """Read an SAE from the Hugging Face Hub or a folder, in the layout of SAELens or sparsify, which TADA uses.

        Nothing in the files is executed. Sparsify's "batch_topk" SAEs store no threshold, so they are read as TopK, which is what
        they do on one token.

        Args:
            source: A name on the hub, such as "owner/name", or a folder.
            revision: A branch, tag or commit; None is the main branch.
            token: The access token for the hub; None takes the one that `hf auth login` stored.
            subfolder: The folder of the SAE inside the repository, such as "transformer_blocks.6.cross_attn".

        Returns:
            The SAE, with whatever `save_pretrained` wrote next to its weights.

        Raises:
            FileNotFoundError: There is no SAE.
            ConnectionError: The hub does not give the repository.
            ValueError: A file is corrupt, or the SAE is of a kind that has no counterpart here.
        """
        return view("SAE.from_pretrained")(source, revision=revision, token=token, subfolder=subfolder)

    def push_to_hub(
        self,
        repo: str,
        *,
        clips: Sequence[Any] = (),
        license: str | None = None,
        private: bool | None = None,
        revision: str | None = None,
        token: str | None = None,
        message: str | None = None,
    ) -> str:
        """Upload the SAE to the Hugging Face Hub, with a card that says what it is, whether it passed, and how to load it.

        Args:
            repo, clips, license, private, revision, token, message: As for `audioscope.SteeringVector.push_to_hub`.

        Returns:
            The address of the repository.

        Raises:
            ValueError: `repo` is not a name on the hub or holds something else, `clips` are not clips, or the licence is no identifier.
            ConnectionError: The hub does not take it.

        Example:
            >>> sae = audioscope.datasets.sae("transformer.transformer_blocks.6.cross_attn")
            >>> sae.push_to_hub("me/tiny-sae-6", license="mit")  # doctest: +SKIP
            'https://huggingface.co/me/tiny-sae-6'
        """
        how = {"license": license, "private": private, "revision": revision, "token": token, "message": message}
        return view("SAE.push_to_hub")(self, repo, clips=clips, **how)

    def failed(self, sigmas: Sequence[float]) -> list[float]:
        """List the noise levels at which the SAE fails its evaluation, or that lie beyond the measured range.

        Each is judged by the nearest measured level. All fail without a report, or with one that lacks a baseline.

        Args:
            sigmas: The noise levels to judge.

        Returns:
            Those among them that fail.

        Raises:
            ValueError: They are no numbers.

        Example:
            >>> sae = audioscope.datasets.sae("transformer.transformer_blocks.6.cross_attn")
            >>> sae.failed([1.0, 0.5, 0.01])  # random tokens do better at 1.0, and 0.01 was not measured
            [1.0, 0.01]
        """
        try:
            found = np.asarray(sigmas, dtype=float)  # also infinite ones
        except (TypeError, ValueError, RuntimeError):
            found = np.zeros(())
        if found.ndim != 1:
            raise ValueError(f"sigmas is {said(sigmas)}, expected a list of noise levels.")
        levels = found.tolist()
        if not {"sigmas", "fvu_per_level", *BARS} <= self.report.keys():
            return levels
        known, fvu = np.asarray(self.report["sigmas"]), np.asarray(self.report["fvu_per_level"])
        passed = np.all([fvu < np.asarray(self.report[bar]) for bar in BARS], axis=0)
        low, high = 0.99 * known.min(), 1.01 * known.max()
        return [sigma for sigma in levels if not (low <= sigma <= high and passed[np.abs(known - sigma).argmin()])]

    def check(self, model: str, fingerprint: str, sites: Iterable[Site]) -> None:
        """Check that the SAE can act at these sites of a model.

        Args:
            model: The name of the model, for the message.
            fingerprint: The hash of the model's weights.
            sites: The sites.

        Raises:
            ValueError: The SAE belongs to other weights, another site or another width, or no site is given.
        """
        found = list(sites)
        wrong = [site.path for site in found if site.path != self.metadata.get("site", site.path) or site.width != self.d_in]
        if self.metadata.get("fingerprint", fingerprint) != fingerprint or wrong or not found:
            raise ValueError(
                f"{self!r} (weights {self.metadata.get('fingerprint')}) does not belong to {', '.join(wrong) or 'a site'} of "
                f"{model!r} with weights {fingerprint}. For other versions of the same weights, use sae.for_model(model)."
            )

    def for_model(self, model: Model) -> SAE:
        """Use the SAE on another version of its model, such as a fine-tune or the same weights in half precision.

        Args:
            model: The other model, which has the same site. Whether the features mean the same there is yours to test.

        Returns:
            A copy that shares the weights; its metadata keep, as made_from, the name and the weights that it was trained on.

        Raises:
            ValueError: The site is missing there, or has another width.

        Example:
            >>> sae = audioscope.datasets.sae("transformer.transformer_blocks.6.cross_attn")
            >>> half = audioscope.load("tiny", dtype="bfloat16")
            >>> clip = half.generate("a jazz song", steps=2, edits=audioscope.SAEEdit(sae.for_model(half), (3,), "scale", 2.0))
        """
        if not hasattr(model, "fingerprint"):
            raise ValueError(f"model is {said(model)}, expected a Model.")
        other = copy(self)
        origin = self.metadata.get("made_from", {name: self.metadata.get(name) for name in ("model", "fingerprint")})
        other.metadata = {**self.metadata, "model": model.name, "fingerprint": model.fingerprint, "made_from": origin}
        other.check(model.name, model.fingerprint, model.sites.select([str(self.metadata.get("site", "none"))]))
        return other

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

    Tokens that do not represent time are left unchanged.

    Args:
        sites: Where the edit acts, as for all edits; None means the site of the SAE.
        steps: A half-open window of denoising steps (first, last + 1); None means every step.
        branch: The part of classifier-free guidance to change, "cond", "uncond" or "both"; "cond" by default, as for
            `audioscope.AddVector`.
        sae: The SAE.
        features: The indices of the features, or a single one.
        do: "set" to a value, "scale" by a factor, "add" a value, or "ablate" (set to 0).
        value: The value or factor, None for "ablate". Values are in the feature's own units, those of `sae.encode`; features
            never fall below 0, but "add" may push against a feature's direction.
        seconds: Only tokens between these two times are changed, in s; None means all.

    Raises:
        TypeError: `sae` is not an SAE.
        ValueError: The SAE does not have these features, `do` and `value` do not fit each other, or the SAE does not name its
            site and `sites` is None.

    Example:
        >>> sae = audioscope.datasets.sae("transformer.transformer_blocks.6.cross_attn")
        >>> best = audioscope.sae.top_features(sae.scores, "violin", count=1)["feature"].unique()
        >>> edit = audioscope.SAEEdit(sae, best, "scale", 4.0)
        >>> clip = model.generate("a song with a violin", seed=0, steps=4, edits=[edit])
        >>> unchanged = model.generate("a song with a violin", seed=0, steps=4)
        >>> bool((clip.mono == unchanged.mono).all())
        False
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
        expected = f"distinct indices from 0 to {self.sae.d_sae - 1}"
        one = index_of(self.features)
        numbers = tuple(map(index_of, [one] if one is not None else listed("features", self.features, expected)))
        if not numbers or len(set(numbers)) < len(numbers) or not all(f is not None and 0 <= f < self.sae.d_sae for f in numbers):
            raise ValueError(f"features is {said(self.features)}, expected {expected}.")
        object.__setattr__(self, "features", numbers)
        choice("do", self.do, ("set", "scale", "add", "ablate"))
        if (self.value is None) != (self.do == "ablate"):
            raise ValueError(
                f"value is {self.value} for do={self.do!r}, expected a number for 'set', 'scale' and 'add', None for 'ablate'."
            )
        if self.value is not None:
            object.__setattr__(self, "value", real("value", self.value))
            if not (abs(self.value) < 1e6 and (self.value >= 0 or self.do == "add")):
                raise ValueError(f"value is {self.value}, expected a finite number, not negative unless do='add'.")
        object.__setattr__(self, "seconds", span(self.seconds))
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
