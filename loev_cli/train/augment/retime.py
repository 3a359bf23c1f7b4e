"""Pitch and tempo of waveforms, both at once, for a whole batch, on any device.

A phase vocoder (Flanagan & Golden 1966; Dolson 1986) whose frames also do the transposition:

    segment   |--M--|           windows of M = L * 2^(semitones / 12) samples, rate * H apart
                 |--M--|
                    |--M--|
                 v   spectrum, cut or padded to that of L samples, phases turned, inverted
    view      |--L--|           frames of L samples, H = L / 4 apart, overlapped and added
               |--L--|

M samples played in the time of L are band-limited resampling; reading windows further apart or
closer than they are written is the stretch. Both cost the same whatever the rate and the shift.
(Windows are padded with zeros to sizes that are quick to transform: M to P, L to Q.)

Frames overlap in phase only if each is turned. The turn of a bin is measured, not predicted: a
second window, one hop of the *output* before the first, shows what the sound was at where the
previous frame now lies, so turn = previous output * conj(second window). Three things make it
sound:

- Turns are summed over three neighboring bins (the main lobe of a window), weighted by their
  energy as they come. The bins of a partial thus follow its peak, which keeps them in phase with
  each other (the locking of Laroche & Dolson 1999, without looking for peaks; cf. Puckette 1995).
- Energy that the second window has not got is new: an onset. It votes for no turn at all, so
  attacks keep the phases, and the sharpness, that they were recorded with (cf. Röbel 2003).
- Frames of noise add up incoherently and would lose up to 2 dB; the power of the segment's windows
  says what the view's must be.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from loev_cli.train.augment.base import prime_factors

_WINDOW_S = 0.096
_OVERLAP = 4
_HANN_POWER = _OVERLAP * 3 / 8  # sum of the squares of windows that overlap
_MAX_CENTS_OFF = 2.5
_MAX_PADDING = 1.15
_NEW_ENERGY_FACTOR = 2.0  # times the energy of one hop before
_TINY = 1e-12
_MAX_GAIN = 2.0
_N_ROWS_AT_ONCE = {"cpu": 16}  # what a cache holds
_N_ROWS_AT_ONCE_ELSEWHERE = 256


def retime(
    segments: Sequence[Tensor],
    rates: np.ndarray,
    semitones: np.ndarray,
    n_samples: int,
    sample_rate_hz: int,
) -> Tensor:
    """Play every segment ``rate`` times faster and ``semitones`` higher.

    Args:
        segments: R rows of the track, (rate * n_samples,) float32, all on one device.
        rates: (R,); 2 plays twice as fast.
        semitones: (R,), may be fractional.

    Returns:
        (R, n_samples). A row with rate 1 and 0 semitones is its segment, unchanged.
    """
    device = segments[0].device
    out = torch.zeros(len(segments), n_samples, device=device)
    changed = []
    for row, segment in enumerate(segments):
        if rates[row] == 1 and semitones[row] == 0:
            out[row, : len(segment)] = segment[:n_samples]
        else:
            changed.append(row)
    # Rows of one shift are transformed together.
    changed.sort(key=lambda row: float(semitones[row]))
    vocoder = _Vocoder(n_samples, sample_rate_hz, device)
    at_once = _N_ROWS_AT_ONCE.get(device.type, _N_ROWS_AT_ONCE_ELSEWHERE)
    for first in range(0, len(changed), at_once):
        rows = changed[first : first + at_once]
        out[torch.tensor(rows, device=device)] = vocoder(
            [segments[row] for row in rows],
            np.asarray(rates, np.float64)[rows],
            np.asarray(semitones, np.float64)[rows],
        )
    return out


class _Vocoder:
    """The spectra of a few rows at a time, in memory that is taken once."""

    def __init__(self, n_samples: int, sample_rate_hz: int, device: torch.device) -> None:
        self.n_samples = n_samples
        self.device = device
        self.hop = round(_WINDOW_S * sample_rate_hz / _OVERLAP)  # H
        self.size = _OVERLAP * self.hop  # L
        # Frame t is centered on sample t * hop; one more at either end covers the edges.
        self.frames = np.arange(-1, -(-n_samples // self.hop) + 2)
        self.memory = torch.empty(0, device=device)

    def __call__(
        self, segments: Sequence[Tensor], rates: np.ndarray, semitones: np.ndarray
    ) -> Tensor:
        """-> (R, n_samples). Rows of one shift should be next to each other."""
        n_rows, n_frames = len(segments), len(self.frames)
        sizes = [transform_sizes(2 ** (shift / 12), self.size) for shift in semitones]
        edges = [row for row in range(1, n_rows) if sizes[row] != sizes[row - 1]]
        groups = [slice(*ends) for ends in itertools.pairwise([0, *edges, n_rows])]
        n_bins = max(map(_n_bins, sizes))
        # Real and imaginary parts lie apart: that halves the time of what _turn does with them.
        shape = (2, 2, n_frames, n_rows, n_bins)
        if self.memory.numel() < math.prod(shape):
            self.memory = torch.empty(math.prod(shape), device=self.device)
        now, before = self.memory[: math.prod(shape)].view(shape)
        for rows in groups:
            pair = sizes[rows.start]
            spectra = self._analyze(segments[rows], rates[rows], *pair)
            for into, spectrum in zip((now, before), spectra, strict=True):
                parts = torch.view_as_real(spectrum[:, :, : _n_bins(pair)])
                into[:, :, rows, : _n_bins(pair)] = parts.permute(3, 1, 0, 2)
                into[:, :, rows, _n_bins(pair) :] = 0
        power = _turn(now, before)
        out = torch.empty(n_rows, self.n_samples, device=self.device)
        for rows in groups:
            pair = sizes[rows.start]
            turned = torch.complex(*now[:, :, rows, : _n_bins(pair)])
            out[rows] = self._synthesize(turned, power[rows], *pair)
        return out

    def _analyze(
        self, segments: Sequence[Tensor], rates: np.ndarray, read: int, written: int
    ) -> tuple[Tensor, Tensor]:
        """Spectra (R, T, P / 2 + 1) of every frame's window, and of the one a hop before it."""
        length = self.size * read / written  # M
        n_taps, hop = math.ceil(length), round(length / _OVERLAP)
        pad = 2 * n_taps
        padded = torch.zeros(len(segments), max(map(len, segments)) + 2 * pad, device=self.device)
        for row, segment in zip(padded, segments, strict=True):
            # Mirrored at the ends, so that the first frames are not half empty.
            n, mirrored = len(segment), min(pad, len(segment) - 1)
            row[pad : pad + n] = segment
            row[pad - mirrored : pad] = segment[1 : mirrored + 1].flip(0)
            row[pad + n : pad + n + mirrored] = segment[n - 1 - mirrored : n - 1].flip(0)
        starts = np.round(self.frames * self.hop * rates[:, None] + pad - length / 2)
        starts = np.clip(starts.astype(np.int64), hop, padded.shape[1] - n_taps)
        starts += np.arange(len(segments))[:, None] * padded.shape[1]
        index = torch.from_numpy(starts).to(self.device)
        windows = padded.flatten().unfold(0, n_taps, 1)
        hann = torch.sin(torch.arange(n_taps, device=self.device) * (math.pi / length)).square()
        now, before = (torch.fft.rfft(windows[i].mul_(hann), read) for i in (index, index - hop))
        # A hop is not always a whole number of samples; the rest of it is a turn of every bin.
        rest = (length / _OVERLAP - hop) * (-2 * math.pi / read)
        angle = torch.arange(now.shape[2], device=self.device) * rest
        return now, before.mul_(torch.polar(torch.ones_like(angle), angle))

    def _synthesize(self, spectra: Tensor, power: Tensor, read: int, written: int) -> Tensor:
        """Spectra (T, R, K) and their power (R,) -> (R, n_samples)."""
        n_frames, n_rows = spectra.shape[:2]
        scale = written / read
        window = torch.hann_window(self.size, device=self.device) * (scale / _HANN_POWER)
        pieces = torch.fft.irfft(spectra, written)[:, :, : self.size].mul_(window)
        pieces = pieces.unflatten(2, (_OVERLAP, self.hop))
        view = torch.zeros(n_rows, n_frames + _OVERLAP - 1, self.hop, device=self.device)
        for k in range(_OVERLAP):
            view[:, k : k + n_frames] += pieces[:, :, k].transpose(0, 1)
        view = view.flatten(1)
        # What the windows' energy says the view's is.
        expected = power * (2 / read * scale / _HANN_POWER)
        gain = ((expected + _TINY) / (view.square().sum(dim=1) + _TINY)).sqrt()
        gain = gain.clamp(1 / _MAX_GAIN, _MAX_GAIN).unsqueeze(1)
        start = self.size // 2 + self.hop  # where sample 0 of the view lies
        return view[:, start : start + self.n_samples] * gain


