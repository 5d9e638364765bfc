"""Streams of activations: from prompts to single tokens of a site, over steps, positions and guidance branches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audioscope.concepts import choose
from audioscope.levels import Levels
from audioscope.model import BATCH, Model
from audioscope.sweep import key
from audioscope.tracing import Read, Row

MEASURED = 64  # prompts from which the noise levels' means and scales are taken


def concept_prompts(concepts: Any = None, split: str = "build") -> list[str]:
    """All different prompts of a split: with the concept, with its counterfactual, with neither.

    Short neutral prompts occur in several splits; those of "build", on which SAEs are trained, are left out of the others.
    """

    def texts(name: str) -> dict[str, None]:
        pairs = [pair for concept in choose(concepts) for pair in concept.split(name)]
        return dict.fromkeys(text for pair in pairs for text in (pair.clean, pair.corrupted, pair.neutral) if text)

    seen = texts("build") if split != "build" else {}
    return [text for text in texts(split) if text not in seen]


def some_prompts(count: int, split: str = "test") -> list[str]:
    """So many prompts of a split of the shipped concepts, spread over all of them and always the same; "test" is held out."""
    found = concept_prompts(split=split)
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))[:count]]


@dataclass(frozen=True, eq=False)
class TokenStream:
    """The tokens that one site puts out while prompts are generated, without end: iterating yields float32 [n, width].

    Each item is a batch of generations, all their noise levels and positions, as (x - mean) / scale of its level. Every pass
    over the prompts has another order and other seeds, so no token comes twice. Memory and duration tokens are left out.

    site: a module path. prompts: none given are those of the shipped concepts' build split. branches: of guidance; batches take turns.
    at_steps: denoising steps to read (None: all). positions: time tokens kept of each generation and step, drawn anew (None:
    all). A whole batch of generations is read before positions are drawn: for long and wide models choose few `at_steps` and a
    small batch. Raises ValueError for anything but one site, or for an unknown branch.
    """

    model: Model
    site: str
    prompts: Sequence[str] = ()
    branches: tuple[str, ...] = ("cond",)
    at_steps: tuple[int, ...] | None = None
    positions: int | None = None
    steps: int | None = None
    guidance: float | None = None
    seconds: float | None = None
    batch: int = BATCH
    seed: int = 0

    def __post_init__(self) -> None:
        self.model.check_unsteered("a stream of activations")
        sites = self.model.sites.select([self.site] if isinstance(self.site, str) else self.site)
        if len(sites) != 1:
            raise ValueError(f"A stream is of one site, but {self.site!r} names {len(sites)}.")
        object.__setattr__(self, "site", sites[0].path)
        object.__setattr__(self, "prompts", tuple(self.prompts) or tuple(concept_prompts()))
        for prompt in self.prompts:
            self.model.check_prompt(prompt)
        wrong = set(self.branches) - {"cond", "uncond"}
        if wrong or not self.branches:
            raise ValueError(f"branches is {self.branches!r}, expected 'cond', 'uncond' or both.")
        if self.at_steps is not None:
            last = self.settings["steps"] - 1
            if not self.at_steps or min(self.at_steps) < 0 or max(self.at_steps) > last:
                raise ValueError(f"at_steps is {self.at_steps}, expected steps from 0 to {last}.")
            object.__setattr__(self, "at_steps", tuple(sorted(set(self.at_steps))))
        if self.positions is not None and self.positions < 1:
            raise ValueError(f"positions is {self.positions}, expected at least 1, or None for all.")

    @cached_property
    def settings(self) -> dict[str, Any]:
        return self.model.settings(self.steps, self.guidance, self.seconds)

    @property
    def facts(self) -> dict[str, Any]:
        """Where the tokens come from, JSON values."""
        return {
            "model": self.model.name, "fingerprint": self.model.fingerprint, "site": self.site, "branches": list(self.branches),
            "prompts": key(list(self.prompts)), "prompt_count": len(self.prompts), "at_steps": self.at_steps and list(self.at_steps),
            "positions": self.positions, "batch": self.batch, "stream_seed": self.seed,
            **self.settings,
        }  # fmt: skip

    def read(self, prompts: Sequence[str], seeds: Sequence[int], branch: str = "cond") -> tuple[Tensor, Tensor]:
        """One batch of generations, unscaled: tokens float32 [prompts, levels, positions, width], and the noise levels [levels].

        Which positions are kept follows from the seeds.
        Raises FloatingPointError if the model gives NaN.
        """
        self.model.check_unsteered("a stream of activations")
        (site,) = self.model.sites.select([self.site])
        rows = [Row(prompt, int(seed)) for prompt, seed in zip(prompts, seeds, strict=True)]
        run = self.model.run(rows, read=Read((site,), self.at_steps, False, branch), decode=False, **self.settings)
        values = run.reads[self.site]
        if not bool(torch.isfinite(values).all()):
            raise FloatingPointError(f"{self.model.name} gave NaN or infinity at {self.site}: try float32.")
        if self.positions is not None:
            drawn = np.random.default_rng(list(seeds)).random(values.shape[:3]).argsort(2)[..., : self.positions]
            values = values.gather(2, torch.from_numpy(drawn.copy())[..., None].expand(-1, -1, -1, values.shape[3]))
        return values, run.sigmas if self.at_steps is None else run.sigmas[list(self.at_steps)]

    @cached_property
    def levels(self) -> Levels:
        """Mean, scale and norm of the site's tokens at each noise level, from the first 64 prompts of a pass of their own."""
        rng = np.random.default_rng([self.seed, MEASURED])
        chosen = [self.prompts[i] for i in rng.permutation(len(self.prompts))[:MEASURED]]
        found = []
        for start in range(0, len(chosen), self.batch):
            part = chosen[start : start + self.batch]
            for branch in self.branches:
                values, sigmas = self.read(part, rng.integers(2**40, size=len(part)).tolist(), branch)
                found.append(values)
        x = torch.cat(found).transpose(0, 1).flatten(1, 2)  # [levels, tokens, width]
        means = x.mean(1)
        scales = (x - means[:, None]).square().sum(-1).mean(1).sqrt().clamp_min(1e-6)
        return Levels(sigmas, means, scales, x.norm(dim=-1).mean(1))

    def __iter__(self) -> Iterator[Tensor]:
        return self.batches()

    def batches(self, first: int = 0) -> Iterator[Tensor]:
        """The stream from a batch on: what comes there does not depend on whether the batches before were made."""
        each = -(-len(self.prompts) // self.batch)
        levels = self.levels
        number = first
        while True:
            order = np.random.default_rng([self.seed, number // each]).permutation(len(self.prompts))
            place = number % each * self.batch
            rng = np.random.default_rng([self.seed, number, 1])
            texts = [self.prompts[i] for i in order[place : place + self.batch]]
            values, _ = self.read(
                texts, rng.integers(2**40, size=len(texts)).tolist(), self.branches[number % len(self.branches)]
            )
            yield levels.scaled(values).flatten(0, 2)
            number += 1
