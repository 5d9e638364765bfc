"""`audioscope sae`: train sparse autoencoders at a model's sites, compare their features, and write feature pages."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from audioscope.cli.parts import MODEL, SAMPLING, WEIGHTS, WORKERS, command, given, loaded, path


def add(verbs: Any) -> None:
    """Add the command to a parser's subcommands."""
    sae = verbs.add_parser("sae", help="train sparse autoencoders and see what their features mean").add_subparsers(
        dest="what", required=True, metavar="WHAT"
    )
    train = command(
        sae, "train", _train, "train an SAE at each site, evaluate it, and score and compare its features", [SAMPLING, WORKERS]
    )
    train.add_argument("--sites", help="comma-separated module paths (default: the two strongest layers of the model's atlas)")
    train.add_argument("--atlas", type=path, help="folder of the model's atlas (default: the shipped one)")
    train.add_argument(
        "--prompts", type=path, metavar="TXT", help="one prompt per line (default: the build split of the shipped concepts)"
    )
    train.add_argument("--expansion-factor", type=int, help="features per dimension of the input (default 4)")
    train.add_argument("--k", type=int, help="active features per token (default 8)")
    train.add_argument("--kind", choices=("batchtopk", "topk"), help="default batchtopk")
    train.add_argument("--training-tokens", type=int, help="tokens to train on (default 3.8 million)")
    train.add_argument("--buffer-epochs", type=int, help="passes over each buffer (default 2)")
    train.add_argument("--branches", default="cond", help="guidance branches: cond (default), uncond, or cond,uncond")
    train.add_argument("--positions", type=int, help="time tokens kept per generation and step (default: all)")
    train.add_argument("--seconds", type=float, help="length of the generated clips (default: the model's)")
    train.add_argument("--batch-size", type=int, help="generations per batch (default 32)")
    train.add_argument("--pairs", type=int, help="pairs per concept to score and compare with (default: all)")
    train.add_argument("--skip-report", action="store_true", help="only train and evaluate")
    train.add_argument("--work", type=path, default=Path("runs/sae"), help="folder for the states of training runs; resumed")
    train.add_argument("--out", type=path, required=True, help="output folder, with one subfolder per site")

    pages = command(sae, "pages", _pages, "write a searchable folder of feature pages with sound", [MODEL, WEIGHTS])
    pages.add_argument("--sae", required=True, help="an SAE's folder, or a site of 'tiny' with a shipped SAE")
    pages.add_argument("--features", help="comma-separated numbers (default: the two best for each concept)")
    pages.add_argument(
        "--prompts", type=path, metavar="TXT", help="prompts to search, one per line (default: 96 of the test split)"
    )
    pages.add_argument("--out", type=path, required=True, help="output folder")


def _lines(file: Path | None) -> list[str]:
    """The prompts in a file. Raises ValueError if there are none."""
    if file is None:
        return []
    found = [line.strip() for line in file.read_text().splitlines() if line.strip()]
    if not found:
        raise ValueError(f"{file} has no prompts, expected one per line.")
    return found


def _train(options: argparse.Namespace) -> None:
    from audioscope import datasets
    from audioscope.atlas.atlas import Atlas
    from audioscope.sae.comparison import wins
    from audioscope.sae.pipeline import report_saes, strongest_sites, train_saes

    model = loaded(options)
    if options.sites is None:
        atlas = Atlas.load(options.atlas) if options.atlas else datasets.atlas()
        if atlas.settings.get("fingerprint") != model.fingerprint:
            raise ValueError(
                f"The atlas is not of {options.model!r}: pass that model's atlas with --atlas, or name the sites with --sites."
            )
        sites = strongest_sites(atlas)
    else:
        sites = [site.path for site in model.sites.select(options.sites.split(","))]
    training = given(options, "expansion_factor", "k", "kind", "training_tokens", "buffer_epochs")
    settings, shared = given(options, "steps", "guidance", "seconds", "batch_size"), given(options, "workers")
    saes = train_saes(
        model, sites, options.out, options.work, prompts=_lines(options.prompts), branches=tuple(options.branches.split(",")),
        positions=options.positions, settings=settings, **shared, **training,
    )  # fmt: skip
    for site, sae in saes.items():
        report = sae.report
        levels = len(report["sigmas"])
        print(
            f"{site}: {'passes' if report['passes'] else 'FAILS'} the evaluation, below both baselines at "
            f"{levels - len(sae.failed(report['sigmas']))} of {levels} noise levels, fvu {report['fvu']:.3f}, "
            f"l0 {report['l0']:.1f}, dead {report['dead_share']:.1%}"
        )
    if not options.skip_report:
        table = report_saes(
            model, options.out, list(saes), prompts=_lines(options.prompts), pairs=options.pairs, **shared, **settings
        )
        print(wins(table).to_string(index=False))
    print(f"\nThe SAEs: {options.out.resolve()}")


def _pages(options: argparse.Namespace) -> None:
    from audioscope import datasets
    from audioscope.pages.features import feature_pages
    from audioscope.pages.html import check_page
    from audioscope.sae.files import load_sae

    sae = load_sae(datasets.saes().get(options.sae, options.sae))
    try:
        features = None if options.features is None else [int(part) for part in options.features.split(",")]
    except ValueError as error:
        raise ValueError(f"--features is {options.features!r}, expected comma-separated numbers.") from error
    check_page(options.out / "index.html")
    index = feature_pages(sae, loaded(options), options.out, features, prompts=_lines(options.prompts) or None)
    print(f"The pages: {index.resolve()}")
