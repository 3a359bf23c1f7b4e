"""Remote files: s3://, gs://, https:// and the other protocols of fsspec (extra remote).

    files_below(url)      the files under a URL, each with its size and time
    fetched(file)         a copy of one here, for as long as it is needed
    upload(file, url)     a file here -> there, whole or not at all

Credentials and endpoints are those of fsspec and its drivers: AWS_ACCESS_KEY_ID,
AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, ~/.config/fsspec and so on.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from loev_cli.errors import LoevError, MissingExtraError, UsageError, needs_extra

_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")
_HTTP = ("http://", "https://")
_DRIVERS = frozenset({"aiohttp", "aiobotocore", "botocore", "gcsfs", "google", "fsspec", "s3fs"})
_TIMES = ("LastModified", "mtime", "updated", "last_modified", "modified", "created")
_TAGS = ("ETag", "etag", "checksum", "md5Hash")


@dataclass(frozen=True)
class RemoteFile:
    """One remote file.

    Attributes:
        url: where.
        size: in bytes; None if the server does not say.
        version: changes when the file does: its time in ns, or a number made of its ETag; None if
            the server says neither.
    """

    url: str
    size: int | None = None
    version: int | None = None

    @property
    def name(self) -> str:
        return PurePosixPath(self.url.split("?", 1)[0]).name


@dataclass(frozen=True)
class Limits:
    """Of one file that is copied here: what is larger, or takes longer, counts as bad."""

    max_n_bytes: int = 16_000_000_000
    timeout_s: float = 3600.0


DEFAULT_LIMITS = Limits()


class RemoteError(LoevError):
    """A remote file could not be listed, read or written."""


def is_url(text: str) -> bool:
    """Whether ``text`` is a remote URL."""
    return bool(_URL.match(text))


def files_below(url: str) -> list[RemoteFile]:
    """The file at ``url``, or all files below it; none if nothing is there.

    On https:// a folder is a page that lists it, and its URL ends with ``/``.

    Raises:
        UsageError: there is no such protocol, or its driver is not installed.
        RemoteError: it cannot be listed.
    """
    with _talking_to(url):
        system, path = _open(url)
        if url.startswith(_HTTP) and not url.endswith("/"):
            return [_described(url, system.info(path))]
        found = system.find(path, detail=True, withdirs=False)
        prefix = "" if url.startswith(_HTTP) else url[: _URL.match(url).end()]  # type: ignore[union-attr]
        return [
            _described(system.unstrip_protocol(name) if prefix else name, info)
            for name, info in sorted(found.items())
            if info.get("type", "file") == "file"
        ]


def describe(url: str) -> RemoteFile:
    """The file at ``url``, without its size and version if it is missing or unreachable."""
    try:
        with _talking_to(url):
            system, path = _open(url)
            return _described(url, system.info(path))
    except RemoteError:
        return RemoteFile(url)


def exists(url: str) -> bool:
    """Raises as :func:`files_below`."""
    with _talking_to(url):
        system, path = _open(url)
        return bool(system.isfile(path))


@contextlib.contextmanager
def fetched(file: RemoteFile, limits: Limits = DEFAULT_LIMITS) -> Iterator[Path]:
    """A copy on this machine, under its own name in a temporary folder that goes in the end.

    Raises:
        RemoteError: it cannot be read, is beyond the limits, or the disk is full.
    """
    if file.size is not None:
        _check_size(file.url, file.size, limits)
    with tempfile.TemporaryDirectory(prefix="loev-") as folder:
        copy = Path(folder) / (file.name or "file")
        download(file.url, copy, limits)
        yield copy


def download(url: str, to: Path, limits: Limits | None = None) -> None:
    """Copy the file at ``url`` here; without limits however large it is.

    Raises: as :func:`fetched`.
    """
    with _talking_to(url):
        system, path = _open(url)
        if limits is None:
            system.get_file(path, str(to))
        else:
            _download_within(limits, system, path, url, to)


def _download_within(limits: Limits, system: Any, path: str, url: str, to: Path) -> None:
    from fsspec.asyn import sync
    from fsspec.callbacks import Callback
    from fsspec.exceptions import FSTimeoutError

    ends = time.monotonic() + limits.timeout_s

    def check(value_of_size: int | None, value: int, **_: Any) -> None:
        _check_size(url, max(value, value_of_size or 0), limits)
        if time.monotonic() > ends:
            raise TimeoutError

    callback = Callback(hooks={"loev": check})
    try:
        if system.async_impl:  # ends a download of which nothing comes, too
            get, to_file = system._get_file, str(to)
            sync(system.loop, get, path, to_file, callback=callback, timeout=limits.timeout_s)
        else:
            system.get_file(path, str(to), callback=callback)
    except (TimeoutError, FSTimeoutError) as error:
        if time.monotonic() < ends:  # the server's silence, not the limit
            raise
        raise RemoteError(f"{url}: download timed out after {limits.timeout_s:g} s") from error


def _check_size(url: str, n_bytes: int, limits: Limits) -> None:
    if n_bytes > limits.max_n_bytes:
        raise RemoteError(f"{url}: larger than the download limit of {limits.max_n_bytes} bytes")


def upload(file: Path, url: str) -> None:
    """Put ``file`` at ``url``. Object stores show an object when it has come whole.

    Raises:
        UsageError, RemoteError: as :func:`files_below`.
    """
    with _talking_to(url):
        system, path = _open(url)
        system.put_file(str(file), path)


def remove(url: str) -> None:
    """Remove the file at ``url`` if there is one. Raises as :func:`files_below`."""
    with _talking_to(url):
        system, path = _open(url)
        if system.isfile(path):
            system.rm_file(path)


def _open(url: str) -> tuple[Any, str]:
    with needs_extra(f"reading or writing {url.split('://', 1)[0]}://", "remote"):
        import fsspec
    options: dict[str, Any] = {}
    if url.startswith(_HTTP):
        from loev_cli.storage.http import get_client

        options["get_client"] = get_client
    system, path = fsspec.core.url_to_fs(url, use_listings_cache=False, **options)
    return system, str(path)


@contextlib.contextmanager
def _talking_to(url: str) -> Iterator[None]:
    """Turns the errors of every driver into ours."""
    try:
        yield
    except ImportError as error:  # fsspec found no driver for the protocol
        raise MissingExtraError(f"reading or writing {url}", "remote") from error
    except ValueError as error:
        if "rotocol" in str(error):
            raise UsageError(f"{url}: {error}") from error
        raise RemoteError(f"{url}: {_in_short(error)}") from error
    except LoevError:
        raise
    except FileNotFoundError as error:
        if refusal := _refusal_in(error):  # whatever went wrong, fsspec says it found no file
            raise RemoteError(f"{url}: {refusal}") from refusal
        raise RemoteError(f"{url}: no such file or folder") from error
    except OSError as error:
        if refusal := _refusal_in(error):
            raise RemoteError(f"{url}: {refusal}") from refusal
        raise RemoteError(f"{url}: {_in_short(error)}") from error
    except Exception as error:
        # Drivers have errors of their own, of no common class, and may not be installed.
        if type(error).__module__.partition(".")[0] not in _DRIVERS:
            raise
        raise RemoteError(f"{url}: {_in_short(error)}") from error


def _refusal_in(error: BaseException | None) -> BaseException | None:
    """That a request was not sent on, among the causes of an error."""
    from loev_cli.storage.http import PrivateAddressError

    while error is not None and not isinstance(error, PrivateAddressError):
        error = error.__cause__ or error.__context__
    return error


def _in_short(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")


def _described(url: str, info: Mapping[str, Any]) -> RemoteFile:
    size = info.get("size")
    return RemoteFile(url, None if size is None else int(size), _version(info))


def _version(info: Mapping[str, Any]) -> int | None:
    for key in _TIMES:
        match info.get(key):
            case datetime() as moment:
                return round(moment.timestamp() * 1e9)
            case str() as text if text:
                return round(datetime.fromisoformat(text).timestamp() * 1e9)
            case int() | float() as seconds:
                return round(seconds * 1e9)
    for key in _TAGS:
        if info.get(key):
            digest = hashlib.blake2b(str(info[key]).encode(), digest_size=7).digest()
            return int.from_bytes(digest, "big")
    return None
