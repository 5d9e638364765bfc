"""audioscope: see, hear and steer what the attention layers of text-to-music diffusion models do.

import audioscope
model = audioscope.load("tiny")
model.generate("a slow sad song with violin", seed=0)
audioscope.localize(model, pairs=4)
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

try:
    __version__ = version("audioscope")
except PackageNotFoundError:  # a checkout on the path that was never installed
    __version__ = "0+unknown"

# The public names and where they live; a module is imported when its name is first used, so that this import is light.
_HOMES = {
    "load": "model", "Model": "model", "Reading": "model",
    "Site": "sites", "Sites": "sites", "Adapter": "adapters",
    "PatchText": "edits", "PatchOutput": "edits", "Ablate": "edits", "AddVector": "edits", "BlendText": "edits",
    "Clip": "audio", "in_a_row": "audio",
    "Concept": "concepts", "Pair": "concepts", "concepts_from": "concepts", "shipped_concepts": "concepts",
    "localize": "patching", "plan": "patching", "Plan": "patching", "Atlas": "atlas", "published": "paper",
    "SteeringVector": "vectors", "caa": "steering", "steering_sites": "steering", "calibrate": "strengths",
    "steering_sweep": "strengths", "Steering": "gains", "Arm": "arms", "steering_auc": "curves",
    "shipped_maps": "extras", "shipped_vector": "extras", "shipped_steering": "axes", "steer_all": "axes", "steer_all_features": "axes",
    "SAE": "sae", "SAEEdit": "edits", "TokenStream": "streams", "concept_prompts": "streams", "train_sae": "sae_training",
    "load_sae": "sae_files", "save_sae": "sae_files", "shipped_saes": "sae_files", "gate_sae": "gate", "Gate": "gate",
    "read_concepts": "features", "score_features": "features", "top_features": "feature_vectors", "compare_features": "comparison",
    "feature_pages": "feature_pages", "feature_set": "feature_pages",
    "read_folder": "own", "probe_scorer": "own", "ProbeScorer": "own", "pairs_like": "own", "show_charts": "charts",
    "listener_scorer": "scorers", "Clap": "scorers", "Muq": "scorers", "MeasureScorer": "scorers",
}  # fmt: skip
__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from audioscope.adapters import Adapter
    from audioscope.arms import Arm
    from audioscope.atlas import Atlas
    from audioscope.audio import Clip, in_a_row
    from audioscope.axes import shipped_steering, steer_all, steer_all_features
    from audioscope.charts import show_charts
    from audioscope.comparison import compare_features
    from audioscope.concepts import Concept, Pair, concepts_from, shipped_concepts
    from audioscope.curves import steering_auc
    from audioscope.edits import Ablate, AddVector, BlendText, PatchOutput, PatchText, SAEEdit
    from audioscope.extras import shipped_maps, shipped_vector
    from audioscope.feature_pages import feature_pages, feature_set
    from audioscope.feature_vectors import top_features
    from audioscope.features import read_concepts, score_features
    from audioscope.gains import Steering
    from audioscope.gate import Gate, gate_sae
    from audioscope.model import Model, Reading, load
    from audioscope.own import ProbeScorer, pairs_like, probe_scorer, read_folder
    from audioscope.paper import published
    from audioscope.patching import Plan, localize, plan
    from audioscope.sae import SAE
    from audioscope.sae_files import load_sae, save_sae, shipped_saes
    from audioscope.sae_training import train_sae
    from audioscope.scorers import Clap, MeasureScorer, Muq, listener_scorer
    from audioscope.sites import Site, Sites
    from audioscope.steering import caa, steering_sites
    from audioscope.streams import TokenStream, concept_prompts
    from audioscope.strengths import calibrate, steering_sweep
    from audioscope.vectors import SteeringVector


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'audioscope' has no attribute {name!r}")
    try:
        return getattr(import_module(f"audioscope.{_HOMES[name]}"), name)
    except OSError as error:
        from audioscope.errors import MEND, is_torchaudio_failure

        if is_torchaudio_failure(error):
            raise ImportError(MEND) from error
        raise


def __dir__() -> list[str]:
    return __all__
