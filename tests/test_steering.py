"""The laws of steering vectors and their edits, and that they steer."""

import json
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import KILLED
from helpers.pipelines import PROMPTS

import audioscope
from audioscope import AddVector, BlendText, PatchText, SteeringVector, caa
from audioscope.concepts import shipped_concepts
from audioscope.edits import Here
from audioscope.scoring.scorers import listener_scorer
from audioscope.steer.caa import steering_sites
from audioscope.steer.methods import (
    blend_text_method,
    prompt_switch_method,
    random_direction_method,
    random_layers_methods,
    vector_method,
)
from audioscope.steer.sweeps import calibrate, steering_sweep
from audioscope.store import seed_of
from audioscope.tracing import Read, Row

A, B = PROMPTS
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
WORDS = ("sad", "song", "violin", "flute", "drums", "happy")  # that every test model knows


def settings(model, guidance=3.0, **more):
    return {**model.sampling(3, guidance, None), "decode": False, **more}


def pairs(count=4, name="violin"):
    """Pairs of prompts in the test models' vocabulary."""
    rows = [
        {"concept": name, "clean": f"a {w} {v} song with violin", "corrupted": f"a {w} {v} song with flute", "neutral": f"a {w} {v} song",
         "split": "build"}
        for w in ("slow", "fast") for v in ("sad", "happy")
    ]  # fmt: skip
    return next(iter(audioscope.load_concepts(pd.DataFrame(rows[:count])).values()))


def made(model, sites="cross", **keywords):
    return caa(model, pairs(), sites, 4, steps=3, guidance=3.0, progress=False, **keywords)


def of_ones(model, paths, sigmas=(1.0, 0.5, 0.1)):
    """A vector of random unit directions, made by hand."""
    torch.manual_seed(0)
    widths = {site.path: site.width for site in model.sites}
    directions = {p: torch.nn.functional.normalize(torch.randn(len(sigmas), widths[p]), dim=1) for p in paths}
    return SteeringVector(
        directions, {p: torch.ones(len(sigmas)) for p in paths}, torch.tensor(sigmas), model.name, model.fingerprint
    )


def test_caa_is_the_difference_of_means(model):
    """Against the plain way: all readings kept, then averaged."""
    concept = pairs()
    vector = made(model, normalize=False, batch_size=3)
    for site in (*model.sites.cross[:2], *model.sites.cross[0].memory):
        means, lengths = {}, []
        for side in ("clean", "neutral"):
            reads = []
            for pair in concept.pairs:
                row = Row(getattr(pair, side), concept.seed(pair))
                run = model.run([row], read=Read((site,), pool=False), **settings(model))
                reads.append(run.reads[site.path][0].mean(1))
                lengths.append(run.reads[site.path][0].norm(dim=-1).mean(1))
            means[side] = torch.stack(reads).mean(0)
        torch.testing.assert_close(vector.norms[site.path], torch.stack(lengths).mean(0), **CLOSE)
        added = vector.directions[site.path] * vector.norms[site.path][:, None]
        torch.testing.assert_close(added, means["clean"] - means["neutral"], rtol=1e-3, atol=1e-4)
    unit = made(model)
    for path in vector.paths:
        torch.testing.assert_close(unit.directions[path].norm(dim=1), torch.ones(3), **CLOSE)
        assert torch.nn.functional.cosine_similarity(unit.directions[path], vector.directions[path]).min() > 0.9999


def test_only_time_tokens_are_read_and_steered(model):
    """Memory and duration tokens have no place in a mean over time, and steering leaves them alone."""
    leading, site = model.adapter.leading(model.denoiser), model.sites.cross[0]
    vector = of_ones(model, [site.path])
    run = model.run(
        [Row(A, 0), Row(A, 0, (AddVector(vector, 2.0),))], read=Read((site,), steps=(0,), pool=False), **settings(model)
    )
    added = (run.reads[site.path][1] - run.reads[site.path][0])[0]
    torch.testing.assert_close(added, (2.0 * vector.at(site.path, float(run.sigmas[0]))).expand_as(added), rtol=1e-3, atol=1e-4)
    output, here = torch.randn(9, site.width), Here(site, 0.5, leading, 4.0)
    changed = AddVector(vector, 2.0).change(output, None, here)
    assert torch.equal(changed[:leading], output[:leading]) and len(changed) == 9
    assert (changed[leading:] - output[leading:]).norm(dim=1).min() > 1


