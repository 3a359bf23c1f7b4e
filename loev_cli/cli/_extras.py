"""Commands whose packages are left out of the base install."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from loev_cli.errors import MissingExtraError


@contextlib.contextmanager
def needs_extra(feature: str, extra: str) -> Iterator[None]:
    """Around imports: a package that is missing is the extra's.

    Raises:
        MissingExtraError: names the extra to install.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "loev_cli":
            raise  # a bug of ours, not a missing package
        raise MissingExtraError(feature, extra) from error
