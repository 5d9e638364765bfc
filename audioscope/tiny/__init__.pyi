from . import pool as pool
from .bank import NoteBank as NoteBank
from .codec import MelCodec as MelCodec
from .listener import Listener as Listener
from .music import BPM as BPM
from .music import GROUPS as GROUPS
from .music import Song as Song
from .music import render as render
