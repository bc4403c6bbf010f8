"""What scripts print and leave behind."""

from __future__ import annotations

from pathlib import Path


def table_of(text: str) -> dict[str, list[str]]:
    """The first table of a Markdown text: from the first cell of a line to
    the others, the header under an empty name."""
    lines = [x for x in text.splitlines() if x.startswith('| ')]
    out: dict[str, list[str]] = {}
    for number, line in enumerate(lines):
        cells = [cell.strip() for cell in line.strip('|').split('|')]
        if number == 0:
            out[''] = cells[1:]
        elif not set(line) <= set('| -'):
            out.setdefault(cells[0], cells[1:])
    return out


def written(folder: Path) -> dict[Path, int]:
    """When each file of a folder was written."""
    return {x: x.stat().st_mtime_ns for x in folder.rglob('*')
            if x.is_file()}