def test_a_vector_has_a_memorys_tokens_apart(model, tmp_path):
    """Each token of the memory gets its own; the module brings them along, with its music or without."""
    leading, site = model.adapter.leading(model.denoiser), model.sites.cross[0]
    vector = made(model)
    if not leading:
        assert "memory" not in vector.metadata and list(vector.directions) == list(vector.paths)
        return
    (memory,) = site.memory
    assert vector.metadata["memory"] and vector.paths == tuple(each.path for each in model.sites.cross)
    assert list(made(model, memory=False).directions) == list(vector.paths)
    sigma = float(vector.sigmas[0])
    one, apart, alone = vector.only(site), vector.only(site, memory=False), vector.only(memory)
    edits = (
        one.edit(2.0), apart.edit(2.0), alone.edit(2.0), vector.edit(2.0, sites=[0]), vector.edit(2.0, sites=[memory]),
        one.edit(2.0, seconds=(0, 1e3)),
    )  # fmt: skip
    reads = model.run(
        [Row(A, 0), *(Row(A, 0, (edit,)) for edit in edits)], read=Read((memory, site), steps=(0,), pool=False), **settings(model)
    ).reads
    for path, moved in ((site.path, (1, 1, 0, 1, 0, 1)), (memory.path, (1, 0, 1, 1, 1, 0))):
        bare, *steered = reads[path][:, 0]
        for values, is_moved in zip(steered, moved, strict=True):
            expected = bare + is_moved * 2.0 * vector.at(path, sigma)
            torch.testing.assert_close(values, expected, rtol=1e-3, atol=1e-4)
    for same in (one * 2 / 2, one + 0 * vector, apart + alone, one.at_levels(one.sigmas)):
        torch.testing.assert_close(same.directions[memory.path], vector.directions[memory.path], **CLOSE)
    halved = vector.half()
    assert torch.equal(
        SteeringVector.load(halved.save(tmp_path / "half")).directions[memory.path], halved.directions[memory.path]
    )
    assert (tmp_path / "half.safetensors").stat().st_size < 0.75 * vector.save(tmp_path / "whole").stat().st_size
    drawn = vector.random(0)
    torch.testing.assert_close(drawn.directions[memory.path].norm(dim=1), vector.directions[memory.path].norm(dim=1), **CLOSE)
    with pytest.raises(ValueError, match="no direction at"):
        apart.only(memory)
    assert "memory" not in apart.metadata and alone.metadata["memory"]
    with pytest.raises(ValueError, match="the memory alone, which has none"):
        model.run([Row(A, 0, (alone.edit(1.0, seconds=(0, 1)),))], **settings(model))


def test_strength_0_is_bit_identical_and_nothing_acts_after(model):
    vector = of_ones(model, [s.path for s in model.sites.cross])
    bare = model.run([Row(A, 0)], **settings(model)).latents
    for mode in ("add", "keep_norm", "project_out"):
        with model.steer(vector, 0.0, mode=mode):
            assert torch.equal(model.run([Row(A, 0)], **settings(model)).latents, bare)
    with model.steer(vector, 1.0):
        steered = model.run([Row(A, 0)], **settings(model)).latents
    assert not torch.allclose(steered, bare, rtol=1e-3, atol=1e-4)
    with pytest.raises(RuntimeError, match="on purpose"), model.steer(vector, 1.0), model.steer(vector, 2.0):
        raise RuntimeError("on purpose")
    assert torch.equal(model.run([Row(A, 0)], **settings(model)).latents, bare)
    given = model.run([Row(A, 0, (AddVector(vector, 1.0),))], **settings(model)).latents
    torch.testing.assert_close(given, steered, **CLOSE)


def test_strengths_ride_as_rows_of_one_batch(model):
    vector = of_ones(model, [s.path for s in model.sites.cross])
    strengths = (-2.0, -1.0, 0.0, 1.0, 2.0)
    together = model.run([Row(A, 0, (AddVector(vector, s),)) for s in strengths], **settings(model)).latents
    for strength, row in zip(strengths, together, strict=True):
        alone = model.run([Row(A, 0, (AddVector(vector, strength),))], **settings(model)).latents[0]
        torch.testing.assert_close(row, alone, rtol=1e-4, atol=1e-4)


def test_the_algebra_of_vectors_is_that_of_their_edits(tiny):
    paths = [s.path for s in tiny.sites.cross[:3]]
    b = made(tiny, paths)
    a = of_ones(tiny, paths, tuple(b.sigmas.tolist()))
    rows = [
        Row(A, 0, (AddVector(a + b, 1.0),)), Row(A, 0, (AddVector(a, 1.0), AddVector(b, 1.0))),
        Row(A, 0, (AddVector(2 * a, 1.5),)), Row(A, 0, (AddVector(a, 3.0),)),
        Row(A, 0, (AddVector(-a, 1.0),)), Row(A, 0, (AddVector(a, -1.0),)),
        Row(A, 0, (AddVector(a - a, 5.0),)), Row(A, 0),
    ]  # fmt: skip
    latents = tiny.run(rows, **settings(tiny)).latents
    for i in (0, 2, 4, 6):
        torch.testing.assert_close(latents[i], latents[i + 1], rtol=1e-3, atol=1e-4)
    free = b.orthogonal_to(a)
    for path in paths:
        at = a.directions[path]
        assert (free.directions[path] * at).sum(1).abs().max() < 1e-5
        drawn = b.random(3)
        torch.testing.assert_close(
            drawn.directions[path] @ drawn.directions[path].T, b.directions[path] @ b.directions[path].T, **CLOSE
        )
    assert b.random(3).cosines(b)["cosine"].abs().max() < 0.5
    assert torch.equal(b.random(3).directions[paths[0]], b.random(3).directions[paths[0]])
    assert not torch.equal(b.random(3).directions[paths[0]], b.random(4).directions[paths[0]])


