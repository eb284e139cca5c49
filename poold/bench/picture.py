"""The figures as a picture: one bar a way, its median, and a line out to the 95th percentile.

Flows in: rows. Flows out: SVG text that any browser shows. Pure.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from poold.bench.figures import Row

_LABELS = {
    "cold": "cold start",
    "article": "the article's commands",
    "podman-tar": "the same, uncompressed",
    "podman": "poold, engine podman",
    "oci": "poold, engine oci",
    "spare": "poold, a claimed spare",
    "bare": "bare runc restore",
}
_COLOURS = {"cold": "#b4552d", "article": "#c9a227", "podman-tar": "#d8c06a", "bare": "#8a8f98"}
_POOLD = "#2f7d5b"
_WIDTH, _LEFT, _RIGHT, _LINE = 760, 210, 110, 34


def svg(rows: Sequence[Row]) -> str:
    """Draw single starts first, then each size of burst, one group an application and burst."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.app, row.burst), []).append(row)
    lines, top = [], 14
    for (app, burst), group in groups.items():
        longest = max(row.p95 for row in group) or 1.0
        many = f", {burst} at once" if burst > 1 else ""
        title = f"{app}{many}: seconds from the call to the first answer"
        runs = len(group[0].seconds)
        lines.append(
            f'<text x="20" y="{top + 18}" font-weight="bold" fill="#222">'
            f"{html.escape(title)} (median of {runs}, line to the 95th percentile)</text>"
        )
        top += 34
        for row in group:
            lines += _bar(row, top, longest)
            top += _LINE
        top += 14
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" role="img"',
        'font-family="sans-serif" font-size="14">',
        "<title>Seconds from the call to the first answer, by way</title>",
        f'<rect width="{_WIDTH}" height="{top}" fill="#fbfaf7"/>',
    ]
    return "\n".join([*head, *lines, "</svg>", ""])


def _bar(row: Row, top: int, longest: float) -> list[str]:
    room = _WIDTH - _LEFT - _RIGHT
    width = max(2.0, room * row.median / longest)
    end = max(width, room * row.p95 / longest)
    middle = top + 12
    colour = _COLOURS.get(row.path, _POOLD)
    label = html.escape(_LABELS.get(row.path, row.path))
    return [
        f'<text x="20" y="{top + 17}" fill="#222">{label}</text>',
        f'<rect x="{_LEFT}" y="{top}" width="{width:.1f}" height="24" rx="3" fill="{colour}"/>',
        f'<path d="M{_LEFT + width:.1f} {middle}H{_LEFT + end:.1f}" stroke="#222"/>',
        f'<text x="{_LEFT + end + 8:.1f}" y="{top + 17}" fill="#222">{row.median:.3f} s</text>',
    ]
