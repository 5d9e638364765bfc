"""Edits by features, their scores, vectors made of them, the fair comparison, and the pages."""

import pickle
import re
import warnings

import cloudpickle
import numpy as np
import pandas as pd
import pytest
import torch
from helpers.pipelines import PROMPTS
from sklearn.metrics import roc_auc_score

import audioscope
from audioscope import SAE, SAEEdit, SteeringVector, datasets
from audioscope.cli.main import main
from audioscope.edits import Here
from audioscope.pages.features import feature_clips, feature_pages, nearest
from audioscope.sae import TokenStream
from audioscope.sae.comparison import random_like
from audioscope.sae.features import concept_activations, score_features, scores_of
from audioscope.sae.levels import Levels
from audioscope.sae.methods import feature_methods
from audioscope.sae.vectors import top_features
from audioscope.stats import auroc, auroc_interval
from audioscope.steer import blend_text_method, free_sliders_method, standard_methods, token_method
from audioscope.store import seed_of
from audioscope.tracing import Read, Row

A, B = PROMPTS
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
PASSED = {
    "sigmas": [1.0, 0.1],
    "fvu_per_level": [0.1, 0.1],
    "topk_pca_fvu": [0.2, 0.2],
    "tokens_fvu": [0.2, 0.2],
    "dead_share": 0.0,
}


def made(model, site=None, features=None, k=4):
    """An untrained SAE of a site, with the site's own levels."""
    site = site or model.sites.cross[0]
    stream = TokenStream(model, site.path, PROMPTS, steps=3, guidance=3.0)
    sae = SAE(site.width, features or 2 * site.width, k)
    sae.levels, sae.metadata, sae.report = stream.levels, stream.metadata, dict(PASSED)
    x = next(iter(stream))
    sae.threshold.fill_(float(sae.pre_topk(x).detach().flatten().topk(k * len(x)).values[-1]))
    return sae.requires_grad_(False)


def run(model, *edits, prompts=(A,), read=None):
    return model.run([Row(p, 0, tuple(edits)) for p in prompts], **model.sampling(3, 3.0, None), decode=False, read=read)


def firing(sae, model):
    """Features that fire in A's run, strongest first, and those that never do."""
    reading = run(model, read=Read(model.sites.select([sae.metadata["site"]]), None, False))
    tokens = reading.reads[sae.metadata["site"]][0]
    active = torch.stack([sae.encode(tokens[i], s) for i, s in enumerate(reading.sigmas.tolist())]).flatten(0, 1)
    order = active.sum(0).argsort(descending=True)
    return order[active.sum(0)[order] > 0].tolist(), (active.sum(0) == 0).nonzero().flatten().tolist()


def test_an_edit_that_asks_for_nothing_changes_no_bit(model):
    sae = made(model)
    on, off = firing(sae, model)
    plain = run(model).latents
    for edit in (SAEEdit(sae, (on[0],), "scale", 1), SAEEdit(sae, (on[0],), "add", 0.0), SAEEdit(sae, off[:3], "ablate"),
                 SAEEdit(sae, off[:3], "scale", 7.0)):  # fmt: skip
        assert torch.equal(run(model, edit).latents, plain)
    for edit in (SAEEdit(sae, on[:4], "ablate"), SAEEdit(sae, off[:1], "set", 50.0), SAEEdit(sae, (on[0],), "add", 50.0)):
        assert not torch.equal(run(model, edit).latents, plain)
    assert torch.equal(run(model).latents, plain)  # and it is gone afterwards


def at(model, sae, sigma):
    return Here(model.sites.select([sae.metadata["site"]])[0], sigma, 2, 4.0)


