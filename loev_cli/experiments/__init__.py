"""Several models trained and judged alike.

runs        many training runs in a folder: what is finished is taken, what is not is gone on with
"""
