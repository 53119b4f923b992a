"""Tenants on the metrics page: told apart up to a number, exact in their sum."""

from __future__ import annotations

from aiaas_server.core.events import Caller, Identity, InferenceRecord, Units
from aiaas_server.observe.metrics import render
from aiaas_server.observe.tenants import TenantCounts


def record(tenant: str, rows: int = 1, failure: str | None = None) -> InferenceRecord:
    caller = Caller(identity=Identity(tenant))
    own = 100_000_000 * rows
    return InferenceRecord(
        "m",
        1,
        Units(rows),
        4,
        0.0,
        0.4,
        0.5,
        failure,
        caller,
        own_ns=own,  # type: ignore[arg-type]
    )


def test_each_tenant_has_its_own_label_up_to_a_number() -> None:
    counts = TenantCounts(2)
    for tenant in ("acme", "acme", "globex", "initech", "umbrella"):
        counts(record(tenant, rows=2))
    counts(record("acme", failure="BACKEND"))
    page = render([], {}, families=counts.families()).decode()
    for line in (
        'aiaas_tenant_requests_total{tenant="acme",outcome="success"} 2',
        'aiaas_tenant_requests_total{tenant="acme",outcome="failure"} 1',
        'aiaas_tenant_requests_total{tenant="globex",outcome="success"} 1',
        'aiaas_tenant_requests_total{tenant="other",outcome="success"} 2',
        'aiaas_tenant_rows_total{tenant="acme"} 4',
        'aiaas_tenant_compute_seconds_total{tenant="globex"} 0.2',
    ):
        assert line in page
    assert "initech" not in page


def test_a_copy_of_a_request_is_nobodys() -> None:
    counts = TenantCounts(2)
    asked = record("acme")
    counts(asked._replace(caller=asked.caller._replace(shadow=True)))
    assert all(not family.samples for family in counts.families())
