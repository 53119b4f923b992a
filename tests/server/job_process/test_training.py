"""Trainings by the real process: scikit-learn's recipes from a table to a bundle that answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiaas_client.protocol.jobs import JobError
from aiaas_server.job_process.served import served
from aiaas_server.jobs.orders import Product, ProgressLine
from aiaas_server.jobs.table import Field, Table
from tests.server.job_process.ordering import carry_out, lines_of, log_of, order_of, outcome_of, table_of
