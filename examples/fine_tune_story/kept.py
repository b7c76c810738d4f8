"""What was measured, in the repository: docs/evidence/fine-tune-story, one file a figure.

Models are rebuilt by command and not kept; figures are, so that the page can be written anew, and
what is measured already is not measured again. Remove a file to measure it again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safety_neurons.runs.audit import AUDIT, AuditCard
from safety_neurons.runs.repair import REPAIR, RepairRecord
from safety_neurons.storage import write_text

KEPT = Path(__file__).parents[2] / "docs/evidence/fine-tune-story"
AUDITS, FAST, TRUTH, REPAIRED = "audits", "fast", "truth", "repaired"
_DROPPED = {
    "samples": [],
    "environment": {},
    "options": {},
    "notes": [],
    "reference": {},
    "candidate": {},
}


def keep(out: Path, kept: Path = KEPT) -> None:
    """Copy every figure that stands in `out`, without answers and paths."""
    for kind in (AUDITS, FAST):
        for file in sorted((out / kind).glob(f"*/{AUDIT}")):
            _write(kept / kind / f"{file.parent.name}.json", _short(file))
    for file in sorted((out / TRUTH).glob("*.json")):
        _write(kept / TRUTH / file.name, json.loads(file.read_text(encoding="utf-8")))
    for file in sorted((out / REPAIRED).glob(f"*/{REPAIR}")):
        found = json.loads(file.read_text(encoding="utf-8"))
        shortened = {name: of for name, of in _DROPPED.items() if name in found}
        shortened |= {"aligned": {}, "candidate": {}, "command": None, "tensors": []}
        _write(kept / REPAIRED / f"{file.parent.name}.json", {**found, **shortened})


def is_kept(kind: str, name: str, kept: Path = KEPT) -> bool:
    """Whether a figure needs not be measured."""
    return (kept / kind / f"{name}.json").is_file()


def audit_of(kind: str, name: str, kept: Path = KEPT) -> AuditCard | None:
    """A whole (`audits`) or fast audit, None where there is none."""
    text = _text(kept / kind / f"{name}.json")
    return None if text is None else AuditCard.parsed(text)


def truth_of(name: str, kept: Path = KEPT) -> dict[str, Any] | None:
    """What a model really refuses, None where it was not measured."""
    text = _text(kept / TRUTH / f"{name}.json")
    return None if text is None else dict(json.loads(text))


def repair_of(name: str, kept: Path = KEPT) -> RepairRecord | None:
    """A repair, None where there was none."""
    text = _text(kept / REPAIRED / f"{name}.json")
    return None if text is None else RepairRecord.parsed(text)


def _text(file: Path) -> str | None:
    return file.read_text(encoding="utf-8") if file.is_file() else None


def _short(file: Path) -> dict[str, Any]:
    found = json.loads(file.read_text(encoding="utf-8"))
    if found["drift"] is not None:
        found["drift"] = {**found["drift"], "by_layer": []}
    return {**found, **_DROPPED, "command": None}


def _write(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n")
