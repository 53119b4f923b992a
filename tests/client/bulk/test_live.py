"""How a job is shown: the text of it, wherever it is shown."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from aiaas_client import JobEvent, Progress
from aiaas_client._bulk.live import Board, Lines, open_view


def event(kind: Any, seq: int = 1, **data: Any) -> JobEvent:
    return JobEvent(seq=seq, at=0.0, kind=kind, data=data)


def epoch(step: int, **more: Any) -> JobEvent:
    told = {
        "phase": "training",
        "step": step,
        "total": 10,
        "unit": "epochs",
        "rate": 12345.0,
        "left": 80.0 / step,
        "metrics": {"loss": 1 / step, "accuracy": step / 10},
    }
    return event("progress", **{**told, **more})


RUNNING, DONE = event("state", state="running", attempt=1), event("state", state="succeeded")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_say_where_it_is_and_how_good() -> None:
    now = 0.0
    stream = io.StringIO()
    lines = Lines(Board("train digits"), stream, lambda: now)
    for number, one in enumerate([RUNNING, epoch(1), epoch(2), event("log", line="x"), epoch(3)]):
        now = number * 0.6
        lines.hear(one)
    lines.hear(DONE)
    lines.close()
    assert stream.getvalue().splitlines() == [
        "train digits: running",
        "train digits: training, epoch 2 of 10; loss 0.5, accuracy 0.2; 12,345 rows/s, 40 s left",
        "train digits: training, epoch 3 of 10; loss 0.3333, accuracy 0.3; 12,345 rows/s, 27 s left",  # noqa: E501
        "train digits: succeeded",
    ]


def test_what_was_held_back_is_told_before_it_ends() -> None:
    stream = io.StringIO()
    lines = Lines(Board("t"), stream, lambda: 0.0)
    for one in (RUNNING, epoch(1), epoch(2)):
        lines.hear(one)
    lines.close()
    lines.close()
    assert [line[:24] for line in stream.getvalue().splitlines()] == [
        "t: running",
        "t: training, epoch 2 of ",
    ]


@pytest.mark.parametrize(
    ("one", "line"),
    [
        (event("state", state="running", attempt=2), "t: running, attempt 2"),
        (event("progress", phase="reading"), "t: reading"),
        (event("progress", phase="trying", step=3, unit="trials"), "t: trying, trial 3"),
        (event("progress", step=3, total=5), "t: step 3 of 5"),
        (event("progress", phase="p", left=7200.0), "t: p; 2.0 h left"),
        (event("progress", phase="p", left=600.0), "t: p; 10 min left"),
    ],
)
def test_a_line_has_what_is_known(one: JobEvent, line: str) -> None:
    board = Board("t")
    board.hear(one)
    assert board.line() == line


def test_outside_of_a_terminal_there_are_plain_lines() -> None:
    stream = io.StringIO()
    view = open_view(True, "t", stream)
    view.hear(RUNNING)
    view.close()
    assert stream.getvalue() == "t: running\n"


def test_a_terminal_shows_a_bar_above_a_table() -> None:
    pytest.importorskip("rich")
    stream = Terminal()
    view = open_view(True, "train [digits]", stream)
    for one in (RUNNING, *map(epoch, range(1, 13)), epoch(12, metrics={"loss": 0.01})):
        view.hear(one)
    view.hear(DONE)
    view.close()
    last = stream.getvalue().rpartition("train [digits]: succeeded")[2]
    assert "━" in last  # the bar
    for text in ("loss", "accuracy", "epoch 3 of 10", "0.3333", "epoch 12 of 10", "0.01"):
        assert text in last
    assert "epoch 2 of 10" not in last  # only the last ten
    assert last.count("epoch 12 of 10") == 1


def test_in_a_narrow_terminal_steps_stay_whole_and_names_can_be_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("rich")
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    view = open_view(True, "t", stream)
    names = ("loss", "accuracy", "learning_rate", "validation_loss", "validation_accuracy")
    view.hear(epoch(2, metrics=dict.fromkeys((*names, "validation_roc_auc"), 0.123456)))
    view.close()
    assert "epoch 2 of 10 " in stream.getvalue()
    assert "…" not in stream.getvalue()


def test_without_rich_a_terminal_has_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.live", None)
    stream = Terminal()
    view = open_view(True, "t", stream)
    view.hear(RUNNING)
    view.close()
    assert stream.getvalue() == "t: running\n"


def test_a_notebook_has_one_output_that_is_written_over(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    def display(shown: Any, *, display_id: bool) -> Any:
        assert display_id
        return SimpleNamespace(update=lambda again: written.append(again._repr_html_()))

    class ZMQInteractiveShell:
        """What IPython calls the shell of a notebook."""

    fake = SimpleNamespace(get_ipython=ZMQInteractiveShell)
    monkeypatch.setitem(sys.modules, "IPython", fake)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    view = open_view(True, "train <m>")
    for one in (RUNNING, epoch(1), event("log", line="x"), epoch(2), DONE):
        view.hear(one)
    view.close()
    assert len(written) == 4
    assert written[0] == "<p>train &lt;m&gt;; running </p>"
    assert '<progress value="2" max="10">' in written[2]
    assert "<tr><td>epoch 2 of 10</td><td>0.5</td><td>0.2</td></tr>" in written[3]
    assert "<progress" not in written[3]


def test_a_callable_is_told_progress_alone() -> None:
    told: list[Progress] = []
    view = open_view(told.append, "t")
    for one in (RUNNING, epoch(1), event("log", line="x"), DONE):
        view.hear(one)
    view.close()
    assert [one.step for one in told] == [1]


def test_nothing_is_shown_unasked_or_without_a_console(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not open_view(False, "t").is_shown
    monkeypatch.setattr(sys, "stderr", None)
    view = open_view(True, "t")
    view.hear(RUNNING)
    view.close()
    assert not view.is_shown
