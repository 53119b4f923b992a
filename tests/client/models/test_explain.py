"""`model.explain` against a real server and a fake, from threads and a loop; and its pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from aiaas_client import (
    AsyncClient,
    BadRequestError,
    Client,
    Explanation,
    InputError,
    NotSupportedError,
)
from aiaas_client._cli.commands import register
from aiaas_client.protocol.explanations import Contribution
from aiaas_client.protocol.predictions import Classification, Regression
from aiaas_client.testing import FakeServer, tensor
from aiaas_server.app import create_app
from aiaas_server.settings import Settings
from tests.server.http.kserve.test_explain import BRIGHT_CARD, PRICE_CARD, WEIGHTS, bright, linear
from tests.server.http.serving import serving
from tests.task_bundles import MOOD_CARD, MOODS, PARTS, table_model, tokenizer, write_bundle

HOUSE = {"rooms": 5, "age": 10, "kind": "house"}
OTHERS = [[1.0, 10.0, "flat"], [3.0, 20.0, "house"]]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_bundle(root, "price", PRICE_CARD, linear(WEIGHTS))
    files = {"tokenizer.json": tokenizer()}
    write_bundle(root, "moods", MOOD_CARD, table_model(MOODS, PARTS, pooled=True), files)
    write_bundle(root, "bright", BRIGHT_CARD, bright())
    return root


@pytest.fixture(scope="module")
def url(repository: Path) -> Iterator[str]:
    with serving(create_app(Settings(models=repository))) as server:
        yield server.url


@pytest.fixture(params=["http", "local"])
def client(request: pytest.FixtureRequest, repository: Path, url: str) -> Iterator[Client]:
    with Client(url) if request.param == "http" else Client.local(repository) as client:
        yield client


def square() -> Any:
    pixels = np.zeros((8, 8), np.uint8)
    pixels[:4, :4] = 255
    return pixels


def test_one_payload_has_one_explanation_and_a_list_a_list(client: Client) -> None:
    model = client.model("price")
    found = model.explain(HOUSE, background=OTHERS)
    assert isinstance(found, Explanation)
    assert [one.contribution for one in found.contributions] == [6.0, 5.0, 0.0]
    assert found.base + 11 == found.prediction
    assert [one.feature for one in found.top(2)] == ["rooms", "age"]
    many = model.explain([HOUSE, HOUSE], background=OTHERS, seed=4)
    assert [one.contributions for one in many] == [found.contributions] * 2
    assert many[0].seed == 4


async def test_both_flavours_tell_the_same(url: str) -> None:
    with Client(url) as client:
        expected = client.model("moods").explain("good tea", output="positive")
    async with AsyncClient(url) as asynchronous:
        found = await asynchronous.model("moods").explain("good tea", output="positive")
        typed = asynchronous.text_classification("moods")
        assert await typed.explain("good tea", output="positive") == expected
    assert found == expected
    assert found.text == "good tea"


def test_a_picture_may_be_a_path(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "square.png"
    Image.fromarray(square()).save(path)
    by_path = client.image_classification("bright").explain(str(path), samples=300)
    by_array = client.model("bright").explain(square(), samples=300)
    assert by_path == by_array
    assert by_array.text is None
    drawn = by_array.draw(path)
    assert drawn.size == (8, 8)
    red, _, blue = drawn.getpixel((1, 1))
    assert red > blue  # it speaks for what is explained
    assert by_array.plot().axes[0].images


def test_the_whole_answer_can_be_had(url: str) -> None:
    with Client(url) as client:
        whole = client.model("moods").with_raw_response.explain("good")
        assert whole.status == 200
        assert whole.parse().output == "positive"


def test_errors_say_what_is_wrong(client: Client) -> None:
    with pytest.raises(BadRequestError, match="did you mean 'positive'"):
        client.model("moods").explain("good", output="positiv")
    with pytest.raises(BadRequestError, match=r"parameters\.background"):
        client.model("price").explain(HOUSE)
    with pytest.raises(InputError, match="expected 1 to 64 payloads to explain, got 65"):
        client.model("moods").explain(["good"] * 65)


# Pictures


def explanation(count: int = 3, **fields: Any) -> Explanation:
    parts = [
        Contribution(feature=f"f{at}", value=at / 3, contribution=(-1) ** at * (at + 1), error=0.5)
        for at in range(count)
    ]
    total = sum(part.contribution for part in parts)
    return Explanation(
        method="permutation", output="yes", prediction=1 + total, base=1, contributions=parts,
        **fields,
    )  # fmt: skip


def test_bars_have_errors_and_what_is_left_is_one_bar() -> None:
    figure = explanation(30, complete=False).plot(n=5)
    (axes,) = figure.axes
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels[0] == "f29 = 9.667"
    assert labels[-1] == "25 others"
    assert len(axes.containers[-1].patches if hasattr(axes.containers[-1], "patches") else []) == 6
    assert "stopped by the deadline" in axes.get_title()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    assert buffer.getvalue()


def test_words_are_coloured_where_they_stand_and_nothing_is_let_through() -> None:
    words = [
        Contribution(feature="good", contribution=0.4, start=3, end=7),
        Contribution(feature="x", contribution=-0.2, start=11, end=12),
    ]
    text = "<b>good</b><i>"
    found = Explanation(
        method="exact", output="<p>", prediction=0.7, base=0.5, contributions=words, text=text
    )
    page = found._repr_html_()
    assert '&lt;b&gt;<span style="background:rgba(214,39,40,0.65)"' in page
    assert "rgba(31,119,180,0.33)" in page or "rgba(31,119,180,0.32)" in page
    assert "&lt;p&gt;" in page
    assert "<i>" not in page


def test_a_table_is_shown_of_columns_and_the_repr_is_short() -> None:
    found = explanation()
    assert "<tr><th>f2</th><td>0.6666666666666666</td><td>+3</td><td>± 0.5</td></tr>" in (
        found._repr_html_()
    )
    assert repr(found) == (
        "Explanation(method='permutation', output='yes', prediction=3.0, base=1.0)"
    )
    with pytest.raises(ValueError, match="has no cells"):
        found.draw(square())


# Fakes


def test_a_fake_runs_its_own_function() -> None:
    def mood(text: str) -> Classification:
        score = 0.5 + 0.2 * ("good" in text) - 0.1 * ("bad" in text)
        return Classification(label="up", score=score, scores={"up": score, "down": 1 - score})

    def price(record: dict[str, float]) -> Regression:
        return Regression(value=3 * record["a"] * record["b"])

    with FakeServer() as fake, Client(fake.url) as client:
        fake.add_task("mood", mood, task="text-classification")
        fake.add_task("price", price, task="tabular-regression", kind="features")
        fake.add("double", lambda x: 2 * x, inputs=[tensor("x", "FP32", [-1, 2])])
        found = client.model("mood").explain("good, not bad")
        assert [round(one.contribution, 9) for one in found.contributions] == [0.2, 0, -0.1]
        made = client.model("price").explain({"a": 2, "b": 5}, background=[{"a": 0, "b": 1}])
        assert [one.contribution for one in made.contributions] == [18, 12]
        rows = client.model("double").explain([1.0, 4.0], background=[[0.0, 0.0]], output=1)
        assert [one.contribution for one in rows.contributions] == [0, 8]
        with pytest.raises(NotSupportedError, match="up to 8 features, got 9"):
            client.model("mood").explain("a b c d e f g h i")
        with pytest.raises(BadRequestError, match="no output 'sideways'"):
            client.model("mood").explain("good", output="sideways")


# The command


def test_the_command_prints_draws_and_refuses(url: str, tmp_path: Path) -> None:
    app = typer.Typer()
    register(app)

    def aiaas(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["explain", *arguments, "--url", url])

    done = aiaas("moods", "good tea", "--output", "positive")
    assert done.exit_code == 0, done.output
    assert "positive: 0.8808" in done.stdout
    assert "good" in done.stdout
    rows = tmp_path / "rows.csv"
    rows.write_text("rooms,age,kind\n1,10,flat\n3,20,house\n")
    record = json.dumps(HOUSE)
    chart = tmp_path / "chart.svg"
    done = aiaas("price", record, "--background", str(rows), "--json", "--plot", str(chart))
    assert done.exit_code == 0, done.output
    assert [one["contribution"] for one in json.loads(done.stdout)["contributions"]] == [6, 5, 0]
    assert chart.read_text().lstrip().startswith("<?xml")
    picture, heat = tmp_path / "square.png", tmp_path / "heat.png"
    Image.fromarray(square()).save(picture)
    done = aiaas("bright", str(picture), "--samples", "200", "--plot", str(heat))
    assert done.exit_code == 0, done.output
    with Image.open(heat) as drawn:
        assert drawn.size == (8, 8)
    assert aiaas("moods", "good", "--output", "no").exit_code == 1
    assert aiaas("moods", "--text", "good.txt").exit_code == 0
    for neither_or_both in ((), ("good", "--text", "good")):
        assert aiaas("moods", *neither_or_both).exit_code == 2
    wrong = aiaas("moods", "good", "--plot", str(tmp_path / "x.unknown"))
    assert wrong.exit_code == 2
