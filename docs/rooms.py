"""Draw the rooms of the code from its imports: `python docs/rooms.py`.

A room is a folder, or a file that stands beside the folders. It is drawn above every room that it
imports, lazy imports counted; an arrow that longer ways already tell is left out. A folder whose
own files stand above and below those of a folder inside it shares a row with that one. A test
compares the picture with what this writes.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "pictures" / "rooms.svg"
PACKAGES = ("aiaas_client", "aiaas_server")
COLOURS = {"aiaas_client": "#dbeafe", "aiaas_server": "#dcfce7"}
WIDTH, HEIGHT, GAP, ROW = 132, 30, 14, 74  # of a box, between boxes, from row to row; pixels
MARGIN = 20

Graph = Mapping[str, set[str]]  # room -> the rooms that it imports


def modules() -> dict[str, Path]:
    """Every module of the two packages, by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room_of(module: str) -> str:
    """`aiaas_server.http.edge.target` is in `http/edge`, `aiaas_server.app` in `app`."""
    package, *parts = module.split(".")
    folders = [*parts]
    while folders and not (ROOT / package / Path(*folders)).is_dir():
        folders.pop()
    inside = "/".join(folders) or (parts[0] if parts else "")
    return f"{package}/{inside}" if inside else ""


def graph() -> dict[str, set[str]]:
    """Who imports whom, by room."""
    known = modules()
    found: dict[str, set[str]] = {}
    for module, path in known.items():
        source = room_of(module)
        if not source:
            continue  # the package itself: its public names, its version
        targets = {room_of(target) for target in _imports(module, path, known)}
        found.setdefault(source, set()).update(targets - {source, ""})
    return found


def _imports(module: str, path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".") if path.name != "__init__.py" else [*module.split("."), ""]
            base = ".".join([*(parts[: -node.level] if node.level else ()), node.module or ""])
            base = base.strip(".")
            for alias in node.names:
                full = f"{base}.{alias.name}"
                if full in known or base in known:
                    yield full if full in known else base


def reach(rooms: Graph) -> dict[str, set[str]]:
    """For each room all those that it imports, over any number of steps."""
    found: dict[str, set[str]] = {}
    for room in rooms:
        seen: set[str] = set()
        waiting = [room]
        while waiting:
            for target in rooms.get(waiting.pop(), ()):
                if target not in seen:
                    seen.add(target)
                    waiting.append(target)
        found[room] = seen
    return found


def levels(rooms: Graph) -> dict[str, int]:
    """Each room one above the highest that it imports; the lowest are 0."""
    below = reach(rooms)
    depth: dict[str, int] = {}

    def level(room: str) -> int:
        if room not in depth:
            beneath = (other for other in below[room] if room not in below[other])
            depth[room] = max((level(other) + 1 for other in beneath), default=0)
        return depth[room]

    return {room: level(room) for room in sorted(rooms)}


def direct(rooms: Graph) -> Iterator[tuple[str, str]]:
    """The imports downwards that no longer way tells."""
    below = reach(rooms)
    level = levels(rooms)
    for room in sorted(rooms):
        down = {target for target in rooms[room] if level[target] < level[room]}
        for target in sorted(down):
            between = (other for other in below[room] - {target} if level[other] < level[room])
            if not any(target in below[other] and room not in below[other] for other in between):
                yield room, target


def picture() -> str:
    """The rooms as SVG, the highest first."""
    rooms = graph()
    level = levels(rooms)
    rows: dict[int, list[str]] = {}
    for room in sorted(level):
        rows.setdefault(level[room], []).append(room)
    top = max(rows)
    width = 2 * MARGIN + max(map(len, rows.values())) * (WIDTH + GAP) - GAP
    place: dict[str, tuple[int, int]] = {}  # left and top edge of each box
    for row, names in rows.items():
        left = (width - len(names) * (WIDTH + GAP) + GAP) // 2
        for index, name in enumerate(names):
            place[name] = left + index * (WIDTH + GAP), MARGIN + (top - row) * ROW
    height = 2 * MARGIN + top * ROW + HEIGHT
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            'font-family="sans-serif" font-size="12">',
            '<rect width="100%" height="100%" fill="white"/>',
            *(_arrow(place[a], place[b]) for a, b in direct(rooms)),
            *(_box(room, *place[room]) for room in sorted(place)),
            "</svg>",
            "",
        ]
    )


def _arrow(source: tuple[int, int], target: tuple[int, int]) -> str:
    x1, y1 = source[0] + WIDTH // 2, source[1] + HEIGHT
    x2, y2 = target[0] + WIDTH // 2, target[1]
    middle = (y1 + y2) // 2
    return (
        f'<path d="M{x1} {y1} C{x1} {middle} {x2} {middle} {x2} {y2}" '
        'fill="none" stroke="#64748b" stroke-opacity="0.55"/>'
        f'<circle cx="{x2}" cy="{y2}" r="2.5" fill="#64748b"/>'
    )


def _box(room: str, left: int, top: int) -> str:
    package, _, name = room.partition("/")
    return (
        f'<rect x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}" rx="5" '
        f'fill="{COLOURS[package]}" stroke="#334155"/>'
        f'<text x="{left + WIDTH // 2}" y="{top + 19}" text-anchor="middle">{escape(name)}</text>'
    )


if __name__ == "__main__":
    PICTURE.write_text(picture(), "utf-8")
    print(PICTURE.relative_to(ROOT))
