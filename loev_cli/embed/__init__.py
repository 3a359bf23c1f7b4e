"""Embedding a library of audio: find -> decode -> cut -> encode -> pool -> write.

``loev_cli.embed(["~/Music"], "emb.parquet")`` calls :func:`.job.embed_to_file`: the name is that
of this package and, for users, of a function.

request    what a user asks for, and the part of a library that one array job does
engine     the request checked, against an earlier output too, and what carries it out
job        a request carried out on an output file, or on standard output; annotate: on neither
pipeline   files or waveforms in, rows out; reader: decoding and cutting ahead of the encoder
journal    rows that are done, kept beside the output; parts: its files
presence   files that are gone, and files that only cannot be seen
merge      joins what array jobs made
plan       what a run would meet and take, without it
report     what a run tells, and the list of failures
"""

import sys
import types

from loev_cli.embed.annotate import annotate
from loev_cli.embed.job import embed, embed_to_file
from loev_cli.embed.journal import JOURNAL_SUFFIX
from loev_cli.embed.merge import Merged, merge
from loev_cli.embed.plan import DryRun, dry_run
from loev_cli.embed.report import (
    FAILURES_SUFFIX,
    Event,
    Failure,
    Notice,
    Report,
    RunStarted,
    Stats,
    TrackDone,
    not_read,
)
from loev_cli.embed.request import Request, Shard, parse_shard

__all__ = [
    "FAILURES_SUFFIX",
    "JOURNAL_SUFFIX",
    "DryRun",
    "Event",
    "Failure",
    "Merged",
    "Notice",
    "Report",
    "Request",
    "RunStarted",
    "Shard",
    "Stats",
    "TrackDone",
    "annotate",
    "dry_run",
    "embed",
    "embed_to_file",
    "merge",
    "not_read",
    "parse_shard",
]


class _CallablePackage(types.ModuleType):
    """Whether this package or the function was imported first, ``loev_cli.embed`` is both."""

    __call__ = staticmethod(embed_to_file)


sys.modules[__name__].__class__ = _CallablePackage
