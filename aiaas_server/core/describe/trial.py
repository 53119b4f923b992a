"""What a model turns out to be when it is run: the shapes it gives, and whether rows may be joined.

A graph may say that its output is (1, 4) and give (n, 4), and its first axis may be time, not a
batch: joined requests would then be answered with parts of one another. So a model is run on
made-up rows, alone and together, before it serves. Without evidence that a row's answer is its
own, requests are not joined, unless whoever set the model up says that they may be.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.describe.config import ModelConfig, StringParameter
from aiaas_server.core.describe.derive import signature_of, without_batch
from aiaas_server.core.describe.samples import (
    Plan,
    TooLarge,
    groups,
    neighbours,
    plans,
    repeated,
    rows_of,
    sample,
)
from aiaas_server.core.errors import InvalidInput, ServerError
from aiaas_server.core.session import GraphFacts, Session, StopToken
from aiaas_server.core.signature import TensorSpec

_log = logging.getLogger("aiaas_server")

NOT_JOINED: Final = "requests_not_joined"
"""The parameter of a configuration that says why requests are not joined."""
_SECONDS: Final = 10.0  # for each of the two trials
_SLOW: Final = 0.3  # seconds of a run after which only the least is tried
_SIZES: Final = (2, 3, 5)
_CROWD: Final = 17  # rows of a larger batch; odd, and more than a kernel reaches
_FULL: Final = 0.1  # seconds that a larger batch may be expected to take
_PADDING: Final = "batching"
# Of what is compared, the largest difference that is noise, against the largest value.
_NOISE: Final = {2: 2e-2, 4: 2e-4, 8: 2e-4}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was learnt about rows.

    Attributes:
        reason: Why they may not be joined; "" when they may.
        shown: It was seen that they may not; otherwise nothing was learnt.
        outputs: Those that do not begin with the batch.
    """

    reason: str = ""
    shown: bool = False
    outputs: tuple[str, ...] = ()


