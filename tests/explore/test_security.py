"""What is served over HTTP, to whom, and above all what is not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from loev_cli.explore import Access, address, is_loopback, listen, new_token
from loev_cli.row_names import path_of_row
from loev_cli.search.library import open_library
from tests.explore.common import (
    BYTES,
    HOSTILE,
    NOT_SERVED,
    SECRET,
    SERVED,
    Place,
    Site,
    served,
)

TOKEN = new_token()
ROUTES = [
    "/",
    "/app.js",
    "/style.css",
    "/api/library",
    "/api/map/pitch/components",
    "/api/tracks?rows=0",
    "/api/search?row=0&weights=pitch=1&k=3",
    "/api/m3u?row=0&weights=pitch=1&k=3",
    "/api/segments/0",
    "/api/find?text=wav",
    "/api/column/key",
    "/api/where?where=silent",
    "/audio/20",
]


@pytest.fixture(scope="module")
def guarded(place: Place) -> Iterator[Site]:
    with served(place, Access(TOKEN, "0.0.0.0")) as running:
        yield running


def test_every_route_answers_this_machine(site: Site) -> None:
    for route in ROUTES:
        assert site.get(route).status == 200, route


def test_results_are_a_playlist_of_the_files_that_are_served(site: Site, place: Place) -> None:
    asked = "?row=0&weights=pitch=1&k=100"
    hits = json.loads(site.get(f"/api/search{asked}").body)["hits"]
    first, *lines = (
        site.get(f"/api/m3u{asked}").body.decode("utf-8", "surrogateescape").splitlines()
    )
    assert first == "#EXTM3U"
    named = [hit for hit in hits if hit["audio"]]
    assert 0 < len(named) < len(hits)
    files = [place.music / path_of_row(hit["path"]) for hit in named]
    assert [Path(line) for line in lines[1::2]] == files
    assert all(file.is_file() for file in files)
    titles = [line.partition(",")[2] for line in lines[0::2]]
    assert titles[[hit["path"] for hit in named].index(HOSTILE)] == "<b>bold</b>"


@pytest.mark.parametrize("path", SERVED)
def test_audio_of_the_library_is_served(site: Site, place: Place, path: str) -> None:
    answer = site.get(f"/audio/{place.row(path)}")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("audio/")
    if not path.endswith(".aiff"):
        assert answer.body == (place.music / path).read_bytes()


def test_a_name_that_is_no_utf8(site: Site, place: Place) -> None:
    if BYTES not in open_library(place.emb).paths:
        pytest.skip("the file system takes no such names")
    assert site.get(f"/audio/{place.row(BYTES)}").status == 200


def test_an_absolute_path_is_served_inside_the_folder_only(site: Site, place: Place) -> None:
    inside = [path for path in open_library(place.emb).paths if path.startswith("/")]
    statuses = {path: site.get(f"/audio/{place.row(path)}").status for path in inside}
    assert statuses.pop(str(place.outside)) == 404
    assert set(statuses.values()) == {200}


@pytest.mark.parametrize("path", NOT_SERVED)
@pytest.mark.parametrize("option", ["", "?decoded"])
def test_rows_that_lead_elsewhere_are_not_served(
    site: Site, place: Place, path: str, option: str
) -> None:
    answer = site.get(f"/audio/{place.row(path)}{option}")
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/json"
    assert SECRET.encode() not in answer.body
    assert json.loads(answer.body)["error"].startswith("the file ")


@pytest.mark.parametrize(
    "path",
    [
        "/audio/../../../../etc/passwd",
        "/audio/..%2f..%2f..%2fetc%2fpasswd",
        "/audio/%2e%2e/%2e%2e/outside.txt",
        "/audio//etc/passwd",
        "/audio/%00",
        "/audio/-1",
        "/audio/99999",
        "/audio/1e1",
        "/audio/0x1",
        "/audio/+1",
        f"/audio/{quote('٣')}",
        "/audio/99999999999999999999999999",
        f"/audio/{quote('plain/00.wav', safe='')}",
        "/audio/0/../../outside.txt",
        "/plain/00.wav",
        "/server.py",
        "/../server.py",
        "/..%5cserver.py",
        "/app.js/../../server.py",
        "//app.js/..;/server.py",
        "/api/map/pitch/../../library",
        "/api/map/secret/components",
        "/api/map/pitch/secret",
        "/api/tracks?rows=-1",
        "/api/tracks?rows=99999",
        "/api/tracks",
        "/api/search?row=99999&weights=pitch=1&k=3",
        "/api/search",
    ],
)
def test_there_is_nothing_else(site: Site, path: str) -> None:
    answer = site.get(path)
    assert answer.status == 404
    assert len(answer.body) < 100
    assert b"root:" not in answer.body
    assert SECRET.encode() not in answer.body


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/api/search?row=0&weights=tempi=1&k=3", "did you mean 'tempo'?"),
        ("/api/search?row=0&weights=&k=3", "is not SUBSPACE=NUMBER"),
        ("/api/search?row=0&weights=pitch=nan&k=3", "the weight of 'pitch'"),
        ("/api/search?row=0&weights=pitch=1&k=0", "at least 1"),
        ("/api/where?where=bpn>3", "did you mean 'bpm'?"),
        ("/api/where?where=__import__('os')", "names no column"),
        ("/api/column/kee", "no column 'kee'"),
    ],
)
def test_bad_questions_are_one_clear_line(site: Site, path: str, says: str) -> None:
    answer = site.get(path)
    assert answer.status == 400
    assert says in json.loads(answer.body)["error"]


def test_every_answer_is_guarded(site: Site) -> None:
    denied = {"origin": "http://evil.example"}
    answers = [site.get(route) for route in [*ROUTES, "/nothing", "/audio/99999"]]
    answers += [site.get(route, denied) for route in ROUTES]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert not any(name.startswith("access-control-") for name in answer.headers)
        assert "server" not in answer.headers
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:80"},
        {"host": "127.0.0.1.evil.example"},
        {"host": ""},
        {"host": "[::1"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "https://127.0.0.1"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"},
    ],
    ids=str,
)
def test_other_sites_are_refused(site: Site, headers: dict[str, str]) -> None:
    for route in ROUTES:
        answer = site.get(route, headers)
        assert answer.status == 403, route
        assert len(answer.body) < 60


def test_what_our_own_page_sends_is_answered(site: Site) -> None:
    own = {
        "host": f"localhost:{site.port}",
        "origin": f"http://localhost:{site.port}",
        "sec-fetch-site": "same-origin",
    }
    for route in ROUTES:
        assert site.get(route, own).status == 200, route
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert site.get("/", link | {"sec-fetch-dest": "document"}).status == 200
    assert site.get("/", link | {"sec-fetch-dest": "iframe"}).status == 403
    assert site.get("/audio/20", link | {"sec-fetch-dest": "document"}).status == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_nothing_can_be_changed(site: Site, method: str) -> None:
    for route in ROUTES:
        assert site.get(route, method=method).status == 405


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Bearer {TOKEN[:-1]}"},
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": "Bearer \xe9"},
        {"cookie": "loev_token=x"},
        {"cookie": "\x7f="},
    ],
    ids=range(8),
)
def test_nothing_is_served_without_the_token(guarded: Site, headers: dict[str, str]) -> None:
    for route in [*ROUTES, "/nothing", f"/audio/20?token={TOKEN}", "/?token=wrong"]:
        answer = guarded.get(route, headers)
        assert answer.status == 401, route
        assert len(answer.body) < 100
        assert "set-cookie" not in answer.headers


def test_the_token_lets_in_and_leaves_a_cookie(guarded: Site) -> None:
    entered = guarded.get(f"/?token={TOKEN}")
    assert entered.status == 200
    cookie = entered.headers["set-cookie"]
    assert cookie == f"loev_token_{guarded.port}={TOKEN}; HttpOnly; SameSite=Strict; Path=/"
    for route in ROUTES:
        assert guarded.get(route, {"cookie": cookie.partition(";")[0]}).status == 200, route
        assert guarded.get(route, {"authorization": f"Bearer {TOKEN}"}).status == 200, route
    known = {"authorization": f"Bearer {TOKEN}"}
    assert guarded.get("/api/library", known | {"origin": "http://evil.example"}).status == 403
    assert guarded.get("/api/library", known | {"host": "studio.lan"}).status == 200


def test_only_loopback_goes_without_a_token(place: Place, tmp_path: Path) -> None:
    for host, alone in (("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False)):
        with listen(host, 0) as listener:
            assert is_loopback(listener) is alone
            port = listener.getsockname()[1]
            assert address(listener, host, None).endswith(f":{port}/")
    with listen("0.0.0.0", 0) as listener:
        assert address(listener, "0.0.0.0", "abc").endswith("/?token=abc")
        assert "0.0.0.0" not in address(listener, "0.0.0.0", "abc")
