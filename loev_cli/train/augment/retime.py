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

Frames overlap in phase only if each is turned. The turn of a bin is measured, not predicted: a
second window, one hop of the *output* before the first, shows what the sound was at where the
previous frame now lies, so turn = previous output * conj(second window). Three things make it
sound:

- Turns are summed over a few neighbouring bins, weighted by their energy as they come. The bins of
  a partial thus follow its peak, which keeps them in phase with each other (the locking of Laroche
  & Dolson 1999, without looking for peaks; cf. Puckette 1995).
- Energy that the second window has not got is new: an onset. It votes for no turn at all, so
  attacks keep the phases, and the sharpness, that they were recorded with (cf. Röbel 2003).
- Frames of noise add up incoherently and would lose up to 2 dB; the power of the segment's windows
  says what the view's must be.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from loev_cli.train.augment.fourier import sum_of_factors

_WINDOW_S = 0.096
_MAX_CENTS_OFF = 2.5
_OVERLAP = 4
_N_NEIGHBOURS = 1  # bins either side that turn together: the main lobe of a Hann window
_NEW_ENERGY_FACTOR = 2.0  # times the energy of one hop before
_TINY = 1e-12
_MAX_GAIN = 2.0
_N_ROWS_AT_ONCE = {"cpu": 16}  # what fits the cache
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
    # Rows of one window size are transformed together.
    changed.sort(key=lambda row: float(semitones[row]))
    at_once = _N_ROWS_AT_ONCE.get(device.type, _N_ROWS_AT_ONCE_ELSEWHERE)
    for first in range(0, len(changed), at_once):
        rows = changed[first : first + at_once]
        out[torch.tensor(rows, device=device)] = _vocode(
            [segments[row] for row in rows],
            np.asarray(rates, np.float64)[rows],
            np.asarray(semitones, np.float64)[rows],
            n_samples,
            sample_rate_hz,
        )
    return out


def _vocode(
    segments: Sequence[Tensor],
    rates: np.ndarray,
    semitones: np.ndarray,
    n_samples: int,
    sample_rate_hz: int,
) -> Tensor:
    device, n_rows = segments[0].device, len(segments)
    hop = round(_WINDOW_S * sample_rate_hz / _OVERLAP)
    size = _OVERLAP * hop  # L
    # Frame t is centred on sample t * hop of the view; one more at either end covers the edges.
    frames = np.arange(-1, -(-n_samples // hop) + 2)
    sizes = np.array([_window_size(size * 2 ** (s / 12)) for s in semitones])  # M
    n_bins = size // 2 + 1
    shape = (len(frames), n_rows, n_bins)
    now = torch.empty(shape, dtype=torch.complex64, device=device)
    before = torch.empty_like(now)
    for taken in np.unique(sizes):
        rows = np.flatnonzero(sizes == taken)
        centres = np.round(frames * hop * rates[rows, None]).astype(np.int64)
        spectra = _analyse([segments[int(row)] for row in rows], centres, int(taken))
        for into, spectrum in zip((now, before), spectra, strict=True):
            for row, of_row in zip(rows, spectrum, strict=True):
                n_read = min(n_bins, of_row.shape[1])
                into[:, row, :n_read] = of_row[:, :n_read]
                into[:, row, n_read:] = 0
    power = _power(now)
    turned = _turn(now, before, power)

    scale = torch.as_tensor(size / sizes, dtype=torch.float32, device=device)[:, None]
    window = torch.hann_window(size, device=device) * (scale / (_OVERLAP * 3 / 8))
    pieces = torch.fft.irfft(turned, size).mul_(window).view(len(frames), n_rows, _OVERLAP, hop)
    view = torch.zeros(n_rows, len(frames) + _OVERLAP - 1, hop, device=device)
    for k in range(_OVERLAP):
        view[:, k : k + len(frames)] += pieces[:, :, k].transpose(0, 1)
    view = view.flatten(1)
    # Of a sum of windows squared, 3/8 L per hop, the power is what a sample's is.
    expected = power.sum(dim=(0, 2)) * scale[:, 0].square() * (2 / size / (_OVERLAP * 3 / 8))
    gain = ((expected + _TINY) / (view.square().sum(dim=1) + _TINY)).sqrt()
    start = size // 2 + hop  # where sample 0 of the view lies
    return view[:, start : start + n_samples] * gain.clamp(1 / _MAX_GAIN, _MAX_GAIN)[:, None]


def _analyse(segments: Sequence[Tensor], centres: np.ndarray, size: int) -> tuple[Tensor, Tensor]:
    """Spectra (r, T, size / 2 + 1) of windows around ``centres``, and of one hop before each."""
    device = segments[0].device
    hop = round(size / _OVERLAP)
    longest = max(map(len, segments))
    pad = 2 * size
    padded = torch.zeros(len(segments), longest + 2 * pad, device=device)
    for row, segment in zip(padded, segments, strict=True):
        # Mirrored at the ends, so that the first frames are not half empty.
        n, mirrored = len(segment), min(pad, len(segment) - 1)
        row[pad : pad + n] = segment
        row[pad - mirrored : pad] = segment[1 : mirrored + 1].flip(0)
        row[pad + n : pad + n + mirrored] = segment[n - 1 - mirrored : n - 1].flip(0)
    starts = np.clip(centres + pad - size // 2, hop, padded.shape[1] - size)
    starts += np.arange(len(segments))[:, None] * padded.shape[1]
    windows = padded.flatten().unfold(0, size, 1)
    hann = torch.hann_window(size, device=device)
    index = torch.from_numpy(starts).to(device)
    now, before = (torch.fft.rfft(windows[i].mul_(hann)) for i in (index, index - hop))
    # A hop is not always a whole number of samples; the rest of it is a turn of every bin.
    rest = torch.arange(now.shape[2], device=device) * (
        -2 * torch.pi * (size / _OVERLAP - hop) / size
    )
    return now, before.mul_(torch.polar(torch.ones_like(rest), rest))


@functools.cache
def _window_size(wanted: float) -> int:
    """Of the sizes that change the pitch by no more than it takes to hear, the quickest."""
    room = wanted * (2 ** (_MAX_CENTS_OFF / 1200) - 1)
    near = range(math.ceil(wanted - room), math.floor(wanted + room) + 1)
    return min(near or [round(wanted)], key=lambda n: (sum_of_factors(n), n))


def _turn(now: Tensor, before: Tensor, power: Tensor) -> Tensor:
    """Spectra (T, R, K) of the segment -> of the view, of the same magnitude."""
    new = power.sub(_power(before), alpha=_NEW_ENERGY_FACTOR).clamp_(min=_TINY)
    before = before.conj().resolve_conj()
    out = torch.empty_like(now)
    out[0] = now[0]
    for t in range(1, len(now)):
        vote = out[t - 1] * before[t] + new[t]
        turn = vote.clone()
        for k in range(1, _N_NEIGHBOURS + 1):
            turn[:, k:] += vote[:, :-k]
            turn[:, :-k] += vote[:, k:]
        length = _power(turn).add_(_TINY**2).rsqrt_()
        torch.mul(now[t], turn.mul_(length), out=out[t])
    return out


def _power(x: Tensor) -> Tensor:
    return torch.addcmul(x.real * x.real, x.imag, x.imag)
