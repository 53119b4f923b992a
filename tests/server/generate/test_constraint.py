from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import numpy as np
import pytest

from aiaas_server.core.errors import InvalidInput
from aiaas_server.core.generation import Format
from aiaas_server.generate.constraint import Grammars, Masks, Matcher, words
from tests.server.generate.random_answers import ENDS, encode, permitted, write
from tests.server.generate.random_schemas import schema_of
from tests.tiny_llm import CONFIG, tokenizer_json

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
NESTED: dict[str, Any] = {"type": "object"}
for _ in range(400):
    NESTED = {"type": "array", "items": NESTED}

ENDLESS = {"type": "array", "items": {"$ref": "#"}, "minItems": 1, "maxItems": 1}


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(tokenizer_json(), CONFIG.vocabulary, ENDS)


@pytest.fixture
def masks() -> Iterator[Masks]:
    made = Masks(CONFIG.vocabulary)
    yield made
    made.close()


def matcher(grammars: Grammars, kind: Any, value: Any = None) -> Matcher:
    return grammars.compile(Format(kind, value)).matcher()


def answers_satisfy(grammars: Grammars, seeds: range) -> int:
    """Write one answer for each schema; gives how many finished."""
    finished = 0
    for seed in seeds:
        schema = schema_of(seed)
        answer = write(matcher(grammars, "json_schema", schema), seed)
        assert not answer.failed, schema
        if answer.finished:
            finished += 1
            jsonschema.Draft202012Validator(schema).validate(json.loads(answer.text))
    return finished


def test_every_json_answer_that_finished_satisfies_its_schema(grammars: Grammars) -> None:
    assert answers_satisfy(grammars, range(60)) >= 50


@pytest.mark.slow
def test_every_json_answer_that_finished_satisfies_its_schema_500_times(grammars: Grammars) -> None:
    assert answers_satisfy(grammars, range(1000, 1500)) >= 450


def test_a_json_object_is_one_without_a_schema(grammars: Grammars) -> None:
    finished = 0
    for seed in range(20):
        answer = write(matcher(grammars, "json_object"), seed)
        if answer.finished:
            finished += 1
            assert isinstance(json.loads(answer.text), dict)
    assert finished >= 10


def test_json_has_at_most_one_space_between_its_parts(grammars: Grammars) -> None:
    """Where any white space may stand, a model may write line breaks for ever."""
    written = matcher(grammars, "json_schema", PERSON)
    for token in encode('{"name": "a", '):
        assert written.accept(token)
    assert permitted(written) != []
    for space in (" ", "\n", "\t"):
        (token,) = encode(space)
        assert token not in permitted(written)


@pytest.mark.parametrize(
    "options",
    [{"lenient": True}, {"whitespace_pattern": "x+"}, {"whitespace_flexible": True}],
    ids=["lenient", "pattern", "flexible"],
)
def test_a_schema_cannot_bring_options_of_its_own(
    grammars: Grammars, options: dict[str, Any]
) -> None:
    schema = {**PERSON, "x-guidance": options}
    assert not _whole(matcher(grammars, "json_schema", schema), '{x"name": "a", "age": 1}')
    assert not _whole(matcher(grammars, "json_schema", schema), '{\n"name": "a", "age": 1}')
    with pytest.raises(InvalidInput, match=r"json_schema: Unimplemented keys: \[\"not\"\]"):
        grammars.compile(Format("json_schema", {"x-guidance": options, "not": {}}))


def test_it_is_over_with_the_last_token_of_the_content(grammars: Grammars) -> None:
    written = matcher(grammars, "json_schema", {"const": "ab"})
    *tokens, last = encode('"ab"')
    for token in tokens:
        assert written.accept(token)
        assert not written.is_over
    assert written.accept(last)
    assert written.is_over
    assert written.failure is None
    assert permitted(written) == list(ENDS)  # and the end may be drawn as well
    assert written.accept(ENDS[1])
    assert written.failure is None