def test_what_an_edit_adds_is_the_decoder_row_and_the_error_is_kept(tiny):
    sae = made(tiny)
    own = sae.levels.means[0] + 0.5 * torch.randn(10, sae.d_in, generator=torch.Generator().manual_seed(0))
    sigma = float(sae.levels.sigmas[0])
    scale = float(sae.levels.scales[0])
    before = sae.encode(own[2:], sigma)
    on = int(before.sum(0).argmax())
    add = SAEEdit(sae, (7,), "add", 2.0).change(own, None, at(tiny, sae, sigma))
    torch.testing.assert_close(add[2:] - own[2:], (2.0 * scale * sae.decoder[7]).expand(8, -1), **CLOSE)
    assert torch.equal(add[:2], own[:2])  # tokens that are not time
    off = SAEEdit(sae, (on,), "ablate").change(own, None, at(tiny, sae, sigma))
    torch.testing.assert_close(own[2:] - off[2:], scale * before[:, on : on + 1] * sae.decoder[on], **CLOSE)
    same = SAEEdit(sae, (on,), "set", 3.0).change(own, None, at(tiny, sae, sigma))
    torch.testing.assert_close(same[2:] - own[2:], scale * (3.0 - before[:, on : on + 1]) * sae.decoder[on], **CLOSE)
    triple = SAEEdit(sae, (on,), "scale", 3.0).change(own, None, at(tiny, sae, sigma))
    torch.testing.assert_close(triple[2:] - own[2:], 2 * (own[2:] - off[2:]), **CLOSE)
    late = SAEEdit(sae, (7,), "add", 2.0, seconds=(2.0, 4.0)).change(own, None, at(tiny, sae, sigma))
    assert torch.equal(late[:6], own[:6]) and torch.equal(late[6:], add[6:])


def test_features_of_an_orthogonal_dictionary_become_what_they_are_set_to():
    sae = SAE(8, 8, 8)
    with torch.no_grad():
        sae.encoder.copy_(torch.eye(8))
        sae.decoder.copy_(torch.eye(8))
    sae.metadata = {"site": "x"}
    own = torch.rand(5, 8) + 0.1
    here = Here(audioscope.Site("x", "cross", 0, 8), 0.5, 0, 1.0)
    new = SAEEdit(sae, (1, 4), "set", 2.5).change(own, None, here)
    assert torch.allclose(sae.encode(new)[:, [1, 4]], torch.tensor(2.5))
    assert torch.equal(sae.encode(new)[:, [0, 2, 3, 5, 6, 7]], sae.encode(own)[:, [0, 2, 3, 5, 6, 7]])
    assert torch.equal(sae.encode(SAEEdit(sae, (1,), "ablate").change(own, None, here))[:, 1], torch.zeros(5))


