"""Inputs of every kind, made by hypothesis, for public functions, files and the command line: only documented errors, each in one line.

Counted as found: any other exception, an error message of several lines or without words, more than 2 GB on top of the idle process,
more than 20 s, and work that is lost.

    python tests/campaigns/fuzz.py [--inputs 10000] [--seed 0] [--only NAME]
"""

from __future__ import annotations

import argparse
import contextlib
import decimal
import fractions
import gc
import io
import json
import math
import operator
import os
import pickle
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from huggingface_hub import constants
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from helpers.pipelines import BUILDERS

import audioscope
from audioscope import datasets, merging
from audioscope.audio import Clip
from audioscope.cli.main import main as command
from audioscope.errors import UnknownName
from audioscope.sae import SAEEvaluation, train_sae
from audioscope.scoring import read_folder
from audioscope.steer import SteeringSweep, steering_sweep, vector_method

DOCUMENTED = (ValueError, UnknownName, FileNotFoundError, FloatingPointError, ConnectionError, ImportError, OSError, TypeError)
HERE = Path(audioscope.__file__).parent
SLOW, MEMORY = 20.0, 2e9  # s and bytes
FULL = {
    "edits": 2500,
    "concepts": 1500,
    "artefacts": 2000,
    "sounds": 1500,
    "names": 1400,
    "generate": 500,
    "sweeps": 400,
    "pipelines": 200,
    "commands": 700,
}


class Found(AssertionError):
    """What this campaign looks for."""


# ---- inputs

NUMBERS = st.one_of(
    st.booleans(), st.integers(-3, 40), st.integers(), st.floats(allow_nan=True), st.sampled_from([0, -0.0, 1e-320, 1e308, 2**63, -(2**63), 2**64]),
    st.sampled_from([np.int64(1), np.int8(-1), np.float32(0.5), np.float64("nan"), np.bool_(True), np.uint64(2**63), torch.tensor(1), torch.tensor(0.5),
                     torch.tensor([1, 2]), np.array([1.0]), decimal.Decimal("1"), decimal.Decimal("NaN"), fractions.Fraction(1, 3), complex(1, 1)]),
)  # fmt: skip
TEXTS = st.one_of(
    st.text(max_size=30), st.sampled_from(["", " ", "\0", "a\nb", "fast", "Fast", "cross", "self", "all", "functional", "own", "violin", "a song with violin", "\ud800", "é" * 300,
                                           "x" * 5000, "~", "~/x", "/", ".", "..", "/proc/self/mem", "/dev/null", "tiny", "nobody/nothing", "cpu", "cuda", "float16", "<script>", "=1+1"]),
)  # fmt: skip
SIMPLE = st.one_of(
    st.none(),
    NUMBERS,
    TEXTS,
    st.binary(max_size=20),
    st.just(object()),
    st.just(Path("x")),
    st.just(range(3)),
    st.just(...),
    st.just(len),
)
ANYTHING = st.one_of(
    SIMPLE, st.lists(SIMPLE, max_size=4), st.tuples(SIMPLE, SIMPLE), st.dictionaries(st.one_of(TEXTS, st.integers()), SIMPLE, max_size=3),
    st.frozensets(st.integers(-2, 20), max_size=3), st.just(pd.DataFrame({"a": [1]})), st.just(np.zeros((2, 2))), st.just(iter([1, 2])), st.just(int),
)  # fmt: skip


