"""The cells of the shipped sweeps: a method at some sites, its label on pages, and its look in charts.

The only place where these names are defined: tables store them as text; `str(OWN)` is "caa own".
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """A method at some sites.

    color, dash, shape: its look in charts, so that color alone never distinguishes two cells (after Okabe and Ito).
    """

    method: str
    sites: str
    label: str
    color: str
    dash: tuple[int, ...]
    shape: str

    def __str__(self) -> str:
        return f"{self.method} {self.sites}"


OWN = Cell("caa", "own", "localized: its own layers", "#e69f00", (1, 0), "square")
SHARED = Cell("caa", "shared", "localized: shared layers", "#d55e00", (1, 0), "circle")
ALL = Cell("caa", "all", "everywhere", "#0072b2", (1, 0), "diamond")
NATURAL = Cell("caa", "all, natural lengths", "everywhere, in natural lengths", "#56b4e9", (6, 3), "triangle-up")
OWN_NATURAL = Cell("caa", "own, natural lengths", "localized: its own layers, in natural lengths", "#f0b84c", (6, 3), "square")
# without the memory, tokens that some models put before those of the music
OWN_MUSIC = Cell("caa", "own, music alone", "localized, without the memory", "#8f5f00", (2, 2), "square")
ALL_MUSIC = Cell("caa", "all, music alone", "everywhere, without the memory", "#003f66", (2, 2), "diamond")
RANDOM_SETS = "random layers"  # the sites of each set, before its number
RANDOM_LAYERS = tuple(
    Cell("caa", f"{RANDOM_SETS} {number}", f"{RANDOM_SETS}, set {number}", "#8a8580", dash, "triangle-down")
    for number, dash in ((1, (4, 3)), (2, (8, 2)), (3, (2, 2)))
)
ANY_RANDOM_LAYERS = f"caa {RANDOM_SETS}"  # the three sets together, see `SteeringSweep.family`
RANDOM_DIRECTION = Cell("random direction", "own", "random direction", "#8a8580", (1, 3), "cross")
FIXED_DIRECTION = Cell("fixed direction", "own", "one random direction", "#5b5651", (1, 2), "cross")
SHUFFLED_LABELS = Cell("shuffled labels", "own", "shuffled labels", "#5b5651", (4, 4), "stroke")
TEXT_BLEND, FREE_SLIDERS, TOKENS, PROBE, AUSTEER = "text blend", "free sliders", "token embeddings", "probe", "austeer"
# its largest distance is the budget of all cells
REWRITTEN = Cell("pci", "all", "the prompt rewritten", "#009e73", (8, 3), "triangle-right")
SAE_TUNED = Cell("sae", "tuned", "features, tuned", "#cc79a7", (1, 0), "triangle-left")
CAA_TUNED = Cell("caa", "tuned", "CAA, tuned", "#0072b2", (6, 3), "diamond")
SAE_UNTUNED = Cell("sae", "untuned", "features, untuned", "#cc79a7", (2, 2), "triangle-left")
CAA_UNTUNED = Cell("caa", "untuned", "CAA, untuned", "#56b4e9", (2, 2), "diamond")
RANDOM_FEATURES = Cell("random features", "tuned", "random features", "#8a8580", (1, 3), "cross")

CELLS = {
    str(cell): cell
    for cell in (
        OWN, SHARED, ALL, OWN_NATURAL, NATURAL, OWN_MUSIC, ALL_MUSIC, *RANDOM_LAYERS, RANDOM_DIRECTION, FIXED_DIRECTION, SHUFFLED_LABELS, REWRITTEN,
        SAE_TUNED, CAA_TUNED, SAE_UNTUNED, CAA_UNTUNED, RANDOM_FEATURES,
    )
}  # fmt: skip

PAIRS = tuple(  # the question for every axis: is the first better than the second at equal preservation?
    (str(one), str(other))
    for one, other in (
        (OWN, ALL), (SHARED, ALL), (OWN, ANY_RANDOM_LAYERS), (ALL, ANY_RANDOM_LAYERS), (NATURAL, ALL), (OWN, NATURAL),
        (OWN_NATURAL, NATURAL), (OWN_NATURAL, OWN), (OWN, OWN_MUSIC), (ALL, ALL_MUSIC), (OWN_MUSIC, ALL_MUSIC),
        (OWN, RANDOM_DIRECTION), (ALL, RANDOM_DIRECTION), (ANY_RANDOM_LAYERS, RANDOM_DIRECTION), (OWN, FIXED_DIRECTION),
        (OWN, SHUFFLED_LABELS), (OWN, REWRITTEN), (ALL, REWRITTEN), (NATURAL, REWRITTEN),
    )
)  # fmt: skip
FEATURE_PAIRS = tuple(  # and for features, with each method tuned on the selection split, or as in the paper
    (str(one), str(other))
    for one, other in (
        (SAE_TUNED, CAA_TUNED), (SAE_UNTUNED, CAA_UNTUNED), (SAE_TUNED, RANDOM_FEATURES), (CAA_TUNED, RANDOM_FEATURES),
        (SAE_TUNED, SAE_UNTUNED), (CAA_TUNED, CAA_UNTUNED), (SAE_TUNED, REWRITTEN), (CAA_TUNED, REWRITTEN),
    )
)  # fmt: skip
LOCALIZED = tuple(
    (f"{method} {OWN.sites}", f"{method} {ALL.sites}")
    for method in (PROBE, AUSTEER, TOKENS, FREE_SLIDERS, TEXT_BLEND, REWRITTEN.method)
)


def label_of(name: str) -> str:
    """The label of a cell on pages; a user's own cell keeps its name."""
    return CELLS[name].label if name in CELLS else name
