"""Training tracks: listed, decoded once, kept on disk in what the model's views are cut from.

    DATA --listing--> paths, with a manifest's split and group
    paths --load_tracks--> tracks, and the files that cannot be used with the reason
    track.read(start, stop)     rows of the track, by memory map or decoded anew

A file that cannot be read is skipped and listed; no other track is put in its place.
"""

from loev_cli.manifest import Listed
from loev_cli.train.data.cache import DEFAULT_MAX_BYTES, Cache, default_cache
from loev_cli.train.data.content import (
    FULL_SCALE,
    Content,
    FeatureContent,
    WaveformContent,
    track_features,
)
from loev_cli.train.data.listing import listing
from loev_cli.train.data.loading import Skipped, load_tracks, require_enough
from loev_cli.train.data.rows import Track

__all__ = [
    "DEFAULT_MAX_BYTES",
    "FULL_SCALE",
    "Cache",
    "Content",
    "FeatureContent",
    "Listed",
    "Skipped",
    "Track",
    "WaveformContent",
    "default_cache",
    "listing",
    "load_tracks",
    "require_enough",
    "track_features",
]
