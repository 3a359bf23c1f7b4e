"""Defaults that the command line and the library share. Imports nothing, so that help is quick."""

# The subspace of what no augmentation changes: that of searches and duplicates.
INVARIANT = "invariant"
# Results of a search.
N_HITS = 10
# Cosine distance up to which two tracks are the same recording; measured in docs/search.md.
DUPLICATE_DISTANCE = 0.15
# Probability that an A/B test shows the change it is planned for.
AB_POWER = 0.8
