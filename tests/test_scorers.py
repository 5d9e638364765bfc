"""Scorers and measurements on sounds whose answer is known."""

import numpy as np
import pytest
import torch

import audioscope
from audioscope.scoring import Musicnn
from audioscope.scoring.measures import _spectra, beat_agreement, chroma_similarity, faults, measure, measure_beside_first
from audioscope.scoring.scorers import Clap, MeasureScorer, Muq, default_scorer, feature_distance, listener_scorer

RATE = 16_000


def sine(frequency: float, seconds: float = 4.0, peak: float = 0.3) -> torch.Tensor:
    time = torch.arange(int(seconds * RATE)) / RATE
    return peak * torch.sin(2 * torch.pi * frequency * time)


def clicks(bpm: float, seconds: float = 8.0) -> torch.Tensor:
    """Noise bursts of 20 ms on every beat: the same sound each time."""
    wave, burst = torch.zeros(int(seconds * RATE)), torch.randn(320, generator=torch.Generator().manual_seed(0))
    for start in np.arange(0, seconds - 0.1, 60 / bpm):
        wave[int(start * RATE) :][:320] = 0.5 * burst
    return wave


def chords(roots: list[int], third: int) -> torch.Tensor:
    """A triad a second on each root (semitones above C4), with a third of 3 (minor) or 4 (major) semitones."""
    notes = [[root, root + third, root + 7] for root in roots]
    return torch.cat([sum(sine(261.63 * 2 ** (n / 12), 1.0, 0.15) for n in chord) for chord in notes])


def clips(*waves: torch.Tensor) -> torch.Tensor:
    return torch.stack(waves)[:, None]


def test_tempo_and_onsets_of_a_metronome():
    table = measure(clips(clicks(120), clicks(90)), RATE)
    assert table["tempo"].to_numpy() == pytest.approx([120, 90], rel=0.03)
    assert table["onsets"].to_numpy() == pytest.approx([2.0, 1.5], rel=0.12)


def test_nothing_has_no_tempo_and_no_key():
    silence, tone = torch.zeros(4 * RATE), sine(440)
    table = measure(clips(silence, tone), RATE)
    assert table.loc[0].drop("key").isna().all() and table.loc[0, "key"] == ""
    assert np.isnan(table.loc[1, "tempo"]), "a steady tone has no beat, and 0 BPM is no tempo"


def test_key_and_mode_of_plain_cadences():
    major, minor = chords([0, 5, 7, 0], 4), chords([9, 2, 4, 9], 3)
    table = measure(clips(major, minor), RATE)
    assert list(table["key"]) == ["C", "A minor"] and table.loc[0, "mode"] > 0 > table.loc[1, "mode"]


def test_centroid_and_loudness_of_tones():
    table = measure(clips(sine(440), sine(2000), sine(440, peak=0.03)), RATE)
    assert table["centroid"].to_numpy()[:2] == pytest.approx([440, 2000], rel=0.1)
    assert table.loc[2, "loudness"] - table.loc[0, "loudness"] == pytest.approx(-20, abs=0.1)
    # BS.1770: a tone of 997 Hz at full scale in one channel reads -3.01 LUFS
    full = measure(torch.sin(2 * torch.pi * 997 * torch.arange(4 * 48_000) / 48_000)[None, None], 48_000)
    assert full.loc[0, "loudness"] == pytest.approx(-3.01, abs=0.1)


