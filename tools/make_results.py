"""Rebuild what depends on the tiny model's weights: its evaluation, the shipped atlas, its further maps and the table by step, SAEs, and
the steering of all axes with its vectors (`make results`).

Stages follow each other, resume, and read from data/ what the stages before them wrote, so `--only` can run some of them elsewhere.

When the weights changed, the impacts of the atlas before are kept in data/atlas/before.csv, to show what a training changes.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from audioscope import datasets
from audioscope.atlas.atlas import Atlas, score_column
from audioscope.atlas.bench import known_answers
from audioscope.atlas.localization import localize, patched_row
from audioscope.atlas.screening import Screen, screen
from audioscope.atlas.steps import patch_steps
from audioscope.atlas.windows import WINDOWS
from audioscope.audio import Clip
from audioscope.concepts import Concept, choose, more_pairs
from audioscope.datasets import INSIDE, MAPS
from audioscope.loading import load
from audioscope.model import Model
from audioscope.sae.comparison import wins
from audioscope.sae.pipeline import report_saes, train_saes
from audioscope.sae.sae import SAE
from audioscope.sae.tuning import steer_all_features
from audioscope.scoring import Musicnn, listener_scorer, on_recordings, outside, real_leads, trusted
from audioscope.scoring.outside_ears import measured_ceilings
from audioscope.scoring.scorers import TAGS
from audioscope.steer.caa import caa, steering_sites
from audioscope.steer.further import further_methods
from audioscope.steer.localizing import localization_benefits, published_benefits, steer_planted
from audioscope.steer.methods import SteeringMethod, prompt_switch_method, random_direction_method, vector_method
from audioscope.steer.tables import axes, steer_all
from audioscope.steer.vectors import SteeringVector
from audioscope.store import safe_name, write_table, write_whole
from audioscope.tiny import planted
from audioscope.tiny.evaluate import as_table, evaluate
from audioscope.tiny.pointed import pointing
from audioscope.tracing import Row

ROOT = Path(__file__).resolve().parent.parent
TEXT = ("text sufficient", "text necessary")
RESULTS, SAES = ROOT / "data" / "results", ROOT / "data" / "tiny" / "sae"
STRONGEST = tuple(f"transformer.transformer_blocks.{layer}.cross_attn" for layer in (0, 6))  # in the map
COPIES = ("tiny-planted", "tiny-planted-two")  # which tools/make_planted.py makes, before the stage `known`
CONFIRMED = ("metal", "reggae", "opera", "jazz", "drums", "bongos", "maracas")  # genre and percussion, which enter in layer 0
DEVELOPMENT = ("fast", "metal", "flute", "female")  # concepts that the screen was developed on


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--only", nargs="+", choices=STAGES, default=list(STAGES), metavar="STAGE", help=", ".join(STAGES))
    options.add_argument("--work", type=Path, default=ROOT / "runs", help="the sweeps and the training pool lie here, resumed")
    options.add_argument("--workers", type=int, help="processes (default: as many as there are cores and memory, or GPUs, for)")
    chosen = options.parse_args()
    model = load("tiny")
    for stage in STAGES:
        if stage in chosen.only:
            STAGES[stage](model, chosen.work, workers=chosen.workers)


def evaluation(model: Model, work: Path, **shared: Any) -> None:
    """What judge, listener and musicnn hear in generated and in real clips."""
    result = evaluate(model, work=work / "tiny", also=partial(outside, ceilings=measured_ceilings()), **shared)
    result |= {"real_leads": real_leads().round(4).to_dict("records"), "recordings": on_recordings().to_dict("records")}
    write_whole(ROOT / "data/tiny/evaluation.json", lambda path: path.write_text(json.dumps(result, indent=1) + "\n"))
    print(as_table(result))


def atlas(model: Model, work: Path, **shared: Any) -> None:
    """The shipped atlas; its impacts before, when the weights changed."""
    found = localize(model, pairs=34, out=work / f"atlas-{model.fingerprint}", **shared)
    shipped = ROOT / "data" / "atlas"
    earlier = Atlas.load(shipped)
    if earlier.settings["fingerprint"] != model.fingerprint:
        before = earlier.impacts("clipped")[["concept", "group", "layer", "impact", "defined"]].round(3)
        write_whole(shipped / "before.csv", lambda path: before.to_csv(path, index=False))
    print(Atlas.load(found.save(shipped, shipped=True)))


def maps(model: Model, work: Path, **shared: Any) -> None:
    """The maps of windows and of other sites."""
    for name in MAPS:
        changed: dict[str, Any] = {"patch": "output"} if name == "output" else {"when": name}
        changed = {"sites": INSIDE[name]} if name in INSIDE else changed
        pairs, out = 8 if name in INSIDE else 12, work / f"map-{name}-{model.fingerprint}"
        found = localize(model, pairs=pairs, clips=False, out=out, **shared, **changed)
        found = slim(with_sound(model, found, work / f"heard-{name}-{model.fingerprint}")) if name in INSIDE else found
        print(found.save(ROOT / "data" / "maps" / name, shipped=True))


def confirmed(model: Model, work: Path, **shared: Any) -> None:
    """The four heads of the layer that carries genre, on pairs that the map of heads has not seen; told, and left out."""
    concepts = [replace(each, pairs=tuple(each.split("localize")[8:34])) for each in choose(CONFIRMED)]
    for name, direction in (("confirmed", "sufficient"), ("confirmed_necessary", "necessary")):
        folder = work / f"{name}-{model.fingerprint}"
        found = localize(model, concepts, 26, sites=model.sites[0].heads, direction=direction, clips=False, out=folder, **shared)
        print(found.save(ROOT / "data" / "maps" / name, shipped=True))


def screens(model: Model, work: Path, **shared: Any) -> None:
    """How well screens rank what the maps find."""
    write_table(screening(model, work, **shared), ROOT / "data/results/screening.parquet")


def points(model: Model, work: Path, **shared: Any) -> None:
    """How well attention points at what sounds."""
    found = pointing(model, songs=120).round(3)
    found = found.astype(dict.fromkeys(["auroc", "other", "averaged", "averaged_other", "share"], "float32"))
    found = found.astype(dict.fromkeys(["part", "word"], "category") | dict.fromkeys(["song", "layer", "step"], "int16"))
    write_table(found, ROOT / "data/results/pointing.parquet")


def outside_ear() -> Musicnn:
    """What an outside ear hears well enough in rendered music; some of its labels, such as techno, have no pairs."""
    return Musicnn({concept.name: TAGS[concept.name] for concept in choose(None) if concept.name in trusted()})


def heard(model: Model, work: Path, **shared: Any) -> None:
    """The map that an outside ear hears, too."""
    ear, out = outside_ear(), work / f"map-outside-{model.fingerprint}"
    also = [listener_scorer("judge"), ear]
    found = localize(model, list(ear.concepts), pairs=34, also=also, clips=False, out=out, **shared)
    print(found.save(ROOT / "data" / "maps" / "outside", shipped=True))


def by_step(model: Model, work: Path, **shared: Any) -> None:
    """All text swapped, one step at a time."""
    found = patch_steps(model, out=work / f"steps-{model.fingerprint}", **shared)
    found = found.round({name: 3 for name in found if name.startswith("score")})
    write_table(found, ROOT / "data" / "results" / "steps.parquet")


def steering(model: Model, work: Path, **shared: Any) -> None:
    """Every axis steered in the standard ways, and its vector."""
    sweeps = work / f"steering-{model.fingerprint}"
    found = steer_all(model, RESULTS, sweeps, also=[outside_ear()], **shared)
    for axis in axes():
        SteeringVector.load(sweeps / axis / "vector").half().save(RESULTS / "vectors" / axis)
    print(found[["concept", "method", "sites", "auc", "auc_low", "auc_high", "spearman", "steerable"]].to_string(index=False))


def saes(model: Model, work: Path, **shared: Any) -> None:
    """SAEs of the map's two strongest layers, and of self-attention in the same blocks, where the sound speaks to itself."""
    sites = [*STRONGEST, *(path.replace("cross_attn", "self_attn") for path in STRONGEST)]
    train_saes(model, sites, SAES, work / f"sae-{model.fingerprint}", **shared)
    print(wins(report_saes(model, SAES, sites, **shared)).to_string(index=False))


