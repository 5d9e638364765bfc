"""The embedded model: real classes, a pure codec, reproducible music, listeners that hear it, and the promised floors."""

import json
import shutil
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from audioscope.concepts import shipped_concepts
from audioscope.tiny import listener, pool
from audioscope.tiny.captions import UNSEEN, caption, vocabulary
from audioscope.tiny.codec import MelCodec
from audioscope.tiny.evaluate import choose, held_out_captions, levels, nearest_distances
from audioscope.tiny.music import BPM, GROUPS, LEVEL, Song


def test_it_is_a_stable_audio_3_of_diffusers_own_classes(tiny):
    import diffusers
    from transformers import T5GemmaEncoderModel

    assert type(tiny.pipe) is diffusers.StableAudio3Pipeline
    assert type(tiny.pipe.transformer) is diffusers.StableAudio3DiTModel
    assert type(tiny.pipe.text_encoder) is T5GemmaEncoderModel
    assert type(tiny.pipe.scheduler) is diffusers.FlowMatchEulerDiscreteScheduler
    size = sum(p.numel() for p in tiny.pipe.transformer.parameters())
    assert len(tiny.pipe.transformer.transformer_blocks) == 12 and 2.5e6 < size < 3.5e6


def test_data_fits(root):
    assert sum(f.stat().st_size for f in (root / "data").rglob("*") if f.is_file()) <= 40e6
    assert sum(file.stat().st_size for file in (root / "data/tiny/bank").glob("*.ogg")) <= 6e6


def test_codec_is_a_pure_function_of_each_row(tiny):
    codec = tiny.pipe.vae
    wave = torch.from_numpy(np.stack([pool.clip(i, 9) for i in range(3)]))[:, None]
    latents = codec.encode(wave)
    assert latents.shape == (3, codec.config.latent_dim, 64)
    together = codec.decode(latents).sample
    assert torch.equal(together, codec.decode(latents).sample)
    assert torch.equal(together[1:2], codec.decode(latents[1:2]).sample)
    error = (codec.log_mel(together[:, 0]) - codec.log_mel(wave[:, 0])).pow(2).mean().sqrt()
    assert error < 0.45, "the round trip must keep the log-mel (data's standard deviation is 1.5)"


def test_the_pool_is_reproducible_and_its_labels_independent():
    assert np.array_equal(pool.clip(7, 1), pool.clip(7, 1))
    songs = [pool.song(i, 1).indices() for i in range(3000)]
    table = np.array(songs)
    for i, a in enumerate(GROUPS.values()):
        for j, b in enumerate(GROUPS.values()):
            if i < j:
                joint = np.histogram2d(table[:, i], table[:, j], bins=(range(len(a) + 1), range(len(b) + 1)))[0] / len(table)
                assert np.abs(joint - 1 / len(a) / len(b)).max() < 0.025
    assert not any(pool.song(i, 1).held_out for i in range(500)) and all(
        pool.song(i, 4, held_out=True).held_out for i in range(50)
    )


def test_labels_do_not_leak_into_each_other():
    """A table of each pair of groups, filled on 6,000 labels of the pool, guesses the labels of another 6,000 no better than chance."""
    table = np.array([pool.song(i, 1).indices() for i in range(12_000)])
    fit, test = table[:6000], table[6000:]
    for i, classes in enumerate(GROUPS.values()):
        others = [j for j in range(len(GROUPS)) if j != i]
        votes = np.zeros((len(test), len(classes)))
        for j in others:  # naive Bayes
            joint = np.ones((len(list(GROUPS.values())[j]), len(classes)))
            np.add.at(joint, (fit[:, j], fit[:, i]), 1)
            votes += np.log(joint / joint.sum(0))[test[:, j]]
        right = (votes.argmax(1) == test[:, i]).mean()
        chance = 1 / len(classes)
        assert right < chance + 3.5 * (chance * (1 - chance) / len(test)) ** 0.5, f"group {i}: {right:.3f}"


