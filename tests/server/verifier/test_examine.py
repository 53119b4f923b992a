"""What the throw-away process does, here without the process: from bytes to the golden set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from aiaas_server.core.errors import ServerError
from aiaas_server.generate.accounts import Accounts, Course
from aiaas_server.registry.verification.verdict import Order, Phase, Verified
from aiaas_server.verifier.examine import examine
from tests import task_bundles, tiny_llm
from tests.server.registry.verification import hostile

MOOD_FILES = {"tokenizer.json": task_bundles.tokenizer()}
MOODS = task_bundles.table_model(task_bundles.MOODS, task_bundles.PARTS, pooled=True)


class Bench:
    """Writes a bundle and looks at it.

    Attributes:
        phases: What was told on the way.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.phases: list[Phase] = []

    def examine(
        self,
        model: Any = None,
        *,
        card: Mapping[str, Any] | None = None,
        golden: Any = None,
        files: Mapping[str, bytes] = {},
    ) -> Verified:
        written = dict(files)
        if model is not None:
            written["model.onnx"] = model if isinstance(model, bytes) else hostile.serialized(model)
        if card is not None:
            written["model.json"] = json.dumps(card).encode()
        if golden is not None:
            written["golden.json"] = json.dumps(golden).encode()
        for name, content in written.items():
            (self.directory / name).write_bytes(content)
        order = Order(
            directory=str(self.directory),
            name="m",
            digests={},
            memory_bytes=1 << 30,
            cpu_seconds=60,
            providers=("cpu",),
            threads=1,
        )
        return examine(order, self.phases.append)

    def refusal(self, *args: Any, **kwargs: Any) -> str:
        with pytest.raises(ServerError) as caught:
            self.examine(*args, **kwargs)
        message = caught.value.message
        assert str(self.directory) not in message
        assert "\n" not in message
        return message


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def moods(bench: Bench) -> Any:
    """Examines the bundle of moods with a golden set."""

    def run(golden: Any = None, call: Any = bench.examine) -> Any:
        return call(MOODS, card=task_bundles.MOOD_CARD, golden=golden, files=MOOD_FILES)

    return run


def test_a_model_without_a_card_is_described(bench: Bench) -> None:
    found = bench.examine(hostile.plus())
    assert [(s.name, s.datatype, s.shape) for s in found.inputs] == [("x", "FP32", [-1, 2])]
    assert [(s.name, s.datatype, s.shape) for s in found.outputs] == [("y", "FP32", [-1, 2])]
    report = found.report
    assert (report.opset, report.ir_version, report.nodes) == ({"ai.onnx": 17}, 10, 1)
    assert report.providers == ["CPUExecutionProvider"]
    assert report.load_seconds > 0
    assert report.warmup_seconds > 0
    assert report.memory_bytes >= 0
    assert (found.card, found.metrics, report.golden) == (None, {}, {})
    assert bench.phases == ["read", "check", "load", "run"]


def test_nodes_are_counted_after_functions_are_expanded(bench: Bench) -> None:
    assert bench.examine(hostile.doubling(3)).report.nodes == 8


def test_a_card_comes_back_with_its_metrics(bench: Bench) -> None:
    card = {**task_bundles.MOOD_CARD, "metrics": {"accuracy": 0.9}, "licence": "MIT"}
    found = bench.examine(MOODS, card=card, files=MOOD_FILES)
    assert found.card == card
    assert found.metrics == {"accuracy": 0.9}
    assert bench.phases[-1] == "task"


def test_a_bundle_without_a_model_is_refused(bench: Bench) -> None:
    assert "no file 'model.onnx'" in bench.refusal(card=task_bundles.MOOD_CARD)


