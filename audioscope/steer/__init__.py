"""Steering: vectors, methods, sweeps that measure gain and price, and their results."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
