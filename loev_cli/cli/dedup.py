"""``loev dedup``: tracks that are the same recording, or nearly."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loev_cli.cli import _completion
from loev_cli.cli import _lists as lists
from loev_cli.cli import _options as options
from loev_cli.cli._console import plural, say
from loev_cli.cli._progress import Bars
from loev_cli.defaults import DUPLICATE_DISTANCE, INVARIANT
from loev_cli.track_lists import file_of

if TYPE_CHECKING:
    from loev_cli.search.duplicates import Member
    from loev_cli.search.library import Library


def dedup(
    context: typer.Context,
    emb: options.Emb,
    threshold: Annotated[
        float,
        options.searching(
            help="Cosine distance up to which two tracks are the same; see docs/search.md.",
            metavar="D",
        ),
    ] = DUPLICATE_DISTANCE,
    by: Annotated[
        str,
        options.searching(
            help="The subspace that is compared.",
            metavar="SUBSPACE",
            autocompletion=_completion.subspaces,
        ),
    ] = INVARIANT,
    where: options.Where = None,
    list_format: lists.Format = None,
    out: lists.Out = lists.STDOUT,
    overwrite: lists.Overwrite = False,
    csv_safe: lists.CsvSafe = False,
    root: options.Root = None,
    log_json: options.LogJson = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Group tracks that are the same recording: copies, re-encodings, other speeds and keys.

    Each is said to be a copy or an excerpt of one that is kept, or in another key or tempo.

    Example: loev dedup emb.npz
    """
    from loev_cli.search import open_library
    from loev_cli.search.duplicates import find_duplicates
    from loev_cli.search.library import audio_root

    options.refuse_repeats(context)
    chosen = lists.format_of(list_format, out, [emb])
    lists.check_root(root, unused=False)
    library = open_library(emb)
    root = root or audio_root(emb, library.meta, library.paths)
    with lists.ListWriter(
        "dedup",
        chosen,
        out,
        inputs=[emb],
        overwrite=overwrite,
        header=[*_HEADER, *library.subspaces, *library.labels_of(0)],
        root=root,
        csv_safe=csv_safe,
        quiet=quiet,
    ) as listed:
        with Bars(shown=not quiet) as bars:
            members = find_duplicates(
                library,
                by=by,
                threshold=threshold,
                where=where,
                quality=_Quality(library, root),
                on_rows=lambda done, total: bars.update("comparing", done, total),
            )
        for member in members:
            record: dict[str, Any] = {
                "group": member.group,
                "path": member.path,
                "duration_s": round(member.duration_s, 3),
                **dict(zip(_RELATION, _relation(member), strict=True)),
                **member.distances,
                **library.labels_of(member.row),
            }
            listed.add(record, member.duration_s)
        listed.finish()
    if not quiet:
        n_groups = members[-1].group if members else 0
        n_redundant = sum(not member.keep for member in members)
        if root is None and members:
            say("note: files not found, quality not compared (--root says where they are)")
        target = f" -> {out}" if out != lists.STDOUT else ""
        say(
            f"{plural(n_groups, 'group')} of {plural(len(members), 'track')} within {threshold:g} "
            f"by {by}, of {plural(len(library), 'track')}; {n_redundant} redundant{target}"
        )


_RELATION = ("keep", "relation", "semitones", "rate", "of")
_HEADER = ("group", "path", "duration_s", *_RELATION)


def _relation(member: Member) -> tuple[Any, ...]:
    """Values of ``_RELATION``."""
    if (relation := member.relation) is None:
        return member.keep, None, None, None, None
    return member.keep, relation.kind, relation.semitones or None, relation.rate, member.of


class _Quality:
    """How good the file of a row is: its encoding, its length, the number of its tags."""

    def __init__(self, library: Library, root: Path | None) -> None:
        self._library, self._root = library, root
        self._tags = [name for name in library.columns if name.startswith("tag_")]

    def __call__(self, row: int) -> tuple[float, ...]:
        from loev_cli.audio.ffmpeg import quality
        from loev_cli.audio.readers import UnreadableError

        library, encoding = self._library, (0, 0, 0)
        if self._root is not None:
            with contextlib.suppress(OSError, UnreadableError):
                encoding = quality(Path(file_of(library.paths[row], self._root)))
        n_tags = sum(library.columns[name][row] not in (None, "") for name in self._tags)
        return *encoding, float(library.columns["duration_s"][row]), n_tags
