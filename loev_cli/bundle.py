"""Model bundles: a folder that says everything needed to run a model, and nothing executable.

    loevpp-small/
      config.json         the contract: rate, window, subspaces, frontend, encoder, checksums
      model.safetensors   weights for torch
      model.onnx          waveform (B, N) -> one output (B, D) per subspace
      README.md           model card
      annotations.safetensors   weights of key and tempo readouts, in models that have them

Reading a bundle never unpickles and never imports torch. Sizes and SHA-256 sums of the two
weight files stand in ``config.json``; a file is checked against them before it is used.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loev_cli.errors import BundleError, UsageError, known_names
from loev_cli.storage import hub
from loev_cli.storage.bounded import parse_json, read_bytes
from loev_cli.storage.protobuf import external_tensor

FORMAT_VERSION = 1
DEFAULT_MODEL = "loevpp-small"

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
ONNX_FILE = "model.onnx"
ANNOTATIONS_FILE = "annotations.safetensors"
CARD_FILE = "README.md"
# All that a bundle may contain.
FILES = (CONFIG_FILE, WEIGHTS_FILE, ONNX_FILE, ANNOTATIONS_FILE, CARD_FILE)

# Beyond what any model has, and small enough for every computer: sizes are allocated as they stand.
MAX_DIM = 1 << 16
_LARGEST = {"sample_rate_hz": 1_000_000, "window_n_samples": 1 << 25}
_MAX_CONFIG_N_BYTES = 4 << 20

_REQUIRED_KEYS: dict[str, type] = {
    "name": str,
    "method": str,
    "encoder": dict,
    "frontend": dict,
    "sample_rate_hz": int,
    "window_n_samples": int,
    "pooling": str,
    "subspaces": dict,
    "augmentations": dict,
    "files": dict,
}


@dataclass(frozen=True)
class Bundle:
    """A model bundle on disk, its ``config.json`` read and checked.

    Attributes:
        path: the bundle's folder.
        config: ``config.json`` as it stands.
    """

    path: Path
    config: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.config["name"])

    @property
    def sample_rate_hz(self) -> int:
        return self._of_audio("sample_rate_hz")

    @property
    def window_n_samples(self) -> int:
        return self._of_audio("window_n_samples")

    def _of_audio(self, key: str) -> int:
        """Raises BundleError where the model reads no audio."""
        if "input_shape" in self.config:
            raise BundleError(f"model {self.path} reads no audio, see its {CARD_FILE}")
        return int(self.config[key])

    @property
    def window_s(self) -> float:
        return self.window_n_samples / self.sample_rate_hz

    @property
    def pads_short(self) -> bool:
        """Whether a track shorter than a window is followed by silence; else it is repeated."""
        return bool(self.config["encoder"].get("pad_short", False))

    def hop_n_samples(self, hop_s: float | None = None) -> int:
        """Samples from one window's start to the next; without ``hop_s`` the model's own default.

        That is ``hop_n_samples`` of the config; half a window where an older bundle has none.

        Raises:
            UsageError: ``hop_s`` is out of range.
        """
        if hop_s is None:
            return int(self.config.get("hop_n_samples", max(1, self.window_n_samples // 2)))
        in_range = 0 < hop_s <= self.window_s  # false for NaN too
        hop_n_samples = round(hop_s * self.sample_rate_hz) if in_range else 0
        if hop_n_samples < 1:
            raise UsageError(
                f"hop of {hop_s:g} s is out of range",
                hint=f"more than 0, up to the model's window of {self.window_s:g} s",
            )
        return hop_n_samples

    @property
    def pooling(self) -> str:
        return str(self.config["pooling"])

    @property
    def subspaces(self) -> dict[str, int]:
        """Subspace name -> dimension D, in the model's order."""
        return dict(self.config["subspaces"])

    @property
    def sha256(self) -> str:
        """The model's identity: SHA-256 of its ``model.safetensors``, whichever backend runs it."""
        return str(self.config["files"][WEIGHTS_FILE]["sha256"])

    @property
    def onnx_sha256(self) -> str:
        """SHA-256 of its ``model.onnx``: what the ONNX backend runs."""
        return str(self.config["files"][ONNX_FILE]["sha256"])

    def verified(self, filename: str) -> Path:
        """Path of one of the bundle's weight files, after checking its size and SHA-256.

        Raises:
            BundleError: the file is missing, cannot be read, is not the one ``config.json``
                describes, or is a graph that keeps values in further files.
        """
        file = self.path / filename
        expected = self.config["files"].get(filename)
        if expected is None:
            raise BundleError(
                f"bundle {self.path} lists no {filename}", hint="export the model again"
            )
        if not file.is_file():
            raise BundleError(
                f"bundle {self.path} has no {filename}", hint="copy the whole folder again"
            )
        try:
            found = file_record(file)
        except OSError as error:
            raise BundleError(f"cannot read {file}: {error.strerror}") from error
        if found != expected:
            raise BundleError(
                f"{file} is damaged: its checksum is not the one in {CONFIG_FILE}",
                hint="copy the bundle again or reinstall loev-cli",
            )
        if filename == ONNX_FILE:
            _check_is_whole(file)
        return file


