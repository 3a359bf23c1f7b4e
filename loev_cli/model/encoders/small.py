"""``small``: the shipped encoder. Each branch reads the axis its augmentation translates.

    spectrum (168, T) --trunk--> (C, 84, T/4) -+-> invariant: strided CNN and spectral shape
                                               +-> pitch: folded to 12 pitch classes
    bands (28, 4 T) --onsets, autocorrelation--> tempo: log-lag axis

A pitch shift moves a spectrogram along log-frequency, a time stretch moves an autocorrelation
along log-lag. A network that convolves along that axis is equivariant before it has learned
anything, and one that reads the magnitude of a Fourier transform along it is invariant. The trunk
keeps one row per semitone, and `pitch` ends in a convolution around the circle of pitch classes,
so transposing a recording by n semitones turns its `pitch` embedding by n steps (up to what enters
and leaves at the ends of the spectrum). What is the same on all 12 pitch classes has no pitch class
and is taken off: loudness, density and timbre had been seven tenths of its variance. Every branch
also carries the plain feature it is built on (spectral shape, chroma, autocorrelation) to its last
layer: learning can only add to it.

A shared encoder (every method but LOEV++) has the one branch ``global``: all three of the above,
mixed by a last layer, so that methods are compared on what they learn and not on what they see.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loev_cli.errors import UsageError
from loev_cli.model.frontend import EPSILON_POWER, Features, FrontendConfig
from loev_cli.model.layers import GLOBAL, RELU_GAIN, PitchClassConv, conv_relu, module_key

_SILENCE_POWER = 1e-9  # below this mean power a window is not amplified to full scale
_PADDING_LOG_POWER = math.log(EPSILON_POWER) + 0.5  # no more than this: digital silence
_N_HIGH_OCTAVES = 4
_LEAST_OVERLAP = 0.1  # of the frames: what an autocorrelation is divided by at most
_N_PITCH_CLASSES = 12
_GLOBAL_PARTS = ("timbre", "pitch", "tempo")
MIN_LAG_S, N_LAG_OCTAVES, LAGS_PER_OCTAVE = 0.15, 5, 24  # that `tempo` usually reads
_N_TRUNK_STRIDES = 16  # spectrum frames per last frame of the deepest branch


class BranchInput(NamedTuple):
    """What a branch may read.

    Attributes:
        trunk: (B, C, F / 2, T / 4), the shared convolutions' output.
        spectrum: (B, 1, F, T), compressed magnitude.
        bands: (B, S, 4 T), log power.
        heard: (B, T), 1 up to the last frame that is not padding, then 0; None for all 1.
    """

    trunk: Tensor
    spectrum: Tensor
    bands: Tensor
    heard: Tensor | None


class SmallEncoder(nn.Module):
    """See the module's text.

    Args:
        frontend: the frontend whose features are read.
        branches: branch names in order; `pitch` and `tempo` get the branch made for them,
            `global` all of them together, every other name a timbre branch like `invariant`.
        width: channels of the trunk.
        dim: embedding dimension D of timbre and tempo branches.
        pitch_dim: D of `pitch`, a multiple of 12.
        hidden: channels of the branches' convolutions; those of a timbre branch grow from 4/3 to
            8/3 of it.
        min_lag_s, n_lag_octaves: where the lags that `tempo` reads begin, and how far they reach.
        pad_short: what is shorter than a window is followed by silence, and digital silence at the
            end of a window is left out of every mean, maximum and deviation over time.
        window_n_samples: length of a window; fixes the autocorrelation's matrices.

    Raises:
        UsageError: a window or a dimension that does not fit, lags longer than the window.
    """

    def __init__(
        self,
        frontend: FrontendConfig,
        branches: Sequence[str],
        *,
        window_n_samples: int,
        width: int = 24,
        dim: int = 256,
        pitch_dim: int = 240,
        hidden: int = 48,
        min_lag_s: float = MIN_LAG_S,
        n_lag_octaves: int = N_LAG_OCTAVES,
        pad_short: bool = False,
    ) -> None:
        super().__init__()
        self.pad_short = pad_short
        # Filters of low octaves ring into the padding; recordings have something in the high ones.
        self.n_high_bands = _N_HIGH_OCTAVES * frontend.bands_per_octave
        self.bands_per_frame = frontend.bands_per_frame
        if window_n_samples % (_N_TRUNK_STRIDES * frontend.spectrum_hop):
            raise UsageError(
                f"window_n_samples is {window_n_samples}, it must be a multiple of "
                f"{_N_TRUNK_STRIDES * frontend.spectrum_hop}"
            )
        self.trunk = nn.Sequential(
            conv_relu(1, 16, (5, 7), (frontend.bins_per_semitone, 4)),
            conv_relu(16, width, (3, 3)),
            conv_relu(width, width, (3, 3)),
        )
        n_octaves = frontend.n_bins // frontend.bins_per_octave

        def reader(name: str) -> TimbreBranch | PitchBranch | TempoBranch:
            if name == "pitch":
                return PitchBranch(width, n_octaves, pitch_dim, hidden)
            if name == "tempo":
                lag_s = _lags_s(
                    min_lag_s, n_lag_octaves, window_n_samples / frontend.sample_rate_hz
                )
                return TempoBranch(frontend, window_n_samples, lag_s, dim, hidden)
            return TimbreBranch(frontend, width, n_octaves, dim, hidden)

        made = {
            name: GlobalBranch({part: reader(part) for part in _GLOBAL_PARTS})
            if name == GLOBAL
            else reader(name)
            for name in branches
        }
        self.branches = nn.ModuleDict({module_key(name): b for name, b in made.items()})
        self.dims = {name: branch.dim for name, branch in made.items()}

    def forward(
        self, features: Features, branches: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Spectrum (B, F, T) and bands (B, S, 4 T), log power -> {branch: (B, D)}."""
        heard = None
        if self.pad_short:
            high = features.bands[:, -self.n_high_bands :]
            heard = F.max_pool1d(_until_padding(high)[:, None], self.bands_per_frame)[:, 0]
        spectrum = loudness(features.spectrum, heard)
        seen = BranchInput(self.trunk(spectrum), spectrum, features.bands, heard)
        return {name: self.branches[module_key(name)](seen) for name in branches or self.dims}


