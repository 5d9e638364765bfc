"""What users hand over, read once and alike everywhere: scorers' answers, pairs, numbers, sites, edits, steps."""

import asyncio
import json
import threading

import numpy as np
import pandas as pd
import pytest
import torch

import audioscope
from audioscope import Ablate, Apply, PatchText, datasets, load_concepts, scoring
from audioscope.concepts import choose_one
from audioscope.errors import index_of, real, whole
from audioscope.scoring.scorers import completed, scores_of
from audioscope.steer import steering_auc, steering_sweep, vector_method

PAIRS = [("a fast song", "a slow song"), ("a fast jazz song", "a slow jazz song"), ("a fast metal song", "a slow metal song")]
PROMPT = "a jazz song"
AUDIO = torch.zeros(3, 1, 100)


def scorer(answer, concepts=("fast",), **more):
    """A scorer that returns `answer(audio, rate)`."""
    return type("Mine", (), {"concepts": concepts, "__call__": lambda self, audio, rate: answer(audio, rate), **more})()


# --- scorers

ONE = np.array([1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    "answer",
    [
        ONE, ONE[:, None], ONE.tolist(), torch.tensor(ONE), torch.tensor(ONE, requires_grad=True), torch.tensor(ONE).bfloat16()[:, None],
        {"fast": ONE}, {"fast": torch.tensor(ONE)}, [{"fast": one} for one in ONE], [torch.tensor(one) for one in ONE],
        pd.DataFrame({"other": ONE - 7, "fast": ONE}, index=[3, 2, 1]), pd.DataFrame({"fast": ONE}, index=list("abc")), pd.Series(ONE, index=[5, 6, 7]),
    ],
    ids=lambda answer: type(answer).__name__,
)  # fmt: skip
def test_a_scorer_may_answer_in_any_form_and_rows_are_clips_in_order(answer):
    found = scores_of(completed(scorer(lambda audio, rate: answer)), AUDIO, 16_000)
    assert found.index.tolist() == [0, 1, 2] and found.columns.tolist() == ["fast"] and found["fast"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "answer",
    [
        None,
        1.0,
        torch.tensor(1.0),
        [1.0, 2.0, 3.0],
        ["a", "b", "c"],
        np.ones((1, 3)),
        np.ones((3, 2)),
        np.ones((3, 1, 1)),
        {"slow": ONE},
    ],
)
def test_any_other_answer_is_refused_before_anything_is_generated(tiny, monkeypatch, answer):
    monkeypatch.setattr(tiny, "_run", lambda *rest: pytest.fail("generated"))
    mine = scorer(lambda audio, rate: answer)
    with pytest.raises(ValueError, match=r"scorer 'Mine' returned .*expected numbers \[clips, concepts\] = \[2, 1\]"):
        audioscope.localize(tiny, {"fast": PAIRS}, pairs=1, scorer=mine)
    with pytest.raises(ValueError, match="scorer .Mine. returned"):
        steering_sweep(
            tiny, "metal", scorer=scorer(lambda audio, rate: answer, ("metal",)), price=scoring.listener_scorer(), prompts=1
        )


@pytest.mark.parametrize("concepts", ["fast", {"fast", "slow"}, iter(["fast"]), [1], [], ["fast", "fast"], None])
def test_concepts_of_a_scorer_are_a_list_of_names(concepts):
    with pytest.raises((TypeError, ValueError), match="concepts of the scorer"):
        completed(scorer(lambda audio, rate: ONE, concepts))
    with pytest.raises(TypeError, match="scorer is"):
        completed(scoring.ListenerScorer)


def test_a_scorer_that_works_in_place_spoils_neither_sound_nor_other_scorers(tiny):
    def spoil(audio, rate):
        audio.mul_(0)
        return ONE[:1].repeat(len(audio))

    judge = scoring.listener_scorer("judge")
    given = {"pairs": 1, "sites": [1], "steps": 1, "progress": False}
    spoiled = audioscope.localize(tiny, {"fast": PAIRS}, scorer=scorer(spoil), also=judge, **given)
    plain = audioscope.localize(tiny, {"fast": PAIRS}, scorer=judge, also=(), **given)
    mine = spoiled.heard_by("judge").table.query("scored == 'fast'")["score"]
    assert np.allclose(mine, plain.table.query("scored == 'fast'")["score"])
    clip = audioscope.Clip.load(spoiled.folder / spoiled.table["clip"].iloc[0])
    assert clip.level > -30


def test_a_shifted_table_scores_each_strength_as_its_own(tiny):
    heard = scoring.listener_scorer("judge")
    shifted = scorer(
        lambda audio, rate: heard(audio, rate)[["fast", "slow"]].set_axis(range(5, 5 + len(audio))), ("fast", "slow")
    )
    vector = datasets.vector("fast")
    given = {
        "methods": [vector_method(vector, "all")],
        "strengths": [2.0],
        "prompts": 1,
        "seeds": 1,
        "steps": 2,
        "progress": False,
    }
    mine, right = (
        steering_sweep(tiny, "fast", scorer=each, price=scoring.listener_scorer(), **given) for each in (shifted, heard)
    )
    assert np.allclose(mine.table["score"], right.table["score"])


def test_a_changed_scorer_without_a_fingerprint_is_warned_of(tiny, tmp_path):
    given = {"pairs": 1, "sites": [1], "steps": 1, "also": (), "out": tmp_path, "progress": False}
    audioscope.localize(tiny, {"fast": PAIRS}, scorer=scorer(lambda audio, rate: audio.mean((1, 2))), **given)
    with pytest.warns(UserWarning, match="has no fingerprint"):
        audioscope.localize(tiny, {"fast": PAIRS}, scorer=scorer(lambda audio, rate: audio.amax((1, 2))), **given)


def test_a_concept_like_a_scorer_is_checked_before_anything_is_generated(tiny, monkeypatch):
    monkeypatch.setattr(tiny, "_run", lambda *rest: pytest.fail("generated"))
    with pytest.raises(ValueError, match="cannot score 'mine'"):
        scoring.pairs_like(tiny, scorer(lambda audio, rate: audio.mean((1, 2))), "mine")


# --- concepts


def test_pairs_in_every_form_are_the_same_pairs(tmp_path):
    records = [{"clean": clean, "corrupted": corrupted} for clean, corrupted in PAIRS]
    named = [{"concept": "fast", **record} for record in records]
    table = pd.DataFrame(named, index=[7, 8, 9])
    table.to_csv(tmp_path / "pairs.CSV", index=False)
    (tmp_path / "named.json").write_text(json.dumps(named))
    (tmp_path / "lists.json").write_text(json.dumps({"fast": PAIRS}))
    forms = [
        {"fast": PAIRS},
        {"fast": records},
        {"fast": np.array(PAIRS)},
        named,
        table,
        tmp_path / "named.json",
        tmp_path / "lists.json",
        tmp_path / "pairs.CSV",
    ]
    loaded = [load_concepts(form)["fast"] for form in forms]
    assert all(concept == loaded[0] for concept in loaded) and len(loaded[0].pairs) == 3 and loaded[0].pairs[0].split == ""
    for form in [*forms, str(tmp_path / "named.json"), load_concepts(table), loaded[0], [loaded[0]]]:
        assert choose_one(form) == loaded[0]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ([{"a fast song", "a slow song"}], "A pair is"), ({"fast": ["ab", "cd"]}, "A pair is 'ab'"), ({"fast": "ab"}, "The pairs of .fast. is .ab., expected"), ({"a": PAIRS, "b": []}, "'b' has no pairs"),
        ([{"clean": "a"}], "lack the columns"), (pd.DataFrame({"concept": [1, "1"], "clean": ["a", "b"], "corrupted": ["c", "d"]}), "same name"),
        (pd.DataFrame({"concept": ["f", "f"], "clean": ["a", "b"], "corrupted": ["c", "d"], "group": ["x", "y"]}), "disagree on its group"),
        (pd.DataFrame({"concept": ["f"], "clean": ["a"], "corrupted": ["c"], "neutral": [3]}), "neutral prompt 3"),
    ],
)  # fmt: skip
def test_anything_else_is_no_concept(wrong, said):
    with pytest.raises(ValueError, match=said):
        load_concepts(wrong)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", b""), ("a.csv", "concept,clean\nx,é".encode("utf-16")), ("a.json", b"{"), ("a.txt", b"concept")],
)
def test_an_unreadable_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} (cannot be read|is no file of concepts)"):
        load_concepts(tmp_path / name)


