"""What else decides a result: versions of packages and Python, the project's commit."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import Any

_PACKAGES = ("safety-neurons", "torch", "transformers", "peft", "numpy", "pyarrow")


def environment() -> dict[str, Any]:
    """For the manifest: when, with which packages and commit, and on what machine."""
    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "packages": versions(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "commit": commit(),
    }


@cache
def versions() -> dict[str, str]:
    """The installed versions of the packages that decide results."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@cache
def commit() -> str | None:
    """The git commit of this package's source tree, None for an installed wheel."""
    here = Path(__file__).parent
    if not (here.parent.parent / ".git").exists():
        return None
    with contextlib.suppress(OSError):
        done = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True
        )
        return done.stdout.strip() or None
    return None
