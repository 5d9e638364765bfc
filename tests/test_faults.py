"""What broke in other people's hands, kind by kind (issue 20): each test is the right behaviour."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import HeunDiscreteScheduler, PNDMScheduler
from helpers.pipelines import BUILDERS

import audioscope
from audioscope import datasets
from audioscope.loading import read_sites
from audioscope.store import run_units, write_together

PROMPT = "a jazz song"
PAIRS = [("a fast song", "a slow song"), ("a fast jazz song", "a slow jazz song")]


# --- facts that are checked once and then changed


def test_a_scheduler_that_calls_the_denoiser_twice_per_step_is_refused(audioldm2):
    """Put in after the model was loaded: 11 calls in 6 steps, of which edits would reach 6."""
    before, plain = audioldm2.pipe.scheduler, audioldm2.generate(PROMPT, steps=6, seconds=0.64)
    audioldm2.pipe.scheduler = HeunDiscreteScheduler()
    try:
        for edits in ((), audioscope.Ablate(2)):
            with pytest.raises(ValueError, match="HeunDiscreteScheduler .*first-order scheduler"):
                audioldm2.generate(PROMPT, steps=6, seconds=0.64, edits=edits)
    finally:
        audioldm2.pipe.scheduler = before
    assert np.array_equal(audioldm2.generate(PROMPT, steps=6, seconds=0.64).samples, plain.samples)


@pytest.mark.parametrize("scheduler", [PNDMScheduler, HeunDiscreteScheduler])
def test_such_a_scheduler_is_refused_at_load_too(tmp_path, scheduler):
    pipe = BUILDERS["audioldm2"]()
    pipe.scheduler = scheduler()
    pipe.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="scheduler|denoiser calls|a call with"):
        audioscope.load(tmp_path)


def test_nothing_is_left_in_training_mode(tiny):
    plain = tiny.generate(PROMPT, steps=3)
    for part in (tiny.pipe.text_encoder, tiny.pipe.transformer):
        part.train()
        dropout = torch.nn.Dropout(0.5)
        part.add_module("extra_dropout", dropout)
        assert np.array_equal(tiny.generate(PROMPT, steps=3).samples, plain.samples) and not dropout.training
        del part._modules["extra_dropout"]


@pytest.mark.slow
def test_nnsight_code_of_their_own_keeps_its_save():
    """Whoever imports nnsight first has code of their own: its methods are away only while a pipeline runs here."""
    code = """
import nnsight, torch, audioscope
model = audioscope.load("tiny")
model.generate("a jazz song", steps=2, edits=audioscope.Ablate(2))
net = nnsight.NNsight(torch.nn.Sequential(torch.nn.Linear(2, 3)))
with net.trace(torch.ones(1, 2)):
    out = net[0].output.save()
print(tuple(out.shape))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "(1, 3)", done.stderr


# --- files