def features(model: Model, work: Path, **shared: Any) -> None:
    """Every axis steered with SAE features."""
    found = [SAE.from_pretrained(SAES / site) for site in STRONGEST]
    steer_all_features(model, found, RESULTS, work / f"sae_steering-{model.fingerprint}", **shared)


def further(model: Model, work: Path, **shared: Any) -> None:
    """Every axis steered in further ways."""
    folder = work / f"further-{model.fingerprint}"

    def methods(concept: Concept, each: Path) -> list[SteeringMethod]:
        return list(further_methods(model, concept, each, **shared))

    steer_all(model, RESULTS, folder, methods=methods, name="further", **shared)


def pairs(model: Model, work: Path, **shared: Any) -> None:
    """Six axes, drawn by lot, steered with vectors of 20 to 800 pairs."""
    few = sorted(np.random.default_rng(25).choice(axes(), 6, replace=False), key=axes().index)
    folder = work / f"pairs-{model.fingerprint}"

    def methods(concept: Concept, each: Path) -> list[SteeringMethod]:
        return of_pairs(model, concept, each, **shared)

    steer_all(model, RESULTS, folder, few, methods=methods, name="pairs", **shared)


def shipped_atlas(model: Model) -> Atlas:
    """What the stage `atlas` wrote. Raises ValueError if it is of other weights."""
    found = Atlas.load(ROOT / "data" / "atlas")
    if found.settings["fingerprint"] != model.fingerprint:
        raise ValueError("data/atlas is of other weights than data/tiny: run the stage 'atlas' first.")
    return found


