"""Audio in, one number per concept out: listeners of `tiny`, CLAP, MuQ, plain measurements, and your own probes."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
