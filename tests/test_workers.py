"""Many workers, one table: the same bytes whatever their number, and nothing lost or left when one of them, or the driver, dies."""

import hashlib
import importlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from helpers.browsing import LIMIT
from helpers.pipelines import BUILDERS

import audioscope
from audioscope import workers
from audioscope.model import Model

FEW = {"concepts": ["fast", "drums"], "pairs": 2, "sites": [0, 6], "steps": 1, "progress": False}


class Heard:
    """A scorer defined here; given a folder, it does something to its process when it hears the units that are listed there."""

    name = fingerprint = "heard"
    concepts = ("fast", "drums")

    def __init__(self, folder=None, always=False, error=None):
        self.folder, self.always, self.error, self.driver = folder, always, error, os.getpid()

    def __call__(self, audio, rate):
        level = audio.square().mean((1, 2)).numpy()
        if self.folder is not None and len(level) > 2 and os.getpid() != self.driver:  # not in the trial on noise
            mark = self.folder / hashlib.sha256(level.tobytes()).hexdigest()[:8]
            first = not any(self.folder.iterdir())
            if first or (self.always and mark.exists()):
                mark.write_text("was here")
                if self.error:
                    raise self.error()
                os.kill(os.getpid(), signal.SIGKILL)
        return np.stack([level, level], 1)