def test_a_pipeline_needs_no_model(bench: Bench) -> None:
    found = bench.examine(card=task_bundles.BEST_CARD)
    assert found.inputs == []
    assert found.report.nodes == 0


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (hostile.doubling(30), "50000 nodes after functions"),
        (hostile.calls_itself(), "calls itself"),
        (hostile.nested(17), "deep"),
        (
            hostile.model(inputs=[hostile.value(f"x{i}", ["n", 2]) for i in range(1024)]),
            "1024 inputs and outputs",
        ),
        (hostile.model([hostile.node("Identity", ["nothing"], ["y"])]), "checker refuses"),
        (hostile.model([hostile.node("Nonsense", ["x"], ["y"])]), "checker refuses"),
        (
            hostile.model(
                [hostile.node("Identity", ["x"], ["y"]), hostile.node("Neg", ["x"], ["y"])]
            ),
            "checker refuses",
        ),
        (
            hostile.model(outputs=[hostile.value("y", ["n", 2], TensorProto.INT64)]),
            "checker refuses",
        ),
        (
            hostile.model(inputs=[hostile.value("x", ["n", 2], TensorProto.COMPLEX64)],
                          outputs=[hostile.value("y", ["n", 2], TensorProto.COMPLEX64)]),
            "complex64",
        ),
        (
            hostile.model(
                [hostile.node("SequenceConstruct", ["x"], ["y"])],
                outputs=[
                    helper.make_value_info(
                        "y",
                        helper.make_sequence_type_proto(
                            helper.make_tensor_type_proto(TensorProto.FLOAT, ["n", 2])
                        ),
                    )
                ],
            ),
            "cannot be served",
        ),
        (
            hostile.model(
                [
                    hostile.node("Identity", ["x"], ["y"]),
                    hostile.node("SequenceConstruct", ["x"], ["s"]),
                ],
                outputs=[
                    hostile.value("y", ["n", 2]),
                    helper.make_value_info(
                        "s",
                        helper.make_sequence_type_proto(
                            helper.make_tensor_type_proto(TensorProto.FLOAT, ["n", 2])
                        ),
                    ),
                ],
            ),
            "output 's'",
        ),
    ],
    ids=[
        "expansion",
        "recursion",
        "subgraphs",
        "tensors",
        "dangling",
        "unknown",
        "twice",
        "mistyped",
        "complex",
        "sequence",
        "one-sequence",
    ],
)  # fmt: skip
def test_graphs_that_cannot_be_served_are_refused(bench: Bench, made: Any, words: str) -> None:
    assert words in bench.refusal(made)


def test_a_model_that_fails_on_whatever_it_is_given_is_refused(bench: Bench) -> None:
    # A fixed shape that no run can make.
    shape = onnx.numpy_helper.from_array(np.array([3, 5], np.int64), "shape")
    made = hostile.model(
        [
            hostile.node("ReduceMax", ["x"], ["most"], keepdims=0),
            hostile.node("Cast", ["most"], ["whole"], to=TensorProto.INT64),
            hostile.node("Add", ["whole", "shape"], ["odd"]),
            hostile.node("Reshape", ["x", "odd"], ["y"]),
        ],
        inputs=[hostile.value("x", [2, 2])],
        outputs=[hostile.value("y", ["a", "b"])],
        weights=[shape],
    )
    assert "run on made-up input" in bench.refusal(made)


def test_weights_beside_the_model_are_verified_and_run(bench: Bench) -> None:
    weights = np.array([5, 7], "<f4").tobytes()
    digest = hashlib.sha256(weights).hexdigest()
    card = {"task": "tabular-regression", "assets": {"w.bin": digest},
            "preprocessing": {"columns": [{"name": "a"}, {"name": "b"}]},
            "postprocessing": {"names": ["a", "b"]}}  # fmt: skip
    golden = {
        "inputs": {"x": {"datatype": "FP32", "shape": [1, 2], "data": [1, 1]}},
        "outputs": {"y": {"datatype": "FP32", "shape": [1, 2], "data": [6, 8]}},
    }
    found = bench.examine(
        hostile.external("w.bin"), card=card, golden=golden, files={"w.bin": weights}
    )
    assert found.report.golden == {"rows": 1, "largest_difference": 0.0}
    assert "does not declare" in bench.refusal(
        hostile.external("w.bin"), card={**card, "assets": {}}
    )
    assert "expected sha256" in bench.refusal(card=card, files={"w.bin": bytes(8)})


