"""Bad input gets one clear error, in Python and on the command line, and good input does what it says."""

import json
import os
import subprocess
import sys
import traceback
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch

import audioscope
from audioscope.audio import Clip
from audioscope.cli.main import main
from audioscope.edits import Ablate, AddText, PatchOutput, PatchText
from audioscope.tracing import Read, Row


def test_unknown_names_get_the_nearest(tiny):
    with pytest.raises(KeyError, match="violin"):
        audioscope.localize(tiny, ["violn"])
    with pytest.raises(KeyError, match=r"cross_attn"):
        tiny.generate("a slow song", edits=Ablate("transformer.transformer_blocks.3.cros_attn"))
    with pytest.raises(ValueError, match="self-attention"):
        tiny.generate("a slow song", edits=PatchText("self", "a fast song"))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"prompt": "  "}, "prompt is '  '"),
        ({"prompt": "a song", "seconds": 60}, "seconds is 60"),
        ({"prompt": "a song", "seconds": 0}, "seconds is 0"),
        ({"prompt": "a song", "steps": 0}, "steps is 0"),
        ({"prompt": "a song", "guidance": -1}, "guidance is -1"),
        ({"prompt": ["a song", "a track"], "seed": [1]}, "2 prompts but 1 seeds"),
    ],
)
def test_out_of_range(tiny, keywords, message):
    with pytest.raises(ValueError, match=message):
        tiny.generate(**keywords)


