"""Embedding a library of audio: find -> decode -> cut -> encode -> pool -> write.

job        what a user asks for, checked and carried out
runner     the stages of one run, joined
reader     decode and cut, in threads ahead of the encoder
mapper     windows of many tracks -> batches -> vectors
assembler  vectors -> one row per track, in order
"""

from loev_cli.embed.failures import FAILURES_SUFFIX, Failure
from loev_cli.embed.job import DryRun, Request, dry_run, embed
from loev_cli.embed.runner import Event, Report, RunStarted, Settings, TrackDone, run

__all__ = [
    "FAILURES_SUFFIX",
    "DryRun",
    "Event",
    "Failure",
    "Report",
    "Request",
    "RunStarted",
    "Settings",
    "TrackDone",
    "dry_run",
    "embed",
    "run",
]
