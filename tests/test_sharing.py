"""Artefacts that travel: round trips through a stand-in of the hub are bit-identical, and every failure is one line."""

import io
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import soundfile as sf
import torch
from helpers.hub import Hub, point_to
from huggingface_hub import HfApi, ModelCard, constants

import audioscope
from audioscope.steer.exchange import _family

SITE = "transformer.transformer_blocks.6.cross_attn"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with Hub() as made:
        point_to(monkeypatch, made, tmp_path / "cache")
        monkeypatch.setenv("HF_TOKEN", "hf_writer")
        yield made


def front(hub, repo):
    return ModelCard(hub.files(repo)["README.md"].decode())


def test_a_vector_travels(hub, tiny):
    vector = audioscope.datasets.vector("fast")
    clip = tiny.generate("a song with violin", seed=0, steps=1)
    address = vector.push_to_hub("me/fast", clips=clip, license="mit")
    assert address.endswith("/me/fast")
    again = audioscope.SteeringVector.from_pretrained("me/fast")
    assert all(torch.equal(again.directions[p], v) for p, v in vector.directions.items()) and torch.equal(
        again.sigmas, vector.sigmas
    )
    assert again.metadata == vector.metadata and again.fingerprint == vector.fingerprint
    card = front(hub, "me/fast")
    assert card.data.license == "mit" and card.data.library_name == "audioscope" and "steering-vector" in card.data.tags
    assert card.data.to_dict()["widget"] == [{"text": "a song with violin", "output": {"url": "clips/0.flac"}}]
    for fact in (
        SITE.replace("_", r"\_"),
        "fast",
        vector.fingerprint,
        "pairs",
        "reliability",
        "gate",
        'from_pretrained("me/fast")'.replace('"', "'"),
    ):
        assert fact in card.text, fact
    stored, _ = sf.read(io.BytesIO(hub.files("me/fast")["clips/0.flac"]), dtype="float32", always_2d=True)
    assert np.allclose(stored.T, clip.samples, atol=1 / 32000)


def test_the_lines_of_a_card_load_and_steer(hub, tmp_path, monkeypatch):
    audioscope.datasets.vector("fast").push_to_hub("me/fast")
    (code,) = re.findall(r"```python\n(.*?)```", front(hub, "me/fast").text, re.DOTALL)
    exec(code.replace("seed=0", "seed=0, steps=1"), {})


def test_a_vector_says_how_reliable_it_is(hub, tiny):
    vector = audioscope.caa(tiny, "fast", [6], pairs=4, steps=1, progress=False)
    chance = audioscope.caa(tiny, "fast", [6], pairs=4, steps=1, shuffle=0, progress=False)
    assert vector.metadata["halves"][SITE] > chance.metadata["halves"][SITE], "labels that are shuffled make no reliable vector"
    fast = audioscope.datasets.concepts()["fast"]
    halves = [
        audioscope.caa(tiny, replace(fast, pairs=fast.split("build")[place:4:2]), [6], steps=1, progress=False).directions[SITE]
        for place in (0, 1)
    ]
    assert vector.metadata["halves"][SITE] == pytest.approx(float(torch.cosine_similarity(*halves)), abs=1e-3)
    vector.push_to_hub("me/fast")
    assert f"cosine {vector.reliability:.2f}" in front(hub, "me/fast").text


def test_an_sae_travels(hub):
    sae = audioscope.datasets.sae(SITE)
    sae.push_to_hub("me/sae", license="cc-by-4.0")
    again = audioscope.SAE.from_pretrained("me/sae")
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), sae.state_dict().values(), strict=True))
    assert again.report == sae.report and again.scores.equals(sae.scores) and again.units.equals(sae.units)
    assert again.metadata == sae.metadata and torch.equal(again.levels.means, sae.levels.means)
    text = front(hub, "me/sae").text
    assert "below both untrained baselines at" in text and "median AUROC" in text and sae.metadata["fingerprint"] in text
    audioscope.SAE(16, 32, 4, "topk").push_to_hub("me/sae")
    assert "scores.parquet" not in hub.files("me/sae"), "files of the SAE that was there before are gone"
    assert audioscope.SAE.from_pretrained("me/sae").scores is None and "not evaluated" in front(hub, "me/sae").text


