from __future__ import annotations

import threading
from typing import Any

import pytest

from aiaas_server.core.errors import InvalidInput, LoadFailed
from aiaas_server.generate.chat_template import ChatTemplate
from tests.tiny_llm import TEMPLATE

NAME = "chat_template.jinja"
HELLO = [{"role": "user", "content": "Hi"}]
LOOP = "{% for a in range(99999) %}"
END = "{% endfor %}"
DOUBLED = (
    "{% set ns = namespace(x=START) %}{% for i in range(60) %}{% set ns.x = STEP %}{% endfor %}"
)


def template(source: str, **variables: Any) -> ChatTemplate:
    return ChatTemplate(source, NAME, variables)


def doubled(start: str, step: str, use: str = "") -> str:
    return DOUBLED.replace("START", start).replace("STEP", step) + use


def test_a_conversation_is_written_up_to_where_the_answer_begins() -> None:
    written = template(TEMPLATE).render(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "<b> & é 你"}]
    )
    assert written == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<b> & é 你<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("source", "written"),
    [
        pytest.param("{{ bos_token }}{{ missing }}|{{ none is none }}", "<s>|True", id="variables"),
        pytest.param("{% if true %}\n  a\n{% endif %}\nb", "  a\nb", id="white space"),
        pytest.param("{{ {'é': '<'} | tojson }}", '{"é": "<"}', id="tojson"),
        pytest.param("{{ [1] | tojson(indent=2) }}", "[\n  1\n]", id="tojson indented"),
        pytest.param(
            "{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}",
            "1",
            id="break",
        ),
        pytest.param("a{% generation %}b{% endgeneration %}c", "abc", id="generation"),
        pytest.param("{{ messages[0].content ~ messages[0]['role'] }}", "Hiuser", id="members"),
        pytest.param("{{ 'a</t>b '.split('</t>')[-1].strip().upper() }}", "B", id="methods"),
        pytest.param("{{ messages[::-1][0].content }}", "Hi", id="slices"),
        pytest.param(
            "{% set ns = namespace(n=0) %}{% for i in range(3) %}{% set ns.n = ns.n + i %}"
            "{% endfor %}{{ ns.n }}",
            "3",
            id="namespace",
        ),
        pytest.param(
            "{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{{ loop.last }}{% endfor %}",
            "a1True",
            id="items",
        ),
        pytest.param(
            "{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(1) + m(2) }}", "<1><2>", id="macro"
        ),
        pytest.param(
            "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') "
            "| join(',') }}",
            "Hi",
            id="filters",
        ),
        pytest.param("{{ ['a', 'b'] | join('-') }}{{ '-'.join(['c', 'd']) }}", "a-bc-d", id="join"),
        pytest.param(
            "{{ 'aXa' | replace('a', 'b') }}{{ 'aa'.replace('a', 'c') }}", "bXbcc", id="replace"
        ),
        pytest.param("{{ [1, 2] | sum }}{{ 'ab' | list | length }}", "32", id="sum"),
        pytest.param("{{ 'a\nb' | indent(2) }}", "a\n  b", id="indent"),
        pytest.param("{{ strftime_now('%d%%') | length }}", "3", id="date"),
        pytest.param("{{ (7 * 6) ~ (2 ** 3) ~ (7 % 4) ~ ('ab' * 2) }}", "4283abab", id="sums"),
        pytest.param("{{ dict(a=1).a }}{{ (1, 2)[1] }}{{ 'x' in ['x'] }}", "12True", id="literals"),
        pytest.param("{{ tools is none }}{{ documents is none }}", "TrueTrue", id="no tools"),
    ],
)
def test_templates_have_what_transformers_gives_them(source: str, written: str) -> None:
    assert template(source, bos_token="<s>").render(HELLO) == written


def test_tools_and_options_are_variables() -> None:
    made = template("{% for t in tools or [] %}{{ t.function.name }}{% endfor %}{{ thinking }}")
    assert made.knows_tools
    tool = {"type": "function", "function": {"name": "f"}}
    assert made.render(HELLO, [tool], {"thinking": False}) == "fFalse"
    assert not template(TEMPLATE).knows_tools


def test_a_template_that_sets_its_tools_itself_knows_them() -> None:
    assert template(
        "{% if custom_tools is defined %}{% set tools = custom_tools %}{% endif %}"
        "{% if tools is not none %}{{ tools }}{% endif %}"
    ).knows_tools


def test_options_take_nobodys_place() -> None:
    made = template("{{ messages[0].content }}{{ bos_token }}", bos_token="<s>")
    assert made.render(HELLO, (), {"messages": [], "bos_token": "x"}) == "Hi<s>"


def test_what_a_template_refuses_is_told_to_whoever_asks() -> None:
    made = template(
        "{% if messages[0].role == 'system' %}{{ raise_exception('No system!') }}{% endif %}"
    )
    with pytest.raises(InvalidInput, match="refuses them: No system!"):
        made.render([{"role": "system", "content": "x"}])


def test_what_a_template_cannot_write_is_told_as_well() -> None:
    made = template("{{ messages[0].content.strip() }}")
    with pytest.raises(InvalidInput, match="cannot write them: .*no attribute 'strip'"):
        made.render([{"role": "user", "content": None}])


