"""An execution provider whose package is there and which cannot start on this machine."""

from __future__ import annotations

import logging
import threading

import numpy as np
import onnxruntime as ort
import pytest

from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.core.errors import LoadFailed
from aiaas_server.runtimes import probe
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.runtimes.probe import check_providers, gives_back, why_not
from aiaas_server.runtimes.providers import CPU, CUDA

Real = ort.InferenceSession


class Machine:
    """onnxruntime with the package of CUDA, where CUDA cannot start."""

    def __init__(self, raises: str) -> None:
        self.raises = raises
        self.tries = 0

    def session(self, model, options=None, *, providers, **other):
        names = [one if isinstance(one, str) else one[0] for one in providers]
        if CUDA in names:
            self.tries += 1
            if self.raises:
                raise RuntimeError(self.raises)
        return Real(model, options, providers=[CPU], **other)


@pytest.fixture(params=["", "CUDA failure 35: driver too old"], ids=["falls back", "raises"])
def machine(request, monkeypatch):
    found = Machine(request.param)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(ort, "InferenceSession", found.session)
    for kept in (probe._tried, probe._tell):
        kept.cache_clear()
    yield found
    for kept in (probe._tried, probe._tell):
        kept.cache_clear()


def test_auto_takes_the_cpu_for_every_model_and_tells_it_once(machine, onnx_models, caplog):
    with caplog.at_level(logging.WARNING):
        sessions = [open_session(onnx_models.scale()) for _ in range(3)]
    assert [session.providers for session in sessions] == [(CPU,)] * 3
    (y,) = sessions[0].run({"x": np.ones((1, 4), np.float32)}, ["y"])
    assert y.shape == (1, 4)
    (told,) = caplog.messages
    assert CUDA in told
    assert "could not start" in told
    assert machine.raises in told
    assert told.endswith("models run on the CPU")
    assert machine.tries == 1


def test_models_that_load_at_once_try_it_once(machine, onnx_models, caplog):
    threads = [threading.Thread(target=open_session, args=[onnx_models.scale()]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert machine.tries == 1
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("asked", [("cuda",), ("cpu", "CUDAExecutionProvider"), ("auto", "cuda")])
def test_one_that_is_named_is_refused_before_any_model_and_by_every_model(
    machine, onnx_models, asked
):
    with pytest.raises(LoadFailed, match="CUDAExecutionProvider' could not start"):
        check_providers(asked)
    with pytest.raises(LoadFailed):
        open_session(onnx_models.scale(), providers=asked)


def test_a_model_that_demands_a_gpu_does_not_run_elsewhere(machine, onnx_models):
    gpu = ModelConfig.parse('{"instance_group": [{"kind": "KIND_GPU"}]}')
    with pytest.raises(LoadFailed):
        open_session(onnx_models.scale(), gpu)


@pytest.mark.parametrize("asked", [("auto",), ("cpu",), ("auto", "cpu")])
def test_what_does_not_name_it_starts_without_a_try(machine, asked):
    check_providers(asked)
    assert machine.tries == 0


def test_the_smallest_model_starts_where_a_provider_does():
    assert why_not(CPU) == ""


@pytest.mark.parametrize(("device", "can"), [("cpu:0", True), ("gpu:0", False)])
def test_memory_is_asked_back_only_of_a_device_that_gives_it(device, can, caplog):
    """A run that asks another one fails, which the runtime tells before it does anything."""
    probe._gives_back.cache_clear()
    with caplog.at_level(logging.INFO, "aiaas_server"):
        assert [gives_back(CPU, device) for _ in range(2)] == [can, can]
    assert len(caplog.messages) == (0 if can else 1)
