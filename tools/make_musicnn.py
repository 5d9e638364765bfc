"""Convert the audio tagger musicnn, which learned from real recordings: python tools/make_musicnn.py [FOLDER].

FOLDER is data/musicnn unless given. Provenance: PyPI's `musicnn` 0.1.0 by Jordi Pons, Music Technology Group, Universitat
Pompeu Fabra (2019, ISC licence, https://github.com/jordipons/musicnn). Its wheel holds the nets MTT_musicnn (trained on
MagnaTagATune) and MSD_musicnn (Million Song Dataset) as TensorFlow checkpoints. It cannot be installed beside numpy 1.17 or
later, but it can be downloaded, and read without TensorFlow. No code of the package is run.

What is written: the weights in half precision, without what only training needs and with each batch normalization as a scale
and a shift; the tags in the order of the outputs; the licence, word for word.
"""

from __future__ import annotations

import ast
import hashlib
import json
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

SHA256 = "f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa"  # of the wheel
LICENCE = "musicnn-0.1.0.dist-info/LICENSE.md"
# Our names of the layers with weights, in TensorFlow's order: it counts each kind as conv2d, conv2d_1, ...
CONVOLUTIONS = ["timbral.0", "timbral.1", "temporal.0", "temporal.1", "temporal.2", "middle.0", "middle.1", "middle.2"]
DENSE = ["dense", "out"]
NORMS = ["input", *(f"{name}.norm" for name in CONVOLUTIONS), "pooled", "dense.norm"]
EPSILON = 1e-3  # of TensorFlow's batch normalization


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The whole number at a position, 7 bits a byte from the lowest, and the position after it."""
    number = shift = 0
    while data[at] > 127:
        number, shift, at = number | (data[at] & 127) << shift, shift + 7, at + 1
    return number | data[at] << shift, at + 1


def fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of a protocol buffer."""
    at = 0
    while at < len(message):
        tag, at = varint(message, at)
        if tag & 7 == 0:
            value, at = varint(message, at)
            yield tag >> 3, value
        else:
            size, at = varint(message, at) if tag & 7 == 2 else ({1: 8, 5: 4}[tag & 7], at)
            yield tag >> 3, message[at : at + size]
            at += size


def entries(table: bytes, handle: bytes) -> Iterator[tuple[str, bytes]]:
    """Keys and values of a block of a LevelDB table, which begins and ends where the handle says.

    Of a key, only the end that differs from the key before is written.
    """
    start, at = varint(handle, 0)
    size, _ = varint(handle, at)
    if table[start + size]:
        raise ValueError("The index of the checkpoint is compressed, which is not supported.")
    block, key, at = table[start : start + size], b"", 0
    end = size - 4 * (1 + struct.unpack("<I", block[-4:])[0])  # then follow the places of whole keys, and their count
    while at < end:
        same, at = varint(block, at)
        more, at = varint(block, at)
        length, at = varint(block, at)
        key, at = key[:same] + block[at : at + more], at + more
        yield key.decode(), block[at : at + length]
        at += length


def checkpoint(index: bytes, data: bytes) -> dict[str, np.ndarray]:
    """The float32 tensors of a TensorFlow checkpoint (format V2, one shard) by name.

    The index is a LevelDB table. Its footer of 48 bytes has the handles of two blocks: metadata, and the handles of the blocks
    of entries. An entry is a protocol buffer of 1: type, 2: shape, 4: offset, 5: size. The one without a name is a header.
    """
    footer = index[-48:]
    at = varint(footer, varint(footer, 0)[1])[1]
    tensors = {}
    for _, handle in entries(index, footer[at:]):
        for name, value in entries(index, handle):
            entry = dict(fields(value))
            if name and entry[1] == 1:  # float32
                shape = [dict(fields(size))[1] for number, size in fields(entry.get(2, b"")) if number == 2]
                tensors[name] = np.frombuffer(data, "<f4", entry[5] // 4, entry.get(4, 0)).reshape(shape)
    return tensors


def converted(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights of audioscope's net, float32, by its names."""
    weights = {}
    for kind, names in (("conv2d", CONVOLUTIONS), ("dense", DENSE)):
        for i, name in enumerate(names):
            own = f"{kind}_{i}" if i else kind
            kernel = np.moveaxis(tensors[f"{own}/kernel"], -1, 0)  # outputs first
            if kind == "conv2d":  # [outputs, time, bands, 1]; the middle ones are one-dimensional, over bands as channels
                kernel = kernel[..., 0].swapaxes(1, 2) if name.startswith("middle") else kernel[:, None, ..., 0]
            last = name == "out"
            weights[f"{name}.weight" if last else f"{name}.layer.weight"] = kernel
            weights[f"{name}.bias" if last else f"{name}.layer.bias"] = tensors[f"{own}/bias"]
    for i, name in enumerate(NORMS):
        own = f"batch_normalization_{i}" if i else "batch_normalization"
        gamma, beta, mean, variance = (
            tensors[f"{own}/{part}"].astype(np.float64) for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        scale = gamma / np.sqrt(variance + EPSILON)
        weights[f"{name}.scale"], weights[f"{name}.shift"] = scale, beta - mean * scale
    return {name: np.array(value, np.float32, order="C") for name, value in weights.items()}


def download(folder: Path) -> Path:
    """Download the wheel, without what it depends on. Raises ValueError if it is not the one that was converted before."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    subprocess.run([*pip, "musicnn==0.1.0"], check=True)
    wheel = next(folder.glob("musicnn-*.whl"))
    if (found := hashlib.sha256(wheel.read_bytes()).hexdigest()) != SHA256:
        raise ValueError(f"The SHA-256 of {wheel.name} is {found}, expected {SHA256}.")
    return wheel


def weights_of(wheel: Path, name: str) -> dict[str, np.ndarray]:
    """The weights of a net of the wheel, "MTT" or "MSD", float32."""
    with zipfile.ZipFile(wheel) as files:
        index, data = (files.read(f"musicnn/{name}_musicnn/.{part}") for part in ("index", "data-00000-of-00001"))
    return converted(checkpoint(index, data))


def build(folder: Path) -> None:
    """Write MTT.safetensors, MSD.safetensors, tags.json and LICENSE into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        wheel = download(Path(scratch))
        for name in ("MTT", "MSD"):
            half = {key: value.astype(np.float16) for key, value in weights_of(wheel, name).items()}
            (folder / f"{name}.safetensors").write_bytes(save(half))
        with zipfile.ZipFile(wheel) as files:
            lines = ast.parse(files.read("musicnn/configuration.py")).body
            (folder / "LICENSE").write_bytes(files.read(LICENCE))
    found = {ast.unparse(line.targets[0]): line.value for line in lines if isinstance(line, ast.Assign)}
    tags = {name: ast.literal_eval(found[f"{name}_LABELS"]) for name in ("MTT", "MSD")}
    (folder / "tags.json").write_text(json.dumps(tags, indent=1) + "\n")


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "data" / "musicnn")
