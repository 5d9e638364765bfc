"""Concepts and their counterfactual pairs: two prompts that differ in one musical idea.

The shipped concepts are made from `data/concepts.yaml`; your own come from a CSV file, a DataFrame or tuples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias
from zlib import crc32

import numpy as np
import pandas as pd
import yaml

from audioscope.errors import UnknownName
from audioscope.store import data_folder, seed_of

SPLITS = ("localize", "build", "select", "test")
Pairs: TypeAlias = Iterable[tuple[str, ...]]  # (clean, corrupted) or (clean, corrupted, neutral)


@dataclass(frozen=True)
class Pair:
    """A clean prompt, which has the concept, and a corrupted prompt, which has the counterfactual in its place.

    neutral: the same sentence without either, if there is one. split: what the pair is for, see `Concept.split`; "" is anything.
    """

    index: int
    split: str
    clean: str
    corrupted: str
    neutral: str = ""


@dataclass(frozen=True)
class Concept:
    """A concept: its name, its group, the groups that its pairs change, and the pairs.

    opposite: the other end of its axis (slow for fast), if it has one.
    """

    name: str
    pairs: tuple[Pair, ...]
    group: str = ""
    counterfactual: str = ""
    changes: frozenset[str] = frozenset()
    opposite: str = ""

    def split(self, name: str) -> tuple[Pair, ...]:
        """The pairs of one split: "localize" to find layers, "build" to make vectors, "select" to tune, "test" to report.

        The splits are disjoint. Pairs without a split, such as those from tuples, are in every split. Raises ValueError for
        another name.
        """
        if name not in SPLITS:
            raise ValueError(f"split is {name!r}, expected one of {', '.join(SPLITS)}.")
        return tuple(pair for pair in self.pairs if pair.split in (name, ""))

    def seed(self, pair: Pair, number: int = 0) -> int:
        """The seed of the noise that both prompts of a pair start from, in every sweep and vector.

        number: which of several seeds of the pair.
        """
        return seed_of(self.name, pair.index, number)

    def neutral_pairs(self, split: str) -> tuple[Pair, ...]:
        """The pairs of a split whose neutral prompts are distinct and occur in no other split of this concept.

        They may occur in another split of another concept. If something was trained on the prompts of all concepts, as an SAE
        is, leave its prompts out with `without` of `audioscope.steer.sweeps.steering_sweep`.
        """
        elsewhere = {pair.neutral for pair in self.pairs if pair.split not in (split, "")}
        first = {pair.neutral: pair for pair in reversed(self.split(split)) if pair.neutral and pair.neutral not in elsewhere}
        return tuple(sorted(first.values(), key=lambda pair: pair.index))

    def __repr__(self) -> str:
        versus = f" against {self.counterfactual}" if self.counterfactual else ""
        return f"Concept({self.name!r}{versus}, {len(self.pairs)} pairs)"


Concepts: TypeAlias = Iterable[str | Concept] | Concept | str | Path | pd.DataFrame | Mapping[str, Pairs] | Pairs | None


@lru_cache(maxsize=1)
def _plan() -> dict:
    """The contents of data/concepts.yaml, read once."""
    return yaml.safe_load((data_folder() / "concepts.yaml").read_text())


def shipped_groups() -> dict[str, str]:
    """The group of every label of the paper and of the tiny model's music: "violin" is a lead, "techno" a genre."""
    return {name: group for group, classes in _plan()["groups"].items() for name in classes}