def test_a_sum_adds_what_both_would_add_whatever_their_norms(tiny):
    path = tiny.sites.cross[0].path
    a, b = of_ones(tiny, [path]), replace(of_ones(tiny, [path]), norms={path: torch.tensor([3.0, 2.0, 5.0])})
    torch.testing.assert_close((a + b).at(path, 0.5), a.at(path, 0.5) + b.at(path, 0.5))
    torch.testing.assert_close((a - b).at(path, 0.1), a.at(path, 0.1) - b.at(path, 0.1))


def test_modes(tiny):
    site = tiny.sites.cross[1]
    vector = of_ones(tiny, [site.path])
    read = Read((site,), steps=(0,), pool=False)
    rows = [
        Row(A, 0),
        *(
            Row(A, 0, (AddVector(vector, s, mode=m),))
            for m, s in (("keep_norm", 2.0), ("project_out", 1.0), ("project_out", 0.5))
        ),
    ]
    run = tiny.run(rows, read=read, **settings(tiny))
    bare, kept, out, half = run.reads[site.path][:, 0]
    unit = torch.nn.functional.normalize(vector.at(site.path, float(run.sigmas[0])), dim=0)
    torch.testing.assert_close(kept.norm(dim=1), bare.norm(dim=1), **CLOSE)
    assert not torch.allclose(kept, bare, rtol=1e-2)
    assert (out @ unit).abs().max() < 1e-4 < (bare @ unit).abs().max()
    torch.testing.assert_close(half @ unit, 0.5 * (bare @ unit), **CLOSE)


def test_the_envelope_keeps_to_its_seconds(tiny):
    site = tiny.sites.cross[1]
    vector = of_ones(tiny, [site.path])
    read = Read((site,), steps=(0,), pool=False)
    rows = [Row(A, 0), Row(A, 0, (AddVector(vector, 2.0, seconds=(2, 4)),))]
    bare, steered = tiny.run(rows, read=read, **settings(tiny)).reads[site.path][:, 0]
    moved = (steered - bare).norm(dim=1) > 1e-3
    times = (torch.arange(64) + 0.5) * 4.096 / 64
    assert torch.equal(moved, (times >= 2) & (times < 4))


def test_a_curve_is_the_strength_over_time(tiny):
    """Linear between its points, constant beyond them; a flat one is the strength, and the memory has no time."""
    site = tiny.sites.cross[1]
    vector = made(tiny, [site.path])
    read = Read((site, *site.memory), steps=(0,), pool=False)
    curves = ([(1, 0), (3, 2)], [(0, 1)], [(0, 1), (9, 1)])
    rows = [Row(A, 0), *(Row(A, 0, (AddVector(vector, 1.5, curve=curve),)) for curve in curves)]
    rows.append(Row(A, 0, (AddVector(vector.only(site, memory=False), 1.5),)))
    run = tiny.run(rows, read=read, **settings(tiny))
    bare, rising, *flat, plain = run.reads[site.path][:, 0]
    times = (torch.arange(64) + 0.5) * 4.096 / 64
    expected = 1.5 * (times - 1).clamp(0, 2)[:, None] * vector.at(site.path, float(run.sigmas[0]))
    torch.testing.assert_close(rising - bare, expected, rtol=1e-3, atol=1e-4)
    for each in flat:
        torch.testing.assert_close(each, plain, **CLOSE)
    memory = run.reads[site.memory[0].path][:, 0]
    assert all(torch.equal(each, memory[0]) for each in memory)
    edit = AddVector(vector, 1.0, curve=np.array([[0.0, 1.0], [2.0, 0.0]]), mode="keep_norm")
    assert edit.curve == ((0.0, 1.0), (2.0, 0.0)) and len(tiny.generate(A, edits=edit, steps=1).samples)
    for wrong in ([], [(0, 1), (0, 2)], [(-1, 1)], [(0, float("nan"))], [(0, 1, 2)], 3, "up"):
        with pytest.raises(ValueError, match="curve"):
            AddVector(vector, 1.0, curve=wrong)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_its_kind(tiny, dtype):
    site = tiny.sites.cross[1]
    vector = of_ones(tiny, [site.path])
    output, here = torch.randn(7, site.width).to(dtype), Here(site, 0.5, 2, 1.0)
    for mode in ("add", "keep_norm", "project_out"):
        half = AddVector(vector, 1.5, mode=mode).change(output, None, here)
        whole = AddVector(vector, 1.5, mode=mode).change(output.float(), None, here)
        assert half.dtype == dtype
        torch.testing.assert_close(half.float(), whole, rtol=1e-2, atol=1e-2)


