"""What others do in one line works in one line: own edits, activations, concepts from tuples, own scorers."""

import copy
import inspect
from typing import get_type_hints

import numpy as np
import pandas as pd
import pytest
import torch

import audioscope
from audioscope import AddVector, Apply, PatchText, datasets, load_concepts
from audioscope.scoring import Scorer
from audioscope.scoring.scorers import completed
from audioscope.store import batches, check_same
from audioscope.tracing import Sampling, SamplingKeywords

TUPLES = [("a fast song", "a slow song"), ("a fast jazz song", "a slow jazz song"), ("a fast reggae song", "a slow reggae song")]


def test_any_function_is_an_edit(tiny):
    """`Apply` does what an edit of the package does, is bound to its steps and branch, and says what it expects of the function."""
    vector = datasets.vector("fast").only([tiny.sites[2].path], memory=False)
    seen = []

    def steered(output, here):
        seen.append((here.site.layer, here.sigma))
        return torch.cat([output[: here.leading], output[here.leading :] + 2 * vector.at(here.site.path, here.sigma)])

    keywords = {"seed": 1, "steps": 3}
    mine = tiny.generate("a jazz song", edits=Apply(2, steered, branch="cond"), **keywords)
    theirs = tiny.generate("a jazz song", edits=AddVector(vector, 2.0), **keywords)
    np.testing.assert_allclose(mine.samples, theirs.samples, atol=1e-4)
    assert len(seen) == 3 and {layer for layer, _ in seen} == {2}
    seen.clear()
    tiny.generate("a jazz song", edits=Apply(2, steered, steps=(1, 2)), **keywords)
    assert len(seen) == 2, "both branches, in one step"
    plain = tiny.generate("a jazz song", **keywords)
    same = tiny.generate("a jazz song", edits=Apply("cross", lambda output, here: output), **keywords)
    assert np.array_equal(plain.samples, same.samples)
    for wrong in (lambda output, here: output[:1], lambda output, here: None):
        with pytest.raises(Exception, match=r"function of Apply returned .*transformer_blocks.2.cross_attn"):
            tiny.generate("a jazz song", edits=Apply(2, wrong), **keywords)