def test_an_atlas_travels(hub):
    atlas = audioscope.datasets.atlas()
    atlas.push_to_hub("me/atlas")
    again = audioscope.Atlas.from_pretrained("me/atlas")
    assert again.table.equals(atlas.table) and again.impacts().equals(atlas.impacts())
    assert (again.folder / again.examples()["patched"].iloc[0]).read_bytes() == (
        atlas.folder / atlas.examples()["patched"].iloc[0]
    ).read_bytes()
    card = front(hub, "me/atlas")
    assert "functional layers | 0 (" in card.text and "95 % intervals" in card.text and "none was given" in card.text
    assert all(each["output"]["url"] in hub.files("me/atlas") for each in card.data.to_dict()["widget"])
    atlas.push_to_hub("me/silent", clips=False)
    assert not any(name.startswith("clips") for name in hub.files("me/silent"))
    assert audioscope.Atlas.from_pretrained("me/silent").impacts().equals(atlas.impacts())


def test_a_repository_of_something_else_is_not_overwritten(hub, tmp_path):
    folder = tmp_path / "model"
    (folder / "transformer").mkdir(parents=True)
    (folder / "transformer" / "model.safetensors").write_bytes(b"weights")
    HfApi().create_repo("me/model")
    HfApi().upload_folder(folder_path=folder, repo_id="me/model")
    for push in (audioscope.datasets.vector("fast").push_to_hub, audioscope.SAE(8, 16, 2).push_to_hub):
        with pytest.raises(ValueError, match="'me/model' holds something else, such as 'transformer/model.safetensors'"):
            push("me/model")
    assert hub.files("me/model")["transformer/model.safetensors"] == b"weights" and "README.md" not in hub.files("me/model")


def test_a_wrong_path_is_not_looked_up_on_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    audioscope.datasets.vector("fast").save("mine/vector")
    with pytest.raises(FileNotFoundError, match="No steering vector at 'mine/vector'"):
        audioscope.SteeringVector.from_pretrained("mine/vector")
    assert not hub.requests


def test_revisions_and_subfolders(hub, tmp_path):
    fast, happy = audioscope.datasets.vector("fast"), audioscope.datasets.vector("happy")
    fast.push_to_hub("me/v")
    first = HfApi().model_info("me/v").sha
    happy.push_to_hub("me/v", revision="second")
    read = audioscope.SteeringVector.from_pretrained
    assert read("me/v").metadata["concept"] == "fast" and read("me/v", revision="second").metadata["concept"] == "happy"
    happy.push_to_hub("me/v")
    assert read("me/v").metadata["concept"] == "happy"
    assert read("me/v", revision=first).metadata["concept"] == "fast"
    fast.save(tmp_path / "both" / "one" / "vector")
    assert read(tmp_path / "both", subfolder="one").metadata["concept"] == "fast"
    with pytest.raises(ValueError, match="expected a folder inside"):
        read(tmp_path / "both", subfolder="../both/one")
    with pytest.raises(ValueError, match="revisions are of repositories"):
        read(tmp_path / "both", subfolder="one", revision="main")
    with pytest.raises(FileNotFoundError, match="its folder 'two' has none of the files"):
        read(tmp_path / "both", subfolder="two")


READERS = [audioscope.SteeringVector.from_pretrained, audioscope.SAE.from_pretrained, audioscope.Atlas.from_pretrained]