def digest(folder):
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module", autouse=True)
def ended():
    yield
    workers.end_workers()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same sweep in this process."""
    out = tmp_path_factory.mktemp("alone")
    audioscope.localize(audioscope.load("tiny"), **FEW, workers=1, out=out)
    return digest(out)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_the_number_of_workers_changes_no_byte(tiny, tmp_path, alone, count):
    audioscope.localize(tiny, **FEW, workers=count, out=tmp_path)
    assert digest(tmp_path) == alone and len(alone) > 20


@pytest.mark.slow
def test_steering_and_its_calibration_may_be_shared_too(tiny, tmp_path):
    vector = audioscope.datasets.vector("fast")
    how = {"prompts": 2, "seeds": 1, "steps": 1, "clips": True, "progress": False, "grid": [1.0, 3.0]}
    for count in (1, 2):
        audioscope.steer.steering_sweep(tiny, "fast", vector, workers=count, out=tmp_path / str(count), **how)
    assert digest(tmp_path / "1") == digest(tmp_path / "2")


@pytest.mark.slow
def test_steps_may_be_shared_too(tiny, tmp_path):
    how = {"concepts": ["fast"], "pairs": 3, "steps": 2, "progress": False}
    one, two = (audioscope.atlas.patch_steps(tiny, **how, workers=count, out=tmp_path / str(count)) for count in (1, 2))
    assert one.equals(two) and digest(tmp_path / "1") == digest(tmp_path / "2")


def same(one, two):
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(one, two, strict=True))


@pytest.mark.slow
def test_activations_may_be_collected_in_workers(tiny, tmp_path):
    site = "transformer.transformer_blocks.6.cross_attn"
    how = {"steps": 2, "batch_size": 3}
    found = {}
    for count in (1, 2):
        stream = audioscope.sae.TokenStream(tiny, site, ["a fast song", "a sad song", "a jazz song"] * 3, workers=count, **how)
        tokens = stream.batches(2)
        shared = {"workers": count, "progress": False, **how}
        vector = audioscope.caa(tiny, "fast", [0, 6], pairs=4, **shared)
        read = audioscope.sae.concept_activations(tiny, {"sigmas": audioscope.datasets.sae(site)}, ["fast"], pairs=4, **shared)
        found[count] = [
            *(next(tokens) for _ in range(7)), stream.levels.means,
            *vector.directions.values(), *vector.norms.values(), vector.sigmas, *read.values.values(), read.sigmas,
        ]  # fmt: skip
    assert same(found[1], found[2])
    alone = audioscope.sae.TokenStream(tiny, site, ["a fast song", "a sad song", "a jazz song"] * 3, **how)
    assert next(alone.batches(2)).allclose(found[1][0], atol=1e-5), "a batch does not depend on those before it"


@pytest.mark.slow
def test_sound_may_be_read_and_generated_in_workers(tiny, tmp_path):
    from audioscope.tiny.evaluate import generated_clips, held_out_captions

    for number in range(5):
        tiny.generate("a jazz song", seed=number, steps=1).save(tmp_path / f"{number}.flac")
    audioscope.Clip(np.zeros((1, 65536), np.float32), tiny.rate).save(tmp_path / "silent.flac")
    clips, sound = {}, {}
    for count in (1, 2):
        with pytest.warns(UserWarning, match="1 of 6 pieces"):
            clips[count] = audioscope.scoring.read_folder(tmp_path, tiny, workers=count)
        sound[count] = generated_clips(tiny, held_out_captions(40), steps=1, workers=count)
    assert [clip.prompt for clip in clips[1]] == [clip.prompt for clip in clips[2]] == [f"{n}.flac" for n in range(5)]
    assert same([c.samples for c in clips[1]], [c.samples for c in clips[2]]) and sound[1].equal(sound[2])


@pytest.mark.slow
def test_an_error_while_collecting_keeps_its_words(tiny, tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"RIFF....WAVE")
    for number in range(3):
        tiny.generate("a jazz song", seed=number, steps=1).save(tmp_path / f"{number}.flac")
    with pytest.raises(ValueError, match=r"broken.wav cannot be read as audio"):
        audioscope.scoring.read_folder(tmp_path, tiny, workers=2)


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_its_unit_made_again(tiny, tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    atlas = audioscope.localize(tiny, **FEW, scorer=Heard(marks), workers=2, out=tmp_path / "out")
    whole = audioscope.localize(tiny, **FEW, scorer=Heard(), workers=1, out=tmp_path / "whole")
    assert len(list(marks.iterdir())) == 1, "one worker was killed"
    assert atlas.table.equals(whole.table) and not atlas.table["failed"].any()
    assert not list((tmp_path / "out").rglob("*.part"))


@pytest.mark.slow
def test_a_unit_that_kills_three_workers_is_marked_and_tried_again_later(tiny, tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    with pytest.warns(UserWarning, match="failed: its worker died 3 times"):
        atlas = audioscope.localize(tiny, **FEW, scorer=Heard(marks, always=True), workers=2, out=tmp_path / "out")
    lost = atlas.table.groupby(["concept", "pair"])["failed"].all()
    assert lost.sum() == 1 and len(lost) == 4 and atlas.table.loc[atlas.table["failed"], "score"].isna().all()
    again = audioscope.localize(tiny, **FEW, scorer=Heard(), workers=1, out=tmp_path / "out")
    assert not again.table["failed"].any()


class OfTwo(Exception):
    """Unlike a plain one, it cannot be made again from what it passes on."""

    def __init__(self, who="my scorer", what="tired"):
        super().__init__(f"{who} is {what}")
        self.lock = threading.Lock()


@pytest.mark.slow
@pytest.mark.parametrize(("error", "kind"), [(partial(RuntimeError, "my scorer is tired"), "^"), (OfTwo, "^OfTwo: ")])
def test_an_exception_of_a_scorer_ends_the_sweep_with_its_own_words(tiny, tmp_path, error, kind):
    marks = tmp_path / "marks"
    marks.mkdir()
    with pytest.raises(RuntimeError, match=rf"{kind}my scorer is tired$"):
        audioscope.localize(tiny, **FEW, scorer=Heard(marks, error=error), workers=2, out=tmp_path / "out")
    assert audioscope.localize(tiny, **FEW, scorer=Heard(), workers=2, out=tmp_path / "out").table["score"].notna().all()


SCRIPT = """
import signal, sys, time
import audioscope

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs in its background with Ctrl-C ignored

class Slow:
    name = fingerprint = "slow"
    concepts = ["fast", "drums"]
    def __call__(self, audio, rate):
        if len(audio) > 2:
            time.sleep({pause})
        return audio.square().mean((1, 2), keepdim=True)[:, 0].repeat(1, 2)

