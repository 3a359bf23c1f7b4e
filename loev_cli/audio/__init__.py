"""Audio files: find them, and decode any length in bounded memory to mono at the model's rate.

find       what a user names (files, folders, a list on stdin) -> ordered sources, each once
decode     one file -> mono float32 blocks at the model's rate
load       one file -> its whole waveform
probe      one file -> length, rate and channels by its header
read_tags  one file -> artist, title, ... as it says

DecoderProcess does decode and probe in another process, where a file cannot do harm.
"""

from loev_cli.audio.decoding import (
    SILENCE_PEAK,
    ArrayDecoding,
    Decoding,
    FileInfo,
    as_waveform,
    checked_rate,
    decode,
    load,
    probe,
)
from loev_cli.audio.isolation import DEFAULT_TIMEOUT_S, DecoderProcess, RemoteDecoding
from loev_cli.audio.sources import AUDIO_EXTENSIONS, STDIN, Source, brought_here, find
from loev_cli.audio.tags import TAGS, read_tags

__all__ = [
    "AUDIO_EXTENSIONS",
    "DEFAULT_TIMEOUT_S",
    "SILENCE_PEAK",
    "STDIN",
    "TAGS",
    "ArrayDecoding",
    "DecoderProcess",
    "Decoding",
    "FileInfo",
    "RemoteDecoding",
    "Source",
    "as_waveform",
    "brought_here",
    "checked_rate",
    "decode",
    "find",
    "load",
    "probe",
    "read_tags",
]
