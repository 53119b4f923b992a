"""What a handle knows of its job, as it was told last."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiaas_client.protocol.jobs import Job, JobError, JobFile, JobResult, Progress


class JobFacts:
    """A job as it was when the server was asked last; `refresh` asks again."""

    _document: Job

    @property
    def document(self) -> Job:
        """All that the server told."""
        return self._document

    @property
    def id(self) -> str:
        """What it is found by again."""
        return self._document.id

    @property
    def kind(self) -> str:
        """`train`, `evaluate`, `compare`, `score`, `optimise`, `explain` or `batch`."""
        return self._document.kind

    @property
    def state(self) -> str:
        """`queued`, `running`, `succeeded`, `failed` or `cancelled`."""
        return self._document.state

    @property
    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._document.done

    @property
    def spec(self) -> dict[str, Any]:
        """What was asked for; references name the versions that they meant."""
        return self._document.spec

    @property
    def progress(self) -> Progress:
        """Where it is."""
        return self._document.progress

    @property
    def error(self) -> JobError | None:
        """Why it failed."""
        return self._document.error

    @property
    def result(self) -> JobResult | None:
        """What it made; None before it has succeeded."""
        return self._document.result

    @property
    def metrics(self) -> dict[str, Any]:
        """Of the held-out rows or of the evaluation; before the end those of the last step."""
        found = self._document.result
        return dict(self._document.progress.metrics) if found is None else found.metrics

    @property
    def table(self) -> list[dict[str, Any]]:
        """Rows of the comparison, of the candidates, of a search's trials, or of the folds."""
        found = self._document.result
        return [] if found is None else found.table

    @property
    def files(self) -> list[JobFile]:
        """What it made to be downloaded."""
        found = self._document.result
        return [] if found is None else found.files

    @property
    def versions(self) -> list[str]:
        """The versions that it made, as `model@number`."""
        found = self._document.result
        return [] if found is None else [f"{found.model}@{one}" for one in found.versions]

    @property
    def version(self) -> str | None:
        """The first of them, or the only one."""
        return next(iter(self.versions), None)

    @property
    def datasets(self) -> list[str]:
        """The data sets that it made, as `name@number`."""
        found = self._document.result
        return [] if found is None else found.datasets

    @property
    def title(self) -> str:
        """`train digits`: what it does, and to which model."""
        spec = self._document.spec
        models = spec.get("models")
        subject = spec.get("model") or (" and ".join(map(str, models)) if models else "")
        return f"{self._document.kind} {subject}".strip() or self._document.id

    def __repr__(self) -> str:
        shown = [self.title, self.state]
        if self.version is not None:
            shown.append(", ".join(self.versions))
        if self.error is not None:
            shown.append(f"{self.error.code}: {self.error.message[:200]}")
        return f"<{type(self).__name__} {self.id}: {', '.join(shown)}>"

    def _repr_html_(self) -> str:
        """State and metrics as a table, for notebooks."""
        lines = [("state", self.state), *((key, _cell(one)) for key, one in self.metrics.items())]
        made = [*self.versions, *self.datasets]
        if made:
            lines.append(("made", ", ".join(made)))
        if self.error is not None:
            lines.append((self.error.code, self.error.message))
        rows = (
            f"<tr><th>{escape(str(key))}</th><td>{escape(cell)}</td></tr>"
            for key, cell in lines
            if cell
        )
        caption = escape(f"{self.title}, job {self.id}")
        return f"<table><caption>{caption}</caption>{''.join(rows)}</table>"


def _cell(value: Any) -> str:
    """A number or a text; what is larger stands in the report."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if isinstance(value, dict | list) or value is None else str(value)