def test_an_empty_split_and_a_concept_named_none_are_read_as_they_stand(tmp_path):
    (tmp_path / "a.csv").write_text("concept,clean,corrupted,split,group\nNone,a,b,,\nNone,c,d,build,g\n")
    concept = load_concepts(tmp_path / "a.csv")["None"]
    assert [pair.split for pair in concept.pairs] == ["", "build"] and concept.group == "g"


def test_one_concept_where_one_is_meant(tiny):
    for several in (["fast", "happy"], {"fast": PAIRS, "happy": PAIRS}, None):
        with pytest.raises(ValueError, match="expected one"):
            audioscope.caa(tiny, several)
        with pytest.raises(ValueError, match="expected one"):
            steering_sweep(tiny, several)
    with pytest.raises(ValueError, match="each once"):
        audioscope.localize(tiny, ["fast", "fast"])


def test_the_contrast_of_your_own_pairs(tiny, tmp_path):
    """The second prompts, unless each pair has a neutral one; from a table as from tuples."""
    pd.DataFrame([("fast", *pair) for pair in PAIRS], columns=["concept", "clean", "corrupted"]).to_csv(
        tmp_path / "a.csv", index=False
    )
    given = {"sites": [2], "steps": 1, "progress": False}
    from_file, from_tuples = audioscope.caa(tiny, tmp_path / "a.csv", **given), audioscope.caa(tiny, {"fast": PAIRS}, **given)
    assert from_file.metadata == from_tuples.metadata and from_file.metadata["against"] == "the second prompts"
    some = [(*PAIRS[0], "a song"), *PAIRS[1:]]
    assert audioscope.caa(tiny, some, **given).metadata["against"] == "the second prompts"
    whole_triples = [(*pair, "a song") for pair in PAIRS]
    assert audioscope.caa(tiny, whole_triples, **given).metadata["against"] == "neutral wording"
    assert audioscope.caa(tiny, whole_triples, against="opposite", **given).metadata["against"] == "the second prompts"
    with pytest.raises(ValueError, match="has 0 pairs in split 'test'"):
        audioscope.caa(
            tiny,
            load_concepts(
                pd.DataFrame([("fast", *pair, "build") for pair in PAIRS], columns=["concept", "clean", "corrupted", "split"])
            ),
            split="test",
        )