@lru_cache(maxsize=1)
def shipped_concepts() -> dict[str, Concept]:
    """The paper's 21 concepts, each with pairs in four splits; no clean or corrupted prompt occurs in two splits, of any concept.

    A neutral prompt may occur in another split of another concept: see `Concept.neutral_pairs` for what is kept apart.
    """
    plan = _plan()
    group_of = shipped_groups()
    owner: dict[str, str] = {}  # prompt -> split
    concepts = {}
    for name, other in plan["counterfactuals"].items():
        changes = frozenset({group_of[name], group_of[other]})
        sentences = _sentences(name, other, plan, changes)
        opposite = next((end for axis in plan["opposed"] if name in axis for end in axis if end != name), "")
        pairs: dict[tuple[str, str], Pair] = {}
        for split, count in plan["splits"].items():
            last = len(pairs) + count
            while len(pairs) < last:
                clean, corrupted, neutral = next(sentences)
                if (clean, corrupted) in pairs or any(owner.get(text, split) != split for text in (clean, corrupted)):
                    continue
                owner[clean] = owner[corrupted] = split
                pairs[clean, corrupted] = Pair(len(pairs), split, clean, corrupted, neutral)
        concepts[name] = Concept(name, tuple(pairs.values()), group_of[name], other, changes, opposite)
    return concepts


def _sentences(name: str, other: str, plan: dict, changes: frozenset[str]) -> Iterator[tuple[str, str, str]]:
    """Yield random sentences without end: each with the concept, its counterfactual, and neither in the same position."""
    rng = np.random.default_rng(crc32(name.encode()))
    groups = plan["groups"]
    words = {cls: phrases for classes in groups.values() for cls, phrases in classes.items()}
    context = [group for group in groups if group not in changes]
    while True:
        chosen = [str(rng.choice(list(groups[group]))) for group in context if rng.random() < 0.5]
        position = int(rng.integers(len(chosen) + 1))
        sentence = str(rng.choice(plan["sentences"]))
        variant = int(rng.integers(12))
        texts = []
        for concept in ([name], [other], []):
            labels = [*chosen[:position], *concept, *chosen[position:]]
            adjectives = [w["adjectives"][variant % len(w["adjectives"])] for c in labels if "adjectives" in (w := words[c])]
            items = [w["items"][variant % len(w["items"])] for c in labels if "items" in (w := words[c])]
            texts.append(_say(sentence, adjectives, items))
        yield texts[0], texts[1], texts[2]


def _say(sentence: str, adjectives: list[str], items: list[str]) -> str:
    """Fill in a sentence; without items, drop its tail ("with ...") too."""
    listed = ", ".join(items[:-1]) + (" and " if len(items) > 1 else "") + (items[-1] if items else "")
    if not items:
        sentence = sentence.split(" with ")[0].split(" featuring ")[0]
    text = " ".join(sentence.format(what=" ".join(adjectives), items=listed).split())
    return "an " + text[2:] if text.startswith("a ") and text[2] in "aeiou" else text