class Trial:
    """A model that was run once or twice: what it says of itself, corrected by what it gave."""

    def __init__(self, session: Session, name: str) -> None:
        self.inputs = session.inputs
        self.outputs = session.outputs
        self.providers = session.providers
        self.graph: GraphFacts = session.graph
        self._session = session
        self._name = name
        self._plans = plans(self.inputs, cautious=session.graph.cost_in_values)
        if self.inputs and self.outputs:
            with _bounded(_SECONDS) as stop:
                self._observe(stop)

    def settle(
        self, config: ModelConfig, stored: ModelConfig, card_batching: Mapping[str, Any] | None
    ) -> ModelConfig:
        """The configuration, without joining where nothing shows that rows may be joined.

        Args:
            config: Complete.
            stored: As the operator wrote it.
            card_batching: What the card says of batching.
        """
        if (config.max_batch_size or 0) < 2:
            return config
        verdict = self._rows(config)
        asked = stored.max_batch_size is not None or stored.dynamic_batching is not None
        asked = asked or bool(card_batching) or _PADDING in stored.parameters
        if not verdict.reason:
            return config
        if asked and not verdict.outputs:
            if verdict.shown:
                _log.warning(
                    "model '%s': requests are joined as it is set up, although %s",
                    self._name,
                    verdict.reason,
                )
            return config
        _log.warning("model '%s': requests are not joined, since %s", self._name, verdict.reason)
        if stored.max_batch_size is None:
            config = without_batch(config)
        told = {NOT_JOINED: StringParameter(string_value=verdict.reason)}
        parameters = {**config.parameters, **told}
        return config.model_copy(update={"dynamic_batching": None, "parameters": parameters})

    # The shapes of the outputs

    def _observe(self, stop: StopToken) -> None:
        varies = any(-1 in spec.shape for spec in self.inputs)
        for number, plan in enumerate(self._plans):
            for rows in (2, 1) if varies else (1,):
                began = time.monotonic()
                first = self._tried(self.inputs, plan, rows, stop)
                if stop.stopped:
                    return
                if first is None:
                    continue
                self._plans = self._plans[number:]
                second = None
                if varies and time.monotonic() - began < _SLOW:
                    second = self._second(plan, rows, stop)
                self._correct(first, second, varies=varies)
                return

    def _second(self, plan: Plan, rows: int, stop: StopToken) -> list[Array] | None:
        """A run whose every variable dimension is another than in the first."""
        more = rows if rows == 1 else rows + 1
        longer = Plan(plan.length + 1, plan.most, plan.signed)
        found = self._tried(self.inputs, longer, more, stop)
        return found if found is not None else self._tried(self.inputs, plan, more, stop)

    def _correct(
        self, first: Sequence[Array], second: Sequence[Array] | None, *, varies: bool
    ) -> None:
        outputs = []
        for index, spec in enumerate(self.outputs):
            shapes = [arrays[index].shape for arrays in (first, second) if arrays is not None]
            sure = len(shapes) == 2 or not varies
            found = _shape(spec, shapes, sure=sure and not self.graph.cost_in_values)
            if found != spec.shape:
                # A rank that the graph leaves open looks like rank 0.
                level = logging.WARNING if spec.shape else logging.INFO
                _log.log(
                    level,
                    "model '%s': output '%s' is declared as %s and is given as %s, which is told",
                    *(self._name, spec.name, spec.shape, found),
                )
                spec = TensorSpec(spec.name, spec.datatype, found, symbols=("",) * len(found))
            outputs.append(spec)
        self.outputs = tuple(outputs)

    # Rows, alone and together

    def _rows(self, config: ModelConfig) -> Verdict:
        signature = signature_of(config)
        most = signature.max_batch_size
        verdict = Verdict(
            "it cannot be run on made-up inputs, so nothing shows that its rows are independent"
        )
        with _bounded(_SECONDS) as stop:
            for plan in self._plans:
                try:
                    found = self._compared(signature.inputs, plan, most, stop)
                except _Together as error:
                    return Verdict(str(error), shown=True)
                except (ServerError, TooLarge):
                    if stop.stopped:
                        return Verdict(f"trying it took longer than {round(_SECONDS)} s")
                    continue
                if found is not None:
                    return found
                verdict = Verdict("its answers to different made-up rows are the same")
        return verdict

    def _compared(
        self, inputs: Sequence[TensorSpec], plan: Plan, most: int, stop: StopToken
    ) -> Verdict | None:
        """What one plan tells; None where all rows are answered alike, which tells nothing."""
        count = min(_SIZES[-1], most)
        made = sample(inputs, plan, count, self.graph.words)
        began = time.monotonic()
        alone = [self._run(rows_of(made, [0]), stop)]
        if time.monotonic() - began > _SLOW:
            count = 2
        alone += [self._run(rows_of(made, [row]), stop) for row in range(1, count)]
        for rows in groups(count, _SIZES):
            if len(rows) < 2:
                continue
            verdict = self._judged(rows, alone, self._together(made, rows, stop))
            if verdict.reason:
                again = self._run(rows_of(made, [0]), stop)
                if any(not _alike(a, b) for a, b in zip(again, alone[0], strict=True)):
                    return Verdict("its answers to one row differ from run to run")
                return verdict
            if len(rows) == count:
                break
        varied = any(
            not _alike(one, other)
            for answer in alone[1:]
            for one, other in zip(answer, alone[0], strict=True)
        )
        spent = time.monotonic() - began
        if spent > _SLOW:
            return Verdict() if varied else None
        affordable = int(_FULL / spent * 3 * count)  # about so many rows were run by now
        verdict = self._crowded(made, alone, min(most, affordable), stop)
        if not verdict.reason and not self.graph.cost_in_values:
            verdict = self._beside(made, stop)
        return verdict if varied or verdict.reason else None

    def _crowded(
        self,
        made: Mapping[str, Array],
        alone: Sequence[Sequence[Array]],
        most: int,
        stop: StopToken,
    ) -> Verdict:
        """Whether a row is answered as alone among `most` too."""
        for size in sorted({min(_CROWD, most), most}):
            rows = repeated(made, len(alone), size)
            if len(rows) > len(alone):
                verdict = self._judged(rows, alone, self._together(made, rows, stop))
                if verdict.reason:
                    return verdict
        return Verdict()

    def _beside(self, made: Mapping[str, Array], stop: StopToken) -> Verdict:
        """Whether a row is answered alike whatever stands beside it.

        Both runs are of one size, so that no noise comes between them. A row of large numbers,
        or one that is no number at all, has its say only where others are held against it.
        """
        given: tuple[dict[str, Array], list[Array]] | None = None
        for base, other, kept in neighbours(made):
            try:
                if given is None or given[0] is not base:
                    given = base, self._run(base, stop)
                before, after = given[1], self._run(other, stop)
            except ServerError:
                if stop.stopped:
                    raise
                continue  # values that it refuses; such a batch is run again one by one
            for spec, one, two in zip(self.outputs, before, after, strict=True):
                if one.shape[:1] == two.shape[:1] and _alike(one[kept], two[kept]):
                    continue
                return Verdict(
                    f"output '{spec.name}' of a row is another beside other rows: its first axis "
                    "is no batch",
                    shown=True,
                )
        return Verdict()

    def _together(
        self, made: Mapping[str, Array], rows: Sequence[int], stop: StopToken
    ) -> list[Array]:
        try:
            return self._run(rows_of(made, rows), stop)
        except ServerError as error:
            if stop.stopped:
                raise
            raise _Together(f"it refuses {len(rows)} rows together") from error

    def _judged(
        self, rows: Sequence[int], alone: Sequence[Sequence[Array]], together: Sequence[Array]
    ) -> Verdict:
        names = [spec.name for spec in self.outputs]
        apart = tuple(
            name
            for index, name in enumerate(names)
            if together[index].shape[:1] != (len(rows),)
            or any(alone[row][index].shape[:1] != (1,) for row in rows)
        )
        if apart:
            listed = ", ".join(f"'{name}'" for name in apart)
            return Verdict(f"{listed} does not begin with the batch", True, apart)
        for index, name in enumerate(names):
            expected = [answer[index] for answer in alone]
            if len({array.shape for array in expected}) == 1 and _all_alike(
                together[index], np.concatenate(expected)[list(rows)]
            ):
                continue
            for place, row in enumerate(rows):
                if not _alike(together[index][place : place + 1], alone[row][index]):
                    return Verdict(
                        f"output '{name}' of a row is another beside {len(rows) - 1} more than "
                        "alone: its first axis is no batch",
                        shown=True,
                    )
        return Verdict()

    def _tried(
        self, inputs: Sequence[TensorSpec], plan: Plan, rows: int, stop: StopToken
    ) -> list[Array] | None:
        try:
            return self._run(sample(inputs, plan, rows, self.graph.words), stop)
        except (ServerError, TooLarge):
            return None

    def _run(self, inputs: Mapping[str, Array], stop: StopToken) -> list[Array]:
        if stop.stopped:
            raise InvalidInput("the trial takes too long")
        return self._session.run(inputs, [spec.name for spec in self.outputs], stop)


