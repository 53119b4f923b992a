"""Starting: what is printed, what is refused, in words a person can act on."""

from __future__ import annotations

import json
import socket
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest

from aiaas_server.zoo.entries import ENTRIES
from tests.ports import free_port
from tests.task_bundles import write_repository


@pytest.fixture
def models(make_repository: Any, onnx_models: SimpleNamespace) -> Path:
    """A repository with one good and one broken model."""
    repository: Path = make_repository({"tiny": onnx_models.identity(), "broken": b"no model"})
    return repository


def test_the_start_lines_tell_address_models_failures_and_how_to_call(
    start_aiaas: Any, models: Path
) -> None:
    server = start_aiaas("--models", models, "--metrics-port", "0")
    text = "\n".join(server.lines)
    assert f"serving on http://127.0.0.1:{server.port}  (1 model ready" in text
    assert "  ready    tiny  1" in server.lines
    assert any(line.startswith("  failed   broken: ") for line in server.lines)
    assert f'Client("http://127.0.0.1:{server.port}").model("tiny").infer(x=...)' in text
    assert "  metrics" not in text
    assert json.loads(server.get("/v2/models/tiny")[1])["name"] == "tiny"


def test_the_call_that_is_told_is_one_that_the_model_takes(
    start_aiaas: Any, tmp_path: Path, onnx_models: SimpleNamespace
) -> None:
    server = start_aiaas("--models", write_repository(tmp_path, onnx_models))
    assert next(line for line in server.lines if "  ready" in line).startswith("  ready    best")
    client = f'Client("http://127.0.0.1:{server.port}")'
    server.line(f'  call     {client}.model("digits").predict(...)', 1)


@pytest.mark.parametrize(
    ("options", "then"),
    [
        pytest.param((), ", then start again", id="once"),
        pytest.param(("--watch", "--workers", "2"), "", id="watch", marks=pytest.mark.slow),
    ],
)
def test_a_server_without_models_says_where_it_looked_and_how_to_get_one(
    start_aiaas: Any, tmp_path: Path, options: tuple[str, ...], then: str
) -> None:
    server = start_aiaas("--models", tmp_path, *options)
    server.line(f"(no models in {tmp_path}, ", 1)
    where = "put NAME.onnx or NAME/1/model.onnx there, or run: "
    assert "digits-cnn" in ENTRIES
    assert f"  models   {where}aiaas pull digits-cnn --models {tmp_path}{then}" in server.lines


def test_a_server_without_models_in_its_registry_says_how_to_deploy_one(
    start_aiaas: Any, tmp_path: Path
) -> None:
    server = start_aiaas("--data", tmp_path)
    server.line(f"(no models in {tmp_path}, ", 1)
    url = f"http://127.0.0.1:{server.port}"
    assert f"  models   run: aiaas deploy MODEL.onnx --name NAME --url {url}" in server.lines