def test_large_weights_in_a_file_with_several_links_are_verified(
    bench: Bench, tmp_path: Path
) -> None:
    """As they lie in the registry's cache."""
    weight = np.arange(600 * 600, dtype=np.float32).reshape(600, 600)
    store = tmp_path / "store"
    store.mkdir()
    made = hostile.model(
        [hostile.node("MatMul", ["x", "w"], ["h"]), hostile.node("Reshape", ["h", "s"], ["y"])],
        inputs=[hostile.value("x", ["n", 600])],
        outputs=[hostile.value("y", ["n", 600])],
        weights=[
            onnx.numpy_helper.from_array(weight, "w"),
            onnx.numpy_helper.from_array(np.array([-1, 600]), "s"),
        ],
    )
    onnx.save(made, store / "model.onnx", save_as_external_data=True, location="w.bin")
    for name in ("model.onnx", "w.bin"):
        (bench.directory / name).hardlink_to(store / name)
    digest = hashlib.sha256((store / "w.bin").read_bytes()).hexdigest()
    names = [f"c{number}" for number in range(600)]
    card = {"task": "tabular-regression", "assets": {"w.bin": digest},
            "preprocessing": {"columns": [{"name": name} for name in names]},
            "postprocessing": {"names": names}}  # fmt: skip
    found = bench.examine(card=card)
    assert found.report.nodes == 2
    assert [spec.shape for spec in found.outputs] == [[-1, 600]]


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ({"task": "no-such-task"}, "unknown task 'no-such-task'"),
        ({"task": "digits", "tusk": 1}, "unknown key 'tusk'"),
        ({**task_bundles.MOOD_CARD, "labels": ["one", "two", "three"]}, "names 3"),
        ({**task_bundles.MOOD_CARD, "assets": {"vocabulary.txt": ""}}, "not in the bundle"),
        ({**task_bundles.MOOD_CARD, "assets": {"tokenizer.json": "0" * 64}}, "expected sha256"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(
    bench: Bench, card: dict[str, Any], words: str
) -> None:
    assert words in bench.refusal(MOODS, card=card, files=MOOD_FILES)


def test_an_asset_that_a_task_needs_is_missed(bench: Bench) -> None:
    assert "tokenizer.json" in bench.refusal(MOODS, card=task_bundles.MOOD_CARD)


def test_a_golden_set_of_tensors(bench: Bench) -> None:
    rows = [[1, 2], [3, 4], [5, 6]]
    golden = {
        "inputs": {"x": {"datatype": "FP32", "shape": [3, 2], "data": rows}},
        "outputs": {"y": {"datatype": "FP32", "shape": [3, 2], "data": [[2, 3], [4, 5], [6, 7]]}},
    }
    assert bench.examine(hostile.plus(), golden=golden).report.golden["rows"] == 3
    golden["outputs"]["y"]["data"] = [[2, 3], [4, 5], [6, 9]]
    told = bench.refusal(golden=golden)
    assert "output 'y': row 2, element [1]: expected 9, got 7" in told


@pytest.mark.parametrize(
    ("golden", "words"),
    [
        ({"inputs": {"x": [1]}, "outputs": {}}, "golden.json: "),
        (
            {
                "inputs": {"z": {"datatype": "FP32", "shape": [1, 2], "data": [1, 2]}},
                "outputs": {"y": {"datatype": "FP32", "shape": [1, 2], "data": [1, 2]}},
            },
            "'z'",
        ),
        (
            {
                "inputs": {"x": {"datatype": "FP32", "shape": [1, 2], "data": [1, 2]}},
                "outputs": {"z": {"datatype": "FP32", "shape": [1, 2], "data": [1, 2]}},
            },
            "expected outputs of y, got 'z'",
        ),
        (
            {
                "inputs": {"x": {"datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}},
                "outputs": {"y": {"datatype": "FP32", "shape": [1, 2], "data": [1, 2]}},
            },
            "cannot be run",
        ),
        ({"instances": ["a"], "predictions": ["b"]}, "no card"),
    ],
)
def test_a_golden_set_that_does_not_fit_the_model(bench: Bench, golden: Any, words: str) -> None:
    told = bench.refusal(hostile.plus(), golden=golden)
    assert told.startswith("golden.json: ")
    assert words in told


def test_a_golden_set_through_the_task(moods: Any, bench: Bench) -> None:
    found = moods({"instances": ["good film", "bad tea"], "predictions": ["positive", "negative"]})
    assert found.report.golden == {"rows": 2, "largest_difference": 0.0}
    golden = {
        "instances": ["good film", "bad tea", "good good", "bad"],
        "labels": ["positive", "negative", "positive", "positive"],
        "metric": "accuracy",
        "floor": 0.75,
    }
    found = moods(golden)
    assert found.report.golden["value"] == 0.75
    assert found.metrics["golden_accuracy"] == 0.75
    assert "at least 0.9, got 0.75" in moods({**golden, "floor": 0.9}, bench.refusal)
    told = moods({"instances": [{"a": 1}], "predictions": ["positive"]}, bench.refusal)
    assert told.startswith("golden.json: instance 0: ")
    told = moods({"instances": ["a"], "predictions": ["b"], "params": {"x": 1}}, bench.refusal)
    assert "unknown key 'x'" in told


def test_accuracy_of_tensors_by_the_labels_of_the_card(moods: Any) -> None:
    ids = {"datatype": "INT64", "shape": [2, 1], "data": [2, 3]}
    mask = {"datatype": "INT64", "shape": [2, 1], "data": [1, 1]}
    found = moods(
        {
            "inputs": {"input_ids": ids, "attention_mask": mask},
            "labels": ["positive", "negative"],
            "metric": "accuracy",
            "floor": 1.0,
        }
    )
    assert found.report.golden["value"] == 1.0


def test_a_reason_of_the_runtime_is_free_of_its_source(bench: Bench) -> None:
    # A tree whose branch is its own ancestor.
    tree = helper.make_node(
        "TreeEnsembleRegressor",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        n_targets=1,
        nodes_treeids=[0, 0, 0],
        nodes_nodeids=[0, 1, 2],
        nodes_featureids=[0, 0, 0],
        nodes_modes=["BRANCH_LEQ", "BRANCH_LEQ", "LEAF"],
        nodes_values=[0.5, 0.5, 0.0],
        nodes_truenodeids=[1, 0, 0],
        nodes_falsenodeids=[2, 2, 0],
        target_treeids=[0],
        target_nodeids=[2],
        target_ids=[0],
        target_weights=[1.0],
    )
    made = hostile.model([tree], outputs=[hostile.value("y", ["n", 1])])
    made.opset_import.add(domain="ai.onnx.ml", version=3)
    told = bench.refusal(made)
    assert "False node must always be the next node" in told
    assert "onnxruntime::" not in told


def test_a_model_that_writes_is_tried_with_a_short_answer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has no end would fill its whole context, for minutes, and the memory of that."""
    written: list[int] = []
    ended = Accounts.ended

    def watched(self: Accounts, course: Course, error: Any, *, cancelled: bool) -> None:
        written.append(course.tokens_out)
        ended(self, course, error, cancelled=cancelled)

    monkeypatch.setattr(Accounts, "ended", watched)
    files = {"tokenizer.json": tiny_llm.tokenizer_json().encode()}
    bench.examine(tiny_llm.model_bytes(), card=tiny_llm.card(end=[]), files=files)
    assert written == [8]
    assert bench.phases == ["read", "check", "load", "run", "task"]


@pytest.mark.parametrize(
    ("second", "words"),
    [
        pytest.param("later.onnx", "'../secret.bin'", id="weights from elsewhere"),
        pytest.param("../model.onnx", "the bundle has no file '../model.onnx'", id="elsewhere"),
        pytest.param("none.onnx", "the bundle has no file 'none.onnx'", id="missing"),
    ],
)
def test_the_second_graph_of_a_model_that_writes_is_looked_through(
    bench: Bench, second: str, words: str
) -> None:
    files = {
        "tokenizer.json": tiny_llm.tokenizer_json().encode(),
        "later.onnx": hostile.serialized(hostile.external("../secret.bin")),
    }
    card = tiny_llm.card(with_past=second)
    assert words in bench.refusal(tiny_llm.model_bytes("separate"), card=card, files=files)
    assert "load" not in bench.phases
