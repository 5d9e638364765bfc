"""The embedded model: its music, its captions, its codec, its training and its listeners."""