def test_an_answer_that_may_go_on_ends_with_the_models_own_end(grammars: Grammars) -> None:
    written = matcher(grammars, "regex", "[0-9]+")
    (five,) = encode("5")
    assert set(permitted(written)).isdisjoint(ENDS)
    assert written.accept(five)
    assert not written.is_over
    assert written.may_end
    assert set(ENDS) <= set(permitted(written))
    assert written.accept(ENDS[0])
    assert written.is_over


def test_a_token_that_is_not_permitted_is_an_error_and_stays_one(grammars: Grammars) -> None:
    written = matcher(grammars, "json_schema", PERSON)
    assert not written.accept(encode("x")[0])
    assert written.failure is not None
    assert written.failure.message.startswith("json_schema: ")
    assert not written.is_over
    assert not written.accept(encode("{")[0])
    assert written.permitted(encode("{")) == 0


def test_a_regular_expression_is_kept_to(grammars: Grammars) -> None:
    expression = r"(ab|c/d){1,3}-\d{2}\\"
    for seed in range(10):
        answer = write(matcher(grammars, "regex", expression), seed)
        assert answer.finished
        assert re.fullmatch(expression, answer.text, re.ASCII)


def test_a_digit_is_one_of_ten(grammars: Grammars) -> None:
    assert len(permitted(matcher(grammars, "regex", r"\d"))) == 10


def test_a_grammar_is_kept_to(grammars: Grammars) -> None:
    sums = 'start: sum\nsum: NUMBER ("+" NUMBER){1,3}\nNUMBER: /[1-9]/'
    for seed in range(10):
        answer = write(matcher(grammars, "grammar", sums), seed)
        assert answer.finished
        assert re.fullmatch(r"[1-9](\+[1-9]){1,3}", answer.text)


