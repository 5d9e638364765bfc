"""What a component of a pipeline is, as a hash: by it a worker tells whether it loaded the model that the sweep was begun with."""

from __future__ import annotations

import copy
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

STEPS = 7  # any number: with it a scheduler's state is the same before and after a run
OF_A_RUN = ("cached", "is_scale_input_called", "deprecation_warnings")  # in names of what a run leaves behind
# where its files came from: another node has them elsewhere, another process is offline
WHENCE = (
    "_diffusers_version",
    "transformers_version",
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


LIBRARIES = ("audioscope", "diffusers", "nnsight", "peft", "torch", "transformers")  # their functions are known by their names


def describe(part: Any, weights: bool = True) -> str:
    """A hash of all in a component that decides what it does, not what a run leaves behind, nor where its files lie.

    Of a network: classes, weights and buffers, settings of its modules and processors, replaced methods and hooks; of a scheduler
    its settings and the noise levels that it sets; of a tokenizer its vocabulary and rules. weights: whether they are read.
    """
    digest = hashlib.sha256(f"{type(part).__module__}.{type(part).__qualname__}".encode())
    of: Callable[[Any], Iterator[bytes]]
    of = (
        partial(_network, weights=weights)
        if isinstance(part, nn.Module)
        else _scheduler
        if hasattr(part, "set_timesteps")
        else _tokenizer
    )
    for piece in of(part):
        digest.update(piece)
    return digest.hexdigest()[:16]


def _class(part: Any) -> bytes:
    """The name of its class, and the code of methods that somebody else put into it or into one that it inherits from."""
    names = [f"{type(part).__module__}.{type(part).__qualname__}"]
    for each in type(part).__mro__:
        if each.__module__.partition(".")[0] not in LIBRARIES:
            continue  # of the user's own classes, methods are their own
        for name, value in vars(each).items():
            function = getattr(value, "__func__", value)
            home = (getattr(function, "__module__", None) or "").partition(".")[0]
            if home and home not in LIBRARIES and hasattr(function, "__code__"):
                names.append(f"{name} {code_of(function)}")
    return " ".join(names).encode()


def _network(part: nn.Module, weights: bool) -> Iterator[bytes]:
    yield _settings(_config(part))
    yield str(getattr(getattr(part, "config", None), "_attn_implementation", None)).encode()
    for path, module in part.named_modules():
        yield path.encode() + _class(module)
        hook = type(getattr(module, "_hf_hook", None))
        own, placed = _public(module), hook.__module__.startswith("accelerate.")  # weights wait elsewhere until they are needed
        forward = module._old_forward if placed else own.get("forward")
        if forward is not None and code_of(forward) == code_of(type(module).forward):
            forward = None  # its class's own
        yield _settings({**own, "forward": forward})
        yield b"NoneType" if placed else hook.__qualname__.encode()
        hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        yield " ".join(map(code_of, hooks)).encode()
        if (processor := getattr(module, "processor", None)) is not None:
            yield _class(processor)
            yield _settings(getattr(processor, "__dict__", {}))  # with `_attention_backend`
    tensors = {**dict(part.named_parameters()), **{name: b for name, b in part.named_buffers() if not _of_a_run(name)}}
    for name, value in tensors.items():
        yield f"{name} {value.dtype} {list(value.shape)}".encode()
        if weights:
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
    return code_of(value) if callable(value) and not isinstance(value, nn.Module | type) else None


def code_of(function: Callable[..., Any], inside: tuple[int, ...] = ()) -> str:
    """A function's name, code, defaults and what it encloses, which its address does not tell. inside: functions that enclose it."""
    given = []
    while isinstance(function, partial):
        given.append(str(_plain([function.args, function.keywords])))
        function = function.func
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    module, called = getattr(function, "__module__", None) or "", getattr(function, "__qualname__", type(function).__qualname__)
    name = f"{module}.{called} {' '.join(given)}"
    if code is None or id(function) in inside or (module.partition(".")[0] in LIBRARIES and _found(module, called) is function):
        return name
    cells = []
    for cell in getattr(function, "__closure__", None) or ():
        with suppress(ValueError):  # one that is not filled yet
            cells.append(cell.cell_contents)
    around = [code_of(cell, (*inside, id(function))) if callable(cell) else _plain(cell) for cell in cells]
    facts = [
        _of_code(code),
        _plain(getattr(function, "__defaults__", None)),
        _plain(getattr(function, "__kwdefaults__", None)),
        around,
    ]
    return f"{name} {hashlib.sha256(str(facts).encode()).hexdigest()[:12]}"


def _found(module: str, name: str) -> Any:
    found: Any = sys.modules.get(module)
    for each in name.split("."):
        found = getattr(found, each, None)  # None for a lambda, or what a function defines
    return found


def _of_code(code: CodeType) -> list[Any]:
    """Instructions, names and constants; a set has no order, and what a function defines is code again."""
    constants = [
        _of_code(each) if isinstance(each, CodeType) else sorted(map(repr, each)) if isinstance(each, frozenset) else repr(each)
        for each in code.co_consts
    ]
    return [code.co_code.hex(), code.co_names, constants]


def _aside(name: str) -> bool:
    return name in WHENCE or name.endswith("_file") or _of_a_run(name)


def _of_a_run(name: str) -> bool:
    return any(part in name for part in OF_A_RUN)


def _content(value: Tensor) -> bytes:
    return hashlib.sha256(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data).digest()
