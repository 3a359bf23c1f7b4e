"""Errors survive the way from a worker process to the one that reports them."""

from __future__ import annotations

import pickle

import pytest

from loev_cli.errors import BundleError, InputError, LoevError, MissingExtraError


@pytest.mark.parametrize(
    "error",
    [
        InputError("a.mp3 is empty", stage="open", hint="copy it again"),
        BundleError("damaged"),
        MissingExtraError("training", "train"),
    ],
)
def test_errors_can_be_sent(error: LoevError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
    assert copy.exit_code == error.exit_code
