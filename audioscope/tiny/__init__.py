"""The model that ships: its note bank, rendered music, codec, training and listeners."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
