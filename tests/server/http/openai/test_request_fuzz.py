"""Whatever JSON comes: a call is read, or refused in words; nothing else is raised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiaas_server.core.errors import InvalidInput
from aiaas_server.http.errors import HttpError
from aiaas_server.http.members import Members
from aiaas_server.http.oip.generate_text import KNOWN, read_text_call
from aiaas_server.http.openai.chat_request import read_chat_call
from aiaas_server.http.openai.completion_request import read_completion_call
from aiaas_server.http.openai.responses_request import read_response_call
from tests.server.http.scripted_generator import ScriptedGenerator


def words(text: str) -> st.SearchStrategy[str]:
    return st.sampled_from(sorted(set(text.split())))


WORDS = words("""
    user assistant tool system text function auto required none f message function_call hi 5
    function_call_output input_text json_object json_schema disabled
""")
NAMES = words("""
    type role content text name arguments function parameters tool_calls tool_call_id call_id
    output id schema json_schema format include_usage 7
""")
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=5)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
MEMBERS = words("""
    model messages prompt input instructions n logprobs top_logprobs stream_options store echo
    response_format tools tool_choice parallel_tool_calls max_completion_tokens max_output_tokens
    suffix best_of text include truncation audio modalities prediction functions id parameters
    chat_template_kwargs
""") | st.sampled_from(KNOWN)
READERS: dict[str, Callable[[Any, Any], Any]] = {
    "chat": lambda document, generator: read_chat_call(Members(document), generator),
    "completions": lambda document, generator: read_completion_call(
        Members(document), generator, 100
    ),
    "responses": lambda document, generator: read_response_call(Members(document), generator),
    "generate": read_text_call,
}
USUAL: dict[str, Any] = {
    "chat": {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    "completions": {"model": "m", "prompt": "hi"},
    "responses": {"model": "m", "input": "hi"},
    "generate": {"text_input": "hi"},
}


@pytest.mark.parametrize("kind", READERS)
@given(members=st.dictionaries(MEMBERS, JSON, max_size=4))
@settings(max_examples=150, deadline=None)
def test_any_members(kind: str, members: dict[str, Any]) -> None:
    try:
        call = READERS[kind](USUAL[kind] | members, ScriptedGenerator())
    except (InvalidInput, HttpError) as refused:
        told = refused.message
        assert told.isprintable(), told
        return
    ask = call.ask
    assert ask.max_tokens is None or 1 <= ask.max_tokens <= ScriptedGenerator.context
    assert 0 <= ask.sampling.temperature <= 2
    assert 0 < ask.sampling.top_p <= 1
    assert all(isinstance(text, str) and text for text in ask.stop)
