"""Every number that the rules of security name is a default here; whoever changes one says so.

What each of them does is held by the tests of its own room.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from aiaas_client.protocol import tenants
from aiaas_server.http import auth
from aiaas_server.registry.verification import structure
from aiaas_server.settings import Settings
from aiaas_server.state import space
from aiaas_server.state.artefacts import sealed
from aiaas_server.tenancy import (
    audit,
    audit_chain,
    audit_report,
    budget,
    identities,
    metering,
)

MIB = 1 << 20
SETTINGS: dict[str, Any] = {
    # 2: what a request may be
    "max_body_bytes": 64 * MIB,
    "max_json_bytes": 16 * MIB,
    "max_control_bytes": MIB,
    "max_upload_bytes": 512 * MIB,
    "max_answer_bytes": 64 * MIB,
    # 6: models of tenants
    "sandbox": "tenants",
    "allow_weak_sandbox": False,
    "sandbox_memory_bytes": 2048 * MIB,
    # 8: overload
    "default_deadline": 30.0,
    "max_deadline": 300.0,
    "drain_timeout": 25.0,
    "queue_size": 100,
    "total_queue_size": 1000,
    "queue_bytes": 256 * MIB,
    # 9: the disk
    "disk_reserve_bytes": 1024 * MIB,
    # off unless the operator says so
    "tenants": False,
    "tenant_metrics": 0,
    "cost_header": False,
    "shared_memory": False,
}


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_a_setting_is_by_default_what_the_rules_say(name: str) -> None:
    assert getattr(Settings(), name) == SETTINGS[name]


def test_the_plan_of_a_new_tenant() -> None:
    basic = tenants.Limits()
    assert (basic.requests_per_second, basic.burst, basic.in_flight) == (50.0, 100, 32)
    assert (basic.weight, basic.monthly_spend, basic.rows_per_second) == (1.0, None, None)
    assert tenants.Tenant(name="acme").plan == tenants.BASIC_PLAN


def test_keys() -> None:
    assert tenants.GRACE_SECONDS == 86_400.0
    assert auth.MAX_FAILURES == 20, "a minute, of one address"
    assert identities.INTERVAL < 5.0, "an end of a key counts everywhere within 5 s"


def test_uploaded_models() -> None:
    assert structure.MAX_NODES == 50_000
    assert structure.MAX_NESTING == 50
    assert structure.MAX_NAME == 512
    assert structure.MAX_METADATA == 64 << 10
    assert structure.MAX_INFLATION == 1.2


def test_usage_and_money() -> None:
    assert 2 * metering.EVERY < 1.0, "no more than the last second is lost"
    assert Decimal("0.8") == budget.WARN_AT


def test_audit() -> None:
    assert audit_chain.HEAD_EVERY == 1000
    assert audit.HEAD_SECONDS == 60.0
    assert audit_report.UNUSED_SECONDS == 90 * 86_400.0


def test_at_rest() -> None:
    assert sealed.FRAME == MIB
    assert space._LEAST_SHARE == 0.05, "of the disk stays free"
