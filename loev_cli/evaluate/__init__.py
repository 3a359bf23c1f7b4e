"""Evaluation of a model's subspaces on labeled tracks.

manifest, labels, splits    the tracks, their labels, the folds
vectors                     their embeddings, from a file or from a model
tasks, probes               probes of each label in each subspace
changes, equivariance       distance moved under transformations of known size
retrieval                   nearest neighbors
geometry                    rank, uniformity, and overlap between subspaces
statistics                  confidence intervals
figures, words, report      the HTML report
job                         checks a request and runs it
"""
