"""Defaults that the command line and the library share. Imports nothing, so that help is quick."""

# The subspace of what no augmentation changes: that of searches and duplicates.
INVARIANT = "invariant"
# Label -> the subspace that it is read from.
SUBSPACE_OF = {"key": "pitch", "tempo": "tempo"}
# Results of a search.
N_HITS = 10
# Cosine distance up to which two tracks are the same recording; measured in docs/search.md.
DUPLICATE_DISTANCE = 0.15
# Of two tracks that are: from which cosine distances on they differ in tempo, and in key where
# `pitch` cannot be rotated; and the share of their length, and the seconds, by which copies differ
# at most. Measured in docs/search.md too.
OTHER_TEMPO_DISTANCE = 0.1
OTHER_KEY_DISTANCE = 0.25
COPY_LENGTH_SHARE = 0.005
COPY_LENGTH_S = 0.25
# Cosine distance in a kept subspace up to which a playlist takes a track; see docs/search.md.
PLAYLIST_DISTANCES = {"tempo": 0.7, "pitch": 0.5, "other": 1.0}
# Probability that an A/B test shows the change it is planned for.
AB_POWER = 0.8
# Of figures, in order; of medium lightness, so that they are visible on white and on black.
PALETTE = ("#3b82c4", "#d9822b", "#2f9e76", "#a06cd5", "#cf4a6b", "#8a8f3a", "#5aa7b5")