@pytest.mark.parametrize("read", READERS)
def test_what_the_hub_does_not_give_is_said_in_one_line(hub, monkeypatch, read):
    audioscope.datasets.vector("fast").push_to_hub("me/private", private=True)
    for name, how, expected in (
        ("me/nothing", {}, "is not on the hub, or is private"),
        ("me/private", {"token": "hf_reader"}, "is not on the hub, or is private"),
        ("me/private", {"revision": "nope"}, "has no revision 'nope'"),
        ("me/private", {"token": "hf_wrong"}, "was refused by the hub (401)"),
    ):
        with pytest.raises(ConnectionError) as raised:
            read(name, **how)
        assert expected in str(raised.value) and "\n" not in str(raised.value), (name, how)
    audioscope.datasets.vector("fast").push_to_hub("me/gated")
    hub.repos["me/gated"].gated = "auto"
    with pytest.raises(ConnectionError, match="is gated: accept its terms"):
        audioscope.SteeringVector.from_pretrained("me/gated", token="hf_reader")
    if read != audioscope.SteeringVector.from_pretrained:
        with pytest.raises(FileNotFoundError, match="^No .* at 'me/gated': "):
            read("me/gated")
    for wrong in ("a/b/c", "/nowhere", "./me", "", "me/ x", 3, None, "~nobody/x"):
        with pytest.raises((FileNotFoundError, ValueError)) as raised:
            read(wrong)
        assert "\n" not in str(raised.value)
    hub.stop()
    with pytest.raises(ConnectionError, match="the hub cannot be reached"):
        read("me/other")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="not in the cache of this machine"):
        read("me/other")


def test_what_the_hub_does_not_take_is_said_in_one_line(hub, monkeypatch):
    vector = audioscope.datasets.vector("fast")
    vector.push_to_hub("me/mine")
    for name, how, expected in (("me/mine", {"token": "hf_reader"}, "(403)"), ("me/new", {"token": "hf_wrong"}, "(401)")):
        with pytest.raises(ConnectionError) as raised:
            vector.push_to_hub(name, **how)
        assert expected in str(raised.value) and "\n" not in str(raised.value)
    for wrong in ("a/b/c", "me/ x", "", 3, None):
        with pytest.raises(ValueError, match="repo is"):
            vector.push_to_hub(wrong)
    with pytest.raises(ValueError, match="clips contains"):
        vector.push_to_hub("me/mine", clips=["a.flac"])
    for wrong in ("MIT License", "", 3, "mit\nx: y"):
        with pytest.raises(ValueError, match="license is"):
            vector.push_to_hub("me/mine", license=wrong)
    hub.stop()
    with pytest.raises(ConnectionError, match="cannot be reached"):
        vector.push_to_hub("me/mine")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="cannot be reached"):
        vector.push_to_hub("me/mine")


def test_what_was_fetched_once_is_read_offline(hub, monkeypatch):
    audioscope.datasets.vector("fast").push_to_hub("me/fast")
    audioscope.SteeringVector.from_pretrained("me/fast")
    hub.stop()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert audioscope.SteeringVector.from_pretrained("me/fast").metadata["concept"] == "fast"


def test_words_of_others_do_nothing_in_a_card(hub):
    evil = "<script>alert(1)</script> | ](javascript:x) `x`\n---\nlicense: mit"
    vector = audioscope.datasets.vector("fast")
    replace(vector, model=evil, metadata={**vector.metadata, "concept": evil}).push_to_hub("me/evil")
    card = front(hub, "me/evil")
    shown = card.text.split("```python")[0]
    assert "<script" not in shown and "](java" not in shown.replace(r"\](", "")
    assert card.data.license is None and "\nlicense" not in shown


# ---- theirs


def tada(steps, layers, width, passes=2, seed=0):
    """A vector as TADA's code pickles it: by step and pass, a list of one unit vector for each layer."""
    from collections import defaultdict

    rng, found = np.random.default_rng(seed), {}
    for step in range(steps):
        for number in range(passes):
            inner = defaultdict(list)
            for layer in layers:
                row = rng.standard_normal(width).astype(np.float32)
                inner[layer].append(row / np.linalg.norm(row))
            found[step, number] = inner
    return found


