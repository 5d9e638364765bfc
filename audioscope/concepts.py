"""Concepts and their counterfactual pairs: two prompts that differ in one musical idea.

The shipped concepts are made from `data/concepts.yaml`; a user's own come from a CSV file or a DataFrame.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from zlib import crc32

import numpy as np
import pandas as pd
import yaml

from audioscope.errors import UnknownName
from audioscope.paths import data_folder

SPLITS = ("localise", "build", "select", "test")


@dataclass(frozen=True)
class Pair:
    """A clean prompt, which has the concept, and the corrupted one, where its counterfactual stands instead.

    neutral: the same sentence without either, where one is known.
    """

    number: int
    split: str
    clean: str
    corrupted: str
    neutral: str = ""


@dataclass(frozen=True)
class Concept:
    """A concept: its name, its group, the groups that its pairs change, and the pairs.

    opposite: the other end of its axis (slow for fast), where it has one.
    """

    name: str
    pairs: tuple[Pair, ...]
    group: str = ""
    counterfactual: str = ""
    changes: frozenset[str] = frozenset()
    opposite: str = ""

    def split(self, name: str) -> tuple[Pair, ...]:
        """The pairs of "localise", "build", "select" or "test": disjoint, for finding, making, tuning and reporting."""
        if name not in SPLITS:
            raise ValueError(f"split is {name!r}, expected one of {', '.join(SPLITS)}.")
        return tuple(pair for pair in self.pairs if pair.split == name)

    def neutral_pairs(self, split: str) -> tuple[Pair, ...]:
        """The pairs of a split whose neutral prompts are all different and stand in no other split of this concept.

        Of another concept they may: where something was trained on prompts of all concepts, as an SAE is, leave those out with `without`
        of `audioscope.strengths.steering_sweep`.
        """
        elsewhere = {pair.neutral for pair in self.pairs if pair.split != split}
        first = {pair.neutral: pair for pair in reversed(self.split(split)) if pair.neutral and pair.neutral not in elsewhere}
        return tuple(sorted(first.values(), key=lambda pair: pair.number))

    def __repr__(self) -> str:
        versus = f" against {self.counterfactual}" if self.counterfactual else ""
        return f"Concept({self.name!r}{versus}, {len(self.pairs)} pairs)"


@lru_cache(maxsize=1)
def _plan() -> dict:
    """data/concepts.yaml, read once."""
    return yaml.safe_load((data_folder() / "concepts.yaml").read_text())


def shipped_groups() -> dict[str, str]:
    """The group of every label of the paper and of the tiny model's music: "violin" is a lead, "techno" a genre."""
    return {name: group for group, classes in _plan()["groups"].items() for name in classes}


@lru_cache(maxsize=1)
def shipped_concepts() -> dict[str, Concept]:
    """The paper's 21 concepts, each with pairs in four splits; no clean or corrupted prompt occurs in two splits, of any concept.

    A neutral prompt may stand in another split of another concept: see `Concept.neutral_pairs` for what is kept apart.
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
    """Endless random contexts with the concept, its counterfactual, or neither in the same place."""
    rng = np.random.default_rng(crc32(name.encode()))
    groups = plan["groups"]
    words = {cls: phrases for classes in groups.values() for cls, phrases in classes.items()}
    context = [group for group in groups if group not in changes]
    while True:
        chosen = [str(rng.choice(list(groups[group]))) for group in context if rng.random() < 0.5]
        place = int(rng.integers(len(chosen) + 1))
        sentence = str(rng.choice(plan["sentences"]))
        variant = int(rng.integers(12))
        texts = []
        for concept in ([name], [other], []):
            said = [*chosen[:place], *concept, *chosen[place:]]
            adjectives = [w["adjectives"][variant % len(w["adjectives"])] for c in said if "adjectives" in (w := words[c])]
            items = [w["items"][variant % len(w["items"])] for c in said if "items" in (w := words[c])]
            texts.append(_say(sentence, adjectives, items))
        yield texts[0], texts[1], texts[2]


def _say(sentence: str, adjectives: list[str], items: list[str]) -> str:
    """Fill a sentence; without items its tail ("with ...") goes too."""
    listed = ", ".join(items[:-1]) + (" and " if len(items) > 1 else "") + (items[-1] if items else "")
    if not items:
        sentence = sentence.split(" with ")[0].split(" featuring ")[0]
    text = " ".join(sentence.format(what=" ".join(adjectives), items=listed).split())
    return "an " + text[2:] if text.startswith("a ") and text[2] in "aeiou" else text


def concepts_from(source: str | Path | pd.DataFrame) -> dict[str, Concept]:
    """A user's concepts from a CSV file or DataFrame with columns concept, clean, corrupted, and optionally group, split, neutral
    (the prompt without the concept) and opposite (the other end of the concept's axis, where it has one).

    Pairs without a split are for localising. Concepts of one group are no control for one another, so name the groups. Raises ValueError that names the missing column, or the row whose prompt
    is empty or whose two prompts are equal.
    """
    table = source if isinstance(source, pd.DataFrame) else pd.read_csv(source)
    missing = {"concept", "clean", "corrupted"} - set(table.columns)
    if missing:
        raise ValueError(
            f"The pairs lack the columns {sorted(missing)}: expected concept, clean, corrupted, and optionally group, split."
        )
    if table.empty or table["concept"].isna().any():
        raise ValueError("The pairs are empty, or a row names no concept: expected concept, clean and corrupted in every row.")
    concepts = {}
    for name, rows in table.groupby("concept", sort=False):
        pairs = []
        for number, row in enumerate(rows.to_dict("records")):
            clean, corrupted, split = row["clean"], row["corrupted"], row.get("split", "localise")
            if not all(isinstance(t, str) and t.strip() for t in (clean, corrupted)) or clean == corrupted:
                raise ValueError(
                    f"Pair {number} of {name!r} is {clean!r} / {corrupted!r}: expected two different, non-empty prompts."
                )
            if split not in SPLITS:
                raise ValueError(f"Pair {number} of {name!r} has split {split!r}, expected one of {', '.join(SPLITS)}.")
            neutral = row.get("neutral", "")
            pairs.append(Pair(number, split, clean, corrupted, neutral if isinstance(neutral, str) else ""))
        group = str(rows["group"].iloc[0]) if "group" in rows and rows["group"].notna().all() else ""
        opposite = str(rows["opposite"].iloc[0]) if "opposite" in rows and rows["opposite"].notna().all() else ""
        concepts[str(name)] = Concept(str(name), tuple(pairs), group, changes=frozenset({group} - {""}), opposite=opposite)
    return concepts


def choose(which: Iterable[str | Concept] | str | Path | pd.DataFrame | None) -> list[Concept]:
    """Concepts from names of shipped ones, Concept values, a CSV path or a DataFrame; None is all 21.

    Raises UnknownName (a KeyError) for an unknown name, with the nearest ones.
    """
    shipped = shipped_concepts()
    if which is None:
        return list(shipped.values())
    if isinstance(which, pd.DataFrame | Path) or (isinstance(which, str) and which.endswith(".csv")):
        return list(concepts_from(which).values())
    chosen = []
    for item in [which] if isinstance(which, str) else which:
        if isinstance(item, Concept):
            chosen.append(item)
        elif item in shipped:
            chosen.append(shipped[item])
        else:
            near = get_close_matches(str(item), shipped, n=3, cutoff=0.4)
            raise UnknownName(f"Unknown concept {item!r}. Nearest: {', '.join(near) or 'none'}. There are: {', '.join(shipped)}.")
    if not chosen:
        raise ValueError("No concepts given: name at least one, or pass None for all.")
    return chosen
