"""Files that are written whole or not at all, in places that are tried before the work."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from safety_neurons.errors import UserError, reason_of

RUN_FILES = (
    "manifest.json",
    "neurons.parquet",
    "completions.jsonl",
    "samples.jsonl",
    "summary.json",
    "fragility.json",
    "report.html",
    ".lock",
)
"""What a run folder holds beside comparisons, the manifest first."""


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file under another name, then move it to `path`, or to what that links."""
    path = Path(os.path.realpath(path))
    descriptor, name = tempfile.mkstemp(prefix=path.name + ".", dir=path.parent)
    os.close(descriptor)
    draft = Path(name)
    try:
        write(draft)
        draft.chmod(0o644)
        # Else a loss of power may leave the new name on an empty file.
        with draft.open("rb") as stream:
            os.fsync(stream.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill inside the block, which gets the name `path` when that ends well.

    Nothing of it remains after an exception. Its mode is that of a folder made here.

    Yields:
        Where to write meanwhile, beside `path`.

    Raises:
        UserError: if another command made `path` meanwhile.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=path.name + ".", dir=path.parent))
    try:
        yield draft
        draft.chmod(0o755)
        _move(draft, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _move(draft: Path, out: Path) -> None:
    try:
        draft.rename(out)
    except OSError as error:
        if not out.exists():
            raise
        raise UserError(
            f"Another command made '{out}' meanwhile; choose another --out and run again."
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""

    def write(draft: Path) -> None:
        draft.write_text(text, encoding="utf-8")

    write_whole(path, write)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, whole or not at all."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(path, text)


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write `rows` as JSON, one a line, whole or not at all."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(path, text)


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it; nothing if it is not there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def require_place(path: str | Path, *, folder: bool = False) -> None:
    """Demand that `path` can be written, before the work whose result shall go there.

    Folders that are missing on the way are made to see whether they can be, and removed again.

    Args:
        folder: whether `path` is to be a folder.

    Raises:
        UserError: if it cannot, or is a folder where a file is meant, or the other way round.
    """
    path = Path(path)
    home = path if folder else path.parent
    made: list[Path] = []
    try:
        # Names that no file system takes (too long, a NUL byte) are told here.
        with contextlib.suppress(FileNotFoundError):
            path.lstat()
        if not folder and path.is_dir():
            raise UserError(f"'{path}' is a folder; name a file in it.")
        if not folder and path.exists() and not path.is_file():
            raise UserError(f"'{path}' is no ordinary file, and would be replaced by one.")
        if not folder and path.name in RUN_FILES and (home / RUN_FILES[0]).is_file():
            raise UserError(f"'{path}' is a file of a run, which would be lost; name another.")
        if folder and path.exists() and not path.is_dir():
            raise UserError(f"'{path}' is a file; name a folder.")
        for missing in reversed([p for p in (home, *home.parents) if not p.exists()]):
            missing.mkdir()
            made.append(missing)
        # The draft's name is a little longer than the file's own.
        with tempfile.NamedTemporaryFile(dir=home, prefix="" if folder else f"{path.name}."):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or reason_of(error)
        raise UserError(f"'{path}' cannot be written ({reason}); choose another place.") from error
    finally:
        for folder_made in reversed(made):
            folder_made.rmdir()