def test_edits_check_themselves():
    with pytest.raises(ValueError, match="branch is 'left'"):
        Ablate("cross", branch="left")
    with pytest.raises(ValueError, match="steps is"):
        PatchOutput("cross", "a song", steps=(3, 3))
    with pytest.raises(ValueError, match="to is 'one'"):
        Ablate("cross", to="one")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Row(3, 0), "prompt is 3"),
        *((lambda seed=seed: Row("a song", seed), "seed is") for seed in (-1, 1.5, "3", None, True, 2**70)),
        (lambda: Row("a song", 0, (3,)), "contains 3|3, expected"),
        (lambda: Row("a song", 0, "cross"), "'cross'"),
        (lambda: Read(("transformer",)), "sites contains 'transformer'"),
    ],
)
def test_rows_and_reads_check_themselves(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_a_run_wants_rows_and_steps_in_order(tiny):
    for call in (tiny.run, tiny.clips, tiny.run_in_batches):
        for wrong, message in (([], "rows is empty"), (None, "rows contains None"), (["a song"], "rows contains 'a song'")):
            with pytest.raises(ValueError, match=message):
                call(wrong, steps=1)
    for steps in ((), (2, 1), (1, 1), -1, 1.5):
        with pytest.raises(ValueError, match="steps is"):
            Read(tiny.sites.select(0), steps=steps)
    row = Row("a song", np.int64(0), Ablate(0))
    assert row == Row("a song", 0, [Ablate(0)])
    assert [clip.seed for clip in tiny.clips(row, steps=1)] == [0]


TABLE, NUMBERS = pd.DataFrame({"a": [1, 2]}), torch.zeros(2, 3)  # which have no truth value, and a repr of several lines


@pytest.mark.parametrize(
    "odd",
    [TABLE, NUMBERS, *(pytest.param(odd, marks=pytest.mark.slow) for odd in (3, [], {"a": 1}, object()))],
    ids=lambda odd: type(odd).__name__,
)
def test_a_choice_of_another_kind_is_an_error_of_ours(tiny, odd):
    """Where one of several words is asked for, anything else is refused in one line that names the argument."""
    atlas, vector = audioscope.datasets.atlas(), audioscope.datasets.vector("fast")
    sae = audioscope.datasets.sae(tiny.sites.cross[6].path)
    heatmap = audioscope.atlas.heatmap
    calls = {
        "branch": lambda: Ablate(0, branch=odd), "to": lambda: Ablate(0, to=odd), "scale": lambda: atlas.impacts(odd),
        "No concept": lambda: atlas.unrelated(odd), "concept": lambda: atlas.own_layers(odd), "example": lambda: atlas.play(odd),
        "did not score": lambda: atlas.heard_by(odd), "without": lambda: atlas.layer_means(without=[odd]),
        "other": lambda: atlas.correlation(odd), "mode": lambda: vector.edit(1.0, mode=odd),
        "directions": lambda: AddText(0, odd if not isinstance(odd, dict) else NUMBERS), "on_step": lambda: tiny.run(Row("a song", 0), on_step=odd),
        "within": lambda: tiny.run(Row("a song", 0), within=odd), "read": lambda: tiny.run(Row("a song", 0), read=odd),
        "latents": lambda: tiny.run(Row("a song", 0), latents=odd), "prompt": lambda: tiny.unknown_words(odd),
        "name": lambda: audioscope.Concept(odd, ()), "pairs": lambda: audioscope.Concept("x", [odd]), "split": lambda: audioscope.Concept("x", ()).split(odd),
        "kind": lambda: audioscope.SAE(4, 8, 2, kind=odd), "when": lambda: audioscope.localize(tiny, ["fast"], when=[odd], progress=False),
        "patch": lambda: audioscope.localize(tiny, ["fast"], patch=odd, progress=False), "against": lambda: audioscope.caa(tiny, "fast", against=odd, progress=False),
        "model": lambda: vector.for_model(odd), "model is": lambda: sae.for_model(odd), "sigmas": lambda: sae.failed([[odd]]),
        "sites is": lambda: audioscope.PatchPath(0, "a song").received(odd), "scores do not": lambda: sae.vector(odd),
        "branch to read": lambda: tiny.run(Row("a song", 0), read=Read(tiny.sites.select(0), branch=odd), steps=1),
        "has for": lambda: replace(vector, norms={path: [odd] for path in vector.norms}), "metadata": lambda: replace(vector, metadata=[odd]),
        "impacts": lambda: heatmap(odd, atlas.layer_means()), "layer_means": lambda: heatmap(atlas.impacts(), odd), "direction": lambda: heatmap(atlas.impacts(), atlas.layer_means(), direction=odd),
        "cells": lambda: audioscope.atlas.agreement_heatmap(odd), "attention": lambda: audioscope.atlas.attention_heatmap(odd),
        "memory": lambda: tiny.attention("a song", steps=1).of("song", memory=odd),
    }  # fmt: skip
    for expected, call in calls.items():
        with pytest.raises((ValueError, KeyError)) as raised:
            call()
        assert expected in str(raised.value) and "\n" not in str(raised.value), expected
        last = traceback.extract_tb(raised.value.__traceback__)[-1]
        assert Path(audioscope.__file__).parent in Path(last.filename).parents, f"{expected}: {raised.value}"


def test_players_check_what_they_are_given(tiny):
    for wrong in ({"prompt": 3}, {"strength": None}, {"strength": "x"}, {"seed": -1}, {"vectors": 3}, {"vectors": {"a": 3}}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} (is|has)"):
            tiny.play(**{"prompt": "a song", "steps": 1} | wrong)
    with pytest.raises(ValueError, match=r"prompt is \["):
        tiny.attention(["a song"], steps=1)


def test_there_is_a_limit_to_steps_and_to_bands(tiny):
    for steps in (10**6, 2**70):
        with pytest.raises(ValueError, match="steps is"):
            tiny.generate("a song", steps=steps)
    for mels in (0, 2.5, "64", None):
        with pytest.raises(ValueError, match="mels is"):
            Clip(np.zeros((1, 16_000), "float32"), 16_000).spectrogram(mels)


def test_unknown_words_are_listed(tiny):
    with pytest.warns(UserWarning, match="zither, kazoo"):
        tiny.generate("a slow song with zither, kazoo", steps=1)
    assert tiny.unknown_words("slow,sad jazz with violin/kazoo") == ["/", "kazoo"], "what is known beside it is not named"


def test_loading(tmp_path, tiny):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="model_index.json"):
        audioscope.load(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="No folder"):
        audioscope.load("nothing-of-the-kind")
    tiny.pipe.save_pretrained(tmp_path / "copy")
    weights = tmp_path / "copy" / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ValueError, match="damaged"):
        audioscope.load(tmp_path / "copy")


