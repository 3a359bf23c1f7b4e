"""``loev search``: what lies nearest, in the subspaces that are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loev_cli.cli import _lists as lists
from loev_cli.cli import _options as options
from loev_cli.cli._console import plural, say, stdin_bytes
from loev_cli.defaults import N_HITS
from loev_cli.errors import EXIT_FAILED, EXIT_SOME_FAILED, LoevError, UsageError

if TYPE_CHECKING:
    from loev_cli.search.library import Hit
    from loev_cli.search.session import Session

_STDIN = "-"


def search(
    context: typer.Context,
    emb: options.Emb,
    queries: Annotated[
        list[str],
        typer.Argument(
            metavar="QUERY...",
            help="A track of EMB by its path or the end of it, or an audio file; - reads them "
            "from stdin, one a line.",
        ),
    ],
    by: options.By = None,
    weights: options.Weights = None,
    k: Annotated[
        int, options.searching("-k", min=1, help="Number of results per query.", metavar="K")
    ] = N_HITS,
    where: options.Where = None,
    like_but: Annotated[
        str | None,
        options.searching(
            help="Like the query but shifted: tempo=+10%, pitch=-2 (semitones), or "
            "tempo=+5%,pitch=-1. Similar in all subspaces unless --by or --weights says "
            "otherwise.",
            metavar="ATTRIBUTE=CHANGE,...",
        ),
    ] = None,
    exclude_same_file: Annotated[
        bool,
        options.searching("--exclude-same-file", help="Exclude the query track from the results."),
    ] = False,
    null: Annotated[
        bool,
        options.searching(
            "--null", help="Queries on stdin are NUL-terminated instead of newline-terminated."
        ),
    ] = False,
    exact: Annotated[
        bool,
        options.searching(
            "--exact", help="Compare with every row of a database, whatever its size."
        ),
    ] = False,
    list_format: lists.Format = None,
    out: lists.Out = lists.STDOUT,
    overwrite: lists.Overwrite = False,
    csv_safe: lists.CsvSafe = False,
    root: options.Root = None,
    model: Annotated[
        str | None,
        options.model(
            help="Model used to embed EMB; needed for audio-file queries; default the shipped "
            "model of that name.",
            metavar="NAME|FOLDER",
        ),
    ] = None,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Find the tracks nearest to one in a subspace: same tempo, same key, sounds like this.

    Example: loev search emb.npz song.mp3 --by tempo
    """
    from loev_cli.search.session import Session
    from loev_cli.storage.replacing import read_inputs

    options.refuse_repeats(context)
    weighted = options.weights_of(by, weights)
    chosen = lists.format_of(list_format, out, [emb, *queries])
    lists.check_root(root, unused=chosen != "m3u" and like_but is None)
    session = Session(
        emb,
        weights=weighted,
        k=k,
        where=where,
        like_but=like_but,
        exclude_same_file=exclude_same_file,
        exact=exact,
        root=root,
        model=model,
        device=device,
    )
    asked = list(_queries(queries, null=null))
    if not asked:
        raise UsageError("no query", hint="stdin was empty")
    several = len(asked) > 1
    with lists.ListWriter(
        "search",
        chosen,
        out,
        inputs=[
            *(emb, *read_inputs(queries), *asked),
            *([] if root is None else [root / text for text in asked]),
        ],
        overwrite=overwrite,
        header=[
            *(["query"] if several else []),
            "rank",
            "path",
            "score",
            *session.subspaces,
            *session.labeled,
        ],
        root=root,
        csv_safe=csv_safe,
        quiet=quiet,
    ) as listed:
        answers, n_failed = _ask(session, asked)
        if not answers:
            raise typer.Exit(EXIT_FAILED)
        if chosen == "m3u":
            listed.root = session.root_of([hit.path for _, hits in answers for hit in hits])
        for query, hits in answers:
            for hit, labels in zip(hits, session.labels(hits), strict=True):
                record: dict[str, Any] = {
                    **({"query": query} if several else {}),
                    "rank": hit.rank,
                    "path": hit.path,
                    "score": hit.score,
                    **hit.distances,
                    **labels,
                }
                listed.add(record, hit.duration_s)
        listed.finish()
    if not quiet:
        for note in session.notes:
            say(note)
        if out != lists.STDOUT:
            n_hits = sum(len(hits) for _, hits in answers)
            say(f"{plural(n_hits, 'track')} -> {out}")
    if n_failed:
        raise typer.Exit(EXIT_SOME_FAILED)


def _queries(words: list[str], *, null: bool) -> Iterator[str]:
    for word in words:
        if word != _STDIN:
            yield word
            continue
        stdin = stdin_bytes()
        content = b"" if stdin is None else stdin.read()
        for line in content.split(b"\0" if null else b"\n"):
            text = line if null else line.removesuffix(b"\r")
            if text:
                yield text.decode("utf-8", "surrogateescape")


def _ask(session: Session, asked: list[str]) -> tuple[list[tuple[str, list[Hit]]], int]:
    """The answers, and how many queries could not be answered; of several one may fail alone."""
    if len(asked) == 1:
        return [(asked[0], session.ask(asked[0]))], 0
    answers, n_failed = [], 0
    for text in asked:
        try:
            answers.append((text, session.ask(text)))
        except LoevError as error:
            if not session.can_go_on(error):
                raise
            n_failed += 1
            say(f"loev: error: {error}")
    return answers, n_failed
