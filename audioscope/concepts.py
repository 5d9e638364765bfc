"""Concepts and their counterfactual pairs: two prompts that differ in one musical idea.

The shipped concepts are made from `data/concepts.yaml`; your own come from a CSV file, a DataFrame or tuples.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias
from zlib import crc32

import numpy as np
import pandas as pd
import yaml

from audioscope.errors import UnknownName, all_of, as_path, choice, listed, of_kind, plain_name, said, whole
from audioscope.store import data_folder, seed_of

SPLITS = ("localize", "build", "select", "test")
Pairs: TypeAlias = Iterable[tuple[str, ...]]  # (clean, corrupted) or (clean, corrupted, neutral)


@dataclass(frozen=True)
class Pair:
    """A clean prompt, which has the concept, and a corrupted prompt, which has the counterfactual in its place.

    Args:
        index: The number of the pair within its concept.
        split: What the pair is for, see `Concept.split`; "" is anything.
        clean: The prompt with the concept.
        corrupted: The same sentence with the counterfactual.
        neutral: The same sentence without either; "" if there is none.

    Example:
        >>> audioscope.datasets.concepts()["fast"].pairs[0].split
        'localize'
    """

    index: int
    split: str
    clean: str
    corrupted: str
    neutral: str = ""


@dataclass(frozen=True)
class Concept:
    """A concept: its name, its group, the groups that its pairs change, and the pairs.

    Args:
        name: The name, which a scorer must know.
        pairs: The pairs of prompts.
        group: The group, such as "lead"; concepts of one group are no controls for one another. "" if unknown.
        counterfactual: What stands in its place in the corrupted prompts; "" if unknown.
        changes: The groups of the concept and of its counterfactual.
        opposite: The other end of its axis (slow for fast), "" if it has none.

    Raises:
        ValueError: A name is no text or contains a control character or a line separator, or something among the pairs is none.

    Example:
        >>> fast = audioscope.datasets.concepts()["fast"]
        >>> fast.opposite, fast.group, len(fast.split("build"))
        ('slow', 'tempo', 50)
    """

    name: str
    pairs: tuple[Pair, ...]
    group: str = ""
    counterfactual: str = ""
    changes: frozenset[str] = frozenset()
    opposite: str = ""

    def __post_init__(self) -> None:
        for field in ("name", "group", "counterfactual", "opposite"):
            plain_name(f"{field} of a concept", of_kind(f"{field} of a concept", getattr(self, field), str))
        pairs = listed("pairs of a concept", self.pairs, "a tuple of Pair")
        if wrong := [pair for pair in pairs if not isinstance(pair, Pair)]:
            raise ValueError(
                f"pairs of a concept contain {said(wrong[0])}, expected Pair: give prompts to localize or caa as tuples."
            )
        object.__setattr__(self, "pairs", tuple(pairs))
        object.__setattr__(self, "changes", frozenset(all_of("changes of a concept", self.changes, str)))

    def split(self, name: str) -> tuple[Pair, ...]:
        """The pairs of one split: "localize" to find layers, "build" to make vectors, "select" to tune, "test" to report.

        The splits are disjoint. Pairs without a split, such as those from tuples, are in every split.

        Args:
            name: The name of the split.

        Returns:
            The pairs, by index.

        Raises:
            ValueError: There is no such split.
        """
        choice("split", name, SPLITS)
        return tuple(pair for pair in self.pairs if pair.split in (name, ""))

    def seed(self, pair: Pair, number: int = 0) -> int:
        """The seed of the noise that both prompts of a pair start from, in every sweep and vector.

        Args:
            pair: A pair of this concept.
            number: Which of several seeds of the pair, from 0.

        Returns:
            The seed, a whole number that depends on nothing but the concept's name, the pair's index and the number.
        """
        return seed_of(self.name, pair.index, number)

    def neutral_pairs(self, split: str) -> tuple[Pair, ...]:
        """The pairs of a split whose neutral prompts are distinct and occur in no other split of this concept.

        They may occur in another split of another concept. If something was trained on the prompts of all concepts, as an SAE
        is, leave its prompts out with `without` of `audioscope.steer.steering_sweep`.

        Args:
            split: The name of the split.

        Returns:
            The pairs, by index, at most one for each neutral prompt.
        """
        choice("split", split, SPLITS)
        elsewhere = {pair.neutral for pair in self.pairs if pair.split not in (split, "")}
        first = {pair.neutral: pair for pair in reversed(self.split(split)) if pair.neutral and pair.neutral not in elsewhere}
        return tuple(sorted(first.values(), key=lambda pair: pair.index))

    def __repr__(self) -> str:
        versus = f" against {self.counterfactual}" if self.counterfactual else ""
        return f"Concept({self.name!r}{versus}, {len(self.pairs)} pairs)"


Concepts: TypeAlias = Iterable[str | Concept] | Concept | str | Path | pd.DataFrame | Mapping[str, Pairs] | Pairs | None


@lru_cache(maxsize=1)
def _plan() -> Any:
    """The contents of data/concepts.yaml, read once."""
    return yaml.safe_load((data_folder() / "concepts.yaml").read_text())


def shipped_groups() -> dict[str, str]:
    """The group of every label of the paper and of the tiny model's music: "violin" is a lead, "techno" a genre."""
    return {name: group for group, classes in _plan()["groups"].items() for name in classes}