@pytest.mark.parametrize("named", ["tf{}", ".transformer.transformer_blocks.{}.cross_attn"])
def test_a_vector_of_tada_is_read(tiny, tmp_path, named):
    content = tada(3, [named.format(layer) for layer in (6, 7)], tiny.sites.cross[6].width)
    (tmp_path / "sv.pkl").write_bytes(pickle.dumps(content, protocol=4))
    (tmp_path / "config.json").write_text('{"method": "standard_caa", "concept": "piano", "num_inference_steps": 3, "seed": 10}')
    vector = audioscope.SteeringVector.from_pretrained(tmp_path, model=tiny)
    assert vector.paths == tuple(f"transformer.transformer_blocks.{layer}.cross_attn" for layer in (6, 7))
    assert vector.metadata["concept"] == "piano" and vector.sigmas.tolist() == pytest.approx(
        tiny.run([audioscope.tracing.Row("x", 0)], decode=False, steps=3).sigmas.tolist()
    )
    for step, sigma in enumerate(vector.sigmas.tolist()):
        theirs = content[step, 0][named.format(6)][0]
        assert np.allclose(vector.at(vector.paths[0], sigma), theirs, atol=1e-6), "strength 1 adds their vector as it is"
    uncond = audioscope.steer.tada_vector(tmp_path, tiny, branch="uncond")
    assert np.allclose(uncond.directions[uncond.paths[0]][2], content[2, 1][named.format(6)][0])
    with tiny.steer(vector, 5.0):
        assert np.isfinite(tiny.generate("a song", steps=3).samples).all()
    with pytest.raises(ValueError, match="pass model="):
        audioscope.SteeringVector.from_pretrained(tmp_path)


def test_vectors_of_tada_that_do_not_fit_are_refused(tiny, tmp_path):
    width = tiny.sites.cross[0].width
    good = tada(2, ["tf6"], width)
    lacking = tada(2, ["tf6", "tf7"], width)
    del lacking[0, 0]["tf7"]
    cases = {
        "finite numbers a step for 'tf7'": lacking,
        "no such cross-attention": tada(2, ["tf99"], width),
        "expected 128 finite numbers": tada(2, ["tf6"], width + 1),
        "not a vector of TADA": {**good, (5, 0): good[0, 0]},
        "is not a vector": [1, 2],
        "not a vector of TADA: expected": {(0, 0): {"tf6": "x"}},
        "was not read .an array": {(0, 0): {"tf6": [np.array(["x"])]}},
    }
    for expected, content in cases.items():
        (tmp_path / "sv.pkl").write_bytes(pickle.dumps(content, protocol=4))
        with pytest.raises(ValueError, match=expected) as raised:
            audioscope.steer.tada_vector(tmp_path, tiny)
        assert "\n" not in str(raised.value)
    other_end = {key: {"tf6": [value["tf6"][0].astype(">f4")]} for key, value in good.items()}
    found = []
    for content in (good, other_end):
        (tmp_path / "sv.pkl").write_bytes(pickle.dumps(content, protocol=4))
        found.append(audioscope.steer.tada_vector(tmp_path, tiny).directions)
    assert all(torch.equal(found[0][path], found[1][path]) for path in found[0]), "bytes in the other order"
    one = {step: good[step, 0] for step in range(2)}
    (tmp_path / "sv.pkl").write_bytes(pickle.dumps(one, protocol=4))
    assert len(audioscope.steer.tada_vector(tmp_path, tiny).sigmas) == 2
    with pytest.raises(ValueError, match="only the conditional pass"):
        audioscope.steer.tada_vector(tmp_path, tiny, branch="uncond")


class Runs:
    """A pickle that runs something."""

    def __init__(self, mark, how):
        self.mark, self.how = mark, how

    def __reduce__(self):
        import os
        import subprocess

        command = f"touch {self.mark}"
        return {
            "os.system": (os.system, (command,)), "eval": (eval, (f"open({str(self.mark)!r}, 'w')",)), "subprocess": (subprocess.call, (["touch", str(self.mark)],)),
            "numpy": (np.fromfile, ("/etc/passwd", np.uint8)), "torch": (torch.load, ("/etc/passwd",)), "getattr": (getattr, (np.ndarray, "tofile")),
        }[self.how]  # fmt: skip