def small(value: Any, most: int = 2) -> bool:
    """Whether a number, if it counts something, is small enough to be done in time."""
    try:
        return operator.index(value) <= most
    except TypeError:
        return True


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Bytes with a few changes: flipped, cut, doubled, put in, or with a number in the header made huge."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(data) + 1) if chance.random() < 0.4 else chance.randrange(min(len(data), 400) + 1)
        kind = chance.choice(("flip", "cut", "double", "insert", "huge", "zero"))
        if kind == "flip" and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif kind == "cut":
            del data[at:]
        elif kind == "double":
            data += data[at : at + 1000]
        elif kind == "insert":
            data[at:at] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 8)))
        elif kind == "huge":
            data[at : at + 4] = chance.choice((b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\0\xff\xff\xff"))
        elif kind == "zero":
            data[at : at + 16] = bytes(min(16, max(0, len(data) - at)))
    return bytes(data)


# ---- what is tried

Draw = Callable[[st.SearchStrategy], Any]
Target = Callable[[Draw], object]


def targets(root: Path) -> dict[str, Target]:
    """The functions that take one input each, by name."""
    model = audioscope.load("tiny")
    vector, sae = datasets.vector("fast"), datasets.sae("transformer.transformer_blocks.6.cross_attn")
    pairs = [("a fast song", "a slow song"), ("a fast jazz song", "a slow jazz song")]
    kept = _artefacts(root / "kept", model)
    pipeline = root / "pipeline"
    BUILDERS["stable_audio"]().save_pretrained(pipeline)
    sounds = {
        suffix: Clip(np.random.default_rng(0).normal(0, 0.1, (1, 16000)).astype("float32"), 16000).encoded(suffix)
        for suffix in ("wav", "flac", "mp3", "ogg")
    }
    place = root / "place"

    def fresh() -> Path:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        return place

    def edits(draw: Draw) -> object:
        makers = {
            "ablate": lambda x: audioscope.Ablate(x), "to": lambda x: audioscope.Ablate("cross", to=x), "window": lambda x: audioscope.Ablate("cross", steps=x),
            "branch": lambda x: audioscope.Ablate("cross", branch=x), "text": lambda x: audioscope.PatchText("cross", x), "output": lambda x: audioscope.PatchOutput(x, "a song"),
            "blend": lambda x: audioscope.BlendText("cross", "a song", x), "apply": lambda x: audioscope.Apply("cross", x), "add": lambda x: vector.edit(x),
            "mode": lambda x: vector.edit(1.0, mode=x), "sae": lambda x: audioscope.SAEEdit(sae, x, "scale", 2.0), "do": lambda x: audioscope.SAEEdit(sae, (1,), x, 1.0),
            "value": lambda x: audioscope.SAEEdit(sae, (1,), "set", x), "sites": lambda x: model.sites.select(x), "only": lambda x: vector.only(x),
            "times": lambda x: vector * x, "plus": lambda x: vector + x, "site": lambda x: model.sites[x],
            "seconds": lambda x: vector.edit(1.0, seconds=x), "path": lambda x: audioscope.PatchPath(0, "a song", x).received(model.sites),
        }  # fmt: skip
        return makers[draw(st.sampled_from(sorted(makers)))](draw(ANYTHING))

    def names(draw: Draw) -> object:
        makers: dict[str, Callable[[Any], object]] = {
            "vector": datasets.vector, "sae": datasets.sae, "steering": datasets.steering, "published": datasets.published, "steering_table": datasets.steering_table,
            "load": lambda x: audioscope.load("tiny" if isinstance(x, str) and "/" in x else x), "dtype": lambda x: audioscope.load("tiny", dtype=x),
            "device": lambda x: audioscope.load("tiny", device=x), "clip": Clip.load, "prompts": lambda x: datasets.some_prompts(x),
            "concept_prompts": lambda x: datasets.concept_prompts(x), "unknown": model.unknown_words if False else lambda x: model.check_prompt(x),
            "sampling": lambda x: model.sampling(**{draw(st.sampled_from(["steps", "guidance", "seconds", "negative_prompt"])): x}),
            "switch": audioscope.steer.prompt_switch_method, "encode": sae.encode, "decode": sae.decode, "at": lambda x: vector.at(x, 0.5),
            "level": lambda x: vector.at(vector.paths[0], x), "tokens": lambda x: audioscope.sae.evaluate_tokens(sae, x, torch.ones(1)),
            "smooth": lambda x: audioscope.steer.smoothness(x, [0.0, 1.0]), "ear": audioscope.scoring.listener_scorer, "beside": audioscope.atlas.side_by_side,
            "stream": lambda x: audioscope.sae.TokenStream(model, sae.metadata["site"], **{draw(st.sampled_from(["prompts", "branches", "at_steps", "positions", "batch_size", "seed", "steps", "workers"])): x}),
            "part": lambda x: merging.checked_part(x), "pack": lambda x: audioscope.steer.write_pack(vector.only(vector.paths[:1]), fresh() / "a.safetensors", model, name=x),
            "merge": lambda x: audioscope.atlas.merge(x, fresh() / "merged"), "steering merge": lambda x: audioscope.steer.merge(x, fresh() / "merged"),
            "hub vector": audioscope.SteeringVector.from_pretrained, "hub sae": audioscope.SAE.from_pretrained, "hub atlas": audioscope.Atlas.from_pretrained,
            "subfolder": lambda x: audioscope.SteeringVector.from_pretrained(fresh(), subfolder=x), "push": lambda x: vector.push_to_hub(x),
            "clips": lambda x: vector.push_to_hub("me/x", clips=x), "sparsify": lambda x: audioscope.sae.save_sparsify(sae, fresh() / "s", x),
            "tada": lambda x: audioscope.steer.tada_vector(x, model), "read pack": lambda x: audioscope.steer.read_pack(x, model),
            "suffix": lambda x: Clip(np.zeros((1, 100), "float32"), 16000).save(fresh() / x if isinstance(x, str) else x),
        }  # fmt: skip
        name = draw(st.sampled_from(sorted(makers)))
        return makers[name](draw(TEXTS if name in ("load", "device", "dtype") else ANYTHING))

    def concepts(draw: Draw) -> object:
        kind = draw(st.sampled_from(("csv", "json", "records", "anything", "bytes")))
        if kind == "anything":
            return audioscope.load_concepts(draw(ANYTHING))
        columns = draw(
            st.lists(
                st.sampled_from(["concept", "clean", "corrupted", "split", "neutral", "opposite", "pair", "x", "", "Concept"]),
                min_size=1,
                max_size=6,
            )
        )
        rows = draw(
            st.lists(st.lists(st.one_of(TEXTS, NUMBERS, st.none()), min_size=len(columns), max_size=len(columns)), max_size=4)
        )
        if kind == "records":
            return audioscope.load_concepts([dict(zip(columns, row, strict=True)) for row in rows])
        file = fresh() / f"pairs.{'json' if kind == 'json' else 'csv'}"
        if kind == "json":
            file.write_text(
                json.dumps([dict(zip(columns, map(str, row), strict=True)) for row in rows]), encoding="utf-8", errors="replace"
            )
        else:
            mark = draw(st.sampled_from([",", ";", "\t", "|"]))
            text = "\n".join(mark.join(map(str, row)) for row in [columns, *rows])
            content = text.encode(draw(st.sampled_from(["utf-8", "utf-16", "latin-1", "utf-8-sig"])), errors="replace")
            file.write_bytes(damaged(content, random.Random(draw(st.integers(0, 10**6)))) if kind == "bytes" else content)
        return audioscope.load_concepts(file)

    def artefacts(draw: Draw) -> object:
        """A vector, an SAE, an evaluation, an atlas or a sweep with damaged bytes: what can be loaded can be looked at."""
        name = draw(st.sampled_from(sorted(kept)))
        source, use = kept[name]
        there = fresh() / name
        shutil.copytree(source, there)
        file = draw(st.sampled_from(sorted(each for each in there.rglob("*") if each.is_file())))
        file.write_bytes(damaged(file.read_bytes(), random.Random(draw(st.integers(0, 10**9)))))
        return use(there)

    def sounds_of(draw: Draw) -> object:
        suffix = draw(st.sampled_from(sorted(sounds)))
        named = draw(st.sampled_from([suffix, suffix, suffix, "wav", "mp3", "aif", "m4a", "opus", "au", "caf", "w64"]))
        file = fresh() / f"a.{named}"
        file.write_bytes(damaged(sounds[suffix], random.Random(draw(st.integers(0, 10**9)))))
        if draw(st.booleans()):
            return Clip.load(file)
        return read_folder(place, model, seconds=1.0)

    def generate(draw: Draw) -> object:
        name, value = (
            draw(
                st.sampled_from(
                    ["prompt", "seed", "steps", "guidance", "seconds", "negative_prompt", "edits", "seeds", "sites", "at_steps"]
                )
            ),
            draw(ANYTHING),
        )
        keywords: dict[str, Any] = {"prompt": "a song", "steps": 1}
        if not small(value):
            value = 1
        if name in ("seeds", "sites", "at_steps"):
            return model.activations("a song", **{"sites": [0], "steps": 1, name: value})
        return model.generate(**{**keywords, name: value})

    def sweeps(draw: Draw) -> object:
        name, value = "", draw(ANYTHING)
        if not small(value):
            value = 2
        which = draw(st.sampled_from(("localize", "caa", "sweep", "train", "plan")))
        out = fresh() / "out"
        if which in ("localize", "plan"):
            how = {"concepts": pairs, "pairs": 1, "sites": [0], "steps": 1}
            name = draw(
                st.sampled_from(
                    [
                        "concepts",
                        "pairs",
                        "seeds",
                        "patch",
                        "direction",
                        "sites",
                        "split",
                        "scorer",
                        "also",
                        "when",
                        "batch_size",
                        "guidance",
                    ]
                )
            )
            if name == "concepts" and value is None:
                value = ["fast"]
            if which == "plan":
                return audioscope.atlas.plan(model, **{**how, name: value})
            return audioscope.localize(model, **{**how, name: value}, out=out, progress=False)
        if which == "caa":
            name = draw(
                st.sampled_from(
                    ["concept", "sites", "pairs", "seeds", "against", "branch", "split", "shuffle", "batch_size", "atlas"]
                )
            )
            return audioscope.caa(model, **{"concept": pairs, "sites": [0], "steps": 1, name: value}, progress=False)
        if which == "sweep":
            name = draw(st.sampled_from(["concept", "methods", "strengths", "prompts", "seeds", "scorer", "clips"]))
            how = {
                "concept": "fast",
                "methods": [vector_method(vector, "all")],
                "strengths": [-1, 1],
                "prompts": 1,
                "seeds": 1,
                "steps": 1,
                name: value,
            }
            return steering_sweep(model, **how, out=out, progress=False)
        name = draw(
            st.sampled_from(
                [
                    "activations",
                    "expansion_factor",
                    "k",
                    "training_tokens",
                    "kind",
                    "batch_size",
                    "learning_rate",
                    "buffer",
                    "seed",
                ]
            )
        )
        tokens = [torch.randn(100, 8, generator=torch.Generator().manual_seed(0))]
        how = {
            "activations": tokens,
            "expansion_factor": 2,
            "k": 2,
            "training_tokens": 100,
            "batch_size": 50,
            "buffer": 100,
            name: value,
        }
        return train_sae(**how, progress=False)

    def pipelines(draw: Draw) -> object:
        there = fresh() / "pipe"
        shutil.copytree(pipeline, there)
        file = draw(st.sampled_from(sorted(each for each in there.rglob("*") if each.is_file())))
        if draw(st.booleans()):
            file.write_bytes(damaged(file.read_bytes(), random.Random(draw(st.integers(0, 10**9)))))
        else:
            file.unlink()
        return audioscope.load(there)

    def commands(draw: Draw) -> object:
        return _command(draw, fresh())

    return {"edits": edits, "names": names, "concepts": concepts, "artefacts": artefacts, "sounds": sounds_of, "generate": generate, "sweeps": sweeps,
            "pipelines": pipelines, "commands": commands}  # fmt: skip


def _artefacts(root: Path, model: audioscope.Model) -> dict[str, tuple[Path, Callable[[Path], object]]]:
    """What users save, small: a folder, and what loads it and looks at it."""
    atlas = audioscope.localize(model, ["fast"], 1, sites=[0, 6], steps=1, out=root / "atlas-run", progress=False)
    atlas.save(root / "atlas")
    vector = audioscope.caa(model, [("a fast song", "a slow song"), ("fast", "slow")], [0], steps=1, progress=False)
    vector.save(root / "vector" / "v")
    steering_sweep(
        model,
        "fast",
        [vector_method(vector, "all")],
        [-1, 1],
        prompts=1,
        seeds=1,
        steps=1,
        clips=True,
        out=root / "sweep",
        progress=False,
    )
    shutil.rmtree(root / "sweep" / "units")
    tokens = [torch.randn(200, 8, generator=torch.Generator().manual_seed(0))]
    trained = train_sae(tokens, expansion_factor=2, k=2, training_tokens=200, batch_size=50, buffer=200, progress=False)
    trained.save_pretrained(root / "sae")
    levels = pd.DataFrame(
        {
            "sigma": [1.0],
            "fvu": [0.1],
            "topk_pca_fvu": [0.2],
            "tokens_fvu": [0.2],
            "pca_fvu": [0.3],
            "components": [2],
            "l0": [2.0],
            "passes": [True],
        }
    )
    (root / "evaluation").mkdir()
    SAEEvaluation(levels, np.array([0.1, 0.2])).save(root / "evaluation" / "e.json")

    unit = [[np.ones(128, np.float32) / 128**0.5]]
    (root / "tada").mkdir()
    (root / "tada" / "sv.pkl").write_bytes(pickle.dumps({(step, 0): {"tf6": unit[0]} for step in range(2)}, protocol=4))
    (root / "tada" / "config.json").write_text('{"concept": "piano"}')
    made = audioscope.caa(model, [("a fast song", "a slow song"), ("fast", "slow")], [6], steps=1, progress=False)
    audioscope.steer.write_pack(made, root / "pack" / "p.safetensors", model)
    audioscope.sae.save_sparsify(audioscope.SAE(8, 16, 2), root / "sparsify")
    for part in ("1/2", "2/2"):
        audioscope.localize(model, ["fast"], 2, sites=[0], steps=1, part=part, out=root / "parts" / part[0], progress=False)

    def look(atlas: audioscope.Atlas) -> object:
        return repr(atlas), atlas.impacts(), atlas.layer_means()

    def again(there: Path) -> object:
        """A sweep that is resumed where a file of it was damaged."""
        return audioscope.localize(model, ["fast"], 1, sites=[0, 6], steps=1, out=there, progress=False)

    return {
        "atlas": (root / "atlas", lambda there: look(audioscope.Atlas.load(there))),
        "run": (root / "atlas-run", again),
        "vector": (root / "vector", lambda there: repr(audioscope.SteeringVector.load(there / "v"))),
        "sweep": (root / "sweep", lambda there: (repr(found := SteeringSweep.load(there)), found.summary())),
        "sae": (root / "sae", lambda there: audioscope.SAE.from_pretrained(there).encode(torch.zeros(2, 8))),
        "tada": (root / "tada", lambda there: repr(audioscope.steer.tada_vector(there, model))),
        "pack": (root / "pack", lambda there: repr(audioscope.steer.read_pack(there / "p.safetensors", model))),
        "sparsify": (root / "sparsify", lambda there: audioscope.SAE.from_pretrained(there).encode(torch.zeros(2, 8))),
        "parts": (root / "parts", lambda there: look(audioscope.atlas.merge([there / "1", there / "2"], there / "whole"))),
        "evaluation": (root / "evaluation", lambda there: repr(SAEEvaluation.load(there / "e.json"))),
    }


WORDS = ("", "-1", "0", "1", "2", "nan", "inf", "-inf", "1e9", "0x10", "x", "é", "\ud800", "a" * 300, "--", "-", "fast", "fast,drums", "fast,", ",", "Fast", "own", "cross", "self", "0,1", "early",
         "'", '"', "../..", "/proc/self/mem", "/dev/null", "nothing.csv", "/", "~nobody/x", "text", "output", "raw", "cpu", "cuda:9", "mps", "float8", "true", "None", "-2:2:3", "1:1:1", "2:a:3", "::")  # fmt: skip
OPTIONS: dict[str, tuple[list[str], list[str]]] = {
    "sites": ([], ["--model", "--json"]),
    "atlas": (["--plan", "--steps", "1"], ["--concepts", "--pairs", "--seeds", "--patch", "--sites", "--direction", "--when", "--scale", "--negative-prompt", "--batch-size", "--beside", "--html",
                                           "--model", "--device", "--dtype", "--variant", "--steps", "--guidance", "--part"]),
    "merge": (["nowhere"], ["--out"]),
    "steer": (["--steps", "1", "--prompts", "1", "--pairs", "2", "--strengths", "-1:1:2", "--concept", "fast"],
              ["--concept", "--strengths", "--sites", "--atlas", "--pairs", "--prompts", "--pairs-from", "--model", "--dtype", "--steps", "--guidance", "--work", "--part", "--vector"]),
    "generate": (["--steps", "1"], ["--seed", "--seconds", "--negative-prompt", "--model", "--device", "--dtype", "--steps", "--guidance"]),
    "sae": (["pages"], ["--sae", "--features", "--model"]),
    "book": (["nothing"], ["--notebooks"]),
    "notebooks": ([], []),
    "tiny": (["train"], ["--hours", "--work", "--start"]),
    "nonsense": ([], ["--x"]),
}  # fmt: skip


def _command(draw: Draw, place: Path) -> object:
    """A command with odd values, in this process: status 0, 1 or 2, and with 2 one line that says why."""
    verb = draw(st.sampled_from(sorted(OPTIONS)))
    words, names = [verb, *OPTIONS[verb][0]], OPTIONS[verb][1]
    for _ in range(draw(st.integers(0, 3))):
        words += [draw(st.sampled_from(names or ["--x"])), draw(st.one_of(st.sampled_from(WORDS), st.text(max_size=8)))]
    if verb in ("generate", "notebooks"):
        words.insert(1, draw(st.one_of(st.sampled_from(WORDS), TEXTS)) if verb == "generate" else str(place / "copies"))
    if verb == "tiny" and "--hours" not in words:
        words += ["--hours", "-1"]
    if verb in ("steer", "generate", "atlas"):
        words += ["--out", str(place / draw(st.sampled_from(("out", "a.flac", "a.xyz", "deep/er/a.wav"))))]
    if verb == "tiny" and any(_number(word) > 0 for word in words):
        return None  # it would train
    said, shown = io.StringIO(), io.StringIO()
    before = os.getcwd()
    os.chdir(place)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(shown):
            try:
                status = command(words)
            except SystemExit as stopped:
                status = stopped.code
    finally:
        os.chdir(before)
    lines = [line for line in said.getvalue().splitlines() if line.startswith("audioscope: ")]
    if status not in (0, 1, 2):
        raise Found(f"{words} ended with {status}")
    if status == 2 and (not lines or "Traceback" in said.getvalue()):
        raise Found(f"{words} ended with 2 and said {said.getvalue()[-300:]!r}")
    return status


def _number(word: str) -> float:
    try:
        number = float(word)
    except ValueError:
        return 0.0
    return number if math.isfinite(number) else 1.0


# ---- the campaign


def fuzz(inputs: int = sum(FULL.values()), start: int = 0, only: str = "") -> tuple[Counter[str], dict[str, str]]:
    """Try so many inputs, spread over all targets. Returns how many of each were taken or refused, and the kinds of what was found."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    root, counts, found = Path(tempfile.mkdtemp(prefix="audioscope-fuzz-")), Counter[str](), {}
    offline = patch.object(constants, "HF_HUB_OFFLINE", True)  # names that might be of the hub are not looked up
    offline.start()
    try:
        work = targets(root)
        gc.collect()
        idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        for name in [only] if only else work:
            examples = max(5, round(inputs * FULL[name] / sum(FULL.values())))
            how = settings(
                max_examples=examples,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            seed(start)(how(given(st.data())(_once(name, work[name], counts, found, idle))))()
    finally:
        offline.stop()
        shutil.rmtree(root, ignore_errors=True)
    return counts, found


def _once(name: str, target: Target, counts: Counter[str], found: dict[str, str], idle: float) -> Callable[[st.DataObject], None]:
    """A function that tries one input; what it finds is noted once for each place in the code."""

    def once(data: st.DataObject) -> None:
        drawn: list[str] = []

        def draw(strategy: st.SearchStrategy) -> Any:
            value = data.draw(strategy)
            drawn.append(repr(value)[:200])
            return value

        began, wrong, said = time.monotonic(), "", ""
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                target(draw)
            counts[f"{name}: taken"] += 1
        except DOCUMENTED as error:
            counts[f"{name}: refused"] += 1
            said = str(error)
            if not str(error).strip() or (isinstance(error, TypeError) and not ours(error)):
                wrong = _place(error)
        except Exception as error:
            if type(error).__module__.startswith("hypothesis"):
                raise
            wrong, said = _place(error), str(error)
        if (took := time.monotonic() - began) > SLOW:
            wrong = f"{name} took {took:.0f} s"
        if (more := resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - idle) > MEMORY:
            wrong = f"{name} took {more / 1e9:.0f} GB"
        if wrong:
            found.setdefault(wrong, f"{name}({', '.join(drawn)}): {said[:200]}")

    return once


def _place(error: BaseException) -> str:
    """What was raised, and the last line of ours on the way there."""
    ours = [each for each in traceback.extract_tb(error.__traceback__) if "/audioscope/" in each.filename]
    where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno} {ours[-1].line}" if ours else "outside audioscope"
    return f"{type(error).__name__} [{where}]" if ours else f"{type(error).__name__} [{where}]: {str(error)[:200]}"


def ours(error: BaseException) -> bool:
    """Whether an error was raised by a line of ours, on purpose, or is a call that Python itself refuses."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return HERE in Path(last.filename).parents and (last.line or "").lstrip().startswith("raise")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--inputs", type=int, default=sum(FULL.values()))
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--only", default="", choices=["", *FULL])
    given_options = options.parse_args()
    counts, found = fuzz(given_options.inputs, given_options.seed, given_options.only)
    for what, count in sorted(counts.items()):
        print(f"{count:6}  {what}")
    for what, example in found.items():
        print(f"FOUND {what}\n      {example}")
    sys.exit(bool(found))
