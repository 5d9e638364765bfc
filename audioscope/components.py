"""What a component of a pipeline is, as a hash: by it a worker tells whether it loaded the model that the sweep was begun with."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

STEPS = 7  # any number: with it a scheduler's state is the same before and after a run
OF_A_RUN = ("cached", "is_scale_input_called", "deprecation_warnings")  # in names of what a run leaves behind
# where its files came from: another node has them elsewhere, another process is offline
WHENCE = (
    "name_or_path",
    "_name_or_path",
    "local_files_only",
    "is_local",
    "files_loaded",
    "init_inputs",
    "_commit_hash",
    "cache_dir",
    "token",
)


def describe(part: Any) -> str:
    """A hash of all in a component that decides what it does, not what a run leaves behind, nor where its files lie.

    Of a network: classes, weights and buffers, settings of its modules and processors, replaced methods and hooks; of a scheduler
    its settings and the noise levels that it sets; of a tokenizer its vocabulary and rules.
    """
    digest = hashlib.sha256(f"{type(part).__module__}.{type(part).__qualname__}".encode())
    of = _network if isinstance(part, nn.Module) else _scheduler if hasattr(part, "set_timesteps") else _tokenizer
    for piece in of(part):
        digest.update(piece)
    return digest.hexdigest()[:16]


def _network(part: nn.Module) -> Iterator[bytes]:
    yield _settings(_config(part))
    for path, module in part.named_modules():
        yield f"{path} {type(module).__module__}.{type(module).__qualname__}".encode()
        yield _settings(_public(module)) + type(getattr(module, "_hf_hook", None)).__qualname__.encode()
        hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        yield " ".join(map(_code, hooks)).encode()
        if (processor := getattr(module, "processor", None)) is not None:
            yield f"{type(processor).__module__}.{type(processor).__qualname__}".encode()
            yield _settings(_public(processor))
    tensors = {**dict(part.named_parameters()), **{name: b for name, b in part.named_buffers() if not _aside(name)}}
    for name, value in tensors.items():
        yield f"{name} {value.dtype} {list(value.shape)}".encode()
        yield _content(value)


def _scheduler(part: Any) -> Iterator[bytes]:
    yield _settings(_config(part))
    with suppress(Exception):  # some need more than a number; then what there is decides
        part = copy.deepcopy(part)
        part.set_timesteps(STEPS)
    for name, value in sorted(vars(part).items()):
        if isinstance(value, Tensor):
            yield name.encode() + _content(value)
    yield _settings(vars(part))


def _tokenizer(part: Any) -> Iterator[bytes]:
    yield _settings(_config(part))
    yield _settings(_public(part))
    if (backend := getattr(part, "backend_tokenizer", None)) is not None:
        rules = json.loads(backend.to_str())
        # every call with padding sets these two
        yield json.dumps({name: rule for name, rule in rules.items() if name not in ("padding", "truncation")}).encode()
    elif callable(vocabulary := getattr(part, "get_vocab", None)):
        yield json.dumps(vocabulary(), sort_keys=True).encode()
    for name in ("padding_side", "truncation_side", "model_max_length", "special_tokens_map"):
        yield str(getattr(part, name, None)).encode()


def _public(part: Any) -> dict[str, Any]:
    return {name: value for name, value in getattr(part, "__dict__", {}).items() if not name.startswith("_")}


def _config(part: Any) -> Mapping[str, Any]:
    config: Any = getattr(part, "config", None)
    config = config.to_dict() if hasattr(config, "to_dict") else config
    return config if isinstance(config, Mapping) else {}


def _settings(values: Mapping[str, Any]) -> bytes:
    """What can be compared of these: numbers, texts, and lists and tables of them; of functions and methods, their code."""
    plain = {name: value for name, value in _plain(values).items() if value is not None}
    return json.dumps(plain, sort_keys=True).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, bool | int | float | str | torch.dtype):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items() if not _aside(str(name))}
    return _code(value) if callable(value) and not isinstance(value, nn.Module | type) else None


def _code(function: Callable[..., Any]) -> str:
    """A function's name and code, which its address does not tell."""
    while isinstance(function, partial):
        function = function.func
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__qualname__)}"
    return name if code is None else f"{name} {hashlib.sha256(code.co_code).hexdigest()[:8]}"


def _aside(name: str) -> bool:
    return name in WHENCE or name.endswith("_file") or any(part in name for part in OF_A_RUN)


def _content(value: Tensor) -> bytes:
    return hashlib.sha256(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data).digest()
