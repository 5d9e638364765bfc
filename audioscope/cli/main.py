"""The command line: audioscope sites | check | atlas | screen | steer | merge | sae | book | notebooks | generate | tiny.

Bad input exits with status 2 and a one-line error.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from audioscope.cli import sae as cli_sae
from audioscope.cli.parts import MODEL, PART, SAMPLING, WEIGHTS, WORKERS, command, given, loaded, path
from audioscope.errors import FIX_TORCHAUDIO, UnknownName, is_torchaudio_failure, real, whole
from audioscope.installed import __version__, need
from audioscope.store import data_folder, made_folder

MOST = 1000  # strengths of a sweep
KNOWN = "known-answers/index.html"  # the page of planted maps, beside an atlas of tiny
QUICK = "female,fast,happy,metal,violin,drums"


class _Parser(argparse.ArgumentParser):
    """An argument parser that reports errors in one line, like the rest of this program."""

    def parse_known_args(self, args=None, namespace=None):
        """Join `--strengths -2:2:9` into one word; otherwise, argparse would take the value for an option."""
        words = list(sys.argv[1:] if args is None else args)
        if "--strengths" in words[:-1]:
            at = words.index("--strengths")
            words[at : at + 2] = [f"--strengths={words[at + 1]}"]
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"audioscope: {message} (see {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """The argument parser, with one subcommand per verb."""
    top = _Parser(prog="audioscope", description="See and hear what the attention layers of music models do.")
    top.add_argument("--version", action="version", version=f"audioscope {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    sites = command(verbs, "sites", _sites, "list the attention sites of a model", [MODEL])
    sites.add_argument("--json", action="store_true", help="print JSON")

    check = command(
        verbs, "check", _check, "try audioscope's laws on a model of your own, and measure what a sweep costs", [WEIGHTS]
    )
    check.add_argument(
        "model", nargs="?", default="tiny", metavar="MODEL", help="'tiny' (default), a diffusers folder, or a hub name"
    )
    check.add_argument("--json", action="store_true", help="print JSON")

    atlas = command(verbs, "atlas", _atlas, "build the concept-by-layer atlas and its page", [SAMPLING, PART])
    atlas.add_argument("--quick", action="store_true", help=f"6 concepts ({QUICK}), 4 pairs")
    atlas.add_argument("--concepts", help="comma-separated names, or a CSV file of your own pairs")
    atlas.add_argument("--pairs", type=int, help="pairs per concept (default 8)")
    atlas.add_argument("--seeds", type=int, default=1, help="seeds per pair (default 1)")
    atlas.add_argument("--patch", choices=("text", "output"), help="default: text, or output for sites without text")
    atlas.add_argument(
        "--sites", default="cross", help="a kind (cross, self, cross.heads, cross.keys, cross.values, feed_forward, block, ...), "
        "layer numbers or module paths, comma-separated (default: cross)",
    )  # fmt: skip
    atlas.add_argument(
        "--direction",
        choices=("sufficient", "necessary"),
        default="sufficient",
        help="patch the clean run into the corrupted one (default), or the reverse",
    )
    atlas.add_argument(
        "--when", type=lambda text: int(text) if text.isdigit() else text, metavar="WHEN",
        help="patch only in the early, middle or late steps (equal shares of the log signal-to-noise ratio), in the "
        "'first third', 'middle third' or 'last third' of the steps, or in one step, given by its number",
    )  # fmt: skip
    atlas.add_argument("--scale", choices=("raw", "clipped", "probability"), help="of the impacts on the page (default: raw)")
    atlas.add_argument(
        "--until-stable", type=int, metavar="K", help="stop when K more pairs have not changed the functional layers"
    )
    atlas.add_argument("--negative-prompt", help="prompt of the unconditional branch (default: none)")
    atlas.add_argument("--batch-size", type=int, help="rows per batch, to save memory (default: all layers at once)")
    atlas.add_argument(
        "--beside",
        type=path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="folder of another atlas to offer on the page; can be repeated",
    )
    atlas.add_argument(
        "--bare",
        action="store_true",
        help="write a page of this atlas alone, without what ships with tiny: other maps, steering, features",
    )
    atlas.add_argument("--html", type=path, metavar="FILE", help="also write one HTML file of at most 12 MB, with the best clips")
    atlas.add_argument("--plan", action="store_true", help="only estimate the cost and the precision")
    atlas.add_argument("--out", type=path, default=Path("atlas"), help="output folder; resumed if it holds the same sweep")

    screen = command(
        verbs, "screen", _screen, "estimate by gradients which heads matter for which concepts, and when", [SAMPLING, WORKERS]
    )
    screen.add_argument("--concepts", help="comma-separated names, or a CSV file of your own pairs")
    screen.add_argument("--pairs", type=int, default=4, help="pairs per concept (default 4)")
    screen.add_argument("--seeds", type=int, default=1, help="seeds per pair (default 1)")
    screen.add_argument(
        "--mode", choices=("quick", "path"), default="quick",
        help="one gradient, blind to switches (default), or gradients along each layer's gates, which cost more",
    )  # fmt: skip
    screen.add_argument("--sites", default="cross.heads", help="as for atlas (default: cross.heads)")
    screen.add_argument("--recompute", action="store_true", help="keep one denoising step in memory, for large models")
    screen.add_argument("--top", type=int, default=20, help="how many of the largest estimates to print (default 20)")
    screen.add_argument("--out", type=path, default=Path("screen"), help="output folder; resumed if it holds the same screen")

    attention = command(verbs, "attention", _attention, "show when the model looks at which word of a prompt", [SAMPLING])
    attention.add_argument("prompt")
    attention.add_argument("--seed", type=int, default=0)
    attention.add_argument("--sites", default="cross", help="cross (default), layer numbers or module paths, comma-separated")
    attention.add_argument(
        "--kind", choices=("weights", "values"), default="values",
        help="weights, or values: weights times the norm of what a word can add (default)",
    )  # fmt: skip
    attention.add_argument("--html", type=path, metavar="FILE", help="also write a page on which each word can be heard cut out")

    steer = command(
        verbs, "steer", _steer, "steer music toward a concept: clips, a table and a page with a slider", [SAMPLING, PART]
    )
    what = steer.add_mutually_exclusive_group(required=True)
    what.add_argument("--concept", help="a shipped concept, such as fast, or one from --pairs-from")
    what.add_argument(
        "--all", action="store_true", help="compare all steering methods on every axis (about two hours on two cores)"
    )
    steer.add_argument("--pairs-from", type=path, metavar="CSV", help="your own pairs, with the columns split and neutral")
    steer.add_argument("--strengths", help="first:last:count, or a comma-separated list (default -1:1:9)")
    steer.add_argument("--sites", help="cross (default), own, functional, self, or comma-separated module paths")
    steer.add_argument("--atlas", type=path, help="folder of the model's atlas (default: the shipped one)")
    steer.add_argument("--vector", help="file of the steering vector (default: one is made)")
    steer.add_argument("--pairs", type=int, help="pairs to make the vector from (default: all)")
    steer.add_argument("--prompts", type=int, help="neutral prompts to steer (default 2; 12 with --all)")
    steer.add_argument("--seeds", type=int, help="seeds per prompt (default 1; 2 with --all)")
    steer.add_argument("--work", type=path, default=Path("runs/steering"), help="with --all: folder for the sweeps")
    steer.add_argument("--out", type=path, required=True, help="output folder; resumed if it holds the same sweep")

    merge = command(verbs, "merge", _merge, "put the parts of a sweep together that --part did, without the model")
    merge.add_argument("folders", nargs="+", type=path, metavar="FOLDER", help="folders of the parts, or the one that all used")
    merge.add_argument("--out", type=path, required=True, help="folder for the whole sweep, which may be one of them")

    cli_sae.add(verbs)

    book = command(verbs, "book", _book, "run the notebooks and write them as pages with charts and sound")
    book.add_argument("names", nargs="*", metavar="NAME", help="notebooks to run, such as 00_start_here (default: all)")
    book.add_argument("--notebooks", type=path, metavar="FOLDER", help="folder of the notebooks (default: the shipped ones)")
    book.add_argument("--out", type=path, default=Path("book"), help="output folder (default: book)")
    copy = command(verbs, "notebooks", _notebooks, "copy the notebooks to a folder to work in")
    copy.add_argument("out", type=path, metavar="FOLDER")

    generate = command(verbs, "generate", _generate, "generate a clip from text", [SAMPLING])
    generate.add_argument("prompt")
    generate.add_argument("--seed", type=int, default=0)
    generate.add_argument("--seconds", type=float)
    generate.add_argument("--negative-prompt", metavar="TEXT", help="prompt of the unconditional branch (default: none)")
    generate.add_argument("--out", type=path, required=True, help="a .flac, .wav, .ogg or .mp3 file")

    tiny = verbs.add_parser("tiny", help="train and evaluate the embedded model").add_subparsers(
        dest="what", required=True, metavar="WHAT"
    )
    train = command(tiny, "train", _train, "train the embedded model (CPU or CUDA)")
    train.add_argument("--hours", type=float, required=True, help="total hours of training, including earlier ones when resuming")
    train.add_argument("--resume", action="store_true", help="resume from the state in --work")
    train.add_argument("--out", type=path, default=Path("runs/tiny/pipeline"), help="folder for the finished pipeline")
    train.add_argument("--work", type=path, default=Path("runs/tiny"), help="folder for latents, states and the log")
    train.add_argument("--start", type=path, help="trained pipeline to start from, such as data/tiny (default: from scratch)")
    listeners = command(tiny, "listeners", _listeners, "train the listener and the judge")
    listeners.add_argument("--out", type=path, default=Path("runs/tiny"))
    listeners.add_argument("--work", type=path, default=Path("runs/tiny"))
    listeners.add_argument("--codec", type=path, help="folder of the codec (default: the shipped one)")
    choose = command(tiny, "choose", _choose, "let the listener choose among the last checkpoints of a training run")
    choose.add_argument("--work", type=path, default=Path("runs/tiny"), help="the --work folder of the training run")
    choose.add_argument("--out", type=path, required=True, help="folder for the chosen pipeline")
    evaluate = command(
        tiny,
        "evaluate",
        _evaluate,
        "what the judge, the listener and ears from outside hear in real and in generated clips",
        [WORKERS],
    )
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    evaluate.add_argument("--clips", type=int, default=400, help="clips of each kind (default 400)")
    return top


def _book(options: argparse.Namespace) -> None:
    from audioscope.pages.book import make_book

    print(make_book(options.out, options.notebooks, options.names))


def _notebooks(options: argparse.Namespace) -> None:
    from audioscope.course import copy_notebooks

    copied = copy_notebooks(options.out)
    print(f"{len(copied)} notebooks written to {options.out}: open them with `jupyter lab {options.out}`")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status: 0 when done, 1 when a check fails, 2 for bad input, 130 when interrupted."""
    options = parser().parse_args(arguments)
    if arguments is None:
        # the process ends with the command, and need not look for cycles among all objects first, which takes 2 s
        atexit.register(gc.freeze)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show
            return options.do(options) or 0
    except (ValueError, UnknownName, OSError, ImportError, FloatingPointError) as error:
        text = FIX_TORCHAUDIO if is_torchaudio_failure(error) else str(error)
        print(f"audioscope: {' '.join(text.split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("audioscope: interrupted; finished work is kept", file=sys.stderr)
        return 130


def _strengths(text: str) -> list[float]:
    """ "-2:2:9" is nine numbers from -2 to 2; "0,1,2" is a list."""
    try:
        if ":" not in text:
            return [real("--strengths", float(part)) for part in text.split(",")]
        first, last, count = text.split(":")
        if not 1 < int(count) <= MOST:
            raise ValueError
        step = (float(last) - float(first)) / (int(count) - 1)
        return [round(float(first) + i * step, 6) for i in range(int(count))]
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(
            f"--strengths is {text!r}, expected first:last:count such as -2:2:9, or comma-separated numbers, at most {MOST}."
        ) from error


def _show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """Print our own warnings, one per line; those of libraries are not meant for users of the command line."""
    if category is UserWarning and str(message) not in _said:
        _said.add(str(message))
        print(f"audioscope: {message}", file=sys.stderr)


_said: set[str] = set()  # a command that generates several times would warn each time


def _sites(options: argparse.Namespace) -> None:
    from audioscope.adapters import adapter_of_class, missing
    from audioscope.loading import read_sites

    pipeline, sites = read_sites(options.model)
    frame = sites.to_frame()
    print(json.dumps(frame.to_dict("records"), indent=1) if options.json else frame.to_string(index=False))
    if adapter_of_class(pipeline) is None:
        print(f"audioscope: {missing(pipeline)}", file=sys.stderr)


def _check(options: argparse.Namespace) -> int:
    from audioscope.laws import check_model

    report = check_model(loaded(options))
    print(json.dumps(report.to_dict(), indent=1) if options.json else report)
    return 0 if report.passes else 1


def _atlas(options: argparse.Namespace) -> None:
    from audioscope import datasets
    from audioscope.atlas import localization as patching
    from audioscope.atlas.atlas import Atlas
    from audioscope.concepts import choose
    from audioscope.merging import checked_part
    from audioscope.pages.shipped import known_answers_page, page_extras
    from audioscope.workers import checked_workers

    names = options.concepts if options.concepts is not None else QUICK if options.quick else None
    concepts = _concepts_of(names)
    choose(concepts)  # report a wrong name before the model loads
    beside = [Atlas.load(folder) for folder in options.beside]
    if options.part is None and not options.plan:
        need("pages", "The atlas page")
        _check_pages(options.out / "index.html", options.out / KNOWN, options.html)
    checked_workers(options.workers)
    checked_part(options.part)
    model = loaded(options)
    settings: dict[str, Any] = {
        "concepts": concepts,
        "pairs": options.pairs if options.pairs is not None else 4 if options.quick else 8,
        "patch": options.patch,
        "sites": _sites_of(options.sites),
    } | given(options, "seeds", "direction", "when", "steps", "guidance", "negative_prompt", "batch_size")
    if options.plan:
        print(patching.plan(model, **settings, **given(options, "workers", "part")))
        return
    shared = given(options, "until_stable", "workers", "part")
    atlas = patching.localize(model, **settings, **shared, out=options.out)
    if options.part is not None:
        print(_part_done(options, len(atlas.table.drop_duplicates(["concept", "pair", "seed"]))))
        return
    shipped = not options.bare and datasets.is_shipped(model)
    extras: dict[str, Any] = page_extras(model, atlas, options.out / "steered") if shipped else {}
    extras |= {"others": [*beside, *extras.get("others", [])], "scale": options.scale}
    print(atlas)
    page = atlas.save_site(options.out, **extras, links={"Known answers": KNOWN} if shipped else None)
    if shipped:
        known_answers_page((options.out / KNOWN).parent)
    if options.html is not None:
        print(f"\nThe atlas in one file: {atlas.save_html(options.html, **extras).resolve()}")
    print(f"\nThe atlas: {page.resolve()}\nIts table: {(options.out / 'atlas.parquet').resolve()}")


def _screen(options: argparse.Namespace) -> None:
    from audioscope.atlas.screening import screen
    from audioscope.concepts import choose

    concepts = _concepts_of(options.concepts)
    choose(concepts)  # report a wrong name before the model loads
    whole("--top", options.top, 1)
    how = given(options, "pairs", "seeds", "mode", "recompute", "steps", "guidance", "workers", "out")
    found = screen(loaded(options), concepts, sites=_sites_of(options.sites), **how)
    print(found)
    cells = found.impacts().query("defined").assign(size=lambda table: table["impact"].abs()).nlargest(options.top, "size")
    shown = (
        cells[["concept", "layer", "impact", "low", "high", "residual", "residual_each", "site"]].round(3).to_string(index=False)
    )
    print(shown if len(cells) else "No estimate is defined: it needs more pairs, or the prompts do not move the scores.")
    print(f"\nAll estimates: {(options.out / 'screen.parquet').resolve()}")


def _attention(options: argparse.Namespace) -> None:
    from audioscope.pages.attention import attention_page, check_words

    _check_pages(options.html)
    model, sites, how = loaded(options), _sites_of(options.sites), given(options, "steps", "guidance")
    if options.html:
        check_words(model, options.prompt, sites, options.kind)
    print(attention := model.attention(options.prompt, options.seed, sites, kind=options.kind, **how))
    table = attention.to_frame().groupby(["row", "word"], sort=False)["weight"]
    cells = table.mean().rename("mean").reset_index().drop(columns="row")
    cells["most, at (s)"] = [attention.seconds[line.argmax()] for line in attention.values]
    print(cells.round(4).to_string(index=False))
    if options.html:
        print(
            f"\nThe page: {attention_page(model, options.prompt, options.html, options.seed, sites, options.kind, **how).resolve()}"
        )


def _check_pages(*files: Path | None) -> None:
    """Before hours of work: raises ValueError if a page cannot be written."""
    from audioscope.pages.html import check_page

    for file in files:
        if file is not None:
            check_page(file)
            made_folder(file.parent)


def _concepts_of(names: str | None) -> str | list[str] | None:
    """A CSV file, or names with commas between; None is all."""
    return names if names is None or names.endswith(".csv") else [name.strip() for name in names.split(",")]


def _sites_of(text: str) -> list[int | str]:
    """A selection of sites, from layer numbers, kinds and module paths with commas between."""
    return [int(name) if name.isdecimal() else name for name in map(str.strip, text.split(","))]


def _part_done(options: argparse.Namespace, units: int) -> str:
    return (
        f"Part {options.part}: {units} units in {options.out.resolve()}\n"
        "When all parts are done: audioscope merge FOLDER... --out FOLDER"
    )


def _merge(options: argparse.Namespace) -> None:
    from audioscope import atlas, steer
    from audioscope.merging import kind_of

    merge = {"atlas": atlas.merge, "steering": steer.merge}[kind_of(options.folders[0], ("atlas", "steering"))]
    print(merge(options.folders, options.out))
    print(
        f"\nThe whole sweep: {options.out.resolve()}\nFor its page: the command of the parts, without --part, with --out {options.out}"
    )


def _steer(options: argparse.Namespace) -> None:
    from audioscope.atlas.atlas import Atlas
    from audioscope.concepts import choose, load_concepts
    from audioscope.merging import checked_part
    from audioscope.pages.slider import slider_page
    from audioscope.steer.caa import caa
    from audioscope.steer.methods import vector_method
    from audioscope.steer.sweeps import steering_sweep
    from audioscope.steer.tables import steer_all
    from audioscope.steer.vectors import SteeringVector
    from audioscope.workers import checked_workers

    from_atlas = None if options.atlas is None else Atlas.load(options.atlas)
    sampling = given(options, "steps", "guidance")
    shared, alone = given(options, "workers", "part"), given(options, "workers")
    checked_workers(options.workers)
    checked_part(options.part)
    usual = (12, 2) if options.all else (2, 1)
    prompts, seeds = (each if each is not None else n for each, n in zip((options.prompts, options.seeds), usual, strict=True))
    if options.all:
        if unused := list(given(options, "strengths", "sites", "pairs", "pairs_from", "vector", "part")):
            raise ValueError(
                f"--all cannot be combined with --{unused[0].replace('_', '-')}: "
                "it compares a fixed set of methods on the shipped axes."
            )
        table = steer_all(
            loaded(options), options.out, options.work, prompts=prompts, seeds=seeds, atlas=from_atlas, **alone, **sampling
        )
        shown = ["concept", "method", "sites", "auc", "auc_low", "auc_high", "spearman", "steerable"]
        print(table[shown].round(3).to_string(index=False))
        return
    need("pages", "The page with the slider")
    strengths = _strengths(options.strengths or "-1:1:9")
    if not any(strengths):
        raise ValueError(f"--strengths is {options.strengths!r}: at least one must not be 0.")
    if options.pairs_from is None:
        concept = choose([options.concept])[0]
    elif options.concept in (mine := load_concepts(options.pairs_from)):
        concept = mine[options.concept]
    else:
        raise UnknownName(f"No concept {options.concept!r} in the pairs. There are: {', '.join(mine)}.")
    if not 1 <= prompts <= len(concept.neutral_pairs("test")) or seeds < 1:
        raise ValueError(
            f"--prompts is {prompts} and --seeds {seeds}, expected 1 to {len(concept.neutral_pairs('test'))} prompts "
            f"(neutral prompts from the test split of {concept.name!r}) and at least 1 seed."
        )
    if options.vector is not None and (unused := list(given(options, "sites", "pairs"))):
        raise ValueError(f"--vector cannot be combined with --{unused[0]}: the vector has its sites.")
    if options.part is not None and options.vector is None:
        raise ValueError("--part needs --vector, so that all parts steer with the same one.")
    if options.part is None:
        _check_pages(options.out / "index.html")
    ready = None if options.vector is None else SteeringVector.load(options.vector)
    model, sites = loaded(options), options.sites or "cross"
    if sites not in ("functional", "own", "cross", "self", "all"):
        sites = sites.split(",")
    vector = ready or caa(
        model, concept, sites, options.pairs, atlas=from_atlas, file=options.out / "vector", **alone, **sampling
    )
    method = vector_method(vector, options.sites or ("vector's" if ready else "all"))
    sweep = steering_sweep(
        model, concept, [method], strengths, prompts=prompts, seeds=seeds, clips=True, out=options.out, **shared, **sampling
    )
    if options.part is not None:
        print(_part_done(options, len(sweep.table.drop_duplicates(["prompt", "seed"]))))
        return
    name = f"{concept.opposite} to {concept.name}" if concept.opposite else f"toward {concept.name}"
    where = ", ".join(vector.paths)
    text = (
        f"One steering vector at {where} of {model.name}, at {len(strengths)} strengths. "
        f"Scores come from the {sweep.settings['scorer']}."
    )
    page = slider_page(sweep.tracks(), options.out / "index.html", f"Steering {name}", text, sweep.chart())
    print(sweep.curves()[["strength", "score", "low", "high", "distance", "tempo", "off"]].round(3).to_string(index=False))
    print(f"\nThe page: {page.resolve()}\nIts table: {(options.out / 'clips.parquet').resolve()}")


def _generate(options: argparse.Namespace) -> None:
    from audioscope.audio import check_suffix

    check_suffix(options.out)
    if options.out.is_dir():
        raise ValueError(f"--out is {options.out}, which is a folder: give a file name.")
    sampling = given(options, "steps", "guidance", "seconds", "negative_prompt")
    clip = loaded(options).generate(options.prompt, options.seed, **sampling)
    print(f"{clip.save(options.out)}: {clip}")


def _train(options: argparse.Namespace) -> None:
    from audioscope.tiny.train import train

    if not 0 < options.hours < 10_000:
        raise ValueError(f"--hours is {options.hours:g}, expected more than 0 and less than 10,000.")
    print(train(options.hours, options.out, options.work, resume=options.resume, start=options.start))


def _listeners(options: argparse.Namespace) -> None:
    from audioscope.tiny import listener
    from audioscope.tiny.codec import MelCodec

    codec = MelCodec.from_pretrained(options.codec or data_folder() / "tiny" / "vae")
    for name in listener.POOLS:
        listener.train(name, options.out / name, options.work, codec)
        print(options.out / name)


def _choose(options: argparse.Namespace) -> None:
    from audioscope.tiny.evaluate import choose

    print(choose(options.work / "candidates", options.out).to_string(index=False))


def _evaluate(options: argparse.Namespace) -> None:
    from audioscope.scoring import outside
    from audioscope.tiny.evaluate import as_table, evaluate

    result = evaluate(clips=options.clips, also=outside, workers=options.workers)
    print(json.dumps(result, indent=1) if options.json else as_table(result))
