"""What a band plays in each genre: its accompaniment and its drum patterns.

Each idiom is heard without drums, too: its chords and bass mark every beat. Chords follow the harmony, whose mode is the mood's.
"""

from __future__ import annotations

import numpy as np

from audioscope.tiny.band import Band, Harmony, Idiom, drive, duck, echo, lowpass

SWING = 0.66  # where a swung off-beat falls


def _reggae(band: Band, harmony: Harmony) -> None:
    """A skank on the off-beat, an organ that bubbles around it, a round bass that leaves holes, now and then a dub echo."""
    skank, organ = band.player(band.pick("clean guitar", "clean guitar", "piano")), band.player("organ", -4.0)
    bass = band.player("electric bass", 1.5)
    low, chop, dub = int(band.rng.integers(57, 62)), band.pick(0.05, 0.08), band.rng.random() < 0.4
    double = band.rng.random() < 0.35  # the hand goes up once more
    bubble = band.pick((0.5, 0.75), (0.25, 0.5, 0.75), (0.5,))
    # Scale steps of two beats of bass; a one that is left out, a run into the next chord, and rests between.
    line = band.pick(
        ((0.0, 0), (0.75, 2), (1.0, 4)), ((0.5, 0), (0.75, 0), (1.0, 4), (1.5, 2)), ((0.0, 0), (0.5, 0), (1.0, 2)),
        ((0.0, 0), (0.5, 4), (0.75, 2)),
    )  # fmt: skip
    for b, degree in enumerate(harmony.degrees):
        chord = harmony.chord(degree, low)
        skank.chord(chord, b + 0.5, 0.25, 1.3, mute=chop, spread=0.004)
        if double:
            skank.chord(chord[1:], b + 0.75, 0.2, 0.6, mute=chop, spread=0.004)
        organ.chord(chord[:2], b, 0.12, 0.6)  # the left hand marks the beat
        for at in bubble:
            organ.chord(chord, b + at, 0.2)
        if b % 2 == 0:
            for at, step in line:
                bass.note(harmony.pitch(degree + step, 28), b + at, 0.42, cutoff=600.0)
    if dub:
        skank.track = echo(skank.track, 0.75 * band.beat, 0.45)


RIFFS = ("X.mmX.mm", "XmmmXmmm", "XmmmX.mm", "X.mmXmmm", "X.mmXmXm", "XmmmX.X.", "X.XmXmmm")  # sixteenths of two beats


def _metal(band: Band, harmony: Harmony) -> None:
    """Power chords and palm-muted sixteenths, low, on two distorted guitars that play the same, and a bass below them."""
    guitars = [
        band.player("distorted guitar", 0.0, band.rng.uniform(-9, -4)),
        band.player("distorted guitar", 0.0, band.rng.uniform(4, 9)),
    ]
    bass, riff = band.player("electric bass", -2.0), band.pick(*RIFFS)
    mute, gain = band.rng.uniform(0.05, 0.09), band.rng.uniform(3.0, 6.0)
    for b, degree in enumerate(harmony.degrees):
        root = harmony.pitch(degree, 33)
        for i in range(4):
            step = i + 4 * (b % 2)
            if riff[step] == ".":
                continue
            at, opened = b + i / 4, riff[step] == "X"
            hold = (2 if riff[step + 1 : step + 2] == "." else 1) / 4
            for take, guitar in enumerate(guitars):
                late = 0.011 * take
                for interval in (0, 7, 12) if opened else (0, 7):
                    guitar.note(root + interval, at, hold, 1.0 if opened else 0.8, 0.0 if opened else mute, late=late)
            bass.note(max(root - 12, 26), at, hold, 1.0 if opened else 0.8)
    for guitar in guitars:
        guitar.track = drive(guitar.track, gain, 4800.0)