def load_concepts(source: str | Path | pd.DataFrame | Mapping[str, Pairs] | Pairs) -> dict[str, Concept]:
    """Your own concepts: from a CSV file or DataFrame, or from (clean, corrupted) tuples, for one concept or several by name.

    Columns: concept, clean, corrupted, and optionally group, split, neutral (the prompt without the concept) and opposite (the
    other end of the concept's axis, if it has one). Without a split column, all rows are for localizing. Tuples, whose optional
    third part is the neutral prompt, are for any purpose. Concepts of the same group cannot serve as controls for one another, so
    name the groups. Raises ValueError that names the missing column, or the pair with an empty prompt or two equal prompts.

    >>> load_concepts({"fast": [("a fast song", "a slow song"), ("a fast jazz tune", "a slow jazz tune")]})["fast"]
    Concept('fast', 2 pairs)
    """
    if not isinstance(source, str | Path | pd.DataFrame):
        named = source if isinstance(source, Mapping) else {"concept": source}
        rows = [(name, *pair) for name, pairs in named.items() for pair in pairs]
        wrong = next((row[1:] for row in rows if len(row) not in (3, 4)), None)
        if wrong is not None:
            raise ValueError(f"A pair is {wrong!r}, expected (clean, corrupted) or (clean, corrupted, neutral).")
        columns = ["concept", "clean", "corrupted", "neutral", "split"]
        source = pd.DataFrame([(*row, *[""] * (5 - len(row))) for row in rows], columns=columns)
    table = source if isinstance(source, pd.DataFrame) else pd.read_csv(source)
    missing = {"concept", "clean", "corrupted"} - set(table.columns)
    if missing:
        raise ValueError(
            f"The pairs lack the columns {sorted(missing)}: expected concept, clean, corrupted, and optionally group, split, "
            "neutral, opposite."
        )
    if table.empty or table["concept"].isna().any():
        raise ValueError("The pairs are empty, or a row has no concept: expected concept, clean and corrupted in every row.")
    concepts = {}
    for name, rows in table.groupby("concept", sort=False):
        pairs = []
        for number, row in enumerate(rows.to_dict("records")):
            clean, corrupted, split = row["clean"], row["corrupted"], row.get("split", "localize")
            if not all(isinstance(t, str) and t.strip() for t in (clean, corrupted)) or clean == corrupted:
                raise ValueError(
                    f"Pair {number} of {name!r} is {clean!r} / {corrupted!r}: expected two different, non-empty prompts."
                )
            if split not in (*SPLITS, ""):
                raise ValueError(f"Pair {number} of {name!r} has split {split!r}, expected one of {', '.join(SPLITS)}.")
            neutral = row.get("neutral", "")
            pairs.append(Pair(number, split, clean, corrupted, neutral if isinstance(neutral, str) else ""))
        group = str(rows["group"].iloc[0]) if "group" in rows and rows["group"].notna().all() else ""
        opposite = str(rows["opposite"].iloc[0]) if "opposite" in rows and rows["opposite"].notna().all() else ""
        concepts[str(name)] = Concept(str(name), tuple(pairs), group, changes=frozenset({group} - {""}), opposite=opposite)
    return concepts


def choose(which: Concepts) -> list[Concept]:
    """Concepts from names of shipped ones, Concept values, a CSV path, a DataFrame, or tuples (`load_concepts`); None is all 21.

    Raises UnknownName (a KeyError) for an unknown name, with the nearest names.
    """
    shipped = shipped_concepts()
    if which is None:
        return list(shipped.values())
    if isinstance(which, pd.DataFrame | Path | Mapping) or (isinstance(which, str) and which.endswith(".csv")):
        return list(load_concepts(which).values())
    items = [which] if isinstance(which, str | Concept) else list(which)
    if items and all(isinstance(item, tuple | list) for item in items):
        return list(load_concepts(items).values())
    chosen = []
    for item in items:
        if isinstance(item, Concept):
            chosen.append(item)
        elif item in shipped:
            chosen.append(shipped[item])
        else:
            near = get_close_matches(str(item), shipped, n=3, cutoff=0.4)
            raise UnknownName(f"Unknown concept {item!r}. Nearest: {', '.join(near) or 'none'}. Available: {', '.join(shipped)}.")
    if not chosen:
        raise ValueError("No concepts given: name at least one, or pass None for all.")
    return chosen


def concept_prompts(concepts: Any = None, split: str = "build") -> list[str]:
    """All distinct prompts of a split: with the concept, with its counterfactual, and with neither.

    Short neutral prompts occur in several splits; those of "build", which SAEs are trained on, are left out of the others.
    """

    def texts(name: str) -> dict[str, None]:
        pairs = [pair for concept in choose(concepts) for pair in concept.split(name)]
        return dict.fromkeys(text for pair in pairs for text in (pair.clean, pair.corrupted, pair.neutral) if text)

    seen = texts("build") if split != "build" else {}
    return [text for text in texts(split) if text not in seen]


def some_prompts(count: int, split: str = "test") -> list[str]:
    """`count` prompts of a split of the shipped concepts, spread over all of them and always the same; "test" is held out."""
    prompts = concept_prompts(split=split)
    return [prompts[i] for i in np.random.default_rng(0).permutation(len(prompts))[:count]]