def loudness(log_power: Tensor, heard: Tensor | None = None) -> Tensor:
    """Log power (B, F, T) -> compressed magnitude (B, 1, F, T), independent of the gain."""
    power = log_power.exp()
    if heard is None:
        reference = power.mean(dim=(1, 2), keepdim=True) + _SILENCE_POWER
    else:
        reference = mean(power, heard)[..., None].mean(dim=1, keepdim=True) + _SILENCE_POWER
    return torch.log1p(10 * (power / reference).sqrt()).unsqueeze(1)


def _until_padding(log_power: Tensor) -> Tensor:
    """(B, F, T) -> (B, T), 1 up to the last frame with power in it, then 0; the first is 1."""
    has_power = (log_power.amax(dim=1) > _PADDING_LOG_POWER).to(log_power.dtype)
    to_come = has_power.flip(1).cumsum(dim=1).flip(1).clamp(max=1)
    return torch.cat([torch.ones_like(to_come[:, :1]), to_come[:, 1:]], dim=1)


def _weights(x: Tensor, heard: Tensor) -> Tensor:
    """What of (B, T) belongs to the frames of x (B, ..., T'), of which each is one or many of T."""
    n_frames = x.shape[-1]
    if n_frames > heard.shape[1]:
        heard = heard.repeat_interleave(n_frames // heard.shape[1], dim=1)
    elif n_frames < heard.shape[1]:
        heard = F.max_pool1d(heard[:, None], heard.shape[1] // n_frames)[:, 0]
    return heard[(slice(None), *[None] * (x.ndim - 2))]


def mean(x: Tensor, heard: Tensor | None) -> Tensor:
    """Over time, without padding: (B, ..., T) -> (B, ...)."""
    if heard is None:
        return x.mean(dim=-1)
    weights = _weights(x, heard)
    return (x * weights).sum(dim=-1) / weights.sum(dim=-1)


def maximum(x: Tensor, heard: Tensor | None) -> Tensor:
    """Over time, without padding: (B, ..., T), 0 or more -> (B, ...)."""
    return x.amax(dim=-1) if heard is None else (x * _weights(x, heard)).amax(dim=-1)


def deviation(x: Tensor, heard: Tensor | None) -> Tensor:
    """Over time, without padding: (B, ..., T) -> (B, ...)."""
    if heard is None:
        return x.std(dim=-1)
    weights = _weights(x, heard)
    squares = ((x - mean(x, heard).unsqueeze(-1)).square() * weights).sum(dim=-1)
    # The root of 0 has no gradient.
    return (squares / (weights.sum(dim=-1) - 1).clamp(min=1) + 1e-12).sqrt()


class TimbreBranch(nn.Module):
    """What a recording sounds like, wherever it lies in pitch and time.

    Reads the trunk, with frequency pooled to one value per octave (a finer axis would let the key
    through, which this subspace is to forget), and the spectral shape, in which the key is not.
    Time is pooled at the end, after convolutions that see how sounds begin and end.
    """

    def __init__(
        self, frontend: FrontendConfig, width: int, n_octaves: int, dim: int, hidden: int
    ) -> None:
        super().__init__()
        first, second, third = hidden * 4 // 3, hidden * 2, hidden * 8 // 3
        self.dim = dim
        self.n_octaves = n_octaves
        self.convs = nn.Sequential(
            conv_relu(width, first, (3, 3), (2, 2)),
            conv_relu(first, second, (3, 3), (2, 2)),
            conv_relu(second, third, (1, 1)),
        )
        self.shape = SpectralShape(frontend.n_bins)
        n_shape = SpectralShape.N_COEFFICIENTS
        self.shape_convs = nn.Sequential(
            conv_relu(n_shape, first, (1, 5), (1, 2)),
            conv_relu(first, first, (1, 5), (1, 2)),
        )
        self.out = nn.Linear(2 * (third * n_octaves + first + n_shape), dim)

    def forward(self, seen: BranchInput) -> Tensor:
        """Trunk and spectrum -> (B, D)."""
        x = self.convs(seen.trunk)  # (B, C', 3 n_octaves, T / 16)
        x = F.avg_pool2d(x, (x.shape[2] // self.n_octaves, 1))  # (B, C', n_octaves, T / 16)
        shape = self.shape(seen.spectrum)  # (B, coefficients, T)
        y = self.shape_convs(shape.unsqueeze(2))  # (B, C'', 1, T / 4)
        heard = seen.heard
        pooled = [mean(x, heard), maximum(x, heard), mean(y, heard), maximum(y, heard)]
        pooled += [mean(shape, heard), deviation(shape, heard)]
        out: Tensor = self.out(torch.cat([p.flatten(1) for p in pooled], dim=1))
        return out


class SpectralShape(nn.Module):
    """Magnitude of the Fourier transform along log-frequency: (B, 1, F, T) -> (B, K, T).

    A transposition only turns phases, so what is left is how partials and notes lie to each other,
    frame by frame, and not where. A cepstrum of a constant-Q spectrum (Brown 1999) without its
    phases. Nothing in it is learned.
    """

    of_cosines: Tensor
    of_sines: Tensor
    N_COEFFICIENTS = 80

    def __init__(self, n_bins: int) -> None:
        super().__init__()
        n_fft = 2 ** math.ceil(math.log2(n_bins))
        # Coefficient 0, the mean loudness, is left out: it would drown the others.
        phase = 2 * math.pi / n_fft * np.outer(np.arange(1, self.N_COEFFICIENTS + 1), range(n_bins))
        for name, matrix in (("of_cosines", np.cos(phase)), ("of_sines", np.sin(phase))):
            scaled = torch.tensor(matrix / math.sqrt(n_bins), dtype=torch.float32)
            self.register_buffer(name, scaled, persistent=False)

    def forward(self, spectrum: Tensor) -> Tensor:
        x = spectrum.squeeze(1)
        power = (self.of_cosines @ x).square() + (self.of_sines @ x).square()
        return (power + 1e-6).sqrt()


class PitchBranch(nn.Module):
    """Which pitch classes sound, and how they co-occur.

    Semitone rows are folded octave over octave to 12 pitch classes, once per register: a bass
    note says more about the key than a high one. Registers overlap smoothly, so that a
    transposition, which moves notes within them, changes little but the pitch class.
    """

    registers: Tensor
    N_REGISTERS = 3

    def __init__(self, width: int, n_octaves: int, dim: int, hidden: int) -> None:
        super().__init__()
        if dim % _N_PITCH_CLASSES:
            raise UsageError(f"pitch_dim is {dim}, it must be a multiple of 12")
        self.dim = dim
        height = np.linspace(0, 1, n_octaves * _N_PITCH_CLASSES)
        distance = abs(height - np.linspace(0, 1, self.N_REGISTERS)[:, None])
        masks = np.cos(math.pi / 2 * np.clip(distance * (self.N_REGISTERS - 1), 0, 1)) ** 2
        weights = (masks / masks.sum(axis=1, keepdims=True) * _N_PITCH_CLASSES).reshape(
            self.N_REGISTERS, n_octaves, _N_PITCH_CLASSES
        )
        by_row = np.einsum("rop,pq->rqop", weights, np.eye(_N_PITCH_CLASSES))
        self.register_buffer(
            "registers",  # (registers 12, 12 n_octaves)
            torch.tensor(
                by_row.reshape(self.N_REGISTERS * _N_PITCH_CLASSES, -1), dtype=torch.float32
            ),
            persistent=False,
        )
        self.mix = conv_relu(width * self.N_REGISTERS, hidden, (1, 1))
        self.around = nn.Sequential(
            PitchClassConv(hidden, hidden, activation_gain=RELU_GAIN), nn.ReLU(inplace=True)
        )
        self.out = PitchClassConv(
            2 * (hidden + self.N_REGISTERS),
            dim // _N_PITCH_CLASSES,
            bias=False,  # the same on all pitch classes: nothing would be left of it
        )

    def forward(self, seen: BranchInput) -> Tensor:
        """Trunk and spectrum -> (B, D), pitch class by class; their sum is 0."""
        x = self.around(self.mix(self._fold(seen.trunk)))  # (B, hidden, 12, T / 4)
        heard = seen.heard
        chroma = self.chroma(seen.spectrum, heard)
        pooled = torch.cat([mean(x, heard), maximum(x, heard), chroma], dim=1)
        out: Tensor = self.out(pooled.unsqueeze(3)).squeeze(3)  # (B, D / 12, 12)
        out = out - out.mean(dim=2, keepdim=True)
        return out.transpose(1, 2).flatten(1)

    def chroma(self, spectrum: Tensor, heard: Tensor | None = None) -> Tensor:
        """Spectrum (B, 1, F, T) -> mean and deviation over time per register, (B, 6, 12).

        Nothing in it is learned. Pitch classes are counted from E, the lowest row.
        """
        folded = self._fold(F.avg_pool2d(spectrum, (2, 1)))  # (B, registers, 12, T)
        return torch.cat([mean(folded, heard), deviation(folded, heard)], dim=1)

    def _fold(self, x: Tensor) -> Tensor:
        """Semitone rows (B, C, 12 n_octaves, T) -> (B, registers C, 12, T)."""
        # Mostly zeros, but one product costs less than a pass over the rows for every register.
        folded = (self.registers @ x).reshape(
            x.shape[0], x.shape[1], self.N_REGISTERS, _N_PITCH_CLASSES, x.shape[3]
        )
        return folded.transpose(1, 2).flatten(1, 2)


class TempoBranch(nn.Module):
    """Which periods the onsets repeat with, on a logarithmic axis of lag.

    A time stretch by r moves the autocorrelation by log(r) along that axis. One channel per
    octave of frequency plus their sum. Convolutions reach almost two octaves of lag to either side:
    whether a period is the beat, its half or its double is told by what the others do.
    """

    def __init__(
        self,
        frontend: FrontendConfig,
        window_n_samples: int,
        lag_s: np.ndarray,
        dim: int,
        hidden: int,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.onsets = OnsetStrength(frontend.bands_per_octave)
        n_lags = len(lag_s)
        self.autocorrelation = Autocorrelation(
            window_n_samples // frontend.band_hop, lag_s * frontend.band_rate_hz
        )
        n_channels = frontend.n_band_octaves + 1
        self.convs = nn.Sequential(
            conv_relu(n_channels, hidden, (1, 9)),
            conv_relu(hidden, hidden, (1, 7), dilation=(1, 6)),
            conv_relu(hidden, hidden, (1, 5), (1, 2), dilation=(1, 12)),
        )
        self.out = nn.Linear(hidden * n_lags // 2 + n_channels * n_lags, dim)

    def forward(self, seen: BranchInput) -> Tensor:
        """The bands -> (B, D)."""
        plain = self.periodicity(seen.bands, seen.heard)
        x = self.convs(4 * plain.unsqueeze(2))  # (B, hidden, 1, lags / 2)
        out: Tensor = self.out(torch.cat([x.flatten(1), plain.flatten(1)], dim=1))
        return out

    def periodicity(self, bands: Tensor, heard: Tensor | None = None) -> Tensor:
        """Bands (B, S, 4 T) -> autocorrelation of onsets (B, octaves + 1, lags).

        Nothing in it is learned.
        """
        onsets = self.onsets(bands, heard)  # (B, octaves, 4 T)
        onsets = torch.cat([onsets, onsets.sum(dim=1, keepdim=True)], dim=1)
        out: Tensor = self.autocorrelation(onsets, heard)
        return out


def _lags_s(min_s: float, n_octaves: int, window_s: float) -> np.ndarray:
    """Lags in seconds, 24 per octave from ``min_s`` on; UsageError where a window holds no pair."""
    if not min_s > 0 or n_octaves < 1:
        raise UsageError(f"no lags: min_lag_s is {min_s:g}, n_lag_octaves is {n_octaves}")
    lag_s = min_s * 2 ** (np.arange(n_octaves * LAGS_PER_OCTAVE) / LAGS_PER_OCTAVE)
    if lag_s[-1] >= window_s:
        n_fit = int((lag_s < window_s).sum()) // LAGS_PER_OCTAVE
        fits = f"n_lag_octaves {n_fit} or a smaller min_lag_s" if n_fit else "a smaller min_lag_s"
        raise UsageError(
            f"window_n_samples: a window of {window_s:.3g} s is shorter than the longest lag that "
            f"'tempo' reads, {lag_s[-1]:.3g} s",
            hint=f"set encoder_options: {fits}",
        )
    return np.asarray(lag_s)


class GlobalBranch(nn.Module):
    """One vector of everything: the branches above, mixed."""

    def __init__(self, parts: Mapping[str, TimbreBranch | PitchBranch | TempoBranch]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)
        self.dim: int = sum(part.dim for part in parts.values())
        self.out = nn.Linear(self.dim, self.dim)

    def forward(self, seen: BranchInput) -> Tensor:
        """-> (B, D)."""
        x = torch.cat([part(seen) for part in self.parts.values()], dim=1)
        out: Tensor = self.out(F.relu(x))
        return out


class OnsetStrength(nn.Module):
    """Half-wave-rectified flux per sub-band, summed per octave: (B, S, T) -> (B, S / g, T).

    Each sub-band is measured against its own mean over the window, so a tone control does not
    change the onsets; a floor keeps empty sub-bands from being amplified.
    """

    def __init__(self, bands_per_octave: int) -> None:
        super().__init__()
        self.bands_per_octave = bands_per_octave

    def forward(self, log_power: Tensor, heard: Tensor | None = None) -> Tensor:
        power = log_power.exp()
        own = mean(power, heard).unsqueeze(2)
        reference = own + 1e-3 * own.mean(dim=1, keepdim=True) + _SILENCE_POWER
        loudness = torch.log1p(100 * power / reference)
        rise = F.relu(loudness[:, :, 1:] - loudness[:, :, :-1])
        rise = F.pad(rise, (1, 0))
        n_octaves = rise.shape[1] // self.bands_per_octave
        return rise.reshape(-1, n_octaves, self.bands_per_octave, rise.shape[2]).sum(dim=2)


class Autocorrelation(nn.Module):
    """Autocorrelation at given fractional lags, 1 at lag 0: (B, C, T) -> (B, C, n_lags).

    Wiener-Khinchin with fixed matrices: a DFT zero-padded to 2 T, the power spectrum, and a
    cosine transform at the wanted lags, divided by the share of frames that overlap at each lag.
    Every kernel of the DFT is even or odd about T / 2, so it is computed on the sums and the
    differences of frames n and T - n, half as long.

    Args:
        n_frames: T, length of the input in frames.
        lags: lags in frames, need not be whole.
    """

    of_sums: Tensor
    of_differences: Tensor
    at_lags: Tensor

    def __init__(self, n_frames: int, lags: np.ndarray) -> None:
        super().__init__()
        n_fft = 2 * n_frames
        bins = np.arange(n_frames + 1)
        self.n_half = n_frames // 2 + 1
        phase = 2 * math.pi / n_fft * np.outer(np.arange(self.n_half), bins)
        # About T / 2 the cosines of even bins and the sines of odd ones are even.
        is_even = bins % 2 == 0
        of_sums = np.where(is_even, np.cos(phase), np.sin(phase))
        of_differences = np.where(is_even, np.sin(phase), np.cos(phase))
        if n_frames % 2 == 0:
            of_sums[-1] /= 2  # frame T / 2 is its own partner
        # A real signal's spectrum is symmetric: bins between the ends stand for two.
        weight = np.full(n_frames + 1, 2.0)
        weight[[0, -1]] = 1.0
        cosine = np.cos(2 * math.pi / n_fft * np.outer(bins, lags))
        overlap = 1 - lags / n_frames
        for name, matrix in (
            ("of_sums", of_sums),
            ("of_differences", of_differences),
            ("at_lags", weight[:, None] * cosine / overlap / n_fft),
        ):
            self.register_buffer(name, torch.tensor(matrix, dtype=torch.float32), persistent=False)

    def forward(self, x: Tensor, heard: Tensor | None = None) -> Tensor:
        x = x - mean(x, heard).unsqueeze(2)
        if heard is None:
            return self._at_lags(x) / (x.square().sum(dim=2, keepdim=True) + 1e-3)
        weights = _weights(x, heard)
        x = x * weights
        overlap = self._at_lags(weights) / weights.sum(dim=2, keepdim=True)
        energy = x.square().sum(dim=2, keepdim=True)
        return self._at_lags(x) / (energy + 1e-3) / overlap.clamp(min=_LEAST_OVERLAP)

    def _at_lags(self, x: Tensor) -> Tensor:
        partner = F.pad(x.flip(2), (1, 0))[:, :, : self.n_half]  # frame 0 has none
        ahead = x[:, :, : self.n_half]
        one, other = (ahead + partner) @ self.of_sums, (ahead - partner) @ self.of_differences
        return (one.square() + other.square()) @ self.at_lags
