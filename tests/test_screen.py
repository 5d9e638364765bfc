"""Gates and the screen: gradients through the whole sampler, and what they say about exact patching."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_inside import A, B, edited, off

import audioscope
from audioscope import Pair, PatchOutput, Row, tracing
from audioscope.atlas import Chosen, Screen
from audioscope.atlas.screening import integrated
from audioscope.gates import gated, gradients, outputs
from audioscope.scoring import Musicnn, listener_scorer
from audioscope.sites import place

STEPS = 3


def settings(model):
    return model.sampling(steps=STEPS, seconds=min(1.0, model.adapter.max_duration(model.pipe) or 1.0))


def prepared(model, kind="cross.heads"):
    how, sites = settings(model), model.sites.select(kind)
    return how, sites, outputs(model, [Row(A, 0)], sites, how), torch.zeros(1, STEPS, len(sites))


def projection(latents):
    """A score that every latent number counts in."""
    weights = torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(1))
    return (latents * weights.to(latents)).flatten(1).sum(1)


def test_gates_at_their_ends_are_the_pipeline(model):
    how, sites, clean, closed = prepared(model)
    rows = [Row(A, 0), Row(B, 0), edited(PatchOutput("cross", A)), edited(PatchOutput(sites[3], A, steps=(1, 2)))]
    expected = model.run(rows, decode=False, **how).latents
    one = closed.clone()
    one[0, 1, 3] = 1.0
    found = [clean.latents, *(gated(model, [Row(B, 0)], gates, clean, how) for gates in (closed, closed + 1, one))]
    for mine, theirs in zip(found, expected, strict=True):
        assert off(mine[0], theirs, expected[0] - expected[1]) < 1e-3


def test_a_memory_has_gates_of_its_own(model):
    """Beside a module's at the same stop: open, they are the patch of the memory alone, or of the whole output."""
    if not model.adapter.leading(model.denoiser):
        pytest.skip("this model has no memory")
    how, site = settings(model), model.sites.cross[1]
    sites = (*site.memory, site)
    clean = outputs(model, [Row(A, 0)], sites, how)
    patches = [PatchOutput(site.memory, A), PatchOutput(site, A)]
    expected = model.run([Row(B, 0), *(edited(patch) for patch in patches)], decode=False, **how).latents
    for number in (0, 1):
        gates = torch.zeros(1, STEPS, 2)
        gates[:, :, number] = 1.0
        found = gated(model, [Row(B, 0)], gates, clean, how)[0]
        scale = expected[2] - expected[0]
        assert off(found, expected[number + 1], scale) < 1e-4 < off(expected[number + 1], expected[0], scale)
    both = gated(model, [Row(B, 0)], torch.ones(1, STEPS, 2), clean, how)[0]
    assert off(both, expected[2], scale) < 1e-4, "together they go no further than the whole output"
    part = torch.full((1, STEPS, 2), 0.3)
    _, slopes = gradients(model, [Row(B, 0)], part, clean, how, projection)
    moved = [part.clone(), part.clone()]
    moved[0][0, 1, 0], moved[1][0, 1, 0] = 0.35, 0.25
    ends = [float(projection(gated(model, [Row(B, 0)], each, clean, how))[0]) for each in moved]
    assert (ends[0] - ends[1]) / 0.1 == pytest.approx(float(slopes[0, 1, 0]), rel=0.03, abs=0.01 * float(slopes.abs().max()))


