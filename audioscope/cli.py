"""The command line: audioscope sites | atlas | steer | sae | book | notebooks | generate | tiny. Bad input ends with status 2 and one line."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from audioscope import cli_sae
from audioscope.errors import MEND, UnknownName, is_torchaudio_failure
from audioscope.paths import data_folder

if TYPE_CHECKING:
    from audioscope.concepts import Concept

QUICK = "female,fast,happy,metal,violin,drums"


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, as all of this program's are."""

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def, override]
        """`--strengths -2:2:9` becomes one word, or argparse would take the value for an option."""
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
    verbs = top.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    sites = verbs.add_parser("sites", help="list the attention sites of a model")
    sites.add_argument("--model", default="tiny", help="'tiny', a diffusers folder, or a hub name")
    sites.add_argument("--json", action="store_true", help="print JSON")
    sites.set_defaults(do=_sites)

    atlas = verbs.add_parser("atlas", help="build the concept-by-layer atlas and its page")
    atlas.add_argument("--model", default="tiny", help="'tiny', a diffusers folder, or a hub name")
    atlas.add_argument("--quick", action="store_true", help=f"6 concepts ({QUICK}), 4 pairs")
    atlas.add_argument("--concepts", help="comma-separated names, or a CSV of your own pairs")
    atlas.add_argument("--pairs", type=int, help="pairs per concept (default 8)")
    atlas.add_argument("--seeds", type=int, default=1, help="seeds per pair (default 1)")
    atlas.add_argument("--patch", choices=("text", "output"), help="default: text, and output for --sites self")
    atlas.add_argument("--sites", choices=("cross", "self"), default="cross")
    atlas.add_argument("--steps", type=int, help="denoising steps (default: the model's)")
    atlas.add_argument("--guidance", type=float, help="guidance (default: the model's)")
    atlas.add_argument(
        "--direction",
        choices=("sufficient", "necessary"),
        default="sufficient",
        help="clean into the corrupted run, or the reverse",
    )
    atlas.add_argument(
        "--when", type=lambda text: int(text) if text.isdigit() else text, metavar="WHEN",
        help="patch only in the early, middle or late steps (equal shares of the log signal-to-noise ratio), the 'first third', 'middle "
        "third' or 'last third' of the steps, or one step by its number",
    )  # fmt: skip
    atlas.add_argument("--scale", choices=("raw", "clipped", "probability"), help="of the impacts on the page (default: raw)")
    atlas.add_argument(
        "--until-stable", type=int, metavar="K", help="stop when K more pairs did not change the functional layers"
    )
    atlas.add_argument("--negative-prompt", help="stands in the unconditional branch (default: nothing)")
    atlas.add_argument("--batch", type=int, help="rows at a time, where memory is short (default: all layers at once)")
    atlas.add_argument(
        "--beside",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="another atlas to choose on the page; may be repeated",
    )
    atlas.add_argument(
        "--bare",
        action="store_true",
        help="a page of this atlas alone, without what ships with tiny: other maps, steering, features",
    )
    atlas.add_argument("--html", type=Path, metavar="FILE", help="also one HTML file of at most 12 MB, with the best clips")
    atlas.add_argument("--plan", action="store_true", help="only say what it would cost and how sure it would be")
    atlas.add_argument("--out", type=Path, default=Path("atlas"), help="folder, resumed if it holds the same sweep")
    atlas.set_defaults(do=_atlas)

    steer = verbs.add_parser("steer", help="steer music towards a concept; clips, a table and a page with a slider")
    what = steer.add_mutually_exclusive_group(required=True)
    what.add_argument("--concept", help="a shipped concept, such as fast, or one of --pairs-from")
    what.add_argument(
        "--all", action="store_true", help="the comparison of all ways to steer on every axis (an hour on two cores)"
    )
    steer.add_argument("--pairs-from", type=Path, metavar="CSV", help="your own pairs, with columns split and neutral")
    steer.add_argument("--model", default="tiny", help="'tiny', a diffusers folder, or a hub name")
    steer.add_argument("--strengths", help="first:last:count, or a comma-separated list (default -2:2:9)")
    steer.add_argument("--sites", help="functional, own (default), cross, self, or module paths with commas")
    steer.add_argument("--atlas", type=Path, help="folder of the model's atlas (default: the shipped one)")
    steer.add_argument("--pairs", type=int, help="pairs that make the vector (default 50)")
    steer.add_argument("--prompts", type=int, help="neutral prompts to steer (default 2; 12 with --all)")
    steer.add_argument("--seeds", type=int, help="seeds for each prompt (default 1; 2 with --all)")
    steer.add_argument("--steps", type=int, help="denoising steps (default: the model's)")
    steer.add_argument("--guidance", type=float, help="guidance (default: the model's)")
    steer.add_argument("--work", type=Path, default=Path("runs/steering"), help="with --all: where the sweeps lie")
    steer.add_argument("--out", type=Path, required=True, help="folder, resumed if it holds the same sweep")
    steer.set_defaults(do=_steer)

    cli_sae.add(verbs)

    book = verbs.add_parser("book", help="run the notebooks and write them as pages with charts and sound")
    book.add_argument("names", nargs="*", metavar="NAME", help="some notebooks, such as 00_start_here (default: all)")
    book.add_argument("--notebooks", type=Path, metavar="FOLDER", help="of the notebooks (default: those of audioscope)")
    book.add_argument("--out", type=Path, default=Path("book"), help="folder of the pages (default: book)")
    book.set_defaults(do=_book)
    copy = verbs.add_parser("notebooks", help="copy the notebooks to a folder, to work on them")
    copy.add_argument("out", type=Path, metavar="FOLDER")
    copy.set_defaults(do=_notebooks)

    generate = verbs.add_parser("generate", help="make a clip from text")
    generate.add_argument("prompt")
    generate.add_argument("--model", default="tiny")
    generate.add_argument("--seed", type=int, default=0)
    generate.add_argument("--steps", type=int)
    generate.add_argument("--guidance", type=float)
    generate.add_argument("--seconds", type=float)
    generate.add_argument("--out", type=Path, required=True, help="a .flac, .wav, .ogg or .mp3 file")
    generate.set_defaults(do=_generate)

    tiny = verbs.add_parser("tiny", help="train and evaluate the embedded model").add_subparsers(
        dest="what", required=True, metavar="WHAT"
    )
    train = tiny.add_parser("train", help="train the embedded model (CPU or CUDA)")
    train.add_argument("--hours", type=float, required=True, help="total training time, earlier hours counted when resuming")
    train.add_argument("--resume", action="store_true", help="go on from the state in --work")
    train.add_argument("--out", type=Path, default=Path("runs/tiny/pipeline"), help="where the finished pipeline goes")
    train.add_argument("--work", type=Path, default=Path("runs/tiny"), help="where latents, states and the log go")
    train.set_defaults(do=_train)
    train.add_argument("--start", type=Path, help="a trained pipeline to go on from, such as data/tiny (default: from nothing)")
    listeners = tiny.add_parser("listeners", help="train the listener and the judge")
    listeners.add_argument("--out", type=Path, default=Path("runs/tiny"))
    listeners.add_argument("--work", type=Path, default=Path("runs/tiny"))
    listeners.add_argument("--codec", type=Path, help="folder of the codec (default: the shipped one)")
    listeners.set_defaults(do=_listeners)
    choose = tiny.add_parser("choose", help="let the listener choose between a training's last checkpoints")
    choose.add_argument("--work", type=Path, default=Path("runs/tiny"), help="the --work folder of the training")
    choose.add_argument("--out", type=Path, required=True, help="where the chosen pipeline goes")
    choose.set_defaults(do=_choose)
    evaluate = tiny.add_parser("evaluate", help="accuracy of listener and judge, on real and on generated clips")
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    evaluate.add_argument("--clips", type=int, default=400, help="clips of each kind (default 400)")
    evaluate.set_defaults(do=_evaluate)
    return top


