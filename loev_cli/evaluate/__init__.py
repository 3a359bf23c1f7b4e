"""Evaluation of a model's subspaces on labeled tracks.

manifest          the tracks, their labels, the folds
vectors           their embeddings, from a file or from a model
probes            probes of each label in each subspace
equivariance      distance moved under transformations of known size
retrieval         nearest neighbors
geometry          rank, uniformity, and overlap between subspaces
statistics        confidence intervals
readouts          readouts of key and tempo, fitted and calibrated
figures, report   the HTML report; page writes it from templates/
job               checks a request and runs it
"""