model = audioscope.load("tiny")
print("ready", flush=True)
atlas = audioscope.localize(model, ["fast", "drums"], {pairs}, sites=[0, 6], steps=1, scorer=Slow(), workers=2, out=sys.argv[1], progress=False)
print(len(atlas.table), flush=True)
"""


def children(process):
    return psutil.Process(process.pid).children(recursive=True)


def until(condition):
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_it_works_from_stdin_without_a_guard_and_with_a_scorer_defined_there(tmp_path):
    done = subprocess.run([sys.executable, "-", tmp_path], input=SCRIPT.format(pause=0, pairs=3), capture_output=True, text=True)
    assert done.stdout.split() == ["ready", str(6 * 4 * 2)], done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_who_ends_the_driver_ends_the_workers(tmp_path, how):
    more = (
        6 if how == signal.SIGKILL else 30
    )  # pairs: units enough that some are left when the signal comes, however busy the machine
    script = [sys.executable, "-c", SCRIPT.format(pause=0.5, pairs=more), tmp_path]
    driver = subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until(lambda: len(list(tmp_path.glob("units/*.parquet"))) >= 2)
    mine = children(driver)
    assert len(mine) >= 2
    began = time.monotonic()
    driver.send_signal(how)
    out, said = driver.communicate()
    assert out.split() == ["ready"], f"it was still at work: {said}"
    took = time.monotonic() - began
    print(f"ended after {took:.2f} s")
    others = max(1.0, psutil.getloadavg()[0] / psutil.cpu_count())  # the other tests compute, too
    assert how != signal.SIGINT or took < 2 * others, took
    psutil.wait_procs(mine, timeout=5)
    assert not [process for process in mine if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert how != signal.SIGINT or (said.count("Traceback") == 1 and "KeyboardInterrupt" in said), said or "no traceback"
    if how == signal.SIGKILL:
        done = subprocess.run([*script[:2], SCRIPT.format(pause=0, pairs=more), tmp_path], capture_output=True, text=True)
        assert done.stdout.split() == ["ready", "96"], "the same sweep goes on"


def test_small_work_stays_here(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_idle", [])  # those that an earlier test started may help, and end while this one runs
    monkeypatch.setattr(workers, "cores", lambda: 4)  # whatever this machine has
    assert workers.room(tiny) == 4
    audioscope.localize(tiny, **FEW, out=tmp_path)
    assert workers._idle == []


@pytest.mark.slow
def test_long_work_is_spread_by_default(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "cores", lambda: 2)
    monkeypatch.setattr(workers, "START", 0.1)  # s
    monkeypatch.setattr(workers, "_idle", [])
    audioscope.localize(tiny, ["fast"], pairs=4, sites=[0], steps=1, out=tmp_path, progress=False)
    assert len(workers._idle) == 2


def _tokens_of_other_rules(model):
    from tokenizers.normalizers import Lowercase, Replace, Sequence

    model.pipe.tokenizer.backend_tokenizer.normalizer = Sequence([Lowercase(), Replace("fast", "slow")])


def _replaced_forward(model):
    block = model.denoiser.transformer_blocks[0].ff
    block.forward = lambda *given, **named: type(block).forward(block, *given, **named) * 1.01


def _quieter(audio, by):
    return lambda pipe, latents: audio(pipe, latents) * by


def _other_backend(model):
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    model.denoiser.set_attention_backend("_native_math")
    _AttentionBackendRegistry.set_active_backend("native")  # it sets the whole process, too


CHANGED = {
    "config": ("scheduler", lambda model: setattr(model.pipe, "scheduler", type(model.pipe.scheduler).from_config({**model.pipe.scheduler.config, "shift": 2.0}))),
    "backend": ("transformer", _other_backend),
    "number inside": ("adapter", lambda model: setattr(model, "adapter", replace(model.adapter, audio=_quieter(model.adapter.audio, 0.25)))),
    "state": ("scheduler", lambda model: model.pipe.scheduler.set_shift(8.0)),
    "weight": ("transformer", lambda model: next(model.denoiser.parameters()).data.view(-1)[7].add_(1e-3)),
    "dtype": ("transformer", lambda model: model.denoiser.half()),
    "scale": ("transformer", lambda model: setattr(model.denoiser.transformer_blocks[0].cross_attn, "scale", 0.5)),
    "processor": ("transformer", lambda model: setattr(model.denoiser.transformer_blocks[0].cross_attn.processor, "strength", 2.0)),
    "another processor": ("transformer", lambda model: setattr(model.denoiser.transformer_blocks[0].cross_attn, "processor", object())),
    "forward": ("transformer", _replaced_forward),
    "settings": ("transformer", lambda model: model.denoiser.register_to_config(num_layers=3)),
    "training": ("transformer", lambda model: model.denoiser.train()),
    "hook": ("text_encoder", lambda model: model.pipe.text_encoder.register_forward_hook(lambda module, args, out: None)),
    "adapter": ("adapter", lambda model: setattr(model, "adapter", type(model.adapter)(**{**vars(model.adapter), "leading_tokens": 5}))),
    "buffer": ("vae", lambda model: model.pipe.vae.mean.add_(0.1)),
    "buffer that is not saved": ("vae", lambda model: model.pipe.vae.window.mul_(0.9)),
    "tokens": ("tokenizer", lambda model: model.pipe.tokenizer.add_tokens(["theremin"])),
    "rules": ("tokenizer", _tokens_of_other_rules),
    "side": ("tokenizer", lambda model: setattr(model.pipe.tokenizer, "truncation_side", "left")),
}  # fmt: skip


@pytest.mark.parametrize("kind", CHANGED)
def test_a_changed_model_is_not_what_loading_gives(kind):
    model, (part, change) = audioscope.load("tiny"), CHANGED[kind]
    same = pickle.dumps(model)
    assert pickle.loads(same).parts() == model.parts()
    change(model)
    with pytest.raises(ValueError, match=rf"was changed since it was loaded \({part}\)"):
        pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_a_run_changes_nothing_that_a_worker_compares(build):
    model = Model(build(), "random")
    before = model.parts()
    model.generate("a fast song", steps=2)
    model.activations(["a song"], "cross", steps=3)
    assert model.parts() == before


def test_where_the_files_lie_changes_nothing_that_a_worker_compares(monkeypatch, tmp_path):
    """Another node has the same files in another folder, and another process may be offline."""
    here = audioscope.load("tiny").parts()
    shutil.copytree(audioscope.loading.data_folder() / "tiny", tmp_path / "tiny")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", not huggingface_hub.constants.HF_HUB_OFFLINE)
    assert audioscope.load(tmp_path / "tiny").parts() == here


def test_where_weights_wait_changes_nothing_that_a_worker_compares():
    """Offloading by accelerate, as `enable_model_cpu_offload` does it on a GPU."""
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    model = audioscope.load("tiny")
    before = model.parts()
    add_hook_to_module(model.denoiser, AlignDevicesHook(execution_device="cpu"))
    assert model.parts() == before


def test_a_method_that_was_put_into_a_class_is_seen(monkeypatch, tiny):
    codec, before = type(tiny.pipe.vae), tiny.parts()
    monkeypatch.setattr(codec, "decode", lambda self, latents, decode=codec.decode: decode(self, latents) * 0.5)
    assert [name for name, part in tiny.parts().items() if part != before[name]] == ["vae"]


def test_a_sweep_goes_on_with_the_model_that_it_was_begun_with(tmp_path):
    """Also where the weights are the same; an older folder does not say it."""
    model = audioscope.load("tiny")
    audioscope.localize(model, **FEW, workers=1, out=tmp_path)
    model.pipe.scheduler.set_shift(8.0)
    with pytest.raises(ValueError, match="other settings .components; .*choose another folder"):
        audioscope.localize(model, **FEW, workers=1, out=tmp_path)
    settings = json.loads((tmp_path / "settings.json").read_text())
    del settings["components"]
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    audioscope.localize(model, **FEW, workers=1, out=tmp_path)


SCORER = """
class Loud:
    name, concepts = "loud", ("fast", "drums")

    def __init__(self):
        self.fingerprint = "{by}"

    def __call__(self, audio, rate):
        level = audio.square().mean((1, 2)) * {by}
        return {{"fast": level, "drums": level}}
