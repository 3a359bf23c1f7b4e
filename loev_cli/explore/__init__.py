"""The page of ``loev explore``: a map of a library, with playback and search.

    app = make_app(library, files, access)      an ASGI application (Starlette)
    serve(app, listen(host, port))              until a signal arrives

layout       a subspace -> places in two dimensions
tracks       the rows as shown on the page, and columns to color the map by
audio_files  a row -> its file, if it is in the audio folder, or a preview of it
security     access control: host, origin, token; bounds on connections
server       the routes, and running them
page/        HTML, CSS and JavaScript, without external resources
"""

from loev_cli.explore.audio_files import AudioFiles
from loev_cli.explore.security import Access, new_token
from loev_cli.explore.server import address, is_loopback, listen, make_app, serve

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
