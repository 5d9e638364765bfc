"""The laws of sparse autoencoders: the step, the training, the stream, the gate and the files."""

import gc
import json
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from helpers.pipelines import PROMPTS

import audioscope
from audioscope import SAE
from audioscope.sae import TokenStream, train_sae
from audioscope.sae.evaluation import evaluate_sae
from audioscope.sae.levels import Levels
from audioscope.sae.training import _step, geometric_median

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def mixtures(count=4096, width=16, directions=24, active=2, seed=0):
    """Tokens that truly are sparse sums: float32 [count, width], and the directions [directions, width]."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.nn.functional.normalize(torch.randn(directions, width, generator=torch.Generator().manual_seed(99)), dim=1)
    on = torch.rand(count, directions, generator=generator).argsort(1) < active
    return (on * (0.5 + torch.rand(count, directions, generator=generator))) @ truth, truth


def small(kind="batchtopk", width=16, features=32, k=3, seed=1):
    sae = SAE(width, features, k, kind, seed)
    with torch.no_grad():
        sae.b_enc.normal_(0, 0.1, generator=torch.Generator().manual_seed(2))
        sae.b_dec.normal_(0, 0.1, generator=torch.Generator().manual_seed(3))
    return sae


@pytest.mark.parametrize("kind", ["batchtopk", "topk"])
def test_a_step_is_the_plain_dense_computation(kind):
    """Only active pairs are followed, yet loss and every gradient equal those of the formula written out in full."""
    x, _ = mixtures(64)
    one, other = small(kind), small(kind)
    one.step(x).loss.backward()
    values = torch.relu((x - other.b_dec) @ other.encoder.T + other.b_enc)
    if kind == "batchtopk":
        least = values.flatten().topk(3 * 64).values[-1]
    else:
        least = values.topk(3, dim=1).values[:, -1:]
    kept = torch.where(values >= least, values, 0)
    assert int((kept > 0).sum()) == 3 * 64
    loss = (x - kept @ other.decoder - other.b_dec).square().sum() / (x - x.mean(0)).square().sum()
    loss.backward()
    for (name, mine), (_, theirs) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, **CLOSE, msg=name)
    torch.testing.assert_close(one.step(x).fvu, loss.detach(), **CLOSE)


def test_the_auxiliary_loss_moves_idle_features_only():
    x, _ = mixtures(64)
    idle = torch.zeros(32, dtype=torch.bool)
    sae = small(k=1)
    never = ~sae.step(x).fired
    assert 2 <= int(never.sum()) < 32
    sae.step(x).loss.backward()
    assert not sae.encoder.grad[never].any() and not sae.decoder.grad[never].any()
    plain = sae.encoder.grad.clone()
    sae.zero_grad()
    idle[never] = True
    sae.step(x, idle).loss.backward()
    assert sae.decoder.grad[never].any() and sae.encoder.grad[never].any()
    torch.testing.assert_close(sae.encoder.grad[~never], plain[~never])


@pytest.mark.parametrize("kind", ["batchtopk", "topk"])
def test_training_finds_the_directions_that_made_the_tokens(kind):
    x, truth = mixtures(8192)
    sae = train_sae(
        [x],
        expansion_factor=2,
        k=2,
        training_tokens=400_000,
        batch_size=512,
        buffer=8192,
        kind=kind,
        dead_feature_window=20_000,
        progress=False,
    )
    found = (truth @ sae.decoder.T).max(1).values
    assert float((found > 0.9).float().mean()) > 0.9, found
    fresh, _ = mixtures(4096, seed=5)
    features = sae.encode(fresh)
    fvu = float((fresh - sae.decode(features)).square().sum() / (fresh - fresh.mean(0)).square().sum())
    spectrum = torch.linalg.svdvals(fresh - fresh.mean(0)).square()
    assert fvu < 0.3 * float(spectrum[2:].sum() / spectrum.sum())
    torch.testing.assert_close(sae.decoder.norm(dim=1), torch.ones(sae.d_sae))
    assert 1.6 < float((features > 0).float().sum(1).mean()) < 2.4  # the learned threshold keeps about k
    assert sae.log["fvu"].iloc[-1] < 0.2 * sae.log["fvu"].iloc[0]


def test_features_do_not_depend_on_neighbours():
    x, _ = mixtures(256)
    for kind in ("batchtopk", "topk"):
        sae = small(kind)
        sae.threshold.fill_(0.4)
        torch.testing.assert_close(sae.encode(x[:1]), sae.encode(x)[:1])


def test_outliers_hardly_move_the_geometric_median():
    x = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0))
    spoiled = torch.cat([x, torch.full((100, 4), 1000.0)])
    assert (geometric_median(spoiled) - geometric_median(x)).norm() < 0.2 < (spoiled.mean(0) - x.mean(0)).norm()


class Broken(Exception):
    pass


class Items:
    """Activations that count what is drawn of them, and break once if wanted."""

    def __init__(self, items, breaks_at=None):
        self.items, self.breaks_at, self.drawn = items, breaks_at, 0

    def __iter__(self):
        for item in self.items:
            if self.drawn == self.breaks_at:
                raise Broken
            self.drawn += 1
            yield item


@pytest.mark.parametrize("passes", [1, 3])
def test_a_stopped_training_goes_on_to_the_very_same_weights(tmp_path, monkeypatch, passes):
    items = list(mixtures(8192)[0].split(512))
    settings = {
        "expansion_factor": 2,
        "k": 2,
        "training_tokens": 16_384,
        "batch_size": 256,
        "buffer": 1024,
        "buffer_epochs": 2,
        "dead_feature_window": 2000,
        "progress": False,
    }
    items = items[:5] if passes > 1 else items
    whole = train_sae(items, **settings)
    with pytest.raises(Broken):
        train_sae(Items(items, 11), **settings, out=tmp_path / "state")
    seen = []
    monkeypatch.setattr(
        "audioscope.sae.training._step", lambda state, x, training: (seen.append(state.seen), _step(state, x, training))
    )
    again = train_sae(Items(items), **settings, out=tmp_path / "state")
    assert seen[0] == 5 * 1024 * 2  # five buffers of two items were done and are not done again
    for (name, one), (_, other) in zip(whole.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(one, other), name
    assert whole.log.equals(again.log)
    with pytest.raises(ValueError, match="state of a training with other settings \\(k; k: 2 there, 3 now\\)"):
        train_sae(items, **{**settings, "k": 3}, out=tmp_path / "state")
    assert not (tmp_path / "state.v2.safetensors").exists()
    train_sae(items, **{**settings, "k": 3}, out=tmp_path / "state.v2")
    assert (tmp_path / "state.v2.safetensors").exists()
    (tmp_path / "state.safetensors").write_bytes(b"not a state")
    with pytest.raises(ValueError, match="Cannot resume from"):
        train_sae(items, **settings, out=tmp_path / "state")


@pytest.mark.slow
def test_memory_is_bounded_by_the_buffer():
    """However long the stream, no more memory of its items is held than the buffer, twice while it is put together."""
    most = 0

    def held():
        gc.collect()
        tensors = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor)]  # isinstance would follow dead proxies
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        return sum(size for size in storages.values() if size >= 250 * 16 * 4)

    def stream():
        nonlocal most
        for i in range(64):
            item = mixtures(256, seed=i)[0]
            if i >= 8 and i % 5 == 0:  # 5 and the buffer of 4 items take turns; looking takes longer than training
                most = max(most, held() - before)
            yield item
            del item

    before = held()
    train_sae(stream(), 2, 2, training_tokens=64 * 256, batch_size=256, buffer=1024, progress=False)
    assert 0 < most < 3 * 1024 * 16 * 4  # of 16 times the buffer that went through


def test_what_ends_early_is_said_and_wrong_activations_are_named():
    x, _ = mixtures(1024)
    with pytest.warns(UserWarning, match="ended after 1024 of 9999 tokens"):
        train_sae((item for item in [x]), 2, 2, training_tokens=9999, batch_size=256, buffer=512, buffer_epochs=1, progress=False)
    with pytest.raises(ValueError, match="are empty"):
        train_sae([], progress=False)
    with pytest.raises(ValueError, match=r"torch.float32 \[2, 3, 4\], expected a float tensor \[n, width\]"):
        train_sae([torch.zeros(2, 3, 4)], progress=False)
    for buffer in (1024, 2048):  # in buffers of their own, and in one
        with pytest.raises(ValueError, match="width 8, but earlier items have width 16"):
            train_sae([x, x[:, :8]], 2, 2, training_tokens=4096, batch_size=256, buffer=buffer, progress=False)
    one_more = torch.cat([x, x[:1]])
    sae = train_sae([one_more], 2, 2, training_tokens=1024, batch_size=256, buffer=1025, progress=False)
    assert sae.log["fvu"].max() < 10  # a single token has no variance to be a fraction of
    with pytest.raises(ValueError, match="buffer is 10, expected a whole number of at least 2048"):
        train_sae([x], buffer=10)
    with pytest.raises(ValueError, match="learning_rate is 0"):
        train_sae([x], learning_rate=0)
    with pytest.raises(ValueError, match="k is 0"):
        train_sae([x], k=0)
    with pytest.raises(ValueError, match="kind is 'relu'"):
        SAE(4, 8, 2, "relu")


def stream_of(model, **keywords):
    return TokenStream(model, model.sites.cross[0].path, PROMPTS, steps=3, guidance=3.0, **keywords)


def test_a_stream_is_of_time_tokens_of_one_site(model):
    stream = stream_of(model)
    values, sigmas = stream.read(PROMPTS, (1, 2))
    whole = next(model.activations(PROMPTS[:1], [stream.site], seeds=(1,), steps=3, guidance=3.0, pool=False)).values[stream.site]
    assert values.shape == (2, *whole.shape) and torch.equal(sigmas, stream.levels.sigmas)
    item = next(iter(stream))
    assert item.shape == (2 * whole.shape[0] * whole.shape[1], whole.shape[2]) and bool(torch.isfinite(item).all())


def test_a_stream_gives_each_level_mean_0_and_length_1(tiny):
    stream = stream_of(tiny)
    seen = torch.stack([item.view(2, 3, -1, 128) for item, _ in zip(stream.batches(), range(16), strict=False)])
    by_level = seen.transpose(0, 2).flatten(1, 3)  # [levels, tokens, width]
    assert float(by_level.mean(1).norm(dim=1).max()) < 0.25
    lengths = by_level.square().sum(-1).mean(1)
    assert float(lengths.min()) > 0.7 and float(lengths.max()) < 1.4
    raw, _ = stream.read(PROMPTS, (1, 2))
    assert not torch.allclose(raw.transpose(0, 1).flatten(1, 2).square().sum(-1).mean(1), torch.ones(3), rtol=0.2)


def test_reading_a_batch_equals_reading_its_prompts_alone(tiny):
    stream = stream_of(tiny)
    together, _ = stream.read(PROMPTS, (5, 6))
    (alone,) = (
        r.values[stream.site] for r in tiny.activations(PROMPTS[1:], [stream.site], seeds=(6,), steps=3, guidance=3.0, pool=False)
    )
    torch.testing.assert_close(together[1], alone, **CLOSE)


def test_a_stream_begins_anywhere_and_never_repeats(tiny):
    stream = stream_of(tiny, batch_size=1)
    first = [item for item, _ in zip(stream.batches(), range(5), strict=False)]
    later = next(stream.batches(3))
    assert torch.equal(later, first[3])
    assert len({float(item.sum()) for item in first}) == 5
    few = next(iter(stream_of(tiny, positions=2)))
    assert few.shape == (2 * 3 * 2, 128)
    both = stream_of(tiny, branches=("cond", "uncond"), batch_size=2)
    one, other = (item for item, _ in zip(both.batches(), range(2), strict=False))
    assert one.square().sum() > 2 * other.square().sum()  # without a prompt a cross-attention site says little
    with pytest.raises(ValueError, match="12"):
        TokenStream(tiny, "cross")
    late = replace(stream, at_steps=(2, 0))
    values, sigmas = late.read(PROMPTS, (1, 2))
    whole, levels = stream.read(PROMPTS, (1, 2))
    assert torch.equal(values, whole[:, [0, 2]]) and torch.equal(
        sigmas, levels[[0, 2]]
    )  # in the order of the steps, whatever was asked
    with pytest.raises(ValueError, match="at_steps is"):
        replace(stream, at_steps=(3,))
    with (
        tiny.steer(audioscope.caa(tiny, "fast", [stream.site], 2, steps=3, progress=False)),
        pytest.raises(ValueError, match="being steered"),
    ):
        next(stream.batches())
    with pytest.raises(ValueError, match="branches is"):
        TokenStream(tiny, stream.site, branches=("both",))


def test_training_from_a_model_carries_levels_and_facts_and_resumes(tiny, tmp_path, monkeypatch):
    stream = stream_of(tiny)
    settings = {"expansion_factor": 2, "k": 4, "training_tokens": 2000, "batch_size": 128, "buffer": 384, "progress": False}
    sae = train_sae(stream, **settings, out=tmp_path / "state")
    assert sae.metadata["site"] == stream.site and sae.metadata["fingerprint"] == tiny.fingerprint and sae.levels is stream.levels
    with monkeypatch.context() as patch:
        patch.setattr(TokenStream, "read", None)  # finished: nothing may be generated
        again = train_sae(stream, **settings, out=tmp_path / "state")
    assert torch.equal(sae.decoder, again.decoder)
    with pytest.raises(ValueError, match="batch_size: 32 there, 1 now"):
        train_sae(replace(stream, batch_size=1), **settings, out=tmp_path / "state")
    with pytest.raises(ValueError, match="steps: 3 there, 2 now"):
        train_sae(replace(stream, steps=2), **settings, out=tmp_path / "state")


def test_levels_are_interpolated_and_held_at_the_ends():
    levels = Levels(
        torch.tensor([1.0, 0.5, 0.1]), torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([1.0, 2.0, 4.0]), torch.ones(3)
    )
    assert [float(levels.at(s)[0]) for s in (2.0, 1.0, 0.75, 0.5, 0.3, 0.0)] == pytest.approx([0, 0, 0.5, 1, 2, 3])
    assert [levels.at(s)[1] for s in (1.0, 0.75, 0.0)] == pytest.approx([1, 1.5, 4])


def perfect(width=8):
    """An SAE that says everything of tokens that have one value each: a feature for either sign of each dimension."""
    sae = SAE(width, 2 * width, 1)
    with torch.no_grad():
        rows = torch.cat([torch.eye(width), -torch.eye(width)])
        sae.encoder.copy_(rows)
        sae.decoder.copy_(rows)
    return sae.requires_grad_(False)


def test_the_gate_refuses_another_site(tiny):
    sae = train_sae(stream_of(tiny), 2, 4, training_tokens=400, batch_size=128, buffer=128, progress=False)
    other = TokenStream(tiny, tiny.sites.cross[1].path, PROMPTS, steps=3)
    with pytest.raises(ValueError, match="The SAE has site"):
        evaluate_sae(sae, other)


@pytest.mark.parametrize("kind", ["batchtopk", "topk"])
def test_files_bring_back_the_same_features(kind, tmp_path):
    x, _ = mixtures(256)
    sae = small(kind)
    sae.threshold.fill_(0.3)
    sae.metadata = {"model": "m", "site": "a.b", "fingerprint": "f", "branches": ["cond"]}
    sae.levels = Levels(torch.tensor([1.0, 0.5]), torch.randn(2, 16), torch.tensor([1.0, 2.0]), torch.ones(2))
    sae.report = {"sigmas": [1.0], "fvu_per_level": [0.1], "pca_fvu": [0.2]}
    cfg = json.loads((sae.save_pretrained(tmp_path / "sae") / "cfg.json").read_text())
    for name in ("architecture", "d_in", "d_sae", "dtype", "apply_b_dec_to_input", "normalize_activations", "metadata"):
        assert name in cfg
    assert cfg["architecture"] == ("jumprelu" if kind == "batchtopk" else "topk") and cfg["metadata"]["sae_lens_version"]
    assert cfg["metadata"]["audioscope"]["sigma_range"] == [0.5, 1.0] and cfg["metadata"]["audioscope"]["site"] == "a.b"
    tensors = safetensors.torch.load_file(tmp_path / "sae" / "sae_weights.safetensors")
    assert tensors["W_enc"].shape == (16, 32) and tensors["W_dec"].shape == (32, 16)
    back = SAE.from_pretrained(tmp_path / "sae")
    assert torch.equal(back.encode(x, 0.7), sae.encode(x, 0.7)) and torch.equal(
        back.decode(back.encode(x, 0.7), 0.7), sae(x, 0.7)
    )
    assert (back.kind, back.k, back.metadata, back.report) == (sae.kind, sae.k, sae.metadata, sae.report)
    with pytest.raises(ValueError, match="pass one"):
        back.encode(x)


def test_sparsify_files_are_read(tmp_path):
    """TADA's SAEs: encoder.weight, encoder.bias, W_dec, b_dec and a cfg with k."""
    sae = small("topk")
    tensors = {"encoder.weight": sae.encoder, "encoder.bias": sae.b_enc, "W_dec": sae.decoder, "b_dec": sae.b_dec}
    safetensors.torch.save_file({k: v.detach().clone() for k, v in tensors.items()}, tmp_path / "sae.safetensors")
    cfg = {"expansion_factor": 2, "normalize_decoder": True, "num_latents": 0, "k": 3, "batch_topk": True, "d_in": 16}
    (tmp_path / "cfg.json").write_text(json.dumps(cfg))
    x, _ = mixtures(32)
    back = SAE.from_pretrained(tmp_path)
    assert torch.equal(back.encode(x), sae.encode(x)) and back.metadata["batch_topk"] is True
    (tmp_path / "cfg.json").write_text(json.dumps({**cfg, "input_unit_norm": True}))
    with pytest.raises(ValueError, match="input_unit_norm is set"):
        SAE.from_pretrained(tmp_path)