HOSTILE = {
    "loops": LOOP + LOOP + END + END,
    "loops that leave out": LOOP + LOOP.replace(" %}", " if false %}") + END + END,
    "a loop within filters": LOOP + "{{ range(99999) | map('string') | list | length }}" + END,
    "filters": "{% set r = range(99999) %}"
    + LOOP
    + "{{ r | map('string') | list | length }}"
    + END,
    "names taken": "{% set turn = 1 %}{% set environment = 1 %}" + LOOP + LOOP + END + END,
    "range": "{% for a in range(10 ** 9) %}{% endfor %}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "branching": "{% macro m(n) %}{% if n %}"
    + "{{ m(n - 1) }}" * 2
    + "{% endif %}{% endmacro %}{{ m(40) }}",
    "callers": "{% macro m() %}"
    + "{{ caller() }}" * 2
    + "{% endmacro %}"
    + "{% call m() %}" * 19
    + "{% endcall %}" * 19,
    "power": "{{ 10 ** (10 ** 10) }}",
    "squares": doubled("7", "ns.x * ns.x"),
    "long text": "{{ 'a' * 10 ** 10 }}",
    "long list": "{{ [1] * 10 ** 10 }}",
    "doubled text": doubled("'abc'", "ns.x ~ ns.x"),
    "added text": doubled("'abc'", "ns.x + ns.x"),
    "doubled list": doubled("[]", "[ns.x, ns.x]", "{{ ns.x }}"),
    "compared lists": doubled("[]", "(ns.x, ns.x)", "{{ ns.x == ns.x }}"),
    "doubled dict": doubled("1", "dict(a=ns.x, b=ns.x)", "{{ ns.x | tojson }}"),
    "replaced": "{{ ('a' * 99999).replace('', 'b' * 99999) }}",
    "replaced by a filter": "{{ ('a' * 99999) | replace('a', 'b' * 99999) }}",
    "joined": "{{ ('b' * 99999).join(range(99999) | map('string')) }}",
    "joined by a filter": "{{ range(99999) | join('b' * 99999) }}",
    "split": "{{ ('a ' * 9999999).split(' ') | length }}",
    "padded": "{{ 'a'.ljust(10 ** 9) }}",
    "centred": "{{ 'a' | center(10 ** 9) }}",
    "formatted": "{{ '%1000000000d' % 1 }}",
    "formatted by a method": "{{ '{:1000000000}'.format(1) }}",
    "indented": "{{ [1] | tojson(indent=10 ** 9) }}",
    "indented text": "{{ 'a' | indent(10 ** 9, true) }}",
    "list of characters": "{{ ('a' * 9999999) | list | length }}",
    "sum of lists": "{{ [[1]] | sum(start=[]) }}",
    "attributes joined": "{{ [''] | join(attribute='__class__') }}",
    "rounded": "{{ 5 | round(-10 ** 9) }}",
    "padded date": "{{ strftime_now('%1000000000Y') }}",
    "text in a block": "{% set x %}" + LOOP + "y" * 9999 + END + "{% endset %}",
    "values in a block": "{% set b = 'a' * 999999 %}{% set x %}"
    + LOOP
    + "{{ b }}"
    + END
    + "{% endset %}",
    "class": "{{ ''.__class__ }}",
    "class by name": "{{ ''['__class__'] }}",
    "class by a filter": "{{ '' | attr('__class__') }}",
    "class of many": "{{ [''] | map(attribute='__class__') | list }}",
    "subclasses": "{{ ().__class__.__base__.__subclasses__() }}",
    "globals": "{{ raise_exception.__globals__ }}",
    "context": "{{ self._TemplateReference__context }}",
    "append": "{% set x = [] %}{{ x.append(1) }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}",
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_template_that_could_do_harm_is_not_loaded(source: str) -> None:
    with pytest.raises(LoadFailed, match=NAME) as caught:
        template(source)
    assert len(caught.value.message) < 400


def test_a_template_that_loops_for_some_conversations_only_is_stopped_then() -> None:
    made = template(
        "{% if messages | length > 1 %}{% for a in range(99999) %}{% for b in range(99999) %}"
        "{% endfor %}{% endfor %}{% endif %}ok"
    )
    assert made.render(HELLO) == "ok"
    with pytest.raises(InvalidInput, match="loops for too long"):
        made.render(HELLO * 2)
    assert made.render(HELLO) == "ok"


@pytest.mark.parametrize(
    "source",
    [
        "{% for %}",
        "{{ 1 | nobody }}",
        "{{ " + "(" * 2000 + "1" + ")" * 2000 + " }}",
        "{% for a in [1] %}" * 60 + "{% endfor %}" * 60,
        "x" * (2 << 20),
    ],
    ids=["syntax", "filter", "deep", "nested", "long"],
)
def test_what_is_no_template_is_not_loaded(source: str) -> None:
    with pytest.raises(LoadFailed, match=NAME):
        template(source)


def test_a_long_conversation_costs_little_of_the_budget() -> None:
    many = [{"role": "user", "content": "word " * 100}] * 2000
    assert len(template(TEMPLATE).render(many)) > 1_000_000


def test_threads_have_a_budget_each() -> None:
    made = template(TEMPLATE)
    many = [{"role": "user", "content": "word " * 100}] * 500
    written: list[str] = []
    threads = [threading.Thread(target=lambda: written.append(made.render(many))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(written) == 6
    assert len(set(written)) == 1
