"""Judging a model by what its subspaces know, on tracks of which something is known.

manifest, labels, splits    the tracks, what is known of them, who is judged on what
vectors                     their embeddings, from a file or from a model
tasks, probes               what can be read from a subspace
changes, equivariance       how far it moves when the music is changed by a known amount
retrieval                   what lies next to what
geometry                    how it uses its dimensions, and what it shares with others
statistics                  every figure with its interval
figures, words, report      all of it to look at
job                         a request, checked and carried out
"""