# --- numbers


@pytest.mark.parametrize("value", [3, np.int64(3), np.array(3), torch.tensor(3), np.uint8(3)])
def test_whole_numbers_of_any_library(value):
    assert whole("x", value, 1, 3) == 3 and type(whole("x", value)) is int


@pytest.mark.parametrize("value", [True, np.bool_(True), torch.tensor(True), 2.7, 3.0, "3", None, [3], -1, 4, float("nan")])
def test_nothing_else_is_a_whole_number(value):
    with pytest.raises(ValueError, match=r"x is .*expected a whole number from 0 to 3"):
        whole("x", value, 0, 3)


def test_numbers_are_finite(tiny):
    assert real("x", np.float32(0.5)) == 0.5 and real("x", torch.tensor(2)) == 2.0 and index_of("a") is None
    for value in (True, "3", None, float("nan"), np.inf):
        with pytest.raises(ValueError, match="x is"):
            real("x", value)
    assert tiny.sampling(seconds=np.float32(4.096)).seconds == 4.096


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"steps": 2.7}, "steps is 2.7"), ({"steps": "2"}, "steps is '2'"), ({"steps": True}, "steps is True"), ({"guidance": "3"}, "guidance is '3'"),
        ({"seconds": None, "negative_prompt": 3}, "negative_prompt is 3"), ({"negative_prompt": ["x"]}, "negative_prompt is"), ({"seed": None}, "seed is None"),
        ({"seed": 1.5}, "seed is 1.5"), ({"seed": "12"}, "seed is '12'"), ({"seed": [0, -1]}, "seed is -1"), ({"prompt": None}, "prompt is None"),
        ({"prompt": [["a"]]}, r"prompt is \['a'\]"), ({"prompt": [3]}, "prompt is 3"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_before_anything_is_generated(tiny, monkeypatch, given, said):
    monkeypatch.setattr(tiny, "_run", lambda *rest: pytest.fail("generated"))
    with pytest.raises(ValueError, match=said):
        tiny.generate(**{"prompt": PROMPT, **given})
    activations = {
        ("seeds" if name == "seed" else "prompts" if name == "prompt" else name): value for name, value in given.items()
    }
    with pytest.raises(ValueError, match=said):
        list(tiny.activations(**{"prompts": [PROMPT], "sites": 2, **activations}))


@pytest.mark.parametrize(
    "given",
    [
        {"pairs": 2.5},
        {"pairs": "2"},
        {"seeds": 1.5},
        {"seeds": 0},
        {"batch_size": -1},
        {"batch_size": 0},
        {"when": 99},
        {"until_stable": 1.5},
    ],
)
def test_counts_of_a_sweep_are_whole_numbers(tiny, given):
    with pytest.raises(ValueError, match=f"{next(iter(given))} is .*expected a whole number"):
        audioscope.localize(tiny, ["fast"], **{"pairs": 3, **given})


def test_a_negative_prompt_without_guidance_is_warned_of(tiny):
    with pytest.warns(UserWarning, match="negative_prompt does nothing"):
        tiny.sampling(guidance=1.0, negative_prompt="a slow song")


def test_numpy_steps_and_batches_of_activations(tiny):
    with pytest.raises(ValueError, match="batch_size is -1"):
        tiny.activations([PROMPT], 2, batch_size=-1)
    with pytest.raises(ValueError, match="batch_size is 0"):
        steering_sweep(tiny, "fast", batch_size=0)
    assert (
        audioscope.localize(tiny, {"fast": PAIRS}, pairs=1, sites=[1], steps=3, when=np.int64(1), progress=False).settings["when"]
        is not None
    )


# --- sites, edits, steps


@pytest.mark.parametrize("sites", [True, 2.0, slice(2), np.array(2.5), b"cross", {"a": 1}])
def test_what_is_no_site_is_named(tiny, sites):
    with pytest.raises((TypeError, KeyError), match=r"sites is|No site|No cross"):
        tiny.sites.select(sites)


def test_sites_of_any_library(tiny):
    two = (tiny.sites.cross[1], tiny.sites.cross[2])
    for which in ([1, 2], (np.int64(1), 2), np.array([2, 1]), torch.tensor([1, 2]), range(1, 3), {1, 2}):
        assert tiny.sites.select(which) == two
    with pytest.raises(KeyError, match="No cross-attention layer 3 here: it has none"):
        tiny.activations(PROMPT, "self", steps=1)[3]


def test_edits_are_edits(tiny):
    vector = datasets.vector("fast")
    for wrong, hint in (
        (vector, r"vector\.edit"),
        ([vector], r"vector\.edit"),
        (lambda output, here: output, r"Apply\(sites"),
        (None, "PatchText"),
        ("abc", "PatchText"),
    ):
        with pytest.raises(TypeError, match=f"expected edits such as {hint}"):
            tiny.generate(PROMPT, edits=wrong)
    with pytest.raises(TypeError, match="fn is 3"):
        Apply(2, 3)
    with pytest.raises(TypeError, match="expected a SteeringVector"), tiny.steer(Apply(2, lambda output, here: output)):
        pass
    with pytest.raises(ValueError, match="prompt is ''"):
        tiny.activations([PROMPT], edits=PatchText(2, ""))
    with pytest.raises(ValueError, match=r"prompt is ''"):
        tiny.generate_with_activations(PROMPT, edits=PatchText(2, ""))


def test_windows_of_steps():
    assert Ablate(2, steps=range(2, 4)).steps == (2, 4) and Ablate(2, steps=[np.int64(0), 3]).steps == (0, 3)
    for wrong in ((0.5, 0.7), (3, 1), 2, range(0, 9, 2), (1, 2, 3), "ab"):
        with pytest.raises(ValueError, match="steps is"):
            Ablate(2, steps=wrong)


def test_steps_that_are_read_are_in_running_order(tiny):
    right = tiny.activations(PROMPT, 2, at_steps=[0, 2], steps=3)
    for asked in ([2, 0], [2, 0, 2], np.array([2, 0]), {0, 2}):
        found = tiny.activations(PROMPT, 2, at_steps=asked, steps=3)
        assert torch.equal(found.sigmas, right.sigmas) and torch.equal(found[2], right[2])
    assert len(tiny.activations(PROMPT, 2, at_steps=1, steps=3).sigmas) == 1
    for wrong in ([], [0.5], [True], 3):
        with pytest.raises(ValueError, match="at_steps"):
            tiny.activations(PROMPT, 2, at_steps=wrong, steps=3)


def test_a_function_of_apply_may_keep_what_it_got(tiny):
    kept = []

    def record(output, here):
        kept.append(output)
        return output * 0

    tiny.generate(PROMPT, steps=2, edits=Apply(2, record, branch="cond"))
    assert len(kept) == 2 and all(output.abs().max() > 0 for output in kept)
    for wrong in (torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.complex64)):
        with pytest.raises(Exception, match="expected a float tensor"):
            tiny.generate(PROMPT, steps=1, edits=Apply(2, lambda output, here, wrong=wrong: wrong.expand_as(output)))


