"""The entry of a worker's process."""

from __future__ import annotations

import sys

from aiaas_server.observe.logging import start_logging
from aiaas_server.workers.member import Member
from aiaas_server.workers.supervisor import Post


def work(post: Post) -> None:
    """Be one worker until told to stop; ends the process."""
    from aiaas_server.serve import Seat, run_process

    settings = post.settings
    log = start_logging(settings.log_level, as_json=settings.json_logs)
    member = Member(post.parent, post.files, post.index + 1)
    seat = Seat(post.index, settings.workers, post.again)
    try:
        code = run_process(settings, post.listener, post.metrics, seat=seat, member=member)
    finally:
        log.stop()
    sys.exit(code)