@pytest.mark.parametrize("how", ["os.system", "eval", "subprocess", "numpy", "torch", "getattr"])
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_pickle_with_code_is_refused_in_a_line(tiny, tmp_path, how, protocol):
    mark = tmp_path / "ran"
    (tmp_path / "sv.pkl").write_bytes(pickle.dumps({(0, 0): {"tf6": [Runs(mark, how)]}}, protocol=protocol))
    with pytest.raises(ValueError, match="which is neither an array nor a tensor, and may be code") as raised:
        audioscope.steer.tada_vector(tmp_path, tiny)
    assert "\n" not in str(raised.value) and not mark.exists()


def test_code_inside_a_tensor_is_refused_too(tmp_path):
    """The storage of a tensor is a file of torch inside the pickle, which torch itself would unpickle with all its names."""
    from audioscope.pickles import read_pickle

    class Storage:
        def __reduce__(self):
            content = io.BytesIO()
            torch.save(Runs(tmp_path / "ran", "os.system"), content, _use_new_zipfile_serialization=False)
            return torch.storage._load_from_bytes, (content.getvalue(),)

    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"tfidf": Storage()}))
    with pytest.raises(ValueError, match=r"was not read") as raised:
        read_pickle(tmp_path / "x.pkl")
    assert "\n" not in str(raised.value) and not (tmp_path / "ran").exists()


class Odd:
    """A tensor that is larger than its storage."""

    def __init__(self, shape, stride):
        self.how = shape, stride

    def __reduce__(self):
        content = io.BytesIO()
        torch.save(torch.ones(4).storage(), content, _use_new_zipfile_serialization=False)
        storage = Stored(content.getvalue())
        return torch._utils._rebuild_tensor_v2, (storage, 0, *self.how, False, {})


class Stored:
    def __init__(self, content):
        self.content = content

    def __reduce__(self):
        return torch.storage._load_from_bytes, (self.content,)


def test_damaged_pickles_and_any_bytes_end_in_one_line(tmp_path):
    from audioscope.pickles import read_pickle

    whole = pickle.dumps({"tensor": torch.arange(6.0).reshape(2, 3).T, **tada(1, ["tf6"], 8)}, protocol=4)
    rng = np.random.default_rng(0)
    for number in range(400):
        content = bytearray(whole)
        if number % 2:
            content = content[: rng.integers(len(content))]
        else:
            for place in rng.integers(len(content), size=3):
                content[place] = rng.integers(256)
        (tmp_path / "x.pkl").write_bytes(content)
        try:
            read_pickle(tmp_path / "x.pkl")
        except ValueError as error:
            assert "\n" not in str(error)
    (tmp_path / "x.pkl").write_bytes(whole)
    assert torch.equal(read_pickle(tmp_path / "x.pkl")["tensor"], torch.arange(6.0).reshape(2, 3).T)
    for hostile in (
        b"\x80\x04r\xff\xff\xff\x7f.",
        b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".",
        b"(" * 100_000,
        b"]q\x00h\x00a.",
    ):
        (tmp_path / "x.pkl").write_bytes(hostile)
        with pytest.raises(ValueError, match="was not read"):
            read_pickle(tmp_path / "x.pkl")


def test_an_sae_of_tada_and_its_scores_are_read(tiny, tmp_path):
    width = tiny.sites.cross[6].width
    theirs = audioscope.SAE(width, 64, 4, "topk", seed=3)
    audioscope.sae.save_sparsify(theirs, tmp_path / "sae" / "transformer_blocks.6.cross_attn")
    rng = torch.Generator().manual_seed(0)
    table = {name: torch.rand(3, 64, generator=rng) for name in ("tfidf", "diff", "mean_pos")}
    (tmp_path / "piano").mkdir()
    (tmp_path / "piano" / "tf6_scores.pkl").write_bytes(pickle.dumps({**table, "concept": "piano"}, protocol=4))
    sae = audioscope.sae.tada_sae(tmp_path / "sae", tiny, scores=tmp_path / "piano")
    assert sae.metadata["site"] == SITE and torch.equal(sae.decoder, theirs.decoder)
    with pytest.warns(UserWarning, match="fails the evaluation"):  # nobody evaluated it
        vector = sae.vector("piano", features=5)
    best = table["tfidf"].topk(5, dim=1).indices
    for level in range(3):
        wanted = torch.nn.functional.normalize(theirs.decoder[best[level]].sum(0), dim=0)
        assert torch.allclose(vector.directions[SITE][level], wanted, atol=1e-5)
    (tmp_path / "piano" / "tf6_scores.pkl").write_bytes(pickle.dumps({**table, "diff": torch.rand(3, 5), "concept": "piano"}))
    with pytest.raises(ValueError, match="does not fit the SAE"):
        audioscope.sae.tada_sae(tmp_path / "sae", tiny, scores=tmp_path / "piano")
    with pytest.raises(FileNotFoundError, match="expected tf6_scores.pkl"):
        audioscope.sae.tada_sae(tmp_path / "sae", tiny, scores=[tmp_path])
    with pytest.raises(ValueError, match="has width 128, but"):
        audioscope.sae.tada_sae(tmp_path / "sae", Wide(tiny))


