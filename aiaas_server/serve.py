"""`serve(settings)`: check, bind, run in this process or in several; gives the exit code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from aiaas_server.core.errors import LoadFailed
from aiaas_server.listen import (
    StartError,
    bind_metrics,
    bind_tcp,
    bind_unix,
    check_exposure,
    tls_context,
)
from aiaas_server.observe.logging import start_logging
from aiaas_server.observe.spans import missing_package
from aiaas_server.observe.stderr import divert
from aiaas_server.process import HARD_STOP, ignore_user_signals, run_process
from aiaas_server.runtimes.probe import check_providers
from aiaas_server.settings import Settings
from aiaas_server.started import EXAMPLE
from aiaas_server.workers.supervisor import supervise
from aiaas_server.workers.worker import work

logger = logging.getLogger("aiaas_server")


def serve(settings: Settings, notes: Sequence[str] = ()) -> int:
    """Run the server until it is told to stop.

    Args:
        settings: All settings.
        notes: What the operator should know about them; logged as warnings.
    Returns:
        The exit code: 0 after an orderly stop, 1 when it could not start.
    """
    restore = divert(settings.log_level) if settings.json_logs else None
    log = start_logging(settings.log_level, as_json=settings.json_logs)
    ignore_user_signals()
    try:
        for note in notes:
            logger.warning("%s", note)
        return _serve(settings)
    except StartError as error:
        if settings.json_logs:
            logger.error("%s", error)
        else:
            print(f"aiaas: {error}", file=sys.stderr, flush=True)
        return 1
    finally:
        log.stop()
        if restore is not None:
            restore()


def _serve(settings: Settings) -> int:
    check_exposure(settings)
    settings = _check_data(settings)
    _check_parts(settings)
    listener = (
        bind_unix(settings.uds)
        if settings.uds is not None
        else bind_tcp(settings.host, settings.port)
    )
    try:
        if settings.workers > 1:
            patience = settings.drain_timeout + HARD_STOP + 0.5
            return supervise(settings, listener, work, patience)
        return run_process(settings, listener, bind_metrics(settings))
    finally:
        listener.close()
        if settings.uds is not None:
            settings.uds.unlink(missing_ok=True)


def _check_data(settings: Settings) -> Settings:
    """Make ready what `--data` names, once for all workers.

    Raises:
        StartError: It says why it cannot be used.
    """
    if settings.data is None:
        return settings
    from aiaas_server.state.prepare import DataRefused, prepare  # a database only where wanted

    try:
        ready = prepare(settings)
        from aiaas_server.tenancy.same_secret import check_secret

        check_secret(ready)  # made once for all workers
    except DataRefused as error:
        raise StartError(str(error)) from None
    return ready


def _check_parts(settings: Settings) -> None:
    """Refuse to start without a package, a file or a device that is asked for.

    Raises:
        StartError: It says what is missing.
    """
    if settings.otel and (missing := missing_package()):
        raise StartError(f"otel needs {missing}; run: pip install 'aiaas-client[server,tracing]'")
    if not settings.models.exists():
        hint = f"; a model to begin with: aiaas pull {EXAMPLE} --models {settings.models}"
        raise StartError(f"--models {settings.models}: no such file or directory{hint}")
    tls_context(settings)
    try:
        check_providers(settings.providers)
    except LoadFailed as error:
        raise StartError(f"--provider: {error.message}") from None
