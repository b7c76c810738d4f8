"""Digests: what a file or a value is, by its whole content.

A file of many gigabytes is read once: its digest is kept in the user's cache folder under
its device, inode, size and the times of its last change in nanoseconds. The time of the
last change of the inode (ctime) cannot be set back, so a file that was changed and given
its old modification time is read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from safety_neurons.errors import UserError
from safety_neurons.storage.files import write_text

SETTLED = 2.0
"""Seconds after its last change from which on a file's digest is kept.

Clocks of file systems tick in milliseconds to seconds, so a younger file could change once
more without another time."""

Signature = tuple[int, int, int, int, int]
"""Device, inode, size, mtime_ns, ctime_ns."""


def cache_folder() -> Path:
    """Where what can be made again is kept: $SAFETY_NEURONS_CACHE or the user's cache folder."""
    chosen = os.environ.get("SAFETY_NEURONS_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "safety-neurons"


def digest(*parts: Any) -> str:
    """A name for content: first digits of the sha256 of `parts` as JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


def signature_of(file: Path) -> Signature:
    """What changes whenever the file does (links are followed)."""
    stat = file.stat()
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def sha256_of(file: Path) -> str:
    """The sha256 of the whole file, from the cache where it was read before.

    Returns:
        64 hexadecimal digits.

    Raises:
        UserError: if the file changes while it is read.
    """
    signature = signature_of(file)
    kept = cache_folder() / "digests" / digest(*signature)
    known = _known(kept)
    if known:
        return known
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if signature_of(file) != signature:
        raise UserError(f"'{file}' was changed while it was read; wait until it is whole.")
    if time.time() - signature[-1] / 1e9 > SETTLED:
        # A cache that cannot be written costs time and nothing else.
        with contextlib.suppress(OSError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_text(kept, found)
    return found


def _known(kept: Path) -> str | None:
    try:
        text = kept.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None
    return text if re.fullmatch("[0-9a-f]{64}", text) else None


def digests_of(files: Iterable[Path]) -> list[str]:
    """The sha256 of each file, several read at once."""
    with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 8)) as readers:
        return list(readers.map(sha256_of, files))
