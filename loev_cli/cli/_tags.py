"""``loev annotate --write-tags`` and ``--undo``: show what would change, ask, write, sum up."""

from __future__ import annotations

import secrets
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from loev_cli.cli._console import plural, say
from loev_cli.cli._lists import ListWriter
from loev_cli.cli._options import panel
from loev_cli.errors import EXIT_DONE, EXIT_SOME_FAILED, InputError, UsageError

if TYPE_CHECKING:
    from loev_cli.formats import Row
    from loev_cli.tagging import Change

_tags = panel("Tags in files")
COLUMNS = ["path", "field", "old", "new"]
DEFAULT_MIN_CONFIDENCE = 0.5

WriteTags = Annotated[
    bool,
    _tags(
        "--write-tags",
        help="Write key and tempo to the tags of the files, after showing the changes and asking. "
        "The audio data is not changed.",
    ),
]
Camelot = Annotated[
    bool,
    _tags(
        "--camelot",
        help="Write keys in Camelot notation, such as 8A instead of Am.",
    ),
]
MinConfidence = Annotated[
    float | None,
    _tags(
        min=0.0,
        max=1.0,
        help=f"Skip predictions below this confidence; default {DEFAULT_MIN_CONFIDENCE}.",
        metavar="P",
        show_default=False,
    ),
]
ReplaceTags = Annotated[
    bool,
    _tags(
        "--replace-tags",
        help="Replace existing key and tempo tags; otherwise they are kept.",
    ),
]
Yes = Annotated[
    bool,
    _tags(
        "--yes",
        "-y",
        help="Write without asking.",
    ),
]
UndoLog = Annotated[
    Path | None,
    _tags(
        help="New file for the log of old values; default loev-tags-TIME.jsonl in this folder.",
        metavar="FILE",
        show_default=False,
    ),
]
Undo = Annotated[
    Path | None,
    _tags(
        help="Undo the changes in this log. Values that were changed since are kept.",
        metavar="LOG",
        show_default=False,
    ),
]


def check_options(
    inputs: Sequence[str], *, write: bool, undo: Path | None, others: bool, yes: bool
) -> None:
    """Raises UsageError where options do not go together.

    Args:
        others: whether an option is given that only ``--write-tags`` has.
    """
    if undo is not None and (inputs or write or others):
        raise UsageError("--undo takes no inputs, and --yes is the only other tag option it allows")
    if write:
        from loev_cli.formats import is_embedding_file

        for given in inputs:
            if is_embedding_file(given):
                raise UsageError(
                    f"{given} is an embedding file, --write-tags is for audio files",
                    hint="name the audio files",
                )
    if not inputs and undo is None:
        raise UsageError("missing INPUT", hint="name files or folders, or see --help")
    if not write and (others or (yes and undo is None)):
        raise UsageError(
            "--camelot, --min-confidence, --replace-tags, --undo-log and --yes are for tags",
            hint="add --write-tags",
        )


