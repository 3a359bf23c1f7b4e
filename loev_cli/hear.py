"""A loev model behind the interface of HEAR (Turian et al., PMLR 176, 2022).

https://hearbenchmark.com/hear-api.html: ``load_model``, ``get_scene_embeddings`` and
``get_timestamp_embeddings``, with torch tensors in and out, so that ``heareval`` and what follows
its conventions can judge a model: ``heareval ... loev_cli.hear --model models/loevpp-small``.

scene        the mean of windows that overlap by half, as ``loev embed`` has it
timestamp    a window around each time, 50 ms apart; it covers the whole window (10 s in the
             shipped model), so it does not tell onsets apart that lie closer

Beyond the ends of a sound it goes on from its other end, as a short file does in ``loev embed``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from loev_cli import bundle as bundles
from loev_cli import windows
from loev_cli.api import Model
from loev_cli.backends import select_subspaces
from loev_cli.embed.pipeline import Batching
from loev_cli.errors import needs_extra

with needs_extra("the HEAR interface", "train"):
    import torch
    from torch import Tensor, nn

    from loev_cli.backends.pytorch import TorchEncoder
    from loev_cli.model import load_model as load_bundle
    from loev_cli.model.layers import fold_weights

TIMESTAMP_HOP_S = 0.05
_BATCH_SIZE = 16


class HearModel(nn.Module):
    """A model and the attributes that HEAR asks for.

    Attributes:
        sample_rate: of the audio it takes, Hz.
        scene_embedding_size, timestamp_embedding_size: D, of all its subspaces together.
        subspaces: name -> dimension, in the order in which they lie in an embedding.
    """

    def __init__(self, bundle: bundles.Bundle, subspaces: Sequence[str] | None = None) -> None:
        super().__init__()
        self.bundle = bundle
        self.model = load_bundle(bundle)
        fold_weights(self.model)
        self.subspaces = select_subspaces(bundle, subspaces)
        self.sample_rate = bundle.sample_rate_hz
        self.window_n_samples = bundle.window_n_samples
        self.scene_embedding_size = self.timestamp_embedding_size = sum(self.subspaces.values())

    def forward(self, waveform: Tensor) -> Tensor:
        """Windows (B, N) -> (B, D)."""
        vectors = self.model(waveform)
        return torch.cat([vectors[name] for name in self.subspaces], dim=1)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def embedder(self) -> Model:
        """The same model behind loev's own interface, on the device where it is now."""
        encoder = TorchEncoder(self.bundle, self.model, str(self.device), "fp32", self.subspaces)
        return Model(encoder, Batching(_BATCH_SIZE))


def load_model(model_file_path: str = "", subspaces: Sequence[str] | None = None) -> HearModel:
    """A model for the other two functions, in evaluation mode, on the CPU.

    Args:
        model_file_path: a bundle's folder, a file in it, or the name of a shipped model; empty for
            the default one.
        subspaces: which parts an embedding has; default all.

    Raises:
        UsageError: no such model or subspace.
        BundleError: it is damaged.
    """
    path = Path(model_file_path)
    name = str(path.parent) if path.is_file() else model_file_path or bundles.DEFAULT_MODEL
    return HearModel(bundles.find(name), subspaces).eval()


def get_scene_embeddings(audio: Tensor, model: HearModel) -> Tensor:
    """Sounds (n_sounds, n_samples) at the model's rate -> (n_sounds, D), on the model's device."""
    sounds = _checked(audio).float().cpu().numpy()
    rows = model.embedder().embed_batch(sounds, model.sample_rate)
    joined = np.stack([np.concatenate([row[name] for name in model.subspaces]) for row in rows])
    return torch.from_numpy(joined).to(model.device)


def get_timestamp_embeddings(
    audio: Tensor, model: HearModel, hop_s: float = TIMESTAMP_HOP_S
) -> tuple[Tensor, Tensor]:
    """Sounds (n_sounds, n_samples) -> embeddings around times, and the times.

    Args:
        hop_s: seconds from one to the next.

    Returns:
        (n_sounds, n_timestamps, D), and (n_sounds, n_timestamps) in milliseconds, from 0 on.
    """
    audio = _checked(audio).float()
    n_samples, size = audio.shape[1], model.window_n_samples
    times_s = torch.arange(0, n_samples / model.sample_rate + 1e-9, hop_s)
    centers = (times_s * model.sample_rate).round().long()
    embeddings = []
    with torch.inference_mode():
        for sound in audio.cpu().numpy():
            parts = []
            for some in torch.split(centers, _BATCH_SIZE):
                batch = [windows.wrapped(sound, n - size // 2, size) for n in some.tolist()]
                parts.append(model(torch.from_numpy(np.stack(batch)).to(model.device)).cpu())
            embeddings.append(torch.cat(parts))
    times_ms = (1000 * times_s).expand(len(audio), -1)
    return torch.stack(embeddings).to(model.device), times_ms.to(model.device)


def _checked(audio: Tensor) -> Tensor:
    if audio.ndim != 2 or audio.shape[1] == 0:
        raise ValueError(f"audio has shape {tuple(audio.shape)}, not (n_sounds, n_samples)")
    return audio
