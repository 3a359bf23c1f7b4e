"""``loev explore``: a local page to look at a library, listen to it and search in it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loev_cli.cli import _options as options
from loev_cli.cli._console import on_terminal, plural, say, show
from loev_cli.errors import UsageError, needs_extra

if TYPE_CHECKING:
    from loev_cli.explore import AudioFiles

_serving = options.panel("Serving")
_listening = options.panel("A/B test")


def explore(
    context: typer.Context,
    emb: Annotated[
        Path | None,
        typer.Argument(
            metavar="EMB",
            help="A file of 'loev embed', or a folder of 'loev index'; default with --ab: A's.",
            show_default=False,
        ),
    ] = None,
    ab: Annotated[
        tuple[str, str] | None,
        _listening(
            help="Instead of one search, show lists that interleave two, as FILE or FILE@WEIGHTS; "
            "see docs/ab.md.",
            metavar="A B",
        ),
    ] = None,
    log: Annotated[
        Path | None,
        _listening(
            help="With --ab: file that shown lists and clicks are added to, for 'loev ab clicks'.",
            metavar="JSONL",
        ),
    ] = None,
    audio: Annotated[
        Path | None,
        _serving(
            help="Folder that the tracks' paths are relative to, to listen to them; nothing "
            "outside it is served. Default: the folder that was embedded, that of EMB or the "
            "current one, whichever has most of the tracks.",
            metavar="FOLDER",
        ),
    ] = None,
    bpm_range: options.BpmRange = None,
    model: Annotated[
        str | None,
        options.model(
            help="The model that made EMB, for --bpm-range; default: the one of that name.",
            metavar="NAME|FOLDER",
        ),
    ] = None,
    host: Annotated[
        str,
        _serving(
            help="Address to listen on. From other machines the page needs the token in the "
            "printed address.",
            metavar="ADDRESS",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, _serving(min=0, max=65535, help="TCP port; 0 picks a free one.", metavar="P")
    ] = 8765,
    no_browser: Annotated[
        bool, _serving("--no-browser", help="Only print the address; do not open it in a browser.")
    ] = False,
    log_json: options.LogJson = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Look at a library as a map, listen to it, and search it by subspace, in the browser.

    Example: loev explore emb.npz --audio ~/Music
    """
    with needs_extra("loev explore", "explore"):
        import loev_cli.explore as page
    from loev_cli import bundle as bundles
    from loev_cli.formats import annotator_for
    from loev_cli.search.library import annotated, audio_root, open_library
    from loev_cli.storage.replacing import check_no_input

    options.refuse_repeats(context)
    if audio is not None and not audio.is_dir():
        raise UsageError(f"--audio {audio}: no such folder")
    tempi = options.tempi(bpm_range)
    if (ab is None) != (log is None):
        raise UsageError("--ab and --log belong together", hint="--ab A B --log clicks.jsonl")
    interleaver = None
    if ab is not None and log is not None:
        with needs_extra("loev explore --ab", "explore,eval"):
            from loev_cli.ab.interleave import Interleaver
            from loev_cli.ab.sides import open_sides
        sides = open_sides(*ab)
        emb = emb or sides[0].library.source
        check_no_input(log, [side.library.source for side in sides])
        interleaver = Interleaver(*sides, log)
    if emb is None:
        raise UsageError("missing argument EMB", hint="for example emb.npz")
    library = open_library(emb)
    if interleaver is not None and library.paths != sides[0].library.paths:
        raise UsageError(f"{emb} holds other tracks than those of --ab")
    if tempi is not None:
        bundle = bundles.find(model or str(library.meta["model"]))
        library = annotated(library, annotator_for(library.meta, str(emb), bundle, tempi))
    elif model is not None:
        raise UsageError("--model is for --bpm-range", hint="add --bpm-range LOW-HIGH")
    root = audio or audio_root(emb, library.meta, library.paths) or emb.absolute().parent
    files = page.AudioFiles(root, library.paths)
    with page.listen(host, port) as listener:
        token = None if page.is_loopback(listener) else page.new_token()
        app = page.make_app(library, files, page.Access(token, host), interleaver)
        address = page.address(listener, host, token)
        if not quiet:
            _tell(len(library), emb, files)
        show(address)
        sys.stdout.flush()
        if not no_browser and on_terminal() and _has_display():
            import webbrowser

            webbrowser.open(address)
        page.serve(app, listener)


def _tell(n_tracks: int, emb: Path, files: AudioFiles) -> None:
    found, looked_for = files.n_found()
    say(f"{plural(n_tracks, 'track')} of {emb}, audio in {files.root}; Ctrl-C to stop")
    if found < looked_for:
        sample = f"of {looked_for} tracks looked for" if looked_for < n_tracks else f"of {n_tracks}"
        say(
            f"note: {looked_for - found} {sample} have no file there and cannot be played "
            "(set the folder with --audio FOLDER)"
        )


def _has_display() -> bool:
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
