"""A job that makes smaller or faster versions of one, each measured beside it."""

from __future__ import annotations

import hashlib
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np

from aiaas_client.protocol.jobs import OptimiseSpec
from aiaas_client.protocol.management import GOLDEN_FILE, MODEL_FILE
from aiaas_server.core.errors import InferenceFailed, InvalidInput, LoadFailed
from aiaas_server.job_process.answers import Answers
from aiaas_server.job_process.evaluate import answered_rows, metrics_of
from aiaas_server.job_process.optimising.bundle import copy_beside, write_reference
from aiaas_server.job_process.optimising.gate import gate_of
from aiaas_server.job_process.optimising.golden import carry
from aiaas_server.job_process.optimising.made import (
    MIXES_ROWS,
    Feed,
    NotPossible,
    make,
    whole,
)
from aiaas_server.job_process.optimising.measure import measure
from aiaas_server.job_process.optimising.outcome import Candidate, Measurement, product_of
from aiaas_server.job_process.optimising.samples import samples_of
from aiaas_server.job_process.parts import Parts, chosen_parts
from aiaas_server.job_process.served import Served, served
from aiaas_server.job_process.truth import Measured, answered, features_of, measured
from aiaas_server.jobs.orders import OUT, Order, Product
from aiaas_server.jobs.recipes.recipe import Watch

CALIBRATED_BY: Final = 500
"""Rows, at most."""
_ALONE: Final = "what it answers to a row depends on those beside it: requests are not run together"


def run(order: Order, watch: Watch) -> Product:
    """Try each target; keep what loses no more than it may.

    Raises:
        InvalidInput: The parent cannot be measured by these rows, or not by that metric.
    """
    with ExitStack() as held:
        return _Work(order, watch, held).product()


