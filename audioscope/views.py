"""Doors: a result opens its chart, page, widget or file by name, since those import the result and not vice versa.

The codec of `tiny` is behind a door, too: a model folder refers to it by name. So is
`followed`, which lets an attention map follow a score back.

This table is the only way up in the package: nothing else refers to a higher layer. Each key is the method that opens the door.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

DOORS = {
    "MelCodec": "audioscope.tiny.codec:MelCodec",
    "Model.attention": "audioscope.attention:attention",
    "followed": "audioscope.atlas.screening:followed",
    "AttentionMap.chart": "audioscope.atlas.charts:attention_heatmap",
    "AttentionMap.play": "audioscope.widgets.attention:AttentionExplorer",
    "Model.play": "audioscope.widgets.playground:Playground",
    "Atlas.chart": "audioscope.atlas.charts:heatmap",
    "Screen.chart": "audioscope.atlas.charts:screen_heatmap",
    "Atlas.explore": "audioscope.widgets.atlas:AtlasExplorer",
    "Atlas.save_html": "audioscope.pages.atlas:save_html",
    "Atlas.save_site": "audioscope.pages.atlas:save_site",
    "SteeringVector.from_pretrained": "audioscope.steer.exchange:tada_vector",
    "SteeringSweep.chart": "audioscope.steer.charts:steering_chart",
    "SteeringSweep.explore": "audioscope.widgets.steering:SteeringExplorer",
    "SAEEvaluation.chart": "audioscope.sae.charts:evaluation_chart",
    "SAE.vector": "audioscope.sae.vectors:sae_vector",
    "SAE.explore": "audioscope.widgets.sae:SAEExplorer",
    "SAE.save_pretrained": "audioscope.sae.files:save_sae",
    "SAE.from_pretrained": "audioscope.sae.files:load_sae",
    "SAE.push_to_hub": "audioscope.sae.files:push_sae",
}


def view(name: str) -> Any:
    """The object behind a door of the table; its module is imported only now. Raises KeyError for an unknown name."""
    module, _, attribute = DOORS[name].partition(":")
    return getattr(import_module(module), attribute)