def shipped_concepts() -> dict[str, Concept]:
    """The paper's 21 concepts, each with pairs in four splits; no clean or corrupted prompt occurs in two splits, of any concept.

    A neutral prompt may occur in another split of another concept: see `Concept.neutral_pairs` for what is kept apart.

    Returns:
        The concepts by name.

    Example:
        >>> concepts = audioscope.datasets.concepts()
        >>> len(concepts), concepts["violin"].group
        (21, 'lead')
    """
    return dict(_shipped())  # a copy: the cache is for all


@lru_cache(maxsize=1)
def _shipped() -> dict[str, Concept]:
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


def more_pairs(concept: str, count: int) -> Concept:
    """A shipped concept with more pairs to make vectors from, drawn from the same grammar; what is tested stays unseen.

    Split "build" begins with the shipped pairs. No prompt of the others, with or without the concept, occurs in a split of any concept
    of the 21, and none of their neutral prompts among those that this concept selects or is tested on.

    Args:
        concept: The name of a shipped concept.
        count: How many pairs split "build" is to have, at least as many as ship and at most 5,000.

    Returns:
        The concept; the other splits are those that ship.

    Raises:
        UnknownName: There is no such concept (a KeyError that lists the nearest).
        ValueError: There are fewer pairs than ship, or more than the grammar gives.

    Example:
        >>> many = audioscope.datasets.more_pairs("fast", 200)
        >>> len(many.split("build")), many.split("test") == audioscope.datasets.concepts()["fast"].split("test")
        (200, True)
    """
    chosen, plan = choose_one(concept), _plan()
    if chosen != shipped_concepts().get(chosen.name):
        raise ValueError(f"concept is {said(concept)}, expected the name of a shipped concept, whose grammar is known.")
    there = chosen.split("build")
    count = whole("count", count, len(there), MOST)
    taken = {text for each in shipped_concepts().values() for pair in each.pairs for text in (pair.clean, pair.corrupted)}
    taken |= {pair.neutral for split in ("select", "test") for pair in chosen.split(split)}
    sentences, found, waited = _sentences(chosen.name, chosen.counterfactual, plan, chosen.changes), list[Pair](), 0
    while len(there) + len(found) < count:
        clean, corrupted, neutral = next(sentences)
        waited += 1
        if waited > PATIENCE:
            raise ValueError(f"count is {count}, but the grammar gives about {len(there) + len(found)} pairs of {chosen.name!r}.")
        if not {clean, corrupted, neutral} & taken:
            found.append(Pair(len(chosen.pairs) + len(found), "build", clean, corrupted, neutral))
            taken |= {clean, corrupted}
            waited = 0
    return replace(chosen, pairs=(*chosen.pairs, *found))


def _sentences(name: str, other: str, plan: dict[str, Any], changes: frozenset[str]) -> Iterator[tuple[str, str, str]]:
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


MOST = 5000  # pairs to draw of one concept: beyond, they differ in little
PATIENCE = 5000  # sentences drawn in vain, before the grammar counts as exhausted
COLUMNS = "concept, clean, corrupted, and optionally neutral, split, group, opposite"
FILES = (".csv", ".json")