"""


@pytest.mark.slow
def test_workers_take_a_scorer_as_it_is_now(tiny, tmp_path, monkeypatch):
    """Its module was edited and loaded again since they imported it; one that they cannot import is used here."""
    monkeypatch.syspath_prepend(tmp_path)
    levels = []
    for by in (1.0, 2.0):
        (tmp_path / "my_scorer.py").write_text(SCORER.format(by=by))
        importlib.invalidate_caches()
        module = importlib.reload(sys.modules["my_scorer"]) if levels else importlib.import_module("my_scorer")
        levels.append(audioscope.localize(tiny, **FEW, scorer=module.Loud(), workers=2, out=tmp_path / str(by)).table["score"])
    np.testing.assert_allclose(levels[1], 2 * levels[0], rtol=1e-5)
    monkeypatch.setattr(module.Loud, "__module__", "hidden")
    monkeypatch.setitem(sys.modules, "hidden", module)
    with pytest.warns(UserWarning, match="cannot be given this work .*It runs in this process alone"):
        audioscope.localize(tiny, **FEW, scorer=module.Loud(), workers=2, out=tmp_path / "hidden")


@pytest.mark.slow
def test_a_changed_model_runs_here_and_that_is_said(tmp_path):
    model = audioscope.load("tiny")
    CHANGED["weight"][1](model)
    with pytest.warns(UserWarning, match=r"was changed since it was loaded \(transformer\).* It runs in this process alone"):
        shared = audioscope.localize(model, **FEW, workers=2, out=tmp_path / "2")
    assert shared.table.equals(audioscope.localize(model, **FEW, workers=1, out=tmp_path / "1").table)


def test_what_cannot_be_sent_runs_here_and_that_is_said(tiny, tmp_path):
    memory = Model(tiny.pipe, "mine")
    with pytest.raises(TypeError, match="'mine' was made from a pipeline in memory"):
        pickle.dumps(memory)
    with pytest.warns(UserWarning, match="made from a pipeline in memory.* it runs in this process alone"):
        audioscope.localize(memory, **FEW, workers=2, out=tmp_path / "memory")
    scorer = Heard()
    scorer.lock = threading.Lock()
    with pytest.warns(UserWarning, match="The workers cannot be given this work"):
        audioscope.localize(tiny, **FEW, scorer=scorer, workers=2, out=tmp_path / "lock")


@pytest.mark.parametrize(
    ("visible", "there", "device", "names"),
    [
        ("", 2, "cuda", ["0", "1"]),
        ("2,3", 2, "cuda", ["2", "3"]),
        ("GPU-a, GPU-b", 2, "cuda", ["GPU-a", "GPU-b"]),
        ("5,7", 2, "cuda:1", ["7"]),
        ("", 4, "cuda:2", ["2"]),
    ],
)
def test_workers_take_the_gpus_that_the_user_chose(monkeypatch, visible, there, device, names):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    weight = SimpleNamespace(device=torch.device("cuda"))
    model = SimpleNamespace(origin=SimpleNamespace(device=device), denoiser=SimpleNamespace(parameters=lambda: iter([weight])))
    assert workers.gpus(model) == names and workers.room(model) == len(names)
    monkeypatch.setattr(workers, "_take", lambda gpu, *rest: gpu)
    make, many = workers._maker(3, model, 1, 3)
    assert [make(place) for place in range(many)] == [names[place % len(names)] for place in range(3)], "several share one"


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "2", True])
def test_what_is_no_number_of_workers_is_named(tiny, wrong):
    with pytest.raises(ValueError, match="workers is .*, expected a whole number of at least 1, None"):
        audioscope.localize(tiny, **FEW, workers=wrong)


def test_a_pickled_model_is_the_model(tiny):
    again = pickle.loads(pickle.dumps(tiny))
    assert again is not tiny and again.name == tiny.name and again.fingerprint == tiny.fingerprint
    assert np.array_equal(again.generate("a jazz song", steps=1).samples, tiny.generate("a jazz song", steps=1).samples)


def test_a_result_of_lost_units_is_not_kept(tmp_path):
    """The table of a unit that failed is shown, and the unit is done in the next run."""
    from audioscope.store import run_units

    def work(unit, folder, lost=False):
        return pd.DataFrame({**unit, "value": [np.nan if lost else 1.0]})

    def failing(do, units, folder):
        for number, unit in enumerate(units):
            if number:
                do(unit, folder)
            yield unit, "" if number else "a reason"

    units = [{"n": n} for n in range(3)]
    with pytest.warns(UserWarning, match="a reason"):
        first = run_units(tmp_path, {}, units, work, False, spread=failing)
    assert first["value"].isna().tolist() == [True, False, False]
    assert run_units(tmp_path, {}, units, work, False)["value"].tolist() == [1.0] * 3


def test_what_a_model_is_does_not_change_while_another_thread_runs_it(tiny):
    """A run puts hooks into the model, which are not what it is: a folder that was begun meanwhile could never be resumed."""
    idle, seen, done = tiny.state, [], threading.Event()

    def look():
        while not done.is_set():
            seen.append(tiny.state)

    thread = threading.Thread(target=look)
    thread.start()
    for seed in range(3):
        tiny.run([audioscope.Row("a song", seed)], read=audioscope.Read(tiny.sites.cross), decode=False, steps=3)
    done.set()
    thread.join()
    assert seen and all(state == idle for state in seen)
