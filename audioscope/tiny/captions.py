"""What a song is called: captions in many wordings, from labels.

Adjectives stand before the noun ("a slow sad jazz song"), tags after it ("with violin", "sung by a woman"). A caption
leaves some attributes out, orders the rest freely, and never says what is absent by negation.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict

import numpy as np

from audioscope.tiny.music import Song

ADJECTIVES: dict[tuple[str, str], tuple[str, ...]] = {
    ("tempo", "slow"): ("slow", "slow-paced", "unhurried"),
    ("tempo", "medium"): ("mid-tempo", "moderate", "medium-paced"),
    ("tempo", "fast"): ("fast", "fast-paced", "quick"),
    ("mood", "happy"): ("happy", "cheerful", "joyful"),
    ("mood", "sad"): ("sad", "sorrowful", "melancholic"),
    ("mood", "neutral"): ("neutral", "calm", "plain"),
    ("genre", "reggae"): ("reggae", "jamaican reggae", "dub reggae"),
    ("genre", "metal"): ("metal", "heavy metal", "thrash metal"),
    ("genre", "opera"): ("opera", "operatic", "classical opera"),
    ("genre", "jazz"): ("jazz", "swing jazz", "jazzy"),
    ("genre", "techno"): ("techno", "electronic techno", "rave techno"),
    ("genre", "pop"): ("pop", "chart pop", "radio pop"),
    ("voice", "none"): ("instrumental", "purely instrumental"),
}
TAGS: dict[tuple[str, str], tuple[str, ...]] = {
    ("tempo", "slow"): ("at a slow tempo", "at a slow pace"),
    ("tempo", "medium"): ("at a medium tempo", "at a moderate pace"),
    ("tempo", "fast"): ("at a fast tempo", "at a fast pace"),
    ("mood", "happy"): ("in a happy mood",),
    ("mood", "sad"): ("in a sad mood",),
    ("mood", "neutral"): ("in a neutral mood",),
    ("voice", "female"): ("female vocals", "a woman singing", "a female singer", "a female voice"),
    ("voice", "male"): ("male vocals", "a man singing", "a male singer", "a male voice"),
    ("percussion", "drums"): ("drums", "a drum kit", "drums playing"),
    ("percussion", "bongos"): ("bongos", "bongo drumming", "bongos playing"),
    ("percussion", "maracas"): ("maracas", "shaken maracas", "maracas playing"),
    ("percussion", "none"): ("a beatless backing", "a drumless backing"),
    ("lead", "none"): ("accompaniment only", "backing band only"),
}
for _name in ("violin", "trumpet", "saxophone", "cello", "flute", "harmonica", "trombone", "xylophone", "piano", "guitar"):
    TAGS["lead", _name] = (_name, f"a {_name}", f"a {_name} solo", f"{_name} melody", f"{_name} playing")
NOUNS = ("song", "track", "piece", "tune", "music", "recording")


def caption(song: Song, rng: np.random.Generator, keep: float = 0.75, always: Collection[str] = ()) -> str:
    """Say a song in words. Each attribute is named with chance `keep`, those of the groups in `always` surely."""
    named = [(g, c) for g, c in asdict(song).items() if g in always or rng.random() < keep]
    adjectives: list[str] = []
    tags: list[str] = []
    for attribute in (named[i] for i in rng.permutation(len(named))):
        words = ADJECTIVES.get(attribute, ()) + TAGS.get(attribute, ())
        word = words[rng.integers(len(words))]
        (adjectives if word in ADJECTIVES.get(attribute, ()) else tags).append(word)
    style = rng.integers(4)
    if style == 0:  # keywords
        keys = adjectives + [tag.removeprefix("a ") for tag in tags]
        return ", ".join(keys[i] for i in rng.permutation(len(keys))) or "music"
    noun = str(rng.choice(NOUNS))
    head = " ".join(adjectives + [noun])
    if style == 1 and tags:
        return f"{head}, {', '.join(tags)}"
    article = "" if noun == "music" else "an " if head[0] in "aeiou" else "a "
    phrases = [tag for tag in tags if not tag.startswith(("at ", "in "))]
    ways = [tag for tag in tags if tag.startswith(("at ", "in "))]
    joined = ", ".join(phrases[:-1]) + (" and " if len(phrases) > 1 else "") + (phrases[-1] if phrases else "")
    link = ("with", "featuring")[rng.integers(2)]
    return f"{article}{head}" + (f" {link} {joined}" if phrases else "") + "".join(f" {way}" for way in ways)


def vocabulary() -> list[str]:
    """Every word that a caption can hold, sorted: the tokenizer's list."""
    texts = [w for table in (ADJECTIVES, TAGS) for words in table.values() for w in words]
    words = set(" ".join([*texts, *NOUNS, "a an with featuring and"]).replace("-", " - ").split())
    return sorted(words | {",", "."})
