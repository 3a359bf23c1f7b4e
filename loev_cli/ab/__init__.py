"""Which of two searches is better? From judged queries to real listeners.

sides        a library and the weights it is searched with: A and B
offline      nDCG and recall on judged queries, paired tests; TREC runs and qrels
interleave   team-draft lists of both, their log, and which side the clicks prefer
experiment   a classic A/B test: its size, guardrails, a test that may be looked at daily
report       the one-page decision that each of them ends in
"""