def test_windows_and_branches(model):
    site = model.sites.cross[0]
    vector = of_ones(model, [site.path])
    parts = tuple(AddVector(vector, 2.0, steps=w) for w in ((0, 1), (1, 2), (2, 3)))
    rows = [
        Row(A, 0, (AddVector(vector, 2.0),)), Row(A, 0, parts), Row(A, 0, parts[:1]),
        Row(A, 0, (AddVector(vector, 2.0, branch="uncond"),)), Row(A, 0),
    ]  # fmt: skip
    whole, pieces, first, uncond, bare = model.run(rows, **settings(model)).latents
    torch.testing.assert_close(pieces, whole, **CLOSE)
    apart = [whole, first, uncond, bare]
    assert all(not torch.allclose(x, y, rtol=1e-4, atol=1e-5) for i, x in enumerate(apart) for y in apart[:i])


@pytest.mark.slow
def test_a_vector_serves_other_step_counts(tiny):
    """Between noise levels it is the line between neighbours; a vector made at 16 steps is nearly the one made at 8, 30 or 50."""
    path = tiny.sites.cross[2].path
    vector = replace(of_ones(tiny, [path]), norms={path: torch.tensor([1.0, 2.0, 4.0])})
    middle = (vector.directions[path][0] + 2 * vector.directions[path][1]) / 2
    torch.testing.assert_close(vector.at(path, 0.75), middle)
    torch.testing.assert_close(vector.at(path, 1.5), vector.directions[path][0])
    torch.testing.assert_close(vector.at(path, 0.0), 4 * vector.directions[path][2])
    made_at = {n: caa(tiny, "fast", [path], 6, steps=n, progress=False) for n in (16, 8, 30, 50)}
    for n in (8, 30, 50):
        assert made_at[n].cosines(made_at[16])["cosine"].min() > 0.98
        with tiny.steer(made_at[16], 2.0):
            assert bool(tiny.run([Row("a jazz song", 0)], **tiny.sampling(n, None, None)).finite.all())


def test_another_models_vector_is_refused_with_both_values(tiny, stable_audio_3, tmp_path):
    vector = of_ones(tiny, [tiny.sites.cross[0].path])
    other = replace(vector, fingerprint="0123456789abcdef", model="other")
    with pytest.raises(ValueError, match=rf"'other' with weights 0123456789abcdef.*'tiny' with weights {tiny.fingerprint}"):
        tiny.generate("a slow song", edits=AddVector(other, 1.0), steps=1)
    with pytest.raises(ValueError, match="weights 0123456789abcdef"), tiny.steer(other):
        raise AssertionError("must not get here")
    with pytest.raises(ValueError, match=r"width 128 .* width \d+"):
        stable_audio_3.generate(A, edits=AddVector(vector, 1.0), steps=1)
    strange = replace(vector, directions={"unet.mid.attn2": torch.ones(3, 8)}, norms={"unet.mid.attn2": torch.ones(3)})
    with pytest.raises(ValueError, match=r"unet\.mid\.attn2.*no such site"):
        tiny.generate("a slow song", edits=AddVector(strange, 1.0), steps=1)
    for combine in (lambda: vector + other, lambda: vector.orthogonal_to(other), lambda: vector.cosines(other)):
        with pytest.raises(ValueError, match="0123456789abcdef"):
            combine()


def test_files_are_data(tiny, tmp_path):
    vector = made(tiny, tiny.sites.cross[:2])
    file = vector.save(tmp_path / "violin.safetensors")
    again = SteeringVector.load(file)
    assert again.metadata == json.loads(json.dumps(dict(vector.metadata))) and again.fingerprint == tiny.fingerprint
    assert again.metadata["branch"] == "cond" and again.metadata["against"] == "neutral wording" and again.metadata["audioscope"]
    for path in vector.paths:
        assert torch.equal(again.directions[path], vector.directions[path]) and torch.equal(again.norms[path], vector.norms[path])
    with pytest.raises(FileNotFoundError, match="nothing"):
        SteeringVector.load(tmp_path / "nothing")

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    file.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="corrupt or not a steering vector"):
        SteeringVector.load(file)
    torch.save({"sigmas": Bomb()}, file)
    with pytest.raises(ValueError, match="corrupt or not a steering vector"):
        SteeringVector.load(file)
    assert not (tmp_path / "exploded").exists()
    vector.save(file)
    (tmp_path / "violin.json").write_text("{}")
    with pytest.raises(ValueError, match="corrupt or not a steering vector"):
        SteeringVector.load(file)


