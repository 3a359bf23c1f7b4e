"""Ogg: streams one after the other in one file, and what is between their pages.

    OggS(first) OggS(first) OggS OggS ... OggS(last)   OggS(first) OggS ...
    |------------------ link ---------------------|   |------ link -------

A link is what was one file. A new one begins with a first page behind a page that is none, whatever
its serial number (RFC 3533, section 4).
"""

from __future__ import annotations

import mmap
from pathlib import Path

from loev_cli.audio.readers import BrokenStreamError, Layout, Piece, end_of_padding, mapped

_PAGE = b"OggS"
_HEAD_N_BYTES = 27
_FIRST, _LAST = 0x02, 0x04


def layout(file: Path, start: int = 0) -> Layout | None:
    """The links of an Ogg file; None if it is one stream and nothing else.

    Args:
        start: offset of the first page, behind a tag or other bytes.

    Raises:
        BrokenStreamError: the last page is cut off.
    """
    with mapped(file) as content:
        return _layout(content, start)


def first_stream_at(content: mmap.mmap) -> int | None:
    """Offset of the first page of the first stream in a file."""
    at = content.find(_PAGE + b"\0\x02")
    return at if at >= 0 else None


def _layout(content: mmap.mmap, start: int) -> Layout | None:
    size = len(content)
    links: list[list[range]] = []
    n_junk, flags, was_first = 0, 0, False
    at = start
    while at < size:
        end = _end_of_page(content, at)
        is_cut = end is not None and end > size
        if end is None or is_cut or not _is_whole(content, at, end):
            if (end := end_of_padding(content, at)) == at:
                end = _next_page(content, at + 1)
                if is_cut and end == size:
                    raise BrokenStreamError("it ends in the middle of a page")
                n_junk += end - at
                was_first = False
            at = end
            continue
        flags = content[at + 5]
        is_first = bool(flags & _FIRST)
        if is_first and not was_first:
            links.append([])
        was_first = is_first
        if links and links[-1] and links[-1][-1].stop == at:
            links[-1][-1] = range(links[-1][-1].start, end)
        elif links:
            links[-1].append(range(at, end))
        at = end
    warnings = []
    if n_junk:
        warnings.append(f"{n_junk} bytes that are not Ogg pages; skipped")
    if not flags & _LAST:
        warnings.append("its last page is not marked as the end; it may have been cut off")
    if not links or (len(links) == 1 and not warnings):
        return None
    parts: list[tuple[Piece, ...]] = [tuple(link) for link in links]
    return Layout(tuple(parts), tuple(warnings))


def _is_whole(content: mmap.mmap, at: int, end: int) -> bool:
    """Whether no other page begins before this one ends, as where it was cut off."""
    if end == len(content) or content[end : end + 4] == _PAGE:
        return True
    return _next_page(content, at + 1) >= end


def _end_of_page(content: mmap.mmap, at: int) -> int | None:
    """Where the page that begins here ends, by its header; None if none begins."""
    if content[at : at + 4] != _PAGE:
        return None
    head = content[at : at + _HEAD_N_BYTES]
    if len(head) < _HEAD_N_BYTES:
        return len(content) + 1
    if head[4] != 0 or head[5] > 7:
        return None
    lengths = content[at + _HEAD_N_BYTES : at + _HEAD_N_BYTES + head[26]]
    if len(lengths) < head[26]:
        return len(content) + 1
    return at + _HEAD_N_BYTES + len(lengths) + sum(lengths)


def _next_page(content: mmap.mmap, at: int) -> int:
    """Where the next page begins, or the end."""
    while (at := content.find(_PAGE, at)) >= 0:
        if _end_of_page(content, at) is not None:
            return at
        at += 4
    return len(content)
