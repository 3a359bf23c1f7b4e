"""Remote outputs: written locally, with their journal, and uploaded when complete.

    s3://bucket/emb.parquet   <-   ~/.cache/loev/outputs/<hash of the URL>/emb.parquet
                                                                          emb.parquet.journal/
                                                                          uploaded.json

The copy here stays, so that a run that was stopped goes on and a finished one can be brought up to
date, on this machine. ``uploaded.json`` says what was put there last: if something else is there
by now, that is taken for the earlier output.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path, PurePosixPath

from loev_cli.embed.report import FAILURES_SUFFIX
from loev_cli.errors import OutputError
from loev_cli.storage.atomic import write_own
from loev_cli.storage.bounded import DATA_ERRORS, parse_json, read_bytes
from loev_cli.storage.own import check_own, own_folder, user_cache
from loev_cli.storage.remote import RemoteError, RemoteFile, describe, download, remove, upload

_UPLOADED_FILE = "uploaded.json"
_MAX_N_BYTES = 1 << 20
_TRIAL_SUFFIX = ".loev-trial"


@contextlib.contextmanager
def staged(url: str) -> Iterator[Path]:
    """A path here for what is to be at ``url``; it goes there when the context ends well.

    Raises:
        OutputError: nothing can be written there, or here.
    """
    local = _local_of(url)
    try:
        own_folder(local.parent, parents=True)
        check_own(local)
        _try_writing(url, local.parent / _TRIAL_SUFFIX)
        _bring_up_to_date(url, local)
        yield local
        failures = Path(f"{local}{FAILURES_SUFFIX}")
        if local.exists():
            _put(local, url)
        if failures.exists():
            upload(failures, url + FAILURES_SUFFIX)
        else:
            remove(url + FAILURES_SUFFIX)
    except RemoteError as error:
        hint = f"progress is saved in {local.parent}; run the same command again to resume"
        raise OutputError(f"cannot write {error}", hint=hint) from error
    except OSError as error:
        raise OutputError(f"cannot write {local.parent}: {error.strerror or error}") from error


def _local_of(url: str) -> Path:
    digest = hashlib.sha256(url.encode()).hexdigest()[:16]
    return user_cache() / "outputs" / digest / PurePosixPath(url).name


def _try_writing(url: str, trial: Path) -> None:
    write_own(trial, b"")
    upload(trial, url + _TRIAL_SUFFIX)
    remove(url + _TRIAL_SUFFIX)
    trial.unlink()


def _bring_up_to_date(url: str, local: Path) -> None:
    """Make the copy here what is there, unless that is what was put there from here."""
    there = describe(url)
    noted = _noted(local)
    if there.size is None and noted is not None:  # somebody has removed it
        local.unlink(missing_ok=True)
        (local.parent / _UPLOADED_FILE).unlink()
    elif there.size is not None and there != noted:
        with tempfile.TemporaryDirectory(prefix=".download.", dir=local.parent) as folder:
            aside = Path(folder) / local.name
            download(url, aside)
            aside.replace(local)


def _put(local: Path, url: str) -> None:
    """Nothing to do if it is there already."""
    note = local.parent / _UPLOADED_FILE
    noted = _noted(local)
    is_older = noted is not None and local.stat().st_mtime_ns < note.stat().st_mtime_ns
    if is_older and describe(url) == noted:
        return
    upload(local, url)
    write_own(note, json.dumps(asdict(describe(url))).encode() + b"\n")


def _noted(local: Path) -> RemoteFile | None:
    try:
        return RemoteFile(**parse_json(read_bytes(local.parent / _UPLOADED_FILE, _MAX_N_BYTES)))
    except (OSError, *DATA_ERRORS):
        return None