class Wide:
    """A model of another width."""

    def __init__(self, model):
        self.name, self.sites = "wide", audioscope.Sites(tuple(replace(site, width=99) for site in model.sites.all))


def test_sparsify_computes_what_the_sae_computes(tmp_path):
    sae = audioscope.datasets.sae(SITE)
    sigma = float(sae.levels.sigmas[4])
    again = audioscope.SAE.from_pretrained(audioscope.sae.save_sparsify(sae, tmp_path / "sae", sigma))
    tokens = 3 * torch.randn(50, 128, generator=torch.Generator().manual_seed(0)) + sae.levels.means[4]
    scaled = sae.levels.scale(tokens, sigma)
    wanted = sae.pre_topk(scaled)
    # as sparsify does it: all features, of which it keeps the largest
    assert torch.allclose(again.pre_topk(tokens), wanted, atol=2e-4)
    features = torch.zeros(50, sae.d_sae).scatter(1, wanted.topk(8).indices, wanted.topk(8).values)
    assert torch.allclose(again.decode(features), sae.decode(features, sigma), atol=1e-3)
    with pytest.raises(ValueError, match="expected a noise level"):
        audioscope.sae.save_sparsify(sae, tmp_path / "sae")
    with pytest.raises(ValueError, match="expected None"):
        audioscope.sae.save_sparsify(audioscope.SAE(8, 16, 2), tmp_path / "x", 0.5)


# ---- packs of DEMON


def test_a_pack_is_read_as_it_was_written(tiny, tmp_path):
    vector = audioscope.datasets.vector("fast").only([SITE])
    whole = audioscope.steer.read_pack(
        audioscope.steer.write_pack(vector, tmp_path / "a.safetensors", tiny, every_step=True), tiny
    )
    assert whole.sigmas.allclose(vector.sigmas, atol=1e-4)
    for sigma in vector.sigmas.tolist():
        assert torch.allclose(whole.at(SITE, sigma), vector.at(SITE, sigma), atol=1e-4)
    one = audioscope.steer.read_pack(audioscope.steer.write_pack(vector, tmp_path / "b.safetensors", tiny), tiny)
    added = vector.directions[SITE] * vector.norms[SITE][:, None]
    assert torch.allclose(one.at(SITE, 0.5), added.mean(0), atol=1e-5) and one.metadata["branch"] == "cond"
    again = audioscope.steer.write_pack(one, tmp_path / "c.safetensors", tiny, name="fast")
    assert torch.equal(audioscope.steer.read_pack(again, tiny).directions[SITE], one.directions[SITE])


def pack(file, about=None, header=None, **tensors):
    import json

    import safetensors.torch

    usual = {
        "format": 1,
        "family": "stableaudio3",
        "checkpoint": "tiny",
        "block": 6,
        "hidden_size": 128,
        "name": "fast",
        "hook": "cross_attn_output",
    }
    tensors = tensors or {"vector": torch.nn.functional.normalize(torch.ones(128), dim=0)}
    text = json.dumps({**usual, **(about or {})}) if header is None else header
    safetensors.torch.save_file(tensors, file, {"steering_pack": text})
    return file


