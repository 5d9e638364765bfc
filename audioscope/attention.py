"""Attention maps: where in time a model looks at which word, read from the attention that it computes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from audioscope.edits import Edit, Which, as_edits
from audioscope.errors import UnknownName, among, as_path, choice, index_of, known_name, listed, said, seed_number, truth
from audioscope.gates import pulls, sound_of
from audioscope.model import Model
from audioscope.sites import Site, labels_of, output_projection
from audioscope.store import load_table, made_folder, save_table
from audioscope.tracing import Row, SamplingKeywords, with_sources
from audioscope.views import view
from audioscope.weights import Attending, around_attention
from audioscope.words import WORD, numbers_of, tokens_of

Kind = Literal["weights", "values", "score"]
KINDS: tuple[Kind, ...] = ("weights", "values", "score")
AXES = ("layer", "head", "step")
FORMAT = 2  # since maps may have a memory
NEEDED = ("row", "word", "second", "weight")


@dataclass(eq=False)
class AttentionMap:
    """How much attention each moment of a generation pays to each word of its prompt; `Model.attention` makes one.

    Attention is not explanation: a map says where a layer looks, not what comes of it. A patch or a muted word says that.

    Args:
        prompt: The text.
        seed: The seed of the starting noise.
        words: The words that were looked at, in order: of the prompt, or of the negative prompt if branch "uncond" was read.
        others: The names of the other tokens, together by kind: padding, ends, duration; of self-attention, moments in s.
        seconds: The middle of each moment, float32 [moments], in s. In AudioLDM2, whose tokens are time by mel bands, neighbors may be
            bands of one moment.
        by: What is told apart beside words and moments, of "layer", "head" and "step"; the rest is averaged, or of kind "score" summed.
        labels: For each of `by`, the names along its axis.
        values: float32 [axes of `by`, words and others, moments]. Of kind "weights", those of a moment add up to 1 where attention is a
            softmax. Of kind "score", each is what the word brings to the score there, in its units and to first order.
        settings: What decided the numbers.
        memory: The same as values of the tokens before those of the music, float32 [axes of `by`, words and others, tokens]; None where
            there are none.

    Example:
        >>> attention = model.attention("a fast song with violin", by="layer", steps=2)
        >>> attention.words, attention.values.shape[0]
        (['a', 'fast', 'song', 'with', 'violin'], 12)
        >>> attention.of("violin").shape == (12, len(attention.seconds))
        True
    """

    prompt: str
    seed: int
    words: list[str]
    others: list[str]
    seconds: np.ndarray
    by: tuple[str, ...]
    labels: dict[str, list[str]]
    values: np.ndarray
    settings: dict[str, Any] = field(default_factory=dict)
    memory: np.ndarray | None = None

    @property
    def text(self) -> str:
        """The text that was looked at: the prompt, or the negative prompt ("" without one) if branch "uncond" was read."""
        cond = self.settings.get("branch", "cond") == "cond"
        return self.prompt if cond else self.settings.get("negative_prompt") or ""

    def of(self, word: str | int, memory: bool = False) -> np.ndarray:
        """The attention to one word.

        Args:
            word: The word, or its number from 0; of one that the prompt has twice, the sum. Or one of `others`.
            memory: Return that of the tokens before those of the music instead.

        Returns:
            float32 [axes of `by`, moments], or tokens instead of moments.

        Raises:
            UnknownName: The prompt does not have the word (a KeyError that lists the nearest).
            ValueError: The model has no such tokens.

        Example:
            >>> attention = model.attention("a fast song", steps=1)
            >>> attention.of("fast").ndim, attention.of("fast", memory=True).shape
            (1, (4,))
        """
        truth("memory", memory)
        if memory and self.memory is None:
            raise ValueError(
                "This map has no memory: no tokens of the model come before the music's, or it was made before maps had one."
            )
        values = self.values if not memory or self.memory is None else self.memory
        rows = [len(self.words) + self.others.index(word)] if word in self.others else numbers_of(word, self.words)
        return np.asarray(values[..., rows, :].sum(-2))

    def at(self, **place: str | int) -> AttentionMap:
        """The map at one layer, head or step, or at several of these.

        Args:
            **place: `layer`, `head` and `step` of those that the map tells apart: a label, such as "3", or the number of one.

        Returns:
            A map that no longer tells them apart.

        Raises:
            UnknownName: The map does not tell this apart, or has no such label (a KeyError that lists the nearest).

        Example:
            >>> attention = model.attention("a fast song", by=("layer", "head"), steps=1)
            >>> attention.at(layer=9).by, attention.at(layer=9, head=3).by
            (('head',), ())
        """
        values, memory, by, chosen = self.values, self.memory, self.by, dict(self.settings.get("at", {}))
        for axis, wanted in place.items():
            if axis not in by:
                how = f": read it with by={axis!r}" if axis in AXES else f"; there are {', '.join(AXES)}"
                raise UnknownName(f"The map does not tell {said(axis)} apart; it tells {', '.join(by) or 'none'}{how}.")
            number = index_of(wanted)
            chosen[axis] = known_name(axis, str(wanted) if number is None else str(number), self.labels[axis])
            one, where = self.labels[axis].index(chosen[axis]), by.index(axis)
            values, memory = values.take(one, where), None if memory is None else memory.take(one, where)
            by = tuple(each for each in by if each != axis)
        labels = {axis: self.labels[axis] for axis in by}
        settings = {**self.settings, "at": chosen}
        return replace(self, by=by, labels=labels, values=values, memory=memory, settings=settings)

    def play(self, model: Any = None) -> Any:
        """Open the map as a widget for JupyterLab: choose a layer, head and step, and hear the clip without a word there.

        Args:
            model: The model that it was made with; None is `tiny`, if it was made with that.

        Returns:
            The widget.

        Raises:
            ValueError: The model has other weights, or the map is not of words, of the prompt's branch, of the bare model, or whole (`at`).

        Example:
            >>> model.attention("a fast song", by=("layer", "head"), steps=2).play(model)
            AttentionExplorer('a fast song', seed 0)
        """
        return view("AttentionMap.play")(self, model)

    def to_frame(self, memory: bool = False) -> pd.DataFrame:
        """The map as a tidy table.

        Args:
            memory: Whether the tokens before those of the music, which have no time, are there, too.

        Returns:
            A table with one row for each cell, and the columns of `by`, row (from 0), word (or the name of other tokens), second (NaN
            for the memory) and weight.

        Example:
            >>> model.attention("a fast song", by="head", sites=2, steps=1).to_frame().columns.tolist()
            ['head', 'row', 'word', 'second', 'weight']
        """
        names = [*self.words, *self.others]
        axes = [self.labels[axis] for axis in self.by]
        values, seconds = self.values, self.seconds.tolist()
        if truth("memory", memory) and self.memory is not None:
            values = np.concatenate([values, self.memory], -1)
            seconds += [float("nan")] * self.memory.shape[-1]
        table = pd.DataFrame(list(product(*axes, range(len(names)), seconds)), columns=[*self.by, "row", "second"])
        table["weight"] = values.reshape(-1)
        table.insert(len(self.by) + 1, "word", [names[row] for row in table["row"]])
        return table

    def overall(self) -> np.ndarray:
        """Bring together all that the map tells apart: the mean over layers, heads and steps, or of kind "score" the sum.

        Returns:
            An array [words and others, moments].

        Example:
            >>> model.attention("a fast song", by="layer", steps=1).overall().shape[0]
            6
        """
        axes = tuple(range(len(self.by)))
        return np.asarray(self.values.sum(axes) if self.settings.get("kind") == "score" else self.values.mean(axes))

    def chart(self) -> Any:
        """The map as an Altair chart, words by time, as `overall` brings them together.

        Returns:
            An Altair chart, as `audioscope.atlas.attention_heatmap` draws it.

        Example:
            >>> model.attention("a fast song with violin", steps=2).chart().save("attention.html")
        """
        return view("AttentionMap.chart")(self)

    def save(self, folder: str | Path) -> Path:
        """Write the map to a folder, from which `load` reads it.

        Args:
            folder: Is created if it does not exist.

        Returns:
            The folder, with attention.parquet and attention.json.

        Example:
            >>> attention = model.attention("a fast song", by="layer", steps=1)
            >>> folder = attention.save("attention")
            >>> bool((audioscope.AttentionMap.load(folder).values == attention.values).all())
            True
        """
        folder = made_folder(as_path(folder))
        about = {
            **self.settings, "prompt": self.prompt, "seed": self.seed, "words": self.words, "others": self.others,
            "seconds_of_moments": self.seconds.tolist(), "memory": 0 if self.memory is None else self.memory.shape[-1], "by": list(self.by), "labels": self.labels,
        }  # fmt: skip
        table = self.to_frame(memory=True).astype({name: "category" for name in (*self.by, "word")})
        save_table(table, folder / "attention.parquet", about, folder / "attention.json", FORMAT)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> AttentionMap:
        """Read a map that `save` wrote.

        Args:
            folder: The folder with attention.parquet and attention.json.

        Returns:
            The map.

        Raises:
            FileNotFoundError: The folder contains no map.
            ValueError: The files are damaged, or a newer audioscope wrote them.
        """
        folder = as_path(folder)
        if not all((folder / name).exists() for name in ("attention.parquet", "attention.json")):
            raise FileNotFoundError(
                f"{folder} holds no attention map (attention.parquet and attention.json): make one with model.attention."
            )
        table, about = load_table(folder / "attention.parquet", folder / "attention.json", FORMAT, NEEDED)
        names = ("prompt", "seed", "words", "others", "by", "labels")
        prompt, seed, words, others, by, labels = (about.pop(name) for name in names)
        seconds, leading = np.array(about.pop("seconds_of_moments"), np.float32), about.pop("memory", 0)
        shape = [*(len(labels[axis]) for axis in by), len(words) + len(others), len(seconds) + leading]
        values = table["weight"].to_numpy(np.float32).reshape(shape)
        memory = values[..., len(seconds) :] if leading else None
        return cls(prompt, seed, words, others, seconds, tuple(by), labels, values[..., : len(seconds)], about, memory)

    def __repr__(self) -> str:
        mean = self.overall().mean(-1)
        most = sorted(zip(self.words, mean, strict=False), key=lambda each: -each[1])[:5]
        apart = f", by {' and '.join(self.by)}" if self.by else ""
        branch = f", branch 'uncond' of {self.prompt!r}" if self.settings.get("branch", "cond") != "cond" else ""
        return (
            f"AttentionMap({self.text!r}{branch}, seed={self.seed}: {len(self.words)} words x {len(self.seconds)} moments{apart}, "
            f"{self.settings.get('kind', 'weights')})\n  most: {', '.join(f'{word} {value:.3f}' for word, value in most) or 'no words'}"
        )


def attention(
    model: Model, prompt: str, seed: int = 0, sites: Which = "cross", by: str | Sequence[str] = (), *, kind: Kind = "weights",
    branch: str = "cond", edits: Edit | Sequence[Edit] = (), concept: str | None = None, scorer: Any = None,
    **sampling: Unpack[SamplingKeywords],
) -> AttentionMap:  # fmt: skip
    """The map behind `Model.attention`, which has its arguments and errors."""
    asked = (by,) if isinstance(by, str) else tuple(listed("by", by, f"some of {', '.join(AXES)}"))
    axes = tuple(axis for axis in AXES if axis in asked)
    if wrong := [axis for axis in asked if axis not in AXES]:
        raise ValueError(f"by is {said(wrong[0])}, expected some of {', '.join(AXES)}.")
    choice("kind", kind, tuple(KINDS))
    if (kind == "score") != (concept is not None) or (scorer is not None and kind != "score"):
        raise ValueError(
            f"kind={said(kind)} with concept={said(concept)}: kind='score' needs a concept, and only it takes one, or a scorer."
        )
    chosen, how, acts = model.sites.select(sites), model.sampling(**sampling), as_edits(edits)
    if other := next((site for site in chosen if site.kind not in ("cross", "self")), None):
        raise ValueError(f"{other.path} is no attention module: give 'cross', 'self', a layer or a module path.")
    if len({site.kind for site in chosen}) > 1:
        raise ValueError(
            "sites mixes cross-attention, which looks at words, with self-attention, which looks at time: give one of them."
        )
    heads = {len(site.heads) for site in chosen}
    if "head" in axes and len(heads) > 1:
        raise ValueError(
            f"These sites have {' and '.join(map(str, sorted(heads)))} heads: give sites with as many, or leave 'head' out."
        )
    if words_edit := next((edit for edit in (*acts, *model.steering) if _changes_words(edit, model)), None):
        raise ValueError(
            f"{type(words_edit).__name__} changes which words there are, or what they bring: read the attention without it, or of the other prompt."
        )
    model.check_prompt(prompt)
    for text in dict.fromkeys(text for edit in acts for text in edit.texts if text != prompt):
        model.check_prompt(text)
    row = Row(prompt, seed_number(seed), acts)
    steered = replace(row, edits=row.edits + model.steering)  # edits that copy from another prompt bring rows of their own
    layout = model.adapter.rows(len(with_sources([steered])), how.guidance)
    if not among(branch, layout):
        raise ValueError(f"branch is {said(branch)}, expected one of {', '.join(layout)} at guidance {how.guidance:g}.")
    slopes: dict[Site, Tensor] = {}
    if kind == "score":
        if acts or model.steering:
            raise ValueError("kind='score' follows the score back through a run without edits: leave them out.")
        column, judge = view("followed")(model, chosen, concept, scorer, how)

        def score(latents: Tensor) -> Tensor:
            found: Tensor = judge.scores(sound_of(model, latents, how), model.rate)[:, column]
            return found

        slopes = pulls(model, row, chosen, how, score)
    sums: dict[Site, Tensor] = {}
    names: dict[Site, list[str | int]] = {}  # of cross-attention
    text = prompt if branch == "cond" else how.negative_prompt or ""  # what this branch reads
    words = WORD.findall(text)
    per_head, per_step = "head" in axes, "step" in axes

    share = 1.0 if per_step or kind == "score" else 1.0 / how.steps

    def add(site: Site, step: int, weights: Tensor, call: Attending, output: Any) -> None:
        if site.kind == "cross" and site not in names:
            names[site] = (
                ["(null condition)"] * weights.shape[-1] if branch != "cond" and model.adapter.packed_by
                else tokens_of(model.pipe, model.adapter, text, site, weights.shape[-1], call.valid, how.seconds)
            )  # fmt: skip
        if kind == "values":
            weights = weights.abs() * contribution(output, call.value[0])[:, None, :]
        if kind == "score":
            pull = slopes[site][step, layout[branch][0]].to(weights)
            weights = weights * torch.einsum("to,hwo->htw", pull, brought(output, call.value[0]).to(weights))
        seen = weights if per_head else weights.sum(0, keepdim=True) / (1 if kind == "score" else len(weights))
        if site not in sums:
            sums[site] = torch.zeros(len(seen), how.steps if per_step else 1, *seen.shape[1:])
        sums[site][:, step if per_step else 0].add_(seen.cpu(), alpha=share)

    run = model.run([row], decode=False, within=watching(model, chosen, layout[branch][0], add), **how)
    model.check_finite([row], run)
    there = {name for each in names.values() for name in each}
    if gone := [word for number, word in enumerate(words) if number not in there and names]:
        warnings.warn(
            f"{model.name} reads no token of these words here, so they get no attention: {', '.join(gone)}.", stacklevel=3
        )
    edited = {"edited": True} if acts or model.steering else {}
    more = {"kind": kind, "branch": branch, **edited, **({"concept": concept, "scorer": judge.name} if kind == "score" else {})}
    return _gathered(model, row, how, chosen, axes, words, names, sums, more)


def _changes_words(edit: Edit, model: Model) -> bool:
    """Whether tokens are no longer those of the row's own prompt, or their keys or values no longer what it brings."""
    return edit.target not in ("output", "path", "prediction") or any(site.of_text for site in edit.where(model.sites))