class Tagging:
    """Plans what rows say as tags, and writes them.

    Args:
        inputs: what the user names.
        log: where old values go; None: a name with the time in it.
        in_camelot, min_confidence, replace: see the options.
        yes: do not ask.
        strict: the first file that fails ends it.
        quiet: only errors on stderr.

    Raises:
        UsageError: an input is not a local file or folder, or ``log`` is not a new file.
        MissingExtraError: mutagen is not installed.
    """

    def __init__(
        self,
        inputs: Sequence[str],
        *,
        log: Path | None,
        in_camelot: bool,
        min_confidence: float | None,
        replace: bool,
        yes: bool,
        strict: bool,
        quiet: bool,
    ) -> None:
        from loev_cli import tagging
        from loev_cli.audio import STDIN, find
        from loev_cli.audio.tag_fields import check_mutagen
        from loev_cli.formats import check_target
        from loev_cli.storage.remote import is_url

        check_mutagen()
        for given in inputs:
            if given == STDIN or is_url(given):
                place = "standard input" if given == STDIN else given
                raise UsageError(
                    f"--write-tags takes local files and folders, not {place}",
                    hint="name them on the command line" if given == STDIN else "download it first",
                )
        now, run = datetime.now(UTC), secrets.token_hex(2)  # runs of one second are told apart
        self._log = log or Path(f"loev-tags-{now:%Y%m%dT%H%M%SZ}-{run}.jsonl")
        if self._log.exists():
            raise UsageError(f"{self._log} exists", hint="choose another --undo-log")
        check_target(self._log)
        self._min_confidence = DEFAULT_MIN_CONFIDENCE if min_confidence is None else min_confidence
        self._in_camelot = in_camelot
        self._replace = replace
        self._yes = yes
        self._quiet = quiet
        self._failures = _Failures(strict=strict)
        self._changes: dict[Path, Change] = {}
        self._n_kept = self._n_unsure = 0
        # From before anything is read, so that what changes meanwhile is found.
        self._files = {
            source.path: (source.file, tagging.state_of(source.file)) for source in find(inputs)
        }

    def plan(self, row: Row, listed: ListWriter) -> None:
        """Add to the list what would be written for a row."""
        from loev_cli import tagging

        certain = tagging.values_of(
            row.annotations, min_confidence=self._min_confidence, in_camelot=self._in_camelot
        )
        self._n_unsure += len(tagging.values_of(row.annotations)) - len(certain)
        if not certain:
            return
        try:
            file, state = self._files.get(row.path, (Path(row.path), None))
            change = tagging.plan(row.path, file, state, certain, replace=self._replace)
        except InputError as error:
            self._failures.add(error)
            return
        self._n_kept += len(change.kept)
        if change.new and change.file not in self._changes:  # a link to a file is the file
            self._changes[change.file] = change
            _list(change, listed)

    def carry_out(self) -> int:
        """Ask, write the log and then the tags; how many files failed."""
        from loev_cli import tagging

        changes = list(self._changes.values())
        if not self._quiet:
            for n, what in (
                (self._n_kept, "kept that the files have (--replace-tags replaces them)"),
                (self._n_unsure, f"of less confidence than {self._min_confidence:g} not written"),
            ):
                if n:
                    say(f"{plural(n, 'value')} {what}")
        if _may_write(changes, yes=self._yes, quiet=self._quiet):
            tagging.write_log(self._log, changes)
            how = f"loev annotate --undo {shlex.quote(str(self._log))}"
            if not self._quiet:
                say(f"old values -> {self._log} ({how} restores them)")
            _apply(
                changes,
                self._failures,
                quiet=self._quiet,
                how_to_resume=f"{how} restores the old values",
            )
        return self._failures.n


def take_back(log: Path, listed: ListWriter, *, yes: bool, strict: bool, quiet: bool) -> int:
    """Undo what a log lists; the exit code.

    Raises:
        UsageError: it is not a log of old tags.
        MissingExtraError: mutagen is not installed.
    """
    from loev_cli import tagging
    from loev_cli.audio.tag_fields import check_mutagen

    check_mutagen()
    failures = _Failures(strict=strict)
    changes = []
    for entry in tagging.read_log(log):
        try:
            change = tagging.plan_undo(entry)
        except InputError as error:
            failures.add(error)
            continue
        if change.kept and not quiet:
            say(f"loev: warning: {entry.path}: {' and '.join(change.kept)} changed since; kept")
        if change.new:
            changes.append(change)
            _list(change, listed)
    listed.finish()
    if _may_write(changes, yes=yes, quiet=quiet):
        _apply(changes, failures, quiet=quiet, how_to_resume="run the same command again to resume")
    return EXIT_SOME_FAILED if failures.n else EXIT_DONE


class _Failures:
    """Counts files that failed, each with its line; ``strict`` raises the first instead."""

    def __init__(self, *, strict: bool) -> None:
        self.n = 0
        self._strict = strict

    def add(self, error: InputError) -> None:
        if self._strict:
            raise error
        self.n += 1
        say(f"loev: failed ({error.stage}): {error}")


def _list(change: Change, listed: ListWriter) -> None:
    for field, new in change.new.items():
        values = [field, "; ".join(change.old[field]) or None, "; ".join(new) or None]
        listed.add(dict(zip(COLUMNS, [change.path, *values], strict=True)), 0.0)


def _may_write(changes: Sequence[Change], *, yes: bool, quiet: bool) -> bool:
    """Whether there is something to write, and the user agrees.

    Raises:
        UsageError: there is nobody to ask.
    """
    if not changes:
        if not quiet:
            say("nothing to write")
        return False
    if yes:
        return True
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError(
            "nothing was written: there is no terminal to ask on", hint="add --yes to write"
        )
    say(f"Write {_amount(changes)}? [y/N]")
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return True
    say("nothing was written")
    return False


def _apply(
    changes: Sequence[Change], failures: _Failures, *, quiet: bool, how_to_resume: str
) -> None:
    from loev_cli import tagging

    done = []
    try:
        for change in changes:
            try:
                tagging.apply(change)
                done.append(change)
            except InputError as error:
                failures.add(error)
    except KeyboardInterrupt as interrupt:
        interrupt.add_note(f"{_amount(done)} written; {how_to_resume}")
        raise
    if not quiet:
        say(f"{_amount(done)} written")


def _amount(changes: Sequence[Change]) -> str:
    n_values = sum(len(change.new) for change in changes)
    return f"{plural(n_values, 'value')} in {plural(len(changes), 'file')}"
