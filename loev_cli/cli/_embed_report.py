"""What ``loev embed`` shows: a bar on a terminal, a line per failed file, and the end's summary.
With ``--log-json`` each of these is an event."""

from __future__ import annotations

import time
from dataclasses import asdict

from loev_cli.cli._console import TELL_EVERY_S, clock, plural, say, says_json, show, size, tell
from loev_cli.cli._progress import Bars
from loev_cli.embed import (
    FAILURES_SUFFIX,
    JOURNAL_SUFFIX,
    DryRun,
    Event,
    Failure,
    Notice,
    Report,
    Request,
    RunStarted,
    Stats,
    TrackDone,
    not_read,
)
from loev_cli.formats import STDOUT


class Progress(Bars):
    """Takes the run's events."""

    def __init__(self, *, quiet: bool) -> None:
        super().__init__(shown=not quiet)
        self._quiet = quiet
        self._log_json = says_json()
        self._n_tracks = 0
        self._n_kept = 0
        self._n_done = 0
        self._n_failed = 0
        self._audio_s = 0.0
        self._began = self._told = time.monotonic()

    def take(self, event: Event) -> None:
        """Show it."""
        match event:
            case RunStarted():
                self._n_tracks, self._n_kept = event.n_tracks, event.n_kept
                self.update("embedding", 0, event.n_tracks)
                if self._log_json:
                    tell("started", **asdict(event))
                elif not self._quiet:
                    if event.remembered:
                        say(f"as in the earlier output: {' '.join(event.remembered)}")
                    if event.n_kept:
                        n_kept = plural(event.n_kept, "file")
                        say(f"{n_kept} already done, {event.n_tracks} remaining")
            case TrackDone():
                self._n_done += 1
                self._audio_s += event.duration_s
                self._advance()
                for text in event.warnings:
                    if self._log_json:
                        tell("warning", path=event.path, text=text)
                    elif not self._quiet:
                        say(f"loev: warning: {event.path}: {text}")
                if self._log_json and time.monotonic() - self._told > TELL_EVERY_S:
                    self._tell_progress()
            case Failure():
                self._n_failed += 1
                if self._log_json:
                    tell("failed", **asdict(event))
                else:
                    say(f"loev: failed ({event.stage}): {event.message}")
                self._advance()
            case Notice():
                if not self._quiet:
                    say(f"loev: warning: {event.text}")

    def _advance(self) -> None:
        speed = self._audio_s / max(time.monotonic() - self._began, 1e-3)
        n_ended = self._n_done + self._n_failed
        self.update("embedding", n_ended, self._n_tracks, f"{speed:.0f} x real time")

    def how_to_go_on(self, out: str) -> str:
        """After an interruption: what is kept, and what to do."""
        if out == STDOUT:
            return "lines written so far are complete; re-running starts over"
        n_done = self._n_kept + self._n_done
        if not n_done:
            return "no file was finished; re-running starts over"
        return (
            f"{n_done} of {plural(self._n_kept + self._n_tracks, 'file')} are done and saved in "
            f"{out}{JOURNAL_SUFFIX}; run the same command again to resume"
        )

    def _tell_progress(self) -> None:
        self._told = time.monotonic()
        tell(
            "progress",
            n_tracks=self._n_tracks,
            n_done=self._n_done,
            n_failed=self._n_failed,
            audio_s=round(self._audio_s, 1),
            wall_s=round(self._told - self._began, 1),
        )