def load_concepts(source: str | Path | pd.DataFrame | Mapping[str, Pairs] | Pairs) -> dict[str, Concept]:
    """Your own concepts, from a CSV or JSON file, a DataFrame, or pairs of prompts.

    Concepts of the same group cannot serve as controls for one another, so name the groups.

    Args:
        source: A file; a table with the columns concept, clean and corrupted, and optionally neutral (the prompt without the
            concept), split (see `Concept.split`; without one, a pair is for any purpose), group and opposite (the other end of
            the concept's axis); records with these keys; (clean, corrupted) or (clean, corrupted, neutral) for one concept; or
            such pairs for several concepts by name. A JSON file holds any of these.

    Returns:
        The concepts by name.

    Raises:
        ValueError: A column is missing, a prompt is empty or both are equal, or rows of a concept disagree on its group or opposite.

    Example:
        >>> audioscope.load_concepts({"fast": [("a fast song", "a slow song"), ("a fast jazz tune", "a slow jazz tune")]})
        {'fast': Concept('fast', 2 pairs)}
    """
    if isinstance(source, str | Path):
        return load_concepts(_read(as_path(source)))
    table = source if isinstance(source, pd.DataFrame) else _table(source)
    missing = {"concept", "clean", "corrupted"} - set(table.columns)
    if missing:
        raise ValueError(f"The pairs lack the columns {sorted(missing)}: expected {COLUMNS}.")
    table = table.reset_index(drop=True).astype(object).where(table.reset_index(drop=True).notna(), "")
    if table.empty or (table["concept"] == "").any():
        raise ValueError("The pairs are empty, or a row has no concept: expected concept, clean and corrupted in every row.")
    if table["concept"].nunique() > table["concept"].map(str).nunique():
        raise ValueError("Two concepts have the same name as text, such as 1 and '1': name them apart.")
    concepts = {}
    for name, rows in table.groupby(table["concept"].map(str), sort=False):
        pairs = tuple(_pair(str(name), number, row) for number, row in enumerate(rows.to_dict("records")))
        group, opposite = (_only(str(name), rows, column) for column in ("group", "opposite"))
        concepts[str(name)] = Concept(str(name), pairs, group, changes=frozenset({group} - {""}), opposite=opposite)
    return concepts


def _read(file: Path) -> Any:
    """A CSV file as a table, or the value of a JSON file."""
    if file.suffix.lower() not in FILES:
        raise ValueError(f"{file} is no file of concepts: expected one that ends in {' or '.join(FILES)}.")
    try:
        if file.suffix.lower() == ".json":
            return json.loads(file.read_text(encoding="utf-8-sig"))
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # a row with more fields than the header
            table = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False)
        if twice := [name for name in table if re.fullmatch(r"\w+\.\d+", str(name)) and name.rpartition(".")[0] in table]:
            raise ValueError(f"{file} has the column {twice[0].rpartition('.')[0]!r} twice: name each once.")
        return table
    except (
        UnicodeDecodeError,
        json.JSONDecodeError,
        pd.errors.EmptyDataError,
        pd.errors.ParserError,
        pd.errors.ParserWarning,
    ) as error:
        raise ValueError(f"{file} cannot be read ({error}): expected UTF-8 text with {COLUMNS}.") from error


def _table(source: Any) -> pd.DataFrame:
    """Pairs of one concept, of several by name, or records, as a table."""
    if not isinstance(source, Mapping):
        source = listed("The pairs", source, "a CSV or JSON file, a table, or a list of (clean, corrupted)")
        if source and all(isinstance(row, Mapping) for row in source):
            return pd.DataFrame(source) if "concept" in source[0] else pd.DataFrame(source).assign(concept="concept")
        source = {"concept": source}
    rows = []
    for name, pairs in source.items():
        pairs = listed(f"The pairs of {name!r}", pairs, "a list of (clean, corrupted)")
        if not pairs:
            raise ValueError(f"{name!r} has no pairs: expected a list of (clean, corrupted).")
        for pair in pairs:
            if isinstance(pair, Mapping):
                rows.append({**pair, "concept": name})
            elif isinstance(pair, tuple | list | np.ndarray) and len(pair) in (2, 3):
                rows.append(dict(zip(("clean", "corrupted", "neutral"), pair, strict=False), concept=name))
            else:
                raise ValueError(f"A pair is {said(pair)}, expected (clean, corrupted) or (clean, corrupted, neutral).")
    return pd.DataFrame(rows)


