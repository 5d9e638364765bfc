"""Planted truth: a model whose layers see only some of the words of some concepts, so that the right map is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from audioscope.concepts import Concept, choose_one
from audioscope.errors import choice, of_kind, one_or_more, said, whole
from audioscope.model import Model

SAME = 1e-4  # largest difference of two encodings of one text
Needs = Literal["each", "all", "any"]


@dataclass(frozen=True)
class _Plan:
    """Where one pair's words reach: both prompts, the neutral one in their place, the layers, and which of these must be given the clean one."""

    clean: str
    corrupted: str
    neutral: str
    layers: frozenset[int]
    needs: Needs

    @property
    def texts(self) -> tuple[str, str, str]:
        return self.clean, self.corrupted, self.neutral


@dataclass
class _Texts:
    """What the layers are given for the texts of the current call, and what other layers than theirs read in their place."""

    plans: Mapping[str, Sequence[_Plan]]  # by clean or corrupted text
    known: list[tuple[_Plan, Tensor, Tensor, Tensor]] = field(default_factory=list)  # each with its texts, as the layers get them
    given: dict[tuple[_Plan, int], tuple[Tensor, Tensor]] = field(default_factory=dict)  # by layer: rows that got either text


@dataclass
class Planted:
    """An attention processor that hides the words of concepts that are planted in other layers.

    It acts on what arrives, after any patch: a patch of a hidden word changes nothing.
    """

    inner: Any
    layer: int
    texts: _Texts

    def __call__(self, attn: Any, hidden_states: Tensor, context: Tensor, context_mask: Tensor | None = None) -> Tensor:
        arrived, context = context, context.clone()
        for plan, clean, corrupted, neutral in self.texts.known:
            with_it, without = (self._is(arrived, text) for text in (clean, corrupted))
            if self.layer not in plan.layers:
                context[with_it | without, : len(neutral)] = neutral
            elif plan.needs != "each":
                self.texts.given[plan, self.layer] = with_it, without
                if self.layer < max(plan.layers):
                    context[with_it | without, : len(neutral)] = neutral
                else:
                    gave, other = (
                        torch.stack(rows) for rows in zip(*(self.texts.given[plan, n] for n in plan.layers), strict=True)
                    )
                    acts = gave.all(0) if plan.needs == "all" else gave.any(0)
                    context[acts, : len(clean)] = clean
                    context[~acts & (gave | other).any(0), : len(corrupted)] = corrupted
        return self.inner(attn, hidden_states, context=context, context_mask=context_mask)

    @staticmethod
    def _is(context: Tensor, text: Tensor) -> Tensor:
        """Which rows were given a text."""
        return (context[:, : len(text)] - text).abs().amax((1, 2)) < SAME