def test_nothing_is_generated_during_a_generation(tiny):
    plain = tiny.generate(PROMPT, steps=2)
    with pytest.raises(Exception, match="cannot start another"):
        tiny.generate(PROMPT, steps=2, edits=Apply(2, lambda output, here: tiny.activations(PROMPT, 2, steps=1)[2]))
    assert np.array_equal(tiny.generate(PROMPT, steps=2).samples, plain.samples)


# --- steering


def test_activations_are_steered_as_when_they_were_asked_for(tiny):
    vector = datasets.vector("fast")
    (plain,) = tiny.activations([PROMPT], 2, steps=2)
    with tiny.steer(vector, 3.0):
        later = tiny.activations([PROMPT], 2, steps=2)
        (steered,) = tiny.activations([PROMPT], 2, steps=2)
        outside = tiny.activations([PROMPT], 2, steps=2)
    assert torch.equal(next(later)[2], steered[2]) and not torch.equal(steered[2], plain[2])
    del outside
    before = tiny.activations([PROMPT], 2, steps=2)
    with tiny.steer(vector, 3.0):
        assert torch.equal(next(before)[2], plain[2])
    first, second = tiny.activations([PROMPT, "a slow song"], 2, steps=2)
    first.sigmas.mul_(0)
    assert second.sigmas.min() > 0


