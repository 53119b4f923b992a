"""`python -m aiaas_server.job_process DIR PARENT`: carry out the order that lies in a directory."""

from __future__ import annotations

import sys

from aiaas_server.job_process.worker import main

if __name__ == "__main__":  # the workers of a training load it under another name
    main(sys.argv[1], int(sys.argv[2]))