def _opera(band: Band, harmony: Harmony) -> None:
    """An orchestra's strings, high and low: held, tremolo, in short strokes, or broken chords; a bass on every beat."""
    strokes, low = band.pick("held", "tremolo", "tremolo", "short", "broken"), int(band.rng.integers(58, 64))
    high, deep, bass = band.player("strings"), band.player("strings", -1.0), band.player("acoustic bass", -4.0)
    octave = band.rng.random() < 0.5  # first violins an octave above
    for b, degree in enumerate(harmony.degrees):
        chord = harmony.chord(degree, low)
        chord = [*chord, chord[0] + 12] if octave else chord
        if strokes == "tremolo":
            bows = max(2, round(band.beat / 0.09))  # as fast as an arm can, whatever the beat
            for i in range(bows):
                high.chord(chord, b + i / bows, 1.3 / bows, 1.0 if i % 2 == 0 else 0.8)
        elif strokes == "short":
            for at in (0, 0.5):
                high.chord(chord, b + at, 0.25)
        elif strokes == "broken":
            high.note(chord[b % 3], b, 0.9)
            high.chord(chord[:2], b + 0.5, 0.4, 0.8)
        elif b % 2 == 0:
            high.chord(chord, b, 2.1)
        root = harmony.pitch(degree, 43)
        deep.chord([root, root + 12] if strokes != "held" else [root, root + 7, root + 12], b, 0.95)
        bass.note(root - 12, b, 0.6)


def _jazz(band: Band, harmony: Harmony) -> None:
    """An acoustic bass that walks in quarters, with chromatic steps into the next chord, under swung sevenths and ninths."""
    comp = band.player(band.pick("clean guitar", "piano", "electric piano"), -1.0)
    bass, low, rng = band.player("acoustic bass", 1.0), int(band.rng.integers(50, 57)), band.rng
    four = comp.instrument == "clean guitar" and rng.random() < 0.5  # a stroke on every beat, as in a big band
    figures = ((0.0, 1.66), (0.66, 1.66), (0.0, 0.66), (0.66, 1.0), (1.66,), (0.66,))
    figure = band.pick(*figures)
    degrees = harmony.degrees
    for b, degree in enumerate(degrees):
        root, following = harmony.pitch(degree, 28), harmony.pitch(degrees[(b + 1) % len(degrees)], 28)
        if b % 2 == 0:
            tone = root if rng.random() < 0.8 else harmony.pitch(degree + 4, 28)
        elif rng.random() < 0.65:
            tone = following + band.pick(-1, 1)
        else:
            tone = harmony.pitch(degree + band.pick(2, 4), 28)
        bass.note(tone, b, 0.95)
        if rng.random() < 0.25:  # a skipped note
            bass.note(tone, b + SWING, 0.25, 0.5)
        chord = harmony.chord(degree, low, (0, 2, 6, 8) if rng.random() < 0.5 else (2, 4, 6, 8))
        if four:
            comp.chord(chord, b, 0.5, 1.1 if b % 2 else 0.8, mute=0.12, spread=0.006)
        elif b % 2 == 0:
            if rng.random() < 0.25:
                figure = band.pick(*figures)
            for at in figure:
                comp.chord(chord, b + at, band.pick(0.25, 0.3, 0.7), spread=0.003)
    if comp.instrument == "clean guitar":
        comp.track = lowpass(comp.track, 2600.0)  # the tone of a hollow body and flat strings


