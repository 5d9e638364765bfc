"""Streams of activations: from prompts to single tokens of a site, across steps, positions and guidance branches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audioscope.concepts import concept_prompts
from audioscope.errors import index_of, listed, of_kind, one_or_more, said, said_text, seed_number, texts, whole
from audioscope.model import BATCH, Model
from audioscope.sae.levels import Levels
from audioscope.store import batches, content_hash
from audioscope.tracing import Read, Row, Sampling
from audioscope.workers import Workers, checked_workers, collect, few_threads, threads

MEASURED = 64  # prompts on which the means and scales of the noise levels are measured


@dataclass(frozen=True, eq=False)
class TokenStream:
    """An endless stream of the tokens that one site outputs while prompts are generated, on which an SAE is trained.

    Iterating yields float32 [n, width]. Each item is a batch of generations at all their noise levels and positions, as (x -
    mean) / scale of each level. Every pass over the prompts has another order and other seeds, so no token repeats. Memory and
    duration tokens are left out. A whole batch of generations is read before positions are drawn: for long and wide models,
    choose few `at_steps` and a small `batch_size`.

    Args:
        model: The model.
        site: The module path of the site.
        prompts: What to generate; if empty, the prompts of the shipped concepts' build split.
        branches: The branches of guidance to read, "cond", "uncond" or both; batches take turns.
        at_steps: The denoising steps to read; None means all.
        positions: How many time tokens to keep of each generation and step, drawn at random each time; None means all.
        steps: The number of denoising steps; None means the model's default.
        guidance: The scale of guidance; None means the model's default.
        seconds: The length of a clip, in s; None means the model's default.
        negative_prompt: The prompt of the unconditional branch; None means the model's default.
        batch_size: Generations per batch.
        seed: Of the order of the prompts, their noise and the positions.
        workers: In how many processes the activations are read, as for `audioscope.localize`; None is this one.

    Raises:
        ValueError: `site` does not name exactly one site, or `branches`, `at_steps` or `positions` is out of range, or the model
            is being steered.

    Example:
        >>> site = "transformer.transformer_blocks.6.cross_attn"
        >>> stream = audioscope.sae.TokenStream(model, site, ["a fast jazz song", "a sad song"], steps=2)
        >>> next(iter(stream)).shape  # 2 prompts, 2 noise levels, 64 positions; 128 wide
        torch.Size([256, 128])
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
    negative_prompt: str | None = None
    batch_size: int = BATCH
    seed: int = 0
    workers: Workers = None

    def __post_init__(self) -> None:
        checked_workers(self.workers)
        of_kind("model", self.model, Model).check_unsteered("a stream of activations")
        sites = self.model.sites.select([self.site] if isinstance(self.site, str) else self.site)
        if len(sites) != 1:
            raise ValueError(f"site is {self.site!r}, which names {len(sites)} sites, expected exactly one.")
        if not sites[0].timed:
            of = "for each piece of text" if sites[0].of_text else "for the whole clip"
            raise ValueError(f"{sites[0].path} has a token {of}, not of time: it has no stream of activations.")
        object.__setattr__(self, "site", sites[0].path)
        object.__setattr__(self, "prompts", tuple(texts("prompts", self.prompts)) or tuple(concept_prompts()))
        for prompt in self.prompts:
            self.model.check_prompt(prompt)
        branches = one_or_more(self.branches)
        if not branches or not all(branch in ("cond", "uncond") for branch in map(str, branches)):
            raise ValueError(f"branches is {said(self.branches)}, expected 'cond', 'uncond' or both.")
        object.__setattr__(self, "branches", tuple(map(str, branches)))
        if self.at_steps is not None:
            last, steps = self.sampling["steps"] - 1, one_or_more(self.at_steps)
            if not steps or not all((step := index_of(each)) is not None and 0 <= step <= last for each in steps):
                raise ValueError(f"at_steps is {said(self.at_steps)}, expected steps from 0 to {last}.")
            object.__setattr__(self, "at_steps", tuple(sorted({int(each) for each in steps})))
        if self.positions is not None:
            object.__setattr__(self, "positions", whole("positions", self.positions, 1, why=", or None for all"))
        object.__setattr__(self, "batch_size", whole("batch_size", self.batch_size, 1))
        object.__setattr__(self, "seed", seed_number(self.seed))

    @cached_property
    def sampling(self) -> Sampling:
        return self.model.sampling(self.steps, self.guidance, self.seconds, self.negative_prompt)

    @property
    def metadata(self) -> dict[str, Any]:
        """Where the tokens come from, as JSON values."""
        return {
            **self.model.identity, "site": self.site, "branches": list(self.branches),
            "prompts": content_hash(list(self.prompts)), "prompt_count": len(self.prompts), "at_steps": self.at_steps and list(self.at_steps),
            "positions": self.positions, "batch_size": self.batch_size, "stream_seed": self.seed,
            **self.sampling,
        }  # fmt: skip

    def read(self, prompts: Sequence[str], seeds: Sequence[int], branch: str = "cond") -> tuple[Tensor, Tensor]:
        """Read one batch of generations, unscaled.

        Args:
            prompts: The prompts.
            seeds: One seed per prompt, which determine the noise and which positions are kept.
            branch: The branch of guidance to read.

        Returns:
            Tokens, float32 [prompts, levels, positions, width], and the noise levels [levels].

        Raises:
            FloatingPointError: The model produces NaN or infinity.
            ValueError: The model is being steered.

        Example:
            >>> stream = audioscope.sae.TokenStream(model, "transformer.transformer_blocks.6.cross_attn", positions=10, steps=2)
            >>> tokens, sigmas = stream.read(["a fast jazz song"], seeds=[0])
            >>> tokens.shape, sigmas.shape
            (torch.Size([1, 2, 10, 128]), torch.Size([2]))
        """
        self.model.check_unsteered("a stream of activations")
        (site,) = self.model.sites.select([self.site])
        prompts, seeds = (
            [said_text("prompts", text) for text in listed("prompts", prompts, "a list of texts")],
            [seed_number(seed) for seed in listed("seeds", seeds, "one seed for each prompt")],
        )
        if len(seeds) != len(prompts):
            raise ValueError(f"There are {len(seeds)} seeds for {len(prompts)} prompts, expected one for each.")
        rows = [Row(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        run = self.model.run(rows, read=Read((site,), self.at_steps, False, branch), decode=False, **self.sampling)
        values = run.reads[self.site]
        if not bool(torch.isfinite(values).all()):
            raise FloatingPointError(f"{self.model.name} produced NaN or infinity at {self.site}: try float32.")
        if self.positions is not None:
            drawn = np.random.default_rng(list(seeds)).random(values.shape[:3]).argsort(2)[..., : self.positions]
            values = values.gather(2, torch.from_numpy(drawn.copy())[..., None].expand(-1, -1, -1, values.shape[3]))
        return values, run.sigmas if self.at_steps is None else run.sigmas[list(self.at_steps)]

    def read_all(self, parts: Sequence[tuple[Sequence[str], Sequence[int], str]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Read several batches, in the workers if there are any.

        Args:
            parts: The prompts, seeds and branch of each batch.

        Yields:
            What `read` returns, in order.
        """
        if self.workers is None:
            for part in parts:
                with few_threads(threads(self.model)):  # as in workers, for the same numbers
                    found = self.read(*part)
                yield found
            return

        def read(part: tuple[Sequence[str], Sequence[int], str]) -> dict[str, Tensor]:
            values, sigmas = self.read(*part)
            return {"values": values, "sigmas": sigmas}

        for tensors in collect(self.model, self.workers, read, parts):
            yield tensors["values"], tensors["sigmas"]

    @cached_property
    def levels(self) -> Levels:
        """Mean, scale and norm of the site's tokens at each noise level, from the first 64 prompts of a separate pass."""
        rng = np.random.default_rng([self.seed, MEASURED])
        chosen = [self.prompts[i] for i in rng.permutation(len(self.prompts))[:MEASURED]]
        parts = [
            (part, rng.integers(2**40, size=len(part)).tolist(), branch)
            for part in batches(chosen, self.batch_size) for branch in self.branches
        ]  # fmt: skip
        found = list(self.read_all(parts))
        sigmas = found[0][1]
        x = torch.cat([values for values, _ in found]).transpose(0, 1).flatten(1, 2)  # [levels, tokens, width]
        means = x.mean(1)
        scales = (x - means[:, None]).square().sum(-1).mean(1).sqrt().clamp_min(1e-6)
        return Levels(sigmas, means, scales, x.norm(dim=-1).mean(1))

    def __iter__(self) -> Iterator[Tensor]:
        return self.batches()

    def batches(self, first: int = 0) -> Iterator[Tensor]:
        """Yield the stream from a batch on; its items do not depend on whether the earlier batches were generated.

        Args:
            first: The number of the first batch.

        Yields:
            Scaled tokens of one batch, float32 [n, width].
        """
        levels = self.levels
        # as many as keep all workers busy, and hardly any that nobody asked for when the stream ends
        several = 2 * self.workers if isinstance(self.workers, int) else 1 if self.workers is None else 16
        for number in count(first, several):
            for values, _ in self.read_all([self._batch(number + i) for i in range(several)]):
                yield levels.scaled(values).flatten(0, 2)

    def _batch(self, number: int) -> tuple[list[str], list[int], str]:
        """The prompts, seeds and branch of a batch of the stream."""
        each = -(-len(self.prompts) // self.batch_size)
        order = np.random.default_rng([self.seed, number // each]).permutation(len(self.prompts))
        place = number % each * self.batch_size
        rng = np.random.default_rng([self.seed, number, 1])
        texts = [self.prompts[i] for i in order[place : place + self.batch_size]]
        return texts, rng.integers(2**40, size=len(texts)).tolist(), self.branches[number % len(self.branches)]