@contextmanager
def planted(model: Model, plan: Mapping[Any, int | Sequence[int]], needs: Needs = "each") -> Iterator[None]:
    """Let the words of each concept reach only some layers of `tiny`, while this block lasts.

    Every other layer reads the neutral prompt of the pair, encoded anew: hiding tokens would not do, since the encoder has told the
    others of them. Of the concept's pairs, the right map is then known: nothing outside these layers.

    With "all" or "any", the last of a concept's layers reads the clean prompt only if all, or any, of its layers are given it, and the
    corrupted one otherwise; the earlier ones pass nothing on. So neither kind of patch alone finds an AND and an OR: if all are needed,
    no single layer is sufficient and each is necessary; if any will do, each is sufficient and none is necessary.

    Atlases and sweeps that are made in this block say so in their settings, and an atlas marks the planted cells.

    Args:
        model: The model `tiny`, or a fine-tuned copy.
        plan: The layers of each concept, a name or a Concept; its pairs need neutral prompts.
        needs: "each" (each layer reads what it is given), "all" or "any".

    Yields:
        Nothing.

    Raises:
        ValueError: The model is another one, `needs` is unknown, a layer does not exist, a pair has no neutral prompt, or two concepts
            with other layers share a prompt (or two pairs, unless each layer is for itself).

    Example:
        >>> metal = audioscope.datasets.concepts()["metal"]
        >>> with audioscope.tiny.planted(model, {metal: [3]}):
        ...     atlas = audioscope.localize(model, ["metal"], pairs=1, sites=[0, 3], steps=2, progress=False)
        >>> part = atlas.table.query("scored == 'metal'").set_index("site")["score"].astype(float)
        >>> bool(abs(part[model.sites[0].path] - part.iloc[1]) < 1e-3)  # patching layer 0 does nothing
        True
    """
    of_kind("model", model, Model)
    if not model.adapter.is_tiny:
        raise ValueError(f"Truth is planted in tiny and its copies, not in {model.name!r}.")
    choice("needs", needs, get_args(Needs))
    chosen = checked_layers(model, plan)
    texts, pipe = _Texts(_checked(chosen, needs)), model.pipe
    if "encode_prompt" in vars(pipe):
        raise ValueError(f"{model.name!r} is planted already: give all concepts in one plan.")
    encode, denoiser, trained = pipe.encode_prompt, model.denoiser, model.planted

    def given(prompts: list[str], device: Any) -> Tensor:
        """What the denoiser makes of prompts for its layers, without the token of the duration."""
        states, mask = encode(prompts, device, 1)
        whole = torch.where(mask.bool()[..., None], states, denoiser.prompt_padding_embedding.to(states))
        embedded: Tensor = denoiser.to_cond_embed(whole)
        return embedded

    def encode_prompt(prompt: Any, device: Any, count: int, *args: Any, **kwargs: Any) -> Any:
        asked = dict.fromkeys([prompt] if isinstance(prompt, str) else prompt or ())
        if plans := list(dict.fromkeys(each for text in asked for each in texts.plans.get(text, ()))):
            states = given([text for each in plans for text in each.texts], device).unflatten(0, (len(plans), 3))
            texts.known = [(each, *trio) for each, trio in zip(plans, states, strict=True)]
        return encode(prompt, device, count, *args, **kwargs)

    modules = {site.layer: model.denoiser.get_submodule(site.path.partition(".")[2]) for site in model.sites.cross}
    before = {layer: module.processor for layer, module in modules.items()}
    where = {concept.name: [model.sites.cross[layer].path for layer in layers] for concept, layers in chosen.items()}
    try:
        for layer, module in modules.items():
            module.processor = Planted(module.processor, layer, texts)
        pipe.encode_prompt = encode_prompt
        model.planted = {"needs": needs, "sites": where}
        yield
    finally:
        model.planted = trained
        vars(pipe).pop("encode_prompt", None)
        for layer, module in modules.items():
            module.processor = before[layer]


def checked_layers(model: Model, plan: Any) -> dict[Concept, list[int]]:
    """The layers of each concept, in order. Raises ValueError for what is no plan, and for layers that do not exist."""
    if not isinstance(plan, Mapping) or not plan:
        raise ValueError(f"plan is {said(plan)}, expected the layers of at least one concept, such as {{'metal': [3]}}.")
    found: dict[Concept, list[int]] = {}
    for each, layers in plan.items():
        concept = choose_one(each)
        if concept.name in [other.name for other in found]:
            raise ValueError(f"plan has the concept {concept.name!r} twice: give all of its layers at once.")
        mine = {whole(f"a layer of {concept.name!r}", layer, 0, len(model.sites.cross) - 1) for layer in one_or_more(layers)}
        if not mine:
            raise ValueError(f"plan has no layer for {concept.name!r}, expected at least one.")
        found[concept] = sorted(mine)
    return found


def _checked(plan: Mapping[Concept, Sequence[int]], needs: Needs) -> dict[str, list[_Plan]]:
    """By text, the pairs that have it. Raises ValueError for plans that cannot be."""
    found: dict[str, list[_Plan]] = {}
    for concept, layers in plan.items():
        mine = frozenset(layers)
        for pair in concept.pairs:
            if not pair.neutral:
                raise ValueError(f"Pair {pair.index} of {concept.name!r} has no neutral prompt, which other layers would read.")
            each = _Plan(pair.clean, pair.corrupted, pair.neutral, mine, needs)
            for text in (pair.clean, pair.corrupted):
                before = found.setdefault(text, [])
                if any((one.layers, one.neutral) != (mine, pair.neutral) for one in before):
                    raise ValueError(f"{text!r} belongs to two concepts that are planted in other layers.")
                if needs != "each" and any(one != each for one in before):
                    raise ValueError(f"{text!r} belongs to two pairs, so {needs!r} has no meaning for it: leave one of them out.")
                before.append(each)
    return found
