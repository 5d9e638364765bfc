"""Planted truth: a model whose layers see only some of the words of some concepts, so that the right map is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from audioscope.concepts import Concept
from audioscope.errors import whole
from audioscope.model import Model

SAME = 1e-4  # largest difference of two encodings of one text


@dataclass
class _Texts:
    """What the layers are given for the texts of the current call, and what other layers than theirs read in their place."""

    plan: Mapping[str, tuple[frozenset[int], str]]  # the layers that may see a text, and the neutral one that others see
    known: list[tuple[frozenset[int], Tensor, Tensor]] = field(default_factory=list)


@dataclass
class Planted:
    """An attention processor that hides the words of concepts that are planted in other layers.

    It acts on what arrives, after any patch: a patch of a hidden word changes nothing.
    """

    inner: Any
    layer: int
    texts: _Texts

    def __call__(self, attn: Any, hidden_states: Tensor, context: Tensor, context_mask: Tensor | None = None) -> Tensor:
        context = context.clone()
        for layers, own, neutral in self.texts.known:
            if self.layer not in layers:
                there = (context[:, : len(own)] - own).abs().amax((1, 2)) < SAME
                context[there, : len(own)] = neutral
        return self.inner(attn, hidden_states, context=context, context_mask=context_mask)


@contextmanager
def planted(model: Model, plan: Mapping[Concept, Sequence[int]]) -> Iterator[None]:
    """Let the words of each concept reach only some layers of `tiny`, while this block lasts.

    Every other layer reads the neutral prompt of the pair, encoded anew: hiding tokens would not do, since the encoder has told the
    others of them. Of the concept's pairs, the right map is then known: nothing outside these layers.

    Args:
        model: The model `tiny`, or a fine-tuned copy.
        plan: The layers of each concept; its pairs need neutral prompts.

    Yields:
        Nothing.

    Raises:
        ValueError: The model is another one, a layer does not exist, a pair has no neutral prompt, or two concepts with other layers
            share a prompt.

    Example:
        >>> metal = audioscope.datasets.concepts()["metal"]
        >>> with audioscope.tiny.planted(model, {metal: [3]}):
        ...     atlas = audioscope.localize(model, ["metal"], pairs=1, sites=[0, 3], steps=2, progress=False)
        >>> part = atlas.table.query("scored == 'metal'").set_index("site")["score"].astype(float)
        >>> bool(abs(part[model.sites[0].path] - part.iloc[1]) < 1e-3)  # patching layer 0 does nothing
        True
    """
    if not model.adapter.is_tiny:
        raise ValueError(f"Truth is planted in tiny and its copies, not in {model.name!r}.")
    texts, pipe = _Texts(_checked(model, plan)), model.pipe
    if "encode_prompt" in vars(pipe):
        raise ValueError(f"{model.name!r} is planted already: give all concepts in one plan.")
    encode, before, denoiser = pipe.encode_prompt, {}, model.denoiser

    def given(prompts: list[str], device: Any) -> Tensor:
        """What the denoiser makes of prompts for its layers, without the token of the duration."""
        states, mask = encode(prompts, device, 1)
        whole = torch.where(mask.bool()[..., None], states, denoiser.prompt_padding_embedding.to(states))
        embedded: Tensor = denoiser.to_cond_embed(whole)
        return embedded

    def encode_prompt(prompt: Any, device: Any, count: int, *args: Any, **kwargs: Any) -> Any:
        asked = dict.fromkeys([prompt] if isinstance(prompt, str) else prompt or ())
        if hidden := [text for text in asked if text in texts.plan]:
            layers, neutral = zip(*(texts.plan[text] for text in hidden), strict=True)
            texts.known = list(zip(layers, given(hidden, device), given(list(neutral), device), strict=True))
        return encode(prompt, device, count, *args, **kwargs)

    modules = {site.layer: model.denoiser.get_submodule(site.path.partition(".")[2]) for site in model.sites.cross}
    for layer, module in modules.items():
        before[layer] = module.processor
        module.processor = Planted(module.processor, layer, texts)
    pipe.encode_prompt = encode_prompt
    try:
        yield
    finally:
        del pipe.encode_prompt
        for layer, module in modules.items():
            module.processor = before[layer]


def _checked(model: Model, plan: Mapping[Concept, Sequence[int]]) -> dict[str, tuple[frozenset[int], str]]:
    """By text, the layers that may see it and the neutral text that others see. Raises ValueError for plans that cannot be."""
    found: dict[str, tuple[frozenset[int], str]] = {}
    for concept, layers in plan.items():
        mine = frozenset(whole(f"a layer of {concept.name!r}", layer, 0, len(model.sites.cross) - 1) for layer in layers)
        for pair in concept.pairs:
            if not pair.neutral:
                raise ValueError(f"Pair {pair.index} of {concept.name!r} has no neutral prompt, which other layers would read.")
            for text in (pair.clean, pair.corrupted):
                if found.setdefault(text, (mine, pair.neutral)) != (mine, pair.neutral):
                    raise ValueError(f"{text!r} belongs to two concepts that are planted in other layers.")
    return found
