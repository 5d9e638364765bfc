"""musicnn, the outside ear: the original's outputs, windows, rates, the table of tags, and sweeps that it scores."""

import json
import pickle

import numpy as np
import pandas as pd
import pytest
import torch

import audioscope
from audioscope.errors import UnknownName
from audioscope.scoring import Musicnn
from audioscope.scoring.musicnn import NETS, RATE, SAMPLES, load, tags_of
from audioscope.scoring.scorers import TAGS, feature_distance
from audioscope.store import check_settings
from audioscope.tiny import pool


def signals() -> dict[str, np.ndarray]:
    """The six clips of fixtures/musicnn, float32 [48000], -1..1: quiet enough for the original, whose log-mels overflow."""
    t = np.arange(SAMPLES) / RATE
    white = np.random.default_rng(0).normal(0, 0.1, SAMPLES)
    spectrum = np.fft.rfft(np.random.default_rng(1).normal(0, 1, SAMPLES))
    pink = np.fft.irfft(spectrum / np.sqrt(np.maximum(1, np.arange(len(spectrum)))), SAMPLES)
    clicks = np.zeros(SAMPLES)
    for start in range(0, SAMPLES, RATE // 2):  # 120 BPM
        clicks[start : start + 400] = 0.5 * np.random.default_rng(2).normal(0, 1, 400) * np.exp(-np.arange(400) / 80)
    chord = sum(np.sin(2 * np.pi * f * t) for f in (220.0, 277.18, 329.63, 440.0)) * (1 + 0.5 * np.sin(2 * np.pi * 6 * t))
    found = {
        "white": white,
        "tone": 0.1 * np.sin(2 * np.pi * 440 * t),
        "chirp": 0.1 * np.sin(2 * np.pi * (100 * t + (4000 - 100) / (2 * 3) * t**2)),  # 100 to 4000 Hz
        "clicks": clicks,
        "chord": 0.05 * chord,
        "pink": 0.05 * pink / pink.std(),
    }
    return {name: np.clip(wave, -1, 1).astype(np.float32) for name, wave in found.items()}


@pytest.fixture(scope="module")
def ear() -> Musicnn:
    return Musicnn(device="cpu")


@pytest.fixture(scope="module")
def clips() -> torch.Tensor:
    """Two songs of tiny's music, [2, 1, 65536]."""
    return torch.from_numpy(np.stack([pool.clip(number, 9) for number in range(2)]))[:, None]


@pytest.mark.parametrize("name", NETS)
def test_it_says_what_the_original_says(name, root):
    """The package's own graph and checkpoints, run by TensorFlow; ours have weights in half precision, log-mels in float32."""
    reference = json.loads((root / "tests/fixtures/musicnn/reference.json").read_text())[name]
    net, waves = load(name), signals()
    heard = net.log_odds(torch.from_numpy(np.stack(list(waves.values()))))
    for kind in ("published", "float32"):
        theirs = np.array([reference[kind][clip] for clip in waves])
        assert np.ptp(theirs) > 5
        np.testing.assert_allclose(heard.numpy(), theirs, atol=2e-2)


def test_a_concept_is_the_mean_of_its_tags_and_the_nets_weigh_alike(clips):
    """Written out from the nets' outputs: female has four tags in MTT and two in MSD, jazz is in MSD alone."""
    found = Musicnn(device="cpu")(clips, RATE)
    mtt, msd = ({tag: each for tag, each in zip(net.tags, net.log_odds(clips[:, 0]).T, strict=True)} for net in map(load, NETS))
    women = sum(mtt[tag] for tag in ("female", "woman", "female vocal", "female voice")) / 4
    singers = (msd["female vocalist"] + msd["female vocalists"]) / 2
    np.testing.assert_allclose(found["female"], (women + singers) / 2, atol=1e-5)
    np.testing.assert_allclose(found["jazz"], msd["jazz"], atol=1e-5)
    np.testing.assert_allclose(found["flute"], mtt["flute"], atol=1e-5)
    assert found.shape == (2, 17) and found.dtypes.eq("float32").all()


def test_every_tag_of_the_table_exists():
    known = {tag for name in NETS for tag in tags_of(name)}
    assert {tag for asked in TAGS.values() for tag in asked} <= known
    assert all(len(tags_of(name)) == 50 for name in NETS)
    assert all(asked[0] == concept for concept, asked in TAGS.items()), "another tag than that of its name"
    assert {concept for concept, asked in TAGS.items() if len(asked) > 1} == {"female", "male", "metal"}
    settings = audioscope.datasets.outside().settings
    kept = Musicnn({concept: TAGS[concept] for concept in audioscope.datasets.outside().concepts}, device="cpu")
    assert settings["also"]["musicnn"]["fingerprint"] == kept.fingerprint, "the shipped map was made with other tags"
    there = set(Musicnn(device="cpu").concepts)
    assert there == set(TAGS) and not there & {"trumpet", "saxophone", "reggae", "harmonica", "maracas", "bongos", "trombone"}


def test_windows_of_three_seconds_reach_both_ends(ear):
    """Of 4 s, what the first 3 and the last 3 are; of 6 s, what both halves are; each clip on its own."""
    net, noise = ear.nets[0], torch.from_numpy(signals()["pink"])
    tone = torch.from_numpy(signals()["tone"])
    wave = torch.cat([tone, noise])[None]
    halves = net.log_odds(torch.stack([tone, noise]))
    # but for the frames at a cut, which see beyond it
    torch.testing.assert_close(net.log_odds(wave)[0], halves.mean(0), atol=0.4, rtol=0)
    assert (halves[0] - halves[1]).abs().max() > 4
    four = wave[:, : 4 * RATE]
    changed = torch.cat([four[:, : -RATE // 2], torch.zeros(1, RATE // 2)], 1)
    assert (net.log_odds(four) - net.log_odds(changed)).abs().max() > 0.1, "the end is heard"
    both = net.log_odds(torch.cat([four, changed]))
    torch.testing.assert_close(both[1:], net.log_odds(changed), atol=1e-4, rtol=0)


def test_a_short_clip_is_repeated(ear, clips):
    second = clips[..., :RATE]
    torch.testing.assert_close(
        torch.tensor(ear(second, RATE).to_numpy()), torch.tensor(ear(second.repeat(1, 1, 3), RATE).to_numpy())
    )
    assert np.isfinite(ear(clips[..., :1], RATE)).all(axis=None)


@pytest.mark.parametrize("rate", [8_000, 44_100, 44_101, 48_000])
def test_any_rate_and_stereo(ear, clips, rate):
    import librosa

    other = torch.from_numpy(librosa.resample(clips.numpy(), orig_sr=RATE, target_sr=rate)).repeat(1, 2, 1)
    found, known = ear(other, rate), ear(clips, RATE)
    if rate < RATE:  # nothing above 4 kHz is left
        assert np.isfinite(found).all(axis=None) and np.corrcoef(found.to_numpy().ravel(), known.to_numpy().ravel())[0, 1] > 0.8
    else:  # the nets hear the highest bands, in which resampling is never exact
        assert (found - known).abs().max(axis=None) < 1.0 and (found - known).abs().mean(axis=None) < 0.2


def test_ones_own_tags(clips):
    ear = Musicnn({"harp": ("harp",), "calm": ["soft", "quiet", "ambient"]}, device="cpu")
    assert list(ear(clips, RATE)) == ear.concepts == ["harp", "calm"]
    alone = Musicnn(nets=["MTT"], device="cpu")
    assert "jazz" not in alone.concepts and "flute" in alone.concepts and alone.name == "musicnn (MTT)"
    prints = {each.fingerprint for each in (ear, alone, Musicnn(device="cpu"), Musicnn({"harp": ("cello",)}, device="cpu"))}
    assert len(prints) == 4, "other tags or nets are another scorer"


@pytest.mark.parametrize(
    ("keywords", "kind", "said"),
    [
        ({"tags": {"trumpet": ["trumpet"]}}, KeyError, r"No musicnn tag 'trumpet'\. Available: .*flute"),
        ({"tags": {"jazz": ["jazz"]}, "nets": ["MTT"]}, ValueError, "MTT of musicnn have none of the tags"),
        ({"tags": {"harp": "harp"}}, ValueError, "expected a list of tags"),
        ({"tags": {}}, ValueError, "expected the tags of each concept"),
        ({"tags": ["harp"]}, ValueError, "expected the tags of each concept"),
        ({"nets": "MTT"}, ValueError, "nets is .MTT., expected a list"),
        ({"nets": []}, ValueError, "at least one net"),
        ({"nets": ["MTT", "MTT"]}, ValueError, "each once"),
        ({"nets": ["VGG"]}, KeyError, "Available: MTT, MSD"),
        ({"tags": {3: ["harp"]}}, ValueError, "concept of tags is 3"),
        ({"name": 3}, ValueError, "name is 3, expected a text"),
        ({"name": "x\ny"}, ValueError, "control character"),
        ({"device": "gpu"}, ValueError, "device is 'gpu', which torch cannot use here"),
    ],
)
def test_bad_input_is_one_line(keywords, kind, said):
    with pytest.raises(kind, match=said) as caught:
        Musicnn(**keywords)
    assert "\n" not in str(caught.value)


def test_a_concept_without_a_tag_is_refused_before_any_work(tiny, ear, tmp_path):
    with pytest.raises(ValueError, match="musicnn cannot score 'trumpet': it knows female, male, .*drums"):
        audioscope.localize(tiny, ["trumpet"], pairs=1, steps=1, scorer=ear, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=r"audio has shape \(2, 0\)"):
        ear(torch.zeros(2, 0), RATE)
    with pytest.raises(ValueError, match="at least one of each"):
        ear(torch.zeros(2, 1, 0), RATE)


def test_it_travels_and_does_not_change(ear, clips):
    again = pickle.loads(pickle.dumps(ear))
    assert again.fingerprint == ear.fingerprint and again(clips, RATE).equals(ear(clips, RATE))
    assert (ear(clips[1:], RATE).to_numpy() == ear(clips, RATE).to_numpy()[1:]).all(), "a clip's score depends on its neighbours"


def test_distances_to_what_it_hears(ear, clips):
    layers = ear.layers(clips, RATE)
    assert len(layers) == 10 and all(len(layer) == 2 and layer.shape[-1] == 2 for layer in layers)
    near = ear.layers(clips + 1e-3 * torch.randn(clips.shape, generator=torch.Generator().manual_seed(0)), RATE)
    assert feature_distance(layers, layers).abs().max() < 1e-6
    assert (feature_distance(layers, near) < feature_distance(layers, ear.layers(clips.flip(0), RATE))).all()


@pytest.mark.slow
def test_it_tells_tinys_own_music_apart():
    """Rendered songs, whose labels are known: what it can hear at best, far above chance for what it hears best."""
    from audioscope.stats import auroc

    songs = [pool.song(number, 5) for number in range(80)]
    waves = np.stack([pool.clip(number, 5) for number in range(80)])
    heard = Musicnn(device="cpu")(torch.from_numpy(waves)[:, None], RATE)
    for concept, group in (("metal", "genre"), ("fast", "tempo")):
        has = np.array([getattr(song, group) == concept for song in songs])
        assert auroc(heard[concept].to_numpy()[has], heard[concept].to_numpy()[~has]) > 0.7, concept


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_sweep_by_it_and_a_second_opinion_of_it(tiny, ear, tmp_path, workers):
    """As the scorer, and as one beside the listener that does not know every concept."""
    few = {"pairs": 2, "sites": [0, 6], "steps": 1, "clips": False, "progress": False, "workers": workers}
    atlas = audioscope.localize(tiny, ["fast"], scorer=ear, out=tmp_path / "own", **few)
    assert atlas.scorers == ["musicnn"] and atlas.settings["scorer_fingerprint"] == ear.fingerprint
    assert atlas.scales == ("raw", "probability") and atlas.table["score"].notna().all()
    other = Musicnn({"fast": ["fast"]}, device="cpu")
    with pytest.raises(ValueError, match="another"):
        audioscope.localize(tiny, ["fast"], scorer=other, out=tmp_path / "own", **few)
    both = audioscope.localize(tiny, ["fast", "trumpet"], also=[ear], **few)
    assert both.scorers == ["listener", "musicnn"]
    theirs = both.heard_by("musicnn").impacts()
    assert not theirs.query("concept == 'trumpet'")["defined"].any()
    assert both.table.query("scored == 'fast'")["score of musicnn"].notna().all()


def test_a_second_opinion_on_steering_at_the_same_price(tiny, tmp_path):
    vector = audioscope.datasets.vector("fast")
    few = {"strengths": [2.0], "prompts": 1, "seeds": 2, "steps": 3, "progress": False}
    alone = audioscope.steer.steering_sweep(tiny, "fast", vector, **few)
    ear = Musicnn(nets=["MTT"])
    sweep = audioscope.steer.steering_sweep(tiny, "fast", vector, also=ear, clips=True, out=tmp_path, **few)
    pd.testing.assert_frame_equal(sweep.table[alone.table.columns].drop(columns="clip"), alone.table.drop(columns="clip"))
    assert sweep.scorers == ["judge", ear.name] and alone.scorers == ["judge"]
    assert sweep.heard_by("judge") is sweep
    heard = sweep.heard_by(ear.name)
    sound = torch.stack([torch.from_numpy(audioscope.Clip.load(tmp_path / file).samples) for file in sweep.table["clip"]])
    asked = ear(sound, 16_000)
    np.testing.assert_allclose(heard.table["score"], (asked["fast"] - asked["slow"]) / 2, atol=0.05)  # the files have 16 bits
    assert heard.table["distance"].equals(sweep.table["distance"])
    assert list(audioscope.steer.sweep_views(sweep))[-1] == ear.name
    again = audioscope.steer.SteeringSweep.load(sweep.save(tmp_path / "copy"))
    assert again.heard_by(ear.name).table["score"].equals(heard.table["score"])
    with pytest.raises(UnknownName, match="'nobody' did not score"):
        sweep.heard_by("nobody")
    back = heard.heard_by("judge")
    assert heard.scorers == [ear.name, "judge"] and back.table["score"].equals(sweep.table["score"])
    assert set(back.table) == set(sweep.table) and back.settings == sweep.settings
    assert np.isnan(heard.summary()["specificity"]).all() and not np.isnan(sweep.summary()["specificity"]).all()
    with pytest.raises(ValueError, match="no calibrated range"):
        heard.on("clipped")


class Deaf:
    """A scorer of the least that is asked, under any name."""

    concepts = ("fast", "slow")

    def __init__(self, name):
        self.name = name

    def __call__(self, audio, rate):
        return np.zeros((len(audio), 2))


@pytest.mark.parametrize(
    ("also", "said"),
    [
        (Musicnn({"fast": ("fast",)}), "slow"),
        ([Deaf("clipped")], "that name is taken"),
        ([Deaf("scored")], "that name is taken"),
        ([Deaf("judge")], "that name is taken"),
        ([Deaf("a"), Deaf("a")], "that name is taken"),
        ([Deaf("a\nb")], "control character"),
        ([Deaf(5)], "expected text"),
        ([Deaf(" ")], "expected text"),
    ],
)
def test_an_opinion_that_could_not_be_told_apart_is_refused_before_any_work(tiny, tmp_path, also, said):
    few = {"strengths": [2.0], "prompts": 1, "seeds": 1, "steps": 2, "progress": False, "out": tmp_path / "sweep"}
    with pytest.raises((ValueError, TypeError, KeyError), match=said):
        audioscope.steer.steering_sweep(tiny, "fast", audioscope.datasets.vector("fast"), also=also, **few)
    assert not (tmp_path / "sweep").exists()


def test_a_scorer_may_be_its_own_price_but_not_its_own_second_opinion(tiny):
    few = {"strengths": [2.0], "prompts": 1, "seeds": 1, "steps": 2, "progress": False}
    own = Musicnn(nets=["MTT"])
    vector = audioscope.datasets.vector("fast")
    assert not audioscope.steer.steering_sweep(tiny, "fast", vector, scorer=own, price=own, **few).two_networks
    judge, listener = audioscope.scoring.listener_scorer("judge"), audioscope.scoring.listener_scorer()
    for also, which in ((judge, "scorer"), (listener, "price")):
        with pytest.raises(ValueError, match=f"is the {which}"):
            audioscope.steer.steering_sweep(tiny, "fast", vector, scorer=judge, price=listener, also=also, **few)


def test_what_no_clip_of_a_site_could_tell_does_not_hold():
    """In cells that failed for every scorer, nobody agrees."""
    atlas = audioscope.datasets.atlas()
    site = atlas.sites[3].path
    failed = (atlas.table["site"] == site) & (atlas.table["row"] == "patched") & (atlas.table["concept"] == "fast")
    table = atlas.table.copy()
    table.loc[failed, ["score", "score of judge"]] = np.nan
    cells = (
        audioscope.atlas.Atlas(table, atlas.settings, atlas.folder).agreement().query("concept == 'fast' and layer == 3").iloc[0]
    )
    assert (cells["views"], cells["asked"], cells["agree"]) == (4, 0, 0) and not cells["holds"] and not cells["holds_raw"]


@pytest.mark.parametrize("seconds", [3.0, 6.0001, 30.0, 61.3])
def test_all_of_a_long_clip_is_heard(seconds):
    """Noise at any place, also in the last tenth of a second, changes what it hears; no part weighs more than twice another."""
    net = load("MTT")
    wave = 0.01 * torch.randn(1, int(seconds * RATE), generator=torch.Generator().manual_seed(0))
    quiet = net.log_odds(wave)
    for start in np.linspace(0, wave.shape[1] - RATE // 10, 5).astype(int):
        loud = wave.clone()
        loud[:, start : start + RATE // 10] *= 50
        assert (net.log_odds(loud) - quiet).abs().max() > 1e-4, start


def test_a_scorer_that_nobody_can_know_again_is_said_when_a_folder_is_resumed(tmp_path):
    """Whatever its place: the scorer, the price, or one more, in the form of any kind of sweep."""
    unknown = "unknown, Loud"
    for number, extra in enumerate(
        (
            {"scorer": "Loud", "scorer_fingerprint": unknown},
            {"price": "Loud", "price_fingerprint": unknown},
            {"also": {"Loud": {"fingerprint": unknown}}},
            {"also": {"Loud": {"scorer_fingerprint": unknown}}},
            {"also": {"Loud": unknown}},
        )
    ):
        settings = {"model": "tiny", "fingerprint": "f", "scorer": "judge", "scorer_fingerprint": "j", **extra}
        check_settings(tmp_path / str(number), settings)
        with pytest.warns(UserWarning, match="'Loud' has no fingerprint"):
            check_settings(tmp_path / str(number), settings)
