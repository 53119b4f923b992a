"""Reports: read by a person, and safe whatever columns and labels are called."""

from __future__ import annotations

import base64
import hashlib
import re
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiaas_server.job_process import drawing, page, report

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "$\\frac{a}{b}$ & ]]>",
    "</style></svg>",
    "\u202egnp.exe \x00\x1b[31m\ud800\uffff",
    "连衣裙" * 100,
]


class Seen(HTMLParser):
    """The elements and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def metrics(labels: list[str]) -> dict[str, Any]:
    """As `metrics.py` makes them."""
    count = len(labels)
    return {
        "rows": 100,
        "accuracy": 0.91,
        "f1": None,
        "log_loss": 0.25,
        "per_class": {label: {"precision": None, "recall": 1.0, "rows": 7} for label in labels},
        "confusion": {"labels": labels, "counts": [[at] * count for at in range(count)]},
        "calibration": {
            "edges": [0.0, 0.5, 1.0],
            "predicted": [None, 0.9],
            "observed": [None, 0.8],
            "rows": [0, 100],
        },
    }


def all_reports(directory: Path, names: list[str]) -> list[Path]:
    """Every kind of report, with those names wherever a stranger may name something."""
    facts = {"target": names[0], "features": names, "params": dict.fromkeys(names, 1)}
    paths = [directory / f"{at}.html" for at in range(6)]
    history = [{"step": at, "loss": 1 / at, "validation_loss": 2 / at} for at in (1, 2, 3)]
    report.training_report(
        paths[0],
        title=names[0],
        facts=facts,
        metrics=metrics(names),
        history=[{**one, names[1]: 0.5} for one in history],
        search=[{"kernel": name, "accuracy": 0.9} for name in names],
    )
    report.evaluation_report(
        paths[1],
        title=names[1],
        facts=facts,
        metrics={"r2": 0.5, "mse": 2.0},
        points=([1.0, 2.0, None], [1.5, float("nan"), 3.0]),
    )
    report.comparison_report(
        paths[2],
        title=names[2],
        facts=facts,
        table=[{"metric": names[3], "difference": 0.1, "low": -0.1, "high": 0.2}],
        changed=[{"row": 1, "truth": name} for name in names],
    )
    report.scoring_report(
        paths[3],
        title=names[3],
        facts=facts,
        metrics={"rows": 3},
        classes=dict.fromkeys(names, 2),
        values=([0.0, 1.0, 2.0], [3, 4]),
    )
    plot = drawing.tradeoff(names[0], [(name, 1.0, 0.5) for name in names], 0.4)
    report.optimisation_report(
        paths[4], title=names[4], facts=facts, table=[{"candidate": names[5]}], plot=plot
    )
    report.explanation_report(
        paths[5],
        title=names[5],
        facts=facts,
        importance=[{"feature": name, "importance": 0.1, "error": 0.01} for name in names],
        curves={names[0]: {"values": names, "lines": {names[1]: [0.5] * len(names)}}},
    )
    return paths


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Every kind, full of hostile names."""
    return all_reports(tmp_path_factory.mktemp("reports"), HOSTILE)


def test_no_name_becomes_a_part_of_the_page(reports: list[Path]) -> None:
    """Names are text: no script, no picture, no address, no style but the page's own."""
    for path in reports:
        text = path.read_text("utf-8")
        seen = Seen(text)
        assert not seen.tags & {"script", "img", "iframe", "object", "link", "image", "base", "a"}
        names = {name for name, _ in seen.attributes}
        assert not [name for name in names if name.startswith("on")]
        assert not names & {"style", "src", "action", "xlink:href"}
        assert all(value.startswith("#") for name, value in seen.attributes if name == "href")
        assert not re.search("[\u202e\x00\x1b]", text)
        assert text.count("<style>") == 1
        assert "<script>alert(1)</script>" in seen.text


def test_the_policy_of_the_page_names_its_one_style_sheet(reports: list[Path]) -> None:
    """Nothing else is allowed, not even by mistake."""
    text = reports[0].read_text("utf-8")
    style = text.split("<style>")[1].split("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'"
    assert ("content", policy) in Seen(text).attributes


def test_equal_input_gives_equal_bytes(reports: list[Path], tmp_path: Path) -> None:
    """Pages and plots hold no time, no number of the process, no chance."""
    for one, two in zip(reports, all_reports(tmp_path, HOSTILE), strict=True):
        assert one.read_bytes() == two.read_bytes()


def test_a_training_is_told_whole(tmp_path: Path) -> None:
    """What a reader looks for is there, in words and in pictures."""
    path = tmp_path / "report.html"
    report.training_report(
        path,
        title="digits@3",
        facts={"dataset": "fashion@1", "seed": 7, "libraries": {"torch": "2.13.0"}},
        metrics=metrics(["cat", "dog"]),
        history=[{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}],
        search=[{"depth": 3, "accuracy": 0.9}],
        folds=[{"fold": "mean", "accuracy": 0.8765}],
    )
    seen = Seen(path.read_text("utf-8"))
    for told in ("digits@3", "0.9100", "0.2500", "Learning curves", "Confusion", "cat", "dog"):
        assert told in seen.text
    for told in ("Calibration", "Search", "depth", "fashion@1", "2.13.0", "seed", "0.8765"):
        assert told in seen.text
    assert "svg" in seen.tags


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    """A job that measured nothing has a report that says what it was about."""
    path = tmp_path / "report.html"
    report.training_report(path, title="m@1", facts={"seed": 0}, metrics={}, history=[])
    seen = Seen(path.read_text("utf-8"))
    assert "Confusion" not in seen.text
    assert "Learning curves" not in seen.text
    assert "seed" in seen.text


def test_many_classes_are_told_by_their_mistakes(tmp_path: Path) -> None:
    """A matrix that nobody could read is a list of what was mistaken for what."""
    labels = [f"class {at}" for at in range(60)]
    counts = [[10 * (a == b) for a in range(60)] for b in range(60)]
    counts[3][5] = 4
    path = tmp_path / "report.html"
    found = {"confusion": {"labels": labels, "counts": counts}}
    report.evaluation_report(path, title="m@1", facts={}, metrics=found)
    seen = Seen(path.read_text("utf-8"))
    assert "mistaken most" in seen.text
    assert "class 5" in seen.text
    assert "class 7" not in seen.text


@given(st.text(max_size=300))
def test_any_name_is_one_line_of_a_picture(name: str) -> None:
    """Whatever it is, it can stand in XML, and is not longer than there is room."""
    shown = page.plain(name)
    assert len(shown) <= 80
    assert "\n" not in shown
    root = ElementTree.fromstring(f"<text>{escape(shown)}</text>")
    assert (root.text or "") == shown


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0.91234, "0.9123"),
        (1234567.0, "1,234,567"),
        (12.3456, "12.35"),
        (0.0123456, "0.01235"),
        (1.5e-7, "1.500e-07"),
        (float("nan"), "–"),
        (3, "3"),
        (-0.5, "-0.5000"),
    ],
)
def test_numbers_are_told_with_the_digits_that_count(value: float, told: str) -> None:
    """Four, and no more."""
    assert page.number(value) == told