def test_no_tempo_band_holds_the_double_of_another():
    slowest = min(low for low, _ in BPM.values())
    folded = sorted((np.log2(low / slowest) % 1, np.log2(high / slowest) % 1) for low, high in BPM.values())
    assert all(low < high for low, high in folded) and all(a[1] < b[0] for a, b in pairwise(folded))


def test_rendered_clips_are_sound(tiny):
    for i in range(12):
        wave = pool.clip(i, 11)
        assert wave.shape == (65_536,) and wave.dtype == np.float32
        assert np.abs(wave).max() < 1.0 and abs(20 * np.log10(np.sqrt((wave**2).mean())) - LEVEL) < 1
        assert abs(wave[-1]) < 1e-3, "no click at the end"


def test_what_the_codec_decodes_is_mastered(tiny):
    """Latents 20 dB too loud or 10 dB too soft come out at one level, unclipped and with quiet ends; silence stays silent."""
    codec = tiny.pipe.vae
    wave = torch.from_numpy(pool.clip(3, 9))[None, None]
    latents = torch.cat([codec.encode(wave * 10 ** (gain / 20)) for gain in (-10, 0, 20)] + [codec.encode(0 * wave)])
    found = levels(codec.decode(latents).sample[:3, 0])
    assert abs(found["quietest_db"] - LEVEL) < 1 and abs(found["loudest_db"] - LEVEL) < 1, found
    assert found["limited"] < 1e-3 and found["loudest_end"] < 0.02, found
    assert levels(codec.decode(latents).sample[3:, 0])["loudest_db"] < -40


def test_captions_use_the_vocabulary_and_name_what_they_should():
    rng = np.random.default_rng(0)
    words = set(vocabulary())
    for i in range(300):
        song = Song.draw(np.random.default_rng(i))
        text = caption(song, rng, always=GROUPS)
        assert set(text.replace(",", " ").replace("-", " ").split()) <= words
        if song.lead != "none":
            assert song.lead in text
    texts = {caption(Song.draw(np.random.default_rng(1)), np.random.default_rng(i)) for i in range(50)}
    assert len(texts) > 40, "one song has many names"


def test_wordings_kept_for_evaluation_are_unseen_but_their_words_are_known():
    phrases = {word for words in UNSEEN.values() for word in words}
    assert {word for phrase in phrases for word in phrase.replace("-", " ").split()} <= set(vocabulary())
    for name, concept in shipped_concepts().items():
        assert len(set(UNSEEN[concept.group, name])) >= 3
    rng = np.random.default_rng(3)
    seen = "|".join(f" {caption(pool.song(i, 1), rng, keep=0.9)} ".replace(",", " ,") for i in range(5000))
    assert not [phrase for phrase in phrases if f" {phrase} " in seen]
    assert all(any(phrase in text for phrase in phrases) for text, _, _ in held_out_captions(50, unseen=True))


@pytest.mark.slow
def test_evaluation_captions_are_balanced_and_held_out():
    captions = held_out_captions(400)
    assert all(song.held_out for _, song, _ in captions)
    for i, (group, classes) in enumerate(GROUPS.items()):
        counts = np.bincount([song.indices()[i] for _, song, named in captions if group in named], minlength=len(classes))
        assert counts.sum() > 280 and counts.max() - counts.min() <= 4, f"{group}: {counts}"


@pytest.mark.slow
def test_listener_and_judge_hear_real_clips(tiny):
    from audioscope.tiny.evaluate import accuracies, real_clips

    waves, truth = real_clips(60, tiny.pipe.vae)
    for name in ("listener", "judge"):
        hearing = listener.load(name)
        guesses, odds = hearing.guess(waves), hearing.log_odds(waves)
        right = accuracies(guesses, truth)
        assert right["genre"] > 0.85 and right["percussion"] > 0.85 and right["voice"] > 0.8 and right["tempo"] > 0.8, right
        for values, guess in zip(odds.values(), guesses.T, strict=True):
            assert torch.equal(values.argmax(1), guess) and ((values > 0).sum(1) <= 1).all(), (
                "one class at most is likelier than not"
            )
        assert max(float(v.max()) for v in odds.values()) > listener.CALIBRATED, "nothing is clipped"


