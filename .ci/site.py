"""Hooks of mkdocs.yml: pages of the site that lie outside of docs/, and links that leave it.

On a forge every link is a path in the repository. On the site,

    a link to a page or file of the site   stays, relative to its place there
    a link to anything else (code)         leads to the forge; without `repo_url` it is plain text

The demo page (docs/demo) is put beside the pages, if `npm ci --prefix docs/demo` was run before.
"""

from __future__ import annotations

import importlib.util
import logging
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

# Path in the repository -> path on the site.
PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "DATA_LICENSES.md": "data-licenses.md",
    "corpus/README.md": "corpus.md",
    "models/loevpp-small/README.md": "models/loevpp-small.md",
}
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)]*)?\)")
_CODE = re.compile(r"^(?:```.*?^```|    .*?)$", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie elsewhere; leave out a demo page that could not run."""
    root = Path(config.config_file_path).parent
    for source, target in PAGES.items():
        files.append(File.generated(config, target, content=(root / source).read_text("utf-8")))
    demo = _demo(config)
    of_page = {f"demo/{name}" for name in demo.PAGE_FILES if demo.RUNTIME.is_dir()}
    for file in files:
        if file.src_uri.startswith("demo/") and file.src_uri not in of_page:
            file.inclusion = InclusionLevel.EXCLUDED
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Rewrite the page's links, given as paths in the repository."""
    root = Path(config.config_file_path).parent
    docs = Path(config.docs_dir).name
    here = page.file.src_uri
    source = {target: path for path, target in PAGES.items()}.get(here, f"{docs}/{here}")

    def rewritten(match: re.Match[str]) -> str:
        text, link, anchor = match[1], match[2], match[3] or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
        target = PAGES.get(path) or path.removeprefix(f"{docs}/")
        if path in PAGES or (path != target and files.get_file_from_path(target)):
            return f"[{text}]({posixpath.relpath(target, posixpath.dirname(here) or '.')}{anchor})"
        if path == target and (root / path).exists():
            return f"[{text}]({config.repo_url}/blob/main/{path})" if config.repo_url else text
        return match[0]  # mkdocs tells of it

    parts, end = [], 0
    for code in _CODE.finditer(markdown):  # links in code blocks are text
        parts += [_LINK.sub(rewritten, markdown[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, _LINK.sub(rewritten, markdown[end:])])


def on_post_build(config: Any) -> None:
    """Put what the demo page needs beside it."""
    demo = _demo(config)
    if demo.RUNTIME.is_dir():
        demo.build(Path(config.site_dir) / "demo")
    else:
        logging.getLogger("mkdocs").info("no demo page: npm ci --prefix docs/demo, then again")


def _demo(config: Any) -> Any:
    """docs/demo/build.py, which is in no package."""
    file = Path(config.docs_dir) / "demo" / "build.py"
    spec = importlib.util.spec_from_file_location("build_demo", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
