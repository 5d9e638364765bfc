"""What commands share: a subcommand with its function, the options that several have, and those that were given."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from audioscope.errors import as_path

MODEL = argparse.ArgumentParser(add_help=False)
MODEL.add_argument("--model", default="tiny", help="'tiny', a diffusers folder, or a hub name")
WEIGHTS = argparse.ArgumentParser(add_help=False)
WEIGHTS.add_argument("--device", help="such as cuda (default: a GPU if there is one, else the CPU)")
WEIGHTS.add_argument("--dtype", help="float32 (default), bfloat16 or float16")
WEIGHTS.add_argument("--variant", help="of the weight files, such as fp16")
WORKERS = argparse.ArgumentParser(add_help=False)
WORKERS.add_argument(
    "--workers", type=lambda text: int(text) if text.isdigit() else text, metavar="N",
    help="processes, or ray, or ray://address (default: as many as there are cores and memory, or GPUs, for)",
)  # fmt: skip
PART = argparse.ArgumentParser(add_help=False, parents=[WORKERS])
PART.add_argument(
    "--part", metavar="I/N", help="do only the I-th of N equal parts, for batch systems; `audioscope merge` puts them together"
)
SAMPLING = argparse.ArgumentParser(add_help=False, parents=[MODEL, WEIGHTS])
SAMPLING.add_argument("--steps", type=int, help="denoising steps (default: the model's)")
SAMPLING.add_argument("--guidance", type=float, help="guidance (default: the model's)")


def command(
    verbs: Any,
    name: str,
    do: Callable[[argparse.Namespace], int | None],
    help: str,
    parents: Sequence[argparse.ArgumentParser] = (),
) -> argparse.ArgumentParser:
    """Add a subcommand. do: what runs it and may return an exit status; parents: the shared options that it has."""
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=help, parents=parents)
    parser.set_defaults(do=do)
    return parser


def path(text: str) -> Path:
    """A path as an argument, also in the form --out=~/folder, which no shell expands."""
    try:
        return as_path(text)
    except ValueError as error:  # argparse says the reason of this kind only
        raise argparse.ArgumentTypeError(str(error)) from error


def loaded(options: argparse.Namespace) -> Any:
    """The model that the options of a command name."""
    from audioscope.loading import load

    return load(options.model, **given(options, "device", "dtype", "variant"))


def given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those of some options that were given, as keywords for a function that has their defaults."""
    return {name: value for name in names if (value := getattr(options, name)) is not None}
