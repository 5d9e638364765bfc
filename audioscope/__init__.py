"""audioscope: see, hear and steer what the attention layers of text-to-music diffusion models do.

import audioscope
model = audioscope.load("tiny")
model.generate("a slow sad song with violin", seed=0)
audioscope.localize(model, pairs=4)
"""

from __future__ import annotations

from typing import Any

import lazy_loader

from audioscope.installed import __version__ as __version__
from audioscope.installed import cache_somewhere, share_cores

cache_somewhere()
share_cores()

# The public names are those in __init__.pyi. Each module is imported when one of its names is first used, so that
# `import audioscope` stays light.
_public, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    try:
        return _public(name)
    except OSError as error:
        from audioscope.errors import FIX_TORCHAUDIO, is_torchaudio_failure

        if is_torchaudio_failure(error):
            raise ImportError(FIX_TORCHAUDIO) from error
        raise