def _pair(name: str, number: int, row: Mapping[str, Any]) -> Pair:
    clean, corrupted, neutral, split = row["clean"], row["corrupted"], row.get("neutral", ""), row.get("split", "")
    if not all(isinstance(text, str) and text.strip() for text in (clean, corrupted)) or clean == corrupted:
        raise ValueError(f"Pair {number} of {name!r} is {clean!r} / {corrupted!r}: expected two different, non-empty prompts.")
    if not isinstance(neutral, str):
        raise ValueError(f"Pair {number} of {name!r} has the neutral prompt {neutral!r}, expected a text.")
    if split not in (*SPLITS, ""):
        raise ValueError(f"Pair {number} of {name!r} has split {split!r}, expected one of {', '.join(SPLITS)}.")
    return Pair(number, str(split), str(clean), str(corrupted), str(neutral))


def _only(name: str, rows: pd.DataFrame, column: str) -> str:
    """What the rows of a concept agree on; empty if they say nothing."""
    values = sorted(set(map(str, rows.get(column, []))) - {""})
    if len(values) > 1:
        raise ValueError(f"The rows of {name!r} disagree on its {column}: {', '.join(values)}.")
    return values[0] if values else ""


def choose(which: Concepts) -> list[Concept]:
    """Concepts from names of shipped ones, Concept values, a CSV path, a DataFrame, or tuples (`load_concepts`); None is all 21.

    Raises UnknownName (a KeyError) for an unknown name, with the nearest names.
    """
    shipped = shipped_concepts()
    if which is None:
        return list(shipped.values())
    if isinstance(which, pd.DataFrame | Path) or (isinstance(which, str) and which.lower().endswith(FILES)):
        return list(load_concepts(which).values())
    if isinstance(which, Mapping):
        named = which if which and all(isinstance(concept, Concept) for concept in which.values()) else load_concepts(which)
        return list(named.values())
    items = (
        [which] if isinstance(which, str | Concept) else listed("concepts", which, "names of concepts, pairs, or a file of pairs")
    )
    if items and all(isinstance(item, tuple | list | np.ndarray | Mapping) for item in items):
        return list(load_concepts(items).values())
    chosen = []
    for item in items:
        if isinstance(item, Concept):
            chosen.append(item)
        elif isinstance(item, str) and item in shipped:
            chosen.append(shipped[item])
        else:
            near = get_close_matches(str(item), shipped, n=3, cutoff=0.4)
            raise UnknownName(f"Unknown concept {item!r}. Nearest: {', '.join(near) or 'none'}. Available: {', '.join(shipped)}.")
    names = [concept.name for concept in chosen]
    if not chosen or len(set(names)) < len(names):
        raise ValueError(f"The concepts are {names}: name at least one, and each once, or pass None for all.")
    return chosen


def choose_one(which: Concepts) -> Concept:
    """The only concept of what `choose` accepts. Raises ValueError if there are several."""
    chosen = choose(which)
    if which is None or len(chosen) > 1:
        raise ValueError(f"There are {len(chosen)} concepts ({', '.join(c.name for c in chosen[:4])} ...), expected one.")
    return chosen[0]


def concept_prompts(concepts: Any = None, split: str = "build") -> list[str]:
    """All distinct prompts of a split: with the concept, with its counterfactual, and with neither.

    Short neutral prompts occur in several splits; those of "build", which SAEs are trained on, are left out of the others.

    Args:
        concepts: Names, Concept values, or what `audioscope.load_concepts` takes; None is all that ship.
        split: "localize", "build", "select" or "test".

    Returns:
        The prompts, in the order of the concepts and their pairs.

    Example:
        >>> len(audioscope.datasets.concept_prompts(["fast"], "select"))
        60
    """

    chosen = choose(concepts)

    def texts(name: str) -> dict[str, None]:
        pairs = [pair for concept in chosen for pair in concept.split(name)]
        return dict.fromkeys(text for pair in pairs for text in (pair.clean, pair.corrupted, pair.neutral) if text)

    choice("split", split, SPLITS)
    seen = texts("build") if split != "build" else {}
    return [text for text in texts(split) if text not in seen]


def some_prompts(count: int, split: str = "test") -> list[str]:
    """Some prompts of the shipped concepts, spread over all of them and always the same; "test" is held out from all training.

    Args:
        count: How many.
        split: "localize", "build", "select" or "test".

    Returns:
        The prompts.

    Example:
        >>> prompts = audioscope.datasets.some_prompts(4)
        >>> len(prompts), prompts == audioscope.datasets.some_prompts(4)
        (4, True)
    """
    prompts = concept_prompts(split=split)
    count = whole("count", count, 0, len(prompts), f", the prompts of split {split!r}")
    return [prompts[i] for i in np.random.default_rng(0).permutation(len(prompts))[:count]]