def test_what_two_clips_share():
    one, other = clips(chords([0, 5, 7, 0], 4)), clips(chords([1, 6, 8, 1], 4))
    assert chroma_similarity(one, one, RATE) == pytest.approx([1.0], abs=1e-6)
    assert chroma_similarity(one, other, RATE) < 0.6
    assert chroma_similarity(one, 0.1 * one, RATE) == pytest.approx([1.0], abs=1e-2), "loudness is no harmony"
    clicking = clicks(120)
    three = clips(clicking, torch.roll(clicking, RATE // 4), 0 * clicking)
    steady, shifted, silent = (each.beats() for each in _spectra(three, RATE))
    assert beat_agreement(steady, steady) == pytest.approx(1.0)
    assert beat_agreement(steady, shifted) < 0.3
    assert beat_agreement(steady, silent) == 0 and np.isnan(beat_agreement(silent, silent))


def test_what_is_measured_beside_the_first_clip_is_what_each_measurement_gives():
    three = clips(clicks(120), clicks(90), 0 * clicks(120))
    found = measure_beside_first(three, RATE)
    assert found[measure(three, RATE).columns].equals(measure(three, RATE))
    assert found["chroma"].to_numpy() == pytest.approx(chroma_similarity(three, three[:1].expand_as(three), RATE), nan_ok=True)
    own = [each.beats() for each in _spectra(three, RATE)]
    assert found["beat"].to_numpy() == pytest.approx([beat_agreement(beats, own[0]) for beats in own], nan_ok=True)


def test_faults_are_found():
    clipped = sine(440, peak=2.0).clamp(-1, 1)
    table = faults(clips(sine(440), clipped, sine(440) + 0.1, torch.zeros(4 * RATE)))
    assert list(table["silent"]) == [False, False, False, True]
    assert table["clipped"].to_numpy() == pytest.approx([0, 2 / 3, 0, 0], abs=0.01)  # a sine of twice full scale
    assert table["dc"].to_numpy() == pytest.approx([0, 0, 0.1, 0], abs=1e-3)
    assert table.loc[0, "level"] == pytest.approx(20 * np.log10(0.3 / 2**0.5), abs=0.01)


@pytest.mark.slow
def test_measurements_as_a_scorer(tiny):
    scorer = MeasureScorer({"fast": ("tempo", 1), "slow": ("tempo", -1)})
    table = scorer(clips(clicks(120), clicks(90)), RATE)
    assert (table["fast"] == -table["slow"]).all() and table.loc[0, "fast"] > table.loc[1, "fast"]
    assert scorer.fingerprint != MeasureScorer({"fast": ("onsets", 1)}).fingerprint
    atlas = audioscope.localize(tiny, ["fast"], pairs=2, steps=2, scorer=scorer, clips=False, progress=False)
    assert atlas.settings["units"] == "the measurement's own"
    with pytest.raises(ValueError, match="expected one of raw"):
        atlas.impacts("probability")
    with pytest.raises(ValueError, match="expected one of"):
        MeasureScorer({"fast": ("bpm", 1)})


@pytest.fixture(scope="module", params=["rand_trunc", "fusion"])
def clap_folder(request, tmp_path_factory):
    """A small random CLAP, saved as published ones are: some fuse windows of long clips, some do not."""
    from helpers.pipelines import WORDS
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, ClapProcessor, PreTrainedTokenizerFast

    torch.manual_seed(0)
    text = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 64}
    audio = {"spec_size": 64, "window_size": 4, "num_mel_bins": 16, "intermediate_size": 32, "depths": [1, 1],
             "num_attention_heads": [2, 2], "hidden_size": 32, "patch_size": 4, "patch_stride": [4, 4],
             "patch_embeds_hidden_size": 16, "enable_fusion": request.param == "fusion"}  # fmt: skip
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", unk_token="<unk>", model_max_length=32)
    folder = tmp_path_factory.mktemp("clap")
    ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=8)).save_pretrained(folder)
    extractor = ClapFeatureExtractor(feature_size=16, truncation=request.param, max_length_s=2)
    ClapProcessor(extractor, tokenizer).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("change", "rate", "said"),
    [
        (lambda audio: 32_768 * audio, 16_000, "divide those of int16 by 32768"),
        (lambda audio: audio / 0, 16_000, "expected finite samples"),
        (lambda audio: audio * float("nan"), 16_000, "expected finite samples"),
        (lambda audio: audio.mT, 16_000, r"shape \(1, 65536, 1\), expected \[clips, channels, samples\]"),
        (lambda audio: audio[0], 16_000, r"shape \(1, 65536\), expected \[clips, channels, samples\]"),
        (lambda audio: audio[:, :, :0], 16_000, "at least one of each"),
        (lambda audio: audio.numpy(), 16_000, "expected a tensor of floats"),
        (lambda audio: (32_768 * audio).short(), 16_000, "expected a tensor of floats"),
        (lambda audio: audio, 16, "rate is 16, expected a whole number of at least 1000 Hz"),
        (lambda audio: audio, 0, "rate is 0"),
        (lambda audio: audio, True, "rate is True"),
    ],
)
def test_sound_in_other_units_is_refused(clap_folder, change, rate, said):
    """By every scorer, since none has a number for it: musicnn, the listener, CLAP, MuQ and measurements."""
    sound = change(torch.full((1, 1, 65_536), 0.1))
    ears = [
        Musicnn(device="cpu"),
        listener_scorer(),
        listener_scorer("judge", any_audio=True),
        Clap(clap_folder, ["violin"], device="cpu"),
    ]
    for scorer in (*ears, Muq.__new__(Muq), MeasureScorer()):
        with pytest.raises(ValueError, match=said):
            scorer(sound, rate)


def test_sound_of_double_precision_is_heard(clap_folder):
    sound = clips(chords([0, 5, 7, 0, 0], 4)[:65_536])
    for scorer in (Musicnn(device="cpu"), listener_scorer(), Clap(clap_folder, ["violin"], device="cpu")):
        assert scorer(sound.double(), RATE).equals(scorer(sound, RATE))


