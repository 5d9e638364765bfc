"""More pairs of a shipped concept, to make vectors from: what is tested stays unseen."""

import pytest

from audioscope import datasets


def prompts(pairs):
    return {text for pair in pairs for text in (pair.clean, pair.corrupted)}


@pytest.mark.parametrize("name", ["fast", "violin"])
def test_more_pairs_are_new_and_none_of_them_is_tested(name):
    shipped, every = datasets.concepts()[name], datasets.concepts().values()
    many, fewer = datasets.more_pairs(name, 800), datasets.more_pairs(name, 120)
    build = many.split("build")
    assert len(build) == 800 and build[:50] == shipped.split("build") and build[:120] == fewer.split("build")
    assert all(many.split(part) == shipped.split(part) for part in ("localize", "select", "test"))
    new = build[50:]
    assert len({(pair.clean, pair.corrupted) for pair in build}) == 800
    assert not prompts(new) & {text for concept in every for text in prompts(concept.pairs)}
    assert not {pair.neutral for pair in new} & {pair.neutral for part in ("select", "test") for pair in shipped.split(part)}
    assert len({pair.index for pair in many.pairs}) == len(many.pairs)


def test_what_the_grammar_cannot_give_is_said(monkeypatch):
    with pytest.raises(ValueError, match="count is 49"):
        datasets.more_pairs("fast", 49)
    with pytest.raises(ValueError, match="from 50 to 5,?000"):
        datasets.more_pairs("fast", 10**6)
    monkeypatch.setattr("audioscope.concepts.PATIENCE", 0)
    with pytest.raises(ValueError, match="the grammar gives about"):
        datasets.more_pairs("fast", 800)
    with pytest.raises(KeyError, match="Nearest"):
        datasets.more_pairs("fst", 60)
    with pytest.raises(ValueError, match="expected the name of a shipped concept"):
        datasets.more_pairs([("a fast song", "a slow song")], 60)


def test_what_a_caller_does_to_the_concepts_changes_nobody_elses():
    datasets.concepts().pop("slow")
    assert len(datasets.concepts()) == 21
    assert datasets.concept_prompts((name for name in ["fast"]), "select") == datasets.concept_prompts(["fast"], "select")
    with pytest.raises(ValueError, match="count is 1000000"):
        datasets.some_prompts(10**6)
