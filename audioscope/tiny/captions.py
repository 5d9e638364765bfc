"""Captions of songs in many wordings, made from labels.

Adjectives come before the noun ("a slow sad jazz song"), items after it ("a violin", "a woman singing"), and ways say
how it is played ("at a slow pace"). A caption leaves some attributes out, orders the rest freely, and negates nothing: it says
"instrumental", never "no voice". `UNSEEN` holds other wordings of the same words, which only the evaluation uses.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from itertools import chain

import numpy as np

from audioscope.tiny.music import GROUPS, Song

Phrases = Mapping[tuple[str, str], tuple[str, ...]]

ADJECTIVES: Phrases = {
    ("tempo", "slow"): ("slow", "slow-paced", "unhurried"),
    ("tempo", "medium"): ("mid-tempo", "moderate", "medium-paced"),
    ("tempo", "fast"): ("fast", "fast-paced", "quick"),
    ("mood", "happy"): ("happy", "cheerful", "joyful"),
    ("mood", "sad"): ("sad", "sorrowful", "melancholic"),
    ("mood", "neutral"): ("neutral", "calm", "plain"),
    ("genre", "reggae"): ("reggae", "jamaican reggae", "dub"),
    ("genre", "metal"): ("metal", "heavy metal", "thrash"),
    ("genre", "opera"): ("opera", "operatic", "classical opera"),
    ("genre", "jazz"): ("jazz", "swing", "jazzy"),
    ("genre", "techno"): ("techno", "electronic techno", "rave"),
    ("genre", "pop"): ("pop", "chart", "radio pop"),
    ("voice", "none"): ("instrumental", "purely instrumental"),
}
_LEADS = GROUPS["lead"][:-1]
ITEMS: Phrases = {
    ("voice", "female"): ("female vocals", "a woman singing", "a female singer", "a female voice", "vocals of a woman"),
    ("voice", "male"): ("male vocals", "a man singing", "a male singer", "a male voice", "vocals of a man"),
    ("percussion", "drums"): ("drums", "a drum kit", "drums playing", "a beat on the drums"),
    ("percussion", "bongos"): ("bongos", "bongo drumming", "bongos playing", "a pair of bongos"),
    ("percussion", "maracas"): ("maracas", "shaken maracas", "maracas playing", "a pair of maracas"),
    ("percussion", "none"): ("a chordal backing", "a backing of chords"),
    ("lead", "none"): ("accompaniment only", "backing band only"),
} | {
    ("lead", x): (x, f"a {x}", f"a {x} solo", f"{x} melody", f"{x} playing", f"a melody on the {x}") for x in _LEADS
}  # fmt: skip
WAYS: Phrases = {
    ("tempo", "slow"): ("at a slow tempo", "at a slow pace", "in unhurried time"),
    ("tempo", "medium"): ("at a medium tempo", "at a moderate pace", "in moderate time"),
    ("tempo", "fast"): ("at a fast tempo", "at a fast pace", "in quick time"),
    ("mood", "happy"): ("in a happy mood", "of cheerful character"),
    ("mood", "sad"): ("in a sad mood", "of sorrowful character"),
    ("mood", "neutral"): ("in a neutral mood", "of calm character"),
} | {("genre", x): (f"in a {x} style",) for x in GROUPS["genre"]}  # fmt: skip
UNSEEN: Phrases = {
    ("tempo", "slow"): ("at an unhurried pace", "in slow time", "slow-tempo"),
    ("tempo", "medium"): ("at a moderate tempo", "in medium time", "medium-tempo"),
    ("tempo", "fast"): ("at a quick pace", "in fast time", "fast-tempo"),
    ("mood", "happy"): ("in a cheerful mood", "of happy character", "of joyful mood"),
    ("mood", "sad"): ("in a sorrowful mood", "of sad character", "of melancholic mood"),
    ("mood", "neutral"): ("in a calm mood", "of neutral character", "of plain mood"),
    ("genre", "reggae"): ("reggae-style", "jamaican dub", "in a dub style"),
    ("genre", "metal"): ("metal-style", "heavy thrash", "in a thrash style"),
    ("genre", "opera"): ("opera-style", "classical operatic", "in an operatic style"),
    ("genre", "jazz"): ("jazz-style", "jazzy swing", "in a swing style"),
    ("genre", "techno"): ("techno-style", "electronic rave", "in a rave style"),
    ("genre", "pop"): ("pop-style", "pop radio", "in a chart style"),
    ("voice", "female"): ("a singing woman", "the voice of a woman", "female singing"),
    ("voice", "male"): ("a singing man", "the voice of a man", "male singing"),
    ("percussion", "drums"): ("the playing of drums", "a kit of drums", "the beat of drums"),
    ("percussion", "bongos"): ("the playing of bongos", "a bongo beat", "the bongos"),
    ("percussion", "maracas"): ("the playing of maracas", "a maracas beat", "a pair of shaken maracas"),
} | {("lead", x): (f"a solo on the {x}", f"the melody of a {x}", f"the {x} playing") for x in _LEADS}  # fmt: skip
NOUNS = ("song", "track", "piece", "tune", "music", "recording")
_WAY = ("at ", "in ", "of ")


def _list(words: list[str]) -> str:
    return ", ".join(words[:-1]) + (" and " if len(words) > 1 else "") + (words[-1] if words else "")


def caption(
    song: Song, rng: np.random.Generator, keep: float = 0.75, always: Collection[str] = (), unseen: bool = False,
    without: Collection[str] = (),
) -> str:  # fmt: skip
    """Describe a song in words; each attribute is named with probability `keep`, those of the groups in `always` in any case, and
    those in `without` never.

    unseen: use the wordings reserved for evaluation. Absent parts (voice, lead or percussion "none") have no such wording and are
    described as in training.
    """
    named = [(g, c) for g, c in asdict(song).items() if g in always or rng.random() < keep]
    adjectives: list[str] = []
    items: list[str] = []
    ways: list[str] = []
    for attribute in (named[i] for i in rng.permutation(len(named))):
        seen = tuple(chain.from_iterable(table.get(attribute, ()) for table in (ADJECTIVES, ITEMS, WAYS)))
        words = UNSEEN.get(attribute, seen) if unseen else seen
        word = words[rng.integers(len(words))]
        if attribute[0] in without:  # after the draws, so that all else is said as it would be with it
            continue
        (ways if word.startswith(_WAY) else items if attribute in ITEMS else adjectives).append(word)
    style, noun = rng.integers(6), str(rng.choice(NOUNS))
    if style == 0:  # keywords
        keys = adjectives + [word.removeprefix("a ") for word in items] + ways
        return ", ".join(keys[i] for i in rng.permutation(len(keys))) or "music"
    head = " ".join([*adjectives, noun])
    article = "" if noun == "music" else "an " if head[0] in "aeiou" else "a "
    tail = "".join(f" {way}" for way in ways)
    if style == 1 and items:
        return f"{head}{tail}, {', '.join(items)}"
    if style == 2 and items:
        return f"{_list(items)} in {article}{head}{tail}"
    if style == 3 and adjectives:
        it = "this is " if noun == "music" else f"this {noun} is "
        clause = f"{it}{_list(adjectives)}" + (" music" if noun == "music" else "")
        return clause + (f", with {_list(items)}" if items else "") + tail
    link = ("with", "featuring")[rng.integers(2)]
    if style == 4:  # how it is played before what plays
        return f"{article}{head}{tail}" + (f" {link} {_list(items)}" if items else "")
    return f"{article}{head}" + (f" {link} {_list(items)}" if items else "") + tail


def vocabulary() -> list[str]:
    """Every word that a caption can contain, sorted: the tokenizer's vocabulary."""
    texts = [w for table in (ADJECTIVES, ITEMS, WAYS) for words in table.values() for w in words]
    words = set(" ".join([*texts, *NOUNS, "a an with featuring and in this is"]).replace("-", " - ").split())
    return sorted(words | {",", "."})
