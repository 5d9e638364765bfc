"""The bench: how well atlases and screens find what was planted, by precision and recall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from audioscope.atlas.atlas import Atlas, Scale
from audioscope.atlas.localization import localize
from audioscope.atlas.screening import screen
from audioscope.concepts import Concept, shipped_concepts
from audioscope.errors import among, as_path, choice, listed, of_kind, said, whole, with_columns
from audioscope.model import Model
from audioscope.store import content_hash
from audioscope.tiny.planting import Needs, checked_layers, planted
from audioscope.tracing import SamplingKeywords

KINDS = tuple(f"{patch} {direction}" for patch in ("text", "output") for direction in ("sufficient", "necessary"))
SCALED: tuple[Scale, ...] = ("raw", "clipped")
SCREENED = 12  # pairs of a screen at most
PASSED = ("sites", "seeds", "scorer", "also", "when", "batch_size", "workers", "progress")  # from `known_answers` to the atlases
SCREEN = "screen"  # of the outputs' gates; it has no rule of its own, so that as many sites are taken as were planted


def known_answers(
    model: Model,
    plan: Mapping[Any, int | Sequence[int]] | None = None,
    pairs: Sequence[int] = (4, 8, 12, 34),
    kinds: Sequence[str] = (*KINDS, SCREEN),
    *,
    needs: Needs = "each",
    out: str | Path | None = None,
    **keywords: Any,
) -> pd.DataFrame:
    """Plant concepts in layers of `tiny`, and tell which layers each kind of atlas, with how many pairs, says are their own.

    Of a copy in which `tools/make_planted.py` planted truth by training, the same is told of what is planted there.

    Args:
        model: The model `tiny`, or a fine-tuned copy.
        plan: The layers of each concept, as for `audioscope.tiny.planted`; only pairs of split "localize" are used. None, for a model in
            which truth was planted by training: all shipped concepts that it still plays.
        pairs: Numbers of pairs; atlases of fewer are made of the first pairs of the largest.
        kinds: Kinds of atlases: "text sufficient", "text necessary", "output sufficient", "output necessary", and "screen", of which the
            sites with the largest estimates count as found, as many as were planted, at no more than 12 pairs. A screen follows
            gradients, so it may miss a layer that acts like a switch, as the first of `tiny` does.
        needs: How layers of one concept work together, as for `audioscope.tiny.planted`.
        out: Folder for the atlases, each plan in a folder of its own there, resumed if it exists. None is a temporary one.
        **keywords: Some of those of `audioscope.localize`: sites, seeds, scorer, also, when, batch_size, workers, progress; and `steps`,
            `guidance`, `seconds`, `negative_prompt`.

    Returns:
        One row for each concept, kind, scale and number of pairs, with the columns concept, kind, needs ("each", "all", "any"; "trained",
        "trained all", "trained any" of what was planted by training; two layers only of text patches), scale ("raw", "clipped"), pairs,
        defined (whether the atlas has an impact at all), planted, found and right (numbers of layers, and of those in both), and layers
        (those found).

    Raises:
        TypeError: A keyword is not among these.
        ValueError: No plan for a model in which nothing was planted by training, a plan that cannot be, an unknown kind, fewer pairs
            than asked for, or kinds other than of text if layers need each other: of two that do, the last alone has anything to put out.

    Example:
        >>> metal = audioscope.datasets.concepts()["metal"]
        >>> quick = {"sites": [0, 5], "steps": 2, "progress": False}
        >>> table = audioscope.atlas.known_answers(model, {metal: [0]}, [4], ["text sufficient"], **quick)
        >>> table[["scale", "planted"]].values.tolist()
        [['raw', 1], ['clipped', 1]]
    """
    trained = plan is None
    of_kind("model", model, Model)
    choice("needs", needs, get_args(Needs))
    if plan is None:
        if model.planted.get("needs") != "trained":
            raise ValueError(
                f"Nothing was planted in {model.name!r} by training: give a plan, or load a copy that tools/make_planted.py trained."
            )
        if needs != "each":
            raise ValueError(
                f"needs is {said(needs)}, but how layers of {model.name!r} work together was decided by its training."
            )
        layer_of = {site.path: site.layer for site in model.sites.cross}
        plan = {
            name: [layer_of[path] for path in model.planted["sites"][name]]
            for name in shipped_concepts()
            if name in model.planted["sites"]
        }
        if not plan:
            raise ValueError(f"{model.name!r} plays none of the shipped concepts well enough to be asked for it.")
    two: dict[str, str] = model.planted.get("two", {}) if trained else {}  # of concepts with two layers, how these work together
    counts = sorted({whole("pairs", each, 4) for each in listed("pairs", pairs, "numbers of pairs")})
    if not counts:
        raise ValueError(f"pairs is {said(pairs)}, expected at least one number of pairs.")
    kinds = listed("kinds", kinds, f"some of {', '.join((*KINDS, SCREEN))}")
    if unknown := [kind for kind in kinds if not among(kind, (*KINDS, SCREEN))]:
        raise ValueError(f"kinds contains {said(unknown[0])}, expected some of {', '.join((*KINDS, SCREEN))}.")
    most, few = counts[-1], dict[Concept, list[int]]()
    if needs != "each" and (other := [kind for kind in kinds if not kind.startswith("text")]):
        raise ValueError(
            f"needs={needs!r} is about what layers are given: of outputs, the last layer's alone matters, so {other[0]!r} has no answer."
        )
    if kinds == [SCREEN] and counts[0] > SCREENED:
        raise ValueError(f"pairs is {said(pairs)}, expected for screens at least one number up to {SCREENED}.")
    if unknown := [each for each in keywords if each not in PASSED and each not in SamplingKeywords.__annotations__]:
        raise TypeError(
            f"known_answers has no argument {unknown[0]!r}: expected some of {', '.join(PASSED)}, and those of a run."
        )
    if SCREEN in kinds and (foreign := set(keywords) - {*signature(screen).parameters, *SamplingKeywords.__annotations__}):
        raise ValueError(f"A screen has no argument {foreign.pop()!r}: leave {SCREEN!r} out of kinds.")
    seen = {site.path for site in model.sites.select(keywords.get("sites", "cross"))}
    for concept, mine in checked_layers(model, plan).items():
        there = concept.split("localize")
        if len(there) < most:
            raise ValueError(f"{concept.name!r} has {len(there)} pairs in split 'localize', fewer than {most}.")
        if hidden := [layer for layer in mine if model.sites.cross[layer].path not in seen]:
            raise ValueError(
                f"{concept.name!r} is planted in layer {hidden[0]}, which sites={said(keywords['sites'])} leaves out."
            )
        first = tuple(there[:most])
        if two.get(concept.name) == "any":  # in training, either layer's word was true: two words that differ have no meaning
            first = tuple(replace(pair, corrupted=pair.neutral) for pair in first)
        few[replace(concept, pairs=first)] = mine
    answers = {concept.name: {model.sites.cross[layer].path for layer in layers} for concept, layers in few.items()}
    lines: list[dict[str, Any]] = []
    marked = content_hash([[concept.name, layers] for concept, layers in few.items()] + [["trained" if trained else needs]])[:8]

    def judged(kind: str, scale: str, count: int, concept: str, found: Sequence[str], defined: bool) -> None:
        if concept in two and not kind.startswith("text"):
            return  # of two layers, what the last puts out is all that matters
        right = answers[concept] & set(found)
        how = needs if not trained else f"trained {two[concept]}" if concept in two else "trained"
        lines.append({
            "concept": concept, "kind": kind, "needs": how, "scale": scale, "pairs": count, "defined": defined,
            "planted": len(answers[concept]), "found": len(found), "right": len(right), "layers": [model.sites[path].layer for path in found],
        })  # fmt: skip

    for kind in kinds:
        folder = None if out is None else as_path(out) / marked / kind.replace(" ", "-")
        with nullcontext() if trained else planted(model, few, needs):
            if kind == SCREEN:
                for count in [each for each in counts if each <= SCREENED]:
                    part = None if folder is None else folder / str(count)
                    estimates = screen(model, list(few), count, out=part, **{"sites": "cross", **keywords}).impacts()
                    for name in answers:
                        mine = estimates[estimates["concept"] == name].nlargest(len(answers[name]), "impact")
                        judged(kind, "raw", count, name, mine["site"].tolist(), bool(mine["impact"].notna().all()))
                continue
            patch, direction = kind.split(" ")
            atlas = localize(
                model, list(few), most, patch=patch, direction=direction, clips=False, out=folder, **keywords
            )  # fmt: skip
        for count in counts:
            first = (
                atlas.table.groupby("concept", observed=True)["pair"].transform(lambda pair: pair.rank(method="dense")) <= count
            )
            part_of = Atlas(atlas.table[first], atlas.settings, atlas.folder)
            for scale in SCALED:
                if scale not in part_of.scales:
                    continue
                defined = part_of.impacts(scale).groupby("concept")["defined"].all()
                for name in answers:
                    judged(kind, scale, count, name, part_of.own_layers(name, scale), bool(defined[name]))
    return pd.DataFrame(lines)


def precision_recall(table: pd.DataFrame, by: Sequence[str] = ("kind", "needs", "scale", "pairs")) -> pd.DataFrame:
    """Summarize known answers: how many of the layers found are right, and how many of those planted are found.

    Args:
        table: Rows of `known_answers`.
        by: Columns to tell apart.

    Returns:
        One row for each, with the columns of `by`, concepts and undefined (how many; those without an impact count neither way),
        precision and recall with exact 95 % intervals (Clopper-Pearson; precision_low and so on), f1, and false_discovery (1 - precision).
        Precision is NaN if nothing was found. What was planted by training has no intervals: all labels of a group share its layers.

    Raises:
        ValueError: A concept occurs twice within one of these groups.

    Example:
        >>> import pandas as pd
        >>> found = {"concept": ["a", "b"], "kind": "text sufficient", "pairs": 4, "defined": [True, True], "planted": 1, "found": [1, 2], "right": [1, 1]}
        >>> table = audioscope.atlas.precision_recall(pd.DataFrame(found), by=["kind", "pairs"])
        >>> table[["precision", "recall", "f1"]].round(2).values.tolist()
        [[0.67, 1.0, 0.8]]
    """
    by, lines = listed("by", by, "names of columns"), []
    wanted = [*by, "concept", "defined", "planted", "found", "right"]
    if not by:
        raise ValueError("by is empty, expected names of columns.")
    if unknown := [name for name in by if not isinstance(name, str)]:
        raise ValueError(f"by contains {said(unknown[0])}, expected names of columns.")
    with_columns("table", table, wanted, "known_answers")
    table = table.assign(defined=table["defined"].astype(bool))
    if table.duplicated([*by, "concept"]).any():
        raise ValueError(
            f"A concept occurs twice for the same {', '.join(by)}, so layers would count twice: tell the rows apart by more."
        )
    for names, rows in table.groupby(by, sort=False, observed=True, dropna=False):
        known = rows[rows["defined"]]
        found, right, there = (int(known[name].sum()) for name in ("found", "right", "planted"))
        precision, recall = (right / whole_count if whole_count else np.nan for whole_count in (found, there))
        line = dict(zip(by, names, strict=True)) | {"concepts": len(rows), "undefined": int((~rows["defined"]).sum())}
        shared = "needs" in rows and rows["needs"].astype(str).str.startswith("trained").any()
        for name, value, count in (("precision", precision, found), ("recall", recall, there)):
            bounds = binomtest(right, count).proportion_ci() if count and not shared else None
            line |= {
                name: value,
                f"{name}_low": bounds.low if bounds else np.nan,
                f"{name}_high": bounds.high if bounds else np.nan,
            }
        f1 = 2 * right / (found + there) if found + there else np.nan
        lines.append(line | {"f1": f1, "false_discovery": 1 - precision})
    return pd.DataFrame(lines)