def _techno(band: Band, harmony: Harmony) -> None:
    """Sixteenths through a filter that opens and closes, saw stabs, and pads that duck on every beat."""
    rng, layer = band.rng, band.pick("arpeggio", "stabs", "both")
    bass, arp, stab = band.player("synth bass", 1.0), band.player("saw", -1.0), band.player("saw", 0.0)
    order, line = rng.permutation(4), band.pick("xxxx", "xxxx", "x.xx", "xxx.")
    roll = band.pick((0.5,), (0.25, 0.5, 0.75), (0.25, 0.5, 0.75), (0.5, 0.75))
    hits = band.pick("x..x..x.", "x..x..x.", "..x..x..", "x.....x.")  # sixteenths of two beats
    rise, bottom, top = rng.uniform(0, 2 * np.pi), rng.uniform(300, 600), rng.uniform(2500, 5000)
    turns = rng.uniform(0.5, 1.2) * 2 * np.pi / len(harmony.degrees)  # of the filter's knob, in radians per beat
    pad = band.player("pad", -3.0) if rng.random() < 0.5 else None
    for b, degree in enumerate(harmony.degrees):
        chord = harmony.chord(degree, 57)
        tones = [*chord, chord[0] + 12]
        for i in range(4):
            opening = 0.5 - 0.5 * np.cos(turns * (b + i / 4) + rise)
            cutoff = float(round(bottom * (top / bottom) ** (round(opening * 8) / 8), 1))
            if layer != "stabs" and line[i] == "x":
                arp.note(tones[order[i]], b + i / 4, 0.2, 1.2 if i == 0 else 0.9, cutoff=cutoff, resonance=3.5)
            if layer != "arpeggio" and hits[i + 4 * (b % 2)] == "x":
                for pitch in chord:
                    stab.note(pitch, b + i / 4, 0.28, 0.6, cutoff=2 * cutoff, resonance=1.2)
        bass.note(harmony.pitch(degree, 30), b, 0.2, 0.8)
        for at in roll:
            bass.note(harmony.pitch(degree, 30), b + at, 0.2, cutoff=900.0, resonance=2.0)
        if pad and b % 2 == 0:
            pad.chord(harmony.chord(degree, 52), b, 2.05)
    if layer != "arpeggio":
        stab.track = echo(stab.track, 0.75 * band.beat, 0.35)
    for player, depth in ((stab, 0.6), (arp, 0.35)) + (((pad, 0.95),) if pad else ()):
        player.track = duck(player.track, band.beat, depth)


def _pop(band: Band, harmony: Harmony) -> None:
    """Four chords around and around: a strummed guitar or a piano, an electric bass on the roots, perhaps a pad."""
    chords = band.player(band.pick("clean guitar", "clean guitar", "electric piano", "piano"))
    bass, pad = band.player("electric bass", 0.0), band.player("pad", -6.0) if band.rng.random() < 0.3 else None
    low, eighths = int(band.rng.integers(52, 58)), band.rng.random() < 0.5
    strum = band.pick("D.DUD.DU", "D.DUDUDU", "DuDUDuDU", "D.D.D.DU")  # eighths of four beats: down, up, soft up
    shape = band.pick("broken", "blocks", "pushes")
    for b, degree in enumerate(harmony.degrees):
        tones = harmony.chord(degree, low)
        if chords.instrument == "clean guitar":
            full = [tones[0] - 12 if tones[0] > 54 else tones[0], *tones, tones[0] + 12]
            for half in range(2):
                stroke = strum[(2 * b + half) % 8]
                if stroke == "D":
                    chords.chord(sorted(set(full)), b + half / 2, 0.5, 1.15 if b % 2 else 1.0, spread=0.009)
                elif stroke in "Uu":
                    chords.chord(full[:-4:-1], b + half / 2, 0.45, 0.7 if stroke == "U" else 0.4, spread=0.006)
        elif shape == "broken":
            chords.note(tones[0], b, 0.5)
            chords.note(tones[1 + b % 2], b + 0.5, 0.5, 0.9)
        elif shape == "blocks":
            chords.chord(tones, b, 0.9)
        else:
            for at in (0, 0.5) if b % 2 == 0 else (0.5,):
                chords.chord(tones, b + at, 0.45)
        root = harmony.pitch(degree, 28)
        if pad and b % 2 == 0:
            pad.chord(tones, b, 2.0)
        bass.note(root, b, 0.45 if eighths else 0.9)
        if eighths:
            bass.note(root, b + 0.5, 0.45, 0.9)
        elif b % 2:
            bass.note(root, b + 0.5, 0.45, 0.8)


ACCOMPANIMENT: dict[str, Idiom] = {
    "reggae": _reggae, "metal": _metal, "opera": _opera, "jazz": _jazz, "techno": _techno, "pop": _pop,
}  # fmt: skip

MANNER = {"reggae": "soul", "metal": "belt", "opera": "opera", "jazz": "soul", "techno": "plain", "pop": "plain"}  # of singing
# How far the percussion stands in front of the accompaniment, in dB; how long a room rings (s), and how much of it is heard.
FRONT = {"reggae": 0.0, "metal": 0.0, "opera": -2.5, "jazz": -2.0, "techno": 1.5, "pop": 0.5}
ROOM = {
    "reggae": (0.10, 0.16), "metal": (0.05, 0.08), "opera": (0.28, 0.32), "jazz": (0.07, 0.14), "techno": (0.09, 0.12),
    "pop": (0.08, 0.14),
}  # fmt: skip

