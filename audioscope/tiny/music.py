"""A small band that plays what a label says: labels in, 4.096 s of music at 16 kHz out.

Each group of labels has its own audible cues, drawn independently of the others: the accompaniment, the drum pattern, the manner
of singing and the room carry the genre, a melody the lead instrument, a synthesised singer the voice, the spacing of beats the
tempo, and mode, progression, register, articulation, accents, swell, density and brightness together the mood.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from zlib import crc32

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft
from scipy.signal import lfilter

from audioscope.errors import of_kind, truth
from audioscope.tiny.band import SAMPLES, Band, Drummer, Harmony, Mood, Player, leveled, loudness, recolored
from audioscope.tiny.bank import RATE, NoteBank
from audioscope.tiny.idioms import ACCOMPANIMENT, DRUMS, FILLS, FRONT, HAND_PERCUSSION, MANNER, ROOM, SWING
from audioscope.tiny.voice import Syllable, sing

SECONDS = SAMPLES / RATE  # 4.096

GROUPS: dict[str, tuple[str, ...]] = {
    "voice": ("female", "male", "none"),
    "tempo": ("slow", "medium", "fast"),
    "mood": ("happy", "sad", "neutral"),
    "genre": ("reggae", "metal", "opera", "jazz", "techno", "pop"),
    "lead": ("violin", "trumpet", "saxophone", "cello", "flute", "harmonica", "trombone", "xylophone", "piano",
             "guitar", "none"),
    "percussion": ("drums", "bongos", "maracas", "none"),
}  # fmt: skip

# No range contains twice a tempo of another range, so half-time and double-time patterns leave no doubt about the beat.
BPM = {"slow": (60, 74), "medium": (98, 116), "fast": (152, 185)}
LEAD_RANGE = {
    "violin": (60, 86), "trumpet": (58, 80), "saxophone": (52, 76), "cello": (40, 64), "flute": (66, 90),
    "harmonica": (62, 84), "trombone": (42, 64), "xylophone": (68, 92), "piano": (55, 84), "guitar": (48, 74),
}  # fmt: skip
VOICE_RANGE = {"female": (57, 79), "male": (43, 64)}
SYLLABLE = {"opera": (0.7, 2.0), "soul": (0.33, 1.3), "plain": (0.28, 1.0), "belt": (0.28, 1.1)}  # s, shortest and longest
LEVEL = -20.0  # dB RMS of every clip
SOFT = 0.3  # of a lead that answers the singer, -10 dB

MAJOR, MINOR, DORIAN = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 3, 5, 7, 9, 10)

MOODS = {
    "happy": Mood(MAJOR, ((0, 3, 4, 0), (0, 4, 5, 3), (0, 3, 0, 4), (0, 5, 3, 4)), 0.75, 0.5, 0.8, 0.4, 5.0, 1.5, 0.0, 0.0),
    "sad": Mood(MINOR, ((0, 5, 3, 0), (0, 3, 4, 0), (0, 6, 5, 4), (0, 2, 5, 3)), 0.22, 1.05, 0.05, -0.5, -6.0, 1.0, 0.08, 0.6),
    "neutral": Mood(DORIAN, ((0, 0, 3, 3), (0, 6, 0, 6), (0, 0, 0, 0), (0, 3, 0, 3)), 0.5, 0.8, 0.4, 0.0, 0.0, 1.2, 0.02, 0.2),
}


@dataclass(frozen=True)
class Song:
    """The labels of one clip, one class of each group, from which `audioscope.tiny.render` makes music.

    Args:
        voice: "female", "male" or "none".
        tempo: "slow", "medium" or "fast".
        mood: "happy", "sad" or "neutral".
        genre: "reggae", "metal", "opera", "jazz", "techno" or "pop".
        lead: The lead instrument, such as "violin", or "none" (`audioscope.tiny.GROUPS`).
        percussion: "drums", "bongos", "maracas" or "none".

    Example:
        >>> song = audioscope.tiny.Song("none", "fast", "happy", "jazz", "violin", "drums")
        >>> song.indices()
        [2, 2, 0, 3, 0, 0]
    """

    voice: str
    tempo: str
    mood: str
    genre: str
    lead: str
    percussion: str

    @staticmethod
    def draw(rng: np.random.Generator, held_out: bool = False) -> Song:
        """Draw independent uniform labels; one combination in ten is held out, so that training never sees it whole.

        Args:
            rng: What to draw with.
            held_out: Draw one of the combinations that are held out, instead of one of the others.

        Returns:
            The song.

        Example:
            >>> import numpy as np
            >>> audioscope.tiny.Song.draw(np.random.default_rng(0), held_out=True).held_out
            True
        """
        of_kind("rng", rng, np.random.Generator)
        held_out = truth("held_out", held_out)
        while True:
            song = Song(**{group: str(rng.choice(classes)) for group, classes in GROUPS.items()})
            if song.held_out == held_out:
                return song

    @property
    def held_out(self) -> bool:
        """Whether this combination of labels is one of those that training never sees."""
        return crc32(repr(asdict(self)).encode()) % 10 == 0

    def indices(self) -> list[int]:
        """Return the class number of each group.

        Returns:
            One number per group, in the order of `audioscope.tiny.GROUPS`.
        """
        return [GROUPS[group].index(label) for group, label in asdict(self).items()]


@dataclass(frozen=True)
class Note:
    """One note of a melody, in beats and as a MIDI pitch."""

    at: float
    beats: float
    pitch: int


def render(song: Song, rng: np.random.Generator, bank: NoteBank, recolor: np.random.Generator | None = None) -> np.ndarray:
    """Play a song once, as the music that the tiny model was trained on; everything that the labels leave open is drawn.

    Args:
        song: The labels.
        rng: What everything else is drawn with.
        bank: The notes.
        recolor: With what the lead gets a tone and a room of its own, at the same level, as if another microphone had taken it; for
            classifiers that shall know instruments and not recordings of them. None leaves it as it is.

    Returns:
        The waveform, float32 [65536] at 16 kHz (4.096 s), about -20 dB RMS, peak below 1.

    Example:
        >>> import numpy as np
        >>> song = audioscope.tiny.Song("none", "fast", "happy", "jazz", "violin", "drums")
        >>> wave = audioscope.tiny.render(song, np.random.default_rng(0), audioscope.tiny.NoteBank())
        >>> wave.shape, round(float(10 * np.log10((wave**2).mean())))
        ((65536,), -20)
    """
    of_kind("song", song, Song), of_kind("rng", rng, np.random.Generator), of_kind("bank", bank, NoteBank)
    if recolor is not None:
        of_kind("recolor", recolor, np.random.Generator)
    buses, band = perform(song, rng, bank)
    if recolor is not None and "lead" in buses:
        buses["lead"] = leveled(recolored(buses["lead"], recolor), loudness(buses["lead"]))
    return master(np.sum(list(buses.values()), axis=0), band, song.genre)


def perform(song: Song, rng: np.random.Generator, bank: NoteBank) -> tuple[dict[str, np.ndarray], Band]:
    """Play a song and return what reaches the master: a bus each of the accompaniment, percussion, lead and voice, if they play.

    The buses stand at their levels, by `audioscope.tiny.band.loudness`: the accompaniment at 0 dB, lead and voice 2 to 4 dB up.
    """
    beat = 60.0 / rng.uniform(*BPM[song.tempo])
    mood, key = MOODS[song.mood], int(rng.integers(12))
    beats = int(np.ceil(SECONDS / beat))
    progression = mood.progressions[rng.integers(len(mood.progressions))]
    harmony = Harmony(key, mood.scale, tuple(progression[(b // 2) % len(progression)] for b in range(beats)))
    band = Band(bank, rng, beat, mood)
    ACCOMPANIMENT[song.genre](band, harmony)
    buses = {"accompaniment": leveled(band.accompaniment())}
    if song.percussion != "none":
        buses["percussion"] = _percussion(song, band, beats)
    turn, both = _turns(band, beats), "none" not in (song.voice, song.lead)
    if song.lead != "none":
        answers = both and band.draws("answers").random() < 0.5
        buses["lead"] = _lead(song, band, harmony, (lambda at: not turn(at)) if both else None, answers)
    if song.voice != "none":
        buses["voice"] = _voice(song, band, harmony, turn if both else None)
    return buses, band


def _turns(band: Band, beats: int) -> Callable[[float], bool]:
    """Whose turn it is, where a singer and a lead take turns: true where the singer sings."""
    rng = band.draws("turns")
    block = 2 if beats <= 5 else int(rng.integers(3, 5)) if beats <= 8 else int(rng.integers(4, 7))
    first = bool(rng.random() < 0.5)
    return lambda at: (at // block % 2 == 0) == first


def _percussion(song: Song, band: Band, beats: int) -> np.ndarray:
    rng = band.draws("percussion")
    kit = song.percussion == "drums"
    patterns = DRUMS[song.genre] if kit else HAND_PERCUSSION[song.percussion]
    pattern = patterns[rng.integers(len(patterns))]
    player = Drummer(band, "drummer", "kick" if kit else next(iter(pattern)))
    player.pattern(beats, pattern)
    if kit and rng.random() < 0.4:
        player.pattern(beats, FILLS[rng.integers(len(FILLS))])
    return leveled(player.track, (FRONT[song.genre] if kit else 0.0) + rng.uniform(-1, 1))


def _lead(song: Song, band: Band, harmony: Harmony, turn: Callable[[float], bool] | None, answers: bool) -> np.ndarray:
    """A melody of chord and passing tones; where the singer has the turn, it rests or, if it answers, plays softly."""
    player, rng, mood = Player(band, song.lead, "lead"), band.draws("melody"), band.mood

    def duration() -> float:
        return 0.5 if rng.random() < mood.density else 1.0 if rng.random() < 0.6 else 2.0

    for note in _melody(rng, mood, harmony, LEAD_RANGE[song.lead], duration):
        if turn is None or turn(note.at) or answers:
            at, beats = _swung(song, _cut(note, turn))
            player.note(note.pitch, at, min(mood.length, 1.0) * beats, 1.0 if turn is None or turn(note.at) else SOFT)
    return leveled(player.track, band.draws("lead level").uniform(2, 4))


def _voice(song: Song, band: Band, harmony: Harmony, turn: Callable[[float], bool] | None) -> np.ndarray:
    """A sung line, in notes as long as the genre's manner of singing wants them."""
    rng, mood, manner = band.draws("song"), band.mood, MANNER[song.genre]
    shortest, longest = SYLLABLE[manner]
    choices = [b for b in (0.5, 1.0, 2.0, 3.0, 4.0) if shortest <= b * band.beat <= longest]

    def duration() -> float:
        return choices[0] if rng.random() < mood.density else choices[rng.integers(len(choices))]

    hold = 1.0 if manner == "opera" else float(np.clip(mood.length * band.length, 0.65, 1.0))
    line = []
    for note in _melody(rng, mood, harmony, VOICE_RANGE[song.voice], duration):
        if turn is None or turn(note.at):
            at, beats = _swung(song, _cut(note, turn))
            loud = (mood.accent**0.5 if at % 1 == 0 else mood.accent**-0.5) * rng.uniform(0.85, 1.15)
            line.append(Syllable(0.02 + at * band.beat, hold * beats * band.beat, note.pitch, loud))
    voice = sing(line, song.voice, manner, band.draws("singer"), SAMPLES)
    return leveled(voice, band.draws("voice level").uniform(2, 4))


