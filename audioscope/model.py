"""A text-to-music pipeline with its sites: generate, edit and read."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import chain
from typing import Any, Protocol, Unpack, overload

import pandas as pd
import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from audioscope import tracing
from audioscope.adapters import Adapter, adapter_for
from audioscope.audio import Clip
from audioscope.components import code_of, describe
from audioscope.edits import Edit, Which, as_edits
from audioscope.errors import all_of, index_of, of_kind, one_or_more, real, said, seed_number, whole
from audioscope.sites import Site, Sites, find_sites
from audioscope.store import batches, content_hash, fingerprint
from audioscope.tracing import Sampling, SamplingKeywords
from audioscope.views import view

SHORTEST = 0.001  # s
MOST_STEPS = 100_000  # denoising steps, a hundred times as many as any model was trained with
BATCH = 32  # prompts per batch, if a call gets many
# What `steer` adds to the runs of each model (by id), in the thread or task of its block: a widget's runs are its own.
_STEERING: ContextVar[tuple[tuple[int, Edit], ...]] = ContextVar("steering", default=())


@dataclass(frozen=True)
class Activations:
    """The outputs of sites during one generation, as `Model.activations` reads them.

    Index by path, site or number of a cross-attention layer: `activations[6]`.

    Args:
        prompt: The text of the generation.
        seed: Its seed.
        sigmas: The noise levels that were read, float32 [steps].
        values: By site path, float32 [steps, width] (pooled) or [steps, tokens, width].
        norms: By site path, the mean L2 norm of the tokens, float32 [steps].
        sites: The sites that were read.

    Example:
        >>> activations = model.activations("a song with violin", [5, 6], steps=2)
        >>> activations[6].shape, [site.layer for site in activations.sites]
        (torch.Size([2, 128]), [5, 6])
    """

    prompt: str
    seed: int
    sigmas: Tensor
    values: dict[str, Tensor]
    norms: dict[str, Tensor]
    sites: tuple[Site, ...] = ()

    def __getitem__(self, site: str | int | Site) -> Tensor:
        """The values of a site, also by its label. Raises UnknownName for one that was not read."""
        labelled = [each for each in self.sites if each.label == str(site) and each.kind != "self"]
        if len(labelled) == 1:
            return self.values[labelled[0].path]
        return self.values[
            Sites(tuple(replace(site, inside=()) for site in self.sites))[str(site) if isinstance(site, Site) else site].path
        ]

    def __repr__(self) -> str:
        shapes = sorted({str(list(values.shape)) for values in self.values.values()})
        return (
            f"Activations({self.prompt!r}, seed={self.seed}: {len(self.values)} sites, {len(self.sigmas)} noise levels, "
            f"values {' and '.join(shapes)})"
        )

    def to_frame(self) -> pd.DataFrame:
        """List the noise level and the norm at every site and step.

        Returns:
            One row per site and step with the columns path, kind, layer, step (its index among those read), sigma and norm.
        """
        return pd.DataFrame([
            {"path": s.path, "kind": s.kind, "layer": s.layer, "step": step, "sigma": float(sigma), "norm": float(norm)}
            for s in self.sites for step, (sigma, norm) in enumerate(zip(self.sigmas, self.norms[s.path], strict=True))
        ])  # fmt: skip


class Origin(Protocol):
    """Where a model came from: `again` loads it, and raises ValueError if it has other parts than it had."""

    @property
    def device(self) -> str: ...

    def again(self, parts: Mapping[str, str], name: str) -> Model: ...


class Steerable(Protocol):
    """What `Model.steer` accepts: a value that can make the edit that adds it."""

    @property
    def metadata(self) -> Mapping[str, Any]: ...

    def edit(self, strength: float = ..., **keywords: Any) -> Edit: ...


def _warn_of_failed(edits: Iterable[Edit], sigmas: Sequence[float]) -> None:
    """Warn about edits that act at noise levels at which they are known not to do what they claim."""
    for edit in edits:
        failed = edit.failed([sigma for step, sigma in enumerate(sigmas) if edit.acts_at(step)])
        if failed:
            warnings.warn(
                f"{edit.made_for!r} acts at noise levels at which its SAE does not pass the evaluation, or was never evaluated: "
                f"{', '.join(f'{sigma:.3g}' for sigma in failed)}. Its features may not mean what they seem to mean there.",
                stacklevel=3,
            )


class Turn:
    """Whoever uses a pipeline holds it, since its scheduler counts the steps of one run: a widget and a cell take turns.

    A run within a run of the same thread raises RuntimeError.
    """

    def __init__(self, name: str):
        self._name, self._lock, self._held = name, threading.RLock(), False

    def __enter__(self) -> None:
        self._lock.acquire()
        if self._held:
            self._lock.release()
            raise RuntimeError(
                f"{self._name} is generating: what runs during a generation, such as Apply's function, cannot start another."
            )
        self._held = True

    def __exit__(self, *error: object) -> None:
        self._held = False
        self._lock.release()

    @property
    def others_wait(self) -> AbstractContextManager[Any]:
        """While one looks at the pipeline without using it: no other thread's run has put its hooks there."""
        return self._lock


