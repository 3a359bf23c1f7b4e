"""Where the time of a run goes, and which stage limits it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Stats:
    """Filled in during a run. All in seconds.

    Attributes:
        n_decoders, n_encoders: how many of each work at once.
        wall_s: time of decoding and encoding by the clock.
        decode_s: CPU time of all decoders, resampling included.
        encode_s: of all encoders, frontend included: CPU time, or the clock's on a GPU.
        write_s: time for rows and output, by the clock.
        decoders_blocked_s: how long decoders stood still, because encoding was behind.
    """

    n_decoders: int
    n_encoders: int
    wall_s: float = 0.0
    decode_s: float = 0.0
    encode_s: float = 0.0
    write_s: float = 0.0
    decoders_blocked_s: float = 0.0

    def update(
        self, *, wall_s: float, decode_s: float, decoders_blocked_s: float, encode_s: float
    ) -> None:
        """What the stages have measured so far."""
        self.wall_s = wall_s
        self.decode_s = decode_s
        self.decoders_blocked_s = decoders_blocked_s
        self.encode_s = encode_s

    @property
    def waiting_s(self) -> float:
        """How long decoders and encoders were not at work, be it for each other or for a core."""
        places_s = (self.n_decoders + self.n_encoders) * self.wall_s
        return max(0.0, places_s - self.decode_s - self.encode_s)

    def shares(self) -> dict[str, float]:
        """Stage -> its share of the work, from 0 to 1; they sum up to 1."""
        spent = {"decode": self.decode_s, "encode": self.encode_s, "write": self.write_s}
        total = sum(spent.values()) or 1.0
        return {stage: seconds / total for stage, seconds in spent.items()}

    @property
    def decoders_blocked(self) -> float:
        """Share of the decoders' time in which encoding kept them waiting, from 0 to 1."""
        return min(1.0, self.decoders_blocked_s / max(self.n_decoders * self.wall_s, 1e-9))

    @property
    def limit(self) -> str:
        """The stage that a faster run would have to make faster: decode, encode or write."""
        if self.write_s > self.wall_s / 2:
            return "write"
        # Where decoders are kept waiting encoding is what is slow, where they never are it is not.
        if self.decoders_blocked > 0.5:
            return "encode"
        if self.decoders_blocked < 0.1:
            return "decode"
        return "encode" if self.encode_s > self.decode_s else "decode"