def test_steering_stays_in_its_task_and_thread(tiny):
    vector = datasets.vector("fast")

    async def steered(wait, then):
        with tiny.steer(vector, 3.0):
            then.set()
            await wait.wait()
            return len(tiny.steering)

    async def both():
        first, second = asyncio.Event(), asyncio.Event()
        return await asyncio.gather(steered(second, first), steered(first, second))

    assert asyncio.run(both()) == [1, 1] and tiny.steering == ()
    seen = []
    with tiny.steer(vector, 3.0):
        thread = threading.Thread(target=lambda: seen.append(tiny.steering))
        thread.start()
        thread.join()
    assert seen == [()]


def test_vectors_with_dots_in_their_names_are_files_of_their_own(tmp_path):
    vector = datasets.vector("fast")
    one, two = (
        (vector * np.float32(1)).save(tmp_path / "fast.1"),
        (vector * torch.tensor(2.0)).save(tmp_path / "fast.2.safetensors"),
    )
    assert one.name == "fast.1.safetensors" and two.name == "fast.2.safetensors"
    path = vector.paths[0]
    for name in ("fast.2", "fast.2.json", two):
        assert torch.equal(audioscope.SteeringVector.load(tmp_path / str(name)).directions[path], vector.directions[path] * 2)


def test_a_cell_without_scores_has_no_area_and_is_not_left_out():
    rows = [
        ("fast", cell, strength, float(strength), score)
        for cell, score in (("pci all", 1.0), ("dead", np.nan))
        for strength in (0, 1)
    ]
    table = pd.DataFrame(rows, columns=["concept", "cell", "strength", "distance", "score"])
    areas = steering_auc(table, "pci all").set_index("cell")["auc"]
    assert areas.index.tolist() == ["pci all", "dead"] and np.isnan(areas["dead"])
    assert steering_auc(table.iloc[:0]).columns.tolist()[:3] == ["concept", "cell", "auc"]


def test_a_long_name_fits_a_file_system(tiny, tmp_path):
    name = "ü" * 300
    mine = scorer(lambda audio, rate: audio.mean((1, 2)), (name,))
    atlas = audioscope.localize(tiny, {name: PAIRS}, pairs=1, sites=[1], steps=1, scorer=mine, out=tmp_path, progress=False)
    assert len(list(tmp_path.rglob("*.flac"))) == 3 and atlas.concepts == [name]
