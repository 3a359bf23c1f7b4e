"""Embedding a library of audio: find -> decode -> cut -> encode -> pool -> write.

``loev_cli.embed(["~/Music"], "emb.parquet")`` calls :func:`.call.embed_to_file`: the name is that
of this package and, for users, of a function.

request    what a user asks for
job        the request checked and carried out on an output file, or on standard output
runner     the stages joined: files in, rows out
reader     decode and cut, in processes ahead of the encoder; arrays: the same of waveforms
mapper     windows of many tracks -> batches -> vectors
assembler  vectors -> one row per track
journal    rows that are done, kept beside the output; parts: its files; lock: one run at a time
presence   files that are gone, and files that only cannot be seen
shards     the part of a library that one array job does; merge joins what they made
plan       what a run would meet and take, without it
"""

import sys
import types

from loev_cli.embed.call import embed_to_file
from loev_cli.embed.events import Event, Notice, Report, RunStarted, TrackDone, not_read
from loev_cli.embed.failures import FAILURES_SUFFIX, Failure
from loev_cli.embed.job import annotate, embed
from loev_cli.embed.journal import JOURNAL_SUFFIX
from loev_cli.embed.merge import Merged, merge
from loev_cli.embed.plan import DryRun, dry_run
from loev_cli.embed.request import Request
from loev_cli.embed.shards import Shard, parse_shard
from loev_cli.embed.stats import Stats

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
