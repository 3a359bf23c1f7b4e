"""``loev_cli.embed(inputs, out)``: what ``loev embed`` does, as a function."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from loev_cli.audio import STDIN
from loev_cli.embed.events import Event, Report
from loev_cli.embed.failures import FAILURES_SUFFIX
from loev_cli.embed.job import embed
from loev_cli.embed.request import Request
from loev_cli.errors import LoevError, UsageError
from loev_cli.writers import STDOUT

AnyPath = str | os.PathLike[str]


def embed_to_file(
    inputs: AnyPath | Sequence[AnyPath],
    out: AnyPath,
    *,
    model: AnyPath = Request.model,
    subspaces: Sequence[str] | None = None,
    per_window: bool = False,
    tags: bool = False,
    annotate: bool = False,
    hop_s: float | None = None,
    device: str = Request.device,
    backend: str = Request.backend,
    precision: str = Request.precision,
    batch_size: int | None = None,
    workers: int | None = None,
    file_timeout_s: float = Request.file_timeout_s,
    prune: bool = False,
    strict: bool = False,
    overwrite: bool = False,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Report:
    """Embed audio files into an embedding file; the same call again embeds only what is new.

    Args:
        inputs: files, folders (searched recursively), or URLs of them; ``~`` is the home folder.
        out: a ``.npz``, ``.parquet``, ``.lance`` or ``.jsonl`` file; its extension is its format.
        on_event: called for every track when it is done or has failed.

    The others are the options of ``loev embed``; its ``--help`` and ``docs/embed.md`` explain them.

    Returns:
        How many tracks were embedded and how long that took, and the files that failed.

    Raises:
        UsageError, BundleError, OutputError: the request cannot be carried out.
        InputError: with ``strict``, the first file that fails.
        LoevError: the backend failed, or every file did.
    """
    given = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
    if STDIN in given or os.fspath(out) == STDOUT:
        raise UsageError("'-' has no meaning in Python", hint="pass a list of paths and a file")
    report = embed(
        Request(
            inputs=[_expanded(path) for path in given],
            out=_expanded(out),
            model=_expanded(model),
            subspaces=subspaces,
            per_window=per_window,
            tags=tags,
            annotate=annotate,
            hop_s=hop_s,
            device=device,
            backend=backend,
            precision=precision,
            batch_size=batch_size,
            workers=workers,
            file_timeout_s=file_timeout_s,
            prune=prune,
            strict=strict,
            overwrite=overwrite,
        ),
        on_event=on_event,
    )
    if not report.n_rows and report.failures:
        raise LoevError(
            f"all {len(report.failures)} files failed; the first: {report.failures[0].message}",
            hint=f"{os.fspath(out)}{FAILURES_SUFFIX} lists them",
        )
    return report


def _expanded(path: AnyPath) -> str:
    return os.path.expanduser(os.fspath(path))  # noqa: PTH111 (it may be a URL or a name)
