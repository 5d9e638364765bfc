"""Which layer carries which concept: activation patching (`localize`), its result (`Atlas`), and maps by step."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