def report(result: Report, request: Request, *, quiet: bool, stats: bool) -> None:
    """The end of a run."""
    out = request.out or ""
    n_failed = len(result.failures)
    listed = "" if out == STDOUT else f", listed in {out}{FAILURES_SUFFIX}"
    if says_json():
        tell("finished", out=out, n_failed=n_failed, **_figures(result))
        return
    if result.n_rows == 0 and n_failed and request.shard is None:
        all_failed = "the only file" if n_failed == 1 else f"all {n_failed} files"
        nothing = (
            f"no rows remain in {out}" if result.n_stale or result.n_pruned else "nothing written"
        )
        say(f"loev: error: {nothing}: {all_failed} failed{listed}")
        return
    if not quiet:
        say(_summary(result, "standard output" if out == STDOUT else out))
        for n_rows, what in (
            (result.n_annotated, "annotated from the vectors that were there"),
            (result.n_orphans, "kept for files that are not among the inputs (--prune drops them)"),
            (result.n_missing, "kept for inputs that no longer exist (--prune drops them)"),
            (result.n_pruned, "dropped for files that no longer exist"),
            (
                result.n_out_of_sight,
                "kept for files whose folder is missing or cannot be listed",
            ),
            (result.n_stale, "dropped for files that have changed and now fail"),
        ):
            if n_rows:
                say(f"{plural(n_rows, 'row')} {what}")
        if n_failed:
            say(f"{plural(n_failed, 'file')} failed{listed}")
        for line in not_read(result.passed_over):
            say(line)
    if stats:
        for line in _stats_lines(result.stats):
            say(line)


def plan(found: DryRun) -> None:
    """What ``--dry-run`` shows."""
    for failure in found.unreadable:
        say(f"loev: failed ({failure.stage}): {failure.message}")
    unknown = f" and {plural(found.n_unknown_length, 'file')} of unknown length"
    show(f"files:      {found.n_files}")
    show(f"audio:      {clock(found.audio_s)}{unknown if found.n_unknown_length else ''}")
    show(f"unreadable: {len(found.unreadable)}")
    show(f"vectors:    {found.n_vectors}")
    show(f"output:     {size(found.out_n_bytes)}")
    if found.run_s is not None:
        show(f"time:       about {clock(found.run_s)} on this machine, from a trial run")


def _summary(result: Report, where: str) -> str:
    if not result.n_rows:
        return f"this shard is empty -> {where}"
    if not result.n_done:
        return f"nothing new: {plural(result.n_rows, 'track')} in {where}"
    speed = result.audio_s / max(result.wall_s, 1e-9)
    total = f", which has {result.n_rows}" if result.n_rows != result.n_done else ""
    return (
        f"{plural(result.n_done, 'track')}, {clock(result.audio_s)} of audio in "
        f"{result.wall_s:.1f} s ({speed:.0f} x real time; {_shares(result.stats)}) -> "
        f"{where}{total}"
    )


def _shares(stats: Stats) -> str:
    return ", ".join(f"{stage} {share:.0%}" for stage, share in stats.shares().items())


def _stats_lines(stats: Stats) -> list[str]:
    if not stats.wall_s:
        return []
    places = stats.n_decoders + stats.n_encoders
    busy = (stats.decode_s + stats.encode_s) / stats.wall_s
    return [
        f"work: {_shares(stats)}; {busy:.1f} of {plural(stats.n_decoders, 'decoder')} and "
        f"{plural(stats.n_encoders, 'encoder')} busy on average, waiting "
        f"{stats.waiting_s / (places * stats.wall_s):.0%} of their time",
        f"bottleneck: {stats.limit} (decoders waited for the encoder "
        f"{stats.decoders_blocked:.0%} of the time)",
    ]


def _figures(result: Report) -> dict[str, object]:
    stats = result.stats
    rows = ("n_rows", "n_annotated", "n_orphans", "n_missing", "n_pruned", "n_out_of_sight")
    counts = ("n_done", *rows, "n_stale")
    times_s = ("decode_s", "encode_s", "write_s", "waiting_s")
    return {
        **{name: getattr(result, name) for name in counts},
        "passed_over": dict(result.passed_over),
        "audio_s": round(result.audio_s, 3),
        "wall_s": round(result.wall_s, 3),
        "audio_s_per_s": round(result.audio_s / max(result.wall_s, 1e-9), 1),
        **{name: round(getattr(stats, name), 3) for name in times_s},
        "n_decoders": stats.n_decoders,
        "n_encoders": stats.n_encoders,
        "limit": stats.limit if stats.wall_s else None,
    }
