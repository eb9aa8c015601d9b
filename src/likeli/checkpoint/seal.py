"""Whether a run names a file because its user fitted it there, or because a stranger wrote that name into it.

A run says which source it was fitted on.  Opening whatever a folder from elsewhere names would let its author choose files to
read and addresses to ask, so the description of the data carries an HMAC-SHA256 (RFC 2104) under a key that stays on this
machine.
"""

from __future__ import annotations

import hmac
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from likeli.checkpoint import strict_json as strict

SEAL, KEY_BYTES = "seal", 32


def sealed(description: Mapping[str, Any]) -> dict[str, Any]:
    """The description of a run's data with its seal; without one where this user can keep no key."""
    key = next(filter(None, (_key(folder, create=True) for folder in _folders())), None)
    return dict(description) if key is None else dict(description) | {SEAL: _digest(key, description)}


def is_sealed(description: Mapping[str, Any]) -> bool:
    """Whether this user's own `fit`, on this machine, wrote the description."""
    mark = description.get(SEAL)
    keys = [_key(folder, create=False) for folder in _folders()]
    return isinstance(mark, str) and any(key and hmac.compare_digest(mark, _digest(key, description)) for key in keys)


def _digest(key: bytes, description: Mapping[str, Any]) -> str:
    named = {k: description[k] for k in sorted(description) if k != SEAL}
    return hmac.new(key, strict.dumps(named, "data", 1 << 30), "sha256").hexdigest()


def _folders() -> Iterator[Path]:
    """Where a key may be kept: the user's state folder, or where there is none, a folder of temporary files of theirs alone."""
    with suppress(RuntimeError):  # no home
        yield Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "likeli"
    yield Path(tempfile.gettempdir()) / f"likeli-{os.getuid()}"


def _key(folder: Path, *, create: bool) -> bytes | None:
    path = folder / "key"
    with suppress(OSError):
        if create and not path.exists():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _publish(secrets.token_bytes(KEY_BYTES), path)
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            facts = os.fstat(fd)
            ours = stat.S_ISREG(facts.st_mode) and facts.st_uid == os.getuid() and not facts.st_mode & 0o077
            content = file.read(KEY_BYTES + 1) if ours else b""
        return content if len(content) == KEY_BYTES else None
    return None


def _publish(content: bytes, path: Path) -> None:
    """Write a file whole or not at all; of two processes the first one's stays."""
    partial = path.with_name(f"key.{os.getpid()}.partial")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    try:
        with suppress(FileExistsError):
            os.link(partial, path)
    finally:
        partial.unlink()
