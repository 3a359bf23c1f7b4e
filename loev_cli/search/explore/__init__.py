"""The page that ``loev explore`` serves: a library as a map, to listen to and search in.

    app = make_app(library, files, access)      an ASGI application (Starlette)
    serve(app, listen(host, port))              until a signal comes

maps       a subspace -> places in two dimensions
tracks     what the page shows of rows, and columns to colour the map by
files      a row -> the one file it names, if that lies in the audio folder
preview    a file that browsers cannot play -> WAV, decoded while it is played
guard      who may ask for what: host, origin, token; headers of every answer
server     the routes, and running them
page/      HTML, CSS and JavaScript; nothing comes from anywhere else
"""

from loev_cli.search.explore.files import AudioFiles
from loev_cli.search.explore.guard import Access, new_token
from loev_cli.search.explore.server import address, is_loopback, listen, make_app, serve

__all__ = [
    "Access",
    "AudioFiles",
    "address",
    "is_loopback",
    "listen",
    "make_app",
    "new_token",
    "serve",
]
