"""Search by subspace, over embedding files and databases.

    library = open_library(Path("emb.npz"))
    hits = search(library, library.of_row(0), Query({"tempo": 1.0}, k=10))

library      rows and columns, made ready for search
query        what lies nearest, exactly
where        the filter language
"""

from loev_cli.search.library import Library, open_library
from loev_cli.search.query import Hit, Query, parse_weights, search
from loev_cli.search.where import parse_where

__all__ = ["Hit", "Library", "Query", "open_library", "parse_weights", "parse_where", "search"]
