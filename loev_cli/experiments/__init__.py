"""Several models trained and judged alike.

runs          many training runs in a folder: finished ones are reused, others resumed
pretraining   what they are trained on; budget: minutes -> steps, the same for all
judging       vectors, changed excerpts and probes of all models; foreign: of other tools
inference     intervals and tests over tracks and seeds
scoring       scores and differences; comparison: all of them; words, report: to look at
compare       a request, checked and carried out

advise        which augmentations should have a subspace for a label
listening     tracks changed as training changes them; advise_vectors: through all models
advise_evidence   what a label loses to blindness, and gains by a subspace
advise_verdict    the rule; advise_words, advise_report: to look at
"""
