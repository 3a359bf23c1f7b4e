"""docs/architecture.svg: the parts of loev_cli and their imports, as arcs.

.venv/bin/python .ci/architecture.py
"""

from __future__ import annotations

import ast
import html
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.test_imports import MODULES, PACKAGE, ROWS, imports, part_of  # noqa: E402

OUT = ROOT / "docs" / "architecture.svg"
LINE_PX, ARCS_PX, NAME_PX, WIDTH_PX = 28, 230, 110, 1000
COLORS = ["#6d45c4", "#08637c", "#a04600", "#9b2f6b", "#3f6d12"]


def edges(parts: list[str]) -> dict[str, set[str]]:
    """Part -> the parts that it imports, without those that these import in turn."""
    found: dict[str, set[str]] = {part: set() for part in parts}
    for module in MODULES:
        names = [name.split(".") for name in imports(module)]
        of_loev = {name[1] for name in names if name[0] == "loev_cli" and len(name) > 1}
        if part_of(module) in found:
            found[part_of(module)] |= of_loev & found.keys() - {part_of(module)}
    reached: dict[str, set[str]] = {}
    for part in parts:  # from the bottom up
        reached[part] = found[part].union(*(reached[other] for other in found[part]))
    return {
        part: {o for o in below if not any(o in reached[p] for p in below)}
        for part, below in found.items()
    }


def first_sentence(part: str) -> str:
    """Of the docstring of a module or package."""
    file = PACKAGE / f"{part}.py"
    if not file.exists():
        file = PACKAGE / part / "__init__.py"
    doc = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    text = doc.partition("\n\n")[0].replace("\n", " ").replace("``", "")
    return text.partition(". ")[0].rstrip(".:")


def draw() -> str:
    parts = [part for row in ROWS for part in row]
    y = {part: 20 + LINE_PX * i for i, part in enumerate(reversed(parts))}
    height = 20 + LINE_PX * len(parts)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH_PX} {height}" '
        'font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="{WIDTH_PX}" height="{height}" fill="#fff"/>',
    ]
    for i, (part, below) in enumerate(edges(parts).items()):
        for other in sorted(below, key=parts.index):
            top, bottom, x = y[part], y[other], ARCS_PX - 8
            out = x - min(ARCS_PX - 20, 14 + 0.42 * (bottom - top)) * 4 / 3
            lines.append(
                f'<path d="M{x} {top}C{out:.0f} {top} {out:.0f} {bottom} {x} {bottom}" '
                f'fill="none" stroke="{COLORS[i % len(COLORS)]}" stroke-width="1.4"/>'
                f'<circle cx="{x}" cy="{bottom}" r="3" fill="{COLORS[i % len(COLORS)]}"/>'
            )
    for part in parts:
        at = f'y="{y[part]}" dominant-baseline="middle"'
        lines.append(f'<text x="{ARCS_PX}" {at} font-weight="600" fill="#1d1e22">{part}</text>')
        text = html.escape(first_sentence(part))
        lines.append(f'<text x="{ARCS_PX + NAME_PX}" {at} fill="#5d616b">{text}</text>')
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    OUT.write_text(draw(), encoding="utf-8")