class _Together(Exception):
    """Rows that are accepted alone are refused together."""


@contextmanager
def _bounded(seconds: float) -> Iterator[StopToken]:
    """A token that asks runs to end after `seconds`."""
    stop = StopToken(tries=True)
    timer = threading.Timer(seconds, stop.stop)
    timer.daemon = True
    timer.start()
    try:
        yield stop
    finally:
        timer.cancel()


def _shape(spec: TensorSpec, shapes: Sequence[tuple[int, ...]], *, sure: bool) -> tuple[int, ...]:
    """The shape to tell of an output that was given in `shapes`."""
    fits = all(
        len(shape) == len(spec.shape)
        and all(said in (-1, size) for said, size in zip(spec.shape, shape, strict=True))
        for shape in shapes
    )
    ranks = {len(shape) for shape in shapes}
    if fits or len(ranks) > 1:
        return spec.shape
    declared = spec.shape if len(spec.shape) in ranks else (None,) * ranks.pop()
    told = []
    for axis, said in enumerate(declared):
        sizes = {shape[axis] for shape in shapes}
        if said == -1 or len(sizes) > 1:
            told.append(-1)
        elif said in sizes or sure:
            told.append(sizes.pop())
        else:
            told.append(-1)
    return tuple(told)


def _all_alike(rows: Array, others: Array) -> bool:
    """Whether `_alike` holds for each of many rows; False also where it takes a closer look.

    Row by row, a thousand of them cost more than all the rest of a small model's load.
    """
    if rows.shape != others.shape or rows.dtype != others.dtype:
        return False
    if rows.dtype.kind != "f" or not rows.size:
        return bool(np.array_equal(rows, others))
    if not (np.isfinite(rows).all() and np.isfinite(others).all()):
        return False
    one, other = (array.reshape(len(array), -1).astype(np.float64) for array in (rows, others))
    noise = _NOISE.get(rows.dtype.itemsize, 2e-2) * np.maximum(np.abs(one).max(axis=1), 1e-30)
    return bool((np.abs(one - other) <= noise[:, None]).all())


def _alike(one: Array, other: Array) -> bool:
    """Whether two answers are the same but for the noise of floating point."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype.kind != "f":
        # A quantized value may be rounded the other way.
        off = 1 if one.dtype.kind in "iu" and one.dtype.itemsize == 1 else 0
        if not off:
            return bool(np.array_equal(one, other))
        return not one.size or int(np.abs(one.astype(int) - other.astype(int)).max()) <= off
    finite = np.isfinite(one)
    if not np.array_equal(one[~finite], other[~finite], equal_nan=True):
        return False
    if not np.array_equal(finite, np.isfinite(other)):
        return False
    a, b = one[finite].astype(np.float64), other[finite].astype(np.float64)
    if not a.size:
        return True
    noise = _NOISE.get(one.dtype.itemsize, 2e-2) * max(float(np.abs(a).max()), 1e-30)
    return bool((np.abs(a - b) <= noise).all())