class _Work:
    """One job.

    Args:
        held: Versions that stay loaded until it ends.
    """

    def __init__(self, order: Order, watch: Watch, held: ExitStack) -> None:
        self.order = order
        self.spec = OptimiseSpec.model_validate(order.spec)
        self.watch = watch
        self.held = held
        self.version = order.versions[self.spec.model].version
        self.directory = Path(order.versions[self.spec.model].path)
        self.loaded: dict[str, Served] = {}

    def product(self) -> Product:
        """Make, measure, choose."""
        spec, watch = self.spec, self.watch
        watch.phase("reading")
        rows = measured(
            self.order.datasets[spec.dataset], [self.version], spec.target, spec.held_out
        )
        parent = self.loaded[spec.model] = self.open(self.directory)
        samples = self.samples(parent, rows)
        watch.phase("answering")
        metrics, failed = self.metrics(parent, rows)
        gate = gate_of(spec, metrics)
        tried = self.candidates(samples, rows, failed)
        watch.phase("measuring")
        speeds = measure(
            self.loaded, samples, lambda done, rounds: watch.progress(done, rounds, "rounds")
        )
        watch.phase("exporting")
        found = Measurement(
            order=self.order,
            spec=spec,
            gate=gate,
            parent=Candidate(self.directory, metrics=metrics),
            tried=tried,
            speeds=speeds,
            rows=len(rows.rows),
            calibrated=_rows_of(parent, samples),
        )
        return product_of(found)

    def open(self, directory: Path) -> Served:
        """Load a version as it is measured: with one thread."""
        return self.held.enter_context(served(directory, 1))

    def samples(self, parent: Served, measured: Measured) -> list[Feed]:
        """What the graph gets for rows that it may learn ranges from: not those held out."""
        with Parts(measured.path) as parts:
            rows = np.arange(parts.rows)
            if self.spec.held_out:
                rows = np.setdiff1d(rows, measured.rows)
            if len(rows) > CALIBRATED_BY:
                draw = np.random.default_rng(self.spec.seed)
                rows = np.sort(draw.choice(rows, CALIBRATED_BY, replace=False))
            columns = parent.columns(features_of(self.version, measured.target, parts.fields))
            tables = list(chosen_parts(parts, columns, rows))
        samples = [feed for table in tables for feed in samples_of(parent, table)]
        if not samples:
            raise InvalidInput("no row of the data set gets as far as the model's graph")
        return samples

    def metrics(self, model: Served, rows: Measured) -> tuple[dict[str, Any], int]:
        """Metrics on the rows, and how many rows got no answer."""
        answers = answered(model, self.version, rows, self.watch)
        _refuse_nan(answers, len(rows.rows))
        return metrics_of(rows, answers), len(answers.failed)

    def candidates(self, samples: list[Feed], rows: Measured, failed: int) -> dict[str, Candidate]:
        """Each target tried; one that cannot be made says why."""
        source = self.watch.scratch / "whole.onnx"
        targets = list(dict.fromkeys(self.spec.targets))
        try:
            weights = whole(self.directory, MODEL_FILE, source)
        except NotPossible as error:
            return {name: Candidate(reason=str(error)) for name in targets}
        known = dict.fromkeys(map(_digest, (source, self.directory / MODEL_FILE)), self.spec.model)
        found: dict[str, Candidate] = {}
        for name in targets:
            self.watch.phase(name)
            directory = Path(OUT, name)
            shutil.rmtree(directory, ignore_errors=True)  # of an attempt before this one
            directory.mkdir(parents=True)
            try:
                make(name, source, directory / MODEL_FILE, samples)
                _refuse_known(directory / MODEL_FILE, name, known)
                copy_beside(self.directory, directory, weights, rows_alone=name in MIXES_ROWS)
                found[name] = self.candidate(name, directory, samples, rows, failed)
            except NotPossible as error:
                self.watch.log(f"{name}: {error}")
                found[name] = Candidate(reason=str(error))
        return found

    def candidate(
        self, name: str, directory: Path, samples: list[Feed], rows: Measured, failed: int
    ) -> Candidate:
        """Load and measure one that was made.

        Args:
            failed: Rows to which the parent has no answer.
        Raises:
            NotPossible: It cannot be loaded, or answers less than its parent.
        """
        try:
            model = self.open(directory)
            metrics, missing = self.metrics(model, rows)
        except (LoadFailed, InvalidInput, InferenceFailed) as error:
            raise NotPossible(f"the runtime cannot serve it: {error.message}") from None
        if missing > failed:
            raise NotPossible(f"{missing} rows got no answer; of the parent {failed}")
        golden, told = directory / GOLDEN_FILE, ""
        if golden.exists():
            content, told = carry(golden.read_bytes(), model)
            golden.write_bytes(content)
        reference = Path(OUT, f"{name}.npz")
        kept = write_reference(model, samples, reference)
        self.loaded[name] = model
        note = "" if self.joins(model) else _ALONE
        return Candidate(directory, note, metrics, told, str(reference) if kept else None)

    def joins(self, model: Served) -> bool:
        """Whether a server runs requests to it together, if it does those to the parent."""
        parent = self.loaded[self.spec.model].model.signature.max_batch_size
        return not parent or model.model.signature.max_batch_size > 0


def _refuse_nan(answers: Answers, rows: int) -> None:
    found = answers.values if answers.scores is None else answers.scores
    assert found is not None, "labels or numbers"
    wrong = int((~np.isfinite(found[answered_rows(rows, answers)])).sum())
    if wrong:
        raise InvalidInput(f"{wrong} of its answers are no numbers")


def _rows_of(served: Served, samples: list[Feed]) -> int:
    if not served.model.signature.max_batch_size:
        return len(samples)
    return sum(len(next(iter(feed.values()))) for feed in samples)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_known(path: Path, name: str, known: dict[str, str]) -> None:
    """Raises `NotPossible` where the very bytes are there already."""
    digest = _digest(path)
    if digest in known:
        raise NotPossible(f"it is, byte for byte, {known[digest]}")
    known[digest] = name
