"""Load a model: a pipeline of diffusers from a folder or the hub, with its adapter, in one line, or with one clear error."""

from __future__ import annotations

import inspect
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import cloudpickle
import diffusers
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers.utils import logging as transformers_logging

from audioscope.adapters import Adapter, adapter_of_class
from audioscope.errors import as_path, said
from audioscope.model import Model
from audioscope.sharing import unreachable
from audioscope.sites import Sites, find_sites
from audioscope.store import LOADING, data_folder, default_device
from audioscope.views import view

SHIPPED, PLAN = ("tiny",), "plan.json"


def load(
    name: str | Path = "tiny",
    *,
    device: str | None = None,
    dtype: torch.dtype | str | None = None,
    adapter: Adapter | None = None,
    **keywords: Any,
) -> Model:
    """Load a model: "tiny" (it ships with audioscope), a local diffusers folder, or a name on the Hugging Face Hub.

    Args:
        name: "tiny", a folder (of a pipeline, or of what `tools/make_planted.py` trained), or "owner/model".
        device: Such as "cuda"; None means "cuda" if there is one, else "cpu".
        dtype: The type of the weights, such as torch.bfloat16 or "bfloat16"; None means float32.
        adapter: Describes the pipeline; None means the one that audioscope has for its class.
        **keywords: Those of `DiffusionPipeline.from_pretrained`, such as variant; others are refused.

    Returns:
        The model, ready to generate.

    Raises:
        FileNotFoundError: The folder does not exist, or is not a pipeline.
        ConnectionError: The name cannot be fetched from the hub.
        ValueError: The folder is damaged, the pipeline has no adapter or cannot be analyzed by layer, or an argument is unknown.

    Example:
        >>> tiny = audioscope.load("tiny", device="cpu")
        >>> len(tiny.sites.cross), tiny.rate
        (12, 16000)
        >>> audioscope.load("stabilityai/stable-audio-open-1.0")  # doctest: +SKIP
    """
    device, precision = default_device(device), _checked_dtype(dtype)
    if adapter is not None and not isinstance(adapter, Adapter):
        raise ValueError(f"adapter is {said(adapter)}, expected an Adapter, or None for the one that audioscope has.")
    source, local = _source(name)
    change = folder if _is_change(folder := _folder(name)) else None
    _check_keywords(keywords, source if local else None)
    if local and "audioscope.tiny.codec" in (source / "model_index.json").read_text():
        view("MelCodec")  # diffusers accepts a class of another library only if that is already imported
    try:
        with LOADING, torch.random.fork_rng(devices=[]), _quiet(progress=not local):
            pipe = DiffusionPipeline.from_pretrained(str(source), torch_dtype=precision, local_files_only=local, **keywords)
            pipe.to(device)  # here, since diffusers warns of half precision on a CPU, which works
    except Exception as error:  # diffusers, transformers, safetensors and the network raise about thirty kinds
        if local:
            raise ValueError(_why_damaged(source, keywords.get("variant"), error)) from error
        raise unreachable(name, error) from error
    with torch.random.fork_rng(devices=[]):
        model = Model(pipe, str(name), adapter)
    if change:
        _change(model, change)
    where = name if str(name) in SHIPPED or not local else (change or source).resolve()
    model.origin = Origin(where, device, precision, adapter, keywords, str(name))
    return model


def _folder(name: str | Path) -> Path:
    """The folder that a name stands for; it may not exist."""
    return data_folder() / str(name) if str(name) in SHIPPED else as_path(name)


def _is_change(folder: Path) -> bool:
    """Whether a folder holds what differs from tiny in a copy of it, and no pipeline."""
    return (folder / PLAN).exists() and not (folder / "model_index.json").exists()


