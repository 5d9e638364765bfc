"""The gate: bars that need no training, fitted on other prompts than are measured, and the limit to dead features."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import orthogonal_mp_gram
from torch.nn.functional import normalize

import audioscope
from audioscope import SAE
from audioscope.sae import train_sae
from audioscope.sae.charts import evaluation_chart
from audioscope.sae.evaluation import _random_tokens, evaluate_sae, evaluate_tokens, matching_pursuit

ONE = torch.tensor([1.0])  # a single noise level


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def planted(count, seed, width=16, directions=32, active=2):
    """Tokens that are sums of few of some directions, with positive amounts: float32 [1, count, width]."""
    truth = normalize(gaussian(directions, width, seed=99), dim=1)
    generator = torch.Generator().manual_seed(seed)
    on = torch.rand(count, directions, generator=generator).argsort(1) < active
    return ((on * (0.5 + torch.rand(count, directions, generator=generator))) @ truth)[None]


def signed(count, seed, width, active=2, levels=1):
    """Tokens with values of either sign in few of their dimensions: float32 [levels, count, width]."""
    generator = torch.Generator().manual_seed(seed)
    on = torch.rand(levels, count, width, generator=generator).argsort(-1) < active
    return on * torch.randn(levels, count, width, generator=generator)


def perfect(width, dead=0, k=2):
    """An SAE that says everything of tokens with few values: a feature for either sign of each dimension, and some that never fire."""
    sae = SAE(width, 2 * width + dead, k)
    with torch.no_grad():
        rows = torch.cat([torch.eye(width), -torch.eye(width), normalize(torch.ones(dead, width), dim=1)])
        sae.encoder.copy_(rows)
        sae.decoder.copy_(rows)
        sae.b_enc[2 * width :] = -100.0
    return sae.requires_grad_(False)


def by_sklearn(atoms, x, k):
    """What orthogonal matching pursuit leaves, token by token: float64 [n, d_in]."""
    atoms, x = atoms.double().numpy(), x.double().numpy()
    return x - orthogonal_mp_gram(atoms @ atoms.T, atoms @ x.T, n_nonzero_coefs=k).T @ atoms


@pytest.mark.parametrize("k", [1, 4, 7])
def test_matching_pursuit_leaves_what_that_of_sklearn_leaves(k):
    atoms, x = normalize(gaussian(40, 12), dim=1), 3 * gaussian(200, 12, seed=1)
    np.testing.assert_allclose(matching_pursuit(x, atoms, k), by_sklearn(atoms, x, k), atol=1e-4)


def test_matching_pursuit_stops_where_the_atoms_end():
    """Atoms of a subspace leave what lies outside it, however many may be taken."""
    inside = gaussian(4, 10)
    atoms, x = normalize(gaussian(30, 4, seed=1) @ inside, dim=1), gaussian(50, 10, seed=2)
    outside = x - x @ torch.linalg.pinv(inside) @ inside
    torch.testing.assert_close(matching_pursuit(x, atoms, 8), outside, rtol=1e-3, atol=1e-4)


def test_the_bars_are_what_scikit_learn_leaves():
    """Both are fitted on other tokens of the level, and their means; the fraction is of the variance of those that are measured."""
    scales = torch.linspace(2, 0.3, 12)
    measured = torch.stack([gaussian(400, 12) * scales + 1, gaussian(400, 12, seed=1) * scales.flip(0)])
    fitted = torch.stack([gaussian(20, 12, seed=2) * scales + 1.5, gaussian(20, 12, seed=3) * scales.flip(0)])
    sae = SAE(12, 40, 3, "topk")  # as many features as fitting tokens over both levels, so that every draw takes all of them
    found = evaluate_tokens(sae, measured, torch.tensor([1.0, 0.5]), fitted_on=fitted)
    assert found.levels["components"].tolist() == [3, 3]
    means = fitted.mean(1)
    atoms = normalize((fitted - means[:, None]).flatten(0, 1), dim=1)
    for x, others, mean, row in zip(measured, fitted, means, found.levels.to_dict("records"), strict=True):
        variance = float((x - x.mean(0)).square().sum())
        assert row["tokens_fvu"] == pytest.approx(np.square(by_sklearn(atoms, x - mean, 3)).sum() / variance, rel=1e-4)
        pca = PCA().fit(others.numpy())
        codes = pca.transform(x.numpy())
        least = np.sort(np.abs(codes), axis=1)[:, -3:-2]
        made = pca.inverse_transform(np.where(np.abs(codes) >= least, codes, 0))
        assert row["topk_pca_fvu"] == pytest.approx(np.square(x.numpy() - made).sum() / variance, rel=1e-4)
        spectrum = np.sort(np.linalg.eigvalsh(np.cov(x.numpy().T)))[::-1]
        assert row["pca_fvu"] == pytest.approx(spectrum[3:].sum() / spectrum.sum(), rel=1e-4)


def test_many_tokens_are_coded_in_part_and_the_bar_hardly_moves(monkeypatch):
    measured, fitted = planted(4000, 0), planted(1000, 1)
    whole = evaluate_tokens(SAE(16, 32, 2, "topk"), measured, ONE, fitted_on=fitted).levels["tokens_fvu"][0]
    monkeypatch.setattr("audioscope.sae.evaluation.CODED", 1000)
    part = evaluate_tokens(SAE(16, 32, 2, "topk"), measured, ONE, fitted_on=fitted).levels["tokens_fvu"][0]
    assert whole != part == pytest.approx(whole, rel=0.1)


def test_the_verdict_does_not_hang_on_one_draw_of_tokens():
    """A bar is the mean over dictionaries that differ, all of tokens of both levels about their means."""
    measured, fitted = planted(500, 0).expand(2, -1, -1), torch.cat([planted(300, 1), planted(300, 2) + 1])
    means = fitted.mean(1)
    draws = _random_tokens(fitted, means, 32)
    every = normalize((fitted - means[:, None]).flatten(0, 1), dim=1)
    place = [(atoms @ every.T).argmax(1) for atoms in draws]
    assert all(torch.allclose(every[at], atoms, atol=1e-5) for at, atoms in zip(place, draws, strict=True))
    assert len({tuple(sorted(at.tolist())) for at in place}) == len(draws) == 10
    assert all(len(set(at.tolist())) == 32 and 0.2 < float((at < 300).float().mean()) < 0.8 for at in place)
    x = measured[0] - means[0]
    left = [np.square(by_sklearn(atoms, x, 2)).sum() for atoms in draws]
    found = evaluate_tokens(SAE(16, 32, 2, "topk"), measured, torch.tensor([1.0, 0.5]), fitted_on=fitted).levels["tokens_fvu"][0]
    assert found == pytest.approx(np.mean(left) / float((x - x.mean(0)).square().sum()), rel=1e-3) and max(left) > 1.05 * min(
        left
    )


def test_an_sae_that_spends_more_than_k_meets_bars_that_may_do_so():
    measured, fitted = planted(1000, 0), planted(1000, 1)
    spending = evaluate_tokens(SAE(16, 32, 2), measured, ONE, fitted_on=fitted).levels.loc[0]  # its threshold is 0
    assert spending["l0"] > 8 and spending["components"] == np.ceil(spending["l0"])
    few = evaluate_tokens(SAE(16, 32, 2, "topk"), measured, ONE, fitted_on=fitted).levels.loc[0]
    assert few["components"] == 2 and (spending[["topk_pca_fvu", "tokens_fvu"]] < 0.2 * few[["topk_pca_fvu", "tokens_fvu"]]).all()


def trained(tokens):
    settings = {
        "expansion_factor": 2,
        "k": 2,
        "training_tokens": 400_000,
        "batch_size": 512,
        "buffer": 8192,
        "dead_feature_window": 20_000,
        "seed": 1,
    }
    return train_sae([tokens[0]], **settings, progress=False)


def test_a_trained_sae_of_sparse_tokens_passes_both_bars_and_an_untrained_one_neither():
    measured, fitted = planted(4096, 5), planted(4096, 6)
    found = evaluate_tokens(trained(planted(8192, 0)), measured, ONE, fitted_on=fitted)
    level = found.levels.loc[0]
    assert found.passes and level["fvu"] < 0.5 * min(level["topk_pca_fvu"], level["tokens_fvu"]), found
    level = evaluate_tokens(SAE(16, 32, 2, "topk"), measured, ONE, fitted_on=fitted).levels.loc[0]
    assert not level["passes"] and level["fvu"] > level["topk_pca_fvu"] and level["fvu"] > level["tokens_fvu"]


def test_tokens_without_structure_pass_with_no_sae():
    """Of isotropic noise training learns nothing that random tokens would not say as well."""
    sae = trained(gaussian(1, 8192, 16))
    found = evaluate_tokens(sae, gaussian(1, 4096, 16, seed=5), ONE, fitted_on=gaussian(1, 4096, 16, seed=6))
    assert found.dead_share <= 0.1 and not found.levels["passes"].any(), found


def test_each_bar_alone_fails_a_level():
    sae = perfect(8)
    with torch.no_grad():
        sae.b_dec += 0.02  # it leaves a little
    unlike = torch.arange(1.0, 9)  # PCA finds dimensions of unlike variance
    level = evaluate_tokens(sae, signed(2000, 0, 8) * unlike, ONE, fitted_on=signed(2000, 1, 8) * unlike).levels.loc[0]
    assert level["topk_pca_fvu"] < level["fvu"] < level["tokens_fvu"] and not level["passes"]
    ways = normalize(gaussian(16, 8), dim=1)  # more directions than dimensions are none of PCA's, but each is a fitting token
    ways = torch.cat([ways, -ways])
    measured = ways[torch.randint(32, (2000,), generator=torch.Generator().manual_seed(1))] * (1 + gaussian(2000, 1).abs())
    sae = SAE(8, 32, 1, "topk")
    with torch.no_grad():
        sae.encoder.copy_(ways)
        sae.decoder.copy_(ways)
        sae.b_dec += 0.02
    level = evaluate_tokens(sae, measured[None], ONE, fitted_on=ways[None]).levels.loc[0]
    assert level["tokens_fvu"] < level["fvu"] < level["topk_pca_fvu"] and not level["passes"]


@pytest.mark.parametrize(("dead", "passes"), [(2, True), (3, False), (8, False)])  # of 20, 21 and 26: 10, 14 and 31 %
def test_more_than_a_tenth_of_dead_features_fails_by_itself(dead, passes):
    sae = perfect(9, dead)
    found = evaluate_tokens(sae, signed(2000, 0, 9, levels=2), torch.tensor([1.0, 0.2]), fitted_on=signed(2000, 1, 9, levels=2))
    assert found.dead_share == dead / (18 + dead) and found.levels["passes"].all() and found.levels["fvu"].max() < 1e-6
    sae.report = found.report()
    assert found.passes == sae.report["passes"] == passes and not sae.failed([1.0, 0.2])


def test_the_gate_fails_the_level_at_which_the_sae_knows_nothing():
    values, others = signed(1000, 0, 8, levels=2), signed(1000, 1, 8, levels=2)
    shift = torch.tensor([0.0, 5.0])[:, None, None]  # a mean that it knows nothing of
    sae = perfect(8)
    assert sae.failed([0.5]) == [0.5]  # never measured
    found = evaluate_tokens(sae, values + shift, torch.tensor([1.0, 0.2]), fitted_on=others + shift)
    assert not sae.report, "the SAE is left as it was"
    sae.report = found.report()
    assert (
        found.levels["passes"].tolist() == [True, False] and not found.passes and sae.report == json.loads(json.dumps(sae.report))
    )
    assert sae.failed([0.99, 0.21]) == [0.21] and sae.failed([3.0, 0.01]) == [3.0, 0.01]
    assert found.levels["l0"][0] == pytest.approx(2, abs=0.02) and "below both baselines at 1 of 2 noise levels" in repr(found)


@pytest.mark.parametrize("bar", ["topk_pca_fvu", "tokens_fvu"])
def test_a_level_fails_in_the_report_by_either_bar(bar):
    sae = SAE(4, 4, 1)
    report = {"sigmas": [1.0, 0.5], "fvu_per_level": [0.1, 0.1], "topk_pca_fvu": [0.2, 0.2], "tokens_fvu": [0.2, 0.2]}
    sae.report = dict(report)
    assert sae.failed([1.0, 0.5]) == []
    sae.report = {**report, bar: [0.2, 0.1]}
    assert sae.failed([1.0, 0.5]) == [0.5]
    sae.report = {name: value for name, value in report.items() if name != bar}  # by an older gate, which had one bar
    assert sae.failed([1.0, 0.5]) == [1.0, 0.5]


def test_one_set_of_tokens_is_split_by_items():
    """Every item has a direction of its own, so the tokens of other items say nothing of it."""
    tokens = torch.eye(40)[None, :, None] * (1 + torch.rand(1, 40, 30, 1, generator=torch.Generator().manual_seed(0)))
    sae = SAE(40, 32, 1, "topk")
    apart = evaluate_tokens(sae, tokens, ONE).levels["tokens_fvu"][0]
    together = evaluate_tokens(sae, tokens.flatten(1, 2), ONE).levels["tokens_fvu"][0]
    assert together < 0.6 < 0.99 < apart
    assert evaluate_tokens(perfect(40, k=1), tokens, ONE).dead_share == 0.75  # 20 of 80 features: only one half is measured


def test_fitting_tokens_that_do_not_suit_are_named():
    sae, measured = SAE(16, 32, 2), planted(100, 0)
    for fitted in (planted(31, 1), planted(100, 1).expand(2, -1, -1)):
        with pytest.raises(ValueError, match=r"expected 1 levels, width 16 .* \(32\)"):
            evaluate_tokens(sae, measured, ONE, fitted_on=fitted)
    with pytest.raises(ValueError, match=r"fitted_on is float32 \[1, 100, 8\], expected floats \[..., 16\]"):
        evaluate_tokens(sae, measured, ONE, fitted_on=planted(100, 1, width=8))
    with pytest.raises(ValueError, match=r"have shape \[1, 30, 16\].*give more"):
        evaluate_tokens(sae, measured[:, :60], ONE)


class Stream(SimpleNamespace):
    """A stream of noise that remembers which prompts and seeds were read."""

    def __init__(self):
        model = SimpleNamespace(fingerprint="f")
        super().__init__(site="a.b", model=model, batch_size=32, branches=("cond", "uncond"), read_rows=[])

    def read(self, prompts, seeds, branch):
        self.read_rows += [(text, seed, branch) for text, seed in zip(prompts, seeds, strict=True)]
        return gaussian(len(prompts), 2, 4, 8, seed=seeds[0]), torch.tensor([1.0, 0.5])

    def read_all(self, parts):
        return (self.read(*part) for part in parts)


def test_no_prompt_is_measured_and_fitted_on():
    build, test = audioscope.datasets.concept_prompts(), audioscope.datasets.concept_prompts(split="test")
    for measured in (None, test[:5], audioscope.concepts.some_prompts(300, "build")):
        stream = Stream()
        evaluate_sae(SAE(8, 16, 1), stream, measured, progress=False)
        texts = [text for text, _, _ in stream.read_rows]
        count = len(texts) - 256
        assert count == (256 if measured is None else len(measured)) and (measured is None or texts[:count] == measured)
        assert set(texts[:count]) <= set(test if measured is None else measured)
        assert set(texts[count:]) <= set(build) - set(texts[:count]) and len(set(texts[count:])) == 256
        assert len({seed for _, seed, _ in stream.read_rows}) == len(texts)
        assert [branch for _, _, branch in stream.read_rows[count:]] == (["cond"] * 32 + ["uncond"] * 32) * 4
    stream = Stream()
    evaluate_sae(SAE(8, 16, 1), stream, test[:5], progress=False, fitted_on=["mine", "others"])
    assert [text for text, _, _ in stream.read_rows] == [*test[:5], "mine", "others"]
    with pytest.raises(ValueError, match=f"1 prompts are both measured and fitted on, such as '{test[4]}'"):
        evaluate_sae(SAE(8, 16, 1), Stream(), test[:5], fitted_on=test[4:])
    for chosen in ({"prompts": []}, {"fitted_on": []}):
        with pytest.raises(ValueError, match="give at least one of each"):
            evaluate_sae(SAE(8, 16, 1), Stream(), **chosen, progress=False)


def test_the_chart_shows_the_sae_beside_both_bars():
    found = evaluate_tokens(
        perfect(8), signed(500, 0, 8, levels=2) + 5 * torch.arange(2)[:, None, None], torch.tensor([1.0, 0.2])
    )
    spec = evaluation_chart(found).to_dict()
    (rows,) = spec["datasets"].values()
    shown = {(row["what"], row["shown"]): row["share"] for row in rows}
    assert len(shown) == 6
    for column, name in (
        ("fvu", "SAE"),
        ("topk_pca_fvu", "PCA, each token's k largest"),
        ("tokens_fvu", "random tokens, k of them"),
    ):
        assert [shown[name, sigma] for sigma in ("1.000", "0.200")] == pytest.approx(found.levels[column].tolist())
    assert "the SAE fails at 0.200." in spec["description"]


def test_the_chart_says_no_more_than_is_so():
    values, sigmas = signed(1000, 0, 9, levels=2), torch.tensor([1.0, 0.2])
    for sae, said in ((perfect(9), "passes"), (perfect(9, dead=8), "is below both baselines"), (SAE(9, 18, 2, "topk"), "fails")):
        assert (
            f"the SAE {said} at every noise level."
            in evaluation_chart(evaluate_tokens(sae, values, sigmas)).to_dict()["description"]
        )