def test_clap_from_a_folder(clap_folder):
    clap = Clap(clap_folder, ["violin", "happy"], device="cpu")
    assert clap.queries == {"violin": "This is a music of violin", "happy": "This is a music of happy music"}
    audio = clips(chords([0, 5, 7, 0], 4), chords([9, 2, 4, 9], 3))
    table = clap(audio, RATE)
    assert list(table.columns) == ["violin", "happy"] and table.abs().le(1).all().all()
    assert torch.allclose(clap.embeddings(audio, RATE).norm(dim=1), torch.ones(2))
    again = clap(audio[:1], RATE)
    assert again.to_numpy() == pytest.approx(table.to_numpy()[:1], abs=1e-5), "a clip's score depends on its neighbours"
    other = Clap(clap_folder, {"violin": "slow music"}, device="cpu")
    assert other.fingerprint != clap.fingerprint, "other queries are another scorer"


def test_clap_hears_long_clips_in_windows(clap_folder):
    """Two seconds, twice over, are the same two windows; the embedding is their mean."""
    clap = Clap(clap_folder, ["violin"], device="cpu")
    first, second = chords([0, 5], 4), chords([9, 2], 3)
    whole = clap.embeddings(clips(torch.cat([first, second])), RATE)
    parts = clap.embeddings(clips(first, second), RATE)
    mean = torch.nn.functional.normalize(parts.mean(0, keepdim=True), dim=-1)
    torch.testing.assert_close(whole, mean, rtol=1e-3, atol=1e-3)


def test_clap_hears_the_end_of_a_clip_of_one_window_and_a_half(clap_folder):
    clap = Clap(clap_folder, ["violin"], device="cpu")
    one = torch.cat([chords([0, 5], 4), chords([0], 4)])
    other = torch.cat([chords([0, 5], 4), chords([9], 3)])
    first, second = clap.embeddings(clips(one, other), RATE)
    assert not torch.allclose(first, second, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_sweep_scored_by_clap_in_windows_with_an_outside_ear(clap_folder, tiny, tmp_path):
    """The paper's template and windows, from audio to impacts; what it hears again of the kept clips is what it heard."""
    clap, ear = Clap(clap_folder, device="cpu"), audioscope.scoring.Musicnn(device="cpu")
    assert clap.queries["female"] == "This is a music of female vocals" and len(clap.concepts) > 20
    run = {"pairs": 2, "sites": [1], "steps": 1, "out": tmp_path, "progress": False}
    atlas = audioscope.localize(tiny, ["violin"], scorer=clap, also=[ear], **run)
    assert atlas.scorers == [clap.name, "musicnn"] and atlas.settings["units"] == "cosine similarity" and atlas.scales == ("raw",)
    assert clap._windows(torch.zeros(1, 1, 65_536), RATE)[1] == 3, "4.1 s in windows of 2 s"
    rows = atlas.table.query("scored == 'violin'")
    kept = torch.from_numpy(np.stack([audioscope.Clip.load(tmp_path / name).samples for name in rows["clip"]]))
    for scorer, column in ((clap, "score"), (ear, "score of musicnn")):
        assert rows[column].to_numpy(float) == pytest.approx(scorer(kept, RATE)["violin"].to_numpy(), abs=0.05)  # 16 bits
    assert atlas.agreement()["views"].tolist() == [2]


def test_a_missing_checkpoint_or_package_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="No CLAP checkpoint") as caught:
        Clap(tmp_path / "nothing")
    assert "\n" not in str(caught.value) and "hf download" in str(caught.value)
    monkeypatch.setitem(__import__("sys").modules, "muq", None)
    with pytest.raises(ImportError, match=r"MuQ scorer needs muq, which is not installed: pip install .*\[muq\]"):
        Muq()


@pytest.mark.parametrize("which", ["clap", "listener"])
def test_feature_distance(which, clap_folder, tiny):
    scorer = listener_scorer("judge") if which == "listener" else Clap(clap_folder, ["violin"], device="cpu")
    sounds = [c.samples for c in tiny.generate(["slow music with violin", "fast music with drums"], seed=[0, 1], steps=4)]
    audio = torch.from_numpy(np.stack(sounds))
    layers = scorer.layers(audio, RATE)
    assert feature_distance(layers, layers).abs().max() < 1e-6
    noisy = scorer.layers(audio + 0.003 * torch.randn(audio.shape, generator=torch.Generator().manual_seed(0)), RATE)
    swapped = scorer.layers(audio.flip(0), RATE)
    assert feature_distance(layers, noisy).shape == (2,), "one number a clip, over all its windows"
    assert (feature_distance(layers, noisy) < feature_distance(layers, swapped)).all()


def test_default_scorers(tiny, stable_audio):
    assert default_scorer(tiny).name == "listener" and stable_audio.adapter.scorer == "clap"
