"""The atlas: a known answer, honest intervals, and a sweep that survives being killed."""

import json
import os
import signal
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import KILLED, Nearness
from helpers.pipelines import PROMPTS, build_stable_audio

import audioscope
from audioscope import datasets, tracing
from audioscope.atlas import localization as patching
from audioscope.atlas.atlas import THRESHOLD, Atlas
from audioscope.atlas.windows import share_of_noise, third
from audioscope.concepts import SPLITS, load_concepts, shipped_concepts
from audioscope.model import Model
from audioscope.stats import mean_of_ratios, ratio_of_means
from audioscope.store import run_units

A, B = PROMPTS


def own_pairs(count: int = 4) -> pd.DataFrame:
    """Pairs for a model whose vocabulary is the two test prompts."""
    tails = ["song", "song with drums", "song with violin", "a song", "song a with", "with song"]
    rows = [
        {"concept": c, "clean": f"{x} {t}", "corrupted": f"{y} {t}"}
        for c, x, y in (("speed", "fast happy", "slow sad"),)
        for t in tails
    ]
    return pd.DataFrame(rows[:count])


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("patch", ["text", "output"])
@pytest.mark.parametrize("direction", ["sufficient", "necessary"])
def test_8_known_answer(layer, patch, direction, tmp_path):
    """Where only one layer's cross-attention speaks, the atlas says 1 there and 0 elsewhere."""
    pipe = build_stable_audio()
    for i, block in enumerate(pipe.transformer.transformer_blocks):
        if i != layer:
            torch.nn.init.zeros_(block.attn2.to_out[0].weight)
    model = Model(pipe, "known")
    atlas = audioscope.localize(
        model, own_pairs(), pairs=4, patch=patch, direction=direction, scorer=Nearness("speed"), steps=2, guidance=2.0,
        out=tmp_path, progress=False,
    )  # fmt: skip
    impacts = atlas.impacts()
    assert impacts["defined"].all(), "the prompts must differ audibly for the law to say anything"
    np.testing.assert_allclose(impacts["impact"], np.eye(4)[layer], atol=0.01)
    assert atlas.functional == [model.sites.cross[layer].path]


def test_directions_are_complements_where_layers_add_up(tmp_path):
    """One silent layer: neither enough nor needed. All four together: wholly both."""
    pipe = build_stable_audio()
    torch.nn.init.zeros_(pipe.transformer.transformer_blocks[1].attn2.to_out[0].weight)
    model = Model(pipe, "silent layer")
    for direction in ("sufficient", "necessary"):
        atlas = audioscope.localize(
            model, own_pairs(), pairs=4, direction=direction, scorer=Nearness("speed"), steps=2, guidance=2.0,
            out=tmp_path / direction, progress=False,
        )  # fmt: skip
        assert atlas.impacts()["impact"][1] == pytest.approx(0, abs=1e-3)
        assert (atlas.impacts()["impact"].drop(1) > 0.02).all(), "the other layers speak"
    with pytest.raises(ValueError, match="expected 'sufficient' or 'necessary'"):
        audioscope.localize(model, own_pairs(), pairs=4, direction="both", scorer=Nearness("speed"))


def test_pairs_are_added_until_the_functional_layers_are_stable(tmp_path):
    pipe = build_stable_audio()
    for block in pipe.transformer.transformer_blocks[1:]:
        torch.nn.init.zeros_(block.attn2.to_out[0].weight)
    model = Model(pipe, "known")
    keywords = {"scorer": Nearness("speed"), "steps": 2, "guidance": 2.0, "progress": False}
    atlas = audioscope.localize(model, own_pairs(6), pairs=6, until_stable=1, out=tmp_path, **keywords)
    assert atlas.settings["pairs"] == 4, "three pairs give the first interval clear of 0, and the fourth does not change the set"
    assert atlas.functional == [model.sites.cross[0].path]
    pd.testing.assert_frame_equal(atlas.table, audioscope.localize(model, own_pairs(6), pairs=4, **keywords).table)
    assert Atlas.load(tmp_path).settings["pairs"] == 4
    with pytest.raises(ValueError, match="until_stable"):
        audioscope.localize(model, own_pairs(6), pairs=3, until_stable=3, **keywords)


