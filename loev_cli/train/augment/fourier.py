"""Arithmetic in the frequency domain shared by augmentations on waveforms."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor


@functools.cache
def fast_length(n: int) -> int:
    """The next even length from ``n`` on that is quick to transform: no prime factor above 5."""
    size = n + n % 2
    while max(prime_factors(size)) > 5:
        size += 2
    return size


@functools.cache
def prime_factors(n: int) -> list[int]:
    """With multiplicity, in order; [1] for 1."""
    factors, factor = [], 2
    while factor * factor <= n:
        if n % factor:
            factor += 1
        else:
            factors.append(factor)
            n //= factor
    return [*factors, n] if n > 1 or not factors else factors


def random_phasors(seeds: np.ndarray, n: int, device: torch.device) -> Tensor:
    """Unit complex numbers of random phase, (R, n), from each row's seed alone.

    A counter run through a 32-bit integer hash (lowbias32, Wellons 2018): no state, no loop over
    rows, the same on every device.
    """
    # int32 wraps around as unsigned numbers do; only the right shift must be masked.
    start = torch.as_tensor(seeds.astype(np.uint32).view(np.int32), device=device)
    x = torch.arange(n, dtype=torch.int32, device=device) ^ _hash(start).unsqueeze(1)
    phase = _hash(x).float() * (torch.pi / 2**31)
    return torch.polar(torch.ones_like(phase), phase)


def _hash(x: Tensor) -> Tensor:
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B - 2**32), (16, None)):
        x = x ^ ((x >> shift) & ((1 << (32 - shift)) - 1))
        if factor is not None:
            x = x * factor
    return x
