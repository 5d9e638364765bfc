"""What the features of an SAE respond to: their scores for concepts, by noise level."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Any, Literal, Unpack, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from audioscope.concepts import Concept, _plan, choose, shipped_groups
from audioscope.errors import choice, known_name, listed, named, of_kind, said_text, texts, whole
from audioscope.model import BATCH, Model
from audioscope.sae.sae import SAE
from audioscope.stats import auroc, cohens_d
from audioscope.tracing import Read, Row, Sampling, SamplingKeywords
from audioscope.workers import Workers, collect

Negatives = Literal["all", "counterfactual"]
Against = Literal["counterfactual", "neutral"]
NEGATIVES: tuple[Negatives, ...] = get_args(Negatives)
DECIMALS = {"d": 3, "auroc": 3}  # of scores; the others have 4


@lru_cache(maxsize=1)
def _phrases() -> tuple[re.Pattern[str], dict[str, str]]:
    """Every phrase of data/concepts.yaml as one regular expression, longest first, and the label that each stands for."""
    classes = {label: words for group in _plan()["groups"].values() for label, words in group.items()}
    label_of = {
        phrase.removeprefix("a "): label
        for label, words in classes.items()
        for phrase in (*words.get("adjectives", ()), *words.get("items", ()))
    }
    either = "|".join(re.escape(phrase) for phrase in sorted(label_of, key=len, reverse=True))
    return re.compile(rf"\b(?:{either})\b", re.IGNORECASE), label_of


@lru_cache(maxsize=16_384)
def labels_in(prompt: str) -> frozenset[str]:
    """The labels that a prompt names in the words of the shipped concepts.

    "a slow song with a violin solo" names slow and violin. Labels are those of `shipped_groups`; other words, such as those of a
    user's own concepts, name none.
    """
    pattern, label_of = _phrases()
    return frozenset(label_of[found.lower()] for found in pattern.findall(prompt))


def with_and_without(rows: pd.DataFrame, concept: str, negatives: Negatives = "counterfactual") -> tuple[np.ndarray, np.ndarray]:
    """Which generations are examples of a concept, and which are examples of its absence: two bool arrays [rows].

    rows: concept, pair, has and text, as in `ConceptActivations`. With the concept: its own prompts that have it. Without it, for
    "counterfactual": the same prompts with the counterfactual in its place, which differ in one idea that is always the same; for
    "all": these, and the prompts of all other concepts except those that name this one. Which prompts name it is known for the
    labels of the shipped concepts (`labels_in`); for your own concept, only its own prompts are assumed to have it.
    Raises ValueError for any other `negatives`.
    """
    choice("negatives", negatives, NEGATIVES)
    own, has = (rows["concept"] == concept).to_numpy(), rows["has"].to_numpy(bool)
    if negatives == "counterfactual":
        return own & has, own & ~has
    own_texts = set(rows["text"][own & has])
    known = concept in shipped_groups()
    named = np.array([text in own_texts or (known and concept in labels_in(text)) for text in rows["text"]], bool)
    return own & has, ~named | (own & ~has)


@dataclass(frozen=True, eq=False)
class ConceptActivations:
    """Time-averaged activations of the two prompts of every pair, one row per generation, from which features are scored.

    Args:
        rows: One row per generation, with the columns concept, pair, has (whether the prompt has the concept) and text (the
            prompt).
        sigmas: The noise levels, float [levels].
        values: The activations by name, float32 numpy [rows, levels, units]. A name is a module path, for the neurons of a site,
            or the name of one of the requested SAEs.

    Example:
        >>> sae = audioscope.datasets.sae("transformer.transformer_blocks.6.cross_attn")
        >>> found = audioscope.sae.concept_activations(model, {"mine": sae}, ["fast"], pairs=1, steps=2, progress=False)
        >>> found.rows["has"].tolist()
        [True, False]
        >>> found.values["mine"].shape  # generations, noise levels, features
        (2, 2, 512)
    """

    rows: pd.DataFrame
    sigmas: Tensor
    values: dict[str, np.ndarray]

    def mirrored(self, concept: str, opposite: str) -> ConceptActivations:
        """Add the same generations in swapped roles, as examples of the opposite and of its absence.

        Args:
            concept: The concept whose generations are added again.
            opposite: The name of its opposite.

        Returns:
            The activations, with the added rows at the end.

        Example:
            >>> sae = audioscope.datasets.sae("transformer.transformer_blocks.6.cross_attn")
            >>> found = audioscope.sae.concept_activations(model, {"mine": sae}, ["fast"], pairs=1, steps=2, progress=False)
            >>> found.mirrored("fast", "slow").rows[["concept", "has"]]
              concept    has
            0    fast   True
            1    fast  False
            2    slow  False
            3    slow   True
        """
        known_name("concept here", concept, list(dict.fromkeys(self.rows["concept"])))
        said_text("opposite", opposite)
        mine = (self.rows["concept"] == concept).to_numpy()
        other = self.rows[mine].assign(concept=opposite, has=~self.rows.loc[mine, "has"].to_numpy(bool))
        values = {name: np.concatenate([each, each[mine]]) for name, each in self.values.items()}
        return ConceptActivations(pd.concat([self.rows, other], ignore_index=True), self.sigmas, values)

    def of(self, concept: str, name: str, negatives: Negatives = "counterfactual") -> tuple[np.ndarray, np.ndarray]:
        """Return the values with and without a concept, to be compared.

        Args:
            concept: The concept.
            name: A name in `values`.
            negatives: What counts as without the concept. "counterfactual" means the same prompts with the counterfactual in its
                place, which differ in one idea that is always the same; "all" means these, and the prompts of all other concepts
                except those that name this one. Which prompts name it is known for the labels of the shipped concepts; of your
                own concept, only its own prompts are assumed to have it.

        Returns:
            Two arrays of values, with and without it, float32 [prompts, levels, units] each.

        Raises:
            ValueError: `negatives` has another value.

        Example:
            >>> sae = audioscope.datasets.sae("transformer.transformer_blocks.6.cross_attn")
            >>> found = audioscope.sae.concept_activations(model, {"mine": sae}, ["fast"], pairs=2, steps=2, progress=False)
            >>> fast, slow = found.of("fast", "mine")
            >>> fast.shape, slow.shape
            ((2, 2, 512), (2, 2, 512))
        """
        known_name("concept here", concept, list(dict.fromkeys(self.rows["concept"])))
        known_name("values", name, self.values)
        with_, without = with_and_without(self.rows, concept, negatives)
        return self.values[name][with_], self.values[name][without]


@torch.no_grad()
def concept_activations(
    model: Model,
    saes: Mapping[str, SAE],
    concepts: Iterable[str | Concept] | None = None,
    split: str = "select",
    *,
    sites: Iterable[str] = (),
    without: Iterable[str] = (),
    against: Against = "counterfactual",
    pairs: int | None = None,
    branch: str = "cond",
    batch_size: int = BATCH,
    workers: Workers = None,
    progress: bool = True,
    **sampling: Unpack[SamplingKeywords],
) -> ConceptActivations:
    """Generate both prompts of each pair of a split from the same noise, and average neurons and features over time.

    This is the reading behind `audioscope.sae.score_features`; call it yourself to score several SAEs on the same generations.

    Args:
        model: The model to read.
        saes: SAEs of sites of this model, by any name; their features are computed for each token before averaging.
        concepts: Names of shipped concepts or `Concept` values; None means all 21.
        split: The split of the pairs, such as "build", "select" or "test".
        sites: More module paths whose neurons to read, in addition to those of the SAEs.
        without: Prompts, such as those that an SAE was trained on, whose pairs are left out.
        against: The second prompt of a pair, the "counterfactual" or the "neutral" one, which has neither idea.
        pairs: At most this many pairs of each concept; None means all.
        branch: The branch of guidance to read, "cond" or "uncond".
        batch_size: Generations per batch.
        workers: In how many processes, as for `audioscope.localize`.
        progress: Show a progress bar.
        **sampling: `steps`, `guidance`, `seconds`, `negative_prompt`; if omitted, those that the first SAE was trained with, or
            else the model's defaults.

    Returns:
        The activations of all sites and SAEs, two rows per pair.

    Raises:
        ValueError: An SAE belongs to another model, `against` has another value, a pair lacks its neutral prompt, or the model is
            being steered.

    Example:
        >>> sae = audioscope.datasets.sae("transformer.transformer_blocks.6.cross_attn")
        >>> found = audioscope.sae.concept_activations(model, {"mine": sae}, ["fast"], pairs=1, steps=2, progress=False)
        >>> {name: values.shape for name, values in found.values.items()}
        {'transformer.transformer_blocks.6.cross_attn': (2, 2, 128), 'mine': (2, 2, 512)}
    """
    of_kind("model", model, Model).check_unsteered("a reading of concepts")
    choice("against", against, ("counterfactual", "neutral"))
    pairs = None if pairs is None else whole("pairs", pairs, 1)
    other = attrgetter("neutral" if against == "neutral" else "corrupted")
    saes, sites, seen = named("saes", saes, SAE), listed("sites", sites, "module paths"), set(texts("without", without))
    for sae in saes.values():
        sae.check(model.name, model.fingerprint, model.sites.select([str(sae.metadata.get("site", "none"))]))
    paths = list(dict.fromkeys([*sites, *(str(sae.metadata["site"]) for sae in saes.values())]))
    run = sampling_like(model, saes.values(), sampling)
    wanted = [
        (Row(text, concept.seed(pair)), concept.name, pair.index, has)
        for concept in choose(concepts)
        for pair in [pair for pair in concept.split(split) if not {pair.clean, other(pair)} & seen][:pairs]
        for text, has in ((pair.clean, True), (other(pair), False))
    ]
    if not wanted:
        raise ValueError(f"No pair is left to read: pairs is {pairs}, split {split!r}, and {len(seen)} prompts are left out.")
    if not all(row.prompt for row, *_ in wanted):
        raise ValueError(f"against is {against!r}, but a pair has no neutral prompt: add one, or use against='counterfactual'.")
    read = Read(model.sites.select(paths), None, False, branch)
    batch_size = whole("batch_size", batch_size, 1)

    @torch.no_grad()
    def averages(part: Sequence[tuple[Row, str, int, bool]]) -> dict[str, Tensor]:
        """Of one batch, [rows, levels, units]."""
        found = model.run([row for row, *_ in part], read=read, decode=False, **run)
        means = {path: found.reads[path].mean(2) for path in paths}
        for name, sae in saes.items():
            tokens = found.reads[str(sae.metadata["site"])]  # [rows, levels, time, width]
            means[name] = torch.stack(
                [sae.encode(tokens[:, i], sigma).mean(1) for i, sigma in enumerate(found.sigmas.tolist())], 1
            )
        return {f"of {name}": values for name, values in means.items()} | {"sigmas": found.sigmas}

    parts = [wanted[start : start + batch_size] for start in range(0, len(wanted), batch_size)]
    every = list(collect(model, workers, averages, parts, f"reading concepts ({split})", progress=progress, size=len))
    rows = pd.DataFrame([metadata for _, *metadata in wanted], columns=["concept", "pair", "has"])
    rows["text"] = [row.prompt for row, *_ in wanted]
    values = {name: torch.cat([means[f"of {name}"] for means in every]).numpy() for name in [*paths, *saes]}
    return ConceptActivations(rows, every[0]["sigmas"], values)


def sampling_like(model: Model, saes: Iterable[SAE], sampling: SamplingKeywords) -> Sampling:
    """Sampling settings for clips of some SAEs: as requested, else as in the first SAE's training, else the model's defaults."""
    metadata = next((sae.metadata for sae in saes if "steps" in sae.metadata), {})
    asked = {name: value for name, value in sampling.items() if value is not None}
    return model.sampling(**{name: metadata.get(name) for name in SamplingKeywords.__annotations__} | asked)


def scores_of(with_: np.ndarray, without: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of units for a concept from values [n, ...] with and without it, each [...].

    ratio: mean_with * log(1 + 1 / (mean_without + 1e-6)), high for what is strong with the concept and absent without it (TADA,
    eq. 12); difference: of the means; d: `cohens_d`; auroc.
    """
    one, other = with_.mean(0), without.mean(0)
    return {
        "mean_with": one, "mean_without": other, "ratio": one * np.log1p(1 / (np.maximum(other, 0) + 1e-6)),
        "difference": one - other, "d": cohens_d(with_, without), "auroc": auroc(with_, without),
    }  # fmt: skip


