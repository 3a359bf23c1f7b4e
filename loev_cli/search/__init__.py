"""Search by subspace, over embedding files and databases.

    library = open_library(Path("emb.npz"))
    hits = search(library, library.of_row(0), Query({"tempo": 1.0}, k=10))

library      rows and columns, prepared for search
query        exact nearest neighbors
where        the filter language; conditions: its syntax tree
find         resolves a query; audio_query: embeds an audio file; like_but: shifts a query
ask          a search session, which combines these
database     the same with an index, in LanceDB; indexing: creates it
duplicates   groups of the same recording
playlist     walks through a library
"""

from loev_cli.search.library import Library, open_library
from loev_cli.search.query import Hit, Query, parse_weights, search
from loev_cli.search.where import parse_where

__all__ = ["Hit", "Library", "Query", "open_library", "parse_weights", "parse_where", "search"]
