"""What a session of CUDA is opened with; the options need no GPU to be right."""

from __future__ import annotations

import logging
from typing import Any

import onnxruntime as ort
import pytest

from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.core.errors import LoadFailed
from aiaas_server.runtimes import devices
from aiaas_server.runtimes.devices import load_libraries, uses_gpu, wants_binding, with_device
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.runtimes.providers import CPU, CUDA, TENSORRT


def config(gpus: list[int] | None = None, **parameters: str) -> ModelConfig:
    return ModelConfig.parse(
        {
            "instance_group": [{"gpus": gpus or []}],
            "parameters": {name: {"string_value": text} for name, text in parameters.items()},
        }
    )


def options(name: str, **parameters: str) -> dict[str, Any]:
    found = with_device(name, config(**parameters))
    assert not isinstance(found, str)
    assert found[0] == name
    return found[1]


def test_cuda_takes_the_memory_that_it_needs_and_searches_quickly() -> None:
    assert options(CUDA) == {
        "device_id": 0,
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
    }


def test_a_configuration_may_name_the_device() -> None:
    assert with_device(TENSORRT, config(gpus=[2, 3])) == (TENSORRT, {"device_id": 2})
    assert with_device(CPU, config(gpus=[2])) == CPU


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("cudnn_conv_algo_search", "0", "EXHAUSTIVE"),
        ("cudnn_conv_algo_search", "default", "DEFAULT"),
        ("arena_extend_strategy", "0", "kNextPowerOfTwo"),
        ("arena_extend_strategy", "kSameAsRequested", "kSameAsRequested"),
        ("tunable_op_enable", "true", "1"),
        ("tunable_op_tuning_enable", "1", "1"),
        ("use_tf32", "0", "0"),
        ("cudnn_conv_use_max_workspace", "false", "0"),
        ("gpu_mem_limit", " 1073741824 ", "1073741824"),
    ],
)
def test_parameters_are_options_by_number_or_name(name: str, text: str, value: str) -> None:
    assert options(CUDA, **{name: text})[name] == value
    assert name not in options(TENSORRT, **{name: text})


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("cudnn_conv_algo_search", "3", "0, 1, 2, EXHAUSTIVE, HEURISTIC, DEFAULT, got '3'"),
        ("use_tf32", "maybe", "0, 1, false, true, got 'maybe'"),
        ("gpu_mem_limit", "-1", "a number of bytes above 0, got '-1'"),
        ("gpu_mem_limit", "2GB", "a number of bytes above 0, got '2GB'"),
    ],
)
def test_another_value_is_refused_by_name(name: str, text: str, expected: str) -> None:
    with pytest.raises(LoadFailed) as caught:
        with_device(CUDA, config(**{name: text}))
    assert caught.value.message == f"configuration: parameter '{name}': expected {expected}"


def test_graphs_are_asked_for_by_the_names_of_each_provider() -> None:
    assert options(CUDA, cuda_graphs="1")["enable_cuda_graph"] == "1"
    assert options(TENSORRT, cuda_graphs="on")["trt_cuda_graph_enable"] == "1"


@pytest.mark.parametrize(("text", "said"), [("1", True), ("0", False), ("", None)])
def test_binding_is_a_parameter(text: str, said: bool | None) -> None:
    assert wants_binding(config(io_binding=text)) is said


def test_a_parameter_of_binding_that_is_neither_is_refused(onnx_models: Any) -> None:
    with pytest.raises(LoadFailed, match="'io_binding': expected 0 or 1, got 'yes'"):
        open_session(onnx_models.scale(), config(io_binding="yes"))


def test_a_gpu_is_used_by_two_of_the_providers() -> None:
    assert uses_gpu([CUDA, CPU])
    assert uses_gpu([TENSORRT, CPU])
    assert not uses_gpu([CPU])


def test_libraries_are_loaded_once_and_what_is_said_goes_to_the_log(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(ort, "preload_dlls", lambda: print("Failed to load\nlibcudnn.so.9"))
    devices.load_libraries.cache_clear()
    try:
        with caplog.at_level(logging.DEBUG, "aiaas_server"):
            load_libraries()
            load_libraries()
    finally:
        devices.load_libraries.cache_clear()
    assert caplog.messages == ["CUDA libraries: Failed to load libcudnn.so.9"]
    assert capsys.readouterr().out == ""
