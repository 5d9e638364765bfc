"""Steering by token embeddings: the mean change that a concept makes to the text states of other words, added to those of a prompt."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any, Unpack
from zlib import crc32

import torch
from torch import Tensor

from audioscope.atlas.atlas import Atlas
from audioscope.concepts import Concept, Pairs
from audioscope.edits import AddText, Here
from audioscope.errors import said
from audioscope.model import BATCH, Model
from audioscope.sites import Site, Sites
from audioscope.steer.caa import Against, contrast
from audioscope.steer.cells import TOKENS
from audioscope.steer.methods import SteeringMethod
from audioscope.tracing import Row, SamplingKeywords
from audioscope.words import WORD


@dataclass(frozen=True, eq=False)
class _ReadWord(AddText):
    """Keeps the mean state of one word's tokens at each site, and changes nothing."""

    heard: dict[str, Tensor] = field(default_factory=dict, kw_only=True)

    def where(self, sites: Sites) -> tuple[Site, ...]:
        return sites.select(self.sites)

    def change(self, own: Tensor, other: Tensor | None, here: Here) -> Tensor:
        self.heard[here.site.path] = own[list(here.words)].float().mean(0).cpu()
        return own


def token_method(
    model: Model,
    concept: str | Concept | Pairs,
    sites: Any = "cross",
    where: str = "all",
    pairs: int | None = None,
    *,
    word: str | int | None = None,
    against: Against | None = None,
    split: str = "build",
    atlas: Atlas | None = None,
    batch_size: int = BATCH,
    **sampling: Unpack[SamplingKeywords],
) -> SteeringMethod:
    """Steer by token embeddings: add, to the text states of a prompt's words, what the concept changes in those of words beside it.

    A text encoder tells each word of those around it. Of the words that both prompts of a pair have, the mean difference of their
    states is the direction; strength 1 adds it as it is. This is TADA's baseline TokEmb as far as it is published ("added at the
    concept token"): which token that is in a prompt without the concept is a guess here, namely all its words, or `word`.

    Args:
        model: The model.
        concept: As for `audioscope.caa`.
        sites: Which layers read the changed states: as for `audioscope.steer.steering_sites`. Layers that read a language model's
            states, in which no token is a word's (GPT-2's of AudioLDM2), are left out.
        where: The same in words, such as "own", for the label.
        pairs: How many pairs of the split; None is all.
        word: The only word to which it is added; None is all words of a prompt.
        against: As for `audioscope.caa`.
        split: Which pairs of a concept, see `Concept.split`.
        atlas: For sites="own" or "functional"; None is the one that ships.
        batch_size: Prompts at a time.
        **sampling: `steps`, `guidance`, `seconds`, `negative_prompt`; the model's defaults if omitted.

    Returns:
        The method "token embeddings" at these sites.

    Raises:
        ValueError: Input is out of range, the prompts of a pair share no word, or no site reads words.
        UnknownName: A concept or site does not exist (a KeyError that lists the nearest).

    Example:
        >>> method = audioscope.steer.token_method(model, "fast", pairs=4)
        >>> pair = audioscope.datasets.concepts()["fast"].split("test")[0]
        >>> (edit,) = method.on(pair, 1.5, seed=0)
        >>> method.cell, edit.strength, edit.directions[model.sites[0].path].shape
        ('token embeddings all', 1.5, torch.Size([128]))
    """
    found = contrast(
        model, concept, sites, pairs, against=against, split=split, seeds=1, branch="cond", memory=False, atlas=atlas, batch_size=batch_size,
        **sampling,
    )  # fmt: skip
    chosen = [site for site in found.sites if site.kind == "cross" and site.stream != "gpt2"]
    if not chosen:
        raise ValueError(f"sites is {said(sites)}, none of which reads the words of a prompt: give cross-attention layers.")
    settings = {**found.settings, "steps": min(2, found.settings.steps)}  # the text is the same in every step
    texts = [(one.prompt, other.prompt) for (one, *_), (other, *_) in zip(found.rows[::2], found.rows[1::2], strict=True)]
    shared = {both: _shared(*both) for both in texts}  # before any is read
    total: dict[str, Tensor] = defaultdict(lambda: torch.zeros(()))
    for part in found.parts(2):
        rows, reads = [], []
        for (one, *_), (other, *_) in zip(part[::2], part[1::2], strict=True):
            for row, numbers in zip((one, other), zip(*shared[one.prompt, other.prompt], strict=True), strict=True):
                mine = [_ReadWord(chosen, {}, word=number, steps=(0, 1)) for number in numbers]
                rows.append(Row(row.prompt, row.seed, tuple(mine)))
                reads.append(mine)
        model.run(rows, decode=False, **settings)
        for place, mine in enumerate(reads):
            for site in chosen:
                mean = torch.stack([read.heard[site.path] for read in mine]).mean(0)
                total[site.path] = total[site.path] + (mean if place % 2 == 0 else -mean)
    many = len(found.rows) // 2
    directions = {path: value / many for path, value in total.items()}
    crc = crc32(b"".join(value.numpy().tobytes() for value in directions.values()))
    about = {"tokens": found.metadata, "word": word, "of": list(directions), "crc": crc}
    return SteeringMethod(TOKENS, where, lambda pair, strength, seed: [AddText(chosen, directions, strength, word=word)], about)


def _shared(one: str, other: str) -> list[tuple[int, int]]:
    """The places of words that two prompts share, in order. Raises ValueError if there are none."""
    first, second = (WORD.findall(text.lower()) for text in (one, other))
    blocks = SequenceMatcher(None, first, second, autojunk=False).get_matching_blocks()
    found = [(block.a + i, block.b + i) for block in blocks for i in range(block.size)]
    if not found:
        raise ValueError(f"{said(one)} and {said(other)} share no word, so nothing tells what the concept changes beside it.")
    return found