def localizing(model: Model, work: Path, **shared: Any) -> None:
    """What localizing brings, for tiny, the paper and planted truth."""
    shipped = shipped_atlas(model)
    benefits = localization_benefits([datasets.steering(axis) for axis in axes()], shipped)
    found = pd.concat([benefits, planted_benefits(model, shipped, work), published_benefits()], ignore_index=True)
    write_table(found, RESULTS / "localizing.parquet")


def known(model: Model, work: Path, **shared: Any) -> None:
    """The bench of all that localizes, on known answers; of copies, those that were trained."""
    shipped = shipped_atlas(model)
    copies = {name: load(folder) for name in COPIES if (folder := ROOT / "data" / name).exists()}
    lines = [bench(model, shipped, work).assign(model="tiny")]
    for name, copy in copies.items():
        lines.append(known_answers(copy, out=work / f"known-{copy.fingerprint}", **shared).assign(model=name))
    write_table(pd.concat(lines, ignore_index=True), RESULTS / "known_answers.parquet")


def of_pairs(model: Model, concept: Concept, folder: Path, **shared: Any) -> list[SteeringMethod]:
    """CAA at its own layers, from 20 to 800 pairs: those beyond the shipped ones are drawn from the same grammar."""
    many, own, methods = more_pairs(concept.name, 800), steering_sites(model, concept, "own"), list[SteeringMethod]()
    for count in (20, 50, 200, 800):
        vector = caa(model, many, own, count, file=folder / f"{count}-pairs", progress=False, **shared)
        methods.append(vector_method(vector, f"own, {count} pairs"))
    return [*methods, random_direction_method(vector, "own"), prompt_switch_method(model.sampling().steps)]


def bench(model: Model, atlas: Atlas, work: Path) -> pd.DataFrame:
    """Known answers: the six concepts that one layer moves most, each planted there; and with two layers that need or replace each other."""
    found, concepts = atlas.impacts().query("defined"), {concept.name: concept for concept in choose(None)}
    best = found.loc[found.groupby("concept")["impact"].idxmax()].nlargest(6, "impact")
    lines = [known_answers(model, {concepts[row.concept]: [int(row.layer)]}, out=work / f"known-{model.fingerprint}" / row.concept)
             for row in best.itertuples()]  # fmt: skip
    late = found[found["layer"] > 5]
    late = late.loc[late.groupby("concept")["impact"].idxmax()].nlargest(3, "impact")
    for needs in ("all", "any"):
        for row in late.itertuples():
            folder = work / f"known-{model.fingerprint}" / f"{row.concept}-{needs}"
            lines.append(
                known_answers(model, {concepts[row.concept]: [2, int(row.layer)]}, [4, 12], TEXT, needs=needs, out=folder)
            )
    return pd.concat(lines, ignore_index=True)


def plants(model: Model, work: Path, **shared: Any) -> None:
    """Maps of known answers, with the sound of an example of each concept at one of its layers; in layers not planted, nothing changes.

    Six concepts, each in one of its two strongest layers, drawn by lot; and three in both of theirs, which need each other.
    """
    found, concepts = shipped_atlas(model).impacts().query("defined"), {concept.name: concept for concept in choose(None)}
    order = found.groupby("concept")["impact"].max().nlargest(6).index
    best = {name: found[found["concept"] == name].nlargest(2, "impact")["layer"].tolist() for name in order}
    rng = np.random.default_rng(25)
    one = {concepts[name]: [int(rng.choice(layers))] for name, layers in best.items()}
    two = {concepts[name]: sorted(map(int, layers)) for name, layers in list(best.items())[:3]}
    for name, plan, needs, direction in (
        ("planted", one, "each", "sufficient"), ("planted_all", two, "all", "sufficient"),
        ("planted_all_necessary", two, "all", "necessary"),
    ):  # fmt: skip
        few = {replace(concept, pairs=tuple(concept.split("localize")[:8])): layers for concept, layers in plan.items()}
        with planted(model, few, needs):
            folder = work / f"{name}-{model.fingerprint}"
            found = localize(model, list(few), 8, direction=direction, clips=False, out=folder)
            with_sound(model, found, folder / "heard").save(ROOT / "data" / "maps" / name, shipped=True)


