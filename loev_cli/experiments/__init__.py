"""Many trainings, one analysis.

runs              many training runs in a folder: finished ones are reused, others resumed
cache             arrays in a folder, by what they were made of
judging           vectors, changed excerpts and probes of all models; foreign: of other tools
inference         intervals and tests over tracks and seeds

compare           ``loev compare``: a request, checked and carried out
scoring           scores of methods, and their differences; report: to look at

advise            ``loev advise``: which augmentations should have a subspace for a label
advise_vectors    augmented tracks through all models
advise_evidence   what a label loses under invariance, and gains by a subspace
advise_report     to look at
"""
