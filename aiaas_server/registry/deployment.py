"""`Deployment`: everything between a client's bytes and a version, put together for one server."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from aiaas_server.core.errors import ServerError
from aiaas_server.registry.cache import Cache
from aiaas_server.registry.commit import Commits, Kept, Verify
from aiaas_server.registry.damage import OnDamage, mark_damaged, nobody
from aiaas_server.registry.drafts import AdmitDraft, DraftLimits, Drafts
from aiaas_server.registry.erasure import Eraser, Ready
from aiaas_server.registry.sweep import Sweep
from aiaas_server.settings import Settings
from aiaas_server.state.artefacts.artefacts import Artefacts, open_artefacts
from aiaas_server.state.artefacts.parts import Parts
from aiaas_server.state.artefacts.removal import Remover
from aiaas_server.state.artefacts.threads import Threads
from aiaas_server.state.artefacts.vault import Vault
from aiaas_server.state.database import Database
from aiaas_server.state.space import check_room

_DISK_THREADS: Final = 4
_STORE_THREADS: Final = 8


class Deployment:
    """The store, the drafts and what becomes of them.

    Args:
        settings: Limits, and where artefacts lie.
        data: The data directory.
        database: The rows.
        verify: Looks at new versions.
        is_taken: Whether a name is that of a model beside the registry; blocks.
        kept: Is told of a new version, in its transaction.
        ready: Awaited before a version takes the place of one that is erased.
        admit: Asked for each new draft, in its transaction: the quota.
        expect: Told that something is coming which `verify` will be called for.
        artefacts: In place of those that the settings name.
        vault: Encrypts what is kept; None keeps it as it is.
        damaged: Is told of versions that are.

    Attributes:
        artefacts: The bytes.
        cache: Versions as directories.
        drafts: What is being brought.
        commits: Makes versions of it.
        eraser: Takes them away.
        sweep: Cleans up.
        parts: Files that are being received.
        remover: Removes what nobody uses any more.
        disk, remote: Threads for parts, and for the store.
        work: The directory below which bytes may lie as they are, while they are used.
    """

    def __init__(
        self,
        settings: Settings,
        data: Path,
        database: Database,
        verify: Verify,
        *,
        is_taken: Callable[[str], bool],
        kept: Kept | None = None,
        ready: Ready | None = None,
        admit: AdmitDraft | None = None,
        expect: Callable[[], object] = lambda: None,
        artefacts: Artefacts | None = None,
        vault: Vault | None = None,
        damaged: OnDamage = nobody,
    ) -> None:
        self._damaged = damaged
        data.mkdir(parents=True, exist_ok=True)
        self._database = database
        self.disk = Threads("aiaas-disk", _DISK_THREADS)
        self.remote = Threads("aiaas-store", _STORE_THREADS)
        keys = None if vault is None else vault.keys
        self._vault = vault
        self._reserve = settings.disk_reserve_bytes if vault is None else 0
        self.work = data if vault is None else vault.work
        self.artefacts = artefacts or open_artefacts(settings.artefacts_url, data, keys)
        self.cache = Cache(self.work / "cache", self.artefacts, self._note_damage)
        self.parts = parts = Parts(data / "drafts", keys)
        self.remover = remover = Remover(database, self.artefacts, self.remote, data)
        limits = DraftLimits(settings.max_model_file_bytes, settings.disk_reserve_bytes)
        self.drafts = Drafts(
            database,
            self.artefacts,
            parts,
            self.disk,
            self.remote,
            remover,
            limits,
            is_taken=is_taken,
            admit=admit,
            expect=expect,
        )
        self.eraser = Eraser(
            database, self.artefacts, self.cache, self.drafts, remover, self.remote, ready
        )
        self.commits = Commits(
            database, self.drafts, self.cache, verify, self.eraser, self.remote, kept
        )
        self.sweep = Sweep(
            database, self.artefacts, parts, self.drafts, self.cache, remover, self.remote, damaged
        )

    def check_room(self, needed: int = 0) -> None:
        """See that there is room below `work`; of memory nothing has to stay free. Blocks.

        Raises:
            StorageFull: There is not.
        """
        check_room(self.work, needed, reserve=self._reserve)

    async def start(self) -> None:
        """Clean up what was left, and go on doing so."""
        if self._vault is not None:
            await self.remote.run(self._vault.start)
            await self.remote.run(self.parts.drop_plain)
        await self.sweep.start()

    async def close(self) -> None:
        """End what is under way; drafts stay, and go on with the next start."""
        await self.sweep.close()
        await self.commits.close()
        await self.drafts.close()
        self.disk.close()
        self.remote.close()

    def _note_damage(self, tenant: str, digest: str, reason: str) -> None:
        """Called in a thread of the cache's user; a database that is away is told the next time."""
        told = partial(mark_damaged, tenant=tenant, digest=digest, reason=reason)
        try:
            self._damaged(self._database.submit(told, spares_room=True).result())
        except ServerError:
            return
