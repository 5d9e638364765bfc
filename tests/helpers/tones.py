"""Results made by hand whose every clip is a tone of its own, so that a test can hear which clip plays."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from audioscope.atlas.atlas import Atlas
from audioscope.audio import Clip
from audioscope.sites import Site
from audioscope.steer.results import SteeringSweep

RATE, SECONDS, LAYERS, PAIRS = 16000, 2.0, 4, 4
EVIL = "<script>window.evil=1</script>"
GROUPS = {"rap": "voice", "choir": "voice", "fast": "tempo", EVIL: ""}
UNDEFINED = "choir"  # its clean and corrupted clips score alike
BEST = {"rap": 2, "choir": 0, "fast": 1, EVIL: 2}  # the layer that carries each concept
ROWS = ("clean", "corrupted", *range(LAYERS))


def site(layer: int) -> str:
    return f"transformer.transformer_blocks.{layer}.cross_attn"


def pitch(concept: str, row, pair: int = 0) -> float:
    """The frequency in Hz of a clip; no two clips are alike."""
    number = list(GROUPS).index(concept) * len(ROWS) + ROWS.index(row)
    return 300.0 + 100.0 * number + 23.0 * pair


def tone(frequency: float, level: float = 0.2) -> Clip:
    time = np.arange(int(RATE * SECONDS)) / RATE
    return Clip((level * np.sin(2 * np.pi * frequency * time))[None].astype("float32"), RATE)


def atlas_of_tones(folder: Path, sound_of_pairs: int = PAIRS, **changed) -> Atlas:
    """Four concepts by four layers, with clips of the first pairs; patched at its best layer a concept is nine tenths there."""
    rng = np.random.default_rng(0)
    lines = []
    for concept in GROUPS:
        for pair in range(PAIRS):
            prompts = {
                "clean_prompt": f'a "loud" {concept} song & more',
                "corrupted_prompt": 'a "loud" </script><img src="https://x.y/z"> song & more',
            }
            for row in ROWS:
                name, layer = (row, -1) if isinstance(row, str) else ("patched", row)
                gain = {"clean": 1.0, "corrupted": 0.0}.get(row, 0.9 if row == BEST[concept] else 0.0)
                file = ""
                if pair < sound_of_pairs:
                    file = f"clips/{list(GROUPS).index(concept)} {pair}#/{row}.flac"
                    # loudness differs from clip to clip, as that of a model's does
                    tone(pitch(concept, row, pair), 0.05 + 0.05 * (ROWS.index(row) % 4)).save(folder / file)
                for scored in GROUPS:
                    own = scored == concept
                    score = (0.0 if concept == UNDEFINED else 6 * gain - 3) if own else 0.0
                    lines.append({
                        "row": name, "site": site(layer) if layer >= 0 else "", "layer": layer, "clip": file, "failed": False,
                        "scored": scored, "score": score + 0.05 * rng.standard_normal(), "model": "tones", "concept": concept, "pair": pair, "seed": 100 + pair,
                        **prompts,
                    })  # fmt: skip
    settings = {
        "model": "tones", "fingerprint": "none", "patch": "text", "direction": "sufficient", "when": None, "units": "log-odds", "steps": 3,
        "guidance": 3.0, "seconds": SECONDS, "pairs": PAIRS, "seeds": 1, "swaps_all_text": True, "note": EVIL, "rate": RATE,
        "sites": [asdict(Site(site(layer), "cross", layer, 8)) for layer in range(LAYERS)], "concepts": list(GROUPS),
        "groups": {name: {"group": group, "changes": [group]} for name, group in GROUPS.items()}, **changed,
    }  # fmt: skip
    return Atlas(pd.DataFrame(lines), settings, folder)


ALPHAS = (-2.0, -1.0, 0.0, 1.0, 2.0)
CELLS = ("caa own", "caa all", "caa random layers")


def steered(cell: str, strength: float, concept: str = "fast") -> float:
    """The frequency in Hz of a steered clip."""
    base = {"fast": 1000.0, "rap": 4000.0}[concept]
    return base if strength == 0 else base + 300 + 600 * CELLS.index(cell) + 120 * (strength + 2)


def steering_of_tones(folder: Path, concept: str = "fast", opposite: str = "slow") -> SteeringSweep:
    """One axis, three ways to steer, five strengths: the score rises with the strength at a price that rises, too."""
    lines = []
    for prompt in range(3):
        for number, cell in enumerate(CELLS):
            for strength in ALPHAS:
                file = ""
                if prompt == 0:
                    file = f"steered {concept}/{cell if strength else 'unsteered'}{strength:+.0f}.flac"
                    tone(steered(cell, strength, concept)).save(folder / file)
                method, sites = cell.split(" ", 1)
                lines.append({
                    "concept": concept, "opposite": opposite, "method": method, "sites": sites, "cell": cell, "prompt": prompt, "seed": 7, "text": f"a song {EVIL}",
                    "strength": strength * (1 + number), "score": strength * (3 - number) + 0.1 * prompt, "distance": 0.05 * abs(strength) * (1 + 0.1 * prompt), "level": -20.0,
                    "silent": False, "clipped": 0.0, "failed": False, "chroma": 1.0, "beat": 1.0, "tempo": 100.0, "onsets": 4.0, "mode": 0.0, "register": 60.0,
                    "centroid": 1000.0, "clip": file,
                })  # fmt: skip
    settings = {"model": "tones", "concept": concept, "opposite": opposite, "group": "tempo", "seconds": SECONDS, "rate": RATE,
                "methods": {"caa own": {"at": [site(1)]}, "caa all": {"at": [site(i) for i in range(LAYERS)]}, "caa random layers": {"at": [site(0)]}}}  # fmt: skip
    return SteeringSweep(pd.DataFrame(lines), settings, folder)
