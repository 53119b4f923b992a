"""Two tenants share one server: `python examples/tenants.py`.

Both deploy a model of the same name and have their own. One runs into its limit, then keeps to it.
What they used becomes rows, a statement, and the end of a budget; the record of it is checked.
"""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from serving import serve
from zoo import digits

from aiaas_client import BudgetExceededError, Client, RateLimitError

CALLS = 60  # three times what the plan lets through at once
LIMITS = {"requests_per_second": 20, "burst": 20, "monthly_spend": 100}
STEPS = {"acme": 60, "globex": 300}  # of training
TRAIN, TEST = digits.load()


def main() -> None:
    """Do it all; ends with the exit code of the server."""
    with TemporaryDirectory() as place:
        data = Path(place) / "data"
        init = [sys.executable, "-m", "aiaas_server", "keys", "init", "--data", str(data)]
        key = subprocess.run(init, check=True, capture_output=True, text=True).stdout.strip()
        with (
            serve(None, "--tenants", data=data) as server,
            Client(server.url, api_key=key) as operator,
        ):
            keys = share(operator)
            deploy(server.url, keys)
            answered = meet_the_limit(server.url, keys["acme"])
            account(operator, answered + len(keys))
            operator.plans.update("small", limits={"monthly_spend": 1})
            spend_it_all(server.url, keys["acme"])
            audit(operator)
            code = server.stop()
    print(f"server stopped with exit code {code}")
    raise SystemExit(code)


def share(operator: Client) -> dict[str, str]:
    """Two tenants, each with its first key; and what their rows cost, from the month's first."""
    operator.plans.create("small", limits=LIMITS)
    first = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    operator.prices.add("rows", "25", currency="EUR", per=1000, free=10, valid_from=first)
    keys = {}
    for name, plan in (("acme", "small"), ("globex", "basic")):
        operator.tenants.create(name, plan=plan)
        keys[name] = operator.keys.create("first", scopes=["admin"], tenant=name).secret
    return keys


def deploy(url: str, keys: dict[str, str]) -> None:
    """Each brings a model that it calls "digits", and finds its own under that name."""
    for name, key in keys.items():
        model = digits.to_onnx(digits.train(TRAIN, steps=STEPS[name]))
        with Client(url, api_key=key) as client:
            client.models.deploy("digits", model, alias="production")
            read = client.model("digits").infer(image=TEST.images)["logits"].argmax(axis=1)
            print(f"{name}'s digits: {(read == TEST.labels).mean():.0%} read right")


def meet_the_limit(url: str, key: str) -> int:
    """One that does not heed its limit is refused; by default the client keeps to it."""
    answered = 0
    for pace in (False, True):
        refused, began = [], time.perf_counter()
        with Client(url, api_key=key, pace=pace, max_retries=2 if pace else 0) as client:
            model = client.model("digits")
            for _ in range(CALLS):
                try:
                    model.infer(image=TEST.images[:1])
                    answered += 1
                except RateLimitError as error:
                    refused.append(error)
        told = f"{time.perf_counter() - began:.1f} s, {len(refused)} refused"
        print(f"pace={pace}: {CALLS} calls in {told}", *refused[:1], sep="\n  ")
    return answered


def account(operator: Client, answered: int) -> None:
    """What both used, counted once each, as soon as it is written down; and what it costs."""
    while (used := operator.usage.get("tenant", tenant="*")).total.get("requests") != answered:
        time.sleep(0.2)
    for row in used.rows:
        if row.unit in ("requests", "rows", "compute_us"):
            print(f"used by {row.tenant:8}{row.amount:8,} {row.unit}")
    print(str(operator.usage.statement(tenant="acme")), "\n")


def spend_it_all(url: str, key: str) -> None:
    """With less to spend than is spent already, calls are refused within seconds."""
    with Client(url, api_key=key) as client:
        model = client.model("digits")
        try:
            while True:
                model.infer(image=TEST.images[:1])
        except BudgetExceededError as error:
            print(f"refused: {error}")


def audit(operator: Client) -> None:
    """Whether the record of what was done is whole, and what is in it."""
    found = operator.audit.verify()
    assert found.intact, found.findings
    last = operator.audit.list(result="done", limit=1)[0]
    print(f"audit: {found.entries} entries, intact; the last act: {last.act} {last.object}")


if __name__ == "__main__":
    main()
