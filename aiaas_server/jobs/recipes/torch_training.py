"""The loop that trains every network: one function, run by one process or by several.

Whatever is random follows from the seed, the epoch and the process's rank, never from what came
before: a training that is taken up again after any epoch ends as if it had not been interrupted.

Data-parallel: `batch_size` is that of all processes together. Each takes its share of the same
shuffled rows, and gradients are summed, so that any number of processes takes the steps one process
takes, up to rounding, with the same learning rate.
Source: Goyal et al. 2017, *Accurate, Large Minibatch SGD* (why the rate would else have to grow).
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from aiaas_server.jobs.recipes.recipe import Array, Params

_ROWS_AT_ONCE = 1024  # of validation


class NetworkParams(Params):
    """What all networks share."""

    epochs: int = Field(
        default=30, ge=1, le=10_000, description="How often all rows are seen, at most."
    )
    batch_size: int | None = Field(
        default=None,
        ge=1,
        le=65_536,
        description="Rows a step, over all workers; by default 1/50 of the rows, from 8 to 128.",
    )
    learning_rate: float = Field(default=1e-3, gt=0.0, le=1e6, description="Size of a step.")
    optimiser: Literal["adam", "sgd"] = Field(
        default="adam", description="Adam, or plain gradient descent with momentum 0.9."
    )
    weight_decay: float = Field(
        default=0.0, ge=0.0, le=10.0, description="Pulls weights towards 0, against overfitting."
    )
    dropout: float = Field(
        default=0.0, ge=0.0, lt=1.0, description="Share of hidden values left out in training."
    )
    patience: int = Field(
        default=5,
        ge=0,
        le=10_000,
        description="Epochs without a better validation loss until training stops and goes back "
        "to the best one; 0 never stops and keeps the last.",
    )


class Plan(NamedTuple):
    """What is trained, the same for all processes.

    Attributes:
        build: Gives the network, from scaled rows to logits `(rows, outputs)`; can be pickled.
        classes: Of classification; 0 for values, which are standardised.
        batch: Rows a step, over all processes.
    """

    build: Callable[[], Any]
    params: NetworkParams
    classes: int
    batch: int
    seed: int
    threads: int


class Rows(NamedTuple):
    """What is learned from.

    Attributes:
        features: `(rows, width)` float32, scaled.
        target: `(rows,)` int64 classes, or float32 values.
        weights: `(rows,)` float32, or None for equal ones.
    """

    features: Array
    target: Array
    weights: Array | None = None


class Epoch(NamedTuple):
    """What the first process tells after each.

    Attributes:
        rate: Rows a second, of all processes.
        state: All that is needed to go on; `kept` in it are the weights worth keeping.
        diverged: Says at which epoch and step the loss was no number any more, if it was.
    """

    number: int
    rate: float
    metrics: dict[str, float]
    state: bytes
    finished: bool = False
    diverged: str = ""


Tell = Callable[[Epoch], None]


class _Diverged(Exception):
    pass


def train(plan: Plan, rows: Rows, validation: Rows | None, restored: bytes, tell: Tell) -> None:
    """Train until the last epoch or until it is no longer worth it.

    In a process group every process calls it; the first one tells.

    Args:
        restored: The `state` of an epoch before, or nothing.
    """
    _Trainer(plan, rows, validation, restored, tell).run()


class _Trainer:
    def __init__(
        self, plan: Plan, rows: Rows, validation: Rows | None, restored: bytes, tell: Tell
    ) -> None:
        import torch

        self.torch: Any = torch
        self.plan, self.rows, self.validation, self.tell = plan, rows, validation, tell
        grouped = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.rank = torch.distributed.get_rank() if grouped else 0
        self.world = torch.distributed.get_world_size() if grouped else 1
        self.device = _device(torch, self.rank)
        torch.set_num_threads(max(plan.threads // self.world, 1))
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.manual_seed(plan.seed)
        self.network = plan.build().to(self.device)
        self.optimiser = _optimiser(torch, self.network, plan.params)
        self.best: dict[str, Any] = {"loss": math.inf, "epoch": 0, "kept": None}
        self.history: list[dict[str, float]] = []
        if restored:
            self._restore(restored)

    def run(self) -> None:
        """All epochs that are left."""
        for epoch in range(len(self.history) + 1, self.plan.params.epochs + 1):
            if self._is_over():
                break
            try:
                metrics, rate = self._epoch(epoch)
            except _Diverged as error:
                self._say(Epoch(epoch, 0.0, {}, b"", finished=True, diverged=str(error)))
                return
            self._judge(epoch, metrics)
            over = epoch == self.plan.params.epochs or self._is_over()
            self._say(Epoch(epoch, rate, metrics, self._state(), over))

    def _is_over(self) -> bool:
        patience = self.plan.params.patience
        return bool(patience) and len(self.history) - self.best["epoch"] >= patience

    def _judge(self, epoch: int, metrics: dict[str, float]) -> None:
        """Note an epoch, and its weights where they are the ones to keep."""
        self.history.append(metrics)
        loss = metrics.get("validation_loss", metrics["loss"])
        if loss < self.best["loss"] or not self.plan.params.patience:
            weights = self.network.state_dict()
            kept = {name: value.detach().cpu().clone() for name, value in weights.items()}
            self.best = {"loss": loss, "epoch": epoch, "kept": kept}

    def _epoch(self, epoch: int) -> tuple[dict[str, float], float]:
        began = time.monotonic()
        count = len(self.rows.target)
        order = np.random.default_rng([self.plan.seed, epoch]).permutation(count)
        self.torch.manual_seed(hash((self.plan.seed, epoch, self.rank)) % 2**63)  # of dropout
        self.network.train()
        total = 0.0
        steps = range(0, count, self.plan.batch)
        for step, start in enumerate(steps, 1):
            found = self._step(order[start : start + self.plan.batch])
            if not math.isfinite(found):
                raise _Diverged(
                    f"the loss is not a number any more (epoch {epoch}, step {step} of "
                    f"{len(steps)}); a smaller learning_rate than "
                    f"{self.plan.params.learning_rate:g} may help"
                )
            total += found * len(order[start : start + self.plan.batch])
        rate = count / max(time.monotonic() - began, 1e-9)
        return {"loss": total / count, **self._validated()}, rate

    def _step(self, batch: Array) -> float:
        """One step on the rows of all processes; gives their mean loss."""
        share = np.sort(batch[self.rank :: self.world])  # sorted rows are read in one sweep
        weights = self.rows.weights
        whole = float(len(batch) if weights is None else weights[batch].sum()) or 1.0
        self.optimiser.zero_grad(set_to_none=False)
        loss = self._loss(self.rows, share)[0] / whole
        loss.backward()
        found = self._summed(loss.detach())
        if math.isfinite(found):
            self.optimiser.step()
        return found

    def _loss(self, rows: Rows, share: Array) -> tuple[Any, Any]:
        """The sum of the losses of some rows, and how many classes were right."""
        functional = self.torch.nn.functional
        if not len(share):  # the last, smallest batch; gradients of zero are summed all the same
            return sum(parameter.sum() for parameter in self.network.parameters()) * 0.0, 0
        answers = self.network(self._tensor(rows.features[share]))
        target = self._tensor(rows.target[share])
        if self.plan.classes:
            losses = functional.cross_entropy(answers, target, reduction="none")
            right = (answers.detach().argmax(1) == target).sum()
        else:
            losses, right = functional.mse_loss(answers[:, 0], target, reduction="none"), 0
        if rows.weights is not None:
            losses = losses * self._tensor(rows.weights[share])
        return losses.sum(), right

    def _summed(self, loss: Any) -> float:
        """Sum the gradients, and the loss with them, over all processes."""
        if self.world == 1:
            return float(loss)
        gradients = [parameter.grad for parameter in self.network.parameters()]
        flat = self.torch.cat([*(gradient.reshape(-1) for gradient in gradients), loss.reshape(1)])
        self.torch.distributed.all_reduce(flat)
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()
        return float(flat[-1])

    def _validated(self) -> dict[str, float]:
        """Loss, and accuracy of classes, on the rows held out; each process takes its share."""
        rows = self.validation
        if rows is None or not len(rows.target):
            return {}
        self.network.eval()
        own = np.arange(self.rank, len(rows.target), self.world)
        sums = self.torch.zeros(2, dtype=self.torch.float64, device=self.device)
        with self.torch.no_grad():
            for start in range(0, len(own), _ROWS_AT_ONCE):
                part = own[start : start + _ROWS_AT_ONCE]
                loss, right = self._loss(rows, part)
                sums[0] += loss.double()
                sums[1] += right
        if self.world > 1:
            self.torch.distributed.all_reduce(sums)
        mean, share = (sums / len(rows.target)).tolist()
        found = {"validation_loss": mean}
        return {**found, "validation_accuracy": share} if self.plan.classes else found

    def _tensor(self, values: Array) -> Any:
        return self.torch.from_numpy(np.ascontiguousarray(values)).to(self.device)

    def _say(self, epoch: Epoch) -> None:
        if self.rank == 0:
            self.tell(epoch)

    def _state(self) -> bytes:
        if self.rank:
            return b""
        content = io.BytesIO()
        state = {
            "of": self._key(),
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "history": self.history,
            "best": self.best,
        }
        self.torch.save(state, content)
        return content.getvalue()

    def _key(self) -> str:
        """What a state must be of to go on from it: a search trains others before."""
        plan, size = self.plan, self.rows.features.shape
        return repr((plan.params, plan.classes, plan.batch, plan.seed, size))

    def _restore(self, restored: bytes) -> None:
        state = read_state(restored)
        if state["of"] != self._key():
            return
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.history, self.best = state["history"], state["best"]


def read_state(state: bytes) -> dict[str, Any]:
    """What an epoch left; nothing in it can run code."""
    import torch

    found: dict[str, Any] = torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
    return found


def _device(torch: Any, rank: int) -> Any:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", rank % torch.cuda.device_count())


def _optimiser(torch: Any, network: Any, params: NetworkParams) -> Any:
    parameters, rate = network.parameters(), params.learning_rate
    if params.optimiser == "adam":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=params.weight_decay, fused=True)
    return torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=params.weight_decay)
