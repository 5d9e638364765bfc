"""HTML that works offline: the atlas, features, steering sliders, and the course as a book."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