def _cut(note: Note, turn: Callable[[float], bool] | None) -> Note:
    """The note, no longer than the turn that it starts in."""
    if turn is None:
        return note
    starts = np.arange(0.5, note.beats, 0.5)
    return replace(note, beats=next((float(b) for b in starts if turn(note.at + b) != turn(note.at)), note.beats))


def _swung(song: Song, note: Note) -> tuple[float, float]:
    """Where a note starts and how long it lasts, in beats, after jazz has put off-beats late."""
    late = SWING - 0.5 if song.genre == "jazz" and note.at % 1 == 0.5 else 0.0
    return note.at + late, note.beats - late


def _melody(
    rng: np.random.Generator, mood: Mood, harmony: Harmony, span: tuple[int, int], duration: Callable[[], float]
) -> list[Note]:
    """A line of chord tones on the beat and passing tones between, which wanders around the mood's register; few rests."""
    tones = [p for p in range(span[0], span[1] + 1) if (p - harmony.key) % 12 in mood.scale]
    center, notes, at = mood.register * (len(tones) - 1), [], 0.0
    here = center + rng.uniform(-2, 2)
    while at < len(harmony.degrees):
        beats, degree = duration(), harmony.degrees[int(at)]
        chord = {(mood.scale[(degree + step) % 7] + harmony.key) % 12 for step in (0, 2, 4)}
        cost = [abs(i - here) + (0.0 if tone % 12 in chord else 1.2) for i, tone in enumerate(tones)]
        here = float(np.argmin(cost) if at % 1 == 0 else np.clip(round(here), 0, len(tones) - 1))
        if rng.random() > 0.08:
            notes.append(Note(at, beats, tones[int(here)]))
        here += (-2, -1, 1, 2)[rng.integers(4)] + mood.drift + 0.25 * (center - here)
        here = float(np.clip(here, 0, len(tones) - 1))
        at += beats
    return notes


