"""Numbered instrumentations: the same notes with other instruments, the same instruments anywhere.

An instrumentation is a lead, one of all the melody's programs, and a band: programs for every
other part, a drum kit and a soundfont. Its number says both and depends on no song, so clips of
one number sound alike whatever they play:

    number = band * len(LEADS) + lead

Variants of an arrangement are every one of its leads with either of its two bands. Some thus
differ in the lead alone and some in all but the lead: both have to be heard to tell them apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from corpus.arrange import (
    ACCOMPANIMENT_FAMILIES,
    BASS_PROGRAMS,
    MELODY_FAMILIES,
    PAD_PROGRAMS,
    Arrangement,
)
from corpus.patterns import DRUM_STYLES

N_BANDS = 12
N_BANDS_PER_ARRANGEMENT = 2
LEADS: tuple[tuple[str, int], ...] = tuple(
    (family, program) for family, programs in MELODY_FAMILIES.items() for program in programs
)
KITS = tuple(sorted({kit for style in DRUM_STYLES.values() for kit in style.kits}))


@dataclass(frozen=True)
class Instrumentation:
    """What plays: the lead's program and family, by part the others' programs, a soundfont."""

    family: str
    program: int
    others: dict[str, int]
    soundfont: int


def instrumentation(number: int, n_soundfonts: int) -> Instrumentation:
    """The instrumentation of that number, the same for every song and seed."""
    band, lead = divmod(number, len(LEADS))
    rng = np.random.default_rng(band)

    def any_of(families: dict[str, tuple[int, ...]]) -> int:
        return int(rng.choice(families[str(rng.choice(sorted(families)))]))

    others = {
        "piano": any_of(ACCOMPANIMENT_FAMILIES),
        "bridge": any_of(MELODY_FAMILIES),
        "pad": int(rng.choice(PAD_PROGRAMS)),
        "bass": int(rng.choice(BASS_PROGRAMS)),
        "drums": int(rng.choice(KITS)),
    }
    family, program = LEADS[lead]
    return Instrumentation(family, program, others, band % n_soundfonts)


def variant_numbers(song: int, arrangement: int, seed: int, n: int) -> list[int]:
    """Instrumentations for an arrangement; the first ones are the same for every ``n``."""
    rng = np.random.default_rng([seed, song, arrangement, len(LEADS)])
    bands = rng.choice(N_BANDS, N_BANDS_PER_ARRANGEMENT, replace=False)
    families = rng.permutation(sorted(MELODY_FAMILIES))
    numbers = []
    for i in range(n):
        lead, band = divmod(i, N_BANDS_PER_ARRANGEMENT)
        family = str(families[lead % len(families)])
        if band == 0:
            program = int(rng.choice(MELODY_FAMILIES[family]))
        numbers.append(int(bands[band]) * len(LEADS) + LEADS.index((family, program)))
    return numbers


def instrumented(plan: Arrangement, number: int, n_soundfonts: int) -> Arrangement:
    """The same notes, levels and passage, played by the instrumentation of that number."""
    played_by = instrumentation(number, n_soundfonts)
    names = [part.name for part in plan.parts]
    lead = "melody" if "melody" in names else "piano"
    programs = played_by.others | {lead: played_by.program}
    return replace(
        plan,
        parts=tuple(replace(part, program=programs[part.name]) for part in plan.parts),
        soundfont=played_by.soundfont,
        melody_program=played_by.program,
        melody_family=played_by.family,
    )
