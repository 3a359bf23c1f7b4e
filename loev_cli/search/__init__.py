"""Search by subspace, over embedding files and databases.

    library = open_library(Path("emb.npz"))
    hits = search(library, library.of_row(0), Query({"tempo": 1.0}, k=10))

library      rows and columns, made ready for search
query        what lies nearest, exactly
where        the filter language; conditions: what it becomes
find         what a user means by a query; listen: an audio file as one; like_but: moved before
ask          all of these behind a command
database     the same with an index, in LanceDB; indexing makes it
duplicates   groups of the same recording
playlist     walks through a library
"""

from loev_cli.search.library import Library, open_library
from loev_cli.search.query import Hit, Query, parse_weights, search
from loev_cli.search.where import parse_where

__all__ = ["Hit", "Library", "Query", "open_library", "parse_weights", "parse_where", "search"]
