"""One's own music: folders are read as the model would sound, probes tell what they were not fitted on, pairs keep to their splits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import Nearness

import audioscope
from audioscope import Clip
from audioscope.concepts import SPLITS, some_prompts


def tone(pitch, seconds, rate=16_000, channels=1):
    time = np.arange(int(rate * seconds)) / rate
    return Clip(np.repeat((0.3 * np.sin(2 * np.pi * pitch * time)).astype("float32")[None], channels, 0), rate)


def loudest(clip):
    return float(np.abs(np.fft.rfft(clip.mono)).argmax() / clip.seconds)


def test_a_folder_is_cut_into_pieces_of_the_model(tiny, tmp_path):
    tone(440, 9.0, 44_100, 2).save(tmp_path / "long.wav")  # two pieces and a rest
    tone(1000, 1.5).save(tmp_path / "deep" / "short.flac")  # repeated
    tone(600, 5.0, 22_050).save(tmp_path / "THIRD.mp3")
    (tmp_path / "notes.txt").write_text("no audio")
    clips = audioscope.scoring.read_folder(tmp_path, tiny)
    assert [clip.prompt for clip in clips] == ["THIRD.mp3", "deep/short.flac", "long.wav", "long.wav"]
    assert len({clip.prompt for clip in audioscope.scoring.read_folder(tmp_path, tiny, most=2)}) == 2, (
        "files first, then more of each"
    )
    assert {(clip.rate, clip.samples.shape) for clip in clips} == {(16_000, (1, 65_536))}
    assert [round(loudest(clip), -2) for clip in clips] == [600, 1000, 400, 400], "the pitch survives resampling and the codec"
    few = audioscope.scoring.read_folder(tmp_path, tiny, most=3)
    assert {clip.prompt for clip in few} == {"THIRD.mp3", "deep/short.flac", "long.wav"}, "pieces are spread over the files"


def test_hidden_and_silent_files_are_left_out(tiny, tmp_path):
    tone(440, 5.0).save(tmp_path / "a.wav")
    (tmp_path / "._a.wav").write_bytes(b"a Mac was here")
    Clip(np.zeros((1, 80_000), "float32"), 16_000).save(tmp_path / "silent.wav")
    with pytest.warns(UserWarning, match="1 of 2 pieces"):
        assert [clip.prompt for clip in audioscope.scoring.read_folder(tmp_path, tiny)] == ["a.wav"]
    (tmp_path / "a.wav").unlink()
    with pytest.raises(ValueError, match="nothing but silence"):
        audioscope.scoring.read_folder(tmp_path, tiny)


def test_a_long_file_is_read_in_pieces_from_all_over_it(tiny, tmp_path):
    parts = [tone(pitch, 10.0).samples for pitch in (500, 1000, 1500, 2000)]
    Clip(np.concatenate(parts, 1), 16_000).save(tmp_path / "long.wav")
    clips = audioscope.scoring.read_folder(tmp_path, tiny, most=4)
    assert len(clips) == 4 and round(loudest(clips[0]), -2) == 500 and round(loudest(clips[-1]), -2) == 2000


def test_a_folder_without_audio_and_a_broken_file_are_said(tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no audio"):
        audioscope.scoring.read_folder(tmp_path, tiny)
    (tmp_path / "broken.wav").write_bytes(b"no wave")
    with pytest.raises(ValueError, match=r"broken\.wav cannot be read"):
        audioscope.scoring.read_folder(tmp_path, tiny)


@pytest.fixture(scope="module")
def clips(tiny):
    """Techno and opera of many seeds, and a third kind that the probe never sees."""
    texts = {"techno": "a techno song", "opera": "an opera song"}
    return {name: tiny.generate([text] * 12, seed=list(range(12))) for name, text in texts.items()}


@pytest.fixture(scope="module")
def probe(clips):
    named = [[Clip(clip.samples, clip.rate, f"{i}") for i, clip in enumerate(clips[name])] for name in ("techno", "opera")]
    return audioscope.scoring.probe_scorer("mine", *named, audioscope.scoring.listener_scorer())


def scored(scorer, clips):
    return scorer(torch.from_numpy(np.stack([clip.samples for clip in clips])), 16_000)


@pytest.mark.slow
def test_a_probe_tells_new_clips_apart(tiny, probe):
    new = [tiny.generate([text] * 6, seed=list(range(50, 56))) for text in ("a techno song", "an opera song")]
    mine, other = (scored(probe, each)["mine"] for each in new)
    assert probe.auroc > 0.95 and mine.min() > other.max()
    assert probe.concepts[0] == "mine" and "drums" in scored(probe, new[0]) and probe.units == "log-odds"
    assert "AUROC" in repr(probe) and np.isfinite(scored(probe, new[0])).all(axis=None)


def test_a_probe_of_nothing_is_chance(clips):
    """Both sides alike, with other names, dealt six times: what cannot be told must not seem to be."""
    techno = [Clip(clip.samples, clip.rate, f"{i}") for i, clip in enumerate(clips["techno"])]
    found = []
    for seed in range(6):
        order = np.random.default_rng(seed).permutation(len(techno))
        one, other = ([techno[i] for i in part] for part in (order[:6], order[6:]))
        found.append(audioscope.scoring.probe_scorer("mine", one, other, audioscope.scoring.listener_scorer()).auroc)
    assert 0.3 < np.mean(found) < 0.7, found


@pytest.mark.slow
def test_twins_are_kept_together(clips):
    """With every pair in one fold, a clip is never judged by what was learnt of its twin."""
    one, other = clips["techno"][:6], clips["techno"][6:]
    twins = [Clip(clip.samples, clip.rate, f"b{i}") for i, clip in enumerate(one)]
    named = [Clip(clip.samples, clip.rate, f"a{i}") for i, clip in enumerate(one)]
    base = audioscope.scoring.listener_scorer()
    assert audioscope.scoring.probe_scorer("mine", named, twins, base, groups=[*range(6), *range(6)]).auroc == pytest.approx(0.5)
    assert len(other) == 6


@pytest.mark.slow
def test_stereo_is_heard_as_its_mean(clips):
    wide = [Clip(np.repeat(clip.samples, 2, 0), clip.rate, f"{i}") for i, clip in enumerate(clips["techno"])]
    probe = audioscope.scoring.probe_scorer("mine", wide, clips["opera"][:6] + [Clip(c.samples, c.rate, f"{i}") for i, c in enumerate(clips["opera"][6:])], audioscope.scoring.listener_scorer())  # fmt: skip
    assert probe.auroc > 0.95


@pytest.mark.slow
def test_what_a_probe_cannot_be_made_of_is_said(clips):
    base = audioscope.scoring.listener_scorer()
    with pytest.raises(ValueError, match="at least 5"):
        audioscope.scoring.probe_scorer("mine", clips["techno"][:3], clips["opera"], base)
    with pytest.raises(ValueError, match="rate or length"):
        audioscope.scoring.probe_scorer("mine", clips["techno"], [tone(440, 1.0)] * 6, base)
    with pytest.raises(ValueError, match="one file or prompt"):
        audioscope.scoring.probe_scorer("mine", clips["techno"], clips["opera"], base)
    with pytest.raises(ValueError, match="no layers"):
        audioscope.scoring.probe_scorer("mine", clips["techno"], clips["opera"], Nearness("mine"))


@pytest.mark.slow
def test_pairs_like_a_probe(tiny, probe):
    concept = audioscope.scoring.pairs_like(tiny, probe, "mine", some_prompts(32, "build"), pairs=8, progress=False)
    assert [sum(pair.split == split for pair in concept.pairs) for split in SPLITS] == [2, 2, 2, 2]
    texts = [text for pair in concept.pairs for text in (pair.clean, pair.corrupted)]
    assert len(set(texts)) == 16, "no prompt occurs twice, so no split sees another's"
    clean, corrupted = (
        scored(probe, tiny.generate([getattr(p, side) for p in concept.pairs], seed=99))["mine"]
        for side in ("clean", "corrupted")
    )
    assert clean.mean() > corrupted.mean() + 1, "chosen with one seed, it holds with another"
    atlas = audioscope.localize(tiny, [concept], pairs=2, sites=[0, 6], scorer=probe, steps=2, clips=False, progress=False)
    assert atlas.concepts == ["mine"] and atlas.settings["scorer_fingerprint"] == probe.fingerprint
    with pytest.raises(ValueError, match="pairs is 30"):
        audioscope.scoring.pairs_like(tiny, probe, "mine", some_prompts(48, "build"), pairs=30)
