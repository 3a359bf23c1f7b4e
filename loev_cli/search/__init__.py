"""Search by subspace, over embedding files and databases.

    library = open_library(Path("emb.npz"))
    hits = library.search(library.of_row(0), Query({"tempo": 1.0}, k=10))

library        rows and columns, prepared for search, and exact nearest neighbors
filters        the filter language
find           resolves a query
shifted_query  like a query, but faster or higher
session        many queries with the same options: combines these
database       a library with an index, in LanceDB; indexing: creates it
duplicates     groups of the same recording
playlist       walks through a library
"""

from loev_cli.search.filters import parse_where
from loev_cli.search.library import Hit, Library, Query, open_library, parse_weights

__all__ = ["Hit", "Library", "Query", "open_library", "parse_weights", "parse_where"]