class Model:
    """A diffusers text-to-audio pipeline, its adapter and its attention sites.

    `audioscope.load` makes one from a folder or a name. `model.sites` lists the attention modules, `model.denoiser` is the module
    that holds them, and `model.pipe` is the pipeline.

    Args:
        pipe: The pipeline, loaded.
        name: What the model is called in results and messages.
        adapter: Describes the pipeline; None means the one that audioscope has for its class.

    Raises:
        ValueError: audioscope has no adapter for the pipeline's class or cannot analyze it, the pipeline has no attention
            modules, or the adapter does not fit what the pipeline does in two steps.

    Example:
        >>> model
        Model('tiny': StableAudio3Pipeline, 12 cross and 12 self-attention sites, 16000 Hz, 10 steps, guidance 3)
        >>> clip = model.generate("a fast song with violin", steps=2)
        >>> model.activations("a fast song with violin", sites=6, steps=2)[6].shape
        torch.Size([2, 128])
    """

    def __init__(self, pipe: DiffusionPipeline, name: str, adapter: Adapter | None = None):
        self.pipe, self.name = pipe, name
        self.adapter = adapter or adapter_for(pipe)
        self.adapter.prepare(pipe)
        self.denoiser = getattr(pipe, self.adapter.denoiser)
        self.sites: Sites = find_sites(
            self.denoiser, self.adapter.denoiser, self.adapter.stream, self.adapter.leading(self.denoiser)
        )
        self.turn = Turn(name)
        self.planted: dict[str, Any] = {}  # which words count at which layers only: by `audioscope.tiny.planted` or by training
        self.origin: Origin | None = None  # how `audioscope.load` made it; another process can then load the same
        self._loaded = self._kinds()
        pipe.set_progress_bar_config(disable=True)
        tracing.check(pipe, self.adapter, self.sites)

    def __repr__(self) -> str:
        kinds = [s.kind for s in self.sites]
        return (
            f"Model({self.name!r}: {type(self.pipe).__name__}, {kinds.count('cross')} cross and {kinds.count('self')} "
            f"self-attention sites, {self.rate} Hz, {self.adapter.steps} steps, guidance {self.adapter.guidance:g})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as where it came from and what it is: who unpickles it loads it again. Raises TypeError for a pipeline in memory."""
        if self.origin is None:
            raise TypeError(
                f"{self.name!r} was made from a pipeline in memory, which cannot be loaded again: use audioscope.load."
            )
        return self.origin.again, (self.parts(), self.name)

    def parts(self, weights: bool = True) -> dict[str, str]:
        """Hashes of all that decides what the model does, by component: weights, classes, settings, processors, hooks, rules.

        Args:
            weights: Whether every weight is read, unlike `fingerprint`, which samples them; else their shapes and dtypes only.

        Returns:
            By the component's name, and "adapter".
        """
        with self.turn.others_wait:
            known = {name: describe(part, weights) for name, part in sorted(self.pipe.components.items()) if part is not None}
        values = {field.name: getattr(self.adapter, field.name) for field in fields(self.adapter)}
        facts = [(name, code_of(value) if callable(value) else str(value)) for name, value in values.items()]
        return {**known, "adapter": content_hash(facts)}

    @property
    def rate(self) -> int:
        """The sampling rate of its audio, Hz."""
        return self.adapter.sampling_rate(self.pipe)

    @property
    def fingerprint(self) -> str:
        """A short hash of samples of all weights of the pipeline (denoiser, text encoder, codec)."""
        return fingerprint(*(part for _, part in sorted(self.pipe.components.items()) if isinstance(part, nn.Module)))

    @property
    def identity(self) -> dict[str, Any]:
        """What results say about the model that they are of: its name, its fingerprint and, if there is any, what is planted in it."""
        return {"model": self.name, "fingerprint": self.fingerprint} | ({"planted": self.planted} if self.planted else {})

    @property
    def state(self) -> dict[str, Any]:
        """Its identity, and a hash of all that decides besides the weights, such as its scheduler: what a sweep goes on with."""
        return {**self.identity, "components": content_hash(self.parts(weights=False))}

    @property
    def paper(self) -> dict[str, Any]:
        """Steps, guidance and seconds of the paper's localization, for `localize(model, **model.paper)`; empty for other models.

        The paper also gave Stable Audio Open and AudioLDM2 a negative prompt against low quality.
        """
        return dict(self.adapter.paper)

    def sampling(
        self,
        steps: int | None = None,
        guidance: float | None = None,
        seconds: float | None = None,
        negative_prompt: str | None = None,
    ) -> Sampling:
        """Fill in this model's defaults for how a clip is generated; warns if a negative prompt has no effect.

        Args:
            steps: The number of denoising steps.
            guidance: The scale of classifier-free guidance, at least 0 and less than 100; 1 or less means none.
            seconds: The length of a clip in s.
            negative_prompt: The prompt of the unconditional branch, which is otherwise empty.

        Returns:
            The complete settings, which unpack into keywords (`**sampling`).

        Raises:
            ValueError: A value is out of range, or the model has no guidance or takes no negative prompt.

        Example:
            >>> model.sampling(steps=4)
            Sampling(steps=4, guidance=3.0, seconds=4.096, negative_prompt=None)
        """
        steps = self.adapter.steps if steps is None else whole("steps", steps, 1, MOST_STEPS)
        guidance = self.adapter.guidance if guidance is None else real("guidance", guidance)
        longest = self.adapter.max_duration(self.pipe)
        seconds = min(self.adapter.default_seconds, longest or float("inf")) if seconds is None else real("seconds", seconds)
        if longest is not None and longest < seconds < longest * (1 + 1e-6):  # a float32 of the longest
            seconds = longest
        if not 0 <= guidance < 100:
            raise ValueError(f"guidance is {guidance:g}, expected at least 0 and less than 100 (1 or less means no guidance).")
        if guidance > 1 and len(self.adapter.branches) == 1:
            raise ValueError(f"guidance is {guidance:g}, but {self.name} has its guidance built in: leave it at 1.")
        if not SHORTEST <= seconds <= (longest or float("inf")):
            limit = f"at least {SHORTEST:g}" + ("" if longest is None else f" and at most {longest:g}")
            raise ValueError(f"seconds is {seconds:g}, expected {limit} for {self.name}.")
        if negative_prompt is not None:
            if not isinstance(negative_prompt, str) or any("\ud800" <= letter <= "\udfff" for letter in negative_prompt):
                raise ValueError(f"negative_prompt is {said(negative_prompt)}, expected a text or None.")
            if not self.adapter.negative:
                raise ValueError(f"negative_prompt is {said(negative_prompt)}, but {self.adapter.pipeline} takes none.")
            if guidance <= 1:
                warnings.warn(f"Without guidance (it is {guidance:g}), negative_prompt does nothing.", stacklevel=3)
        return Sampling(steps, guidance, seconds, negative_prompt)

    def check_prompt(self, prompt: str) -> None:
        """Raise ValueError for an empty prompt, and warn about words that the tokenizer does not know.

        Args:
            prompt: The text.

        Raises:
            ValueError: It is empty, or not a text.
        """
        if not isinstance(prompt, str) or not prompt.strip() or any("\ud800" <= letter <= "\udfff" for letter in prompt):
            raise ValueError(f"prompt is {said(prompt)}, expected a text such as 'a slow sad song with violin'.")
        if unknown := self.unknown_words(prompt):
            warnings.warn(
                f"{self.name} never saw these words and cannot know what they mean: {', '.join(unknown)}.", stacklevel=3
            )

    def unknown_words(self, prompt: str) -> list[str]:
        """Find the words of a prompt that the tokenizer does not know, and whose meaning the model cannot know either.

        Args:
            prompt: The text.

        Returns:
            The words; empty for a tokenizer that can spell any word.

        Raises:
            ValueError: The prompt is not a text.

        Example:
            >>> model.unknown_words("a fast polka with violin")
            ['polka']
        """
        unknown, text = getattr(self._words, "unk_token_id", None), of_kind("prompt", prompt, str)
        if unknown is None or unknown not in self._words(text).input_ids:
            return []
        if not self._words.is_fast:  # then it cannot tell where a token stands
            return [word for word in dict.fromkeys(text.replace(",", " ").split()) if unknown in self._words(word).input_ids]
        coded = self._words(text, return_offsets_mapping=True)
        places = [place for token, place in zip(coded.input_ids, coded["offset_mapping"], strict=True) if token == unknown]
        return list(dict.fromkeys(text[first:last] for first, last in places))

    @cached_property
    def _words(self) -> Any:
        """A copy of the tokenizer: a call changes how a fast one pads, and another thread may be generating at the same time."""
        return deepcopy(self.pipe.tokenizer)

    def run(
        self,
        rows: Sequence[tracing.Row],
        *,
        read: tracing.Read | None = None,
        decode: bool = True,
        latents: Tensor | None = None,
        on_step: Callable[[int], None] | None = None,
        within: AbstractContextManager[Any] | None = None,
        **sampling: Unpack[SamplingKeywords],
    ) -> tracing.Run:
        """Run one batch of rows, each with a prompt, a seed and edits of its own, through the pipeline; threads take turns.

        Rows that patches copy from are run as well if they are missing, but not returned.

        Args:
            rows: The variants to generate.
            read: Which outputs of sites to record; None means none.
            decode: Whether to decode latents to audio.
            latents: Starting noise of all rows, missing ones included, instead of what each seed draws.
            on_step: Called with the number of each step before that step, and with `steps` before decoding, to show progress; an
                exception in it ends the run.
            within: Entered when it is this thread's turn, and left after the run: for hooks that no other run may see.
            **sampling: `steps`, `guidance`, `seconds`, `negative_prompt`; the model's defaults if omitted.

        Returns:
            The results of all rows, with these attributes.

            - `audio`: float32 [rows, channels, samples], None if not decoded; `latents`: what it is decoded from.
            - `reads`: by site path, float32 [rows, steps, width] when pooled, else [rows, steps, tokens, width].
            - `norms`: by site path, the mean L2 norm of the tokens that were read, float32 [rows, steps].
            - `sigmas`, `log_snr`: the noise levels of all denoising steps, and the log of the signal's power over the noise's
              there (-infinity for noise alone), float32 [steps].
            - `finite`: False for a row that has NaN or infinite values, bool [rows].

        Raises:
            ValueError: There are no rows, an edit was made for another model or cannot act at its site, or its steps, its branch or
                the sampling do not fit.
            RuntimeError: It is called from inside a generation, such as by the function of `Apply`.

        Example:
            >>> plain = audioscope.Row("a song with violin", seed=0)
            >>> edited = audioscope.Row("a song with violin", seed=0, edits=(audioscope.Ablate(6),))
            >>> model.run([plain, edited], steps=2).audio.shape
            torch.Size([2, 1, 65536])
        """
        if read is not None:
            of_kind("read", read, tracing.Read)
        if on_step is not None and not callable(on_step):
            raise ValueError(f"on_step is {said(on_step)}, expected a function of the number of a step, or None.")
        if within is not None and not hasattr(within, "__enter__"):
            raise ValueError(f"within is {said(within)}, expected a context manager, or None.")
        return self._run(self._steered(_rows(rows)), read, decode, latents, on_step, self.sampling(**sampling), within)

    def _steered(self, rows: Iterable[tracing.Row]) -> list[tracing.Row]:
        return [replace(row, edits=row.edits + self.steering) for row in rows]

    def _run(
        self, rows: Sequence[tracing.Row], read: tracing.Read | None, decode: bool, latents: Tensor | None,
        on_step: Callable[[int], None] | None, how: Sampling, within: AbstractContextManager[Any] | None = None,
    ) -> tracing.Run:  # fmt: skip
        fitted = [edit for row in rows for edit in row.edits if edit.made_for is not None]
        self.check_edits({(id(edit.made_for), edit.sites): edit for edit in fitted}.values())
        with self.turn, within or nullcontext():
            try:
                run = tracing.run(
                    self.pipe, self.adapter, self.sites, rows, how, read=read, decode=decode, latents=latents, on_step=on_step
                )
            except (RuntimeError, AttributeError, TypeError, NotImplementedError) as error:
                if why := self._changed():
                    raise ValueError(f"{self.name} cannot generate: {why}.") from error
                raise
        _warn_of_failed({(id(edit.made_for), edit.steps): edit for edit in fitted if not edit.idle}.values(), run.sigmas.tolist())
        return run

    def _kinds(self) -> dict[str, tuple[str, str]]:
        """The dtype and the device of the first weight or buffer of each part of the pipeline; ("", "") for other parts."""
        found = {}
        for name, part in self.pipe.components.items():
            weight = next(chain(part.parameters(), part.buffers()), None) if isinstance(part, nn.Module) else None
            if part is not None:
                found[name] = ("", "") if weight is None else (str(weight.dtype).removeprefix("torch."), weight.device.type)
        return found

    def _changed(self) -> str:
        """What was done to one part of the pipeline since it was loaded, which may be why it does not run; "" if nothing is seen."""
        now = self._kinds()
        if gone := [name for name in self._loaded if name not in now]:
            return f"its {gone[0]} was removed since it was loaded"
        if meta := [name for name, (_, device) in now.items() if device == "meta"]:
            return f"the weights of its {meta[0]} are not loaded (device meta)"
        for what, place in (("dtype", 0), ("device", 1)):
            moved = {name: now[name][place] for name in self._loaded if now[name][place] != self._loaded[name][place]}
            if moved and len({kind for kind, *_ in (now[name][place : place + 1] for name in now) if kind}) > 1:
                name, kind = next(iter(moved.items()))
                return f"its {name} was changed to {what} {kind}, and other parts were not: load the model with {what}= instead"
        return ""

    def run_in_batches(
        self, rows: Sequence[tracing.Row], batch_size: int | None = None, **sampling: Unpack[SamplingKeywords]
    ) -> tracing.Run:
        """Run any number of rows in batches and concatenate the audio, with NaN as silence.

        Args:
            rows: The variants to generate.
            batch_size: The largest number of rows at a time; None means all at once.
            **sampling: `steps`, `guidance`, `seconds`, `negative_prompt`; the model's defaults if omitted.

        Returns:
            The results as `run` returns them; audio, latents and finite are of all rows, the rest of the first batch.

        Raises:
            ValueError: As for `run`.
        """
        rows = _rows(rows)
        runs = [self.run(part, **sampling) for part in batches(rows, len(rows) if batch_size is None else batch_size)]
        audio = torch.nan_to_num(torch.cat([run.audio for run in runs if run.audio is not None]))
        latents, finite = torch.cat([run.latents for run in runs]), torch.cat([run.finite for run in runs])
        return replace(runs[0], latents=latents, audio=audio, finite=finite)

    def clips(self, rows: Sequence[tracing.Row], **keywords: Any) -> list[Clip]:
        """Run one batch of rows and return clips, with each row's prompt and seed.

        Args:
            rows: The variants to generate.
            **keywords: Those of `run`.

        Returns:
            One clip per row.

        Raises:
            ValueError: As for `run`.
            FloatingPointError: The model produces NaN or infinity.

        Example:
            >>> rows = [audioscope.Row("a song with violin", seed) for seed in (0, 1)]
            >>> [clip.seed for clip in model.clips(rows, steps=2)]
            [0, 1]
        """
        rows = _rows(rows)
        return self._clips(rows, self.run(rows, **keywords))

    def check_finite(self, rows: Sequence[tracing.Row], run: tracing.Run) -> None:
        """Raise FloatingPointError for the first row that became NaN or infinity.

        Args:
            rows: What was run.
            run: The result, as `run` returns it.

        Raises:
            FloatingPointError: A row has NaN or infinite values; the message names its prompt and seed.
        """
        for row, finite in zip(rows, run.finite, strict=True):
            if not finite:
                raise FloatingPointError(
                    f"{self.name} produced NaN or infinity for {row.prompt!r} (seed {row.seed}): try float32, or weaker edits."
                )

    def _clips(self, rows: Sequence[tracing.Row], run: tracing.Run) -> list[Clip]:
        assert run.audio is not None
        self.check_finite(rows, run)
        return [Clip(wave.numpy(), self.rate, row.prompt, row.seed, self.name) for wave, row in zip(run.audio, rows, strict=True)]

    def check_edits(self, edits: Collection[Edit]) -> None:
        """Raise ValueError for an edit that was not made for this model, such as a vector or an SAE of another model.

        Args:
            edits: The edits to check.

        Raises:
            ValueError: One of them belongs to another model, or acts at a site that its vector does not have.
        """
        mine = self.fingerprint if edits else ""
        for edit in edits:
            edit.check(self.name, mine, self.sites)

    def check_unsteered(self, what: str) -> None:
        """Raise ValueError inside a `steer` block, where results would be stored as if they were unsteered.

        Args:
            what: What was about to begin, for the message, such as "a sweep".

        Raises:
            ValueError: The model is being steered.
        """
        if self.steering:
            raise ValueError(f"The model is being steered (`with model.steer(...)`): {what} must begin outside that block.")

    @property
    def steering(self) -> tuple[Edit, ...]:
        """The edits that act on everything that is generated here, inside `steer`."""
        return tuple(edit for model, edit in _STEERING.get() if model == id(self))

    @contextmanager
    def steer(self, vector: Steerable, strength: float = 1.0, **keywords: Any) -> Iterator[Model]:
        """Steer everything that this thread (or task) generates inside the block: `with model.steer(vector, 1.5): ...`.

        Blocks can be nested; nothing acts after the block, even if it raises.

        Args:
            vector: A steering vector of this model.
            strength: In units of the mean norm of a site's output; negative values steer away.
            **keywords: Those of `AddVector` (mode, steps, branch, seconds, sites).

        Yields:
            The model.

        Raises:
            ValueError: The vector was made from another model.
            TypeError: `vector` is something else.

        Example:
            >>> with model.steer(audioscope.datasets.vector("fast"), 1.5):
            ...     faster = model.generate("a song with violin", steps=2)
            >>> bool((faster.samples == model.generate("a song with violin", steps=2).samples).all())
            False
        """
        if not hasattr(vector, "edit"):
            raise TypeError(f"vector is {said(vector)}, expected a SteeringVector; pass edits to generate(..., edits=...).")
        edit = vector.edit(strength, **keywords)
        self.check_edits([edit])
        before = _STEERING.get()
        _STEERING.set((*before, (id(self), edit)))
        try:
            yield self
        finally:
            _STEERING.set(before)

    @overload
    def generate(self, prompt: str, seed: int = ..., **keywords: Any) -> Clip: ...
    @overload
    def generate(self, prompt: Sequence[str], seed: int | Sequence[int] = ..., **keywords: Any) -> list[Clip]: ...

    def generate(  # type: ignore[misc]  # the overloads pass the keywords below on
        self,
        prompt: str | Sequence[str],
        seed: int | Sequence[int] = 0,
        *,
        edits: Edit | Sequence[Edit] = (),
        progress: bool | None = None,
        **sampling: Unpack[SamplingKeywords],
    ) -> Clip | list[Clip]:
        """Make music from text, with optional edits at sites; the same prompt and seed give the same clip.

        Between batches of different sizes, clips differ by rounding.

        Args:
            prompt: One text, or a list.
            seed: One number, which serves all prompts, or one for each prompt.
            edits: Act on every prompt.
            progress: Whether to show a progress bar; None shows it for more than 32 prompts.
            **sampling: `steps`, `guidance`, `seconds`, `negative_prompt`; the model's defaults if omitted.

        Returns:
            A clip, or a list of clips for a list of prompts.

        Raises:
            ValueError: Input is out of range, or an edit does not fit this model.
            TypeError: `edits` contains something else.
            FloatingPointError: The model produces NaN or infinity.

        Example:
            >>> clip = model.generate("a fast song with violin", seed=3, steps=2)
            >>> clip.samples.shape, clip.rate
            ((1, 65536), 16000)
            >>> without = model.generate(["a fast song", "a slow song"], edits=audioscope.Ablate([5, 6]), steps=2)
            >>> [each.prompt for each in without]
            ['a fast song', 'a slow song']
        """
        settings, chosen = self.sampling(**sampling), as_edits(edits)
        prompts, seeds = self._texts(prompt, chosen), self._seeds(seed)
        seeds = seeds * len(prompts) if index_of(seed) is not None else seeds
        if len(seeds) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds: give one seed, or one for each prompt.")
        rows = [tracing.Row(text, number, chosen) for text, number in zip(prompts, seeds, strict=True)]
        clips = []
        show = len(rows) > BATCH if progress is None else progress
        for part in batches(rows, BATCH, "generating", "clip", show):
            clips += self.clips(part, **settings)
        return clips[0] if isinstance(prompt, str) else clips

    def play(
        self,
        prompt: str = "a slow sad song with violin",
        seed: int = 0,
        vectors: Steerable | Mapping[str, Steerable] | None = None,
        strength: float = 0.0,
        **sampling: Unpack[SamplingKeywords],
    ) -> Any:
        """Open a widget for JupyterLab: type a prompt or move a strength slider, and the model answers.

        Fewer steps respond sooner. The first clip is made before this returns.

        Args:
            prompt: The first prompt.
            seed: The first seed.
            vectors: What the slider steers with, one or several by name; None means the shipped ones of `tiny`.
            strength: Where the slider begins, in units of the mean norm of a site's output.
            **sampling: `steps`, `guidance`, `seconds`, `negative_prompt`; the model's defaults if omitted.

        Returns:
            The widget.

        Raises:
            ValueError: Input is out of range, as for `generate`.

        Example:
            >>> model.play("a slow song with violin", steps=2)
            Playground(tiny: 'a slow song with violin', seed 0, ...)
        """
        return view("Model.play")(self, prompt, seed, vectors, strength, **sampling)

    def attention(
        self, prompt: str, seed: int = 0, sites: Which = "cross", by: str | Sequence[str] = (), *, kind: str = "weights",
        branch: str = "cond", edits: Edit | Sequence[Edit] = (), concept: str | None = None, scorer: Any = None, **sampling: Unpack[SamplingKeywords],
    ) -> Any:  # fmt: skip
        """Read where in time the attention of a generation looks at which word of the prompt.

        The weights are those that the model computes, with its own masks, positions and normalizations; the generation is not
        changed. They are summed up step by step, so that memory does not grow with what is averaged over.
        Moments share `seconds` evenly, or the longest duration of a model that has a fixed one; where tokens are rounded up, the last
        of them reaches a little beyond.

        Args:
            prompt: The text.
            seed: The seed of the starting noise.
            sites: Cross-attention modules, as `Sites.select` takes them; or self-attention modules, which look at moments, not words.
            by: What to tell apart beside words and moments, of "layer", "head" and "step"; the rest is averaged.
            kind: "weights"; "values" for the weights times the norm of what a token adds to the module's output; or "score" for what it
                brings to a concept's score, to first order: the same times the score's slope there, signed, and summed, not averaged.
            branch: The guidance branch to read, "cond" or "uncond".
            edits: Act on the generation; not of kind "score".
            concept: Of kind "score": the concept.
            scorer: What scores it, with `scores` through which gradients reach the audio; None is the listener for `tiny`.
            **sampling: `steps`, `guidance`, `seconds`, `negative_prompt`; the model's defaults if omitted.

        Returns:
            An `audioscope.AttentionMap`.

        Raises:
            ValueError: Input is out of range, an edit changes what words there are or bring, the scorer does not know the concept or
                lets no gradient through, or a module does not show its weights.
            UnknownName: The model does not have a site.
            FloatingPointError: The model produces NaN or infinity.

        Example:
            >>> model.attention("a fast song with violin", sites=9, by="head", steps=2).values.shape[:2]  # heads; words and others
            (4, 8)
        """
        more = {"branch": branch, "edits": edits, "concept": concept, "scorer": scorer}
        return view("Model.attention")(self, prompt, seed, sites, by, kind=kind, **more, **sampling)

    @overload
    def activations(self, prompts: str, sites: Which = ..., **keywords: Any) -> Activations: ...
    @overload
    def activations(self, prompts: Sequence[str], sites: Which = ..., **keywords: Any) -> Iterator[Activations]: ...

    def activations(  # type: ignore[misc]  # the overloads pass the keywords below on
        self, prompts: str | Sequence[str], sites: Which = "cross", *, seeds: int | Sequence[int] = (0,),
        at_steps: int | Sequence[int] | None = None, pool: bool = True, branch: str = "cond",
        edits: Edit | Sequence[Edit] = (), batch_size: int = BATCH, **sampling: Unpack[SamplingKeywords],
    ) -> Activations | Iterator[Activations]:  # fmt: skip
        """Read the outputs of sites while prompts are generated.

        One string gives its activations. A list gives those of each prompt and seed, one at a time: they are yielded as batches
        finish, so memory does not grow with the number of prompts.

        Args:
            prompts: One text, or a list.
            sites: A kind ("cross", "self", "all"), a module path, the number of a cross-attention layer, a Site, or a list of
                these; None means all.
            seeds: One, or several for each prompt of a list.
            at_steps: The denoising steps to read, one or several; None means all.
            pool: Whether to average over time tokens instead of keeping them; memory and duration tokens are left out.
            branch: The guidance branch to read, "cond" or "uncond".
            edits: Act on every prompt.
            batch_size: The largest number of rows at a time.
            **sampling: `steps`, `guidance`, `seconds`, `negative_prompt`; the model's defaults if omitted.

        Returns:
            The `Activations` of one prompt, or an iterator over those of a list, all seeds of the first prompt before the next.

        Raises:
            ValueError: Input is out of range, or several seeds are given for one string.
            UnknownName: The model does not have a site.
            FloatingPointError: The model produces NaN or infinity.

        Example:
            >>> activations = model.activations("a song with violin", sites="cross", steps=2)
            >>> len(activations.sites), activations[6].shape
            (12, torch.Size([2, 128]))
            >>> found = model.activations(["a fast song", "a slow song"], 6, seeds=[0, 1], at_steps=0, steps=2)
            >>> [(each.prompt, each.seed) for each in found]
            [('a fast song', 0), ('a fast song', 1), ('a slow song', 0), ('a slow song', 1)]
        """
        how, chosen, several = self.sampling(**sampling), as_edits(edits), self._seeds(seeds)
        if isinstance(prompts, str) and len(several) != 1:
            raise ValueError(f"seeds is {seeds}, expected one seed for one prompt: pass the prompt in a list to use more.")
        read, size = self._reading(sites, at_steps, pool, branch, how), whole("batch_size", batch_size, 1)
        # steered as now, wherever the results are taken
        rows = self._steered(tracing.Row(text, seed, chosen) for text in self._texts(prompts, chosen) for seed in several)

        def results() -> Iterator[Activations]:
            for part in batches(rows, size):
                run = self._run(part, read, False, None, None, how)
                self.check_finite(part, run)
                yield from _activations(part, run, read)

        return next(results()) if isinstance(prompts, str) else results()

    def generate_with_activations(
        self, prompt: str, sites: Which = "cross", seed: int = 0, *, at_steps: int | Sequence[int] | None = None, pool: bool = True,
        branch: str = "cond", edits: Edit | Sequence[Edit] = (), **sampling: Unpack[SamplingKeywords],
    ) -> tuple[Clip, Activations]:  # fmt: skip
        """Generate a clip and read the outputs of sites in the same run.

        Args:
            prompt: The text.
            sites: A kind ("cross", "self", "all"), a module path, the number of a cross-attention layer, a Site, or a list of
                these; None means all.
            seed: The seed of the starting noise.
            at_steps: The denoising steps to read, one or several; None means all.
            pool: Whether to average over time tokens instead of keeping them; memory and duration tokens are left out.
            branch: The guidance branch to read, "cond" or "uncond".
            edits: Act on every prompt.
            **sampling: `steps`, `guidance`, `seconds`, `negative_prompt`; the model's defaults if omitted.

        Returns:
            The clip and its `Activations`.

        Raises:
            ValueError: Input is out of range.
            UnknownName: The model does not have a site.
            FloatingPointError: The model produces NaN or infinity.

        Example:
            >>> clip, activations = model.generate_with_activations("a jazz song", sites=6, steps=2)
            >>> clip.seconds, activations[6].shape
            (4.096, torch.Size([2, 128]))
        """
        how, chosen = self.sampling(**sampling), as_edits(edits)
        self._texts(prompt, chosen)
        rows, read = ([tracing.Row(prompt, seed_number(seed), chosen)], self._reading(sites, at_steps, pool, branch, how))
        run = self.run(rows, read=read, **how)
        return self._clips(rows, run)[0], _activations(rows, run, read)[0]

    def _reading(
        self, sites: Which, at_steps: int | Sequence[int] | None, pool: bool, branch: str, how: Sampling
    ) -> tracing.Read:
        if at_steps is None:
            return tracing.Read(self.sites.select(sites), None, pool, branch)
        steps = sorted({whole("a step of at_steps", step, 0, how.steps - 1) for step in one_or_more(at_steps)})
        if not steps:
            raise ValueError("at_steps is empty, expected at least one step, or None for all.")
        return tracing.Read(self.sites.select(sites), tuple(steps), pool, branch)

    def _texts(self, prompts: Any, edits: Iterable[Edit]) -> list[str]:
        """One prompt or several, as a list; they and those of edits are checked."""
        texts = one_or_more(prompts)
        whole_list = [*texts, *(text for edit in edits for text in edit.texts)]
        for text in dict.fromkeys(whole_list) if all(isinstance(text, str) for text in whole_list) else whole_list:
            self.check_prompt(text)
        return texts

    def _seeds(self, seeds: Any) -> list[int]:
        """One seed or several, as a list of ints."""
        return [seed_number(seed) for seed in one_or_more(seeds)]


def _rows(rows: Any) -> list[tracing.Row]:
    """Rows as a list. Raises ValueError for none and for anything else."""
    if not (several := all_of("rows", rows, tracing.Row)):
        raise ValueError("rows is empty, expected at least one Row.")
    return several


def _activations(rows: Sequence[tracing.Row], run: tracing.Run, read: tracing.Read) -> list[Activations]:
    """The activations of each row, as separate copies."""
    sigmas = run.sigmas if read.steps is None else run.sigmas[list(read.steps)]

    def of(row: int, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {path: values[row].clone() for path, values in parts.items()}

    return [
        Activations(row.prompt, row.seed, sigmas.clone(), of(i, run.reads), of(i, run.norms), read.sites)
        for i, row in enumerate(rows)
    ]