def planted_benefits(model: Model, atlas: Atlas, work: Path) -> pd.DataFrame:
    """What localizing brings on each axis when it is planted in its strongest layer, and in its two strongest."""
    found, lines = atlas.impacts("clipped").query("defined"), []
    for axis in axes():
        layers = found[found["concept"] == axis].nlargest(2, "impact")["layer"].tolist()
        for count in range(1, len(layers) + 1):
            folder = work / f"planted-{model.fingerprint}" / f"{axis}-{count}"
            lines.append(steer_planted(model, axis, sorted(layers[:count]), folder, seeds=1))
    return pd.concat(lines)


def with_sound(model: Model, atlas: Atlas, folder: Path, most: int = 6) -> Atlas:
    """A map with the sound of its strongest examples, made again in `folder`: a sweep of many sites that kept all would be large."""
    table = atlas.table
    named = table.assign(clip=table["row"].astype(str).where(table["row"] != "patched", table["site"].astype(str)))
    clip = pd.Series("", index=table.index)
    for row in Atlas(named, atlas.settings, folder).examples().nlargest(most, "impact").itertuples():
        unit = {"clean": row.clean_prompt, "corrupted": row.corrupted_prompt, "seed": row.seed}
        patched = patched_row(atlas.settings, unit, model.sites[row.site])
        run = model.run([Row(row.clean_prompt, row.seed), Row(row.corrupted_prompt, row.seed), patched])
        assert run.audio is not None
        of_pair = (table["concept"] == row.concept) & (table["pair"] == row.pair) & (table["seed"] == row.seed)
        places = (
            ("clean", table["row"] == "clean"),
            ("corrupted", table["row"] == "corrupted"),
            (row.site, table["site"] == row.site),
        )
        for (name, of_row), audio in zip(places, run.audio, strict=True):
            file = f"clips/{row.concept}/{row.pair:03}-{row.seed:08x}/{safe_name(name)}.flac"
            Clip(audio.numpy(), model.rate).save(folder / file)
            clip[of_pair & of_row] = file
    return Atlas(table.assign(clip=clip), atlas.settings, folder)


def slim(atlas: Atlas) -> Atlas:
    """A map of many sites, small enough to ship: scores to 2 decimals, those of second networks for a swap's own concept only."""
    table, own = atlas.table, atlas.table["scored"].astype(str) == atlas.table["concept"].astype(str)
    second = {score_column(name): table[score_column(name)].where(own).round(2) for name in atlas.scorers[1:]}
    return Atlas(table.assign(score=table["score"].round(2), **second), atlas.settings, atlas.folder)


def screening(model: Model, work: Path, **shared: Any) -> pd.DataFrame:
    """How well screens rank what patching finds, on concepts that were not used to develop them, and drawn by lot for what is slow."""
    concepts = [concept.name for concept in choose(None) if concept.name not in DEVELOPMENT]
    few = sorted(np.random.default_rng(24).choice(concepts, 6, replace=False), key=concepts.index)

    def out(name: str) -> Path:
        return work / f"{name}-{model.fingerprint}"

    def screened(name: str, names: list[str], **how: Any) -> Screen:
        return screen(model, names, 4, out=out(f"screen-{name}"), **how, **shared)

    quick = {
        kind: screened(f"quick-{kind}", concepts, sites=sites) for kind, sites in (("heads", "cross.heads"), ("layers", "cross"))
    }
    exact = {"heads": datasets.maps()["heads"], "layers": datasets.maps()["output"]}
    found = {("quick", kind): (each, [exact[kind]]) for kind, each in quick.items()}
    found["path", "heads"] = screened("path", few, mode="path"), [exact["heads"]]
    found["quick", "windows"] = (
        quick["layers"],
        [
            localize(model, few, 4, patch="output", when=when, also=(), clips=False, out=out(f"map-output-{when}"), **shared)
            for when in WINDOWS
        ],
    )
    lines = [
        each.compare(atlas).assign(mode=mode, of=kind, window=atlas.settings["when"] or "", generations=each.table["generations"].mean())
        for (mode, kind), (each, atlases) in found.items() for atlas in atlases
    ]  # fmt: skip
    return pd.concat(lines, ignore_index=True)


STAGES = {
    each.__name__: each
    for each in (
        evaluation,
        atlas,
        plants,
        maps,
        confirmed,
        screens,
        points,
        heard,
        by_step,
        steering,
        saes,
        features,
        further,
        pairs,
        localizing,
        known,
    )
}

if __name__ == "__main__":
    main()
