"""The life of a model from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from aiaas_client import Models
from aiaas_client._cli.commands import register
from aiaas_client.protocol.management import PRODUCTION, Model, PromoteRequest, RollbackRequest
from aiaas_client.testing import FakeServer

Aiaas = Callable[..., Any]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


def runner(url: str) -> Aiaas:
    app = typer.Typer()
    register(app)

    def run(*arguments: str, **options: Any) -> Any:
        whole = [*arguments, "--url", url]
        return CliRunner().invoke(app, whole, env={"COLUMNS": "200"}, **options)

    return run


@pytest.fixture
def aiaas(server: FakeServer) -> Aiaas:
    return runner(server.url)


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """A model of a directory, deployed thrice by `deployed`."""
    path = tmp_path / "digits.onnx"
    path.write_bytes(b"one")
    return path


@pytest.fixture
def deployed(aiaas: Aiaas, digits: Path) -> Aiaas:
    for content in (b"one", b"two", b"three"):
        digits.write_bytes(content)
        assert aiaas("deploy", str(digits)).exit_code == 0
    return aiaas


def document(done: Any) -> Any:
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def refusal(done: Any, code: int = 2) -> str:
    """The one line that says why a command ended."""
    assert done.exit_code == code, done.output
    assert isinstance(done.exception, SystemExit)
    line: str = done.stderr.strip()
    assert "\n" not in line
    return line


def test_a_model_is_deployed_with_what_belongs_to_it(
    aiaas: Aiaas, digits: Path, tmp_path: Path, server: FakeServer
) -> None:
    (tmp_path / "labels.txt").write_bytes(b"a")
    (tmp_path / "card.json").write_bytes(b'{"task": "tabular"}')
    (tmp_path / "golden.json").write_bytes(b"{}")
    told = document(
        aiaas(
            *("deploy", str(digits), "--name", "m", "--alias", "canary", "--version", "4"),
            *("--asset", str(tmp_path / "labels.txt"), "--card", str(tmp_path / "card.json")),
            *("--golden", str(tmp_path / "golden.json"), "--note", "first"),
            *("--metric", "accuracy=0.9", "--metric", "data=mnist", "--json"),
        )
    )
    assert (told["model"], told["version"], told["aliases"]) == ("m", 4, ["canary"])
    assert told["metrics"] == {"accuracy": 0.9, "data": "mnist"}
    names = {file["name"] for file in told["files"]}
    assert names == {"model.onnx", "model.json", "golden.json", "labels.txt"}
    assert server.registry.file("m", 4, "model.onnx") == b"one"


@pytest.mark.parametrize("place", ["digits.onnx", "digits/model.onnx", "digits"])
def test_a_model_is_named_after_its_file(aiaas: Aiaas, tmp_path: Path, place: str) -> None:
    path = tmp_path / place
    model = path if path.suffix else path / "model.onnx"
    model.parent.mkdir(exist_ok=True)
    model.write_bytes(b"onnx")
    done = aiaas("deploy", str(path))
    assert done.exit_code == 0, done.output
    assert "digits" in done.stdout
    assert "verified" in done.stdout


def test_what_cannot_be_deployed_is_told_in_one_line(
    aiaas: Aiaas, digits: Path, tmp_path: Path, server: FakeServer
) -> None:
    assert "no file or directory" in refusal(aiaas("deploy", str(tmp_path / "no.onnx")))
    (tmp_path / "1").mkdir()
    assert "--name: " in refusal(aiaas("deploy", str(tmp_path / "1")))
    asset = ("--asset", str(digits), "--asset", str(digits))
    assert "given twice" in refusal(aiaas("deploy", str(digits), *asset))
    assert "--metric" in refusal(aiaas("deploy", str(digits), "--metric", "accuracy"))
    server.fail(422, "no operator Foo", code="model_rejected", path="/commit")
    assert "no operator Foo" in refusal(aiaas("deploy", str(digits)), 1)


def test_versions_are_listed_with_who_gets_them(deployed: Aiaas) -> None:
    assert deployed("promote", "digits", "1").exit_code == 0
    told = document(deployed("versions", "digits", "--json"))
    assert [(one["version"], one["share"]) for one in told] == [(3, 0.0), (2, 0.0), (1, 1.0)]
    table = deployed("versions", "digits", "--limit", "1").stdout
    assert "100 %" not in table
    assert "5 B" in table


def test_who_serves_is_changed_and_changed_back(deployed: Aiaas) -> None:
    for version in ("1", "2"):
        done = deployed("promote", "digits", version, "--note", "go")
        assert done.exit_code == 0, done.output
    assert document(deployed("rollback", "digits", "--json"))["serving"]["aliases"] == {
        "production": 1
    }
    assert "serves" in deployed("rollback", "digits", "--steps", "1").stdout
    assert "changes to go back" in refusal(deployed("rollback", "digits", "--steps", "9"), 1)


def test_aliases_are_set_and_taken_away(deployed: Aiaas) -> None:
    told = document(deployed("promote", "digits", "2", "--alias", "canary", "--json"))
    assert told["serving"]["aliases"] == {"canary": 2}
    assert "canary" not in deployed("unalias", "digits", "canary").stdout
    assert "no alias 'canary'" in refusal(deployed("unalias", "digits", "canary"), 1)


def test_a_guarded_promotion_takes_its_options(deployed: Aiaas) -> None:
    options = ("--max-error-rate", "0.02", "--max-p99-ratio", "1.5", "--window", "60")
    options += ("--steps", "0.1,1", "--min-requests", "10", "--min-accuracy", "0.9")
    told = document(deployed("promote", "digits", "2", *options, "--json"))
    guard = told["serving"]["rollout"]["guard"]
    assert (guard["max_error_rate"], guard["steps"], guard["window"]) == (0.02, [0.1, 1.0], 60.0)
    assert "step 1 of 3" in deployed("promote", "digits", "2", "--guard").stdout
    assert "--steps: " in refusal(deployed("promote", "digits", "2", "--steps", "a"))


def test_a_rollout_is_told_and_may_replace_another(deployed: Aiaas) -> None:
    deployed("promote", "digits", "1")
    assert (
        "follow it with: aiaas follow digits"
        in deployed("promote", "digits", "2", "--guard").stderr
    )
    again = deployed("promote", "digits", "3", "--guard")
    assert "the rollout of version 2 (step 1 of 3) ended with this" in again.stderr


@pytest.mark.parametrize("is_good", [True, False])
def test_a_rollout_is_followed_to_its_end(
    deployed: Aiaas, server: FakeServer, is_good: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed("promote", "digits", "1")
    waited = Models.wait_rollout

    def ending(models: Models, name: str, timeout: float, *, progress: Any) -> Model:
        def look(model: Model) -> None:
            progress(model)
            if model.serving.rollout is None:
                return
            if is_good:
                server.registry.promote("digits", PRODUCTION, PromoteRequest(version=2))
            else:
                server.registry.rollback("digits", RollbackRequest(note="too slow"))

        return waited(models, name, 60.0, progress=look)

    monkeypatch.setattr(Models, "wait_rollout", ending)
    told = deployed("promote", "digits", "2", "--guard", "--wait")
    assert told.exit_code == (0 if is_good else 1), told.output
    assert "version 2: step 1 of 3, 5 % of the plain calls" in told.stderr
    assert ("version 2 is in production" in told.stderr) is is_good
    assert ("version 2 of model 'digits' went back: too slow" in told.stderr) is not is_good


def test_the_help_tells_what_a_guard_does_by_default(aiaas: Aiaas) -> None:
    told = " ".join(aiaas("promote", "--help").stdout.replace("\u2502", " ").split())
    for text in ("by default 0.01", "by default 300", "default 0.05,0.25,1", "by default 50"):
        assert text in told


def test_a_deployment_says_what_it_changed(aiaas: Aiaas, digits: Path) -> None:
    first = aiaas("deploy", str(digits), "--alias", "canary").stderr
    assert "plain calls get version 1, as the latest" in first
    assert "to keep this one: aiaas promote digits 1" in first
    assert "already there" not in first
    assert "digits: already there as version 1" in aiaas("deploy", str(digits)).stderr
    assert document(aiaas("deploy", str(digits), "--json"))["created_now"] is False
    assert "version 1 already" in refusal(aiaas("deploy", str(digits), "--version", "7"), 1)
    aiaas("promote", "digits", "1")
    digits.write_bytes(b"two")
    second = aiaas("deploy", str(digits), "--alias", "canary").stderr
    assert "plain calls get version 1\n" in second
    assert "next: aiaas promote digits 2" in second


def test_a_model_and_a_version_are_told_and_rules_are_set(deployed: Aiaas) -> None:
    assert "all versions" in deployed("about", "digits").stdout
    told = document(deployed("set", "digits", "--keep-last", "5", "--no-drift", "--json"))
    assert (told["policy"]["keep_last"], told["policy"]["drift"]) == (5, False)
    shown = deployed("set", "digits", "--description", "of hands").stdout
    assert "of hands" in shown
    assert "the last 5" in shown
    told = document(deployed("set", "digits", "--keep-all", "--no-feedback", "--json"))
    assert told["policy"]["keep_last"] is None
    assert (told["policy"]["drift"], told["policy"]["feedback"]) == (False, False)
    assert document(deployed("set", "digits", "--public", "--json"))["policy"]["public"] is True
    assert "for all tenants" in deployed("about", "digits").stdout
    assert "--keep-last 5" in deployed("set", "digits").stderr
    assert "not both" in deployed("set", "digits", "--keep-all", "--keep-last", "1").stderr
    version = document(deployed("about", "digits", "--version", "2", "--json"))
    lines = deployed("about", "digits", "--version", "2").stdout
    assert version["digest"] in lines
    assert "file model.onnx" in lines


def test_traffic_is_split_and_joined(deployed: Aiaas) -> None:
    table = deployed("split", "digits", "2=0.95", "3=0.05").stdout
    assert "95 %" in table
    assert "5 %" in table
    told = document(deployed("split", "digits", "1=1", "--no-sticky", "--json"))
    assert (told["serving"]["split"], told["serving"]["sticky"]) == ({"1": 1.0}, False)
    assert document(deployed("split", "digits", "--off", "--json"))["serving"]["split"] == {}


@pytest.mark.parametrize(
    ("shares", "told"),
    [
        (["2"], "expected version=share"),
        (["2=a"], "expected a number, got 'a'"),
        (["2=0.5"], "add up to 1"),
        (["2=0.5", "2=0.5"], "named twice"),
        (["9=1"], "no version 9"),
    ],
)
def test_shares_that_are_none_are_refused(deployed: Aiaas, shares: list[str], told: str) -> None:
    code = 1 if "9=1" in shares else 2
    assert told in refusal(deployed("split", "digits", *shares), code)


def test_a_split_and_a_shadow_are_either_set_or_ended(deployed: Aiaas) -> None:
    for wrong in (
        ("split", "digits"),
        ("split", "digits", "2=1", "--off"),
        ("shadow", "digits"),
        ("shadow", "digits", "2", "--off"),
    ):
        assert deployed(*wrong).exit_code == 2


def test_copies_go_to_a_shadow(deployed: Aiaas) -> None:
    table = deployed("shadow", "digits", "2", "--share", "0.5").stdout
    assert "shadow" in table
    assert "50 %" in table
    told = document(deployed("shadow", "digits", "--off", "--json"))
    assert told["serving"]["shadow"] is None


def test_versions_are_pinned(deployed: Aiaas) -> None:
    assert "pinned" in deployed("pin", "digits", "1").stdout
    assert document(deployed("unpin", "digits", "1", "--json"))["serving"]["pins"] == []


def test_the_history_tells_what_changed(deployed: Aiaas) -> None:
    deployed("promote", "digits", "2", "--note", "better")
    table = deployed("history", "digits").stdout
    assert "production none -> 2" in table
    assert "better" in table
    kinds = [one["kind"] for one in document(deployed("history", "digits", "--json"))]
    assert kinds == ["promoted", "deployed", "deployed", "deployed"]
    assert len(document(deployed("history", "digits", "--limit", "2", "--json"))) == 2


def test_versions_are_compared(deployed: Aiaas) -> None:
    assert "files.model.onnx" in deployed("diff", "digits", "1", "latest").stdout
    assert document(deployed("diff", "digits", "1", "3", "--json"))["same_bytes"] is False
    assert "are the same" in deployed("diff", "digits", "1", "1").stderr


def test_erasing_asks_first(deployed: Aiaas, server: FakeServer) -> None:
    done = deployed("delete", "digits", "--version", "2", input="n\n")
    assert done.exit_code == 1
    assert "nothing was erased" in done.stderr
    done = deployed("delete", "digits", "--version", "2", input="y\n")
    assert "nothing of it is left" in done.stderr
    assert server.registry.versions("digits")[1].state == "erased"


def test_what_serves_is_erased_by_force_only(deployed: Aiaas) -> None:
    deployed("promote", "digits", "1")
    one = ("delete", "digits", "--version", "1", "--yes")
    assert "serves" in refusal(deployed(*one), 1)
    proof = document(deployed(*one, "--force", "--replacement", "3", "--json"))
    assert (proof["versions"], proof["verified"]) == ([1], True)
    assert document(deployed("delete", "digits", "--yes", "--force", "--json"))["versions"] == [
        2,
        3,
    ]
    assert "not in the registry" in refusal(deployed("versions", "digits"), 1)


def test_a_bundle_goes_out_and_comes_back(
    deployed: Aiaas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "digits version 3 is in 'digits.bundle'" in deployed("export", "digits").stderr
    told = document(deployed("export", "digits", "-o", "d", "--version", "1", "--json"))
    assert (told["directory"], told["version"]) == ("d", 1)
    assert "with other files" in refusal(deployed("export", "digits", "-o", "d"))
    assert deployed("export", "digits", "-o", "d", "--overwrite").exit_code == 0
    back = document(deployed("import", "d", "--name", "copy", "--alias", "canary", "--json"))
    assert (back["model"], back["version"], back["aliases"]) == ("copy", 1, ["canary"])
    assert "verified" in deployed("import", "digits.bundle").stdout
    assert "no bundle.json" in refusal(deployed("import", str(tmp_path)))


def test_models_are_listed_with_who_serves(deployed: Aiaas, server: FakeServer) -> None:
    server.add("plain", lambda x: x)
    deployed("promote", "digits", "1")
    table = deployed("models").stdout
    assert {"latest", "production", "traffic"} <= set(table.split())
    entries = {one["name"]: one for one in document(deployed("models", "--json"))}
    assert (entries["digits"]["latest"], entries["digits"]["production"]) == (3, 1)
    assert "latest" not in entries["plain"]


def test_models_of_a_server_without_a_registry_are_listed_as_ever() -> None:
    with FakeServer({"plain": lambda x: x}, registry=False) as server:
        aiaas = runner(server.url)
        assert "production" not in aiaas("models").stdout
        (entry,) = document(aiaas("models", "--json"))
        assert (entry["name"], entry["state"]) == ("plain", "READY")
        assert "aiaas serve --data DIR" in refusal(aiaas("versions", "plain"), 1)


def test_changes_are_printed_as_they_happen(deployed: Aiaas, server: FakeServer) -> None:
    deployed("promote", "digits", "1")
    body = b""
    for seq, kind in ((1, "deploy"), (2, "promote")):
        told = {"seq": seq, "kind": kind, "object": "digits", "data": {"version": 1}, "at": 1.0}
        body += b"data: %b\n\n" % json.dumps(told).encode()
    error = b'data: {"error": "the end", "code": "internal"}\n\n'
    for flags in ((), ("--json",)):
        server.alter(lambda _: body + error, path="/events")
        done = deployed("follow", "--after", "0", *flags)
        assert "the end" in refusal(done, 1)
        lines = done.stdout.splitlines()
        if flags:
            assert [json.loads(line)["kind"] for line in lines] == ["deploy", "promote"]
        else:
            assert lines[0] == "1970-01-01 00:00:01Z 1 deploy digits version=1"
    server.alter(lambda _: body + error, path="/events")
    assert deployed("follow", "other", "--after", "0").stdout == ""


def test_each_command_says_what_it_does(aiaas: Aiaas) -> None:
    app = typer.Typer()
    register(app)
    for command in app.registered_commands:
        assert command.callback is not None
        assert command.callback.__doc__, command.name
    panels = [command.rich_help_panel for command in app.registered_commands]
    expected = ["Call models", "Registry", "Data sets and jobs", "Tenants"]
    assert [*dict.fromkeys(panels)] == expected


def test_a_server_that_is_not_there_is_told(dead_url: str, digits: Path) -> None:
    aiaas = runner(dead_url)
    for command in (("deploy", str(digits)), ("versions", "m"), ("promote", "m", "1")):
        assert "cannot connect" in refusal(aiaas(*command), 3)