def test_slopes_are_finite_differences(model):
    """20 random gates, all rows and branches; computed again step by step, the slopes are the same to the bit."""
    how, sites, clean, closed = prepared(model)
    part, learning = closed + 0.3, [weight.requires_grad for weight in model.denoiser.parameters()]
    scores, slopes = gradients(model, [Row(B, 0)], part, clean, how, projection)
    again = gradients(model, [Row(B, 0)], part, clean, how, projection, recompute=True)
    assert torch.equal(slopes, again[1]) and torch.equal(scores, again[0])
    rng, far = np.random.default_rng(0), 0.05
    for step, number in zip(rng.integers(STEPS, size=20), rng.integers(len(sites), size=20), strict=True):
        ends = []
        for sign in (1, -1):
            moved = part.clone()
            moved[0, step, number] += sign * far
            ends.append(float(projection(gated(model, [Row(B, 0)], moved, clean, how))[0]))
        assert (ends[0] - ends[1]) / (2 * far) == pytest.approx(
            float(slopes[0, step, number]), rel=0.03, abs=0.01 * float(slopes.abs().max())
        )
    assert [weight.requires_grad for weight in model.denoiser.parameters()] == learning


@pytest.fixture
def two_heads(tiny):
    """`tiny`, of whose cross-attention only heads 2.1 and 9.3 say anything."""
    before = {name: value.clone() for name, value in tiny.denoiser.state_dict().items()}
    for site in tiny.sites.select("cross.heads"):
        if site.label not in ("2.1", "9.3"):
            where = place(tiny.denoiser, site)
            tiny.denoiser.get_submodule(where.module).weight.data[:, where.columns] = 0
    yield tiny
    tiny.denoiser.load_state_dict(before)


@pytest.mark.parametrize("mode", ["quick", "path"])
def test_silenced_heads_have_no_estimate(two_heads, mode):
    """Exactly 0 through the sampler, the codec and the listener; and the heads that speak are the highest, by either sign."""
    layers = [two_heads.sites[layer].heads for layer in (2, 5, 9)]
    screen = audioscope.screen(two_heads, ["fast"], 1, mode=mode, sites=layers, steps=2, points=3, progress=False)
    labels = {site.path: site.label for site in screen.sites}
    spoken = screen.table.groupby(screen.table["site"].astype(str).map(labels))["estimate"].agg(lambda each: each.abs().max())
    assert set(spoken[spoken > 0].index) == {"2.1", "9.3"} and len(spoken) == 12


def test_the_heads_that_speak_are_those_that_patching_finds(two_heads):
    """Precision and recall 1: only they change a clip."""
    atlas = audioscope.localize(two_heads, ["fast"], 2, sites="cross.heads", steps=2, clips=False, progress=False, also=())
    scored = atlas.table[atlas.table["scored"].astype(str) == "fast"]
    corrupted = scored[scored["row"] == "corrupted"].set_index("pair")["score"]
    patched = scored[scored["row"] == "patched"]
    moved = patched[(patched["score"].to_numpy() - corrupted[patched["pair"]].to_numpy()) != 0]
    labels = {site.path: site.label for site in atlas.sites}
    assert {labels[path] for path in moved["site"].astype(str)} == {"2.1", "9.3"} and len(atlas.sites) == 48


def test_two_rows_are_as_if_alone(tiny):
    how, sites, _, _ = prepared(tiny)
    clean = outputs(tiny, [Row(A, 0), Row("a slow opera", 1)], sites, how)
    slopes = gradients(tiny, [Row(B, 0), Row("a fast jazz song", 1)], torch.zeros(2, STEPS, len(sites)), clean, how, projection)[
        1
    ]
    alone = gradients(
        tiny, [Row(B, 0)], torch.zeros(1, STEPS, len(sites)), outputs(tiny, [Row(A, 0)], sites, how), how, projection
    )[1]
    torch.testing.assert_close(slopes[:1], alone, rtol=1e-3, atol=1e-4 * float(alone.abs().max()))


def test_silenced_sites_have_no_slope(two_heads):
    """A layer whose output is multiplied by 0 has exactly no effect, and a planted head alone is found."""
    how, sites, clean, closed = prepared(two_heads)
    slopes = gradients(two_heads, [Row(B, 0)], closed, clean, how, projection)[1][0]
    assert {site.label for site, each in zip(sites, slopes.T, strict=True) if each.any()} == {"2.1", "9.3"}