def test_files_that_belong_together_are_written_together(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("old")
    two.write_text("old")

    def full(part):
        part.write_text("half")
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")  # as safetensors says it

    with pytest.raises(OSError, match="is full. Finished work is kept") as caught:
        write_together({one: lambda part: part.write_text("new"), two: full})
    assert caught.value.errno == errno.ENOSPC
    assert one.read_text() == two.read_text() == "old" and sorted(tmp_path.iterdir()) == [one, two]


def test_a_vector_of_two_vectors_files_is_refused(tmp_path):
    datasets.vector("fast").save(tmp_path / "fast")
    datasets.vector("happy").save(tmp_path / "happy")
    shutil.copy(tmp_path / "fast.safetensors", tmp_path / "happy.safetensors")
    with pytest.raises(ValueError, match="the two files are of different vectors"):
        audioscope.SteeringVector.load(tmp_path / "happy")


def test_a_file_that_is_no_vectors_is_not_overwritten(tmp_path):
    (tmp_path / "results.json").write_text('{"mine": 1}')
    with pytest.raises(ValueError, match=r"results.json is not the file of a steering vector"):
        datasets.vector("fast").save(tmp_path / "results")
    assert (tmp_path / "results.json").read_text() == '{"mine": 1}' and not (tmp_path / "results.safetensors").exists()
    datasets.vector("fast").save(tmp_path / "fast")
    datasets.vector("happy").save(tmp_path / "fast")  # one vector may replace another
    assert audioscope.SteeringVector.load(tmp_path / "fast").metadata["concept"] == "happy"


def test_a_unit_is_done_when_its_table_and_its_clips_are_there(tmp_path):
    units, made = [{"number": number} for number in range(4)], []

    def work(unit):
        made.append(unit["number"])
        (tmp_path / f"{unit['number']}.flac").write_text("sound")
        return pd.DataFrame({"number": [unit["number"]], "clip": [f"{unit['number']}.flac"]})

    whole = run_units(tmp_path, {"a": 1}, units, work, progress=False)
    assert made == [0, 1, 2, 3] and run_units(tmp_path, {"a": 1}, units, work, progress=False).equals(whole) and len(made) == 4
    (tmp_path / "1.flac").unlink()  # deleted by hand
    cut = next(file for file in (tmp_path / "units").iterdir() if pd.read_parquet(file)["number"][0] == 2)
    cut.write_bytes(cut.read_bytes()[:50])  # the rename came before its data when the power failed
    assert run_units(tmp_path, {"a": 1}, units, work, progress=False).equals(whole) and made[4:] == [1, 2]


def test_a_clip_that_was_deleted_is_made_again(tiny, tmp_path):
    given = {"pairs": 2, "sites": [1], "steps": 2, "out": tmp_path, "progress": False}
    atlas = audioscope.localize(tiny, {"fast": PAIRS}, **given)
    clip = next(tmp_path.rglob("patched*.flac"), None) or next(tmp_path.rglob("*cross_attn.flac"))
    before = clip.read_bytes()
    clip.unlink()
    again = audioscope.localize(tiny, {"fast": PAIRS}, **given)
    assert clip.read_bytes() == before and again.table.equals(atlas.table)


def test_a_model_is_known_by_its_weights_and_not_by_its_spelling(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.pipe.save_pretrained("pipe")
    shutil.copytree("pipe", "elsewhere")
    given = {"pairs": 1, "sites": [1], "steps": 1, "out": "atlas", "progress": False}
    first = audioscope.localize(audioscope.load("pipe"), {"fast": PAIRS}, **given)
    for name in ("pipe/", "./pipe", tmp_path / "pipe", "elsewhere"):
        assert audioscope.localize(audioscope.load(name), {"fast": PAIRS}, **given).table.equals(first.table)


# --- options and paths


def test_options_of_load_are_honoured_or_refused_by_name(tmp_path):
    for name in ("float16", "torch.bfloat16", torch.bfloat16):
        assert audioscope.load("tiny", dtype=name).pipe.transformer.dtype == getattr(torch, str(name).removeprefix("torch."))
    for wrong in ("int8", "half-precision", 16, torch.long):
        with pytest.raises(ValueError, match="dtype is .*expected a float type"):
            audioscope.load("tiny", dtype=wrong)
    for device in ("cuda:99", "gpu", "tpu:0"):
        with pytest.raises(ValueError, match=f"device is '{device}'"):
            audioscope.load("tiny", device=device)
    for wrong, hint in (("torch_dtype", "dtype"), ("variannt", "variant"), ("load_in_8bit", "")):
        with pytest.raises(ValueError, match=f"{wrong} is no argument of load.*{hint}"):
            audioscope.load("tiny", **{wrong: True})
    half = audioscope.load("tiny", dtype="float16").pipe
    half.save_pretrained(tmp_path, variant="fp16")
    assert audioscope.load(tmp_path, variant="fp16", dtype="float16").pipe.transformer.dtype == torch.float16
    with pytest.raises(ValueError, match="holds only the variant fp16: pass variant='fp16'"):
        audioscope.load(tmp_path)
    with pytest.raises(ValueError, match="variant is 'fp8', but .* has the variants fp16"):
        audioscope.load(tmp_path, variant="fp8")


def test_the_command_line_takes_device_dtype_and_variant(tmp_path, capsys):
    from audioscope.cli.main import main

    assert (
        main(["generate", PROMPT, "--steps", "1", "--dtype", "bfloat16", "--device", "cpu", "--out", str(tmp_path / "a.flac")])
        == 0
    )
    assert main(["generate", PROMPT, "--dtype", "int8", "--out", str(tmp_path / "b.flac")]) == 2
    assert "dtype is 'int8'" in capsys.readouterr().err


def test_a_tilde_is_the_home_everywhere(tmp_path, monkeypatch):
    from audioscope.cli.main import parser

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    options = parser().parse_args(["atlas", "--html=~/a.html", "--out=~/atlas", "--beside=~/b"])
    assert options.html == tmp_path / "a.html" and options.out == tmp_path / "atlas" and options.beside == [tmp_path / "b"]
    for ask in (audioscope.load, read_sites):
        with pytest.raises(FileNotFoundError, match="No folder '~/nothing'"):
            ask("~/nothing")
    clip = audioscope.Clip(np.zeros((1, 100), np.float32), 16_000)
    assert clip.save("~/c.wav") == tmp_path / "c.wav" and audioscope.Clip.load("~/c.wav").rate == 16_000
    for saved in (
        datasets.vector("fast").save("~/v"),
        datasets.atlas().save("~/a"),
        datasets.sae("transformer.transformer_blocks.6.cross_attn").save_pretrained("~/s"),
    ):
        assert Path(saved).is_relative_to(tmp_path) and Path(saved).exists()
    assert not Path("~").exists()


# --- a way on after a refusal


def test_a_vector_and_an_sae_go_on_to_other_versions_of_their_model_on_purpose():
    half = audioscope.load("tiny", dtype="bfloat16")
    vector, sae = datasets.vector("fast"), datasets.sae("transformer.transformer_blocks.6.cross_attn")
    with pytest.raises(ValueError, match=r"vector\.for_model\(model\)"), half.steer(vector):
        pass
    with pytest.raises(ValueError, match=r"sae\.for_model\(model\)"):
        half.generate(PROMPT, steps=1, edits=audioscope.SAEEdit(sae, (3,)))
    moved, other = vector.for_model(half), sae.for_model(half)
    assert moved.metadata["made_from"]["fingerprint"] == vector.fingerprint == sae.metadata["fingerprint"]
    assert other.metadata["made_from"]["fingerprint"] == sae.metadata["fingerprint"] and "made_from" not in sae.metadata
    plain = half.generate(PROMPT, steps=2)
    with half.steer(moved, 3.0):
        assert not np.array_equal(half.generate(PROMPT, steps=2).samples, plain.samples)
    assert half.generate(PROMPT, steps=2, edits=audioscope.SAEEdit(other, (3,), "add", 1.0)).seconds > 4
    assert moved.for_model(half).metadata["made_from"] == moved.metadata["made_from"]


def test_nothing_is_asked_of_json_that_numpy_numbers_cannot_give(tiny, tmp_path):
    """Counts of any library end in files as plain numbers."""
    given = {
        "pairs": np.int64(1),
        "seeds": torch.tensor(1),
        "steps": np.int32(1),
        "guidance": np.float32(3),
        "batch_size": np.int8(2),
    }
    atlas = audioscope.localize(tiny, {"fast": PAIRS}, sites=np.array([1]), out=tmp_path, progress=False, **given)
    assert json.loads((tmp_path / "atlas.json").read_text())["pairs"] == 1 and atlas.settings["steps"] == 1
    vector = audioscope.caa(
        tiny,
        PAIRS,
        sites=[1],
        pairs=np.int64(2),
        seeds=np.int8(1),
        shuffle=np.int64(3),
        steps=1,
        file=tmp_path / "v",
        progress=False,
    )
    assert audioscope.SteeringVector.load(tmp_path / "v").metadata["shuffle"] == 3 == vector.metadata["shuffle"]
    assert os.listdir(tmp_path)


@pytest.mark.slow
def test_a_saved_copy_plays_and_a_missing_clip_says_what_to_do(tiny, tmp_path):
    atlas = audioscope.localize(tiny, ["fast"], pairs=4, sites=[1], steps=6, out=tmp_path / "a", progress=False)
    copy = audioscope.Atlas.load(atlas.save(tmp_path / "copy"))
    shutil.rmtree(tmp_path / "a")
    assert copy.play("fast") is not None
    shutil.rmtree(tmp_path / "copy" / "clips")
    with pytest.raises(FileNotFoundError, match="run the sweep again"):
        copy.play("fast")
    (tmp_path / "noise.wav").write_bytes(b"noise")
    with pytest.raises(ValueError, match=r"noise.wav cannot be read as sound"):
        audioscope.Clip.load(tmp_path / "noise.wav")


@pytest.mark.slow
def test_charts_have_no_limit_of_rows(monkeypatch):
    """Every chart, given its data as records, as beyond 5,000 rows: no type is guessed from a table."""
    atlas, sweep, site = datasets.atlas(), datasets.steering("fast"), "transformer.transformer_blocks.6.cross_attn"
    auroc = audioscope.sae.auroc_table({site: datasets.sae(site)})
    features = pd.DataFrame([(3, "fast", 0.98, 0.05), (5, "jazz", 0.9, 0.01)], columns=["feature", "concept", "auroc", "density"])
    log = pd.DataFrame({"tokens": [0, 40_000], "fvu": [0.9, 0.1], "dead": [0.0, 0.02]})
    evaluation = audioscope.sae.evaluate_tokens(audioscope.SAE(16, 32, 4), torch.randn(2, 100, 16), torch.tensor([1.0, 0.5]))
    charts = [
        atlas.chart, sweep.chart, lambda: audioscope.atlas.side_by_side({"tiny": atlas, "ACE": datasets.published("ace-step")}),
        lambda: audioscope.sae.auroc_chart(auroc, "Layer 6"), lambda: audioscope.steer.axes_chart(datasets.steering_table()),
        lambda: audioscope.sae.features_chart(features), lambda: audioscope.sae.training_chart(log), evaluation.chart,
        audioscope.atlas.score_strip,
    ]  # fmt: skip
    plain = [chart().to_dict() for chart in charts]
    monkeypatch.setattr("audioscope.theme.MAX_ROWS", 0)
    for chart, before in zip(charts, plain, strict=True):
        after = chart().to_dict()
        assert (after.keys() == before.keys() and "vconcat" not in after) or len(after["vconcat"]) == len(before["vconcat"])
    many = pd.concat([atlas.impacts().assign(concept=lambda t, n=n: t["concept"] + str(n)) for n in range(25)])
    monkeypatch.setattr("audioscope.theme.MAX_ROWS", 5000)
    assert len(many) > 5000 and audioscope.atlas.heatmap(many, atlas.layer_means()).to_dict()


# --- sound files as people have them


def test_sound_of_any_rate_and_place_is_read_or_named(tiny, tmp_path):
    import time

    import soundfile as sf

    wave = 0.1 * np.random.default_rng(0).standard_normal(11127 * 10).astype(np.float32)
    for name, rate in (("odd.wav", 11127), ("plain.ogg", 44100), (".hidden/no.wav", 16000), ("deep/in/a.flac", 8000)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        sf.write(tmp_path / name, wave, rate)
    sf.write(tmp_path / "long.mp3", wave, 44100)
    content = (tmp_path / "long.mp3").read_bytes()
    (tmp_path / "cut.mp3").write_bytes(content[: len(content) // 2])
    (tmp_path / "phone.m4a").write_bytes(b"not read")
    elsewhere = tmp_path.parent / f"{tmp_path.name}-linked"
    elsewhere.mkdir()
    sf.write(elsewhere / "linked.wav", wave, 16000)
    (tmp_path / "link").symlink_to(elsewhere)
    (tmp_path / "loop").symlink_to(tmp_path)
    began = time.process_time()
    with pytest.warns(UserWarning, match=r"1 files were left out: phone.m4a. Convert"):
        clips = audioscope.scoring.read_folder(tmp_path, tiny, seconds=1.5)
    assert time.process_time() - began < 30, "11127 Hz took 93 s"
    assert {clip.prompt for clip in clips} == {"odd.wav", "plain.ogg", "deep/in/a.flac", "long.mp3", "cut.mp3", "link/linked.wav"}
    assert {(clip.rate, clip.samples.shape) for clip in clips} == {(16000, (1, 24000))}
    (tmp_path / "empty.wav").write_bytes((tmp_path / "odd.wav").read_bytes()[:44])
    with pytest.raises(ValueError, match=r"empty.wav (holds no sound|cannot be read)"):
        audioscope.scoring.read_folder(tmp_path, tiny)


def test_without_a_place_to_write_numba_caches_in_a_temporary_folder(monkeypatch):
    from audioscope import installed

    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    installed.cache_somewhere()
    assert "NUMBA_CACHE_DIR" not in os.environ, "where it can be written, numba's own places serve"
    monkeypatch.setattr(installed.os, "access", lambda place, mode: False)
    installed.cache_somewhere()
    first = os.environ["NUMBA_CACHE_DIR"]
    assert Path(first).is_dir() and Path(first).stat().st_mode & 0o077 == 0, "nobody else's compiled code is run"
    installed.cache_somewhere()
    assert os.environ["NUMBA_CACHE_DIR"] == first


def test_waiting_threads_sleep_unless_the_user_says_otherwise():
    """libgomp reads this when torch loads it, so it is set when audioscope is imported first; benchmarks/busy.py measures it."""
    code = "import os; {before}import audioscope; print(os.environ.get('OMP_WAIT_POLICY'), os.environ.get('GOMP_SPINCOUNT'))"
    bare = {
        name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    }

    def seen(before="", **more):
        done = subprocess.run([sys.executable, "-c", code.format(before=before)], capture_output=True, text=True, env=bare | more)
        return done.stdout.split()

    assert seen() == ["PASSIVE", "1000"] and seen(GOMP_SPINCOUNT="7") == ["None", "7"]
    assert seen(before="import sys; sys.modules['torch'] = None; ") == ["None", "None"], "too late"
