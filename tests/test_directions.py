"""Directions of probes and of signs: what they are made of, by independent computation, and that they are vectors like any other."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import audioscope
from audioscope import datasets
from audioscope.steer import probe_vector, sign_vector

HOW = {"steps": 2, "progress": False}
PAIRS = 4


@pytest.fixture(scope="module")
def outputs(tiny):
    """Of each prompt of four pairs, with and without in turn: the outputs of layer 1 [prompts, steps, moments, width]."""
    concept = datasets.concepts()["fast"]
    found = [
        next(tiny.activations([text], 1, seeds=[concept.seed(pair, 0)], pool=False, steps=2))[1]
        for pair in concept.split("build")[:PAIRS] for text in (pair.clean, pair.corrupted)
    ]  # fmt: skip
    return torch.stack(found)


def test_a_probe_is_a_logistic_regression(tiny, outputs):
    vector = probe_vector(tiny, "fast", 1, PAIRS, penalty=0.5, **HOW)
    direction, memory = vector.directions.values()
    assert memory.shape == (2, 4 * 128) and list(probe_vector(tiny, "fast", 1, 2, memory=False, **HOW).directions) == [
        *vector.paths
    ]
    for step in range(2):
        scaler = StandardScaler().fit(means := outputs.mean(2)[:, step].double().numpy())
        probe = LogisticRegression(C=2.0, max_iter=1000).fit(scaler.transform(means), [1, -1] * PAIRS)
        expected = probe.coef_[0] / scaler.scale_
        cosine = expected @ direction[step].double().numpy() / np.linalg.norm(expected)
        assert cosine == pytest.approx(1, abs=1e-4) and float(direction[step].norm()) == pytest.approx(1, abs=1e-5)


def test_signs_are_counted_over_pairs_and_moments(tiny, outputs):
    vector = sign_vector(tiny, "fast", 1, PAIRS, dimensions=10, **HOW)
    (direction,) = vector.directions.values()
    change = outputs[::2] - outputs[1::2]
    more, less = (change > 0).float().mean((0, 2)), (change < 0).float().mean((0, 2))
    for step in range(2):
        larger = torch.maximum(more, less)[step]
        kept = direction[step] != 0
        assert int(kept.sum()) == 10 and larger[kept].min() >= larger[~kept].max() - 0.01  # rounding may move a moment
        assert torch.equal(direction[step].sign()[kept], (more - less)[step].sign()[kept])
        torch.testing.assert_close(direction[step].abs()[kept], larger[kept] / larger[kept].norm(), rtol=0.02, atol=0.0)


@pytest.mark.parametrize("made", [probe_vector, sign_vector])
def test_batches_do_not_matter_and_the_halves_say_how_reliable_it_is(tiny, made):
    how = HOW | ({"dimensions": 40} if made is sign_vector else {})
    one = made(tiny, "fast", [1, 2], PAIRS, **how)
    other = made(tiny, "fast", [1, 2], PAIRS, batch_size=3, **how)
    for path, values in one.directions.items():
        assert torch.nn.functional.cosine_similarity(other.directions[path], values, dim=1).min() > 0.9
    assert set(one.metadata["halves"]) == set(one.directions) and all(-1 <= each <= 1 for each in one.metadata["halves"].values())
    assert one.metadata["method"] in ("probe", "sign") and "normalize" not in one.metadata


def test_they_steer_like_any_vector(tiny, tmp_path):
    """Strength 0 changes no bit, a file keeps them, and a strong one changes the music."""
    prompt = "a jazz song with drums"
    plain = tiny.generate(prompt, seed=0, steps=2)
    for made in (probe_vector, sign_vector):
        vector = made(tiny, "fast", [1, 2], PAIRS, **HOW)
        again = audioscope.SteeringVector.load(vector.save(tmp_path / made.__name__))
        assert all(torch.equal(again.directions[path], vector.directions[path]) for path in vector.paths)
        with tiny.steer(again, 0.0):
            assert np.array_equal(tiny.generate(prompt, seed=0, steps=2).samples, plain.samples)
        with tiny.steer(again, 1.0):
            assert not np.array_equal(tiny.generate(prompt, seed=0, steps=2).samples, plain.samples)
        assert np.array_equal(tiny.generate(prompt, seed=0, steps=2).samples, plain.samples)


@pytest.mark.parametrize("make, changed", [(probe_vector, {"penalty": 2.0}), (sign_vector, {"dimensions": 16})])
def test_a_stored_direction_is_read_again_if_it_is_the_one_asked_for(tiny, tmp_path, monkeypatch, make, changed):
    made = make(tiny, "fast", [1, 2], PAIRS, file=tmp_path / "vector", **HOW)
    with pytest.raises(ValueError, match="holds a vector"):
        make(tiny, "fast", [1, 2], PAIRS, file=tmp_path / "vector", **changed, **HOW)
    monkeypatch.setattr("audioscope.steer.directions.collect", lambda *_, **__: pytest.fail("it was made again"))
    again = make(tiny, "fast", [1, 2], PAIRS, file=tmp_path / "vector", **HOW)
    assert all(torch.equal(made.directions[path], again.directions[path]) for path in made.directions)


def test_bad_input_to_directions(tiny):
    for made, wrong, said in (
        (probe_vector, {"penalty": 0}, "penalty is 0, expected a positive number"), (probe_vector, {"penalty": float("inf")}, "penalty is inf"), (sign_vector, {"dimensions": 129}, "from 1 to 128"),
        (sign_vector, {"dimensions": 0}, "from 1 to 128"), (probe_vector, {"pairs": 1}, "pairs is 1"), (sign_vector, {"split": "none"}, "split"),
        (probe_vector, {"branch": "both"}, "a vector belongs to one branch"),
    ):  # fmt: skip
        with pytest.raises((ValueError, KeyError), match=said):
            made(tiny, **{"concept": "fast", "sites": 1, **HOW, **wrong})


def test_reliability_is_shown_and_unknown_where_it_was_not_measured(tiny):
    vector = sign_vector(tiny, "fast", [1, 2], PAIRS, **HOW)
    halves = vector.metadata["halves"].values()
    assert vector.reliability == pytest.approx(sum(halves) / 2) and f"reliability {vector.reliability:.2f}" in repr(vector)
    assert (vector + vector).reliability is None and "reliability not measured" in repr(vector + vector)
