"""Run folders: what a command writes, so that it can be opened, resumed and compared.

    manifest.json     how the run was made, and how far each stage has come
    state/            what lets a stopped stage go on; may be deleted once it is complete
    …                 the results of the stages, each written whole or not at all

A stage (find, validate, report) is `running` until its last file stands; its results
from an earlier time are removed when it starts, so nothing half-written looks whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from safety_neurons.errors import UserError

FORMAT = 1
_PACKAGES = ("safety-neurons", "torch", "transformers", "peft", "numpy", "pyarrow")


class RunFolder:
    """A folder with a manifest. `begin` makes or resumes one, `open` reads one."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Raises UserError where there is no run, or one of a later format."""
        path = Path(path)
        file = path / "manifest.json"
        if not file.is_file():
            raise UserError(
                f"'{path}' is no run folder (it has no manifest.json); make one with "
                "`safety-neurons find`."
            )
        try:
            manifest = json.loads(file.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise UserError(
                f"'{file}' is damaged (line {error.lineno}); remove the folder and run again."
            ) from error
        if manifest.get("format", 0) > FORMAT:
            raise UserError(
                f"'{path}' was written by a later version of safety-neurons; update this one."
            )
        return cls(path, manifest)

    @classmethod
    def begin(cls, path: str | Path) -> RunFolder:
        """Open the run at `path`, or make one."""
        path = Path(path)
        if (path / "manifest.json").is_file():
            return cls.open(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(
                f"'{path}' exists and is no run folder; choose another place with --out."
            )
        (path / "state").mkdir(parents=True, exist_ok=True)
        run = cls(path, {"format": FORMAT, "stages": {}, **environment()})
        run._write_manifest()
        return run

    def file(self, name: str) -> Path:
        return self.path / name

    def state(self, name: str) -> Path:
        """A file that only serves resuming."""
        file = self.path / "state" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    def record(self, **facts: Any) -> None:
        """Add facts to the manifest."""
        self.manifest.update(facts)
        self._write_manifest()

    def is_complete(self, stage: str) -> bool:
        return self.manifest["stages"].get(stage, {}).get("status") == "complete"

    def require(self, stage: str) -> None:
        """Raise UserError unless `stage` is complete."""
        if not self.is_complete(stage):
            raise UserError(
                f"'{self.path}' has no complete '{stage}' stage; run `safety-neurons {stage}` on "
                "it (again), it goes on where it was."
            )

    @contextlib.contextmanager
    def stage(
        self, name: str, config: dict[str, Any], results: Iterable[str]
    ) -> Iterator[Callable[[], float]]:
        """A stage from `running` to `complete`, with its options and seconds recorded.

        Args:
            results: files that this stage writes; older ones are removed first.

        Yields:
            A function that tells the seconds that the stage took so far, stops not counted.
        """
        earlier = self.manifest["stages"].get(name, {})
        before = earlier.get("seconds", 0.0) if earlier.get("status") == "running" else 0.0
        entry = {"status": "running", "config": config, "seconds": before}
        self.manifest["stages"][name] = entry
        for result in results:
            self.file(result).unlink(missing_ok=True)
        self._write_manifest()
        started = time.monotonic()

        def elapsed() -> float:
            return round(before + time.monotonic() - started, 2)

        try:
            yield elapsed
            entry["status"] = "complete"
        finally:
            entry["seconds"] = elapsed()
            self._write_manifest()

    def config(self, stage: str) -> dict[str, Any]:
        """The options of a stage, {} if it never ran."""
        return self.manifest["stages"].get(stage, {}).get("config", {})

    def _write_manifest(self) -> None:
        write_json(self.file("manifest.json"), self.manifest)


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file under another name, then move it to `path`."""
    descriptor, name = tempfile.mkstemp(prefix=path.name + ".", dir=path.parent)
    os.close(descriptor)
    draft = Path(name)
    try:
        write(draft)
        draft.chmod(0o644)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    def write(draft: Path) -> None:
        draft.write_text(text, encoding="utf-8")

    write_whole(path, write)


def write_json(path: Path, content: Any) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(path, text)


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(path, text)


class RowLog:
    """Rows of JSON that are added batch by batch; a line torn by a crash is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        if path.is_file():
            whole, _, torn = path.read_bytes().rpartition(b"\n")
            self.rows = [json.loads(line) for line in whole.splitlines()]
            if torn:
                path.write_bytes(whole + b"\n" if whole else b"")

    def extend(self, rows: Iterable[dict[str, Any]]) -> None:
        rows = list(rows)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            stream.flush()
            os.fsync(stream.fileno())
        self.rows += rows


def digest(*parts: Any) -> str:
    """A name for content: first digits of the sha256 of `parts` as JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


def environment() -> dict[str, Any]:
    """What else decides a result: versions of packages and Python, the project's commit."""
    versions = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "packages": versions,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "commit": _commit(),
    }


def _commit() -> str | None:
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