def score_features(
    sae: SAE,
    model: Model,
    concepts: Iterable[str | Concept] | None = None,
    split: str = "select",
    *,
    readings: ConceptActivations | None = None,
    name: str = "sae",
    **keywords: Any,
) -> pd.DataFrame:
    """Score how well each feature detects each concept at each noise level, to find the features that mean a concept.

    Steering vectors are made from the scores of the selection split: `sae.scores = score_features(sae, model)`.

    Args:
        sae: The SAE.
        model: The model that it was trained on.
        concepts: Names of shipped concepts or `Concept` values; None means all 21.
        split: The split of the pairs, such as "build", "select" or "test".
        readings: The result of `audioscope.sae.concept_activations` with this SAE under `name`; None computes it now, with
            `keywords`.
        name: The name of this SAE in `readings`.
        **keywords: Those of `audioscope.sae.concept_activations`.

    Returns:
        One row per concept, feature and noise level, without features that are not active there. Columns d and auroc are rounded to 3
        decimals, the others to 4.

        - concept, feature, sigma (NaN for the mean over all levels),
        - mean_with, mean_without: the mean activation with and without the concept,
        - ratio: `mean_with * log(1 + 1 / (mean_without + 1e-6))`, high for what is strong with the concept and absent without it
          (TADA, eq. 12),
        - difference: of the means,
        - d: Cohen's d,
        - auroc: the probability that the feature is more active with the concept than without it.

    Example:
        >>> sae = audioscope.datasets.sae("transformer.transformer_blocks.6.cross_attn")
        >>> scores = audioscope.sae.score_features(sae, model, ["fast"], pairs=2, steps=2, progress=False)
        >>> scores.columns.tolist()
        ['concept', 'feature', 'sigma', 'mean_with', 'mean_without', 'ratio', 'difference', 'd', 'auroc']
    """
    of_kind("sae", sae, SAE)
    chosen = choose(concepts)
    said_text("name", name)
    if readings is not None:
        of_kind("readings", readings, ConceptActivations)
    else:
        of_kind("model", model, Model)
        readings = concept_activations(model, {name: sae}, chosen, split, **keywords)
    sigmas = np.append(readings.sigmas.numpy(), np.nan)
    tables = []
    for concept in chosen:
        one, other = (np.concatenate([part, part.mean(1, keepdims=True)], 1) for part in readings.of(concept.name, name))
        found = scores_of(one, other)
        feature, level = np.nonzero(((found["mean_with"] > 0) | (found["mean_without"] > 0)).T)
        which = {"concept": concept.name, "feature": feature.astype("int32"), "sigma": sigmas[level].astype("float32")}
        columns = {
            column: values[level, feature].round(DECIMALS.get(column, 4)).astype("float32") for column, values in found.items()
        }
        tables.append(pd.DataFrame(which | columns))
    return pd.concat(tables, ignore_index=True)