@functools.cache
def transform_sizes(ratio: float, least: int) -> tuple[int, int]:
    """Sizes (P, Q), quick to transform, P / Q = ``ratio`` as near as is not heard, Q >= least."""
    off = 2 ** (_MAX_CENTS_OFF / 1200)
    pairs = [
        (read, written)
        for written in _quick_sizes(least, _MAX_PADDING * least)
        for read in _quick_sizes(written * ratio / off, written * ratio * off)
    ]
    return min(pairs, key=sum, default=(round(least * ratio), least))


def _n_bins(pair: tuple[int, int]) -> int:
    """Frequencies that both the window read and the frame written hold."""
    return min(pair) // 2 + 1


def _quick_sizes(low: float, high: float) -> list[int]:
    sizes = range(math.ceil(low), math.floor(high) + 1)
    return [size for size in sizes if max(prime_factors(size)) <= 13]


def _turn(now: Tensor, before: Tensor) -> Tensor:
    """Spectra (2, T, R, K) of the segment become the view's, of the same magnitude, in place.

    Returns:
        Their squared magnitude summed over time and frequency, (R,).
    """
    _, n_frames, n_rows, n_bins = now.shape
    padded = now.new_zeros(2, n_rows, n_bins + 2)  # a neighbor for the first and last bin
    vote, turn, scratch = padded[:, :, 1:-1], now.new_empty(2, n_rows, n_bins), now[0, 0].clone()
    power = now[:, 0].square().sum(dim=(0, 2))
    for t in range(1, n_frames):
        (a, b), (c, d), (e, f) = now[:, t], before[:, t], now[:, t - 1]
        # vote = (e + if) (c - id) + new, new = |a + ib|^2 - factor |c + id|^2 where above 0
        new = torch.mul(a, a, out=scratch).addcmul_(b, b)
        power += new.sum(dim=1)
        new.addcmul_(c, c, value=-_NEW_ENERGY_FACTOR).addcmul_(d, d, value=-_NEW_ENERGY_FACTOR)
        torch.addcmul(new.clamp_(min=_TINY), e, c, out=vote[0]).addcmul_(f, d)
        torch.mul(f, c, out=vote[1]).addcmul_(e, d, value=-1)
        torch.add(padded[:, :, :-2], padded[:, :, 2:], out=turn).add_(vote)
        # a + ib times turn / |turn|
        length = torch.mul(turn[0], turn[0], out=scratch).addcmul_(turn[1], turn[1])
        g, h = turn.mul_(length.add_(_TINY**2).rsqrt_())
        real = torch.mul(a, g, out=scratch).addcmul_(b, h, value=-1)
        b.mul_(g).addcmul_(a, h)
        a.copy_(real)
    return power