def test_wrong_edits_are_named(tiny, stable_audio_3):
    sae = made(tiny)
    for keywords, message in (
        ({"features": ()}, "features is"), ({"features": (9999,)}, "features is \\(9999,\\)"), ({"features": (1, 1)}, "features is"),
        ({"features": (1,), "do": "double"}, "do is 'double'"), ({"features": (1,), "do": "set"}, "value is None"),
        ({"features": (1,), "do": "ablate", "value": 1.0}, "value is 1.0"), ({"features": (1,), "do": "set", "value": -1.0}, "value is -1.0"),
        ({"features": (1,), "seconds": (3, 1)}, "seconds is"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            SAEEdit(sae, **keywords)
    with pytest.raises(TypeError, match="sae is a str"):
        SAEEdit("sae", (1,))
    with pytest.raises(ValueError, match="does not belong to"):
        run(stable_audio_3, SAEEdit(sae, (1,)))
    with pytest.raises(ValueError, match="does not belong to .*self_attn"):
        run(tiny, SAEEdit(sae, (1,), "add", 1.0, sites="self"))
    assert SAEEdit(sae, 3).features == (3,)


def test_an_sae_without_a_site_acts_where_it_is_told(tiny):
    """Such as those read from sparsify's files."""
    sae = made(tiny)
    path, sae.metadata = sae.metadata["site"], {}
    with pytest.raises(ValueError, match="does not name its site"):
        SAEEdit(sae, (1,))
    named = run(tiny, SAEEdit(sae, (1,), "add", 5.0, sites=[path])).latents
    sae.metadata = {"site": path}
    assert torch.equal(run(tiny, SAEEdit(sae, (1,), "add", 5.0)).latents, named)


def test_steering_warns_at_the_levels_that_fail_and_only_there(tiny):
    sae = made(tiny)
    sigmas = sae.levels.sigmas.tolist()
    sae.report = {
        **PASSED,
        "sigmas": sigmas,
        "fvu_per_level": [0.1, 0.1, 0.5],
        "topk_pca_fvu": [0.2] * 3,
        "tokens_fvu": [0.2] * 3,
    }
    with pytest.warns(UserWarning, match=f"{sigmas[2]:.3g}. Its features may not mean"):
        run(tiny, SAEEdit(sae, (1,), "add", 1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(tiny, SAEEdit(sae, (1,), "add", 1.0, steps=(0, 2)))
        sae.report["fvu_per_level"] = [0.1] * 3
        run(tiny, SAEEdit(sae, (1,), "add", 1.0))
    sae.report["fvu_per_level"] = [0.1, 0.1, float("nan")]
    on, idle = SAEEdit(sae, (1,), "add", 1.0), SAEEdit(sae, (1,), "add", 0.0)
    for edits in ((on, idle), (idle, on)):
        with pytest.warns(UserWarning, match=f"{sigmas[2]:.3g}. Its"):
            run(tiny, *edits)
    sae.report = {}
    with pytest.warns(UserWarning, match="was never evaluated"):
        run(tiny, SAEEdit(sae, (1,), "add", 1.0))


def scores_by_hand(sae):
    """Two concepts, fifteen features: 0 and 1 say "one", 2 says "two"; the last level prefers 1."""
    rows = []
    last = float(sae.levels.sigmas[-1])
    for sigma in sae.levels.sigmas.tolist():
        for concept, values in (("one", (3.0, 2.0 if sigma > last else 9.0, 0.1)), ("two", (0.1, 0.2, 5.0))):
            rows += [{"concept": concept, "feature": f, "sigma": sigma, "mean_with": v, "mean_without": 0.0, "ratio": v,
                      "difference": v, "d": v, "auroc": v / 10} for f, v in enumerate((*values, *[0.01] * 12))]  # fmt: skip
    return pd.DataFrame(rows)


def test_a_vector_is_the_sum_of_the_best_features_directions(tiny, tmp_path):
    sae = made(tiny)
    sae.scores = scores_by_hand(sae)
    unit = torch.nn.functional.normalize
    path = sae.metadata["site"]
    two = sae.vector("one", features=2)
    expected = unit((sae.decoder[0] + sae.decoder[1])[None], dim=1).expand(3, -1)
    torch.testing.assert_close(two.directions[path], expected, **CLOSE)
    best = sae.vector("one", features=1).directions[path]
    torch.testing.assert_close(best[0], sae.decoder[0], **CLOSE)
    torch.testing.assert_close(best[2], sae.decoder[1], **CLOSE)
    against = sae.vector("one", features=1, against="two").directions[path]
    torch.testing.assert_close(against[0], unit(sae.decoder[0] - sae.decoder[2], dim=0), **CLOSE)
    weighted = sae.vector("one", features=2, weighted=True).directions[path]
    torch.testing.assert_close(weighted[0], unit(3 * sae.decoder[0] + 2 * sae.decoder[1], dim=0), **CLOSE)
    control = sae.vector("one", features=1, random=0).directions[path]
    assert not any(torch.allclose(control[0], sae.decoder[f], atol=1e-3) for f in (0, 1))
    assert torch.equal(two.norms[path], sae.levels.norms) and torch.equal(two.sigmas, sae.levels.sigmas)
    with tiny.steer(two, 0.5):
        steered = run(tiny).latents
    assert not torch.equal(steered, run(tiny).latents)
    with pytest.raises(ValueError, match="do not contain 'three'"):
        sae.vector("three")
    sae.report = {
        **PASSED,
        "sigmas": sae.levels.sigmas.tolist(),
        "fvu_per_level": [0.5, 0.1, 0.1],
        "topk_pca_fvu": [0.2] * 3,
        "tokens_fvu": [0.2] * 3,
    }
    with pytest.warns(UserWarning, match="fails the evaluation at noise levels"):
        failing = sae.vector("one", features=1)
    failing.save(tmp_path / "vector")
    for vector in (failing, two + failing, failing + two, SteeringVector.load(tmp_path / "vector")):
        with pytest.warns(UserWarning, match="acts at noise levels"), tiny.steer(vector, 0.5):
            run(tiny)
    sae.scores = None
    with pytest.raises(ValueError, match="lacks scores"):
        sae.vector("one")


def test_the_arms_of_features_act_at_the_same_sites_and_repeat(tiny):
    concept = audioscope.datasets.concepts()["fast"]
    saes = [made(tiny, site) for site in tiny.sites.cross[:2]]
    for sae in saes:
        sae.scores = scores_by_hand(sae).replace({"concept": {"one": "fast", "two": "slow"}})
    paths = [sae.metadata["site"] for sae in saes]
    everywhere = audioscope.caa(tiny, concept, "cross", 2, steps=3, guidance=3.0, progress=False)
    methods = feature_methods(tiny, concept, saes, everywhere, 1, steps=3, against="slow")
    assert [method.cell for method in methods] == ["sae untuned", "caa untuned", "random features untuned", "pci all"]
    pair = concept.split("test")[0]
    edits = [method.edits(pair, 0.5, 7)[0] for method in methods[:3]]
    assert all(edit.vector.paths == tuple(paths) for edit in edits)
    expected = torch.nn.functional.normalize(saes[0].decoder[0] - saes[0].decoder[2], dim=0)
    torch.testing.assert_close(edits[0].vector.directions[paths[0]][0], expected, **CLOSE)
    again, other = (methods[2].edits(pair, 1.0, seed)[0].vector for seed in (7, 8))
    assert torch.equal(again.directions[paths[0]], edits[2].vector.directions[paths[0]])
    assert not torch.equal(other.directions[paths[0]], again.directions[paths[0]])


def test_every_arm_can_be_given_to_workers(tiny):
    """Otherwise a comparison runs in one process alone."""
    sae, concept = datasets.sae(tiny.sites.cross[6].path), datasets.concepts()["fast"]
    vector, pair = datasets.vector("fast"), concept.split("test")[0]
    methods = [*feature_methods(tiny, concept, [sae], vector), *standard_methods(tiny, concept, vector, vector)]
    methods += [blend_text_method(), free_sliders_method(), token_method(tiny, concept, pairs=2)]
    for method in methods:
        method.on(pair, 0.5, 7)  # one that keeps its last draw has one
        again = pickle.loads(cloudpickle.dumps(method))
        rows = [Row(pair.neutral, 7, each.on(pair, 0.5, 7)) for each in (method, again)]
        one, other = tiny.run(rows, decode=False, **tiny.sampling()).latents
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
        assert method.largest == again.largest and method.metadata == again.metadata


def test_auroc_is_that_of_scikit_learn_with_ties():
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 4, (30, 5)), rng.integers(0, 3, (20, 5))
    expected = [roc_auc_score(np.repeat([1, 0], [30, 20]), np.r_[one[:, i], other[:, i]]) for i in range(5)]
    np.testing.assert_allclose(auroc(one, other), expected)


def test_scores_are_their_formulas():
    one, other = np.array([[2.0], [4.0]]), np.array([[0.0], [1.0]])
    found = scores_of(one, other)
    assert found["ratio"][0] == pytest.approx(3 * np.log(1 + 1 / (0.5 + 1e-6)))
    assert found["difference"][0] == 2.5 and found["auroc"][0] == 1
    assert found["d"][0] == pytest.approx(2.5 / np.sqrt((2 + 0.5) / 2))
    silent = scores_of(np.array([[1.0], [1.0]]), np.zeros((2, 1)))
    assert silent["ratio"][0] == pytest.approx(np.log(1 + 1e6), rel=1e-3)


def test_an_auroc_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    n, held = 50, 0
    truth = 0.8556  # of two normals 1.5 deviations apart
    for _ in range(500):
        low, high = auroc_interval(float(auroc(rng.normal(1.5, 1, n), rng.normal(0, 1, n))), n, n)
        held += low <= truth <= high
    assert 0.92 < held / 500 < 0.99
    low, high = auroc_interval(1.0, n, n)
    assert high == 1 and 0.9 < low < 1 and auroc_interval(1.0, 10, 10)[0] < low
    assert auroc_interval(0.3, n, n) == pytest.approx([1 - x for x in auroc_interval(0.7, n, n)[::-1]], abs=1e-6)


def test_reading_concepts_averages_the_features_of_single_tokens(tiny):
    sae = made(tiny)
    found = concept_activations(tiny, {"s": sae}, ["reggae"], "select", pairs=2, steps=3, guidance=3.0, progress=False)
    assert found.rows["has"].tolist() == [True, False] * 2 and set(found.values) == {"s", sae.metadata["site"]}
    pair = audioscope.datasets.concepts()["reggae"].split("select")[1]
    assert found.rows["text"].tolist()[2:] == [pair.clean, pair.corrupted]
    seed = seed_of("reggae", pair.index, 0)
    (reading,) = tiny.activations([pair.clean], [sae.metadata["site"]], seeds=(seed,), steps=3, guidance=3.0, pool=False)
    tokens = reading.values[sae.metadata["site"]]
    torch.testing.assert_close(torch.tensor(found.values[sae.metadata["site"]][2]), tokens.mean(1), **CLOSE)
    expected = torch.stack([sae.encode(tokens[i], s).mean(0) for i, s in enumerate(reading.sigmas.tolist())])
    torch.testing.assert_close(torch.tensor(found.values["s"][2]), expected, rtol=1e-3, atol=1e-4)
    table = score_features(sae, tiny, ["reggae"], readings=found, name="s")
    assert sae.scores is None and table["sigma"].isna().any()
    row = table.dropna().iloc[0]
    level = int(np.abs(found.sigmas.numpy() - row["sigma"]).argmin())
    one, other = found.of("reggae", "s")
    assert row["difference"] == pytest.approx(
        float(one[:, level, int(row["feature"])].mean() - other[:, level, int(row["feature"])].mean()), abs=1e-4
    )
    assert len(top_features(table, "reggae", 3)) == 9 and top_features(table, "reggae", 1, "auroc")["auroc"].min() >= 0.5


def test_the_random_sae_has_the_same_shape_and_sparsity(tiny):
    sae = made(tiny)
    stream = TokenStream(tiny, sae.metadata["site"], PROMPTS, steps=3, guidance=3.0)
    other = random_like(sae, stream)
    x = next(iter(stream))
    assert other.decoder.shape == sae.decoder.shape and not torch.equal(other.decoder, sae.decoder)
    other.levels = None
    assert float((other.encode(x) > 0).float().sum(1).mean()) == pytest.approx(sae.k, rel=0.2)


def test_pages_are_self_contained_and_escaped(tiny, tmp_path):
    sae = made(tiny)
    sae.scores = scores_by_hand(sae).assign(sigma=np.nan).drop_duplicates(["concept", "feature"])
    nasty = "<script>alert(1)</script> song"
    with pytest.warns(UserWarning, match="never saw"):
        tiny.check_prompt(nasty)
    found = feature_clips(sae, tiny, [A, nasty], steps=3, progress=False)
    strongest = int(found.active.mean((0, 1)).argmax())
    index = feature_pages(sae, tiny, tmp_path, [strongest, 2], found=found, progress=False)
    text, one = index.read_text(), (tmp_path / f"{strongest}.html").read_text()
    for html in (text, one):
        assert "<script>alert" not in html and not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", html)
    assert (
        "&lt;script&gt;alert" in text
        and f'href="{strongest}.html"' in text
        and 'href="2.html"' in text
        and 'href="3.html"' not in text
    )
    assert (
        one.count("data:audio/mpeg") == len(found.top(strongest)) + 4
        and "Turned down by half" in one
        and "detects two (AUROC 0.50) best" in (tmp_path / "2.html").read_text()
    )
    assert found.active.shape[0] == 2 and found.active.shape[2] == sae.d_sae and found.sampling.steps == 3
    again = tiny.generate(A, seed=0, steps=3, guidance=3.0)  # in a batch of its own, so not bit by bit
    assert np.corrcoef(found.clips[0].samples[0], again.samples[0])[0, 1] > 0.99
    near = nearest(sae, 3, 2)
    cosines = sae.decoder @ sae.decoder[3]
    assert near["feature"][0] == int(cosines.argsort(descending=True)[1]) and 3 not in near["feature"].tolist()
    with pytest.raises(ValueError, match="features is"):
        feature_pages(sae, tiny, tmp_path, [99999], found=found)


@pytest.mark.slow
def test_the_command_trains_resumes_and_writes_pages(tmp_path, capsys, monkeypatch):
    for name in ("EVALUATED", "FITTED"):  # prompts of the evaluation, which take most of the time
        monkeypatch.setattr(f"audioscope.sae.evaluation.{name}", 48)
    site = "transformer.transformer_blocks.0.cross_attn"
    (tmp_path / "prompts.txt").write_text(f"{A}\n{B}\n")
    train = ["sae", "train", "--sites", site, "--prompts", str(tmp_path / "prompts.txt"), "--steps", "2", "--training-tokens", "2048", "--expansion-factor", "2",
             "--pairs", "3", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "sae")]  # fmt: skip
    assert main([*train, "--skip-report"]) == 0
    first = audioscope.SAE.from_pretrained(tmp_path / "sae" / site)
    assert first.metadata["site"] == site and set(first.report) >= {"fvu", "fvu_per_level", "pca_fvu", "l0", "dead_share"}
    assert main([*train, "--skip-report"]) == 0
    assert torch.equal(audioscope.SAE.from_pretrained(tmp_path / "sae" / site).decoder, first.decoder)
    assert main(["sae", "pages", "--sae", str(tmp_path / "sae" / site), "--features", "0,1", "--prompts", str(tmp_path / "prompts.txt"),
                 "--out", str(tmp_path / "pages")]) == 0  # fmt: skip
    assert (tmp_path / "pages" / "index.html").exists() and (tmp_path / "pages" / "1.html").exists()
    capsys.readouterr()
    assert (
        main(["sae", "train", "--sites", "nowhere", "--out", str(tmp_path)]) == 2
        and "No site 'nowhere'" in capsys.readouterr().err
    )
    assert (
        main(["sae", "pages", "--sae", "nowhere", "--out", str(tmp_path)]) == 2
        and "No SAE at 'nowhere'" in capsys.readouterr().err
    )


def test_levels_hold_one_of_each():
    assert Levels(torch.ones(1), torch.zeros(1, 2), torch.ones(1), torch.ones(1)).at(0.3)[1] == 1


def test_scoring_leaves_the_sae_as_it_was(tiny):
    """What vectors and pages are made of is set by whoever asked for the scores; those of another split leave no trace."""
    sae = made(tiny)
    keywords = {"pairs": 2, "steps": 3, "guidance": 3.0, "progress": False}
    sae.scores = chosen_by = score_features(sae, tiny, ["reggae"], **keywords)
    reported = score_features(sae, tiny, ["reggae"], "test", **keywords)
    assert sae.scores is chosen_by and not reported.equals(chosen_by)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_features_of_a_shorter_clip_are_those_of_its_own_time(stable_audio, share):
    """Stable Audio always makes the latents of its longest clip: what lies behind the end of a shorter one was never heard."""
    sae = made(stable_audio)
    longest = stable_audio.adapter.max_duration(stable_audio.pipe)
    settings = {"steps": 3, "guidance": 3.0, "seconds": share * longest}
    found = feature_clips(sae, stable_audio, [A], progress=False, **settings)
    path = sae.metadata["site"]
    read = Read(stable_audio.sites.select([path]), None, False, "cond")
    whole = stable_audio.run([Row(A, 0)], read=read, decode=False, **stable_audio.sampling(3, 3.0, share * longest))
    tokens = whole.reads[path][0]
    assert found.active.shape[1] == round(share * tokens.shape[1]) and found.clips[0].seconds == pytest.approx(share * longest)
    expected = torch.stack([sae.encode(tokens[i], s) for i, s in enumerate(whole.sigmas.tolist())]).mean(0)
    torch.testing.assert_close(found.active[0], expected[: found.active.shape[1]], rtol=1e-3, atol=1e-4)


def test_a_model_whose_latents_are_as_long_as_its_clip_loses_none_of_them(stable_audio_3):
    sae = made(stable_audio_3)
    found = feature_clips(sae, stable_audio_3, [A], steps=3, guidance=3.0, seconds=1.0, progress=False)
    path = sae.metadata["site"]
    read = Read(stable_audio_3.sites.select([path]), None, False, "cond")
    run_ = stable_audio_3.run([Row(A, 0)], read=read, decode=False, **stable_audio_3.sampling(3, 3.0, 1.0))
    assert found.active.shape[1] == run_.reads[path].shape[2]


def of_sites(model, paths):
    """A vector of ones at some sites, made by hand."""
    widths = {site.path: site.width for site in model.sites}
    ones = {path: torch.nn.functional.normalize(torch.ones(1, widths[path]), dim=1) for path in paths}
    return SteeringVector(ones, {path: torch.ones(1) for path in paths}, torch.tensor([1.0]), model.name, model.fingerprint)