@pytest.mark.slow
def test_hub_name_without_network(tmp_path):
    """A hub that nobody answers for: one line, status 2."""
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "HF_HUB_ETAG_TIMEOUT": "1"}
    command = [sys.executable, "-m", "audioscope", "sites", "--model", "someone/some-model"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and "check the name and the network connection." in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


def test_pipeline_without_adapter(tiny):
    class Other:
        vae = None

    with pytest.raises(ValueError, match="No adapter for Other"):
        audioscope.Model(Other(), "other")


def test_listener_refuses_other_audio(stable_audio, tiny):
    import torch

    scorer = audioscope.scoring.listener_scorer()
    with pytest.raises(ValueError, match="another kind of model"):
        scorer.check(stable_audio)
    with pytest.raises(ValueError, match="4.096 s at 16000 Hz"):
        scorer(torch.zeros(1, 1, 44_100), 44_100)
    assert "female" in audioscope.scoring.listener_scorer(any_audio=True)(torch.zeros(1, 1, 44_100), 44_100)


def test_nan_is_an_error_in_generate(tiny, monkeypatch):
    monkeypatch.setattr(Ablate, "change", lambda self, own, other, here: own * float("nan"))
    with pytest.raises(FloatingPointError, match="NaN"):
        tiny.generate("a slow song", steps=1, edits=Ablate("cross"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sites", "--model", "/nowhere"], "No folder"),
        (["atlas", "--concepts", "violn"], "Nearest: violin"),
        (["atlas", "--quick", "--pairs", "0"], "pairs is 0"),
        (["generate", "", "--out", "x.flac"], "prompt is ''"),
        (["generate", "a song", "--out", "x.xyz"], "suffix"),
        (["generate", "a song", "--seconds", "99", "--out", "x.flac"], "seconds is 99"),
        (["generate", "a song", "--seed", str(2**70), "--out", "x.flac"], "seed is"),
        (["generate", "a song", "--out", "folder.flac"], "folder"),
        (["tiny", "train", "--hours", "0"], "--hours is 0"),
        (["tiny", "train", "--hours", "inf"], "--hours is inf"),
        (["tiny", "evaluate", "--clips", "0"], "clips is 0"),
        (["atlas", "--concepts", ""], "Unknown concept ''"),
        (["atlas", "--concepts", "header.csv"], "empty"),
        (["atlas", "--sites", "self", "--patch", "text"], "patch='output'"),
    ],
)
def test_command_line_errors(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.flac").mkdir()
    (tmp_path / "header.csv").write_text("concept,clean,corrupted\n")
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and "Traceback" not in err and out == ""


def test_sites_and_generate_commands(capsys, tmp_path):
    assert main(["sites", "--model", "tiny", "--json"]) == 0
    sites = json.loads(capsys.readouterr().out)
    assert len(sites) == 24 and sites[1] == {
        "path": "transformer.transformer_blocks.0.cross_attn", "kind": "cross", "layer": 0, "width": 128
    }  # fmt: skip
    out = tmp_path / "clip.flac"
    assert main(["generate", "a slow sad song with violin", "--seed", "0", "--steps", "2", "--out", str(out)]) == 0
    samples, rate = sf.read(out)
    assert rate == 16_000 and len(samples) == 65_536 and np.abs(samples).max() > 0.01


def test_import_is_light():
    code = "import sys, audioscope; assert not {'torch', 'diffusers', 'nnsight', 'altair'} & set(sys.modules); print(audioscope.__version__)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_only_tracing_imports_nnsight(root):
    import re

    files = [f.name for f in (root / "audioscope").rglob("*.py") if re.search(r"^\s*(import|from) nnsight", f.read_text(), re.M)]
    assert files == ["tracing.py"]


def test_wrong_arguments_are_one_line(capsys):
    for arguments in (["generate", "a song"], ["generate", "a song", "--steps", "x", "--out", "y.flac"], ["nothing"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_atlas_command_writes_page_table_and_clips(capsys, tmp_path):
    out = tmp_path / "atlas"
    assert main(["atlas", "--concepts", "fast,drums", "--pairs", "4", "--steps", "2", "--out", str(out), "--bare"]) == 0
    assert str(out / "index.html") in capsys.readouterr().out
    assert (out / "atlas.parquet").exists() and len(list(out.glob("clips/*/*/*.flac"))) == 2 * 4 * 14
    assert len(list((out / "packs").glob("*/*.js"))) == 2 * 4, "one pack a pair"
    clip, rate = sf.read(next(out.glob("clips/fast/*/clean.flac")))
    assert rate == 16_000 and len(clip) == 65_536


def test_no_name_leads_out_of_the_folder():
    from audioscope.store import safe_name

    assert safe_name("..").startswith("__-") and safe_name("a/b.c d").startswith("a_b_c_d-")