# Four beats per line; 16 characters are sixteenths, 12 are swung triplets, 8 are eighths.
DRUMS: dict[str, tuple[dict[str, str], ...]] = {
    "reggae": (
        {"closed hat": "x.o.x.o.x.o.x.o.", "kick": "........X.......", "rim": "........X......."},
        {"closed hat": "x.o.x.o.x.o.x.o.", "kick": "x...x...X...x...", "rim": "........X.....o."},
        {"closed hat": "x.xox.o.x.xox.o.", "kick": "........X.......", "rim": "...o....X..o...."},
    ),
    "metal": (
        {"kick": "xxxxxxxxxxxxxxxx", "snare": "....X.......X...", "ride": "x...x...x...x..."},
        {"kick": "x.x.x.x.x.x.x.x.", "snare": "....X.......X...", "crash": "X.......x......."},
        {"kick": "x.xxx.xxx.xxx.xx", "snare": "....X.......X...", "ride": "x...x...x...x..."},
        {"kick": "x...x...x...x...", "snare": "..X...X...X...X.", "crash": "X...x...x...x..."},
    ),
    "opera": (
        {"timpani": "X.......X.......", "snare": "ooooooooxxxxXXXX"},
        {"timpani": "X...x...X...x.xx", "crash": "X..............."},
        {"timpani": "X.......X...xxxx", "crash": "X..............."},
        {"timpani": "X...o...x...o...", "low tom": "........oooooooo"},
    ),
    "jazz": (
        {"ride": "X..x.xX..x.x", "closed hat": "...x.....x..", "kick": "o.....o....."},
        {"ride": "X..X.xX..X.x", "closed hat": "...x.....x..", "snare": ".....o....oo"},
        {"ride": "x..X..x..X.x", "snare": "o.oo.oo.oo.o", "closed hat": "...x.....x.."},
    ),
    "techno": (
        {"kick": "X...X...X...X...", "open hat": "..x...x...x...x.", "snare": "....x.......x..."},
        {"kick": "X...X...X...X...", "open hat": "..x...x...x...x.", "closed hat": ".x.x.x.x.x.x.x.x"},
        {"kick": "X...X...X...X...", "closed hat": "xxoxxxoxxxoxxxox", "rim": "...x..x....x..x."},
    ),
    "pop": (
        {"kick": "X.......X.x.....", "snare": "....X.......X...", "closed hat": "x.x.x.x.x.x.x.x."},
        {"kick": "X.....x.X.......", "snare": "....X.......X...", "closed hat": "xoxoxoxoxoxoxoxo"},
        {"kick": "X...x...X...x...", "snare": "....X.......X...", "open hat": "..x...x...x...x."},
    ),
}  # fmt: skip
FILLS: tuple[dict[str, str], ...] = (
    {"snare": "............xxXX"},
    {"high tom": "............xx..", "low tom": "..............xx"},
    {"high tom": ".............x..", "low tom": "..............x.", "crash": "X..............."},
)
HAND_PERCUSSION: dict[str, tuple[dict[str, str], ...]] = {
    "bongos": (
        {"high bongo": "Xox.Xx..", "low bongo": "...x..Xx"},
        {"high bongo": "X.x.Xx.x", "low bongo": ".x.x..x."},
        {"high bongo": "X.x.x...", "low bongo": "...x..Xx"},
        {"high bongo": "X.xxX.x.X.xxX...", "low bongo": "......x.......Xx"},
        {"high bongo": "Xx.Xx.Xxx.Xx", "low bongo": "..x..x...x.."},
    ),
    "maracas": (
        {"maracas": "XoxoXoxoXoxoXoxo"}, {"maracas": "XxXxXxXx"}, {"maracas": "XooxXooxXooxXoox"},
        {"maracas": "XoooXoooXoooXooo"}, {"maracas": "X.xxX.xxX.xxX.xx"},
    ),
}  # fmt: skip
