"""`DIR/audit.head`: the latest signed head, where who can change the database cannot."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any, Final

from aiaas_server.state.durable import sync_directory
from aiaas_server.tenancy.audit_chain import Head, canonical

HEAD_FILE: Final = "audit.head"


def write_head(path: Path, head: Head) -> None:
    """Keep a head, whole or not at all; one that is further on stays.

    Raises:
        OSError: It cannot be written.
    """
    known = read_head(path)
    if isinstance(known, Head) and known.seq > head.seq:
        return
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with partial.open("w", encoding="ascii") as file:
            file.write(canonical(head._asdict()) + "\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_directory(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def read_head(path: Path) -> Head | str:
    """The head that is kept, or why there is none, in words."""
    try:
        found: Any = json.loads(path.read_bytes())
        head = Head(**found)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except (ValueError, TypeError):
        return "holds no head"
    kinds = (int, str, str, float, str)
    good = all(isinstance(value, kind) for value, kind in zip(head, kinds, strict=True))
    return head if good and len(head.hash) == 64 else "holds no head"