def master(wave: np.ndarray, band: Band, genre: str) -> np.ndarray:
    """Tone, room, level: two mild random shelves, reverb, the mood's brightness and swell, a soft limiter."""
    rng, mood = band.draws("master"), band.mood
    wave = wave.astype(np.float32)
    low = _one_pole(wave, 0.46)  # near 2 kHz
    deep = _one_pole(wave, 0.92)  # near 200 Hz
    shelf, bass = 10 ** ((mood.tilt + rng.uniform(-2, 2)) / 20), 10 ** (rng.uniform(-3, 3) / 20)
    wave = low + np.float32(shelf) * (wave - low) + np.float32(bass - 1) * deep
    decay, wet = (value * rng.uniform(0.6, 1.4) for value in ROOM[genre])
    time = np.arange(int(RATE * min(4 * decay, 1.0)), dtype=np.float32) / np.float32(RATE)
    room = rng.standard_normal(len(time), dtype=np.float32) * np.exp(-time / np.float32(decay))
    room *= np.float32(wet) / np.sqrt((room**2).sum())
    room[0] += 1
    size = next_fast_len(SAMPLES + len(room), real=True)
    wave = irfft(rfft(wave, size) * rfft(room, size), size)[:SAMPLES]
    ramp = np.arange(SAMPLES, dtype=np.float32) * np.float32(np.pi / SAMPLES) + np.float32(rng.uniform(-0.6, 0.6))
    wave = wave * (1 - np.float32(mood.swell) * np.cos(ramp) ** 2)
    wave = wave * np.float32(10 ** (LEVEL / 20) / (np.sqrt((wave**2).mean()) + 1e-6))
    wave = np.float32(0.98) * np.tanh(wave / np.float32(0.98))
    wave[-640:] *= np.linspace(1, 0, 640, dtype=np.float32)
    return wave.astype(np.float32)


def _one_pole(wave: np.ndarray, pole: float) -> np.ndarray:
    """A low-pass filter of one pole."""
    return lfilter(np.array([1 - pole], np.float32), np.array([1, -pole], np.float32), wave)