def test_activations_of_one_string_by_layer_number(tiny):
    whole = tiny.activations("a jazz song", "cross", seeds=3, steps=2)
    (listed,) = tiny.activations(["a jazz song"], "cross", seeds=(3,), steps=2)
    path = tiny.sites[6].path
    assert tiny.sites[6].layer == 6 and tiny.sites[6].kind == "cross"
    assert (
        torch.equal(whole[6], whole.values[path])
        and torch.equal(whole[6], listed[path])
        and whole[tiny.sites[6]].shape == (2, 128)
    )
    clip, again = tiny.generate_with_activations("a jazz song", 6, seed=3, steps=2)
    torch.testing.assert_close(again[6], whole[6], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(clip.samples, tiny.generate("a jazz song", seed=3, steps=2).samples, atol=1e-4)
    frame = whole.to_frame()
    assert len(frame) == 12 * 2 and frame.query("layer == 6")["norm"].tolist() == pytest.approx(whole.norms[path].tolist())
    with pytest.raises(KeyError, match="layers 0 to 11"):
        tiny.activations("a jazz song", 12, steps=1)
    with pytest.raises(KeyError):
        again[5]
    with pytest.raises(ValueError, match="expected one seed for one prompt"):
        tiny.activations("a jazz song", seeds=(0, 1))
    assert tiny.sites.select([6, np.int64(2)]) == (tiny.sites[2], tiny.sites[6])
    assert tiny.generate("a jazz song", edits=PatchText(6, "a slow song"), steps=1).rate == tiny.rate == 16_000


def test_a_vector_from_plain_tuples(tiny):
    """All pairs, the second prompt as the contrast, no atlas: as from a table that says the same."""
    vector = audioscope.caa(tiny, TUPLES, sites=[2], steps=2, progress=False)
    rows = [{"concept": "concept", "clean": a, "corrupted": b, "split": "build", "opposite": "other"} for a, b in TUPLES]
    table = load_concepts(pd.DataFrame(rows))["concept"]
    same = audioscope.caa(tiny, table, sites=[2], steps=2, against="opposite", progress=False)
    assert torch.equal(vector.directions[tiny.sites[2].path], same.directions[tiny.sites[2].path])
    from_json = audioscope.caa(tiny, [list(pair) for pair in TUPLES], sites=[2], steps=2, progress=False)
    assert torch.equal(from_json.directions[tiny.sites[2].path], vector.directions[tiny.sites[2].path])
    assert vector.metadata["pairs"] == 3 and len(audioscope.caa(tiny, TUPLES, steps=1, progress=False).paths) == 12
    concept = load_concepts({"fast": [*TUPLES, ("fast music", "slow music", "music")]})["fast"]
    assert len(concept.split("localize")) == len(concept.split("test")) == 4 and concept.pairs[3].neutral == "music"
    assert [pair.neutral for pair in concept.neutral_pairs("test")] == ["music"]
    for wrong in ([("only one",)], [("a", "b", "c", "d")]):
        with pytest.raises(ValueError, match="expected \\(clean, corrupted\\)"):
            load_concepts(wrong)


def test_an_atlas_from_plain_tuples_with_a_scorer_of_two_lines(tiny):
    class Loudness:
        concepts = ("fast",)

        def __call__(self, audio, rate):
            return audio.square().mean((1, 2))[:, None].numpy()

    atlas = audioscope.localize(
        tiny, {"fast": TUPLES[:2]}, pairs=2, sites=[1, 2], steps=1, scorer=Loudness(), clips=False, progress=False
    )
    assert atlas.scorers == ["Loudness"] and atlas.settings["units"] == "score" and len(atlas.impacts()) == 2
    whole = tiny.run([audioscope.Row(TUPLES[0][0], atlas.table["seed"].iloc[0])], steps=1).audio
    first = atlas.table.query("row == 'clean' and pair == 0")["score"].item()
    assert first == pytest.approx(float(whole.square().mean()), rel=1e-3)
    half = type("Half", (), {"concepts": ("fast",), "units": "dB", "__call__": Loudness.__call__})()
    assert completed(half).units == "dB" and completed(half).fingerprint == "unknown, Half" and completed(half).queries == {}
    assert copy.copy(completed(half)).name == "Half" and not hasattr(completed(half), "layers")
    with pytest.raises(TypeError, match="expected an object with `concepts`"):
        audioscope.localize(tiny, {"fast": TUPLES[:2]}, pairs=1, scorer=lambda audio, rate: audio)
    assert inspect.isclass(Scorer)


def test_sampling_is_asked_for_alike_everywhere(tiny):
    """One set of keywords, one set of defaults, one place where they are checked."""
    assert (
        set(get_type_hints(SamplingKeywords))
        == set(Sampling(1, 1.0, 1.0).keys())
        == {"steps", "guidance", "seconds", "negative_prompt"}
    )
    assert dict(tiny.sampling(steps=np.int64(3))) == {"steps": 3, "guidance": 3.0, "seconds": 4.096, "negative_prompt": None}
    plain, against = (tiny.generate("a jazz song", steps=2, negative_prompt=text) for text in (None, "a fast song"))
    assert np.abs(plain.samples - against.samples).max() > 1e-3
    for call in (
        tiny.generate,
        tiny.play,
        lambda prompt, **how: audioscope.caa(tiny, TUPLES, **how),
        lambda prompt, **how: audioscope.localize(tiny, ["fast"], pairs=1, **how),
    ):
        with pytest.raises(TypeError, match="stpes"):
            call("a jazz song", stpes=3)
        with pytest.raises(ValueError, match="steps is 0"):
            call("a jazz song", steps=0)


def test_parts_of_a_list_and_settings_that_must_agree(capsys):
    assert [list(part) for part in batches(range(5), 2)] == [[0, 1], [2, 3], [4]] and not capsys.readouterr().err
    list(batches([1, 2], 2, "reading", progress=True))
    assert "reading" in capsys.readouterr().err
    check_same("x", {"a": [1, 2]}, {"a": (1, 2), "b": None}, "no")
    check_same("x", {"a": 1}, {"a": np.int64(1)}, "no")
    with pytest.raises(
        ValueError, match=r"^The folder holds work with other settings \(a, b; a: 1 there, 2 now\): take another\.$"
    ):
        check_same("The folder holds work", {"a": 1, "b": 3}, {"a": 2}, "take another")