def test_a_kept_vector_is_read_only_if_it_is_the_one_asked_for(tiny, tmp_path, monkeypatch):
    first = caa(tiny, "fast", "own", 3, steps=2, file=tmp_path / "v", progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(type(tiny), "run", lambda *_, **__: pytest.fail("the vector was made again"))
        again = caa(tiny, "fast", "own", 3, steps=2, file=tmp_path / "v", progress=False)
        with pytest.raises(ValueError, match="holds a vector with other settings.*(pairs|prompts)"):
            caa(tiny, "fast", "own", 4, steps=2, file=tmp_path / "v", progress=False)
    assert torch.equal(again.directions[first.paths[0]], first.directions[first.paths[0]])


def test_which_sites(tiny, stable_audio):
    concepts = shipped_concepts()
    layers = {n: [s.layer for s in steering_sites(tiny, concepts[n], "own")] for n in ("fast", "jazz", "trombone")}
    assert [s.layer for s in steering_sites(tiny, concepts["fast"], "functional")] == [0]
    assert steering_sites(tiny, concepts["fast"]) == tiny.sites.cross, "no atlas is needed unless asked for"
    assert layers["fast"] == [1, 2] and layers["jazz"] == [0] and len(layers["trombone"]) == 3
    with pytest.raises(ValueError, match=r"needs an atlas of .* weights .* pass atlas="):
        caa(stable_audio, pairs(), "functional", 4, progress=False)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"against": "opposite", "concept": "violin"}, "'violin' has no opposite"),
        ({"against": "noise"}, "against is 'noise'"),
        ({"pairs": 51}, "pairs is 51"),
        ({"pairs": 1}, "pairs is 1"),
        ({"branch": "both"}, "branch is 'both'"),
        ({"split": "train"}, "split is 'train'"),
        ({"concept": "fest"}, "Nearest: .*fast"),
        ({"sites": "layer 3"}, "layer 3"),
    ],
)
def test_bad_input_to_caa(tiny, keywords, message):
    with pytest.raises((ValueError, KeyError), match=message):
        caa(tiny, **{"concept": "fast", "progress": False, **keywords})