def test_json_logs_are_json_lines_with_access_records_and_no_secrets(
    start_aiaas: Any, models: Path, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("aias_secretsecret\n")
    key.chmod(0o600)
    server = start_aiaas(
        "--models", models, "--json-logs", "--access-log", "--api-key-file", key, until=""
    )
    connection = server.http()
    headers = {"Authorization": "Bearer aias_secretsecret", "X-Request-Id": "my-id"}
    connection.request("GET", "/v2/models/tiny?Bearer=aias_secretsecret", headers=headers)
    assert connection.getresponse().read()
    connection.close()
    record = json.loads(server.line("/v2/models/tiny"))
    assert record["method"] == "GET"
    assert record["path"] == "/v2/models/tiny"
    assert record["status"] == 200
    assert record["request_id"] == "my-id"
    assert record["sent"] > 0
    assert record["duration"] > 0
    server.signal()
    assert server.exit_code() == 0
    server.line("", 1)
    for line in server.lines:
        json.loads(line)
    assert "secretsecret" not in "\n".join(server.lines)


def test_the_metrics_port_answers_metrics_alone(start_aiaas: Any, models: Path) -> None:
    port = free_port()
    server = start_aiaas("--models", models, "--metrics-port", str(port))
    server.line(f"metrics  http://127.0.0.1:{port}/metrics", 1)
    server.port = port
    assert server.get("/metrics")[0] == 200
    assert server.get("/v2")[0] == 404


def test_the_metrics_port_wants_the_key_as_the_main_one_does(
    start_aiaas: Any, models: Path, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("secret-key")
    key.chmod(0o600)
    port = free_port()
    options = ["--models", models, "--metrics-port", str(port), "--api-key-file", key]
    server = start_aiaas(*options)
    server.port = port
    assert server.get("/metrics")[0] == 401
    connection = server.http()
    connection.request("GET", "/metrics", headers={"X-API-Key": "secret-key"})
    answer = connection.getresponse()
    assert (answer.status, b"aiaas_errors_total" in answer.read()) == (200, True)
    connection.close()


def test_a_busy_default_metrics_port_is_a_warning_and_a_chosen_one_an_error(
    start_aiaas: Any, run_aiaas: Any, models: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        found = run_aiaas("serve", "--models", str(models), "--port", "0", "--metrics-port", port)
    assert found.returncode == 1
    assert f"port {port} of 127.0.0.1 is in use" in found.stderr
    assert "--metrics-port" in found.stderr


def test_a_unix_socket_serves_and_is_this_users_alone(
    start_aiaas: Any, models: Path, tmp_path: Path
) -> None:
    path = tmp_path / "aiaas.sock"
    server = start_aiaas("--models", models, "--uds", path)
    server.line(f"serving on unix:{path}", 1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(path))
        sock.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")
    server.signal()
    assert server.exit_code() == 0
    assert not path.exists()


def test_a_stale_unix_socket_is_replaced_and_a_file_is_not(
    start_aiaas: Any, run_aiaas: Any, models: Path, tmp_path: Path
) -> None:
    stale, file = tmp_path / "stale.sock", tmp_path / "file"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(stale))
    file.write_text("mine")
    assert start_aiaas("--models", models, "--uds", stale).lines
    found = run_aiaas("serve", "--models", str(models), "--uds", str(file))
    assert found.returncode == 1
    assert "exists and is not a socket" in found.stderr
    assert file.read_text() == "mine"


def one_line(found: subprocess.CompletedProcess[str]) -> str:
    """The message of a command that failed in one line."""
    assert found.returncode in (1, 2)
    assert "Traceback" not in found.stderr
    lines = found.stderr.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param(
            ["--models", "/nowhere"],
            ["--models", "no such file", "aiaas pull digits-cnn --models /nowhere"],
            id="no-directory",
        ),
        pytest.param(["--port", "99999"], ["--port", "65535"], id="port-out-of-range"),
        pytest.param(["--workers", "0"], ["--workers", "greater than 0"], id="no-workers"),
        pytest.param(["--certfile", "/x"], ["certfile and keyfile go together"], id="half-of-tls"),
        pytest.param(
            ["--certfile", "/x", "--keyfile", "/y"], ["/x: no such file"], id="no-certificate"
        ),
        pytest.param(["--api-key-file", "/x"], ["--api-key-file", "No such file"], id="no-key"),
        pytest.param(["--log-level", "loud"], ["--log-level", "'debug'"], id="log-level"),
        pytest.param(
            ["--host", "0.0.0.0"], ["0.0.0.0", "--api-key-file", "--certfile", "--insecure"],
            id="open-to-all",
        ),
        pytest.param(["--host", "no-such-host.invalid"], ["no-such-host.invalid"], id="no-host"),
        pytest.param(
            ["--host", "no-such-host.invalid", "--insecure"], ["no-such-host.invalid"],
            id="no-host-insecure",
        ),
        pytest.param(["--host", "192.0.2.1", "--insecure"], ["192.0.2.1"], id="not-ours"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_one_line(
    run_aiaas: Any, models: Path, options: list[str], words: list[str]
) -> None:
    given = ["--metrics-port", "0", *options]
    if "--models" not in options:
        given += ["--models", str(models)]
    message = one_line(run_aiaas("serve", *given))
    assert message.startswith("aiaas: ")
    for word in words:
        assert word in message


def test_a_busy_port_is_told_in_one_line(run_aiaas: Any, models: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        found = run_aiaas("serve", "--models", str(models), "--port", port, "--metrics-port", "0")
    assert f"port {port} of 127.0.0.1 is in use" in one_line(found)


def test_an_address_open_to_others_needs_the_flag_that_says_so(
    start_aiaas: Any, models: Path
) -> None:
    server = start_aiaas("--models", models, "--host", "0.0.0.0", "--insecure")
    server.host = "127.0.0.1"
    assert server.get("/v2/health/live")[0] == 200


def test_a_key_file_others_may_read_is_refused(
    run_aiaas: Any, models: Path, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("secret-key")
    key.chmod(0o644)
    message = one_line(run_aiaas("serve", "--models", str(models), "--api-key-file", str(key)))
    assert f"chmod 600 {key}" in message
    assert "secret-key" not in message


def test_a_key_file_of_a_group_is_read_and_that_is_told(
    start_aiaas: Any, models: Path, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("secret-key")
    key.chmod(0o640)
    server = start_aiaas("--models", models, "--api-key-file", key, until="group may use it")
    assert server.get("/v2")[0] == 401
    assert "secret-key" not in "\n".join(server.lines)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_key_file_with_a_byte_order_mark_holds_the_key_alone(
    start_aiaas: Any, models: Path, tmp_path: Path, encoding: str
) -> None:
    key = tmp_path / "key"
    key.write_text("secret-key\r\n", encoding)
    key.chmod(0o600)
    server = start_aiaas("--models", models, "--api-key-file", key)
    connection = server.http()
    connection.request("GET", "/v2", headers={"Authorization": "Bearer secret-key"})
    assert connection.getresponse().status == 200
    connection.close()


@pytest.mark.parametrize("content", ["schlüssel".encode(), b"\xff\xff", b"\xef\xbb\xbf"])
def test_a_key_file_that_holds_no_key_is_refused(
    run_aiaas: Any, models: Path, tmp_path: Path, content: bytes
) -> None:
    key = tmp_path / "key"
    key.write_bytes(content)
    key.chmod(0o600)
    message = one_line(run_aiaas("serve", "--models", str(models), "--api-key-file", str(key)))
    assert message.startswith(f"aiaas: --api-key-file {key}: expected ")


def test_a_misspelt_variable_is_named_at_the_start(start_aiaas: Any, models: Path) -> None:
    server = start_aiaas("--models", models, "--json-logs", until="", max_body_byte="1")
    told = json.loads(server.line("AIAAS_SERVER_MAX_BODY_BYTE "))
    assert told["level"] == "warning"
    assert "did you mean AIAAS_SERVER_MAX_BODY_BYTES?" in told["message"]


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="CUDA is here"
)
@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_a_provider_that_is_missing_refuses_the_start(
    run_aiaas: Any, models: Path, workers: str
) -> None:
    options = ["--models", str(models), "--provider", "cuda", "--workers", workers]
    found = run_aiaas("serve", *options)
    assert found.returncode == 1
    assert one_line(found).startswith("aiaas: --provider: execution provider 'cuda' is not avail")


def test_a_wrong_setting_is_told_by_the_name_it_was_given_by(run_aiaas: Any, models: Path) -> None:
    options = ["serve", "--models", str(models)]
    message = one_line(run_aiaas(*options, "--memory-budget", "8G"))
    assert message.startswith("aiaas: --memory-budget: expected bytes, such as 8GB")
    message = one_line(run_aiaas(*options, AIAAS_SERVER_MEMORY_BUDGET_BYTES="lots"))
    assert message.startswith("aiaas: AIAAS_SERVER_MEMORY_BUDGET_BYTES: expected bytes")
    message = one_line(run_aiaas(*options, "--proxy", "10.0.0.0/8", "--proxy", "there"))
    assert message.startswith("aiaas: --proxy: expected an address or a network")


def test_sizes_with_units_and_repeated_options_are_taken(start_aiaas: Any, models: Path) -> None:
    options = ["--memory-budget", "8GB", "--load-model", "tiny", "--load-model", "tiny"]
    options += ["--max-body-bytes", "1KiB", "--proxy", "10.0.0.0/8", "--default-model", "text=tiny"]
    server = start_aiaas("--models", models, *options)
    connection = server.http()
    connection.request("POST", "/v2/models/tiny/infer", b"x" * 1025)
    assert connection.getresponse().status == 413
    connection.close()


WARNING = """
import onnx, onnxruntime
from onnx import TensorProto, helper

import aiaas_server.process as process

tell = process.tell
node = helper.make_node("Identity", ["x"], ["y"])
x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [s]) for n, s in (("x", 1), ("y", 2)))
graph = helper.make_graph([node], "wrong shape", [x], [y])
opset = helper.make_opsetid("", 17)
model = helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()

def warned(lines, **options):
    onnxruntime.InferenceSession(model)  # with its defaults: it warns on standard error
    tell(lines, **options)

process.tell = warned
from aiaas_server.__main__ import main
main()
"""


def test_the_runtimes_own_lines_are_json_too(
    start_aiaas: Any, make_repository: Any, onnx_models: SimpleNamespace
) -> None:
    models = make_repository({"tiny": onnx_models.identity()})
    server = start_aiaas("--models", models, "--json-logs", until="", code=WARNING)
    told = json.loads(server.line("Error merging shape info"))
    assert told["logger"] == "aiaas_server.stderr"
    assert told["level"] == "warning"
    server.signal()
    assert server.exit_code() == 0
    server.to_the_end()
    for line in server.lines:
        json.loads(line)
    assert "\\u001b" not in "".join(server.lines)


def test_every_option_has_help_and_names_its_variable(run_aiaas: Any) -> None:
    found = run_aiaas("serve", "--help")
    text = found.stdout
    assert found.returncode == 0
    for option in ("models", "host", "port", "uds", "workers", "metrics-port", "watch", "certfile"):
        assert f"--{option}" in text
        assert f"AIAAS_SERVER_{option.replace('-', '_').upper()}" in text


def test_settings_come_from_the_environment_and_options_stand_above_them(
    start_aiaas: Any, models: Path
) -> None:
    server = start_aiaas("--log-level", "info", models=str(models), port="1", log_level="loud")
    assert server.get("/v2/health/ready")[0] == 200


def test_version_is_printed(run_aiaas: Any) -> None:
    assert run_aiaas("version").stdout.startswith("0.")


BLOCKED = """
import sys
sys.modules[{module!r}] = None
sys.argv = ["aiaas", *{arguments!r}]
from aiaas_server.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["typer", "starlette", "uvicorn", "onnxruntime", "uvloop"])
def test_a_missing_part_is_told_with_the_command_that_installs_it(
    models: Path, module: str
) -> None:
    code = BLOCKED.format(module=module, arguments=["serve", "--models", str(models)])
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=900
    )
    assert found.returncode == 1
    expected = f'aiaas: {module} is not installed; run: pip install "aiaas-client[server]"'
    assert found.stderr.strip() == expected


@pytest.mark.parametrize(
    ("command", "extra"),
    [("models", "cli"), ("predict", "cli"), ("serve", "server"), ("check", "server")],
)
def test_without_a_command_line_the_smallest_extra_that_has_it_is_told(
    command: str, extra: str
) -> None:
    code = BLOCKED.format(module="typer", arguments=[command])
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=900
    )
    assert found.returncode == 1
    expected = f'aiaas: typer is not installed; run: pip install "aiaas-client[{extra}]"'
    assert found.stderr.strip() == expected


INTERRUPTED = """
import os, signal, sys
from importlib.abc import MetaPathFinder

class Interrupt(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
sys.argv = ["aiaas", "serve", "--models", {models!r}, "--port", "0", "--metrics-port", "0"]
from aiaas_server.__main__ import main
main()
"""


@pytest.mark.parametrize(
    "module", ["aiaas_server.core.pool.memory", "aiaas_server.cli", "numpy", "onnxruntime"]
)
def test_ctrl_c_while_the_parts_are_still_loaded_ends_quietly(models: Path, module: str) -> None:
    code = INTERRUPTED.format(module=module, models=str(models))
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=900
    )
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "")