def odds_of(logits, temperature=1.0):
    """The log-odds that a listener makes of given logits of one group, [clips, classes]."""
    hearing = listener.Listener().eval()
    hearing.temperature = torch.tensor([temperature])
    hearing.logits = lambda mel: {"group": torch.as_tensor(logits, dtype=torch.float32)}
    return hearing.log_odds(torch.zeros(1, 65_536))["group"]


HARD_LOGITS = [
    [0.0, 0.0, 0.0, 0.0], [3.0, -1.0, 0.5, 0.5], [40.0, 0.0, -5.0, 1.0], [1e4, 0.0, -1e4, 3.0], [1e4, 1e4, 0.0, 0.0],
    [1e30, -1e30, 0.0, 1.0], [1e30, 1e30, 1e30, 1e30], [3.4e38, -3.4e38, 3.4e38, 0.0], [-3.4e38, -3.4e38, -3.4e38, 3.4e38],
    [1e-30, -1e-30, 0.0, 1e-38],
]  # fmt: skip


@pytest.mark.parametrize("temperature", [1.0, 0.1, 10.0])
def test_log_odds_are_finite_and_exact_for_any_finite_logits(temperature):
    """Each class's logit less the logsumexp of the others', in scipy's float64; what float32 cannot hold becomes its largest number."""
    found = odds_of(HARD_LOGITS, temperature)
    assert found.dtype == torch.float32 and torch.isfinite(found).all()
    scaled = np.array(HARD_LOGITS, np.float32).astype(float) / float(np.float32(temperature))
    expected = [[row[i] - logsumexp(np.delete(row, i)) for i in range(len(row))] for row in scaled]
    most = float(np.finfo(np.float32).max)
    np.testing.assert_allclose(found.numpy(), np.clip(expected, -most, most), rtol=1e-6, atol=1e-6)


def test_log_odds_are_those_of_the_probabilities_where_these_can_be_told_from_1():
    logits = torch.tensor([[3.0, -1.0, 0.5], [0.0, 0.0, 0.0], [-2.0, 7.0, 1.0]])
    probability = torch.softmax(logits.double() / 1.7, 1)
    np.testing.assert_allclose(odds_of(logits, 1.7), torch.logit(probability), rtol=1e-5, atol=1e-5)


def test_the_log_odds_of_one_of_two_are_minus_those_of_the_other():
    sure = torch.tensor([0.0, 0.3, 7.0, 30.0, 1e4, 1e30, 3.4e38])
    one, other = odds_of(torch.stack([sure, -sure], 1)).T
    assert torch.equal(one, -other) and torch.equal(one[:5], 2 * sure[:5])


@pytest.mark.slow
def test_an_interrupted_training_of_a_listener_goes_on(tmp_path, tiny, monkeypatch):
    """After a part of its music and after an epoch; what comes out is what an uninterrupted one gives, to the bit."""
    monkeypatch.setattr(listener, "PART", 40)
    train = partial(listener.train, "judge", codec=tiny.pipe.vae, without=("third",), clips=80, epochs=2)
    whole = train(out=tmp_path / "whole", work=tmp_path / "one").state_dict()
    write, work, done = listener.write_whole, tmp_path / "other", []

    def stopped(file, *args, **keywords):
        write(file, *args, **keywords)
        done.append(file.name)
        if len(done) in (1, 4):
            raise KeyboardInterrupt

    monkeypatch.setattr(listener, "write_whole", stopped)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(out=tmp_path / "parts", work=work)
    monkeypatch.setattr(listener, "write_whole", write)
    again = train(out=tmp_path / "parts", work=work).state_dict()
    assert [name.partition("-mels")[2].partition(".")[0] for name in done[:3]] == ["-0-40-of-80", "-40-80-of-80", ""], done
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    assert sorted(file.name for file in work.iterdir()) == ["judge-no-third-80-2.pt", "judge-no-third-mels.npy"], (
        "no parts are left"
    )
    again = train(out=tmp_path / "more", work=work)
    assert not again.training and all(torch.equal(value, again.state_dict()[name]) for name, value in whole.items())
    mels = np.load(work / "judge-no-third-mels.npy")
    np.save(
        work / "judge-no-third-mels.npy", mels[:, :, ::-1][:, :, ::-1] + np.float16(1e-3) * (np.arange(80)[:, None, None] > 0)
    )
    with pytest.raises(ValueError, match=r"80-2\.pt is of a training on other music"):
        train(out=tmp_path / "more", work=work)


