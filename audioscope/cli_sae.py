"""`audioscope sae`: train sparse autoencoders of a model's sites, compare their features, write feature pages."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(verbs: Any) -> None:
    """Add the command to a parser's commands."""
    sae = verbs.add_parser("sae", help="train sparse autoencoders; what their features mean").add_subparsers(
        dest="what", required=True, metavar="WHAT"
    )
    train = sae.add_parser("train", help="train an SAE of each site, gate it, score and compare its features")
    train.add_argument("--model", default="tiny", help="'tiny', a diffusers folder, or a hub name")
    train.add_argument("--sites", help="module paths with commas (default: the two strongest layers of the model's atlas)")
    train.add_argument("--atlas", type=Path, help="folder of the model's atlas (default: the shipped one)")
    train.add_argument(
        "--prompts", type=Path, metavar="TXT", help="one prompt a line (default: the shipped concepts' build split)"
    )
    train.add_argument("--expansion", type=int, default=4, help="features for each dimension (default 4)")
    train.add_argument("--k", type=int, default=8, help="active features a token (default 8)")
    train.add_argument("--kind", choices=("batchtopk", "topk"), default="batchtopk")
    train.add_argument("--tokens", type=int, help="tokens to train on (default 3.8 million)")
    train.add_argument("--reuse", type=int, help="how often each buffer is gone through (default 2)")
    train.add_argument("--branches", default="cond", help="of guidance: cond (default), uncond, or cond,uncond")
    train.add_argument("--positions", type=int, help="time tokens kept of each generation and step (default: all)")
    train.add_argument("--steps", type=int, help="denoising steps (default: the model's)")
    train.add_argument("--guidance", type=float, help="guidance (default: the model's)")
    train.add_argument("--seconds", type=float, help="length of the generations (default: the model's)")
    train.add_argument("--batch", type=int, help="generations at a time (default 32)")
    train.add_argument("--pairs", type=int, help="pairs of each concept to score and compare with (default: all)")
    train.add_argument("--skip-report", action="store_true", help="train and gate only")
    train.add_argument("--work", type=Path, default=Path("runs/sae"), help="where states of trainings lie, resumed")
    train.add_argument("--out", type=Path, required=True, help="a folder for each site is made in it")
    train.set_defaults(do=_train)

    pages = sae.add_parser("pages", help="a searchable folder of feature pages with sound")
    pages.add_argument("--sae", required=True, help="an SAE's folder, or a site of 'tiny' whose SAE ships")
    pages.add_argument("--model", default="tiny", help="'tiny', a diffusers folder, or a hub name")
    pages.add_argument("--features", help="numbers with commas (default: the two best of each concept)")
    pages.add_argument(
        "--prompts", type=Path, metavar="TXT", help="prompts to search, one a line (default: 96 of the test split)"
    )
    pages.add_argument("--out", type=Path, required=True, help="folder")
    pages.set_defaults(do=_pages)


def _lines(file: Path | None) -> list[str]:
    """The prompts of a file. Raises ValueError where it has none."""
    if file is None:
        return []
    found = [line.strip() for line in file.read_text().splitlines() if line.strip()]
    if not found:
        raise ValueError(f"{file} has no prompts: expected one a line.")
    return found


def _train(options: argparse.Namespace) -> None:
    from audioscope.atlas import Atlas
    from audioscope.comparison import wins
    from audioscope.model import load
    from audioscope.sae_results import report_saes, strongest_sites, train_saes

    model = load(options.model)
    if options.sites is None:
        atlas = Atlas.load(options.atlas) if options.atlas else Atlas.load()
        if atlas.settings.get("fingerprint") != model.fingerprint:
            raise ValueError(f"The atlas is not of {options.model!r}: give its own by --atlas, or name --sites.")
        sites = strongest_sites(atlas)
    else:
        sites = [site.path for site in model.sites.select(options.sites.split(","))]
    chosen = {name: getattr(options, name) for name in ("expansion", "k", "kind", "tokens", "reuse")}
    training = {name: value for name, value in chosen.items() if value is not None}
    settings = {name: getattr(options, name) for name in ("steps", "guidance", "seconds")}
    batch = {} if options.batch is None else {"batch": options.batch}
    saes = train_saes(
        model, sites, options.out, options.work, prompts=_lines(options.prompts), branches=tuple(options.branches.split(",")),
        positions=options.positions, settings=settings | batch, **training,
    )  # fmt: skip
    for site, sae in saes.items():
        facts = sae.report
        levels = len(facts["sigmas"])
        print(
            f"{site}: {'passes' if facts['passes'] else 'FAILS'} the gate, below both bars at {levels - len(sae.failed(facts['sigmas']))} of "
            f"{levels} noise levels, fvu {facts['fvu']:.3f}, l0 {facts['l0']:.1f}, dead {facts['dead_share']:.1%}"
        )
    if not options.skip_report:
        table = report_saes(
            model, options.out, list(saes), prompts=_lines(options.prompts), pairs=options.pairs, **settings, **batch
        )
        print(wins(table).to_string(index=False))
    print(f"\nThe SAEs: {options.out.resolve()}")


def _pages(options: argparse.Namespace) -> None:
    from audioscope.feature_pages import feature_pages
    from audioscope.model import load
    from audioscope.sae_files import load_sae

    sae = load_sae(options.sae)
    try:
        features = None if options.features is None else [int(part) for part in options.features.split(",")]
    except ValueError as error:
        raise ValueError(f"--features is {options.features!r}, expected numbers with commas.") from error
    index = feature_pages(sae, load(options.model), options.out, features, prompts=_lines(options.prompts) or None)
    print(f"The pages: {index.resolve()}")
