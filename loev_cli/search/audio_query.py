"""Audio files as queries, embedded with the model and settings of the library."""

from __future__ import annotations

from pathlib import Path

from loev_cli import bundle as bundles
from loev_cli.api import Model
from loev_cli.backends import open_encoder
from loev_cli.bundle import Bundle
from loev_cli.errors import UsageError
from loev_cli.windows import Vectors
from loev_cli.writers import Meta, is_made_by


class FileEmbedder:
    """A model with the settings of a library: files in, vectors out, as ``loev embed`` made them.

    Args:
        meta: of the library.
        model: the model's folder or name; default the name that ``meta`` has.
        device: as :func:`loev_cli.backends.open_encoder` takes it.

    Raises:
        UsageError: the model is not found, or is not the library's.
        BundleError: it is damaged.
    """

    def __init__(self, meta: Meta, *, model: str | None = None, device: str = "auto") -> None:
        bundle = _bundle_of(meta, model)
        self._hop_s = meta["hop_s"]
        self._model = Model(open_encoder(bundle, device=device, subspaces=list(meta["subspaces"])))

    def vectors(self, file: Path, speed: float = 1.0) -> Vectors:
        """Subspace -> (D,) of a file of any length; see :meth:`loev_cli.api.Model.embed_file`.

        Raises:
            InputError: the file is missing or not audio.
        """
        return self._model.embed_file(file, hop_s=self._hop_s, speed=speed)


def _bundle_of(meta: Meta, model: str | None) -> Bundle:
    wanted = f"{meta['model']} ({str(meta['model_sha256'])[:12]})"
    try:
        bundle = bundles.find(model or str(meta["model"]))
    except UsageError as error:
        if model:
            raise
        raise UsageError(
            f"querying by audio needs the model used to embed the library, {wanted}, which was not "
            "found",
            hint="pass its folder with --model",
        ) from error
    if not is_made_by(meta, bundle):
        raise UsageError(
            f"the library was made by {wanted}, not by {bundle.name} ({bundle.sha256[:12]}) in "
            f"{bundle.path}",
            hint="pass the folder of the library's model with --model, or embed the library again",
        )
    return bundle