def _gathered(
    model: Model, row: Row, how: Any, sites: Sequence[Site], by: tuple[str, ...], words: list[str],
    names: dict[Site, list[str | int]], sums: dict[Site, Tensor], more: dict[str, Any],
) -> AttentionMap:  # fmt: skip
    """One map of what was summed at each site [heads, steps, memory and moments, tokens], with moments and words that they share."""
    leading = model.adapter.leading(model.denoiser)
    frames = min(values.shape[2] for values in sums.values()) - leading
    span = (model.adapter.max_duration(model.pipe) if model.adapter.fixed_length else None) or how.seconds
    seconds = (np.arange(frames, dtype=np.float32) + 0.5) * (span / frames)
    if sites[0].kind == "self":
        digits = max(2, 1 + int(np.floor(-np.log10(span / frames))))  # no two moments have one name
        others = [*(["(memory)"] if leading else []), *(f"{second:.{digits}f} s" for second in seconds)]
    else:
        others = list(dict.fromkeys(name for site in sites for name in names[site] if isinstance(name, str)))
    keep_moments = max(1, round(frames * min(1.0, how.seconds / span)))  # what is heard of a fixed length
    seconds = seconds[:keep_moments]
    parts = []
    for site in sites:
        memory, values = sums[site].movedim(2, 3).tensor_split([leading], -1)  # [heads, steps, tokens, moments]
        total = values.shape[-1] / frames if more["kind"] == "score" else 1.0  # a sum over finer moments, not their mean
        values = total * torch.nn.functional.adaptive_avg_pool1d(values.flatten(0, 2), frames).unflatten(0, values.shape[:3])
        if site.kind == "self":
            moments = values.shape[2] - leading
            place = [0] * leading + [bool(leading) + int(i * frames / moments) for i in range(moments)]
        else:
            place = [name if isinstance(name, int) else len(words) + others.index(name) for name in names[site]]
        together = torch.cat([memory, values[..., :keep_moments]], -1)
        rows = (len(words) if site.kind == "cross" else 0) + len(others)
        gathered = torch.zeros(*values.shape[:2], rows, together.shape[-1])
        parts.append(gathered.index_add_(2, torch.tensor(place), together))
    whole = torch.stack(parts)
    if "layer" not in by:
        whole = whole.sum(0, keepdim=True) / (1 if more["kind"] == "score" else len(parts))
    keep = [whole.shape[axis] for axis, name in enumerate(AXES) if name in by]
    labels = {
        "layer": [*labels_of(sites).values()], "head": [str(i) for i in range(whole.shape[1])],
        "step": [str(i) for i in range(whole.shape[2])],
    }  # fmt: skip
    settings = {**model.identity, "sites": [site.to_dict() for site in sites], **dict(how), **more}
    found = whole.reshape(*keep, *whole.shape[3:]).numpy()
    return AttentionMap(
        row.prompt, row.seed, words if sites[0].kind == "cross" else [], others, seconds, by, {axis: labels[axis] for axis in by},
        found[..., leading:], settings, found[..., :leading] if leading else None,
    )  # fmt: skip


