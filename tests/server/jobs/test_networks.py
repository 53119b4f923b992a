"""Networks in torch: same seed, same bits, whoever is killed; and told when they diverge."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiaas_server.core.errors import InvalidInput
from aiaas_server.job_process.recipes.cnn import CnnClassifier, CnnParams
from aiaas_server.job_process.served import served
from aiaas_server.jobs.recipes.mlp import MlpClassifier, MlpParams, MlpRegressor
from aiaas_server.jobs.recipes.recipe import Array, Diverged, Fitted, Training
from aiaas_server.jobs.table import Field, Table
from tests.server.jobs.bundles import write_card
from tests.server.jobs.watching import Kept
from tests.waiting import wait_until

FASHION = Path("/usr/share/datasets/fashion-mnist")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed"),
    pytest.mark.skipif(find_spec("onnxscript") is None, reason="onnxscript is not installed"),
]


def moons(rows: int = 300, seed: int = 1) -> tuple[Table, Array]:
    """Two half circles in two columns, a category that helps and a column with gaps."""
    draw = np.random.default_rng(seed)
    target = draw.integers(0, 2, rows)
    angle = draw.uniform(0, np.pi, rows)
    across = np.where(target, 1 - np.cos(angle), np.cos(angle)) + draw.normal(0, 0.1, rows)
    up = np.where(target, 0.5 - np.sin(angle), np.sin(angle)) + draw.normal(0, 0.1, rows)
    up[::17] = np.nan
    shade = np.array(["dark", "light", None], object)[(target + draw.integers(0, 2, rows)) % 3]
    flag = np.array([None, True, False], object)[draw.integers(0, 3, rows)]
    kinds = {"across": "number", "up": "number", "shade": "category", "flag": "boolean"}
    values = {"across": 1000 * across, "up": up, "shade": shade, "flag": flag}
    return Table([Field(n, k) for n, k in kinds.items()], values), target  # type: ignore[arg-type]


def fit(place: Path, watch: Kept | None = None, **params: Any) -> Fitted:
    table, target = moons()
    data = Training(table, target, ("a", "b"), moons(100, 2), threads=2)
    return MlpClassifier().fit(MlpParams(**params), data, watch or Kept(place))


SMALL: dict[str, Any] = {"hidden": [16], "epochs": 6, "learning_rate": 0.02, "dropout": 0.1}


def test_a_network_is_served_as_it_was_trained_and_a_killed_attempt_changes_no_bit(
    tmp_path: Path,
) -> None:
    watch = Kept(tmp_path)
    fitted = fit(tmp_path, watch, **SMALL)
    held_out, truth = moons(400, 3)
    answers = fitted.answer(held_out)
    assert np.mean(answers.argmax(1) == truth) > 0.9
    assert [step for step, _ in watch.steps] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "validation_loss", "validation_accuracy"} == watch.steps[-1][1].keys()

    # The same seed, and the same after an attempt that came to the third epoch only.
    assert np.array_equal(fit(tmp_path, **SMALL).answer(held_out), answers)
    later = Kept(tmp_path, restored=watch.checkpoints[3])
    assert np.array_equal(fit(tmp_path, later, **SMALL).answer(held_out), answers)
    assert [step for step, _ in later.steps] == [4, 5, 6]

    write_card(tmp_path, fitted.export(tmp_path))
    with served(tmp_path) as model:
        found = model.answers(held_out)
    assert found.classes == ("a", "b")
    assert found.scores is not None
    assert np.abs(found.scores - answers).max() < 1e-5


def test_workers_that_are_ahead_of_who_keeps_checkpoints_lose_none(tmp_path: Path) -> None:
    def hold(step: int) -> None:
        if step == 1:  # until the state of an epoch far behind is written
            wait_until(lambda: any(tmp_path.glob("training-*/state*-5")))

    watch = Kept(tmp_path, at_checkpoint=hold)
    table, target = moons()
    data = Training(table, target, ("a", "b"), moons(100, 2), threads=2, workers=2)
    fitted = MlpClassifier().fit(MlpParams(**(SMALL | {"epochs": 12})), data, watch)
    assert list(watch.checkpoints) == [*range(1, 13)]
    assert len({path.read_bytes() for path in watch.checkpoints.values()}) == 12
    held_out, truth = moons(400, 3)
    assert np.mean(fitted.answer(held_out).argmax(1) == truth) > 0.9


def test_a_loss_that_is_no_number_is_told_with_epoch_and_step(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"epoch \d+, step \d+ of \d+.*learning_rate than 1e\+06"):
        fit(tmp_path, optimiser="sgd", learning_rate=1e6, weight_decay=10.0)


def test_values_early_stopping_and_weights(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    numbers = draw.normal(0, 3, 400)
    table = Table([Field("x", "number")], {"x": numbers})
    truth = 500 + 40 * numbers
    data = Training(table, truth, validation=(table.take(slice(0, 100)), truth[:100]), seed=3)
    watch = Kept(tmp_path)
    params = MlpParams(hidden=[8], epochs=400, learning_rate=0.05, patience=4)
    fitted = MlpRegressor().fit(params, data, watch)
    answers = fitted.answer(table)
    assert 1 - np.var(answers - truth) / np.var(truth) > 0.98
    assert len(watch.steps) < 400, "it stopped early"
    write_card(tmp_path, fitted.export(tmp_path))
    with served(tmp_path) as model:
        found = model.answers(table).values
    assert found is not None
    assert np.abs(found - answers).max() < 1e-4 * np.abs(truth).max()

    # Rows of weight 0 are not learned from.
    wrong = np.where(np.arange(400) % 2, truth, -truth)
    weights = (np.arange(400) % 2).astype(float)
    data = Training(table, wrong, weights=weights)
    kept = MlpRegressor().fit(MlpParams(hidden=[8], epochs=40, learning_rate=0.05), data, watch)
    assert np.abs(kept.answer(table) - truth)[1::2].mean() < 20


def test_convolutions_over_arrays_and_pictures(tmp_path: Path) -> None:
    """A bright bar lies across or upright, wherever it is."""
    draw = np.random.default_rng(0)
    bars = draw.integers(0, 60, (240, 16, 16)).astype(np.uint8)
    target = draw.integers(0, 2, 240)
    for bar, upright in zip(bars, target, strict=True):
        (bar.T if upright else bar)[draw.integers(2, 14)] = 220
    recipe = CnnClassifier()
    params = CnnParams(channels=[8, 8], dense=16, epochs=12, learning_rate=0.005, size=16)
    arrays = Table([Field("bar", "array")], {"bar": bars})
    files = np.array([png(bar) for bar in bars], object)
    images = Table([Field("photo", "image")], {"photo": files})
    for kind, table in (("arrays", arrays), ("images", images)):
        place = tmp_path / kind
        place.mkdir()
        train = np.arange(180)
        data = Training(table.take(train), target[train], ("across", "upright"), seed=1)
        fitted = recipe.fit(params, data, Kept(tmp_path))
        held_out = table.take(np.arange(180, 240))
        answers = fitted.answer(held_out)
        assert np.mean(answers.argmax(1) == target[180:]) > 0.9, kind
        write_card(place, fitted.export(place))
        with served(place) as model:
            found = model.answers(held_out)
        assert found.scores is not None
        assert np.abs(found.scores - answers).max() < 1e-4, kind
    with pytest.raises(InvalidInput, match="5 convolutions halve a picture of 16 by 16 to nothing"):
        recipe.fit(
            CnnParams(channels=[4] * 5), Training(arrays, target, ("a", "b")), Kept(tmp_path)
        )


def png(pixels: Array) -> bytes:
    import io

    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


@pytest.mark.skipif(not FASHION.exists(), reason="Debian's dataset-fashion-mnist is not installed")
def test_784_32_10_knows_clothes(tmp_path: Path) -> None:
    images, labels = idx("train-images-idx3"), idx("train-labels-idx1").astype(np.int64)
    table = Table([Field("image", "array")], {"image": images})
    data = Training(table, labels, tuple("0123456789"), threads=2)
    params = MlpParams(hidden=[32], epochs=10, batch_size=128, patience=0)
    fitted = MlpClassifier().fit(params, data, Kept(tmp_path))
    held_out = Table([Field("image", "array")], {"image": idx("t10k-images-idx3")})
    answers = fitted.answer(held_out)
    assert np.mean(answers.argmax(1) == idx("t10k-labels-idx1")) >= 0.86
    write_card(tmp_path, fitted.export(tmp_path))
    some = held_out.take(slice(0, 600))
    with served(tmp_path) as model:
        found = model.answers(some)
    assert found.scores is not None
    assert np.abs(found.scores - answers[:600]).max() < 1e-4


def idx(name: str) -> Array:
    content = gzip.decompress((FASHION / f"{name}-ubyte.gz").read_bytes())
    shape = [int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(content[3])]
    return np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