def _change(model: Model, folder: Path) -> None:
    """Make tiny the copy that `audioscope.tiny.decoys` wrote to a folder. Raises ValueError if it was made of other weights, or is damaged."""
    ours = {name: weight for name, weight in model.denoiser.named_parameters() if ".cross_attn." in name}
    paths = [site.path for site in model.sites.cross]
    try:
        plan, weights = json.loads((folder / PLAN).read_text()), load_file(folder / "cross_attention.safetensors")
        sites = {label: [paths[layer] for layer in layers] for label, layers in plan["labels"].items()}
        of, kinds = plan["of"], {label: plan["needs"].get(group) for group, labels in plan["groups"].items() for label in labels}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        raise ValueError(f"{folder} is not a copy of tiny, or damaged ({_first_line(error)}).") from error
    if {name: weight.shape for name, weight in weights.items()} != {name: weight.shape for name, weight in ours.items()}:
        raise ValueError(f"{folder} is not a copy of tiny, or damaged: it has other tensors than those of its cross-attention.")
    # rounded weights have another fingerprint than those that the copy was made of, which are also those of the shipped atlas
    whole = next(iter(ours.values())).dtype == torch.float32
    here = model.fingerprint if whole else json.loads((data_folder() / "atlas" / "atlas.json").read_text())["fingerprint"]
    if of != here:
        raise ValueError(f"{folder} tells what differs from other weights of tiny ({of}) than those here ({here}).")
    with torch.no_grad():
        for name, weight in ours.items():
            weight.copy_(weights[name])
    model.planted = {"needs": "trained", "sites": sites, "two": {label: kinds[label] for label in sites if kinds.get(label)}}


@dataclass(frozen=True)
class Origin:
    """How a model was loaded, so that another process can load the same."""

    name: str | Path
    device: str
    dtype: torch.dtype
    adapter: Adapter | None
    keywords: Mapping[str, Any]
    called: str  # what the user called it

    def again(self, parts: Mapping[str, str], name: str) -> Model:
        """Load it again, under the name that it had; in a worker, once. Raises DifferentModel if it is not what it was."""
        key = str((self.name, self.dtype, sorted(parts.items())))
        if key not in _KEPT:
            model = load(self.name, device=DEVICE or self.device, dtype=self.dtype, adapter=self.adapter, **self.keywords)
            there = model.parts()
            if differ := sorted(name for name in parts.keys() | there.keys() if parts.get(name) != there.get(name)):
                raise DifferentModel(
                    f"{self.called!r} was changed since it was loaded ({', '.join(differ)}), so loading it again gives another."
                )
            if not KEEP:
                model.name = name
                return model
            _KEPT.clear()  # one model fits
            _KEPT[key] = model
        _KEPT[key].name = name
        return _KEPT[key]


class CannotUnpack(ValueError):
    """Work that cannot be unpickled in another process: a module that it needs cannot be imported there."""


def unpacked(work: bytes) -> Any:
    """Work that the driver pickled. Raises DifferentModel, and CannotUnpack if it needs a module that is not here."""
    try:
        return cloudpickle.loads(work)
    except (ImportError, AttributeError) as error:
        raise CannotUnpack(f"The workers cannot be given this work ({type(error).__name__}: {error}).") from None


class DifferentModel(ValueError):
    """A model that was pickled is not what loading gives: its weights, scheduler, processors or LoRA were changed."""


def become_worker(threads: int, device: str | None = None) -> None:
    """What a process does first that does units for another one: it keeps the model, and leaves warnings to its driver.

    device: where it loads models; None is where they were.
    """
    global KEEP, DEVICE
    KEEP, DEVICE = True, device
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)


KEEP = False  # a worker keeps the model that it loaded for later sweeps
DEVICE: str | None = None  # of a worker, which may see other GPUs than its driver
_KEPT: dict[str, Model] = {}


