"""The evaluation: does an SAE explain enough of the activations, at every noise level, for its features to be used?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm.auto import tqdm

from audioscope.concepts import some_prompts
from audioscope.errors import Damaged, as_path, of_kind, quiet, said, texts
from audioscope.sae.sae import BARS, SAE, float_tokens
from audioscope.sae.streams import TokenStream
from audioscope.store import read_json, write_json
from audioscope.views import view

EVALUATED = 256  # held-out prompts to measure on: with fewer, rare features would count as dead
# Prompts to fit the baselines on: with 64, tokens_fvu of `tiny` is up to a third higher, with 1,024 up to a fifth lower.
FITTED = 256
FORMAT = 1  # the version of the file, raised with every change that an older audioscope cannot read
DRAWS = 10  # dictionaries of random tokens: what a single one leaves unexplained differs by up to a fifth from their mean
CODED = 16_384  # at most this many tokens of a level are coded with random tokens


@dataclass(frozen=True, eq=False)
class SAEEvaluation:
    """What an SAE leaves unexplained at each noise level, next to two baselines without training, and how its features are used.

    Args:
        levels: One row per noise level, with the columns

            - sigma: the noise level,
            - fvu: the fraction of variance (about the mean of that level) that the SAE leaves unexplained,
            - topk_pca_fvu: the same for PCA of the level's fitting tokens, where each token keeps its own k largest coefficients,
            - tokens_fvu: the same for dictionaries of random fitting tokens, as many as the SAE has features, where tokens are
              coded by orthogonal matching pursuit with k of them; the mean of 10 draws,
            - pca_fvu: for reference, the same for the k directions that are best for all measured tokens together,
            - components: this k, which is the SAE's k, or l0 rounded up if that is larger,
            - l0: active features per token,
            - variance: variance of the tokens about their mean,
            - passes: whether fvu is below both topk_pca_fvu and tokens_fvu.

        density: The share of tokens at which each feature is active, float64 [d_sae].

    Example:
        >>> import torch
        >>> tokens = torch.randn(2, 100, 16, generator=torch.Generator().manual_seed(0))
        >>> evaluation = audioscope.sae.evaluate_tokens(audioscope.SAE(16, 32, 4), tokens, torch.tensor([1.0, 0.5]))
        >>> evaluation.passes  # an untrained SAE
        False
        >>> evaluation.levels[["sigma", "passes"]]
           sigma  passes
        0    1.0   False
        1    0.5   False
    """

    levels: pd.DataFrame
    density: np.ndarray

    @property
    def dead_share(self) -> float:
        """The share of features that are never active, 0 to 1."""
        return float((self.density == 0).mean())

    @property
    def passes(self) -> bool:
        """Whether every noise level passes and at most a tenth of the features are dead."""
        return bool(self.levels["passes"].all()) and self.dead_share <= 0.1

    def report(self) -> dict[str, Any]:
        """Summarize the evaluation as JSON values, to be kept with the SAE as `sae.report`.

        Returns:
            A dict with passes, fvu (over all levels), l0, dead_share and density, and, with one value per level, sigmas,
            fvu_per_level, topk_pca_fvu, tokens_fvu, pca_fvu, pca_components and l0_per_level.
        """
        table = self.levels
        weight = table["variance"] / table["variance"].sum()
        return {
            "passes": self.passes, "fvu": round(float((table["fvu"] * weight).sum()), 5), "sigmas": table["sigma"].tolist(),
            "fvu_per_level": table["fvu"].round(5).tolist(),
            **{name: table[name].round(5).tolist() for name in (*BARS, "pca_fvu")},
            "pca_components": table["components"].tolist(),
            "l0": round(float(table["l0"].mean()), 3), "l0_per_level": table["l0"].round(3).tolist(),
            "dead_share": round(self.dead_share, 5), "density": [round(float(value), 6) for value in self.density],
        }  # fmt: skip

    @property
    def verdict(self) -> str:
        """The outcome in words: whether the SAE passes, at how many levels, and how many features are dead."""
        passed = f"{self.levels['passes'].sum()} of {len(self.levels)} noise levels"
        dead = f"{self.dead_share:.1%} of {len(self.density)} features dead"
        return f"{'passes' if self.passes else 'fails'}: below both baselines at {passed}, {dead}"

    def to_frame(self) -> pd.DataFrame:
        """Return a copy of the table of noise levels.

        Returns:
            One row per noise level, with the columns of `levels`.
        """
        return self.levels.copy()

    def chart(self) -> Any:
        """Chart the variance unexplained over the noise level, for the SAE and the baselines.

        Returns:
            An Altair chart, that of `audioscope.sae.evaluation_chart`.
        """
        return view("SAEEvaluation.chart")(self)

    def save(self, file: str | Path) -> Path:
        """Write the evaluation to a JSON file, from which `load` reads it again.

        Args:
            file: The file to write.

        Returns:
            The file's path.
        """
        file = as_path(file)
        write_json(file, {"format": FORMAT, "levels": self.levels.to_dict("list"), "density": self.density.tolist()})
        return file

    @classmethod
    def load(cls, file: str | Path) -> SAEEvaluation:
        """Read an evaluation that `save` wrote.

        Args:
            file: The JSON file.

        Returns:
            The evaluation.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is damaged, of something else, or a newer audioscope wrote it.
        """
        file = as_path(file)
        about = read_json(file, FORMAT)
        try:
            found = cls(pd.DataFrame(about["levels"]), np.array(about["density"], dtype=float))
            found._shown()
        except (KeyError, TypeError, ValueError) as error:
            raise Damaged(f"{file} is damaged, or not the evaluation of an SAE ({error}).") from error
        return found

    def _shown(self) -> pd.DataFrame:
        return self.levels[["sigma", "fvu", *BARS, "pca_fvu", "l0", "passes"]].round(3)

    def __repr__(self) -> str:
        return f"SAEEvaluation({self.verdict})\n{self._shown().to_string(index=False)}"

    def _repr_html_(self) -> str:
        return f"<p>The SAE {self.verdict}.</p>{self._shown().to_html(index=False)}"


@torch.no_grad()
def evaluate_sae(
    sae: SAE,
    stream: TokenStream,
    prompts: Sequence[str] | None = None,
    progress: bool = True,
    *,
    fitted_on: Sequence[str] | None = None,
) -> SAEEvaluation:
    """Measure an SAE on tokens that it was not trained on, against baselines that were fitted on other tokens.

    To keep the result with the SAE: `sae.report = evaluation.report()`.

    Args:
        sae: The SAE to measure.
        stream: Where the tokens come from, with their site, steps and branches; its own prompts are not used.
        prompts: What to measure, held out from training. None means 256 prompts of the shipped concepts' test split, none of
            which occurs in the build split.
        progress: Show a progress bar.
        fitted_on: The prompts whose tokens the baselines are fitted on. None means 256 prompts of the build split that are not
            measured. The more of them, the harder the baselines are to beat.

    Returns:
        What the SAE and the baselines leave unexplained at each noise level, and how often each feature is active.

    Raises:
        ValueError: The stream is of another site or model, prompts are both measured and fitted on, there are none of either, or
            those fitted on give fewer tokens than the SAE has features.

    Example:
        >>> site = "transformer.transformer_blocks.6.cross_attn"
        >>> stream = audioscope.sae.TokenStream(model, site)
        >>> evaluation = audioscope.sae.evaluate_sae(
        ...     audioscope.datasets.sae(site), stream, ["a fast jazz song"], fitted_on=["a slow pop song"], progress=False
        ... )
        >>> len(evaluation.levels), evaluation.density.shape
        (10, (512,))
    """
    check_fits(sae, stream)
    prompts = some_prompts(EVALUATED) if prompts is None else texts("prompts", prompts)
    measured = set(prompts)
    if fitted_on is None:
        fitted_on = [text for text in some_prompts(FITTED + len(measured), "build") if text not in measured][:FITTED]
    elif both := measured & set(texts("fitted_on", fitted_on)):
        raise ValueError(f"{len(both)} prompts are both measured and fitted on, such as {min(both)!r}: keep them apart.")
    with tqdm(total=len(prompts) + len(fitted_on), desc="evaluating SAE", unit="prompt", disable=quiet(progress)) as bar:
        tokens, sigmas = _read(stream, prompts, 10_000_019, bar)
        others, _ = _read(stream, fitted_on, 20_000_003, bar)
    return evaluate_tokens(sae, tokens, sigmas, fitted_on=others)


def _read(stream: TokenStream, prompts: Sequence[str], seed: int, bar: tqdm) -> tuple[Tensor, Tensor]:
    """Tokens [levels, prompts, positions, d_in] of one generation per prompt, and the noise levels [levels]."""
    if not prompts:
        raise ValueError("There are no prompts to measure, or none to fit the baselines on: give at least one of each.")
    size, parts = stream.batch_size, []
    for start in range(0, len(prompts), size):
        part = prompts[start : start + size]
        parts.append((part, [seed + start + i for i in range(len(part))], stream.branches[start // size % len(stream.branches)]))
    tokens, levels = [], []
    for values, sigmas in stream.read_all(parts):
        tokens.append(values)
        levels.append(sigmas)
        bar.update(len(values))
    return torch.cat(tokens).transpose(0, 1), levels[0]


@torch.no_grad()
def evaluate_tokens(sae: SAE, tokens: Tensor, sigmas: Tensor, *, fitted_on: Tensor | None = None) -> SAEEvaluation:
    """Measure an SAE on given tokens, as `evaluate_sae` does on those that it generates.

    Random tokens code at most 16,384 tokens of a level, drawn at random (always the same ones).

    Args:
        sae: The SAE to measure.
        tokens: float [levels, items, d_in], or [levels, items, positions, d_in] where an item is a whole generation.
        sigmas: The noise levels of the tokens, float [levels].
        fitted_on: Tokens at the same levels, from other items and in either shape, to fit the baselines on. None means that they
            are fitted on a random half of the items (always the same half), and only the other half is measured; since the tokens
            of one generation are similar, pass them as one item.

    Returns:
        What the SAE and the baselines leave unexplained at each noise level, and how often each feature is active.

    Raises:
        ValueError: The tokens are no floats of these shapes, or those to fit on have other levels or another width, or are fewer than
            the SAE has features.

    Example:
        >>> import torch
        >>> tokens = torch.randn(2, 100, 16, generator=torch.Generator().manual_seed(0))
        >>> untrained = audioscope.SAE(16, 32, 4, "topk")
        >>> evaluation = audioscope.sae.evaluate_tokens(untrained, tokens, torch.tensor([1.0, 0.5]))
        >>> evaluation.levels[["components", "passes"]]
           components  passes
        0           4   False
        1           4   False
    """
    of_kind("sae", sae, SAE)
    tokens = float_tokens("tokens", tokens, sae.d_in).float()
    fitted_on = None if fitted_on is None else float_tokens("fitted_on", fitted_on, sae.d_in).float()
    try:
        sigmas = torch.as_tensor(sigmas).float()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"sigmas is {said(sigmas)}, expected one noise level for each of the first axis of tokens.") from None
    few = 2 if fitted_on is None else 1
    if tokens.ndim < 3 or sigmas.shape != tokens.shape[:1] or tokens.shape[1] < few:
        raise ValueError(
            f"tokens are {list(tokens.shape)} and sigmas {list(sigmas.shape)}, expected [levels, items, ..., {sae.d_in}] with at least "
            f"{few} items, and [levels]."
        )
    if fitted_on is None:
        halves = torch.randperm(tokens.shape[1], generator=torch.Generator().manual_seed(0)).tensor_split(2)
        fitted_on, tokens = (tokens[:, half] for half in halves)
    x_all, fitted = tokens.flatten(1, -2), fitted_on.flatten(1, -2)
    if fitted.shape[::2] != x_all.shape[::2] or fitted.shape[:2].numel() < sae.d_sae:
        raise ValueError(
            f"The tokens to fit the baselines on have shape {list(fitted_on.shape)}, expected {len(x_all)} levels, width "
            f"{x_all.shape[2]} and, over all levels, at least as many tokens as the SAE has features ({sae.d_sae}): give more."
        )
    device = sae.b_dec.device
    means = fitted.mean(1)
    dictionaries = [atoms.to(device) for atoms in _random_tokens(fitted, means, sae.d_sae)]
    rows = []
    active = torch.zeros(sae.d_sae, dtype=torch.float64)
    for x, sigma, mean, others in zip(x_all, sigmas.tolist(), means, fitted, strict=True):
        x, mean, others = x.to(device), mean.to(device), (others - mean).to(device)
        centered = x - x.mean(0)
        variance = float(centered.square().sum().clamp_min(1e-12))
        left, fired = 0.0, torch.zeros(sae.d_sae, dtype=torch.float64)
        for part in x.split(16_384):
            features = sae.encode(part, sigma)
            left += float((part - sae.decode(features, sigma)).square().sum())
            fired += (features > 0).double().sum(0).cpu()
        active += fired
        l0 = float(fired.sum() / len(x))
        components = max(sae.k, math.ceil(l0))  # an SAE that spends more than k at a level meets baselines that may do so, too
        spectrum = torch.linalg.svdvals(centered).square()
        coded = (x - mean)[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:CODED].to(device)]
        by_tokens = np.mean([_left_by(atoms, coded, components) for atoms in dictionaries]) * len(x) / len(coded)
        rows.append({
            "sigma": sigma, "fvu": left / variance, "topk_pca_fvu": _left_by_pca(others, x - mean, components) / variance,
            "tokens_fvu": by_tokens / variance, "pca_fvu": float(spectrum[components:].sum()) / variance,
            "components": components, "l0": l0, "variance": variance / len(x),
        })  # fmt: skip
    table = pd.DataFrame(rows)
    passes = table[list(BARS)].gt(table["fvu"], axis=0).all(axis=1)
    return SAEEvaluation(table.assign(passes=passes), (active / x_all.shape[:2].numel()).numpy())


def _random_tokens(tokens: Tensor, means: Tensor, count: int) -> list[Tensor]:
    """Dictionaries [count, d_in] of tokens [levels, n, d_in] minus the mean of their level [levels, d_in], each token of norm 1.

    They are drawn from all levels alike, since the SAE also has one dictionary for all levels.
    """
    generator = torch.Generator().manual_seed(0)
    draws = (torch.randperm(tokens.shape[:2].numel(), generator=generator)[:count] for _ in range(DRAWS))
    return [normalize(tokens.flatten(0, 1)[draw] - means[draw // tokens.shape[1]], dim=1) for draw in draws]


def _left_by_pca(fitted: Tensor, x: Tensor, k: int) -> float:
    """Unexplained squared norm of tokens [n, d_in] if each keeps its k largest coefficients in the PCA of other tokens.

    fitted: float [m, d_in], of mean 0. All d_in directions form a basis, so a token leaves the sum of its smallest squares.
    """
    directions = torch.linalg.eigh(fitted.T @ fitted).eigenvectors
    codes = (x @ directions).square()
    return float(codes.topk(max(0, codes.shape[1] - k), dim=1, largest=False).values.sum())


def _left_by(atoms: Tensor, x: Tensor, k: int) -> float:
    """Unexplained squared norm of tokens [n, d_in] if each is coded with k of the atoms [m, d_in], which have norm 1."""
    return sum(float(matching_pursuit(part, atoms, k).square().sum()) for part in x.split(1024))  # small enough for the cache


def matching_pursuit(x: Tensor, atoms: Tensor, k: int) -> Tensor:
    """The residual of tokens x after orthogonal matching pursuit with k atoms: float [n, d_in].

    atoms: [m, d_in], of norm 1. Each step takes the atom most similar to the residual, of either sign, and projects onto all
    atoms taken (Pati et al. 1993). The result is that of `sklearn.linear_model.orthogonal_mp_gram`, which works token by token
    and copies the Gram matrix for each: 13 times slower for 512 atoms, infeasible for 10,000.
    """
    left, taken = x, x.new_zeros(0, *x.shape)  # taken: an orthonormal basis for each token
    for _ in range(k):
        new = atoms[(left @ atoms.T).abs().argmax(1)]
        for _ in range(2):  # a single pass leaves rounding errors that accumulate
            new = new - ((taken * new).sum(-1, keepdim=True) * taken).sum(0)
        length = new.norm(dim=1, keepdim=True)
        new = torch.where(length > 1e-5, new / length, 0.0)  # otherwise the atom lies in the span of those taken
        left = left - (left * new).sum(1, keepdim=True) * new
        taken = torch.cat([taken, new[None]])
    return left


def check_fits(sae: SAE, stream: TokenStream) -> None:
    """Raise ValueError for an SAE that was trained on the activations of another model or site."""
    of_kind("sae", sae, SAE)
    if not all(hasattr(stream, name) for name in ("site", "model", "read")):
        raise ValueError(f"stream is {said(stream)}, expected a TokenStream.")
    for name, there in (("site", stream.site), ("fingerprint", stream.model.fingerprint)):
        if name in sae.metadata and sae.metadata[name] != there:
            raise ValueError(f"The SAE has {name} {sae.metadata[name]!r}, but the stream has {name} {there!r}.")