def brought(output: Any, values: Tensor) -> Tensor:
    """What each token of each head would add to the module's output, if it had all attention: [heads, tokens, width of the output].

    output: the output projection. values: [heads, tokens, width].
    """
    weight = output.weight.to(values).unflatten(1, (values.shape[0], -1))  # [width of the output, heads, width]
    return torch.einsum("htw,ohw->hto", values, weight)


def contribution(output: Any, values: Tensor) -> Tensor:
    """The norms of `brought`: [heads, tokens]."""
    return brought(output, values).norm(dim=-1)


@contextmanager
def watching(
    model: Model, sites: Sequence[Site], row: int, at: Callable[[Site, int, Tensor, Attending, Any], None]
) -> Iterator[None]:
    """Call `at` with what attention modules compute for one row of the stacked batch, in every denoising step.

    at: gets the site, the step, the weights [heads, tokens of the music, tokens looked at], signed where attention is differential,
    the call for this row, with the values, and the output projection. Raises ValueError if a module never shows its weights.
    """
    step = [-1]

    def counted(module: nn.Module, args: Any) -> None:
        step[0] += 1

    def see(calls: list[Attending], call: Attending) -> Tensor:
        calls.append(call.row(row))
        return call()

    def told(calls: list[Attending], site: Site, module: nn.Module, args: Any, output: Any) -> None:
        found, calls[:] = list(calls), []
        if len(found) != (2 if getattr(module, "use_differential", False) else 1):
            raise ValueError(
                f"{site.path} ({type(module).__name__}) never shows its weights: it does not call torch's attention once. "
                "Choose the native attention backend and the default processor."
            )
        weights = found[0].weights()[0] if len(found) == 1 else found[0].weights()[0] - found[1].weights()[0]
        at(site, step[0], weights, found[0], output_projection(module))

    with ExitStack() as hooks:
        hooks.enter_context(model.denoiser.register_forward_pre_hook(counted))
        for site in sites:
            module = model.denoiser.get_submodule(site.path.partition(".")[2])
            calls: list[Attending] = []
            hooks.enter_context(around_attention(module, partial(see, calls)))
            hooks.enter_context(module.register_forward_hook(partial(told, calls, site)))
        yield