def _check_is_whole(onnx_file: Path) -> None:
    """Raises BundleError where values of the graph are in files that no checksum covers."""
    try:
        tensor = external_tensor(onnx_file)
    except (OSError, ValueError) as error:
        raise BundleError(f"cannot open {onnx_file}: not an ONNX model ({error})") from error
    if tensor is not None:
        raise BundleError(
            f"{onnx_file} stores {tensor!r} in another file, which no checksum covers",
            hint="export the model again, with its weights inside",
        )


def file_record(file: Path) -> dict[str, Any]:
    """What ``config.json`` says of a weight file: ``{"sha256": hex, "n_bytes": int}``."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"sha256": digest, "n_bytes": file.stat().st_size}


def load(path: str | os.PathLike[str]) -> Bundle:
    """Read and check the ``config.json`` of the bundle in folder ``path``.

    Raises:
        BundleError: no bundle there, an unreadable or incomplete config, or a newer format.
    """
    path = Path(path)
    config_file = path / CONFIG_FILE
    if not config_file.is_file():
        raise BundleError(f"{path} is not a model bundle: it has no {CONFIG_FILE}")
    try:
        config = parse_json(read_bytes(config_file, _MAX_CONFIG_N_BYTES))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BundleError(f"cannot read {config_file}: {reason}") from error
    if not isinstance(config, dict):
        raise BundleError(f"{config_file} does not hold a JSON object")

    version = config.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise BundleError(f"{config_file} states no valid format_version")
    if version > FORMAT_VERSION:
        raise BundleError(
            f"bundle {path} has format {version}, this version of loev reads up to "
            f"{FORMAT_VERSION}",
            hint="pip install --upgrade loev-cli",
        )
    for key, kind in _REQUIRED_KEYS.items():
        if key in _LARGEST and "input_shape" in config:
            continue  # it reads no waveform
        if not isinstance(config.get(key), kind):
            raise BundleError(f"{config_file} has no valid '{key}'")
    _check_values(config, config_file)
    return Bundle(path=path, config=config)


def _check_values(config: dict[str, Any], config_file: Path) -> None:
    subspaces = config["subspaces"]
    dims = subspaces.values()
    if not subspaces or not all(isinstance(d, int) and 0 < d <= MAX_DIM for d in dims):
        raise BundleError(f"{config_file} needs a dimension of 1 to {MAX_DIM} for every subspace")
    if "input_shape" not in config:
        for key, largest in _LARGEST.items():
            if not 0 < config[key] <= largest:
                raise BundleError(f"{config_file} needs a '{key}' of 1 to {largest}")
        hop, window = config.get("hop_n_samples", 1), config["window_n_samples"]
        if not isinstance(hop, int) or not 0 < hop <= window:
            raise BundleError(f"{config_file} needs a 'hop_n_samples' of 1 to {window}")
    if config["pooling"] != "mean":
        raise BundleError(
            f"{config_file} asks for pooling '{config['pooling']}', this loev supports 'mean'"
        )
    for filename in (WEIGHTS_FILE, ONNX_FILE):
        record = config["files"].get(filename)
        if not isinstance(record, dict) or set(record) != {"sha256", "n_bytes"}:
            raise BundleError(f"{config_file} records no checksum of {filename}")


def find(model: str | os.PathLike[str]) -> Bundle:
    """The bundle a user means by ``model``: a folder that exists, the name of a shipped one, or an
    address on the Hugging Face Hub.

    Raises:
        UsageError: none of them, naming what is shipped; and as :func:`loev_cli.storage.hub.fetch`.
        BundleError: it is there but cannot be used.
    """
    model = os.fspath(model)
    if model.startswith(hub.SCHEME):
        return load(hub.fetch(hub.parse_address(model), FILES))
    if model and Path(model).is_dir():
        return load(Path(model))
    shipped_folders = {folder.name: folder for folder in _shipped_folders()}
    if model in shipped_folders:
        return load(shipped_folders[model])
    raise UsageError(
        f"no model '{model}': neither a bundle folder, a shipped name nor hf://OWNER/NAME",
        hint=f"{known_names(model, shipped_folders, 'shipped models:')}; see 'loev models'",
    )


def push(
    bundle: Bundle, to: hub.Address, *, license_id: str | None = None, private: bool = False
) -> str:
    """Upload a bundle to the Hugging Face Hub. Arguments, return value and errors are those of
    :func:`loev_cli.storage.hub.push` and :func:`loev_cli.storage.hub.with_front_matter`.

    Raises:
        BundleError: a file is missing or damaged; nothing is uploaded.
    """
    card = bundle.path / CARD_FILE
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    files: dict[str, Path | bytes] = {CONFIG_FILE: bundle.path / CONFIG_FILE}
    files |= {name: bundle.verified(name) for name in FILES if name in bundle.config["files"]}
    files[CARD_FILE] = hub.with_front_matter(text, license_id).encode()
    return hub.push(to, files, message=f"{bundle.name}, by loev", private=private)


def shipped() -> list[Bundle]:
    """The bundles that came with this installation, by name."""
    return [load(folder) for folder in _shipped_folders()]


def _shipped_folders() -> list[Path]:
    return [config.parent for config in sorted(_shipped_root().glob(f"*/{CONFIG_FILE}"))]


def _shipped_root() -> Path:
    """Where shipped bundles lie: inside an installed wheel, or ``models/`` of a checkout."""
    package = Path(__file__).parent
    in_wheel = package / "_models"
    return in_wheel if in_wheel.is_dir() else package.parent / "models"
