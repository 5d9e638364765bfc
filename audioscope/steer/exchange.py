"""Steering vectors of others: those that TADA released, and the steering packs of DEMON, both ways."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from audioscope.errors import Damaged, as_path, choice, index_of, of_kind, real, said, said_text, truth
from audioscope.installed import __version__
from audioscope.model import Model
from audioscope.pickles import read_pickle
from audioscope.sharing import fetched
from audioscope.sites import Site
from audioscope.steer.vectors import SteeringVector, has_memory
from audioscope.store import made_folder, read_json, write_whole
from audioscope.tracing import Row

MOST = 1000  # steps of a file, each of which costs a step of the model
PACK = 1  # the version of DEMON's format that all its readers take
HOOKS = {"cross_attn_output": "cross", "post_block_residual": "block"}  # where a pack acts, as kinds of sites
FAMILIES = {"StableAudio3Pipeline": "sa3", "AceStepPipeline": "acestep"}
KNOB = re.compile(r"[a-z][a-z0-9_]{0,31}")


def noise_levels(model: Model, steps: int) -> Tensor:
    """The noise levels of a generation with so many steps, [steps], from a short run without decoding."""
    return model.run([Row("", 0)], decode=False, steps=steps).sigmas


def tada_vector(
    source: str | Path, model: Model, *, branch: str = "cond", revision: str | None = None, token: str | None = None
) -> SteeringVector:
    """Read a steering vector that TADA released: sv.pkl, and config.json beside it.

    These files hold unit vectors for each denoising step and no noise levels, so the model is run once with as many steps, without
    decoding. Strength 1 adds a vector of length 1, as in TADA, whose strengths (its alpha) therefore apply.

    Args:
        source: A folder, or a name on the hub, such as "lukasz-staniszewski/stable-audio-caa-piano".
        model: The model that the vector was made from; the files do not identify its weights.
        branch: "cond", or "uncond" if the file has that guidance pass.
        revision: A branch, tag or commit of the repository on the hub.
        token: The access token for the hub; None takes the one that `hf auth login` stored.

    Returns:
        The vector, with the model's weights as its own.

    Raises:
        FileNotFoundError: There is no sv.pkl.
        ConnectionError: The hub does not give the repository.
        ValueError: The file holds anything but arrays and tensors, such as code, or does not fit the model.

    Example:
        >>> audioscope.steer.tada_vector("lukasz-staniszewski/stable-audio-caa-piano", sao)  # doctest: +SKIP
        >>> audioscope.steer.tada_vector(".", model)
        Traceback (most recent call last):
        FileNotFoundError: No vector of TADA at '.': expected sv.pkl.
    """
    of_kind("model", model, Model)
    choice("branch", branch, ("cond", "uncond"))
    folder = fetched(source, ("sv.pkl", "config.json"), revision=revision, token=token, what="vector of TADA")
    if not (folder / "sv.pkl").is_file():
        raise FileNotFoundError(f"No vector of TADA at {str(source)!r}: expected sv.pkl.")
    about = read_json(folder / "config.json", 0) if (folder / "config.json").is_file() else {}
    found = _by_step(read_pickle(folder / "sv.pkl"), branch, folder / "sv.pkl")
    names = list(dict.fromkeys(name for step in found for name in step))
    sites = {name: _site_of(name, model) for name in names}
    directions: dict[str, Tensor] = {}
    for name, site in sites.items():
        rows = [step.get(name) for step in found]
        if any(row is None or row.ndim != 1 or len(row) != site.width or not bool(torch.isfinite(row).all()) for row in rows):
            raise ValueError(
                f"{folder / 'sv.pkl'} does not fit {model.name!r}: expected {site.width} finite numbers a step for {name!r}."
            )
        if site.path in directions:
            raise ValueError(f"{folder / 'sv.pkl'} names {site.path} twice.")
        directions[site.path] = torch.stack([row for row in rows if row is not None])
    sigmas = noise_levels(model, len(found))
    metadata = {
        "concept": " ".join(str(about.get("concept", "?")).split()), "branch": branch, "from": "TADA", "source": str(source), "steps": len(found),
        "normalize": True, "length": "strength 1 adds a vector of length 1",
        **{name: about[name] for name in ("method", "guidance_scale", "seed", "model") if isinstance(about.get(name), str | int | float)},
    }  # fmt: skip
    ones = {path: torch.ones(len(found)) for path in directions}
    return SteeringVector(directions, ones, sigmas, model.name, model.fingerprint, metadata)


def _by_step(content: Any, branch: str, file: Path) -> list[dict[str, Tensor]]:
    """By step, in order, the vector of each layer, of one guidance pass. Raises ValueError if it is not built as TADA builds it."""
    wrong = ValueError(f"{file} is not a vector of TADA: expected, for each step and guidance pass, a vector for each layer.")
    if not isinstance(content, dict) or not content:
        raise wrong
    passes = sorted({key[1] for key in content if isinstance(key, tuple) and len(key) == 2 and index_of(key[1]) is not None})
    if passes:
        chosen = passes[0] if branch == "cond" else passes[-1]
        if branch == "uncond" and len(passes) < 2:
            raise ValueError(f"{file} has only one guidance pass: use branch='cond'.")
        content = {
            key[0]: value for key, value in content.items() if isinstance(key, tuple) and len(key) == 2 and key[1] == chosen
        }
    elif branch == "uncond":
        raise ValueError(f"{file} has only the conditional pass: use branch='cond'.")
    steps = sorted(key for key in content if index_of(key) is not None)
    if (
        len(steps) != len(content)
        or steps != list(range(len(steps)))
        or not all(isinstance(v, dict) and v for v in content.values())
    ):
        raise wrong
    found = []
    for step in steps:
        layers = {}
        for name, value in content[step].items():
            first = value[0] if isinstance(value, list | tuple) and value else value
            try:
                layers[str(name)] = torch.as_tensor(first).float()
            except (TypeError, ValueError, RuntimeError) as error:
                raise wrong from error
        found.append(layers)
    return found


def _site_of(name: str, model: Model) -> Site:
    """The site of a layer that TADA names: tf7, or .transformer.transformer_blocks.11.attn2. Raises ValueError if there is none."""
    short = re.fullmatch(r"tf(\d+)", name)
    for site in model.sites.cross:
        if site.path == name.removeprefix(".") or (short and site.layer == int(short[1])):
            return site
    raise ValueError(
        f"The vector acts at {name!r}, but {model.name!r} has no such cross-attention; its sites look like "
        f"{model.sites.cross[0].path!r}."
    )


def _family(model: Model) -> str:
    return FAMILIES.get(model.adapter.pipeline, model.adapter.pipeline.removesuffix("Pipeline").lower())


def read_pack(file: str | Path, model: Model) -> SteeringVector:
    """Read a steering pack of DEMON, which is one .safetensors file, as a vector whose strength is the pack's knob.

    Packs that act on a cross-attention's output or on that of a whole block are read. A pack's directions for several steps are placed at the noise levels
    of as many steps of this model. Steer with `branch` and `mode` as the vector's metadata name them to do what DEMON does, except at
    memory tokens, which stay unchanged here.

    Args:
        file: The pack.
        model: The model that it is for.

    Returns:
        The vector.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, is no pack, acts elsewhere, or is for another model.

    Example:
        >>> vector = audioscope.datasets.vector("fast").only(model.sites.select([6]))
        >>> pack = audioscope.steer.write_pack(vector, "fast.safetensors", model)
        >>> audioscope.steer.read_pack(pack, model)
        SteeringVector(fast, tiny: 1 sites, 1 noise levels from 1 to 1, reliability not measured)
    """
    of_kind("model", model, Model)
    file = as_path(file)
    if not file.is_file():
        raise FileNotFoundError(f"No steering pack at {file}.")
    try:
        with safe_open(file, "pt") as opened:
            text = (opened.metadata() or {}).get("steering_pack")
            tensors = {name: opened.get_tensor(name).float() for name in opened.keys() if name in ("vector", "vectors", "blocks")}  # noqa: SIM118
        about = None if text is None else json.loads(text)
    except (SafetensorError, ValueError, OSError, RecursionError) as error:
        raise Damaged(f"{file} is damaged ({error}).") from error
    if not isinstance(about, dict):
        raise ValueError(f"{file} is no steering pack of DEMON: its header has no JSON object 'steering_pack'.")
    if (version := about.get("format")) not in (1, 2):
        raise ValueError(f"{file} is a steering pack of format {version!r}, expected 1 or 2.")
    hook = about.get("hook", "post_block_residual")
    if not isinstance(hook, str) or hook not in HOOKS:
        raise ValueError(f"{file} acts on {said(hook)}, expected {' or '.join(map(repr, HOOKS))}.")
    if (family := about.get("family")) != _family(model):
        raise ValueError(f"{file} is for models of the family {said(family)}, but {model.name!r} is of {_family(model)!r}.")
    rows, blocks = _rows_of(file, about, tensors)
    there = {site.layer: site for site in model.sites.select(HOOKS[hook])}
    if missing := [block for block in blocks if block not in there]:
        raise ValueError(f"{file} acts in block {missing[0]}, but {model.name!r} has {len(there)} blocks.")
    if rows.shape[-1] != there[blocks[0]].width or not bool(torch.isfinite(rows).all()):
        raise ValueError(
            f"{file} has width {rows.shape[-1]}, or is not finite; {model.name!r} has width {there[blocks[0]].width} there."
        )
    if (size := about.get("hidden_size")) is not None and index_of(size) != rows.shape[-1]:
        raise Damaged(f"{file} has hidden_size {said(size)}, but its directions have width {rows.shape[-1]}.")
    if not bool(rows.any()):
        raise ValueError(f"{file} is zero everywhere, so it has no direction.")
    if wrong := [name for name in ("cond_only", "renorm") if about.get(name) not in (None, False, True)]:
        raise Damaged(f"{file} has {wrong[0]} {said(about[wrong[0]])}, expected true or false.")
    magnitude, policy = real("magnitude", about.get("magnitude", 1.0)), about.get("policy") or {}
    if not abs(magnitude) < 1e6:
        raise Damaged(f"{file} has a magnitude of {magnitude}, expected a number below 1e6.")
    if rows.shape[1] > MOST:
        raise ValueError(f"{file} has directions for {rows.shape[1]} steps, expected at most {MOST}.")
    weights = _weights(policy, rows.shape[1] if rows.shape[1] > 1 else model.sampling().steps, file)
    if rows.shape[1] == 1 and len(set(weights)) == 1:
        sigmas, weights = torch.ones(1), weights[:1]
    else:
        sigmas = noise_levels(model, len(weights))
    scaled = rows.expand(len(blocks), len(weights), -1) * torch.tensor(weights)[None, :, None]
    provenance = about.get("provenance")
    metadata = {
        "concept": " ".join(str(about.get("label") or about.get("name")).split()), "from": "DEMON", "name": str(about.get("name")), "magnitude": magnitude,
        "branch": "cond" if about.get("cond_only") else "both", "mode": "keep_norm" if about.get("renorm") else "add",
        "provenance": provenance if isinstance(provenance, dict) else {},
    }  # fmt: skip
    lengths = torch.full((len(weights),), magnitude)
    paths = [there[block].path for block in blocks]
    return SteeringVector(
        dict(zip(paths, scaled, strict=True)), dict.fromkeys(paths, lengths), sigmas, model.name, model.fingerprint, metadata
    )


def _rows_of(file: Path, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[Tensor, list[int]]:
    """The directions [blocks, steps, hidden] of a pack, and its blocks. Raises ValueError if they do not fit each other."""
    wrong = Damaged(
        f"{file} is damaged: expected a tensor 'vector' [hidden], [steps, hidden] or [blocks, steps, hidden], and its blocks."
    )
    if "vectors" in tensors:
        rows, named = tensors["vectors"], tensors.get("blocks", torch.empty(0)).flatten().tolist()
        rows = rows[:, None] if rows.ndim == 2 else rows
    else:
        rows, named = tensors.get("vector", torch.empty(0)), about.get("blocks") or [about.get("block")]
        rows = rows[None, None] if rows.ndim == 1 else rows[None] if rows.ndim == 2 else rows
    if rows.ndim != 3 or not rows.numel() or not isinstance(named, list):
        raise wrong
    blocks = [
        int(block) for block in named if isinstance(block, int | float) and not isinstance(block, bool) and block in range(10_000)
    ]
    if len(blocks) < len(named) or len(set(blocks)) < len(blocks) or len(rows) not in (1, len(blocks)) or not blocks:
        raise wrong
    return rows.expand(len(blocks), -1, -1), blocks


def _weights(policy: Any, steps: int, file: Path) -> list[float]:
    """How strong a pack acts at each of so many steps. Raises ValueError for a policy that cannot be read, or does nothing."""
    try:
        kind = policy.get("kind", "range")
        if kind == "range":
            first, last = float(policy.get("start", 0)), float(policy.get("end", 1))
            found = [float(first <= i / steps < last) for i in range(steps)]
        elif kind == "step":
            found = [float(i == round(float(policy["step"]) / float(policy.get("of", steps)) * steps)) for i in range(steps)]
        elif kind == "curve":
            curve = [float(weight) for weight in policy["weights"]]
            found = [curve[min(len(curve) - 1, i * len(curve) // steps)] for i in range(steps)]
        else:
            raise ValueError(f"its kind is {said(kind)}, expected 'range', 'step' or 'curve'")
        if not any(found) or not all(abs(weight) < 1e6 for weight in found):
            raise ValueError("it acts at no step, or its weights are no numbers")
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise Damaged(f"{file} has a policy that cannot be read ({error}).") from error
    return found


def _is_pack(file: Path) -> bool:
    """Whether a file is a steering pack, or one that was cut short."""
    try:
        with safe_open(file, "pt") as opened:
            return any(name in opened.keys() for name in ("vector", "vectors"))  # noqa: SIM118  (it is no dict)
    except (SafetensorError, OSError):
        return file.stat().st_size == 0


def write_pack(
    vector: SteeringVector,
    file: str | Path,
    model: Model,
    *,
    name: str | None = None,
    checkpoint: str | None = None,
    every_step: bool = False,
) -> Path:
    """Write a vector at one cross-attention or block as a steering pack of DEMON, whose knob is the strength.

    Args:
        vector: The vector, which acts at one site; use `vector.only(...)`.
        file: A .safetensors file.
        model: The vector's model.
        name: Of the knob, such as "fast": lower-case letters, digits and "_"; None is made from the concept.
        checkpoint: The name by which DEMON knows the model's weights, such as "medium"; None is the last part of the model's name.
        every_step: Write a direction for each noise level, which DEMON's port of TADA reads, and places by their order. False
            writes one, which all versions read: the mean over noise levels.

    Returns:
        The file.

    Raises:
        ValueError: The vector has several sites, is zero, or is of another model, a name is not one, or the file is of something
            else.

    Example:
        >>> vector = audioscope.datasets.vector("fast").only(model.sites.select([6]))
        >>> audioscope.steer.write_pack(vector, "packs/fast.safetensors", model, every_step=True).name
        'fast.safetensors'
    """
    every_step = truth("every_step", every_step)
    of_kind("model", model, Model)
    if checkpoint is not None:
        said_text("checkpoint", checkpoint)
    of_kind("vector", vector, SteeringVector).check(model.name, model.fingerprint, model.sites)
    file = as_path(file)
    if file.suffix != ".safetensors":
        raise ValueError(f"file is {str(file)!r}, expected a name that ends in .safetensors.")
    if file.exists() and not _is_pack(file):
        raise ValueError(f"{file} is of something else, and would be overwritten: choose another name.")
    if missing := [path for path in vector.paths if path not in vector.directions]:
        raise ValueError(
            f"The vector acts on the memory of {missing[0]} alone, which a pack does not have: make one with the music, too."
        )
    if has_memory(vector.directions):
        warnings.warn("A pack has no place for what the vector does to the memory: it is left out.", stacklevel=2)
    site = model.sites[vector.paths[0]]
    hook = next((name for name, kind in HOOKS.items() if kind == site.kind), None)
    if len(vector.paths) != 1 or hook is None:
        raise ValueError(
            f"The vector acts at {', '.join(vector.paths)}, expected one cross-attention or one block: use vector.only(...)."
        )
    concept = str(vector.metadata.get("concept", "")) or "vector"
    knob = re.sub(r"[^a-z0-9]+", "_", concept.lower()).strip("_")[:32] if name is None else name
    if not isinstance(knob, str) or not KNOB.fullmatch(knob):
        raise ValueError(f"name is {said(knob)}, expected 1 to 32 lower-case letters, digits and '_', the first a letter.")
    added = (vector.directions[vector.paths[0]] * vector.norms[vector.paths[0]][:, None]).float()
    rows = added if every_step else added.mean(0)
    length = float(rows.norm(dim=-1).mean())
    if not length > 0:
        raise ValueError("The vector is zero, so a pack of it would do nothing.")
    about = {
        "format": PACK, "family": _family(model), "checkpoint": checkpoint or Path(model.name).name, "block": site.layer, "hidden_size": rows.shape[-1],
        "name": knob, "label": concept, "blurb": f"{concept}, from audioscope", "hook": hook, "method": str(vector.metadata.get("method", "audioscope")), "norm": length,
        "magnitude": length, "policy": {"kind": "range", "start": 0.0, "end": 1.0}, "cond_only": vector.metadata.get("branch", "cond") != "both",
        "renorm": False, "provenance": {"tool": f"audioscope {__version__}", "model": vector.model, "weights": vector.fingerprint,
                                        **({"sigmas": vector.sigmas.tolist()} if every_step else {})},
    }  # fmt: skip
    tensors = {"vector": (rows / length)[None].contiguous() if every_step else (rows / length).contiguous()}
    made_folder(file.parent)
    header = {"steering_pack": json.dumps(about, sort_keys=True)}
    write_whole(file, lambda part: safetensors.torch.save_file(tensors, part, header), lasting=True)
    return file
