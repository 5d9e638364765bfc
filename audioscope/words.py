"""Words: which tokens of a cross-attention module belong to which word of a prompt."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import regex

from audioscope.adapters import Adapter
from audioscope.errors import UnknownName, index_of, said
from audioscope.sites import Site

CAPTION, PACKED = "# Caption\n", 256  # of ACE-Step's template: what precedes the prompt, and how many tokens it may have
APOSTROPHES, HYPHENS = (
    "'’ʼ＇",
    "-\u00ad\u2010\u2011",
)  # begins a class, in which "-" would else make a range; also the soft hyphen, and the one at which no line breaks
# with the marks that many scripts write vowels with; as in R&B, hip-hop, 4/4 and 120.5
WORD = regex.compile(rf"[\w\p{{M}}]+(?:(?:[{HYPHENS}&{APOSTROPHES}]|(?<=\d)[./,:](?=\d))[\w\p{{M}}]+)*")


def numbers_of(word: Any, words: Sequence[str]) -> list[int]:
    """The places of a word among others, whatever the case, or of the one with a number; UnknownName with the nearest if there is none."""
    if (number := index_of(word)) is not None and 0 <= number < len(words):
        return [number]
    found = [place for place, each in enumerate(words) if isinstance(word, str) and _alike(each) == _alike(word)]
    if not found:
        near = get_close_matches(str(word), words, n=3, cutoff=0.3) or list(words)[:8]
        several = " Give one word at a time." if isinstance(word, str) and len(WORD.findall(word)) > 1 else ""
        raise UnknownName(
            f"The prompt has no word {said(word)}. Nearest: {', '.join(dict.fromkeys(near)) or 'none, since it has no words'}.{several}"
        )
    return found


def _alike(word: str) -> str:
    """What two spellings of a word share: case, apostrophe, hyphen, and how accents are coded do not count."""
    plain = unicodedata.normalize("NFC", word).casefold().replace("\u00ad", "")
    return regex.sub(f"[{HYPHENS}]", "-", regex.sub(f"[{APOSTROPHES}]", "'", plain))


def tokens_of(pipe: Any, adapter: Adapter, prompt: str, site: Site, count: int, valid: int, seconds: float) -> list[str | int]:
    """What each of a site's `count` tokens is: the number of a word of the prompt, or the name of something else.

    valid: how many of them its mask lets it see; packed conditions have the text last.
    """
    if site.stream == "gpt2":  # states that a language model wrote on; no word of the prompt is in one of them
        return ["(GPT-2)"] * count
    tokenizer = pipe.tokenizer_2 if site.stream == "t5" else pipe.tokenizer
    whole, start = prompt, 0
    if adapter.packed_by:
        whole = pipe._format_prompt(prompt=prompt, lyrics="", audio_duration=seconds)[0]
        after = whole.find(CAPTION)
        start = whole.index(prompt, after + len(CAPTION) if after >= 0 else 0)
    spans = [(start + match.start(), start + match.end()) for match in WORD.finditer(prompt)]
    longest = {"max_length": PACKED} if adapter.packed_by else {}
    coded = tokenizer(whole, return_offsets_mapping=True, truncation=True, **longest)
    names: list[str | int] = []
    for token, (first, last) in zip(tokenizer.convert_ids_to_tokens(coded.input_ids), coded["offset_mapping"], strict=True):
        word = next((number for number, (one, end) in enumerate(spans) if first < end and last > one), None)
        inside = start <= first < start + len(prompt)
        names.append(
            word if word is not None else str(token) if inside or first == last or not adapter.packed_by else "(instruction)"
        )
    if adapter.packed_by:
        before = valid - len(names)
        return ["(lyrics and timbre)"] * before + names + ["(padding)"] * (count - valid)
    names = names[: count - len(adapter.trailing)]
    return [*names, *["(padding)"] * (count - len(adapter.trailing) - len(names)), *(f"({name})" for name in adapter.trailing)]