def test_a_batch_of_fewer_rows_gives_the_same_atlas(tmp_path):
    model = Model(build_stable_audio(), "parts")
    keywords = {"pairs": 2, "scorer": Nearness("speed"), "steps": 2, "guidance": 2.0, "progress": False}
    whole, parts = (audioscope.localize(model, own_pairs(), batch_size=batch, **keywords) for batch in (None, 2))
    np.testing.assert_allclose(parts.table["score"], whole.table["score"], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_a_plan_counts_what_a_sweep_makes(tiny, tmp_path, capsys):
    with pytest.warns(UserWarning, match="take about .* pairs"):
        plan = audioscope.atlas.plan(tiny, ["fast", "drums"], pairs=2, steps=1)
    atlas = audioscope.localize(tiny, ["fast", "drums"], pairs=2, steps=1, out=tmp_path, progress=False)
    files = list(tmp_path.glob("clips/**/*.flac"))
    assert plan.generations == plan.clips == len(files) == 2 * 2 * (12 + 2)
    assert plan.disk_mb == pytest.approx(sum(f.stat().st_size for f in files) / 1e6, rel=0.1)
    assert plan.threshold == atlas.threshold == pytest.approx(2.5 / 12)
    from audioscope.cli.main import main

    assert main(["atlas", "--plan", "--concepts", "fast", "--pairs", "40", "--steps", "1"]) == 0
    assert "40 units of 12 sites + 2 = 560 generations" in capsys.readouterr().out


@pytest.mark.slow
def test_a_plans_pairs_are_those_of_students_t(tiny, monkeypatch):
    """Pairs that spread by .5, two concepts, 12 sites: 1.987 x .5 / sqrt(92) = .1036 is below half of 2.5 / 12, 45 pairs give .1047."""
    monkeypatch.setattr(patching, "SPREAD", 0.5)
    with pytest.warns(UserWarning, match="only to \\+-0.365.*needs 0.208: take about 46 pairs"):
        plan = audioscope.atlas.plan(tiny, ["fast", "drums"], pairs=5, steps=1)
    assert plan.enough_pairs == 46
    # tables: t(.975) is 2.776 with 4 degrees of freedom and 2.306 with 8
    assert plan.cell_half_width == pytest.approx(2.776 * 0.5 / 5**0.5, rel=1e-3)
    assert plan.mean_half_width == pytest.approx(2.306 * 0.5 / 10**0.5, rel=1e-3)
    monkeypatch.setattr(patching, "SPREAD", 0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        audioscope.atlas.plan(tiny, ["fast", "drums"], pairs=5, steps=1)


def test_a_plans_hours_are_units_of_a_fixed_part_and_of_steps(tiny, monkeypatch):
    """By a clock of its own, on which a unit takes 7 s and 2 s a step, and the first run of all 100 s more."""
    clock = [0.0]

    def sound(sweep, unit, steps):
        clock[0] += 7 + 2 * steps + (100 if clock[0] == 0 else 0)
        return torch.zeros(14, 1, 65_536), torch.ones(14, dtype=bool)

    monkeypatch.setattr(patching._Sweep, "sound", sound)
    monkeypatch.setattr(patching.time, "perf_counter", lambda: clock[0])
    plan = audioscope.atlas.plan(tiny, ["fast", "drums"], pairs=30, seeds=2, steps=10)
    assert plan.units == 120 and plan.hours == pytest.approx(120 * (7 + 2 * 10) / plan.workers / 3600)
    assert plan.disk_mb == pytest.approx(120 * 14 * 65_536 * 2 * 0.6 / 1e6) and plan.clips == plan.generations == 120 * 14
    assert audioscope.atlas.plan(tiny, ["fast", "drums"], pairs=30, clips=False).disk_mb == 0
    alone, four = (audioscope.atlas.plan(tiny, ["fast", "drums"], pairs=30, seeds=2, steps=10, workers=n) for n in (1, 4))
    parts = [audioscope.atlas.plan(tiny, ["fast", "drums"], pairs=30, seeds=2, steps=10, workers=1, part=(n, 7)) for n in (1, 7)]
    assert [part.units for part in parts] == [18, 17], "120 units in 7 parts"
    began, wrongs = (
        clock[0],
        {"workers": (0, "workers is 0"), "part": ("1/61", "part is '1/61', but the sweep has only 60 units")},
    )
    for name, (value, said) in wrongs.items():
        with pytest.raises(ValueError, match=said):
            audioscope.atlas.plan(tiny, ["fast", "drums"], pairs=30, **{name: value})
    assert clock[0] == began, "before any work"
    assert alone.hours == pytest.approx(4 * four.hours) and "with 4 workers" in repr(four) and "with 1 worker\n" in repr(alone)


def test_a_plan_reckons_with_the_spread_that_tiny_shows():
    """The standard deviation of one pair's impact, root mean square over the shipped atlas's defined cells."""
    from audioscope.atlas.localization import SPREAD

    impacts = datasets.atlas().impacts().query("defined")
    deviation = (impacts["high"] - impacts["low"]) / 2 * impacts["pairs"] ** 0.5 / 2  # t is about 2
    assert pytest.approx((deviation**2).mean() ** 0.5, rel=0.25) == SPREAD


@pytest.mark.slow
def test_self_attention_atlas(tiny, tmp_path):
    atlas = audioscope.localize(tiny, ["fast"], pairs=1, patch="output", sites="self", steps=1, out=tmp_path, progress=False)
    assert [s.kind for s in atlas.sites] == ["self"] * 12
    with pytest.raises(ValueError, match="patch='output'"):
        audioscope.localize(tiny, ["fast"], patch="text", sites="self")


@pytest.mark.parametrize("pairs", [8, 34])
def test_interval_covers(pairs):
    """Simulated pairs whose true ratio is known: the 95 % interval holds it in 92 to 98 % of draws."""
    rng = np.random.default_rng(pairs)
    truth, inside, means_inside, draws = 0.4, 0, 0, 1500
    for _ in range(draws):
        swings = np.clip(rng.normal(5, 2.5, (4, pairs)), -12, 12)
        noise = np.array([0.3, 0.8, 1.2, 2.4])[:, None]  # concepts differ in how well they are heard
        shifts = truth * swings + noise * rng.normal(0, 1, (4, pairs))
        ratio = ratio_of_means(shifts[0], swings[0])
        inside += ratio.low <= truth <= ratio.high
        _, low, high = mean_of_ratios(list(shifts), list(swings))
        means_inside += low <= truth <= high
    assert 0.92 <= inside / draws <= 0.98
    assert 0.92 <= means_inside / draws <= 0.98


def test_ratio_is_undefined_where_its_denominator_may_be_zero():
    rng = np.random.default_rng(0)
    undefined = ratio_of_means(rng.normal(1, 1, 8), np.array([1.0, -1, 2, -2, 0.5, -0.5, 1, -1]))
    assert not undefined.defined and np.isnan(undefined.value) and undefined.denominator_low < 0 < undefined.denominator_high
    assert not ratio_of_means(np.array([1.0]), np.array([2.0])).defined, "one pair has no interval"
    backwards = ratio_of_means(-np.ones(8), np.array([-3.0, -4, -3, -4, -3, -4, -3, -4]))
    assert not backwards.defined, "clean clips with less of the concept than corrupted ones say nothing"
    exact = ratio_of_means(np.array([1.0, 2, 3, 2]), np.array([2.0, 4, 6, 4]))
    assert exact.defined and exact.value == pytest.approx(0.5) and exact.low < 0.5 < exact.high


def test_published_tables_give_the_papers_sets(root):
    """The rule 2.5 / L, on the paper's own numbers: its functional sets, which a fixed .10 misses for AudioLDM2."""
    frame = pd.read_csv(root / "data" / "published" / "tada_localization.csv")
    expected = {"ace": {"tf6", "tf7"}, "stableaudio": {"tf11", "tf12", "tf13"}}
    for name, layers in expected.items():
        mean = frame[frame["model"] == name].groupby(["block", "attn"])["impact"].mean()
        assert {block for block, _ in mean[mean >= THRESHOLD / len(mean)].index} == layers
    mean = frame[frame["model"] == "audioldm2"].groupby(["block", "attn"])["impact"].mean()
    seven = {("up1tf5", 0), ("up1tf5", 1), ("up1tf6", 0), ("up1tf6", 1), ("up1tf9", 0), ("up1tf9", 1), ("up1tf10", 0)}
    assert set(mean[mean >= THRESHOLD / len(mean)].index) == seven


def test_splits_are_disjoint_and_large():
    owner: dict[str, str] = {}
    concepts = shipped_concepts()
    assert len(concepts) == 21
    for concept in concepts.values():
        assert len(concept.pairs) >= 120 and len({(p.clean, p.corrupted) for p in concept.pairs}) == len(concept.pairs)
        assert all(len(concept.split(s)) >= 20 for s in SPLITS) and len(concept.split("localize")) >= 34
        for pair in concept.pairs:
            assert pair.clean != pair.corrupted
            for text in (pair.clean, pair.corrupted):
                assert owner.setdefault(text, pair.split) == pair.split, f"{text!r} is in two splits"
        neutral = {split: [p.neutral for p in concept.neutral_pairs(split)] for split in SPLITS}
        said = [text for texts in neutral.values() for text in texts]
        assert len(said) == len(set(said)) and len(neutral["test"]) >= 40 and len(neutral["select"]) >= 19
        for split, texts in neutral.items():
            assert not set(texts) & {p.neutral for p in concept.pairs if p.split != split}


def test_tiny_knows_every_word_of_every_pair(tiny):
    unknown = tiny.pipe.tokenizer.unk_token_id
    texts = {t for c in shipped_concepts().values() for p in c.pairs for t in (p.clean, p.corrupted)}
    assert not [t for t in texts if unknown in tiny.pipe.tokenizer(t).input_ids]


def test_own_pairs_from_csv(tmp_path):
    own_pairs().to_csv(tmp_path / "pairs.csv", index=False)
    assert len(load_concepts(tmp_path / "pairs.csv")["speed"].pairs) == 4
    with pytest.raises(ValueError, match="corrupted"):
        load_concepts(own_pairs().drop(columns="corrupted"))
    with pytest.raises(ValueError, match="different"):
        load_concepts(own_pairs().assign(clean="x", corrupted="x"))


SWEEP = """
import sys, pandas as pd
sys.path.insert(0, {root!r}); sys.path.insert(0, {tests!r})
import audioscope, conftest
audioscope.localize(audioscope.load("tiny"), ["fast", "drums"], pairs=2, sites=[0, 6], steps=1, out={out!r}, workers=1, progress=False)
"""


@pytest.mark.slow
def test_a_killed_sweep_resumes_to_the_same_table(tiny, tmp_path, root):
    whole = audioscope.localize(tiny, ["fast", "drums"], pairs=2, sites=[0, 6], steps=1, out=tmp_path / "whole", progress=False)
    out = tmp_path / "cut"
    code = SWEEP.format(root=str(root), tests=str(root / "tests"), out=str(out))
    killed = subprocess.run([sys.executable, "-c", KILLED + code], env={**os.environ, "OMP_NUM_THREADS": "1"})
    done = set(out.glob("units/*.parquet"))
    assert killed.returncode == -signal.SIGKILL and len(done) == 2
    before = {f: f.stat().st_mtime_ns for f in done}
    resumed = audioscope.localize(tiny, ["fast", "drums"], pairs=2, sites=[0, 6], steps=1, out=out, progress=False)
    assert {f: f.stat().st_mtime_ns for f in done} == before, "finished units were done again"
    pd.testing.assert_frame_equal(resumed.table, whole.table)
    assert all((out / clip).exists() for clip in resumed.table["clip"] if clip)


@pytest.mark.slow
def test_a_folder_of_other_settings_is_refused(tiny, tmp_path):
    keywords = {"pairs": 1, "out": tmp_path, "progress": False, "clips": False}
    audioscope.localize(tiny, ["fast"], steps=2, **keywords)
    with pytest.raises(ValueError, match="other settings.*steps"):
        audioscope.localize(tiny, ["fast"], steps=3, **keywords)
    settings = json.loads((tmp_path / "settings.json").read_text())
    (tmp_path / "settings.json").write_text(json.dumps({**settings, "fingerprint": "another"}))
    with pytest.raises(ValueError, match="fingerprint"):
        audioscope.localize(tiny, ["fast"], steps=2, **keywords)


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    def work(unit, folder):
        if unit["n"] == 2 and not freed:
            raise_full()
        return pd.DataFrame({"n": [unit["n"]]})

    def raise_full():
        monkeypatch.setattr(
            pd.DataFrame, "to_parquet", lambda self, path, **how: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        )

    freed = []
    units = [{"n": n} for n in range(4)]
    with monkeypatch.context() as patched:
        monkeypatch = patched
        with pytest.raises(OSError, match="full. Finished work is kept"):
            run_units(tmp_path, {"a": 1}, units, work, progress=False)
    assert len(list(tmp_path.glob("units/*.parquet"))) == 2 and not list(tmp_path.glob("units/*.part"))
    freed.append(True)
    assert run_units(tmp_path, {"a": 1}, units, work, progress=False)["n"].tolist() == [0, 1, 2, 3]


@pytest.mark.slow
def test_nan_marks_the_cell_and_the_sweep_goes_on(tiny, tmp_path, monkeypatch):
    decoded = tracing.decoded

    def spoilt(*arguments):
        audio = decoded(*arguments)
        audio[3] = float("nan")  # layer 1
        return audio

    monkeypatch.setattr(tracing, "decoded", spoilt)
    atlas = audioscope.localize(tiny, ["fast"], pairs=3, sites=[0, 1], steps=1, out=tmp_path, workers=1, progress=False)
    failed = atlas.table[atlas.table["failed"]]
    assert set(failed["layer"]) == {1} and failed["score"].isna().all() and (failed["clip"] == "").all()
    impacts = atlas.impacts().set_index("layer")
    assert impacts.loc[1, "pairs"] == 0 and not impacts.loc[1, "defined"] and impacts.loc[0, "pairs"] == 3
    assert np.isfinite(impacts.loc[0, "denominator"])


def test_a_concept_that_the_scorer_cannot_hear_is_refused_at_once(tiny, tmp_path):
    with pytest.raises(ValueError, match="cannot score 'speed'"):
        audioscope.localize(tiny, own_pairs(), pairs=1, out=tmp_path / "never")
    assert not (tmp_path / "never").exists()


@pytest.mark.slow
def test_save_and_load(tiny, tmp_path):
    atlas = audioscope.localize(tiny, ["fast", "drums"], pairs=4, sites=[1, 6], steps=2, out=tmp_path / "a", progress=False)
    again = Atlas.load(atlas.save(tmp_path / "b", shipped=True))
    pd.testing.assert_frame_equal(again.impacts(), atlas.impacts(), rtol=0.02, atol=0.02)  # log-odds are rounded
    exact = Atlas.load(atlas.save(tmp_path / "c"))
    pd.testing.assert_frame_equal(exact.impacts(), atlas.impacts())
    for row in again.examples().to_dict("records"):
        assert all((tmp_path / "b" / row[k]).exists() for k in ("clean", "corrupted", "patched"))


def test_shipped_atlas(tiny):
    """The shipped atlas is of the shipped weights and listener, has 34 pairs of 21 concepts, and puts genre in layer 0."""
    atlas = datasets.atlas()
    assert atlas.settings["fingerprint"] == tiny.fingerprint, "data/atlas is of other weights: run `make results`"
    assert len(atlas.concepts) == 21 and atlas.settings["pairs"] == 34 and len(atlas.sites) == 12
    assert atlas.settings["scorer_fingerprint"] == audioscope.scoring.listener_scorer().fingerprint, (
        "the listener changed: run `make results`"
    )
    assert all(atlas.own_layers(genre)[0] == atlas.sites[0].path for genre in ("reggae", "metal", "opera", "jazz"))
    assert atlas.functional == [atlas.sites[0].path] and atlas.own_layers("fast") == [site.path for site in atlas.sites[1:3]]
    assert atlas.settings["also"]["judge"]["fingerprint"] == audioscope.scoring.listener_scorer("judge").fingerprint
    assert len(atlas.examples()) == 21 and all((atlas.folder / clip).exists() for clip in atlas.examples()["patched"])


def test_thirds_cover_every_step_once():
    for steps in range(3, 40):
        windows = [third(place, steps) for place in range(3)]
        assert [step for first, last in windows for step in range(first, last)] == list(range(steps)) and all(
            a < b for a, b in windows
        )


def test_parts_are_equal_shares_of_the_log_signal_to_noise_ratio(tiny):
    """From -9 to 9: borders at -3 and 3, whatever the number of steps between them; a step of pure noise is early."""
    log_snr = np.array([-np.inf, -9.0, -8.0, -7.0, -3.5, -2.0, 4.0, 5.0, 6.0, 9.0])
    assert [share_of_noise(place, log_snr) for place in range(3)] == [(0, 5), (5, 6), (6, 10)]
    with pytest.raises(ValueError, match="None of the 3 steps lies in the middle third"):
        share_of_noise(1, np.array([-9.0, -8.0, 9.0]))
    run = tiny.run([tracing.Row("a jazz song", 0)], decode=False, **tiny.sampling())
    sigmas = run.sigmas.numpy()
    np.testing.assert_allclose(run.log_snr[1:], 2 * np.log((1 - sigmas[1:]) / sigmas[1:]), rtol=1e-4)
    assert run.log_snr[0] == -np.inf and len(run.log_snr) == 10


@pytest.mark.slow
def test_one_step_and_a_third_of_the_steps_can_be_named(tiny, tmp_path):
    named = {"first third": (0, 1), "last third": (2, 3), 1: (1, 2)}
    for number, (when, window) in enumerate(named.items()):
        atlas = audioscope.localize(
            tiny, ["drums"], pairs=1, sites=[6], steps=3, when=when, out=tmp_path / str(number), clips=False, progress=False
        )
        assert tuple(atlas.settings["window"]) == window and atlas.settings["when"] == when
    with pytest.raises(ValueError, match="when is 3, expected a whole number from 0 to 2"):
        audioscope.localize(tiny, ["drums"], pairs=1, steps=3, when=3)


@pytest.mark.slow
def test_when_patches_in_its_third_alone(tiny, tmp_path):
    """The clips of a sweep with `when` are those of an edit with that window; its plan costs what the whole swap costs."""
    atlas = audioscope.localize(tiny, ["drums"], pairs=1, steps=3, when="late", out=tmp_path, progress=False)
    rows = atlas.table[atlas.table["scored"] == "drums"].drop_duplicates("clip").set_index(["row", "site"])
    site = tiny.sites.cross[0].path
    row = rows.loc[("patched", site)]
    edit = audioscope.PatchText(site, row["clean_prompt"], steps=(2, 3))
    clip = tiny.generate(row["corrupted_prompt"], seed=int(row["seed"]), steps=3, edits=edit)
    whole = tiny.generate(
        row["corrupted_prompt"], seed=int(row["seed"]), steps=3, edits=audioscope.PatchText(site, row["clean_prompt"])
    )
    kept = audioscope.Clip.load(tmp_path / row["clip"]).spectrogram()
    assert np.abs(clip.spectrogram() - kept).mean() < 1.0 < np.abs(whole.spectrogram() - kept).mean()  # dB
    assert not atlas.settings["swaps_all_text"], "a swap everywhere in a third of the steps is not the clean run"
    with pytest.raises(ValueError, match="other settings"):
        audioscope.localize(tiny, ["drums"], pairs=1, steps=3, out=tmp_path, progress=False)
    with pytest.raises(ValueError, match="when is 'soon'"):
        audioscope.localize(tiny, ["drums"], pairs=1, when="soon")
    with pytest.raises(ValueError, match="only 2 steps"):
        audioscope.localize(tiny, ["drums"], pairs=1, steps=2, when="late")
    assert audioscope.atlas.plan(tiny, ["drums"], pairs=30, when="late").generations == 30 * 14
