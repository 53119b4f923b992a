"""What the operator has of the zoo's models; a job downloads nothing."""

from __future__ import annotations

from aiaas_server.core.errors import InvalidInput
from aiaas_server.zoo.packages import PackagedFile, content


def packaged(file: PackagedFile, name: str) -> bytes:
    """The bytes of a file of a model of the zoo.

    Args:
        name: What `aiaas pull` calls the model.

    Raises:
        InvalidInput: It was not pulled on this server; the message says how.
    """
    try:
        return content(file)
    except OSError:
        raise InvalidInput(
            f"the recipe builds on the model '{name}', which this server does not have; "
            f"its operator gets it with: aiaas pull {name}"
        ) from None