def test_an_empty_answer_may_be_the_only_one(grammars: Grammars) -> None:
    assert permitted(matcher(grammars, "regex", "()")) == list(ENDS)


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        pytest.param({"type": "strin"}, "Invalid type: strin", id="invalid type"),
        pytest.param({"uniqueItems": True, "type": "array"}, "uniqueItems", id="unsupported"),
        pytest.param({"not": {}}, "not", id="not"),
        pytest.param({"if": {}, "then": {}}, "if", id="if"),
        pytest.param({"type": "string", "format": "smell"}, "smell", id="format"),
        pytest.param({"$ref": "http://example.com/x"}, "http://example.com/x", id="remote"),
        pytest.param({"$ref": "#/$defs/none"}, "/none", id="no such reference"),
        pytest.param({"type": "integer", "minimum": 3, "maximum": 2}, "minimum", id="bounds"),
        pytest.param({"type": "string", "minLength": 5, "maxLength": 2}, "minLength", id="lengths"),
        pytest.param({"enum": []}, "Unsatisfiable", id="no value"),
        pytest.param(False, "Unsatisfiable", id="false"),
        pytest.param(
            {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
            "nothing can satisfy it",
            id="refers to itself",
        ),
        pytest.param({"allOf": [{"$ref": "#"}]}, "nothing can satisfy it", id="all of itself"),
        pytest.param({"type": "string", "pattern": "(?=a)b"}, "look-around", id="look-ahead"),
        pytest.param({"type": "string", "pattern": "("}, "unclosed group", id="pattern"),
        pytest.param(NESTED, "recursion limit", id="deep"),
        pytest.param({"enum": [f"v{i}" for i in range(20_000)]}, "too big", id="large"),
        pytest.param({"enum": ["x" * 300_000]}, "at most 262144 characters", id="long"),
        pytest.param({"type": "integer", "multipleOf": 999983}, "multipleOf", id="divisor"),
        pytest.param(
            {"type": "integer", "allOf": [{"multipleOf": 997}, {"multipleOf": 1009}]},
            "got 1005973",
            id="divisors together",
        ),
        pytest.param({"multipleOf": True}, "", id="divisor of the wrong kind"),
        pytest.param({"multipleOf": False}, "", id="divisor of the wrong kind too"),
        pytest.param({"minimum": float("nan")}, "", id="not a number"),
        pytest.param([1], "expected a schema, which is an object, got list", id="list"),
        pytest.param(None, "got null", id="nothing"),
        pytest.param("{}", "got str", id="text"),
        pytest.param({"x": {1, 2}}, "", id="not JSON"),
    ],
)
def test_schemas_that_cannot_be_kept_to_are_refused(
    grammars: Grammars, schema: Any, told: str
) -> None:
    with pytest.raises(InvalidInput, match="^json_schema: ") as caught:
        grammars.compile(Format("json_schema", schema))
    assert told in caught.value.message
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("kind", "value", "told"),
    [
        pytest.param("regex", "(?=a)b", "look-around", id="look-ahead"),
        pytest.param("regex", "(", "unclosed group", id="unclosed"),
        pytest.param("regex", "(" * 5000 + ")" * 5000, "", id="deep"),
        pytest.param("regex", "a" * 300_000, "at most 262144 characters, got 300000", id="long"),
        pytest.param("regex", "\ud800", "", id="lone surrogate"),
        pytest.param("regex", "", "empty text", id="empty"),
        pytest.param("regex", 5, "got int", id="number"),
        pytest.param("regex", r"[^\x00-\x{10FFFF}]", "nothing can satisfy it", id="no character"),
        pytest.param("regex", "a/b\\", "single backslash", id="backslash"),
        pytest.param("regex", "a\n%llguidance {}", "without '%llguidance'", id="options"),
        pytest.param("grammar", "start: foo", 'at 1(8): unknown name: "foo"', id="unknown rule"),
        pytest.param("grammar", '{"grammars": []}', "got JSON", id="the library's own form"),
        pytest.param(
            "grammar",
            'start: /a+/ /a+/\n%llguidance {"no_forcing": false}',
            "without '%llguidance'",
            id="options in a grammar",
        ),
        pytest.param("grammar", "start: %lark {\nstart: /a+/\n}", "without '%lark'", id="inner"),
        pytest.param("grammar", "start: start", "nothing can satisfy it", id="endless"),
        pytest.param("grammar", '%import "/etc/passwd"\nstart: "a"', "", id="file"),
        pytest.param("grammar", "start: " + "(" * 3000 + '"a"' + ")" * 3000, "", id="nested"),
        pytest.param(
            "grammar", 'start: %json {"multiple\\u004ff": 999983}', "multipleOf", id="divisor"
        ),
    ],
)
def test_expressions_and_grammars_that_cannot_be_kept_to_are_refused(
    grammars: Grammars, kind: Any, value: Any, told: str
) -> None:
    with pytest.raises(InvalidInput, match=f"^{kind}: ") as caught:
        grammars.compile(Format(kind, value))
    assert told in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        pytest.param("regex", "(a{1000}){1000}", id="repeated"),
        pytest.param("regex", "(a?){500}a{500}", id="optional"),
        pytest.param("json_schema", {"type": "string", "pattern": "^(a{999}){999}$"}, id="pattern"),
        pytest.param("json_schema", ENDLESS, id="items without end"),
        pytest.param("grammar", 'start: x{1000000}\nx: "a"', id="rule"),
        pytest.param("grammar", "start: /a+/ /a+/", id="nothing else may follow"),
        pytest.param("grammar", 'start: "a" start', id="without end"),
    ],
)
def test_what_can_hardly_end_is_followed_step_by_step(
    grammars: Grammars, kind: Any, value: Any
) -> None:
    """The library would look ahead for what must follow, and some of these have no end."""
    answer = write(matcher(grammars, kind, value), 0)
    assert not answer.failed
    assert not answer.finished


def test_what_costs_too_much_ends_in_an_error_and_not_in_an_empty_answer(
    grammars: Grammars,
) -> None:
    properties = {f"p{i}": {"type": "string"} for i in range(3000)}
    written = matcher(grammars, "json_schema", {**PERSON, "properties": properties, "required": []})
    assert write(written, 1).failed
    assert written.failure is not None
    assert "max is 2000" in written.failure.message
    assert not written.is_over


