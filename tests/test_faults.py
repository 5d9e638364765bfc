"""What broke in other people's hands, kind by kind (issue 20): each test is the right behaviour."""

import errno
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import soundfile as sf
import torch
from diffusers import HeunDiscreteScheduler, PNDMScheduler
from helpers.pipelines import BUILDERS

import audioscope
from audioscope import datasets
from audioscope.audio import Clip
from audioscope.cli.main import main
from audioscope.errors import UnknownName, real
from audioscope.loading import read_sites
from audioscope.steer import Track, steering_sweep, vector_method
from audioscope.store import run_units, safe_name, write_together

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


@pytest.mark.slow
@pytest.mark.parametrize("first", ["nnsight, audioscope", "audioscope.tracing, audioscope"])
def test_two_models_may_run_at_once(first):
    """nnsight's `save` is of the whole process: the run that ends first must not put it back, nor the second take it off twice."""
    code = (
        f"import {first}"
        + """
import threading, numpy as np
models, wrong = [audioscope.load("tiny") for _ in range(2)], []
edits = [audioscope.Ablate(2), audioscope.PatchText(5, "a fast song")]
alone = models[0].generate("a jazz song", steps=2, edits=edits).samples

def use(model):
    try:
        for _ in range(12):
            wrong.extend([] if np.array_equal(model.generate("a jazz song", steps=2, edits=edits).samples, alone) else ["other numbers"])
    except BaseException as error:
        wrong.append(repr(error))

threads = [threading.Thread(target=use, args=(model,)) for model in models * 2]
[thread.start() for thread in threads], [thread.join() for thread in threads]
print(wrong, hasattr(object(), "save"))
"""
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == f"[] {first.startswith('nnsight')}", done.stderr


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


@pytest.mark.skipif(os.name == "nt", reason="no such modes there")
def test_files_can_be_read_by_whoever_may_read_other_new_files(tiny, tmp_path):
    """Those of a colleague on a cluster, too: safetensors alone would keep them to their owner."""
    (tmp_path / "usual").write_text("")
    audioscope.SAE(16, 32, 4, "topk").save_pretrained(tmp_path / "sae")
    datasets.vector("fast").save(tmp_path / "vector")
    audioscope.steer.write_pack(datasets.vector("fast").only(tiny.sites.select([6])), tmp_path / "pack.safetensors", tiny)
    modes = {file.relative_to(tmp_path): file.stat().st_mode for file in tmp_path.rglob("*") if file.is_file()}
    assert len(modes) >= 5 and set(modes.values()) == {(tmp_path / "usual").stat().st_mode}, modes


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

    def work(unit, folder):
        made.append(unit["number"])
        Clip(np.random.default_rng(0).normal(0, 0.1, (1, 4000)).astype("float32"), 8000).save(tmp_path / f"{unit['number']}.flac")
        return pd.DataFrame({"number": [unit["number"]], "clip": [f"{unit['number']}.flac"]})

    whole = run_units(tmp_path, {"a": 1}, units, work, progress=False)
    assert made == [0, 1, 2, 3] and run_units(tmp_path, {"a": 1}, units, work, progress=False).equals(whole) and len(made) == 4
    (tmp_path / "1.flac").unlink()  # deleted by hand
    cut = next(file for file in (tmp_path / "units").iterdir() if pd.read_parquet(file)["number"][0] == 2)
    cut.write_bytes(cut.read_bytes()[:50])  # the rename came before its data when the power failed
    sound = tmp_path / "3.flac"
    sound.write_bytes(sound.read_bytes()[:-1])
    assert run_units(tmp_path, {"a": 1}, units, work, progress=False).equals(whole) and made[4:] == [1, 2, 3]


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
    assert (
        main(["generate", PROMPT, "--steps", "1", "--dtype", "bfloat16", "--device", "cpu", "--out", str(tmp_path / "a.flac")])
        == 0
    )
    assert main(["generate", PROMPT, "--dtype", "int8", "--out", str(tmp_path / "b.flac")]) == 2
    assert "dtype is 'int8'" in capsys.readouterr().err


def test_a_tilde_is_the_home_everywhere(tmp_path, monkeypatch, capsys):
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
    with pytest.raises(SystemExit):
        parser().parse_args(["atlas", "--html=~nobody-of-this-name/a.html"])
    assert "determine home directory" in capsys.readouterr().err, "the reason is said, not only the value"


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
    many = pd.DataFrame({"tokens": np.arange(6000), "fvu": 0.5, "dead": 0.0})
    monkeypatch.setattr("audioscope.theme.MAX_ROWS", 5000)
    assert audioscope.sae.training_chart(many).to_dict()


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


# --- files of other versions, damaged files, and what killed runs leave


def saved(folder):
    """Everything that users save, and how it is loaded: the file with its format, and a function."""
    atlas = datasets.maps()["early"].save(folder / "atlas")
    sweep = datasets.steering("fast").save(folder / "sweep")
    vector = datasets.vector("fast").save(folder / "fast")
    site = "transformer.transformer_blocks.0.cross_attn"
    sae = datasets.sae(site).save_pretrained(folder / "sae")
    tokens = torch.randn(2, 100, 16, generator=torch.Generator().manual_seed(0))
    evaluation = audioscope.sae.evaluate_tokens(audioscope.SAE(16, 32, 4), tokens, torch.tensor([1.0, 0.5])).save(
        folder / "e.json"
    )
    run_units(folder / "run", {"a": 1}, [{"b": 1}], lambda unit, folder: pd.DataFrame(unit, index=[0]), progress=False)
    return {
        "atlas": (atlas / "atlas.json", lambda: audioscope.Atlas.load(atlas)),
        "sweep": (sweep / "steering.json", lambda: audioscope.steer.SteeringSweep.load(sweep)),
        "vector": (vector.with_suffix(".json"), lambda: audioscope.SteeringVector.load(vector)),
        "SAE": (sae / "cfg.json", lambda: audioscope.SAE.from_pretrained(sae)),
        "evaluation": (evaluation, lambda: audioscope.sae.SAEEvaluation.load(evaluation)),
        "run": (folder / "run" / "settings.json", lambda: run_units(folder / "run", {"a": 1}, [{"b": 1}], pd.DataFrame, progress=False)),
    }  # fmt: skip


def test_every_saved_file_carries_its_format_and_a_newer_one_is_refused(tmp_path):
    for kind, (file, load) in saved(tmp_path).items():
        load()
        about = json.loads(file.read_text())
        place = about["metadata"]["audioscope"] if kind == "SAE" else about
        assert place["format"] == 1, kind
        place["format"] = 2
        file.write_text(json.dumps(about))
        with pytest.raises(ValueError, match=r"has format 2, but this audioscope \(.*\) reads up to 1: update audioscope\.$"):
            load()
        for wrong in ("1", True, None):
            place["format"] = wrong
            file.write_text(json.dumps(about))
            with pytest.raises(ValueError, match="damaged"):
                load()
        del place["format"]  # of before formats were numbered
        file.write_text(json.dumps(about))
        load()


def test_what_is_loaded_does_not_hold_the_format(tmp_path):
    for _, load in saved(tmp_path).values():
        loaded = load()
        for about in (getattr(loaded, "settings", {}), getattr(loaded, "metadata", {})):
            assert not {"format", "content"} & set(about)


@pytest.mark.parametrize("how", ["cut", "empty", "flipped", "no object", "latin-1"])
def test_a_damaged_file_is_named_in_one_line(tmp_path, how):
    for kind, (file, load) in saved(tmp_path).items():
        content = file.read_bytes()
        at = content.index(b'"', len(content) // 3) + 1
        flipped = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        file.write_bytes(
            {
                "cut": content[: len(content) // 2],
                "empty": b"",
                "flipped": flipped,
                "no object": b"[1]",
                "latin-1": b"\xe9" + content,
            }[how]
        )
        if how == "flipped" and kind not in ("atlas", "sweep"):
            continue  # it may still say something
        with pytest.raises(ValueError) as told:
            load()
        assert file.name in str(told.value) and "\n" not in str(told.value)


def test_a_table_of_another_sweep_is_refused(tmp_path):
    one, other = (datasets.maps()[name].save(tmp_path / name) for name in ("early", "late"))
    shutil.copy(other / "atlas.parquet", one / "atlas.parquet")
    with pytest.raises(ValueError, match="atlas.json beside it is of another table"):
        audioscope.Atlas.load(one)


@pytest.mark.parametrize("clip", ["../../secret.flac", "/etc/passwd"])
def test_a_strangers_table_names_no_clip_outside_its_folder(tmp_path, clip):
    atlas = datasets.maps()["early"]
    atlas.table["clip"] = clip
    atlas.table.to_parquet(tmp_path / "atlas.parquet")
    (tmp_path / "atlas.json").write_text(json.dumps(atlas.settings))
    with pytest.raises(ValueError, match="which is not in its folder"):
        audioscope.Atlas.load(tmp_path)


def test_what_a_killed_run_had_begun_to_write_is_dropped(tmp_path):
    script = "import os, sys\nfrom pathlib import Path\nfrom audioscope.store import write_whole\n"
    script += "def half(part):\n    part.write_text('ha')\n    os.kill(os.getpid(), 9)\n\nwrite_whole(Path(sys.argv[1]), half)\n"
    file = tmp_path / "a [1].json"  # no pattern
    subprocess.run([sys.executable, "-c", script, str(file)])
    (left,) = tmp_path.iterdir()
    mine = left.with_name(left.name.replace(left.name.split(".")[-4 + 1], str(os.getpid())))
    mine.write_text("of a process that lives")
    elsewhere = tmp_path / f"{file.name}.another-machine.1.2.part"
    elsewhere.write_text("of another machine")
    write_together({file: lambda part: part.write_text("whole")})
    assert file.read_text() == "whole" and not left.exists() and mine.exists() and elsewhere.exists()


def test_half_a_vector_in_a_folder_is_made_again(tiny, tmp_path):
    """A run that was killed between its two files, or whose numbers were cut, goes on; what is no vector of ours is not touched."""

    def make():
        return audioscope.caa(tiny, PAIRS, [0], steps=1, file=tmp_path / "v", progress=False)

    whole, numbers, rest = make(), tmp_path / "v.safetensors", tmp_path / "v.json"
    said = rest.read_text()
    rest.unlink()
    assert torch.equal(make().directions[whole.paths[0]], whole.directions[whole.paths[0]]) and rest.read_text() == said
    numbers.write_bytes(numbers.read_bytes()[:-10])
    with pytest.warns(UserWarning, match="made again"):
        make()
    assert rest.read_text() == said


# --- inputs of other types


NO_NUMBER = ["1", None, [1], {}, np.zeros(2), torch.ones(2), ..., float("nan"), float("inf"), 1j]


@pytest.mark.parametrize("value", NO_NUMBER, ids=repr)
def test_what_is_no_number_is_named(value):
    vector, sae = datasets.vector("fast"), datasets.sae("transformer.transformer_blocks.6.cross_attn")
    tries = {
        "strength": lambda: vector.edit(value), "seconds": lambda: vector.edit(1.0, seconds=(0, value)),
        "value": lambda: audioscope.SAEEdit(sae, (1,), "scale", value) if value is not None else real("value", value),
        "k": lambda: audioscope.SAE(8, 16, value), "d_sae": lambda: audioscope.SAE(8, value, 2), "seed": lambda: audioscope.SAE(8, 16, 2, seed=value),
        "batch_size": lambda: audioscope.sae.train_sae([torch.randn(9, 3)], batch_size=value), "count": lambda: datasets.some_prompts(value),
    }  # fmt: skip
    for name, attempt in tries.items():
        with pytest.raises(ValueError, match=name) as told:
            attempt()
        assert "expected" in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize("value", [3, None, 1.5, ..., "music"], ids=repr)
def test_what_is_no_list_is_named(tiny, value):
    sae = datasets.sae("transformer.transformer_blocks.6.cross_attn")
    tries = {
        "prompts": lambda: audioscope.pages.feature_clips(sae, tiny, value if value is not None else 3, steps=1),
        "The pairs": lambda: audioscope.load_concepts(value if value != "music" else 3),
        "also": lambda: audioscope.localize(tiny, PAIRS, 1, also=value if value is not None else 3),
        "methods": lambda: audioscope.steer.steering_sweep(tiny, "fast", value if value is not None else 3, strengths=[1]),
    }
    for name, attempt in tries.items():
        with pytest.raises(ValueError, match=f"^{name} is .*, expected"):
            attempt()
    with pytest.raises(ValueError, match="prompts is 'music', expected a list of texts"):
        audioscope.sae.TokenStream(tiny, sae.metadata["site"], "music")


@pytest.mark.parametrize("value", [3, None, "a\0b", b"x", "~nobody-of-this-name/x"], ids=repr)
def test_what_is_no_path_is_named(value):
    for attempt in (
        Clip.load,
        audioscope.SteeringVector.load,
        audioscope.Atlas.load,
        audioscope.SAE.from_pretrained,
        datasets.vector("fast").save,
    ):
        with pytest.raises(ValueError, match="A path is "):
            attempt(value)


def test_long_values_are_cut_in_messages():
    with pytest.raises(ValueError) as told:
        audioscope.SAE(8, 16, "x" * 5000)
    assert len(str(told.value)) < 250


# --- a check of one's own model


def test_check_tells_laws_and_cost_and_its_status(tiny, capsys):
    assert main(["check", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["passes"] and len(told["laws"]) == 10 and told["facts"]["fingerprint"] == tiny.fingerprint
    assert told["cost"]["seconds_a_unit"] > 0 and told["cost"]["rows_a_unit"] == 14 and told["cost"]["peak_memory_gb"] > 0.1
    assert main(["check", "--device", "mps"]) == 2
    said = capsys.readouterr().err
    assert "device is 'mps', which torch cannot use here" in said and said.count("\n") == 1


def test_check_finds_a_model_on_which_the_laws_fail(monkeypatch, capsys):
    """A hook that adds what rows have in common: edits of one row reach the others."""
    model = audioscope.load("tiny")
    middle = model.denoiser.get_submodule(model.sites.cross[6].path.split(".", 1)[1])
    middle.register_forward_hook(lambda module, args, out: out + 0.3 * out.mean(0, keepdim=True))
    report = audioscope.check_model(model)
    failed = report.laws[~report.laws["passes"]]["law"].tolist()
    assert not report.passes and any("as if run alone" in law for law in failed) and any("without hooks" in law for law in failed)
    assert "FAILS" in repr(report)
    monkeypatch.setattr("audioscope.cli.main.loaded", lambda options: model)
    assert main(["check"]) == 1 and "of 10 laws FAIL" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_laws_hold_on_every_pipeline_in_every_precision(tmp_path, dtype):
    for name, build in BUILDERS.items():
        build().save_pretrained(tmp_path / name)
        model = audioscope.load(tmp_path / name, dtype=dtype)
        report = audioscope.check_model(model)
        assert report.passes, (name, report)


def test_threads_may_load_at_once():
    """Loading replaces a method of torch for the whole process: of two at once, the second would leave the first one's there."""
    method = torch.nn.Module.register_parameter
    listener, codec = (datasets.data_folder() / "tiny" / name for name in ("listener", "vae"))
    loads = [
        audioscope.load,
        lambda: audioscope.tiny.Listener.from_pretrained(listener),
        lambda: audioscope.tiny.MelCodec.from_pretrained(codec),
    ]
    with ThreadPoolExecutor(6) as pool:
        done = [pool.submit(load) for load in loads * 8]
        assert all(each.result() is not None for each in done)
    assert torch.nn.Module.register_parameter is method
    assert audioscope.load("tiny").generate(PROMPT, steps=1).samples.any()


# --- what a second reader found


def test_two_methods_whose_names_are_alike_keep_their_own_clips(tiny, tmp_path):
    vector = datasets.vector("fast")
    methods = [
        vector_method(vector, "all", "a.b"),
        vector_method(-vector, "all", "a b"),
        vector_method(vector, "all", "x" * 90),
        vector_method(vector, "all", "x" * 91),
    ]
    how = {"prompts": 1, "seeds": 1, "steps": 1, "clips": True, "progress": False}
    sweep = steering_sweep(tiny, "fast", methods, [3.0], out=tmp_path, **how)
    kept = sweep.table.loc[sweep.table["strength"] != 0, "clip"]
    assert kept.nunique() == 4 and all((tmp_path / clip).exists() for clip in kept)
    assert safe_name("caa own") == "caa_own" != safe_name("caa_own"), "what is common stays readable"


@pytest.mark.parametrize("text, said", [
    ("concept,clean,corrupted\nfast,a fast song,a slow song,extra", "cannot be read"),
    ("concept,clean,clean,corrupted\nfast,a,b,c", "has the column 'clean' twice"),
])  # fmt: skip
def test_a_csv_with_shifted_columns_is_refused(tmp_path, text, said):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        audioscope.load_concepts(tmp_path / "a.csv")


def test_files_of_something_else_are_not_overwritten(tiny, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(safetensors.torch.save({"weight": torch.zeros(2)}))
    (tmp_path / "cfg.json").write_text('{"mine": 1}')
    (tmp_path / "atlas.json").write_text('{"mine": 1}')
    (tmp_path / "index.html").write_text("<!doctype html><p>my site")
    atlas = datasets.maps()["early"]
    sae = datasets.sae("transformer.transformer_blocks.0.cross_attn")
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    tries = [
        lambda: datasets.vector("fast").save(tmp_path / "model"), lambda: sae.save_pretrained(tmp_path), lambda: atlas.save(tmp_path),
        lambda: audioscope.pages.save_site(atlas, tmp_path, progress=False), lambda: audioscope.pages.save_html(atlas, tmp_path / "index.html", progress=False),
    ]  # fmt: skip
    for attempt in tries:
        with pytest.raises(ValueError, match="would be overwritten: choose another"):
            attempt()
    assert {file: file.read_bytes() for file in before} == before
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in before}, "no sound was written before"
    (tmp_path / "cut.html").write_text("<!doctype html>\n<html")  # a page of ours that was cut short
    assert audioscope.pages.save_html(atlas, tmp_path / "cut.html", progress=False).stat().st_size > 100_000


@pytest.mark.parametrize("command", ["atlas --out {}", "atlas --out x --html {}/index.html", "steer --concept fast --out {}", "attention song --html {}/index.html",
                                     "book --out {}", "sae pages --sae transformer.transformer_blocks.0.cross_attn --features 0 --out {}"])  # fmt: skip
def test_a_page_of_something_else_is_found_before_any_work(tmp_path, capsys, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("audioscope.loading.load", lambda *args, **keywords: pytest.fail("a model was loaded first"))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("<!doctype html><p>my site")
    assert main(command.format("site").split()) == 2
    assert "site/index.html is a page of something else" in capsys.readouterr().err.replace("\\", "/")
    assert [file.name for file in (tmp_path / "site").iterdir()] == ["index.html"]


@pytest.mark.parametrize("samples, rate", [
    (np.full((1, 10), 20_000, np.int16), 16_000), (np.full((1, 10), np.nan), 16_000), (np.zeros(10), 16_000), ([[0.0]], 16_000), (np.zeros((1, 9)), 0), (np.zeros((1, 9)), "16000"),
])  # fmt: skip
def test_what_is_no_sound_is_no_clip(samples, rate):
    with pytest.raises(ValueError, match="samples|rate"):
        Clip(samples, rate)


@pytest.mark.parametrize("answer", [np.inf, None, 1j], ids=repr)
def test_scores_that_are_no_numbers_are_refused_before_any_work(tiny, tmp_path, answer):
    class Odd:
        concepts = ("fast",)

        def __call__(self, audio, rate):
            return [answer] * len(audio)

    with pytest.raises(ValueError, match="The scorer 'Odd' returned list .*expected numbers"):
        audioscope.localize(tiny, ["fast"], 1, scorer=Odd(), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", [
    {"strengths": "abc"}, {"strengths": {"zz": ["x"]}}, {"strengths": [float("nan")]}, {"grid": "ab"}, {"grid": [-1.0]}, {"without": "a song"}, {"without": 3},
    {"atlas": "x"}, {"methods": "caa"}, {"methods": []}, {"workers": 0},
], ids=repr)  # fmt: skip
def test_a_steering_sweep_checks_all_before_it_reads_activations(tiny, tmp_path, monkeypatch, wrong):
    monkeypatch.setattr("audioscope.steer.sweeps.caa", lambda *a, **k: pytest.fail("work before the check"))
    with pytest.raises((ValueError, TypeError), match="expected"):
        steering_sweep(tiny, "fast", **{"strengths": [1.0], "prompts": 1, **wrong}, out=tmp_path)


@pytest.mark.parametrize(
    "returned", [None, torch.zeros(2, 3), [np.zeros((2, 3))], [torch.zeros(5, 3)]], ids=["None", "tensor", "arrays", "rows"]
)
def test_layers_of_a_scorer_are_tried_first(tiny, returned):
    class Odd:
        concepts = ("fast", "slow")

        def __call__(self, audio, rate):
            return np.zeros((len(audio), 2))

        def layers(self, audio, rate):
            return returned

    with pytest.raises(ValueError, match=r"layers\(\) of the scorer 'Odd' returned"):
        steering_sweep(tiny, "fast", datasets.vector("fast"), [1.0], scorer=Odd(), price=Odd(), prompts=1, steps=1)


@pytest.mark.parametrize("words", [
    ["steer", "--concept", "fast", "--strengths", "1:2:99999999999"], ["steer", "--concept", "fast", "--strengths", "nan"],
    ["steer", "--concept", "fast", "--workers", "0"], ["atlas", "--concepts", "fast", "--workers", "x"], ["atlas", "--concepts", "fast", "--html", "/proc/x/a.html"],
], ids=" ".join)  # fmt: skip
def test_the_command_line_checks_before_it_works(tmp_path, capsys, monkeypatch, words):
    monkeypatch.setattr("audioscope.cli.main.loaded", lambda options: pytest.fail("work before the check"))
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("audioscope: ") and said.count("\n") == 1


def test_loading_leaves_the_random_numbers_of_others_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    audioscope.load("tiny")
    assert torch.equal(torch.rand(3), expected)


def test_one_where_several_may_be_given(tiny, tmp_path):
    clip = Clip(np.full((1, 8000), 0.1), 16000)
    track = Track("t", [0.0, 1.0], [clip, clip], ["", ""])
    assert audioscope.pages.slider_page(track, tmp_path / "s.html", "One").exists()
    atlas, early = datasets.atlas(), datasets.maps()["early"]
    assert audioscope.pages.save_html(early, tmp_path / "a.html", atlas, size=3_000_000, progress=False).exists()
    for attempt, said in ((lambda: audioscope.pages.save_html(early, tmp_path / "b.html", ["x"]), "others contains 'x'"),
                          (lambda: audioscope.pages.slider_page([clip], tmp_path / "c.html", "x"), "tracks contains Clip")):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            attempt()
    with pytest.raises(KeyError, match="No direction at 'nope'. Available: transformer"):
        datasets.vector("fast").at("nope", 0.5)
    assert audioscope.localize(tiny, ["fast"], 1, sites=[0], steps=2, when=torch.tensor(1), progress=False).settings["when"] == 1


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (lambda pipe: pipe.transformer.half(), "its transformer was changed to dtype float16"),
        (lambda pipe: pipe.register_modules(scheduler=None), "its scheduler was removed since it was loaded"),
        (lambda pipe: pipe.transformer.to("meta"), "the weights of its transformer are not loaded"),
        (lambda pipe: pipe.register_modules(vae=None), "its vae was removed"),
        (lambda pipe: pipe.text_encoder.to(torch.float64), "its text_encoder was changed to dtype float64"),
    ],
)
def test_a_pipeline_that_was_broken_after_loading_says_what_is_wrong(harm, expected):
    model = audioscope.load("tiny")
    harm(model.pipe)
    with pytest.raises(ValueError, match=expected) as raised:
        model.generate("a song", steps=1)
    assert "\n" not in str(raised.value)


def test_an_error_of_ones_own_function_is_not_taken_for_a_broken_pipeline(tiny):
    def wrong(values, here):
        raise TypeError("my own mistake")

    with pytest.raises(TypeError, match="my own mistake"):
        tiny.generate("a song", edits=audioscope.Apply(6, wrong), steps=1)


def stream(**how):
    return audioscope.sae.TokenStream(audioscope.load("tiny"), "transformer.transformer_blocks.6.cross_attn", **how)


@pytest.mark.parametrize(
    ("do", "expected"),
    [
        (lambda: audioscope.steer.prompt_switch_method("4"), "steps is '4'"),
        (lambda: audioscope.steer.prompt_switch_method(0), "steps is 0"),
        (lambda: audioscope.load("tiny").sampling(negative_prompt="\ud800"), "negative_prompt is"),
        (lambda: audioscope.load("tiny").sampling(seconds=1e-320), "seconds is"),
        (lambda: datasets.sae(datasets.saes().copy().popitem()[0]).levels.at({1, 2}), "sigma is"),
        (lambda: stream(branches=36), "branches is 36"),
        (lambda: stream(branches="x"), "branches is 'x'"),
        (lambda: stream(at_steps=(Path("x"), False)), "at_steps is"),
        (lambda: stream(at_steps=99), "at_steps is 99"),
        (lambda: stream(positions="4"), "positions is '4'"),
        (lambda: datasets.vector("fast").push_to_hub("me/x", clips=1e-320), "clips is"),
        (lambda: audioscope.SAE(4, 8, 2).encode([[1, 2, 3, 4]]), r"x is int64 \[1, 4\], expected floats"),
        (lambda: audioscope.SAE(4, 8, 2).encode("x"), "x is 'x', expected a float tensor"),
        (lambda: audioscope.SAE(4, 8, 2).encode(torch.ones(3, 5)), r"float32 \[3, 5\], expected floats \[..., 4\]"),
        (lambda: audioscope.SAE(4, 8, 2).decode(torch.ones(3, 5)), r"features is float32 \[3, 5\]"),
        (
            lambda: audioscope.sae.evaluate_tokens(audioscope.SAE(4, 8, 2), torch.ones(2, 4), [1.0, 0.5]),
            "expected .levels, items",
        ),
        (lambda: audioscope.sae.evaluate_tokens(audioscope.SAE(4, 8, 2), torch.ones(2, 9, 4), [1.0]), "expected .levels, items"),
        (lambda: audioscope.load("tiny", adapter="x"), "adapter is 'x', expected an Adapter"),
        (lambda: audioscope.steer.smoothness("x", [1.0]), "expected numbers"),
        (lambda: audioscope.steer.smoothness([1.0, 2.0], [1.0, 2.0]), "with a strength of 0"),
        (lambda: audioscope.steer.smoothness([0.0, 1.0], [1.0, np.nan]), "finite numbers"),
        (lambda: audioscope.steer.smoothness([0.0, 1.0], [1.0, 2.0], points="3"), "points is '3'"),
        (lambda: audioscope.atlas.side_by_side([audioscope.datasets.atlas()]), "expected at least one atlas by its name"),
        (lambda: audioscope.atlas.side_by_side({"a": 1.0}), "expected at least one atlas by its name"),
        (lambda: audioscope.scoring.listener_scorer("x"), "No listener 'x'"),
        (lambda: audioscope.Concept("a\u2028b", ()), "control character or a line separator"),
        (lambda: audioscope.load_concepts({"a\nb": [("x", "y")]}), "control character or a line separator"),
        (lambda: audioscope.steer.SteeringMethod("a\u2029", "x", lambda *_: []), "control character or a line separator"),
    ],
)
def test_what_ended_in_the_words_of_python_is_named(do, expected):
    with pytest.raises((ValueError, UnknownName), match=expected) as raised:
        do()
    assert "\n" not in str(raised.value)


def test_an_sae_takes_arrays_and_any_float():
    sae, x = audioscope.SAE(4, 8, 2), np.random.default_rng(0).standard_normal((5, 4))
    wanted = sae.encode(torch.from_numpy(x).float())
    assert torch.equal(sae.encode(x), wanted) and torch.equal(sae.encode(torch.from_numpy(x)), wanted)


def test_a_file_of_hardly_any_rate_is_no_music(tiny, tmp_path):
    sf.write(tmp_path / "slow.wav", np.ones(20, np.float32) * 0.1, 1)
    with pytest.raises(ValueError, match="slow.wav cannot be read as audio .its sampling rate is 1 Hz"):
        audioscope.scoring.read_folder(tmp_path, tiny)


def test_a_table_of_others_with_names_that_charts_cannot_show_is_refused(tmp_path):
    atlas = audioscope.datasets.maps()["early"]
    atlas.table = atlas.table.assign(concept=atlas.table["concept"].astype(str).replace("fast", "a\u2028b"))
    folder = atlas.save(tmp_path)
    with pytest.raises(ValueError, match="which contains a control character or a line separator"):
        audioscope.Atlas.load(folder)


def test_a_header_that_claims_more_than_a_file_can_hold_asks_for_no_memory(tmp_path, monkeypatch):
    silence = Clip(np.zeros((1, 16_000 * 600), "float32"), 16_000)
    assert Clip.load(silence.save(tmp_path / "long.flac")).seconds == 600, "silence is dense"
    file = Clip(np.zeros((1, 1000), "float32"), 16_000).save(tmp_path / "a.wav")
    told = sf.info(file)
    told.frames = 2**33
    monkeypatch.setattr(sf, "info", lambda file: told)
    with pytest.raises(ValueError, match=r"a\.wav cannot be read as sound .its header claims 8,589,934,592 samples"):
        Clip.load(file)