def test_bad_edits(tiny):
    vector = of_ones(tiny, [tiny.sites.cross[0].path])
    for keywords, message in (
        ({"strength": float("nan")}, "strength is nan"), ({"mode": "mul"}, "mode is 'mul'"), ({"seconds": (3, 2)}, r"seconds is \(3, 2\)"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            AddVector(vector, **keywords)
    with pytest.raises(ValueError, match="no direction at"):
        vector.only([tiny.sites.cross[1]])
    with pytest.raises(ValueError, match="no such site|has no direction"):
        tiny.generate("a slow song", edits=AddVector(vector, 1.0, sites=tiny.sites.cross[1].path), steps=1)
    with pytest.raises(ValueError, match="expected strictly decreasing"):
        replace(vector, sigmas=torch.tensor([0.1, 0.5, 1.0]))
    with pytest.raises(ValueError, match="NaN"):
        replace(vector, norms={p: n * torch.nan for p, n in vector.norms.items()})


def test_shuffled_labels_and_swapped_order(tiny):
    straight, shuffled = made(tiny, normalize=False), made(tiny, normalize=False, shuffle=0)
    path = tiny.sites.cross[-1].path
    assert shuffled.directions[path].norm() < straight.directions[path].norm(), "half of the pairs cancel the other half"
    assert shuffled.metadata["shuffle"] == 0


def test_blended_text_ends_in_the_other_prompt(model):
    other = "a fast happy song with flute"  # as many tokens as A, so that masks agree
    edits = [BlendText("cross", A, 0.0), BlendText("cross", A, 0.5), BlendText("cross", A), PatchText("cross", A)]
    rows = [Row(A, 0), Row(other, 0), *(Row(other, 0, (edit,)) for edit in edits)]
    clean, corrupted, none, half, whole, patched = model.run(rows, **settings(model)).latents
    idle = model.run([Row(A, 0), Row(other, 0), Row(other, 0), *rows[3:]], **settings(model)).latents[2]
    assert torch.equal(none, idle), "the same row of two batches"
    torch.testing.assert_close(none, corrupted, rtol=1e-5, atol=1e-5)
    if model.adapter.pipeline != "AudioLDM2Pipeline":  # its T5 cuts these two into different numbers of tokens
        torch.testing.assert_close(whole, patched, **CLOSE)
    apart = [half, clean, corrupted]
    assert all((x - y).norm() > 1e-3 for i, x in enumerate(apart) for y in apart[:i])


def test_a_blend_has_a_token_where_either_prompt_has_one():
    edit = BlendText("cross", A)
    for one, two, both in (
        ([1, 1, 0], [1, 0, 0], [1, 1, 0]),
        ([True, False], [False, False], [True, False]),
        ([-1e4, 0.0], [0.0, 0.0], [0.0, 0.0]),
    ):
        assert torch.equal(edit.mask(torch.tensor(one), torch.tensor(two)), torch.tensor(both))


def test_pci_over_all_steps_is_the_rewritten_prompt(tiny):
    pair = shipped_concepts()["fast"].neutral_pairs("test")[0]
    method = prompt_switch_method(3)
    rows = [
        Row(pair.clean, 0),
        Row(pair.corrupted, 0),
        *(Row(pair.neutral, 0, tuple(method.edits(pair, s, 0))) for s in (1.0, -1.0)),
    ]
    clean, corrupted, towards, away = tiny.run(rows, **settings(tiny)).latents
    torch.testing.assert_close(towards, clean, **CLOSE)
    torch.testing.assert_close(away, corrupted, **CLOSE)
    blended = tiny.run(
        [Row(pair.neutral, 0, tuple(blend_text_method().edits(pair, s, 0))) for s in (1.0, -1.0)], **settings(tiny)
    ).latents
    assert not torch.allclose(blended[0], blended[1], rtol=1e-2, atol=1e-2)
    assert method.edits(pair, 0.1, 0) == [] and method.edits(pair, 0.34, 0)[0].steps == (2, 3)


def test_random_layers_are_drawn_in_sets_apart_from_the_own(tiny):
    vector = made(tiny)
    for own, shared in ((vector.paths[2:4], 0), (vector.paths[:5], 0), (vector.paths[:8], 4)):
        drawn = [set(method.metadata["at"]) for method in random_layers_methods(vector, own, seed=5)]
        assert [len(each) for each in drawn] == [len(own)] * 3 and all(len(each & set(own)) == shared for each in drawn)
        assert all(
            method.edits(None, 1.0, 0)[0].sites == method.edits(None, -2.0, 9)[0].sites
            for method in random_layers_methods(vector, own, seed=5)
        )
        assert drawn == [set(method.metadata["at"]) for method in random_layers_methods(vector, own, seed=5)]
    apart = [set(method.metadata["at"]) for method in random_layers_methods(vector, vector.paths[2:5], seed=1)]
    assert not apart[0] & apart[1] and not apart[0] & apart[2] and not apart[1] & apart[2]
    assert [method.cell for method in random_layers_methods(vector, vector.paths[:2])] == [
        f"caa random layers {n}" for n in (1, 2, 3)
    ]
    with pytest.raises(ValueError, match="12 of them and 0 others"):
        random_layers_methods(vector, vector.paths)


def test_random_directions_are_drawn_anew(tiny):
    vector = made(tiny)
    own = vector.paths[2:4]
    directions = [
        random_direction_method(vector.only(own), "own").edits(None, 1.0, s)[0].vector.directions[own[0]] for s in (0, 1)
    ]
    assert abs(float(torch.nn.functional.cosine_similarity(*directions).mean())) < 0.5


@pytest.mark.slow
def test_steering_steers_and_a_random_direction_does_not(tiny):
    """The point of it all, on a few clips: tempo up and down, measured by the judge, beside the same push at random."""
    vector = caa(tiny, "fast", "own", 12, progress=False)
    judge = listener_scorer("judge")
    prompts = [p.neutral for p in shipped_concepts()["fast"].neutral_pairs("test")[:6]]

    def fast(made, strength):
        clips = tiny.generate(prompts, seed=list(range(6)), edits=AddVector(made, strength), progress=False)
        scores = judge(torch.from_numpy(np.stack([clip.samples for clip in clips])), 16_000)
        return float((scores["fast"] - scores["slow"]).mean() / 2)

    down, bare, up = (fast(vector, s) for s in (-3.0, 0.0, 3.0))
    assert up - bare > 2 and bare - down > 2
    chance = [fast(vector.random(seed), 3.0) - bare for seed in range(3)]
    assert max(abs(c) for c in chance) < 0.7 * (up - bare)


SWEEP = """
import torch; torch.set_num_threads(1)
import audioscope
from audioscope.steer.methods import vector_method
model = audioscope.load("tiny")
vector = audioscope.caa(model, "fast", "own", 3, steps=2, file={out!r} + "/vector", progress=False)
audioscope.steer.steering_sweep(model, "fast", [vector_method(vector, "own")], [-1.0, 1.0], prompts=3, seeds=2, steps=2, out={out!r}, clips=True, workers=1, progress=False)
"""


@pytest.mark.slow
def test_a_killed_sweep_resumes_to_the_same_table(tiny, tmp_path):
    out = tmp_path / "cut"
    vector = caa(tiny, "fast", "own", 3, steps=2, file=out / "vector", progress=False)
    keywords = {"prompts": 3, "seeds": 2, "steps": 2, "clips": True, "progress": False}
    whole = steering_sweep(tiny, "fast", [vector_method(vector, "own")], [-1.0, 1.0], out=tmp_path / "whole", **keywords)
    code = KILLED + SWEEP.format(out=str(out))
    killed = subprocess.run([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"})
    done = {f: f.stat().st_mtime_ns for f in out.glob("units/*.parquet")}
    assert killed.returncode == -signal.SIGKILL and len(done) == 2
    resumed = steering_sweep(tiny, "fast", [vector_method(vector, "own")], [-1.0, 1.0], out=out, **keywords)
    assert {f: f.stat().st_mtime_ns for f in done} == done, "finished units were done again"
    pd.testing.assert_frame_equal(resumed.table, whole.table)
    assert all((out / clip).exists() for clip in resumed.table["clip"]) and not resumed.table["failed"].any()
    with pytest.raises(ValueError, match=r"other settings.*methods"):
        steering_sweep(tiny, "fast", [vector_method(vector, "own")], [-2.0, 2.0], out=out, **keywords)


@pytest.mark.slow
def test_what_a_sweep_measures(tiny, tmp_path):
    vector = caa(tiny, "fast", "cross", 6, steps=4, progress=False)
    methods = [vector_method(vector, "all"), random_direction_method(vector, "all"), prompt_switch_method(4)]
    strengths = {methods[0].cell: [-0.5, 0.5, 1.0], methods[1].cell: [-0.5, 0.5], methods[2].cell: [-1.0, 0.5, 1.0]}
    sweep = steering_sweep(tiny, "fast", methods, strengths, prompts=3, seeds=1, steps=4, out=tmp_path, progress=False)
    zero = sweep.table[sweep.table["strength"] == 0]
    assert (zero["distance"] == 0).all() and np.allclose(zero["chroma"], 1) and len(zero) == 3 * 3
    assert (sweep.table.loc[sweep.table["strength"] != 0, "distance"] > 0).all()
    assert {"fast", "slow"} <= {c[7:] for c in sweep.table.columns if c.startswith("scored ")}
    assert np.allclose(sweep.table["score"], (sweep.table["scored fast"] - sweep.table["scored slow"]) / 2, atol=1e-5)
    pair = shipped_concepts()["fast"].neutral_pairs("test")[0]
    clip = tiny.generate(pair.clean, seed_of("fast", pair.index, 0), steps=4)
    heard = listener_scorer("judge")(torch.from_numpy(clip.samples[None]), 16_000)
    row = sweep.table.query("cell == 'pci all' and strength == 1.0 and prompt == @pair.index").iloc[0]
    assert row["scored fast"] == pytest.approx(float(heard["fast"].iloc[0]), abs=0.05), (
        "PCI over all steps is the rewritten prompt"
    )
    summary = sweep.summary()
    assert summary["method"].tolist() == ["caa", "random direction", "pci"]
    assert summary["reached"].iloc[-1] == 1.0
    # price and gain come from two networks, and each network's part of the other's work is kept
    assert (sweep.settings["scorer"], sweep.settings["price"]) == ("judge", "listener")
    heard_too = listener_scorer()(torch.from_numpy(clip.samples[None]), 16_000)
    assert row["listener scored fast"] == pytest.approx(float(heard_too["fast"].iloc[0]), abs=0.05)
    assert not np.allclose(sweep.table["distance"], sweep.table["distance of judge"], rtol=0.05)
    assert sweep.swapped().summary()["auc"].notna().all()
    again = audioscope.steer.SteeringSweep.load(tmp_path)
    pd.testing.assert_frame_equal(again.summary(), summary)
    found = sweep.compare("pci all", "random direction all")
    assert found.more == pytest.approx(summary["auc"].iloc[2] - summary["auc"].iloc[1]) and 0 <= found.p <= 1
    sweep.chart().to_dict()


@pytest.mark.slow
def test_calibration_finds_the_strength_of_a_budget(tiny):
    vector = caa(tiny, "fast", "own", 6, steps=4, progress=False)
    methods = [vector_method(vector, "own"), vector_method(vector, "kept", mode="keep_norm")]
    found = calibrate(tiny, "fast", methods, 0.03, prompts=3, steps=4, progress=False).set_index(["cell", "side"])
    assert found.loc[("caa own", 1), "reached"] and found.loc[("caa own", -1), "strength"] < 0
    strengths = {"caa own": [found.loc[("caa own", 1), "strength"]]}
    sweep = steering_sweep(tiny, "fast", methods[:1], strengths, prompts=3, seeds=1, split="select", steps=4, progress=False)
    assert sweep.points().query("strength > 0")["distance"].iloc[0] == pytest.approx(0.03, rel=0.35)
    assert not calibrate(tiny, "fast", methods[1:], 5.0, grid=[1.0], prompts=1, steps=2, progress=False)["reached"].any()


def known_to_judge():
    """A concept in the test models' words that the tiny model's classifiers know."""
    rows = [{"concept": "violin", "clean": f"a {w} song with violin", "corrupted": f"a {w} song with flute", "neutral": f"a {w} song",
             "split": split} for split, w in (("build", "sad"), ("build", "slow"), ("test", "happy"), ("select", "fast"))]  # fmt: skip
    return audioscope.load_concepts(pd.DataFrame(rows))


def test_a_failed_clip_is_said_and_left_out(tiny, tmp_path):
    """A vector so long that float32 overflows: its rows fail, the others stay, and the summary has no NaN in its areas."""
    path = tiny.sites.cross[0].path
    vector = replace(of_ones(tiny, [path]), norms={path: torch.full((3,), 1e38)})
    methods = [vector_method(vector, "huge"), prompt_switch_method(2)]
    sweep = steering_sweep(
        tiny,
        "fast",
        methods,
        {"caa huge": [50.0], "pci all": [-1.0, 1.0]},
        prompts=2,
        seeds=1,
        steps=2,
        out=tmp_path,
        progress=False,
    )
    failed = sweep.table[sweep.table["failed"]]
    assert failed["cell"].unique().tolist() == ["caa huge"] and (failed["strength"] == 50).all() and failed["score"].isna().all()
    curves = sweep.curves().set_index(["cell", "strength"])
    assert curves.loc[("caa huge", 50.0), "off"] == 1.0 and curves.loc[("pci all", 1.0), "off"] == 0.0
    summary = sweep.summary().set_index("method")
    assert np.isfinite(summary.loc["pci", "auc"]) and np.isnan(summary.loc["caa", "auc"])


def test_one_prompt_has_no_interval(tiny, tmp_path):
    sweep = steering_sweep(
        tiny, "fast", [prompt_switch_method(2)], [-1.0, 1.0], prompts=1, seeds=1, steps=2, out=tmp_path, progress=False
    )
    assert sweep.summary()["auc_low"].iloc[0] == -np.inf and "1 prompts" in repr(sweep)


def test_bad_input_to_a_sweep(tiny, stable_audio, tmp_path):
    vector = of_ones(tiny, [tiny.sites.cross[0].path])
    method = vector_method(vector, "first")
    for concept, methods, strengths, keywords, message in (
        ("fast", [method], [0.0], {}, "All strengths are 0"), ("fast", [method, method], [1.0], {}, "Duplicate method names"),
        ("violin", [prompt_switch_method(10)], [-1.0], {}, "no opposite"), ("fast", [prompt_switch_method(10)], [1.5], {}, "out of range"),
        ("fast", [method], [1.0], {"prompts": 99}, "prompts is 99"), ("fast", [method], [1.0], {"seeds": 0}, "seeds is 0"),
        ("fast", [method], [1.0], {"scorer": audioscope.scoring.MeasureScorer()}, "no layers"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            steering_sweep(tiny, concept, methods, strengths, out=tmp_path, progress=False, **keywords)
    with tiny.steer(vector):
        for begin in (
            lambda: steering_sweep(tiny, "fast", [method], [1.0], out=tmp_path, progress=False), lambda: calibrate(tiny, "fast", [method]),
            lambda: caa(tiny, "fast"), lambda: audioscope.localize(tiny, ["fast"], pairs=1, out=tmp_path),
        ):  # fmt: skip
            with pytest.raises(ValueError, match="being steered"):
                begin()
    with pytest.raises(ValueError, match=r"needs an atlas of"):
        steering_sweep(
            stable_audio, next(iter(known_to_judge().values())), scorer=listener_scorer(any_audio=True), prompts=1, progress=False
        )
    for name, value in (("budget", -1.0), ("grid", [])):
        with pytest.raises(ValueError, match=f"{name} is"):
            calibrate(tiny, "fast", [method], **{"budget": 1.0, name: value}, progress=False)
    with pytest.raises(ValueError, match=r"strengths names \['other'\], but the methods are \['caa first'\]"):
        steering_sweep(tiny, "fast", [method], {"other": [1.0]}, out=tmp_path, progress=False)
    with pytest.raises(ValueError, match="another kind of model"):
        steering_sweep(stable_audio, "fast", [method], [1.0], scorer=listener_scorer(), progress=False)
    assert not list(tmp_path.glob("units/*")), "nothing may be generated before all input is checked"
