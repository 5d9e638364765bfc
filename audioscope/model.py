"""A text-to-music pipeline with its sites: generate, edit and read."""

from __future__ import annotations

import hashlib
import json
import threading
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any, overload

import diffusers
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers.utils import logging as transformers_logging

import audioscope.tiny.codec  # noqa: F401  # diffusers finds the tiny model's codec only if it is imported
from audioscope import tracing
from audioscope.adapters import Adapter, adapter_for, adapter_of_class
from audioscope.audio import Clip
from audioscope.edits import COPYING, AddVector, Edit, SAEEdit, Which
from audioscope.paths import data_folder
from audioscope.sites import Sites, find_sites
from audioscope.vectors import SteeringVector

BATCH = 32  # prompts a batch, where a call gets many


@dataclass(frozen=True)
class Reading:
    """Activations of one generation: `values[path]` is float32 [steps, width] (pooled) or [steps, tokens, width].

    `sigmas` [steps] are the noise levels at which they were read, norms[path] [steps] the mean L2 norm of the tokens read.
    """

    prompt: str
    seed: int
    sigmas: Tensor
    values: dict[str, Tensor]
    norms: dict[str, Tensor]


def fingerprint(*modules: nn.Module) -> str:
    """A short hash of samples of all weights and buffers: tells two models of one shape apart."""
    digest = hashlib.sha256()
    for module in modules:
        for name, weight in module.state_dict().items():
            digest.update(name.encode())
            digest.update(weight.flatten()[:: max(1, weight.numel() // 64)].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _warn_of_failed(edits: Collection[AddVector | SAEEdit], sigmas: Sequence[float]) -> None:
    """Warn where features of an SAE act at noise levels at which it fails its gate."""
    for edit in edits:
        acted = [sigma for step, sigma in enumerate(sigmas) if edit.acts_at(step)]
        failed = edit.what.failed(acted)
        if failed:
            warnings.warn(
                f"{edit.what!r} acts at noise levels at which its SAE does not pass the gate, or was never measured: "
                f"{', '.join(f'{sigma:.3g}' for sigma in failed)}. Its features may not mean there what they seem to.",
                stacklevel=3,
            )


class Model:
    """A diffusers text-to-audio pipeline, its adapter and its attention sites."""

    def __init__(self, pipe: DiffusionPipeline, name: str, adapter: Adapter | None = None):
        self.pipe, self.name = pipe, name
        self.adapter = adapter or adapter_for(pipe)
        self.adapter.prepare(pipe)
        self.denoiser = getattr(pipe, self.adapter.denoiser)
        self.sites: Sites = find_sites(self.denoiser, self.adapter.denoiser, self.adapter.stream)
        self._acting = threading.local()  # `steer` acts on what its own thread generates, not on a widget's
        self._one = threading.RLock()  # a pipeline's scheduler counts the steps of one run: a widget and a cell take turns
        pipe.set_progress_bar_config(disable=True)
        tracing.check(pipe, self.adapter, self.sites)

    def __repr__(self) -> str:
        kinds = [s.kind for s in self.sites]
        return (
            f"Model({self.name!r}: {type(self.pipe).__name__}, {kinds.count('cross')} cross and {kinds.count('self')} self-attention "
            f"sites, {self.adapter.sampling_rate(self.pipe)} Hz, {self.adapter.steps} steps, guidance {self.adapter.guidance:g})"
        )

    @property
    def fingerprint(self) -> str:
        """A short hash of all weights of the pipeline: denoiser, text encoder, codec."""
        parts = sorted(self.pipe.components.items())
        return fingerprint(*(part for _, part in parts if isinstance(part, nn.Module)))

    @property
    def paper(self) -> dict[str, Any]:
        """Steps, guidance and seconds of the paper's localisation, for `localize(model, **model.paper)`; empty where it did not
        use the model. The paper also gave Stable Audio Open and AudioLDM2 a negative prompt against low quality."""
        return dict(self.adapter.paper)

    def settings(self, steps: int | None, guidance: float | None, seconds: float | None) -> dict[str, Any]:
        """The keywords of a run with this model's defaults filled in. Raises ValueError for a value out of range."""
        steps = self.adapter.steps if steps is None else steps
        guidance = self.adapter.guidance if guidance is None else float(guidance)
        longest = self.adapter.max_duration(self.pipe)
        seconds = min(self.adapter.default_seconds, longest or float("inf")) if seconds is None else float(seconds)
        if steps < 1:
            raise ValueError(f"steps is {steps}, expected at least 1.")
        if not 0 <= guidance < 100:
            raise ValueError(f"guidance is {guidance:g}, expected 0 to 100 (up to 1 is no guidance).")
        if guidance > 1 and len(self.adapter.branches) == 1:
            raise ValueError(f"guidance is {guidance:g}, but {self.name} has its guidance built in: leave it at 1.")
        if not 0 < seconds <= (longest or float("inf")):
            limit = "more than 0" if longest is None else f"more than 0 and at most {longest:g}"
            raise ValueError(f"seconds is {seconds:g}, expected {limit} for {self.name}.")
        return {"steps": steps, "guidance": guidance, "seconds": seconds}

    def check_seed(self, seed: int) -> None:
        """Raise ValueError for a seed that is no whole number, or out of range."""
        if not (isinstance(seed, Integral) and 0 <= seed < 2**63):
            raise ValueError(f"seed is {seed}, expected a whole number from 0 to 2**63 - 1.")

    def check_prompt(self, prompt: str) -> None:
        """Raise ValueError for an empty prompt, warn about words that the tokenizer does not know."""
        if not isinstance(prompt, str) or not prompt.strip():
            raise ValueError(f"prompt is {prompt!r}, expected a text such as 'a slow sad song with violin'.")
        if unknown := self.unknown_words(prompt):
            warnings.warn(
                f"{self.name} never saw these words and cannot know what they mean: {', '.join(unknown)}.", stacklevel=3
            )

    def unknown_words(self, prompt: str) -> list[str]:
        """The words of a prompt that the tokenizer does not know; none where it spells every word."""
        unknown = getattr(self._words, "unk_token_id", None)
        words = dict.fromkeys(prompt.replace(",", " ").split())
        return [] if unknown is None else [word for word in words if unknown in self._words(word).input_ids]

    @cached_property
    def _words(self) -> Any:
        """A tokenizer of its own: a call changes how a fast one pads, and another thread may be in the middle of a generation."""
        return deepcopy(self.pipe.tokenizer)

    def run(self, rows: Sequence[tracing.Row], **keywords: Any) -> tracing.Run:
        """One batch of rows through the pipeline; keywords are those of `audioscope.tracing.run`.

        Threads take turns. Raises ValueError for a steering vector of another model.
        """
        rows = [replace(row, edits=row.edits + self.steering) for row in rows]
        given = [edit for row in rows for edit in row.edits if isinstance(edit, AddVector | SAEEdit)]
        self.check_vectors({(id(edit.what), edit.sites): edit for edit in given}.values())
        with self._one:
            run = tracing.run(self.pipe, self.adapter, self.sites, rows, **keywords)
        _warn_of_failed({(id(edit.what), edit.steps): edit for edit in given if not edit.idle}.values(), run.sigmas.tolist())
        return run

    def clips(self, rows: Sequence[tracing.Row], **keywords: Any) -> list[Clip]:
        """One batch of rows as clips; keywords as for `run`. Raises FloatingPointError if the model gives NaN."""
        run = self.run(rows, **keywords)
        assert run.audio is not None
        for row, finite in zip(rows, run.finite, strict=True):
            if not finite:
                raise FloatingPointError(
                    f"{self.name} gave NaN or infinity for {row.prompt!r} (seed {row.seed}): try float32, or weaker edits."
                )
        rate = self.adapter.sampling_rate(self.pipe)
        return [Clip(wave.numpy(), rate, row.prompt, row.seed, self.name) for wave, row in zip(run.audio, rows, strict=True)]

    def check_vectors(self, edits: Collection[AddVector | SAEEdit]) -> None:
        """Raise ValueError for a vector or an SAE of another model, or of none of the sites that it is to act at."""
        mine = self.fingerprint if edits else ""
        for edit in edits:
            if isinstance(edit, SAEEdit):
                edit.sae.check(self.name, mine, self.sites.select(edit.sites))
            else:
                edit.vector.check(self.name, mine, self.sites)
                edit.vector.only(self.sites.select(edit.sites))  # raises for a site that the vector does not have

    def check_unsteered(self, what: str) -> None:
        """Raise ValueError inside a `steer` block: what is measured there would be kept as if nothing acted."""
        if self.steering:
            raise ValueError(f"The model is being steered (`with model.steer(...)`): {what} must begin outside that block.")

    @property
    def steering(self) -> tuple[Edit, ...]:
        """What acts on all that this thread generates, inside `steer`."""
        return getattr(self._acting, "edits", ())

    @contextmanager
    def steer(self, vector: SteeringVector, strength: float = 1.0, **keywords: Any) -> Iterator[Model]:
        """Steer everything that is generated inside this block: `with model.steer(vector, 1.5): model.generate(...)`.

        strength: in units of the mean norm of a site's output. keywords: those of `audioscope.AddVector` (mode, steps, branch,
        seconds). Blocks may be nested; nothing acts after the block, also when it raises. Raises ValueError for a vector of
        another model.
        """
        edit = AddVector(vector, strength, **keywords)
        self.check_vectors([edit])
        before = self.steering
        self._acting.edits = (*before, edit)
        try:
            yield self
        finally:
            self._acting.edits = before

    @overload
    def generate(self, prompt: str, seed: int = ..., **keywords: Any) -> Clip: ...
    @overload
    def generate(self, prompt: Sequence[str], seed: int | Sequence[int] = ..., **keywords: Any) -> list[Clip]: ...

    def generate(  # type: ignore[misc]  # the overloads pass the keywords below on
        self,
        prompt: str | Sequence[str],
        seed: int | Sequence[int] = 0,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        seconds: float | None = None,
        edits: Edit | Sequence[Edit] = (),
        progress: bool | None = None,
    ) -> Clip | list[Clip]:
        """Make music from text, with edits at sites if wanted; the same prompt and seed give the same clip.

        prompt, seed: one, or a list (a list of clips comes back); one seed serves all prompts.
        steps, guidance, seconds: the model's defaults if None. edits: act on every prompt.
        Raises ValueError for input out of range and FloatingPointError if the model gives NaN.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        seeds = [int(seed)] * len(prompts) if isinstance(seed, Integral) else list(seed)  # type: ignore[arg-type]
        if len(seeds) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds: give one seed, or one for each prompt.")
        chosen = (edits,) if isinstance(edits, Edit) else tuple(edits)
        settings = self.settings(steps, guidance, seconds)
        for number in seeds:
            self.check_seed(number)
        for text in dict.fromkeys([*prompts, *(edit.prompt for edit in chosen if isinstance(edit, COPYING))]):
            self.check_prompt(text)
        rows = [tracing.Row(text, number, chosen) for text, number in zip(prompts, seeds, strict=True)]
        clips = []
        show = len(rows) > BATCH if progress is None else progress
        with tqdm(total=len(rows), desc="generating", unit="clip", disable=not show) as bar:
            for start in range(0, len(rows), BATCH):
                part = rows[start : start + BATCH]
                clips += self.clips(part, **settings)
                bar.update(len(part))
        return clips[0] if isinstance(prompt, str) else clips

    def play(
        self,
        prompt: str = "a slow sad song with violin",
        seed: int = 0,
        vectors: SteeringVector | Mapping[str, SteeringVector] | None = None,
        strength: float = 0.0,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        seconds: float | None = None,
    ) -> Any:
        """A widget for JupyterLab: type a prompt or move a strength slider, and the model answers.

        vectors: what the slider steers with, one or several by name; None is the shipped ones of `tiny`. steps, guidance, seconds: the
        model's defaults if None; few steps answer sooner. The first clip is made before this returns. Raises what `generate` raises.
        """
        from audioscope.playground import Playground

        given = {str(vectors.facts.get("concept", "vector")): vectors} if isinstance(vectors, SteeringVector) else vectors
        return Playground(self, prompt, seed, given, strength, steps=steps, guidance=guidance, seconds=seconds)

    def activations(
        self,
        prompts: Sequence[str],
        sites: Which = "cross",
        *,
        seeds: Sequence[int] = (0,),
        at_steps: Sequence[int] | None = None,
        pool: bool = True,
        branch: str = "cond",
        steps: int | None = None,
        guidance: float | None = None,
        seconds: float | None = None,
        edits: Edit | Sequence[Edit] = (),
        batch: int = BATCH,
    ) -> Iterator[Reading]:
        """Read what `sites` put out while each prompt and seed is generated, one Reading at a time.

        at_steps: the denoising steps to read (None: all). pool: average over time tokens (memory and duration tokens
        left out) instead of keeping them. Readings are yielded as batches finish, so memory does not grow with the
        number of prompts.
        """
        settings = self.settings(steps, guidance, seconds)
        for text in prompts:
            self.check_prompt(text)
        read = tracing.Read(self.sites.select(sites), None if at_steps is None else tuple(at_steps), pool, branch)
        outside = [s for s in read.steps or () if not 0 <= s < settings["steps"]]
        if outside:
            raise ValueError(f"at_steps holds {outside}, expected steps from 0 to {settings['steps'] - 1}.")
        chosen = (edits,) if isinstance(edits, Edit) else tuple(edits)
        rows = [tracing.Row(text, seed, chosen) for text in prompts for seed in seeds]
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            run = self.run(part, read=read, decode=False, **settings)
            sigmas = run.sigmas if read.steps is None else run.sigmas[list(read.steps)]
            for i, row in enumerate(part):
                yield Reading(row.prompt, row.seed, sigmas, {path: values[i].clone() for path, values in run.reads.items()},
                              {path: values[i].clone() for path, values in run.norms.items()})  # fmt: skip
            del run  # or two batches' readings would lie in memory while the next one is made


def load(
    name: str | Path = "tiny",
    *,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    adapter: Adapter | None = None,
    **keywords: Any,
) -> Model:
    """Load a model: "tiny" (it ships with audioscope), a local diffusers folder, or a name on the Hugging Face hub.

    device: "cuda" if there is one, else "cpu". dtype: float32 if None. keywords go to `DiffusionPipeline.from_pretrained`.
    Raises FileNotFoundError for a folder that is no pipeline, ConnectionError for a hub name that cannot be fetched,
    ValueError for a damaged folder or a pipeline without an adapter.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    source, local = _source(name)
    try:
        with _quiet(progress=not local):
            pipe = DiffusionPipeline.from_pretrained(
                str(source), torch_dtype=dtype or torch.float32, local_files_only=local, **keywords
            )
    except Exception as error:  # diffusers, transformers, safetensors and the network raise some thirty kinds
        if local:
            raise ValueError(f"{source} is incomplete or damaged ({_first_line(error)}): fetch it again.") from error
        raise _unreachable(name, error) from error
    return Model(pipe.to(device), str(name), adapter)


def read_sites(name: str | Path) -> tuple[str, Sites]:
    """A model's pipeline class and its sites, from its configuration files alone: no weights are read or fetched.

    name: as for `load`. Raises what `load` raises, and ValueError for a pipeline that cannot be analysed by layer.
    A class without an adapter is no error here: its denoiser is the component that diffusers calls transformer or unet.
    """
    source, local = _source(name)
    if not local:
        from huggingface_hub import snapshot_download

        try:
            source = Path(snapshot_download(str(name), allow_patterns=["*model_index.json", "*/config.json"]))
        except Exception as error:
            raise _unreachable(name, error) from error
        _check_folder(source)
    try:
        index = json.loads((source / "model_index.json").read_text())
        pipeline = str(index["_class_name"])
        adapter = adapter_of_class(pipeline)
        prefix = adapter.denoiser if adapter else next(part for part in ("transformer", "unet") if part in index)
        config = json.loads((source / prefix / "config.json").read_text())
        with torch.device("meta"), _quiet(progress=False):
            denoiser = getattr(diffusers, index[prefix][1]).from_config(config)
    except (OSError, KeyError, TypeError, AttributeError, StopIteration, json.JSONDecodeError) as error:
        raise ValueError(f"{source} does not describe a diffusers pipeline with a denoiser ({_first_line(error)}).") from error
    return pipeline, find_sites(denoiser, prefix, adapter.stream if adapter else None)


def _source(name: str | Path) -> tuple[Path, bool]:
    """Where a model lies, and whether that is a folder here and not a name on the hub."""
    source = data_folder() / "tiny" if str(name) == "tiny" else Path(name)
    local = source.is_dir()
    if local:
        _check_folder(source)
    if not local and (source.is_absolute() or str(name).startswith(".") or str(name).count("/") != 1):
        raise FileNotFoundError(
            f"No folder {str(name)!r}: expected 'tiny', a folder with a diffusers pipeline, or a hub name 'owner/model'."
        )
    return source, local


def _check_folder(source: Path) -> None:
    """Raise FileNotFoundError for a folder without a pipeline, and ValueError for one of diffusers' modular pipelines."""
    if (source / "model_index.json").exists():
        return
    modular = source / "modular_model_index.json"
    if not modular.exists():
        raise FileNotFoundError(f"{source} is a folder but no diffusers pipeline: it has no model_index.json.")
    pipeline = str(json.loads(modular.read_text()).get("_class_name"))
    adapter_of_class(pipeline)  # says why, where that is known
    raise ValueError(f"{source} holds a modular pipeline, {pipeline}: expected a plain one, which has a model_index.json.")


def _unreachable(name: str | Path, error: Exception) -> ConnectionError:
    if type(error).__name__ == "GatedRepoError":
        return ConnectionError(
            f"{str(name)!r} is gated: accept its licence at https://huggingface.co/{name}, then run `hf auth login`."
        )
    return ConnectionError(
        f"Could not fetch {str(name)!r} from the hub ({_first_line(error)}): is the name right, and is there a network?"
    )


@contextmanager
def _quiet(progress: bool) -> Iterator[None]:
    """No notices of the libraries while a pipeline is read, and progress bars only for a download."""
    libraries = (diffusers_logging, transformers_logging)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity(50)
        if not progress:
            library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for library, (level, bars) in zip(libraries, before, strict=True):
            library.set_verbosity(level)
            if bars:
                library.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
