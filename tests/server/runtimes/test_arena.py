"""Memory that runs took is kept while it is of use, and given back afterwards."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from aiaas_server.runtimes.options import Arena, arena_of, wants_arena

SMALL, LARGE = 4_000, 4_000_000  # bytes


def gives_back(arena: Arena, size: int) -> bool:
    return arena.options({"x": np.zeros(size, np.uint8)}, None) is not None


def test_small_runs_never_give_back() -> None:
    arena = Arena()
    assert not any(gives_back(arena, size) for size in (SMALL, 10 * SMALL, 1, SMALL))


def test_a_single_large_run_gives_back_at_once() -> None:
    arena = Arena()
    for _ in range(20):
        gives_back(arena, SMALL)
    assert gives_back(arena, LARGE)
    assert not any(gives_back(arena, SMALL) for _ in range(20))


def test_steady_large_runs_keep_their_memory() -> None:
    arena = Arena()
    for _ in range(5):
        gives_back(arena, LARGE)
    assert not any(gives_back(arena, LARGE) for _ in range(100))


def test_memory_is_given_back_once_when_large_runs_end() -> None:
    arena = Arena()
    for _ in range(50):
        gives_back(arena, LARGE)
    assert sum(gives_back(arena, SMALL) for _ in range(100)) == 1


def told(arena: Arena | None, size: int) -> str:
    """Whose arenas a run of `size` bytes gives back; "" for none."""
    assert arena is not None
    options = arena.options({"x": np.zeros(size, np.uint8)}, None)
    if options is None:
        return ""
    entry: str = options.get_run_config_entry("memory.enable_memory_arena_shrinkage")
    return entry


@pytest.mark.parametrize(
    ("on_cpu", "gpu", "whose"),
    [(True, None, "cpu:0"), (False, 0, "gpu:0"), (True, 3, "cpu:0;gpu:3")],
)
def test_the_arenas_that_there_are_are_named(on_cpu: bool, gpu: int | None, whose: str) -> None:
    assert told(arena_of(on_cpu=on_cpu, gpu=gpu), LARGE) == whose


def test_without_an_arena_nothing_decides() -> None:
    assert arena_of(on_cpu=False, gpu=None) is None


def test_on_a_gpu_the_run_after_a_large_one_gives_back_what_that_one_was_given() -> None:
    arena = arena_of(on_cpu=False, gpu=0)
    sizes = [*[SMALL] * 20, LARGE, SMALL, SMALL]
    assert [told(arena, size) for size in sizes] == [*[""] * 20, "gpu:0", "gpu:0", ""]


def test_a_run_that_found_no_room_has_the_next_one_give_back() -> None:
    arena = Arena()
    arena.give_back()
    assert [gives_back(arena, SMALL) for _ in range(2)] == [True, False]


@pytest.mark.parametrize("size", [100_000, 1_000_000])
def test_results_do_not_depend_on_what_is_given_back(onnx_models, size: int) -> None:
    from aiaas_server.runtimes.onnx import open_session

    session = open_session(onnx_models.mlp())
    (spec,) = session.inputs
    rows = size // (spec.shape[1] * 4)
    batch = np.random.default_rng(0).random((rows, spec.shape[1]), np.float32)
    one = [session.run({spec.name: batch[:1]}, [session.outputs[0].name])[0]]
    for _ in range(3):
        one.append(session.run({spec.name: batch}, [session.outputs[0].name])[0][:1])
        one.append(session.run({spec.name: batch[:1]}, [session.outputs[0].name])[0])
    for answer in one:
        np.testing.assert_allclose(answer, one[0], rtol=1e-5, atol=1e-5)


def test_large_models_have_an_arena_and_tiny_ones_beside_them_none(
    tmp_path: Path, onnx_models: SimpleNamespace
) -> None:
    tiny = tmp_path / "tiny.onnx"
    tiny.write_bytes(onnx_models.scale())
    (tmp_path / "large.onnx").write_bytes(bytes(1 << 20))
    assert wants_arena(tmp_path / "large.onnx")
    assert not wants_arena(tiny)
    assert not wants_arena(onnx_models.scale())
    further = onnx.load_model_from_string(onnx_models.scale())
    onnx.save_model(
        further, tmp_path / "further.onnx",
        save_as_external_data=True, size_threshold=0, location="weights.bin",
    )  # fmt: skip
    assert wants_arena(tmp_path / "further.onnx")
