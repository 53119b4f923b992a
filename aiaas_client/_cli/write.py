"""`aiaas generate MODEL PROMPT`, `aiaas transcribe FILE`: text of models that write or hear."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from aiaas_client._cli.chat import (
    MaxTokens,
    Models,
    Seed,
    Stop,
    Temperature,
    TopP,
    given,
    local_of,
    presentable,
    show,
)
from aiaas_client._cli.server import Server, UseError
from aiaas_client._cli.session import (
    WRONG_USE,
    AsJson,
    ModelName,
    client_of,
    ended,
    print_json,
)
from aiaas_client.protocol.texts import decode_text

HEARS = "whisper-tiny-en"  # what `aiaas pull` has for recordings


def generate(
    model: ModelName,
    prompt: Annotated[str, typer.Argument(help="The text to go on with; - for standard input.")],
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    seed: Seed = None,
    stop: Stop = None,
    models: Models = None,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Have a model go on with a text, which appears as it is written.

    Without --url the model in the directory `models` is run here, if it is there; otherwise the
    server on this machine is called.
    """
    options = given(
        max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed, stop=stop
    )
    with client_of(server, local=local_of(model, models, server)) as client:
        text = _piped() if prompt == "-" else prompt
        if as_json:
            found = client.generate(model, text, **options)
            print_json(found.document.model_dump(mode="json", exclude_none=True))
            return
        with client.generate(model, text, stream=True, **options) as stream:
            show(stream.text_stream)


def transcribe(
    file: Annotated[
        Path,
        typer.Argument(help="The recording: WAV, FLAC or Ogg; - for standard input."),
    ],
    model: Annotated[str, typer.Option("--model", help="The model that hears it.")] = HEARS,
    srt: Annotated[bool, typer.Option("--srt", help="Write subtitles in SubRip's form.")] = False,
    vtt: Annotated[bool, typer.Option("--vtt", help="Write subtitles in WebVTT's form.")] = False,
    language: Annotated[
        str | None, typer.Option("--language", help="What is spoken, such as en.")
    ] = None,
    models: Models = None,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Write down what is said in a recording: its text, subtitles, or JSON with times.

    Without --url the model in the directory `models` is run here, if it is there; otherwise the
    server on this machine is called.
    """
    if srt + vtt + as_json > 1:
        raise ended("expected one of --srt, --vtt and --json", WRONG_USE)
    with client_of(server, local=local_of(model, models, server)) as client:
        audio = sys.stdin.buffer.read() if str(file) == "-" else file
        if srt or vtt:
            form = client.transcribe(
                model, audio, format="srt" if srt else "vtt", **given(language=language)
            )
            typer.echo(presentable(form).rstrip("\n"))
            return
        found = client.transcribe(model, audio, **given(language=language))
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        typer.echo(presentable(found.text))


def _piped() -> str:
    try:
        return decode_text(sys.stdin.buffer.read())
    except UnicodeDecodeError:
        raise UseError("standard input: expected text in UTF-8") from None