def read_sites(name: str | Path) -> tuple[str, Sites]:
    """A model's pipeline class and its sites, from its configuration files alone: no weights are read or downloaded.

    name: as for `load`. Raises what `load` raises, and ValueError for a pipeline that cannot be analyzed by layer.
    A class without an adapter is not an error here: its denoiser is the component that diffusers calls transformer or unet.
    """
    source, local = _source(name)
    if not local:
        from huggingface_hub import snapshot_download

        try:
            source = Path(snapshot_download(str(name), allow_patterns=["*model_index.json", "*/config.json"]))
        except Exception as error:
            raise unreachable(name, error) from error
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
    return pipeline, find_sites(
        denoiser, prefix, adapter.stream if adapter else None, adapter.leading(denoiser) if adapter else 0
    )


def _source(name: str | Path) -> tuple[Path, bool]:
    """Where a model is, and whether that is a local folder rather than a name on the hub."""
    source = _folder(name)
    if _is_change(source):
        return data_folder() / "tiny", True
    if source.is_dir():
        _check_folder(source)
        return source, True
    if source.is_absolute() or str(name).startswith((".", "~")) or str(name).count("/") != 1:
        raise FileNotFoundError(
            f"No folder {str(name)!r}: expected {', '.join(map(repr, SHIPPED))}, a folder with a diffusers pipeline, or a hub name 'owner/model'."
        )
    return source, False


def _checked_dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    named = "float32" if dtype is None else dtype
    found = getattr(torch, named.removeprefix("torch."), None) if isinstance(named, str) else named
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype is {said(dtype)}, expected a float type such as 'float32', 'bfloat16' or 'float16'.")
    return found


def _check_keywords(keywords: Mapping[str, Any], folder: Path | None) -> None:
    """Raise ValueError for a keyword that diffusers would ignore: neither an option of from_pretrained nor a component."""
    options = set(re.findall(r'kwargs.pop\(\s*"(\w+)"', inspect.getsource(DiffusionPipeline.from_pretrained))) - {"torch_dtype"}
    parts = set() if folder is None else set(json.loads((folder / "model_index.json").read_text()))
    wrong = [name for name, value in keywords.items() if name not in options | parts and not isinstance(value, nn.Module)]
    if wrong:
        near = get_close_matches(wrong[0], ["dtype", "device", "adapter", *options], n=3)
        raise ValueError(f"{wrong[0]} is no argument of load{': did you mean ' + ' or '.join(near) + '?' if near else '.'}")


def _why_damaged(source: Path, variant: str | None, error: BaseException) -> str:
    """What to do about a folder that diffusers could not load."""
    kept = {file.name.split(".")[1].split("-")[0] for file in source.rglob("*.safetensors") if file.name.count(".") > 1}
    if variant not in {None, *kept}:
        return f"variant is {variant!r}, but {source} has {'the variants ' + ', '.join(sorted(kept)) if kept else 'no variants'}."
    if variant is None and kept and not any(file.name.count(".") == 1 for file in source.rglob("*.safetensors")):
        return f"{source} holds only the variant {sorted(kept)[0]}: pass variant={sorted(kept)[0]!r}."
    return f"{source} is incomplete or damaged ({_first_line(error)}): download it again."


def _check_folder(source: Path) -> None:
    """Raise FileNotFoundError for a folder without a pipeline, and ValueError for one of diffusers' modular pipelines."""
    if (source / "model_index.json").exists():
        return
    modular = source / "modular_model_index.json"
    if not modular.exists():
        raise FileNotFoundError(f"{source} is a folder but not a diffusers pipeline: it has no model_index.json.")
    pipeline = str(json.loads(modular.read_text()).get("_class_name"))
    adapter_of_class(pipeline)  # raises with the reason, if it is known
    raise ValueError(f"{source} is a modular pipeline, {pipeline}: expected a standard pipeline, which has a model_index.json.")


@contextmanager
def _quiet(progress: bool) -> Iterator[None]:
    """Silence the libraries while a pipeline is loaded; show progress bars only for a download."""
    libraries = (diffusers_logging, transformers_logging)
    before = [(library, library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity(50)
        if not progress:
            library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for library, level, bars in before:
            library.set_verbosity(level)
            if bars:
                library.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
