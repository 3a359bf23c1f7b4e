"""A server that speaks as much of the Hugging Face Hub's HTTP API as huggingface_hub asks of it:
model repositories with revisions, files by git and by LFS, tokens, and the check of model cards."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_secretsecretsecretsecretsecretsecre"
LICENSES = {"mit", "apache-2.0", "cc-by-4.0", "cc-by-nc-4.0", "cc0-1.0", "gpl-3.0", "other"}
TASKS = {"feature-extraction", "audio-classification"}
LFS = (".safetensors", ".onnx")

Files = dict[str, bytes]


class Hub(http.server.ThreadingHTTPServer):
    """Repositories, and what was asked.

    Attributes:
        commits: (repo, commit) -> its files.
        refs: (repo, branch or tag) -> commit.
        private: repositories that need the token to be read.
        requests: method and path of every request.
        down: answer HTTP 503 to everything.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits: dict[tuple[str, str], Files] = {}
        self.refs: dict[tuple[str, str], str] = {}
        self.private: set[str] = set()
        self.requests: list[str] = []
        self.lfs: dict[str, bytes] = {}
        self.down = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self, repo: str, files: Files, branch: str = "main") -> str:
        text = repr((repo, sorted(files.items()), len(self.commits)))
        oid = hashlib.sha1(text.encode()).hexdigest()
        self.commits[repo, oid] = files
        self.refs[repo, branch] = oid
        return oid

    def at(self, repo: str, revision: str) -> str | None:
        if (repo, revision) in self.commits:
            return revision
        return self.refs.get((repo, revision))

    def has(self, repo: str) -> bool:
        return any(known == repo for known, _ in self.refs)


@contextlib.contextmanager
def running() -> Iterator[Hub]:
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


def card_errors(content: str) -> list[str]:
    """What the hub would refuse in the front matter of a card."""
    if not content.startswith("---\n"):
        return ["no front matter"]
    data = yaml.safe_load(content.split("---\n", 2)[1])
    if not isinstance(data, dict):
        return ["front matter is not a mapping"]
    errors = []
    if data.get("license", "mit") not in LICENSES:
        errors.append('"license" must be one of [apache-2.0, mit, ...]')
    if data.get("pipeline_tag", "feature-extraction") not in TASKS:
        errors.append('"pipeline_tag" must be one of [...]')
    tags = data.get("tags", [])
    if not (isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)):
        errors.append('"tags" must be an array of strings')
    return errors


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, content: Any, code: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, code: int, kind: str, text: str = "") -> None:
        self.answer({"error": text or kind}, code, {"X-Error-Code": kind, "X-Error-Message": text})

    def authorized(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def handle_any(self) -> None:
        n_bytes = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(n_bytes)
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server.requests.append(f"{self.command} {path}")
        if self.server.down:
            self.refuse(503, "Unavailable")
            return
        parts = path.split("/")
        if self.command in ("GET", "HEAD"):
            self.read(parts)
        else:
            self.write(parts, body)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815

    def read(self, parts: list[str]) -> None:
        hub = self.server
        is_api = parts[:2] == ["api", "models"]
        repo = "/".join(parts[2:4] if is_api else parts[:2])
        verb, revision, *rest = (parts[4:] if is_api else parts[2:]) + ["", ""]
        name = "/".join(part for part in rest if part)
        if not hub.has(repo) or (repo in hub.private and not self.authorized()):
            self.refuse(401 if not self.authorized() else 404, "RepoNotFound", "not found")
            return
        commit = hub.at(repo, revision or "main")
        if commit is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        files = hub.commits[repo, commit]
        if is_api and verb in ("revision", ""):
            siblings = [{"rfilename": name} for name in files]
            self.answer({"id": repo, "sha": commit, "siblings": siblings, "private": False})
        elif is_api and verb == "tree":
            self.answer([_entry(name, content) for name, content in files.items()])
        elif verb == "resolve" and name in files:
            content = files[name]
            etag = f'"{_entry(name, content)["oid"]}"'
            self.answer(content, headers={"ETag": etag, "X-Repo-Commit": commit})
        else:
            self.refuse(404, "EntryNotFound", f"no {name}")

    def write(self, parts: list[str], body: bytes) -> None:
        hub = self.server
        path = "/".join(parts)
        if path == "api/validate-yaml":
            errors = [{"message": text} for text in card_errors(json.loads(body)["content"])]
            self.answer({"errors": errors, "warnings": []}, 400 if errors else 200)
        elif parts[0] == "lfs":
            hub.lfs[parts[1]] = body
            self.answer({})
        elif not self.authorized():
            self.refuse(401, "Unauthorized", "Invalid username or password.")
        elif path == "api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            if hub.has(repo):
                self.answer({"error": "exists", "url": f"{hub.url}/{repo}"}, 409)
                return
            hub.commit(repo, {})
            if asked.get("private") or asked.get("visibility") == "private":
                hub.private.add(repo)
            self.answer({"url": f"{hub.url}/{repo}", "id": repo})
        elif parts[4:5] == ["preupload"]:
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LFS) else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for file in json.loads(body)["files"]
            ]
            self.answer({"files": modes})
        elif path.endswith(".git/info/lfs/objects/batch"):
            actions = [
                each | {"actions": {"upload": {"href": f"{hub.url}/lfs/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            self.answer({"transfer": "basic", "objects": actions})
        elif parts[4:5] == ["commit"]:
            repo, branch = "/".join(parts[2:4]), "/".join(parts[5:])
            old = hub.at(repo, branch)
            if old is None:
                self.refuse(404, "RevisionNotFound", f"Invalid rev id: {branch}")
                return
            files = dict(hub.commits[repo, old])
            for item in map(json.loads, body.splitlines()):
                value = item["value"]
                if item["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif item["key"] == "lfsFile":
                    files[value["path"]] = hub.lfs[value["oid"]]
            oid = hub.commit(repo, files, branch)
            url = f"{hub.url}/{repo}/commit/{oid}"
            self.answer({"commitUrl": url, "commitOid": oid, "hookOutput": ""})
        else:
            self.refuse(404, "NotFound", path)


def _entry(name: str, content: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry = {"type": "file", "path": name, "size": len(content), "oid": blob}
    if name.endswith(LFS):
        digest = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
    return entry
