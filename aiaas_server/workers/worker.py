"""The entry of a worker's process."""

from __future__ import annotations

import multiprocessing

from aiaas_server.observe.logging import start_logging
from aiaas_server.process import WorkerInfo, exit_with, ignore_user_signals, run_process
from aiaas_server.workers.member import Member
from aiaas_server.workers.supervisor import WorkerArguments


def work(arguments: WorkerArguments) -> None:
    """Be one worker until told to stop; ends the process."""
    settings = arguments.settings
    log = start_logging(settings.log_level, as_json=settings.json_logs)
    ignore_user_signals()
    parent = multiprocessing.parent_process()
    assert parent is not None  # the supervisor
    member = Member(arguments.parent, arguments.files, arguments.index + 1, parent)
    worker = WorkerInfo(arguments.index, settings.workers, arguments.replaces)
    try:
        code = run_process(
            settings, arguments.listener, arguments.metrics, worker=worker, membership=member
        )
    finally:
        log.stop()
    exit_with(code)
