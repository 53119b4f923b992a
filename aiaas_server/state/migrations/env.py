"""What Alembic runs for each command: the connection is handed in by `state.migrate`."""

from __future__ import annotations

from alembic import context

from aiaas_server.state.revision import VERSION_TABLE
from aiaas_server.state.tenant_tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=VERSION_TABLE,
    transactional_ddl=True,  # SQLite has it too, where the driver does not interfere
    render_as_batch=True,
)
context.run_migrations()