@pytest.mark.parametrize(
    "expression", [r"(x+x+)+y", r"(.*a){30}", r"[ab]*a[ab]{200}", "a|" * 5000 + "b"], ids=range(4)
)
def test_what_is_slow_elsewhere_is_not_here(grammars: Grammars, expression: str) -> None:
    assert not write(matcher(grammars, "regex", expression), 1, most=60).failed


def test_rolled_back_and_cloned_matchers_permit_the_same(grammars: Grammars) -> None:
    for seed in range(10):
        written = matcher(grammars, "json_schema", schema_of(seed))
        for token in write(written.clone(), seed, most=12).tokens[:6]:
            written.accept(token)
        before = permitted(written)
        ahead = write(written.clone(), seed + 1, most=4).tokens
        assert written.permitted(ahead) == len(ahead)
        assert permitted(written) == before
        for token in ahead:
            assert written.accept(token)
        assert written.rollback(len(ahead))
        assert permitted(written) == before == permitted(written.clone())


def test_what_is_guessed_ahead_is_permitted_up_to_the_first_that_is_not(grammars: Grammars) -> None:
    written = matcher(grammars, "regex", "abc")
    assert written.permitted([*encode("a"), *encode("b"), *encode("x")]) == 2


def test_one_compilation_serves_many_answers(grammars: Grammars) -> None:
    constraint = grammars.compile(Format("regex", "ab"))
    assert grammars.compile(Format("regex", "ab")) is constraint
    first, second = constraint.matcher(), constraint.matcher()
    assert first.accept(encode("a")[0])
    assert permitted(second) == permitted(constraint.matcher())


def test_masks_of_a_step_are_filled_together(grammars: Grammars, masks: Masks) -> None:
    rows = [
        None if seed % 3 == 0 else matcher(grammars, "json_schema", schema_of(seed))
        for seed in range(9)
    ]
    expected = np.full((9, words(CONFIG.vocabulary)), -1, np.int32)
    for row, one in enumerate(rows):
        if one is not None:
            one.clone().fill(expected, row)
    masks.fill_later(rows)
    assert np.array_equal(masks.wait(), expected)
    masks.fill_later([None, rows[1]])  # fewer rows, in the same memory
    assert np.array_equal(masks.wait(), expected[[0, 1]])


def test_a_row_that_fails_harms_no_other(grammars: Grammars, masks: Masks) -> None:
    failing, well = matcher(grammars, "regex", "ab"), matcher(grammars, "regex", "ab")
    failing.accept(encode("x")[0])
    masks.fill_later([failing, well])
    masks.wait()
    assert failing.failure is not None
    assert well.failure is None
    assert well.accept(encode("a")[0])


@pytest.mark.parametrize(
    ("text", "end", "told"),
    [
        pytest.param("", 0, "tokenizer.json", id="none"),
        pytest.param("/etc/passwd", 0, "tokenizer.json", id="path"),
        pytest.param("{}", 0, "by this model", id="empty"),
        pytest.param(tokenizer_json(), (), "end", id="no end"),
        pytest.param(tokenizer_json(), 5000, "5000", id="end out of range"),
    ],
)
def test_models_whose_tokens_are_not_known_keep_to_no_format(
    text: str, end: int | tuple[int, ...], told: str
) -> None:
    with pytest.raises(InvalidInput, match=told):
        Grammars(text, CONFIG.vocabulary, end).compile(Format("json_object"))


def test_tokens_without_a_text_are_not_permitted() -> None:
    """Vocabularies are often padded beyond the tokenizer's own."""
    padded = Grammars(tokenizer_json(), CONFIG.vocabulary + 40, ENDS)
    masks = np.zeros((1, words(CONFIG.vocabulary + 40)), np.int32)
    padded.compile(Format("regex", ".*")).matcher().fill(masks, 0)
    bits = np.unpackbits(masks.view(np.uint8), bitorder="little")
    assert bits[: CONFIG.vocabulary].any()
    assert not bits[CONFIG.vocabulary :].any()


def _whole(written: Matcher, text: str) -> bool:
    return all(written.accept(token) for token in encode(text)) and written.may_end
