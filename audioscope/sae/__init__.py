"""Sparse autoencoders: train, evaluate, score and compare features, steer with them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