@pytest.mark.parametrize("scorer", [listener_scorer(), listener_scorer("judge"), Musicnn(device="cpu")], ids=lambda s: s.name)
def test_scores_are_those_of_the_call_and_have_slopes(tiny, scorer):
    audio = tiny.run([Row(A, 0), Row(B, 1)], steps=2).audio
    called = scorer(audio, tiny.rate)
    assert np.allclose(called.to_numpy(), scorer.scores(audio, tiny.rate).detach().numpy(), atol=1e-5)
    loud = torch.tensor(1.0, requires_grad=True)
    column = list(called).index("fast")
    (slope,) = torch.autograd.grad(scorer.scores(audio * loud, tiny.rate)[:, column].sum(), loud)
    ends = [float(scorer.scores(audio * gain, tiny.rate)[:, column].sum()) for gain in (1.002, 0.998)]
    assert (ends[0] - ends[1]) / 0.004 == pytest.approx(float(slope), rel=0.05, abs=0.02)


@pytest.mark.parametrize("truncation", ["fusion", "rand_trunc"])
@pytest.mark.parametrize("padding", ["repeatpad", "repeat", "pad"])
def test_claps_mels_are_the_feature_extractors(truncation, padding):
    from transformers import ClapFeatureExtractor

    from audioscope.scoring.scorers import log_mel

    extractor = ClapFeatureExtractor(truncation=truncation, padding=padding)
    for samples in (480_000, 479_999, 100_001):
        noise = 0.1 * torch.randn(2, samples, generator=torch.Generator().manual_seed(samples))
        noise[:, : samples // 2] *= 1e-4
        theirs = extractor(list(noise.numpy()), sampling_rate=48_000, return_tensors="pt")["input_features"]
        assert (log_mel(noise, extractor) - theirs).abs().max() < 1e-4


def test_a_screen_resumes_and_is_kept(tiny, tmp_path):
    how = {"pairs": 2, "sites": ["cross.heads"], "steps": 2, "progress": False}
    screen = audioscope.screen(tiny, ["fast"], out=tmp_path, **how)
    assert screen.table["generations"].unique().tolist() == [3], "clean, forward, backward"
    (tmp_path / "units").joinpath(sorted(p.name for p in (tmp_path / "units").iterdir())[0]).unlink()
    again = audioscope.screen(tiny, ["fast"], out=tmp_path, **how)
    pd.testing.assert_frame_equal(screen.table, again.table)
    loaded = Screen.load(tmp_path)
    assert loaded.impacts().equals(screen.impacts()) and "quick: blind" in repr(loaded)
    with pytest.raises(ValueError, match="holds"):
        audioscope.screen(tiny, ["fast"], mode="path", out=tmp_path, **how)


def test_estimates_and_residual_make_up_the_whole(tiny):
    """In both modes: what is patched together is the estimates plus the residual; in a path, it is the layer's exact effect."""
    how = {"pairs": 4, "sites": [tiny.sites[1].heads, tiny.sites[2].heads], "points": 3, "steps": 5, "progress": False}
    exact = audioscope.localize(tiny, ["fast"], 4, patch="output", sites=[1, 2], steps=5, clips=False, progress=False)
    for mode in ("quick", "path"):
        screen = audioscope.screen(tiny, ["fast"], mode=mode, **how)
        ends = screen.table.drop_duplicates("pair")
        way = float((ends["clean"] - ends["corrupted"]).mean())
        shares = screen.impacts(by_step=True).groupby("site", sort=False)["impact"].sum()
        impacts = screen.impacts().set_index("site")
        assert np.allclose(shares, impacts["impact"][shares.index]) and impacts["defined"].all()
        layers = {site.path: site.module for site in screen.sites} if mode == "path" else {}
        groups = screen.table["site"].map(lambda path, layers=layers: layers.get(path, "all"))
        for name, part in screen.table.groupby(groups):  # noqa: B007 (the query reads it)
            of_pair = part.drop_duplicates("pair").set_index("pair")
            whole = of_pair["together"] - of_pair["corrupted"]
            rest = (whole - part.groupby("pair")["estimate"].sum()) / way
            assert np.allclose(impacts["residual"][part["site"].unique()], rest.mean(), atol=1e-5)
            assert np.allclose(impacts["residual_each"][part["site"].unique()], rest.abs().mean(), atol=1e-5)
            if mode == "quick":
                pair = audioscope.datasets.concepts()["fast"].split("localize")[0]
                row = Row(
                    pair.corrupted, int(of_pair["seed"][pair.index]), (PatchOutput([tiny.sites[1], tiny.sites[2]], pair.clean),)
                )
                score = listener_scorer()(tiny.run([row], steps=5).audio, tiny.rate)["fast"][0]
                assert of_pair["together"][pair.index] == pytest.approx(score, abs=0.05)
                assert abs(score - of_pair["clean"][pair.index]) > 0.5, "which is not what the clean prompt gives"
                assert set(of_pair["generations"]) == {4}
            else:
                rows = exact.table.query("row == 'patched' and scored == 'fast' and site == @name").set_index("pair")["score"]
                assert np.allclose(of_pair["together"], rows.astype(float), atol=0.05)


def test_the_best_and_a_sample_are_patched(tiny, tmp_path):
    screen = audioscope.screen(tiny, ["fast"], 4, steps=2, progress=False)
    chosen = screen.choose(top=3, sample=2)
    strongest = screen.impacts().nlargest(3, "impact")["site"].tolist()  # as `compare` ranks them
    assert screen.impacts()["defined"].all()
    assert list(chosen.top) == strongest and not set(chosen.sample) & set(chosen.top)
    atlas = audioscope.localize(tiny, ["fast"], 4, screened=chosen, steps=2, progress=False, out=tmp_path)
    assert {site.path for site in atlas.sites} == {*chosen.top, *chosen.sample}
    assert atlas.settings["screened"] == {"top": list(chosen.top), "sample": list(chosen.sample)}
    assert screen.compare(atlas)["cells"].tolist() == [5, 5]
    with pytest.raises(ValueError, match="did not look at metal, but at fast"):
        audioscope.localize(tiny, ["fast", "metal"], 1, screened=chosen, steps=2)
    with pytest.raises(ValueError, match="of other weights"):
        audioscope.localize(tiny, ["fast"], 1, screened=replace(chosen, fingerprint="0123"), steps=2)
    for wrong in ({"top": ["x"]}, np.zeros(3), "cross"):
        with pytest.raises(TypeError, match="expected a screen"):
            audioscope.localize(tiny, ["fast"], 1, screened=wrong)
    with pytest.raises(ValueError, match="give one of them"):
        audioscope.localize(tiny, ["fast"], 1, sites="self", screened=Chosen(("x",), ()))


@pytest.mark.parametrize(
    ("top", "sample", "said"),
    [
        (None, (), "top is None, expected a list"),
        ("cross", (), "top is 'cross', expected a list"),
        ((3,), (), "top contains 3, expected module paths"),
        (("a", "b"), ("b",), "b is chosen twice"),
        (("a", "a"), (), "a is chosen twice"),
    ],
)
def test_a_choice_by_hand_is_of_paths(tiny, top, sample, said):
    with pytest.raises(ValueError, match=said):
        Chosen(top, sample)
    for by_hand, said in (
        (Chosen(("cross",), ()), "names 12 sites"),
        (Chosen(("0.3",), (tiny.sites[0].heads[3].path,)), "same site"),
    ):
        with pytest.raises(ValueError, match=said):
            audioscope.localize(tiny, ["fast"], 1, screened=by_hand, steps=1)
    own = tiny.sites.select("self")[1]
    for doubled in (
        [tiny.sites[1].heads, tiny.sites[1]], [tiny.sites[1].heads, tiny.sites[1].memory], [own.keys, own.heads], [own, own.values],
    ):  # fmt: skip
        with pytest.raises(ValueError, match="would count twice"):
            audioscope.screen(tiny, ["fast"], 1, sites=doubled, steps=1)
    several = [own.keys, own.values, tiny.sites[1].heads, tiny.sites[2]]
    assert len(audioscope.screen(tiny, ["fast"], 1, sites=several, steps=1, progress=False).sites) == 2 + 4 + 1
    assert Chosen([tiny.sites[1]], ()).top == (tiny.sites[1].path,)


def test_a_table_that_was_changed_is_no_screen(tiny, tmp_path):
    """Rows that are missing or there twice would change what is ranked, without a word."""
    screen = audioscope.screen(tiny, ["fast"], 2, sites=[1, 2], steps=2, progress=False)
    table, settings = screen.table, screen.settings
    for wrong, about, said in (
        (pd.concat([table, table]), settings, "has two lines of fast, 0,"), (table.iloc[1:], settings, "has 7 lines, expected 8"),
        (table.iloc[:0], settings, "has 0 lines, expected one or more"), (table.drop(columns="together"), settings, "lack together"),
        (table, {}, "lack concepts, fingerprint"), (table[table["site"] == tiny.sites[1].path], settings, "has 4 lines, expected 8"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            Screen(wrong, about)
    shuffled = Screen(table.sample(frac=1, random_state=0), settings).impacts()
    assert shuffled.sort_values("site", ignore_index=True).equals(screen.impacts())
    assert len(Screen(table[table["pair"] == 0], settings).impacts()) == 2, "all lines of a pair"
    for ask, kind, said in (
        (lambda: screen.chart("nope"), KeyError, "No screened concept 'nope'. Available: fast"),
        (lambda: screen.compare(None), ValueError, "atlas is None, expected an Atlas"),
        (lambda: screen.choose(2, 0, seed=-1), ValueError, "seed is -1"),
        (lambda: screen.save(Path(__file__)), ValueError, "is a file, or lies in one"),
        (lambda: audioscope.screen(tiny, ["fast"], 1, recompute="no"), ValueError, "recompute is 'no'"),
        (lambda: audioscope.screen(tiny, ["fast"], 1, out=""), ValueError, "A path is ''"),
    ):
        with pytest.raises(kind, match=said):
            ask()
    (screen.save(tmp_path) / "screen.json").unlink()
    with pytest.raises(FileNotFoundError, match="holds no screen"):
        Screen.load(tmp_path)


def test_what_cannot_be_screened_is_said(tiny, monkeypatch):
    class Loudness:
        concepts = ("fast",)

        def __call__(self, audio, rate):
            return audio.square().mean((1, 2))

    class Deaf(Loudness):
        def scores(self, audio, rate):
            return torch.ones(len(audio), 1)

    class Flat(Loudness):
        def scores(self, audio, rate):
            return audio.square().mean((1, 2))

    class Contradicting(Loudness):
        def scores(self, audio, rate):
            return -audio.square().mean((1, 2))[:, None]

    monkeypatch.setattr(tracing, "run", None)  # nothing is generated
    for change, said in (
        ({"scorer": Deaf()}, "No gradient reaches the audio"), ({"scorer": Flat()}, r"gave a tensor \[1\] for one clip"),
        ({"scorer": Contradicting()}, "gave -0.0.* for a clip of noise, and its call 0.0"),
        ({"sites": "cross.keys"}, "belongs to the text"), ({"sites": [*tiny.sites[1].values]}, "screen 'cross.heads'"),
        ({"scorer": Loudness()}, "no `scores` through which gradients reach the audio"),
        ({"mode": "slow"}, "expected 'quick' or 'path'"), ({"points": 2}, "points is 2, expected a whole number of at least 3"),
        ({"sites": "cross.tails"}, "No site 'cross.tails'"), ({"pairs": 0}, "pairs is 0"),
    ):  # fmt: skip
        with pytest.raises((ValueError, KeyError), match=said):
            audioscope.screen(tiny, ["fast"], **{"pairs": 1, **change})


def test_sites_of_several_kinds_have_lines_of_their_own(tiny):
    sites = [tiny.sites["transformer.transformer_blocks.1.self_attn"], tiny.sites[1], *tiny.sites.select("block")[1:2]]
    screen = audioscope.screen(tiny, ["fast"], pairs=4, sites=sites, steps=2, progress=False)
    assert screen.impacts()["layer"].tolist() == ["self 1", "cross 1", "block 1"]
    drawn = next(iter(screen.chart().to_dict()["datasets"].values()))
    assert len({(row["layer"], row["step"]) for row in drawn}) == len(drawn) == 6
    scale = screen.chart().to_dict()["encoding"]["color"]["scale"]
    assert scale["domainMid"] == 0 and scale["domain"][0] == -scale["domain"][1], "no effect has the tone of the page"
    assert len(screen.choose().top) == 3 and screen.choose().sample == ()


def test_a_comparison_is_of_the_same_pairs_and_steps(tiny):
    how = {"sites": [1, 2, 3], "steps": 5, "progress": False}
    screen = audioscope.screen(tiny, ["fast"], 4, **how)
    more, late = (
        audioscope.localize(tiny, ["fast", "slow"], n, patch="output", when=when, **how) for n, when in ((6, None), (4, "late"))
    )
    same = audioscope.localize(tiny, ["fast", "slow"], 4, patch="output", **how)
    pd.testing.assert_frame_equal(screen.compare(more), screen.compare(same))
    start, end = late.settings["window"]
    steps = screen.table[screen.table["step"].between(start, end - 1)]
    assert screen.compare(late)["spearman"][0] == Screen(steps, screen.settings).compare(late)["spearman"][0]
    assert 0 < len(steps) < len(screen.table)
    with pytest.raises(ValueError, match="a screen estimates 'sufficient' patches"):
        screen.compare(audioscope.localize(tiny, ["fast"], 1, direction="necessary", **how))
    with pytest.raises(ValueError, match=r"made with other settings \(steps; steps: 2 there, 5 now\)"):
        screen.compare(audioscope.localize(tiny, ["fast"], 1, **{**how, "steps": 2}))
    negative = audioscope.localize(tiny, ["fast"], 1, **how, negative_prompt="a slow song")
    with pytest.raises(ValueError, match="made with other settings .*negative_prompt"):
        screen.compare(negative)
    with pytest.raises(ValueError, match="share no pair"):
        screen.compare(audioscope.localize(tiny, ["slow"], 1, **how))


def test_residuals_of_opposite_sign_do_not_cancel_pair_by_pair(tiny):
    """Nor seed by seed."""
    for pairs, seeds in ((2, 1), (2, 2)):
        screen = audioscope.screen(tiny, ["fast"], pairs, seeds, sites=[1], steps=1, progress=False)
        together = [1.0, 3.0] * seeds  # in both pairs, if there are two seeds
        table = screen.table.assign(clean=2.0, corrupted=0.0, together=together, estimate=2.0)
        found = Screen(table, screen.settings).impacts().iloc[0]
        assert found["residual"] == pytest.approx(0.0) and found["residual_each"] == pytest.approx(0.5)


def test_recomputed_steps_are_computed_twice(tiny):
    """One step at a time is kept for the gradient: each is computed again on the way back."""
    how, _, clean, closed = prepared(tiny)
    counts = []
    with tiny.denoiser.proj_out.register_forward_hook(lambda *_: counts.append(1)):
        for recompute in (False, True):
            gradients(tiny, [Row(B, 0)], closed, clean, how, projection, recompute=recompute)
            counts.append(0)
    plain, again = (len(part) for part in "".join(map(str, counts)).split("0")[:2])
    assert again == 2 * plain == 2 * STEPS


def test_a_sample_is_drawn_at_random_from_all_that_is_left(tiny):
    screen = audioscope.screen(tiny, ["fast"], pairs=4, sites="cross", steps=1, progress=False)
    ranked = screen.impacts().sort_values("impact", ascending=False)["site"].tolist()
    drawn = [screen.choose(2, 2, seed=seed).sample for seed in range(40)]
    assert {path for each in drawn for path in each} == set(ranked[2:]) and len(set(drawn)) > 20
    assert screen.choose(2, 2, seed=3).sample == drawn[3]


def test_a_screen_knows_its_prompts(tiny):
    """Concepts of one name, whose pairs have the same numbers but other prompts, are others."""
    how, shipped = {"sites": [1, 2], "steps": 1, "progress": False}, audioscope.datasets.concepts()["fast"]
    others = [Pair(number, "", each.clean, each.corrupted, each.neutral) for number, each in enumerate(shipped.split("test")[:4])]
    screen = audioscope.screen(tiny, [audioscope.Concept("fast", tuple(others))], 4, **how)
    with pytest.raises(ValueError, match="share no pair"):
        screen.compare(audioscope.localize(tiny, ["fast"], 2, **how))
    with pytest.raises(ValueError, match=r"other prompts of 'fast' \(pair 0\)"):
        audioscope.localize(tiny, ["fast"], 1, screened=screen.choose(1, 0), steps=1)
    older = Screen(screen.table, {name: value for name, value in screen.settings.items() if name != "prompts"})
    assert older.choose(1, 0).prompts == (), "an older file does not say"


def perfect(exact, concepts, pairs):
    """A screen whose estimates are the exact shifts of an atlas."""
    names, table = ["clean", "corrupted"], exact.table[exact.table["concept"] == exact.table["scored"]]
    table = table[table["concept"].isin(concepts) & (table["pair"] < pairs)]
    unit = ["concept", "pair", "seed"]
    ends = {name: table[table["row"] == name].astype({"concept": str}).set_index(unit)["score"] for name in names}
    lines = table[~table["row"].isin(names)][[*unit, "site", "layer", "score"]].astype({"site": str, "concept": str})
    keys = pd.MultiIndex.from_frame(lines[unit])
    ends = {name: values.reindex(keys).to_numpy() for name, values in ends.items()}
    lines = lines.assign(
        **ends, step=0, estimate=lines["score"] - ends["corrupted"], together=ends["clean"], points=1, generations=3
    )
    return Screen(lines.drop(columns="score"), {**exact.settings, "concepts": concepts, "mode": "quick", "pairs": pairs})


def test_a_perfect_screen_misses_nothing():
    """Of a concept with more layers of its own than a fifth of all; a few sites do not tell."""
    exact = audioscope.datasets.maps()["output"]
    screen = perfect(exact, ["happy"], 12)
    found = screen.compare(exact).set_index("concept").loc["happy"]
    assert found["own"] == len(exact.own_layers("happy")) > 0.2 * len(exact.sites)
    assert found["missed"] == "" and found["spearman"] == pytest.approx(1)
    part = audioscope.Atlas(exact.table, {**exact.settings, "screened": {"top": [], "sample": []}}, exact.folder)
    assert np.isnan(screen.compare(part).set_index("concept").loc["happy", "own"])


def test_own_layers_of_a_comparison_do_not_hang_on_what_else_was_screened():
    """All of the atlas's other concepts stay the control."""
    exact = audioscope.datasets.maps()["output"]
    kept = (exact.table["concept"] != "happy") | (exact.table["pair"] < 4)
    four = audioscope.Atlas(exact.table[kept], exact.settings, exact.folder)
    alone = audioscope.Atlas(
        exact.table[(exact.table["concept"] == "happy") & (exact.table["scored"] == "happy") & (exact.table["pair"] < 4)],
        {**exact.settings, "concepts": ["happy"]}, exact.folder,
    )  # fmt: skip
    found = [perfect(exact, names, 4).compare(exact).set_index("concept") for names in (["happy"], ["metal", "happy"])]
    pd.testing.assert_series_equal(found[0].loc["happy"], found[1].loc["happy"])
    assert found[0].loc["happy", "own"] == len(four.own_layers("happy")) < len(alone.own_layers("happy"))
    assert found[0].index.tolist() == ["happy", "all"] and found[1].index.tolist() == ["happy", "metal", "all"]


def test_undefined_estimates_are_not_ranked(tiny):
    screen = audioscope.screen(tiny, ["fast"], pairs=4, sites=[1, 2], steps=1, progress=False)
    screen.table["corrupted"] = screen.table["clean"]
    with pytest.raises(ValueError, match="nothing can be ranked"):
        screen.choose()


def test_a_run_within_a_run_is_refused(tiny):
    """Also where gradients go through it: the scheduler counts the steps of one run."""
    how, _, clean, closed = prepared(tiny)

    def again(latents):
        tiny.run([Row(A, 0)], steps=1)
        return latents.sum((1, 2))

    with pytest.raises(RuntimeError, match="is generating"):
        gradients(tiny, [Row(B, 0)], closed, clean, how, again)
    assert tiny.run([Row(A, 0)], steps=1).finite.all()
    assert all(weight.requires_grad for weight in tiny.denoiser.parameters())


def test_a_path_is_integrated_and_its_points_gather_at_a_switch():
    """Against integrals that are known: a law that the residual, which is whatever is left, cannot show."""
    line, many = integrated(lambda at: torch.tensor([[2 * at, -6 * at]]), -2.0, 1e-6, 99)
    assert torch.allclose(line, torch.tensor([[1.0, -3.0]])) and many == 3
    bent, many = integrated(lambda at: torch.tensor([[3 * at**2]]), 1.0, 0.001, 27)
    assert abs(float(bent) - 1) <= 0.001 and 3 < many <= 27
    places = []

    def switch(at):
        places.append(at)
        share = 1 / (1 + np.exp(-(at - 0.6) / 0.02))
        return torch.tensor([[share * (1 - share) / 0.02]])

    total, many = integrated(switch, 1.0, 0.05, 41)
    assert abs(float(total) - 1) <= 0.05 and 3 < many == len(places) < 41
    assert np.mean(np.abs(np.array(places[3:]) - 0.6) < 0.17) > 0.5
    assert integrated(switch, 1.0, 0.0, 9)[1] == 9, "no more points than are asked for"


def test_tables_may_come_back_from_pandas_with_an_index_and_fractions(tiny):
    screen = audioscope.screen(tiny, ["fast"], pairs=2, sites=[1, 2], steps=2, progress=False)
    for table in (
        screen.table.set_index("pair", drop=False),
        screen.table.set_index(["concept", "site"], drop=False),
        screen.table.astype({"pair": float, "seed": float, "step": float}),
        pd.concat([screen.table[:4], screen.table[4:].reset_index(drop=True)]),
    ):
        pd.testing.assert_frame_equal(Screen(table, screen.settings).impacts(), screen.impacts())
    atlas = audioscope.datasets.atlas()
    again = replace(atlas, table=atlas.table.set_index("concept", drop=False).astype({"pair": float}))
    pd.testing.assert_frame_equal(again.impacts(), atlas.impacts())
    chosen = screen.impacts().nlargest(1, "impact")
    assert [site.path for site in tiny.sites.select(chosen)] == chosen["site"].tolist()
    assert tiny.sites.select("3") == tiny.sites.select(3) and tiny.sites.select(["3", "0.1"])