def _book(options: argparse.Namespace) -> None:
    from audioscope.book import make_book

    print(make_book(options.out, options.notebooks, options.names))


def _notebooks(options: argparse.Namespace) -> None:
    from audioscope.book import copy_notebooks

    copied = copy_notebooks(options.out)
    print(f"{len(copied)} notebooks written to {options.out}: open them with `jupyter lab {options.out}`")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 when done, 2 for bad input, 130 when interrupted."""
    options = parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show
            options.do(options)
    except (ValueError, UnknownName, OSError, FloatingPointError) as error:
        text = MEND if is_torchaudio_failure(error) else str(error)
        print(f"audioscope: {' '.join(text.split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("audioscope: interrupted; what was finished is kept", file=sys.stderr)
        return 130
    return 0


def _strengths(text: str) -> list[float]:
    """ "-2:2:9" is nine numbers from -2 to 2; "0,1,2" is a list."""
    try:
        if ":" not in text:
            return [float(part) for part in text.split(",")]
        first, last, count = text.split(":")
        step = (float(last) - float(first)) / (int(count) - 1)
        return [round(float(first) + i * step, 6) for i in range(int(count))]
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"--strengths is {text!r}, expected first:last:count such as -2:2:9, or numbers with commas.") from error


def _show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """Our own warnings as a line; those of libraries are not for the user of a command."""
    if category is UserWarning:
        print(f"audioscope: {message}", file=sys.stderr)


def _sites(options: argparse.Namespace) -> None:
    from audioscope.adapters import adapter_of_class, missing
    from audioscope.model import read_sites

    pipeline, sites = read_sites(options.model)
    frame = sites.frame()
    print(json.dumps(frame.to_dict("records"), indent=1) if options.json else frame.to_string(index=False))
    if adapter_of_class(pipeline) is None:
        print(f"audioscope: {missing(pipeline)}", file=sys.stderr)


def _atlas(options: argparse.Namespace) -> None:
    from audioscope import patching
    from audioscope.atlas import Atlas
    from audioscope.concepts import choose
    from audioscope.extras import is_shipped, page_extras
    from audioscope.model import load

    names = options.concepts if options.concepts is not None else QUICK if options.quick else None
    concepts = names if names is None or names.endswith(".csv") else [name.strip() for name in names.split(",")]
    choose(concepts)  # a wrong name should not wait for the model
    beside = [Atlas.load(folder) for folder in options.beside]
    if options.html is not None and options.html.is_dir():
        raise ValueError(f"--html is {options.html}, which is a folder: name a file.")
    model = load(options.model)
    settings = {
        "concepts": concepts,
        "pairs": options.pairs if options.pairs is not None else 4 if options.quick else 8,
        "seeds": options.seeds,
        "patch": options.patch or ("output" if options.sites == "self" else "text"),
        "direction": options.direction,
        "when": options.when,
        "sites": options.sites,
        "steps": options.steps,
        "guidance": options.guidance,
        "negative_prompt": options.negative_prompt,
        "batch": options.batch,
    }
    if options.plan:
        print(patching.plan(model, **settings))
        return
    atlas = patching.localize(model, **settings, until_stable=options.until_stable, out=options.out)
    extras: dict[str, Any] = {"others": []}
    if not options.bare and is_shipped(model):
        extras = page_extras(model, atlas, options.out / "steered")
    extras["others"] = [*beside, *extras["others"]]
    print(atlas)
    extras["scale"] = options.scale
    page = atlas.save_site(options.out, **extras)
    if options.html is not None:
        print(f"\nThe atlas in one file: {atlas.save_html(options.html, **extras).resolve()}")
    print(f"\nThe atlas: {page.resolve()}\nIts table: {(options.out / 'atlas.parquet').resolve()}")


def _steer(options: argparse.Namespace) -> None:
    from audioscope.arms import vector_arm
    from audioscope.axes import steer_all
    from audioscope.concepts import choose, concepts_from
    from audioscope.model import load
    from audioscope.slider import slider_page
    from audioscope.steering import caa
    from audioscope.strengths import steering_sweep

    from_atlas = None
    if options.atlas is not None:
        from audioscope.atlas import Atlas

        from_atlas = Atlas.load(options.atlas)
    settings = {"steps": options.steps, "guidance": options.guidance, "atlas": from_atlas}
    if options.all:
        unused = [name for name in ("strengths", "sites", "pairs", "pairs_from") if getattr(options, name) is not None]
        if unused:
            raise ValueError(
                f"--all takes no --{unused[0].replace('_', '-')}: it compares set ways to steer on the shipped axes."
            )
        prompts, seeds = (given if given is not None else usual for given, usual in ((options.prompts, 12), (options.seeds, 2)))
        table = steer_all(load(options.model), options.out, options.work, prompts=prompts, seeds=seeds, **settings)
        shown = ["concept", "method", "sites", "auc", "auc_low", "auc_high", "spearman", "steerable"]
        print(table[shown].round(3).to_string(index=False))
        return
    strengths = _strengths(options.strengths or "-2:2:9")
    if not any(strengths):
        raise ValueError(f"--strengths is {options.strengths!r}: at least one must not be 0.")
    concept = (
        choose([options.concept])[0] if options.pairs_from is None else _own(options.concept, concepts_from(options.pairs_from))
    )
    prompts, seeds = (given if given is not None else usual for given, usual in ((options.prompts, 2), (options.seeds, 1)))
    pairs = options.pairs if options.pairs is not None else 50
    if not 1 <= prompts <= len(concept.neutral_pairs("test")) or seeds < 1:
        raise ValueError(
            f"--prompts is {prompts} and --seeds {seeds}, expected 1 to {len(concept.neutral_pairs('test'))} prompts (neutral ones of the "
            f"test split of {concept.name!r}) and at least 1 seed."
        )
    which = options.sites or "own"
    model = load(options.model)
    sites = which if which in ("functional", "own", "cross", "self", "all") else which.split(",")
    vector = caa(model, concept, sites, pairs, file=options.out / "vector", **settings)
    del settings["atlas"]
    sweep = steering_sweep(
        model,
        concept,
        [vector_arm(vector, which)],
        strengths,
        prompts=prompts,
        seeds=seeds,
        clips=True,
        out=options.out,
        **settings,
    )
    name = f"{concept.opposite} to {concept.name}" if concept.opposite else f"towards {concept.name}"
    where = ", ".join(vector.paths)
    text = f"One steering vector at {where} of {model.name}, at {len(strengths)} strengths. Scores are by the {sweep.settings['scorer']}."
    page = slider_page(sweep.tracks(), options.out / "index.html", f"Steering {name}", text, sweep.chart())
    print(sweep.curves()[["alpha", "score", "low", "high", "lpaps", "tempo", "off"]].round(3).to_string(index=False))
    print(f"\nThe page: {page.resolve()}\nIts table: {(options.out / 'clips.parquet').resolve()}")


def _own(name: str, concepts: dict[str, Concept]) -> Concept:
    if name not in concepts:
        raise UnknownName(f"The pairs hold no concept {name!r}. There are: {', '.join(concepts)}.")
    return concepts[name]


def _generate(options: argparse.Namespace) -> None:
    from audioscope.audio import check_suffix
    from audioscope.model import load

    check_suffix(options.out)
    if options.out.is_dir():
        raise ValueError(f"--out is {options.out}, which is a folder: name a file.")
    clip = load(options.model).generate(
        options.prompt, options.seed, steps=options.steps, guidance=options.guidance, seconds=options.seconds
    )  # fmt: skip
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
    from audioscope.tiny.evaluate import as_table, evaluate

    result = evaluate(clips=options.clips)
    print(json.dumps(result, indent=1) if options.json else as_table(result))


if __name__ == "__main__":
    raise SystemExit(main())