def test_a_pack_made_by_hand_has_the_keys_that_are_documented(tiny, tmp_path):
    import json

    from safetensors import safe_open

    vector = audioscope.datasets.vector("fast").only([SITE])
    with safe_open(audioscope.steer.write_pack(vector, tmp_path / "a.safetensors", tiny), "pt") as opened:
        about = json.loads(opened.metadata()["steering_pack"])
        assert opened.keys() == ["vector"] and opened.get_tensor("vector").shape == (128,)
        assert float(opened.get_tensor("vector").norm()) == pytest.approx(1, abs=1e-5)
    assert {"format", "family", "checkpoint", "block", "hidden_size", "name"} <= about.keys()
    assert about["format"] == 1 and about["hook"] == "cross_attn_output" and about["block"] == 6 and about["hidden_size"] == 128


def test_packs_act_as_their_header_says(tiny, tmp_path):
    family = _family(tiny)
    unit = torch.nn.functional.normalize(torch.arange(1.0, 129.0), dim=0)
    found = audioscope.steer.read_pack(
        pack(tmp_path / "a.safetensors", {"family": family, "magnitude": 2.5, "renorm": True}, vector=unit), tiny
    )
    assert (
        torch.allclose(found.at(SITE, 0.3), 2.5 * unit)
        and found.metadata["mode"] == "keep_norm"
        and found.metadata["branch"] == "both"
    )
    steps = tiny.sampling().steps
    half = audioscope.steer.read_pack(
        pack(tmp_path / "b.safetensors", {"family": family, "policy": {"kind": "range", "start": 0.5, "end": 1.0}}, vector=unit),
        tiny,
    )
    norms = half.directions[SITE].norm(dim=1)
    assert (
        len(half.sigmas) == steps
        and norms[: steps // 2].eq(0).all()
        and torch.allclose(norms[steps // 2 :], torch.ones(steps - steps // 2))
    )
    curve = audioscope.steer.read_pack(
        pack(tmp_path / "c.safetensors", {"family": family, "policy": {"kind": "curve", "weights": [1.0, 0.5]}}, vector=unit),
        tiny,
    )
    assert curve.directions[SITE].norm(dim=1).tolist() == pytest.approx([1.0] * 5 + [0.5] * 5)
    rows = torch.stack([unit, -unit])
    two = audioscope.steer.read_pack(
        pack(tmp_path / "d.safetensors", {"family": family, "format": 2}, vectors=rows, blocks=torch.tensor([5, 6])), tiny
    )
    assert torch.allclose(two.at(two.paths[0], 0.5), unit) and torch.allclose(two.at(two.paths[1], 0.5), -unit)


def test_a_pack_of_a_block_acts_on_the_residual_stream(tiny, tmp_path):
    """The hook that packs have if they name none: what is added to a block's output reaches all that comes after."""
    unit = torch.nn.functional.normalize(torch.arange(1.0, 129.0), dim=0)
    file = pack(
        tmp_path / "a.safetensors",
        {"family": _family(tiny), "hook": "post_block_residual", "block": 11, "magnitude": 3.0},
        vector=unit,
    )
    found = audioscope.steer.read_pack(file, tiny)
    last = tiny.sites.select("block")[11]
    assert list(found.paths) == [last.path]
    rows = [audioscope.Row("a song", 0), audioscope.Row("a song", 0, (found.edit(1.0),))]
    reads = tiny.run(rows, read=audioscope.Read((last,), steps=(0,), pool=False), decode=False, steps=2).reads[last.path]
    assert torch.allclose(reads[1, 0] - reads[0, 0], (3 * unit).expand_as(reads[0, 0]), atol=1e-3)
    again = audioscope.steer.write_pack(found, tmp_path / "b.safetensors", tiny)
    assert torch.allclose(audioscope.steer.read_pack(again, tiny).directions[last.path], found.directions[last.path])


def test_a_pack_replaces_no_other_file(tiny, tmp_path):
    vector, file = audioscope.datasets.vector("fast").only([tiny.sites[6]]), tmp_path / "weights.safetensors"
    safetensors.torch.save_file({"a": torch.ones(3)}, file)
    with pytest.raises(ValueError, match="is of something else, and would be overwritten"):
        audioscope.steer.write_pack(vector, file, tiny)
    assert list(safetensors.torch.load_file(file)) == ["a"]
    for _ in range(2):  # one of ours is replaced
        audioscope.steer.write_pack(vector, tmp_path / "pack.safetensors", tiny)


def test_packs_that_do_not_fit_are_refused_in_a_line(tiny, tmp_path):
    family = _family(tiny)
    file, ok = tmp_path / "x.safetensors", {"family": family}
    cases = [
        ("acts on ['x'], expected", {**ok, "hook": ["x"]}, None, {}),
        ("acts on 'post_attn', expected 'cross_attn_output' or", {**ok, "hook": "post_attn"}, None, {}),
        ("family 'sa3'", {"family": "sa3" if family != "sa3" else "x"}, None, {}),
        ("acts in block 99", {**ok, "block": 99}, None, {}),
        ("format 7", {**ok, "format": 7}, None, {}),
        ("has width 5", ok, None, {"vector": torch.ones(5)}),
        ("or is not finite", ok, None, {"vector": torch.full((128,), torch.nan)}),
        ("is damaged: expected a tensor", {**ok, "block": None}, None, {}),
        ("is damaged: expected a tensor", ok, None, {"other": torch.ones(3)}),
        ("its kind is 'x'", {**ok, "policy": {"kind": "x"}}, None, {}),
        ("policy that cannot be read", {**ok, "policy": {"kind": "step"}}, None, {}),
        ("no JSON object", ok, "[1]", {}),
        ("is damaged", ok, "{", {}),
        ("magnitude is", {**ok, "magnitude": "x"}, None, {}),
        ("magnitude of 1e+308", {**ok, "magnitude": 1e308}, None, {}),
        ("is zero everywhere", ok, None, {"vector": torch.zeros(128)}),
        ("has hidden_size 999, but its directions have width 128", {**ok, "hidden_size": 999}, None, {}),
        ("has cond_only 'false', expected true or false", {**ok, "cond_only": "false"}, None, {}),
        ("is damaged: expected a tensor", {**ok, "block": True}, None, {}),
        ("acts at no step", {**ok, "policy": {"kind": "curve", "weights": [0]}}, None, {}),
        ("policy that cannot be read", {**ok, "policy": {"kind": "curve", "weights": []}}, None, {}),
        ("policy that cannot be read", {**ok, "policy": {"kind": "step", "step": 1e300, "of": 1e-300}}, None, {}),
        ("is damaged: expected a tensor", ok, None, {"vector": torch.tensor(1.0)}),
        ("is damaged: expected a tensor", ok, None, {"vector": torch.ones(1, 1, 1, 128)}),
        (
            "is damaged: expected a tensor",
            {**ok, "format": 2},
            None,
            {"vectors": torch.ones(1, 128), "blocks": torch.tensor([torch.inf])},
        ),
        ("for 1001 steps", ok, None, {"vector": torch.ones(1001, 128)}),
        ("is damaged", ok, "[" * 100_000, {}),
    ]
    for expected, about, header, tensors in cases:
        if expected == "family 'sa3'" and family == "sa3":
            expected = "family 'x'"
        with pytest.raises(ValueError, match=re.escape(expected)) as raised:
            audioscope.steer.read_pack(pack(file, about, header, **tensors), tiny)
        assert "\n" not in str(raised.value)
    with pytest.raises(FileNotFoundError):
        audioscope.steer.read_pack(tmp_path / "none.safetensors", tiny)
    with pytest.raises(ValueError, match="is no steering pack"):
        audioscope.steer.read_pack(audioscope.datasets.vector("fast").save(tmp_path / "v"), tiny)
    vector = audioscope.datasets.vector("fast")
    with pytest.raises(ValueError, match="expected one cross-attention"):
        audioscope.steer.write_pack(vector, file, tiny)
    for name in ("Fast", "1x", "", "a" * 40, 3):
        with pytest.raises(ValueError, match="name is"):
            audioscope.steer.write_pack(vector.only([SITE]), file, tiny, name=name)
    with pytest.raises(ValueError, match="is zero"):
        audioscope.steer.write_pack(0 * vector.only([SITE]), file, tiny)
