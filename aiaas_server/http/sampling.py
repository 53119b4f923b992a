"""How an answer is to be written, as every route that has a model write reads it."""

from __future__ import annotations

from typing import Any, Final, Literal

from aiaas_server.core.errors import InvalidInput
from aiaas_server.core.generation import Ask, Format, Generator, Sampling
from aiaas_server.http.members import Members, is_number, wrong

MOST_ANSWERS: Final = 128
"""Of one prompt, as OpenAI has it."""
MOST_STOPS: Final = 16
LONGEST_STOP: Final = 1000  # characters
MOST_BIASES: Final = 1024
MOST_LIKELIEST: Final = 20
_SEEDS: Final = 1 << 64
_OWN_FORMATS: Final[tuple[Literal["regex", "grammar"], ...]] = ("regex", "grammar")
# What other servers have besides OpenAI's members, and whose loss would change the answer.
_FORMATS: Final = "here the members are 'response_format', 'regex' and 'grammar'"
_ELSEWHERE: Final = {
    "structured_outputs": (_FORMATS, ()),
    "guided_json": (_FORMATS, ()),
    "guided_regex": (_FORMATS, ()),
    "guided_choice": (_FORMATS, ([],)),
    "guided_grammar": (_FORMATS, ()),
    "stop_token_ids": ("here texts end an answer, by 'stop'", ([],)),
    "bad_words": ("words are not forbidden here; see 'logit_bias'", ([],)),
    "allowed_token_ids": ("tokens are not chosen from a list here; see 'logit_bias'", ()),
    "min_tokens": ("an answer has no least length here; see 'ignore_eos'", (0,)),
    "use_beam_search": ("there is no beam search here", (False,)),
}


def read_sampling(asked: Members, generator: Generator) -> Sampling:
    """How tokens are chosen; what is not said is the model's own default.

    Raises:
        InvalidInput: A value is of another kind or out of its range, or a member is one of other
            servers, which would be lost.
    """
    for name, (reason, neutral) in _ELSEWHERE.items():
        asked.refuse(name, reason, but=neutral)
    own = generator.defaults
    top_k = asked.integer("top_k", -1, generator.vocabulary)
    seed = asked.integer("seed", -(1 << 63), _SEEDS - 1)
    return Sampling(
        temperature=asked.number("temperature", 0, 2, own.temperature),
        top_k=own.top_k if top_k is None else max(top_k, 0),  # -1 is "all" where others come from
        top_p=_top_p(asked, own.top_p),
        min_p=asked.number("min_p", 0, 1, own.min_p),
        repetition_penalty=_repetition(asked, own.repetition_penalty),
        presence_penalty=asked.number("presence_penalty", -2, 2, own.presence_penalty),
        frequency_penalty=asked.number("frequency_penalty", -2, 2, own.frequency_penalty),
        logit_bias=_biases(asked, generator.vocabulary) or own.logit_bias,
        seed=own.seed if seed is None else seed % _SEEDS,
    )


def read_ask(
    asked: Members,
    generator: Generator,
    max_tokens: int | None,
    format: Format | None,
    logprobs: int | None = None,
) -> Ask:
    """What is asked of the model, without a prompt: what all routes say alike, and the rest.

    Raises:
        InvalidInput: A value is of another kind or out of its range.
    """
    return Ask(
        (),
        max_tokens,
        read_sampling(asked, generator),
        read_stops(asked),
        format,
        logprobs,
        ignore_end=asked.boolean("ignore_eos"),
    )


def seed_of(sampling: Sampling, index: int) -> int | None:
    """The seed of one of several answers, so that they differ and come again alike."""
    return None if sampling.seed is None else (sampling.seed + index) % _SEEDS


def read_length(asked: Members, name: str, generator: Generator) -> int | None:
    """Most tokens of an answer; None where that is not said.

    Raises:
        InvalidInput: It is no number from 1 to the model's context.
    """
    value = asked.get(name)
    if value is None:
        return None
    if type(value) is not int or not 1 <= value <= generator.context:
        expected = f"a whole number from 1 to {generator.context}, the model's context"
        raise asked.wrong(name, expected)
    return value


def read_stops(asked: Members, name: str = "stop") -> tuple[str, ...]:
    """Texts that end an answer: one, or a list of them.

    Raises:
        InvalidInput: Anything else, empty ones, or too many.
    """
    value = asked.get(name)
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MOST_STOPS:
        raise asked.wrong(name, f"a text or a list of at most {MOST_STOPS} texts")
    for stop in stops:
        if not isinstance(stop, str) or not 1 <= len(stop) <= LONGEST_STOP:
            expected = f"texts of 1 to {LONGEST_STOP} characters"
            raise wrong(f"{asked.place}{name}", expected, stop)
    return tuple(stops)


def read_own_format(asked: Members) -> Format | None:
    """What the answer must be, by our own members `regex` and `grammar` (Lark's notation)."""
    found: Format | None = None
    for kind in _OWN_FORMATS:
        text = asked.text(kind, "")
        if text and found is not None:
            raise InvalidInput("'regex' and 'grammar' exclude each other")
        if text:
            found = Format(kind, text)
    return found


def read_format(part: Members | None, schema: Members | None) -> Format | None:
    """What the answer must be, by OpenAI's `response_format` or `text.format`.

    Args:
        part: With its `type`.
        schema: Where its `schema` is: inside `json_schema`, or beside the type.
    Raises:
        InvalidInput: An unknown type, or no schema where one is needed.
    """
    if part is None:
        return None
    kind = part.one_of("type", ("text", "json_object", "json_schema"))
    if kind == "text":
        return None
    if kind == "json_object":
        return Format("json_object")
    if schema is None:
        raise part.wrong("json_schema", "an object with a schema")
    value: Any = schema.get("schema")
    if not isinstance(value, dict | bool):
        raise schema.wrong("schema", "a JSON Schema, an object")
    return Format("json_schema", value)


def read_one_format(asked: Members, theirs: Format | None, name: str) -> Format | None:
    """The one format that is asked for: OpenAI's, or one of our own.

    Args:
        theirs: As `read_format` gives it.
        name: Of the member that it stands in.
    Raises:
        InvalidInput: There are two.
    """
    own = read_own_format(asked)
    if theirs is not None and own is not None:
        raise InvalidInput(f"'{name}' and '{own.kind}' exclude each other")
    return theirs or own


def _top_p(asked: Members, default: float) -> float:
    value = asked.number("top_p", 0, 1, default)
    if value == 0:
        raise asked.wrong("top_p", "a number above 0, to 1")
    return value


def _repetition(asked: Members, default: float) -> float:
    value = asked.number("repetition_penalty", 0, 10, default)
    if value == 0:
        raise asked.wrong("repetition_penalty", "a number above 0, to 10")
    return value


def _biases(asked: Members, vocabulary: int) -> dict[int, float]:
    part = asked.part("logit_bias")
    if part is None:
        return {}
    if len(part.document) > MOST_BIASES:
        raise InvalidInput(
            f"'logit_bias': expected at most {MOST_BIASES} tokens, got {len(part.document)}"
        )
    biases = {}
    for token, bias in part.document.items():
        if not (token.isascii() and token.isdecimal() and len(token) < 10):
            raise wrong("logit_bias", "token ids as keys", token)
        if int(token) >= vocabulary:
            raise wrong("logit_bias", f"token ids from 0 to {vocabulary - 1}", token)
        if not is_number(bias) or not -100 <= bias <= 100:
            raise wrong(f"logit_bias.{token}", "a number from -100 to 100", bias)
        biases[int(token)] = float(bias)
    return biases