def test_listener_and_judge_differ():
    assert listener.load("listener").config.kind != listener.load("judge").config.kind
    assert listener.POOLS["listener"] != listener.POOLS["judge"] and 1 not in listener.POOLS.values()


def test_a_group_that_is_always_right_is_not_boundlessly_sure():
    """Separable logits on 600 clips: the log-odds of Laplace's rule are about log(601), not infinite."""
    labels = torch.arange(600) % 4
    logits = 3.0 * torch.nn.functional.one_hot(labels, 4).float()
    probability = torch.softmax(logits / listener.temperature(logits, labels), 1).amax(1)
    assert abs(float(torch.logit(probability[0].double())) - np.log(601)) < 0.5


def test_floors(root, tiny):
    """What `audioscope tiny evaluate --json` said of the shipped weights (rebuilt by `make results`)."""
    result = json.loads((root / "data/tiny/evaluation.json").read_text())
    real = {"genre": 0.98, "lead": 0.92, "percussion": 0.98, "voice": 0.97, "tempo": 0.97, "mood_pair": 0.92}
    generated = {"genre": 0.90, "lead": 0.75, "percussion": 0.95, "voice": 0.80, "tempo": 0.85, "mood_pair": 0.70}
    assert result["clips"] == 400 and result["real_clips"] == 2000
    assert result["model"]["fingerprint"] == tiny.fingerprint, "the evaluation is of other weights: run `make results`"
    for group in real:
        assert result["real"]["judge"][group] >= real[group], group
        assert result["generated"]["judge"][group] >= generated[group], group
    assert result["memorization"]["share"] <= 0.02 and result["memorization"]["share_seen_combinations"] <= 0.02
    made = result["sound"]["generated"]
    assert made["limited"] < 1e-3 and LEVEL - 5 < made["quietest_db"] <= made["loudest_db"] < LEVEL + 1.5
    changes = {row["change"] for row in result["extrapolation"]}
    assert changes == {"default", "seen combinations", "unseen wordings", "guidance", "steps"}


def test_the_asked_for_sound_is_generated(tiny):
    """A quick look by the listener itself at the shipped weights: drums against none, fast against slow."""
    hearing = listener.load("listener")
    asked = ["a fast techno song with drums", "a slow opera song with violin"]
    clips = tiny.generate([p for p in asked for _ in range(6)], seed=[*range(6)] * 2)
    odds = hearing.log_odds(torch.from_numpy(np.stack([c.mono for c in clips])))
    for group, name in (("percussion", "drums"), ("tempo", "fast"), ("genre", "techno")):
        values = odds[group][:, GROUPS[group].index(name)]
        assert values[:6].mean() > values[6:].mean() + 1.0, (group, name)


@pytest.mark.slow
def test_weights_for_another_codec_read_and_write_what_they_did(tiny):
    """With a codec that says all that the old one says, and more, the trained model predicts as before on what both say."""
    from audioscope.tiny.train import Recipe, Trainer

    waves = torch.from_numpy(np.stack([pool.clip(number, 1) for number in range(60)]))[:, None]
    wider = MelCodec(latent_dim=128)
    wider.fit(torch.cat([wider.patches(part[:, 0]).flatten(0, 1) for part in waves.split(20)]))
    losses = {}
    for name, codec, trained in (("same", tiny.pipe.vae, True), ("wider", wider, True), ("random", wider, False)):
        trainer = Trainer(Recipe(), codec, "cpu")
        if trained:
            trainer.begin_from(tiny.pipe)
        latents = codec.encode(waves[:24])
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            texts = [caption(pool.song(number, 1), np.random.default_rng(number)) for number in range(24)]
            losses[name] = float(trainer.loss(trainer.parts.eval(), latents, texts, torch.full((24,), 0.6), noise))
    assert losses["same"] < 1.0 and losses["wider"] < 0.5 * (losses["same"] + losses["random"]), losses