def test_what_cannot_be_read_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="No SAE at"):
        SAE.from_pretrained(tmp_path)
    small().save_pretrained(tmp_path)
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    for change, message in (({"architecture": "gated"}, "gated"), ({"normalize_activations": "layer_norm"}, "layer_norm")):
        (tmp_path / "cfg.json").write_text(json.dumps({**cfg, **change}))
        with pytest.raises(ValueError, match=message):
            SAE.from_pretrained(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps({**cfg, "apply_b_dec_to_input": False}))
    x, _ = mixtures(64)
    sae = small()
    other = SAE.from_pretrained(tmp_path)  # what it computes: (x W_enc + b_enc), the bias not subtracted
    torch.testing.assert_close(other.pre_topk(x), torch.relu(x @ sae.W_enc + sae.b_enc), **CLOSE)
    (tmp_path / "sae_weights.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="corrupt"):
        SAE.from_pretrained(tmp_path)


def test_saving_leaves_nothing_of_the_sae_before(tmp_path):
    one = small()
    one.report = {"sigmas": [1.0], "fvu_per_level": [0.1], "pca_fvu": [0.2]}
    one.levels = Levels(torch.tensor([1.0]), torch.zeros(1, 16), torch.ones(1), torch.ones(1))
    one.save_pretrained(tmp_path)
    small("topk", k=2).save_pretrained(tmp_path)
    back = SAE.from_pretrained(tmp_path)
    assert back.kind == "topk" and not back.report and back.levels is None and back.failed([1.0]) == [1.0]


def test_no_held_out_prompt_is_one_of_the_training(tiny):
    trained = set(audioscope.datasets.concept_prompts())
    for split in ("localize", "select", "test"):
        assert not trained & set(audioscope.datasets.concept_prompts(split=split))
    assert len(trained) > 2500 and set(TokenStream(tiny, tiny.sites.cross[0].path).prompts) == trained


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_training_resumes_and_features_come_back_where_they_were_asked(tmp_path):
    x, _ = mixtures(2048)
    settings = {"expansion_factor": 2, "k": 2, "batch_size": 256, "buffer": 2048, "progress": False, "out": tmp_path / "state"}
    sae = train_sae([x], training_tokens=4096, **settings)
    assert (
        sae.decoder.is_cuda
        and not sae.encode(x).is_cuda
        and sae.encode(x.cuda()).is_cuda
        and torch.equal(train_sae([x], training_tokens=4096, **settings).decoder, sae.decoder)
    )
