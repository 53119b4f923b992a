"""What the server is, and what each model takes and gives."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from aiaas_server import __version__
from aiaas_server.core.errors import ModelNotReady
from aiaas_server.core.isolation import quarantine_of
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.core.session import ISOLATION, isolation_of
from aiaas_server.core.signature import TensorSpec
from aiaas_server.http.answers import JsonAnswer
from aiaas_server.http.incoming import context_of
from aiaas_server.http.lookup import addressed, obtain_addressed
from aiaas_server.settings import Settings

EXTENSIONS = (
    "classification",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
)
PLATFORM = "onnxruntime_onnx"


class MetadataRoutes:
    """`GET /v2` and the descriptions below `/v2/models/{m}`."""

    def __init__(self, pool: ModelPool, settings: Settings) -> None:
        self._pool = pool
        switched = ["system_shared_memory"] if settings.shared_memory else []
        self._server = {
            "name": settings.server_id or "aiaas",
            "version": __version__,
            "extensions": [*EXTENSIONS, *switched],
        }

    async def server(self, request: Request) -> Response:
        """Who answers, and which extensions work."""
        return JsonAnswer(self._server)

    async def model(self, request: Request) -> Response:
        """The signature; without a version in the path all ready versions are listed."""
        _, version = addressed(self._pool, request)
        model = await obtain_addressed(self._pool, request)
        versions = self._pool.ready_versions(model.full) if version is None else [model.version]
        answer = JsonAnswer(describe(model, versions))
        answer.headers["etag"] = f'"{blake2b(answer.body, digest_size=12).hexdigest()}"'
        return answer

    async def ready(self, request: Request) -> Response:
        """200 when the version, or the newest ready one, can serve."""
        name, version = addressed(self._pool, request)
        caller = context_of(request).caller
        if not self._pool.is_ready(name, version, caller):
            model = self._pool.resolve(name, version, caller)
            raise ModelNotReady(f"model {model.name!r} version {model.version}: not ready")
        return JsonAnswer({"name": name, "ready": True})

    async def config(self, request: Request) -> Response:
        """The complete configuration."""
        model = await obtain_addressed(self._pool, request)
        return JsonAnswer(model.config.as_json())


def describe(model: LoadedModel, versions: list[int]) -> dict[str, Any]:
    """Write a model's metadata document; shapes include the batch dimension.

    Of one in a process of its own `isolation` tells how it is kept apart, and whether it serves.
    """
    kept: dict[str, Any] = {}
    if isolation_of(model.session) is not None:
        told = (model.session.metadata.get(ISOLATION, "process"), quarantine_of(model))
        kept[ISOLATION] = "; ".join(filter(None, told))
    return kept | {
        "name": model.name,
        "versions": [str(version) for version in versions],
        "platform": PLATFORM,
        "inputs": [_tensor(spec) for spec in model.signature.inputs],
        "outputs": [_tensor(spec) for spec in model.signature.outputs],
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