def test_training_resumes(tmp_path, monkeypatch):
    from audioscope.tiny import train as module

    recipe = module.Recipe(clips=40, batch=4, warmup=2)
    monkeypatch.setattr(
        module.pool, "clips", lambda numbers, seed, **_: (pool.clip(i % 40, seed) for i in range(min(len(numbers), 200)))
    )
    work, out = tmp_path / "work", tmp_path / "out"
    module.train(2 / 3600, out, work, recipe=recipe)
    first = torch.load(work / "state.pt", weights_only=True)["step"]
    assert list((work / "candidates").glob("step-*"))
    with pytest.raises(FileExistsError, match="--resume"):
        module.train(3 / 3600, out, work, recipe=recipe)
    module.train(10 / 3600, out, work, resume=True, recipe=recipe)
    assert torch.load(work / "state.pt", weights_only=True)["step"] > first >= 1
    assert (out / "model_index.json").exists() and json.loads((out / "training.json").read_text())["steps"] > first


@pytest.mark.slow
def test_a_resumed_training_is_the_uninterrupted_one(tmp_path, tiny):
    """Weights, optimisers, weight average and random draws: four steps are two steps, a state file and two steps."""
    from audioscope.tiny.train import Recipe, Trainer

    recipe = Recipe(clips=24, batch=4, warmup=1)
    latents = torch.cat([tiny.pipe.vae.encode(torch.from_numpy(pool.clip(i, 1))[None, None]).half() for i in range(24)])
    straight, before, after = (Trainer(recipe, tiny.pipe.vae, "cpu") for _ in range(3))
    for step in range(4):
        straight.train_step(latents, step / 10)
    for step in range(2):
        before.train_step(latents, step / 10)
    before.save(tmp_path / "state.pt")
    after.load(tmp_path / "state.pt")
    for step in range(2, 4):
        after.train_step(latents, step / 10)
    for a, b in ((straight.parts, after.parts), (straight.average, after.average)):
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    (tmp_path / "state.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="damaged"):
        after.load(tmp_path / "state.pt")


def test_a_copied_clip_counts_as_memorised(tmp_path, tiny):
    """Clips of the training pool itself are all found nearer than held-out clips; held-out clips are not."""
    codec = tiny.pipe.vae
    with torch.no_grad():
        trained = codec.encode(torch.from_numpy(np.stack([pool.clip(i, 1) for i in range(40)]))[:, None])
        copies = codec.decode(trained[:6]).sample[:, 0]
        others = codec.decode(
            codec.encode(torch.from_numpy(np.stack([pool.clip(i, 4, True) for i in range(12)]))[:, None])
        ).sample[:, 0]
    nearest = nearest_distances(codec, trained.half(), copies, others)
    assert nearest[0].max() < torch.quantile(nearest[1], 0.01)
    assert len(nearest[1]) == 12 and nearest[1].std() > 0


@pytest.mark.slow
def test_the_listener_chooses_the_better_candidate(tmp_path, root, tiny):
    """Between the shipped weights and weights with noise on them it takes the shipped ones."""
    for name in ("step-1", "step-2"):
        shutil.copytree(root / "data/tiny", tmp_path / name, ignore=shutil.ignore_patterns("bank", "listener", "judge"))
    file = tmp_path / "step-1/transformer/diffusion_pytorch_model.safetensors"
    from safetensors.torch import load_file, save_file

    save_file({k: v + 0.1 * torch.randn_like(v) for k, v in load_file(file).items()}, file)
    table = choose(tmp_path, tmp_path / "out", clips=20)
    assert table["model"][0].endswith("step-2") and table["mean_accuracy"][0] > table["mean_accuracy"][1]
    assert json.loads((tmp_path / "out/training.json").read_text())["chosen_from"][0]["model"] == "step-2"
    with pytest.raises(FileNotFoundError, match="no candidates"):
        choose(tmp_path / "out", tmp_path / "other")


def test_training_goes_on_from_a_pipeline_with_fewer_words(tmp_path, root, tiny):
    """All weights but the rows of new words are taken over, each word's row by its spelling."""
    from tokenizers import Tokenizer

    from audioscope.tiny.train import Recipe, Trainer

    words = json.loads(tiny.pipe.tokenizer.backend_tokenizer.to_str())
    kept = [word for word, _ in sorted(words["model"]["vocab"].items(), key=lambda item: item[1])][:-5]
    earlier = Trainer(Recipe(seed=1), tiny.pipe.vae, "cpu").pipe
    embedding = earlier.text_encoder.get_input_embeddings()
    embedding.weight.data = embedding.weight.data[: len(kept)].flip(0)
    words["model"]["vocab"] = {word: len(kept) - 1 - i for i, word in enumerate(kept)}
    earlier.tokenizer = type(earlier.tokenizer)(tokenizer_object=Tokenizer.from_str(json.dumps(words)))
    trainer = Trainer(Recipe(seed=2), tiny.pipe.vae, "cpu")
    untouched = trainer.pipe.text_encoder.get_input_embeddings().weight[-5:].clone()
    trainer.begin_from(earlier)
    rows = trainer.pipe.text_encoder.get_input_embeddings().weight
    assert torch.equal(rows[: len(kept)], embedding.weight.flip(0)) and torch.equal(rows[-5:], untouched)
    for a, b in zip(trainer.pipe.transformer.parameters(), earlier.transformer.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_kept_pool_of_other_music_is_refused(tmp_path, tiny):
    from audioscope.tiny.train import Recipe, dataset

    tiny.pipe.vae.save_pretrained(tmp_path / "codec")
    recipe = Recipe(clips=2)
    wave = torch.from_numpy(np.stack([pool.clip(i, 1) for i in range(2)]))[:, None]
    np.save(tmp_path / "latents-1-2.npy", tiny.pipe.vae.encode(wave).half().numpy())
    assert len(dataset(recipe, tmp_path, tiny.pipe.vae)[1]) == 2
    np.save(tmp_path / "latents-1-2.npy", tiny.pipe.vae.encode(wave.flip(0)).half().numpy())
    with pytest.raises(ValueError, match="other music or another codec"):
        dataset(recipe, tmp_path, tiny.pipe.vae)


@pytest.mark.parametrize(("size", "hop", "frames"), [(768, 256, 257), (1024, 256, 9), (512, 256, 5), (96, 24, 40)])
def test_the_codec_inverts_a_transform_as_torch_does(size, hop, frames):
    """Also of spectra that no sound has, as Griffin-Lim makes them."""
    codec = MelCodec(n_fft=size, hop=hop, n_mels=8, latent_dim=8)
    draw = torch.Generator().manual_seed(size)
    spectrum = torch.complex(*torch.randn(2, 3, size // 2 + 1, frames, generator=draw))
    ours, torchs = codec._inverse_stft(spectrum), torch.istft(spectrum, size, hop, window=codec.window)
    assert torch.allclose(ours[:, : torchs.shape[-1]], torchs, atol=1e-5) and ours.shape == torchs.shape


@pytest.mark.parametrize(("size", "hop"), [(1000, 256), (512, 512), (128, 256), (512, 0)])
def test_a_hop_that_leaves_gaps_is_refused(size, hop):
    """A window begins at 0: with a hop of its size, nothing is known there."""
    with pytest.raises(ValueError, match=f"n_fft is {size}, expected a multiple of hop, {hop}"):
        MelCodec(n_fft=size, hop=hop)
