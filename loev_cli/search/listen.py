"""An audio file as a query: embedded by the model that made the library, as it did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loev_cli import bundle as bundles
from loev_cli.audio import DecoderProcess
from loev_cli.backends import Encoder, open_encoder
from loev_cli.bundle import Bundle
from loev_cli.errors import UsageError
from loev_cli.windows import Cut, MeanPool, WindowCutter
from loev_cli.writers import Meta, is_made_by

_BATCH_SIZE = 8


class Listener:
    """A model with the settings of a library: files in, vectors out, as ``loev embed`` made them.

    Args:
        meta: of the library.
        model: the model's folder or name; default the name that ``meta`` has.
        device: as :func:`loev_cli.backends.open_encoder` takes it.

    Raises:
        UsageError: the model is not here, or is another than the library's.
        BundleError: it is damaged.
    """

    def __init__(self, meta: Meta, *, model: str | None = None, device: str = "auto") -> None:
        bundle = _bundle_of(meta, model)
        self._hop_n_samples = max(1, round(meta["hop_s"] * bundle.sample_rate_hz))
        self._encoder = open_encoder(bundle, device=device, subspaces=list(meta["subspaces"]))

    def vectors(self, file: Path, speed: float = 1.0) -> dict[str, NDArray[np.float32]]:
        """Subspace -> (D,), the mean of the file's windows; any length, in bounded memory.

        Args:
            speed: plays it so much faster, and higher, as a tape would be.

        Raises:
            InputError: the file is not there or not audio.
        """
        encoder = self._encoder
        rate_hz, window = encoder.bundle.sample_rate_hz, encoder.bundle.window_n_samples
        cutter, pool = WindowCutter(window, self._hop_n_samples), MeanPool()
        waiting: list[Cut] = []
        with DecoderProcess() as decoder:  # where a damaged file can do no harm
            # What is taken slower than the model thinks is heard faster.
            for block in decoder.decode(file, round(rate_hz / speed)):
                waiting += cutter.push(block)
                while len(waiting) >= _BATCH_SIZE:
                    _encode(encoder, waiting[:_BATCH_SIZE], pool)
                    del waiting[:_BATCH_SIZE]
        waiting += cutter.finish()
        if waiting:
            _encode(encoder, waiting, pool)
        return pool.mean()


def _encode(encoder: Encoder, cuts: list[Cut], pool: MeanPool) -> None:
    vectors = encoder.encode(np.stack([cut.samples for cut in cuts]))
    for i in range(len(cuts)):
        pool.add({name: x[i] for name, x in vectors.items()})


def _bundle_of(meta: Meta, model: str | None) -> Bundle:
    wanted = f"{meta['model']} ({str(meta['model_sha256'])[:12]})"
    try:
        bundle = bundles.find(model or str(meta["model"]))
    except UsageError as error:
        if model:
            raise
        raise UsageError(
            f"to search by an audio file needs the model that made the library, {wanted}, which "
            "is not here",
            hint="--model FOLDER says where it lies",
        ) from error
    if not is_made_by(meta, bundle):
        raise UsageError(
            f"the library was made by {wanted}, not by {bundle.name} ({bundle.sha256[:12]}) in "
            f"{bundle.path}",
            hint="--model FOLDER says where that one lies, or embed the library again",
        )
    return bundle
