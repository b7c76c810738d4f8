"""Interventions on disk: what is done as JSON, at which units and to what as safetensors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from safety_neurons.errors import UserError, reading
from safety_neurons.interventions.base import Intervention
from safety_neurons.interventions.transplanting import Transplanted
from safety_neurons.registry import INTERVENTIONS
from safety_neurons.storage import write_json, write_whole
from safety_neurons.units import Block, BlockKey, SiteKind, UnitSet, UnitSpace, UnitValues

RECORD, TENSORS = "interventions.json", "interventions.safetensors"
FORMAT = "safety-neurons/interventions/1"
_REMEDY = "save the interventions again"


def save_interventions(interventions: Sequence[Intervention], folder: str | Path) -> Path:
    """Write interventions, in the order in which they act, into a folder.

    Each must be registered under the name that it describes itself by, and be made of its units
    and of numbers, texts and values of units.

    Returns:
        The folder.

    Raises:
        UserError: for one that is not.
    """
    tensors: dict[str, Tensor] = {}
    rows = [_row(each, place, tensors) for place, each in enumerate(interventions)]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / TENSORS, lambda draft: save_file(tensors, draft))
    write_json(folder / RECORD, {"format": FORMAT, "interventions": rows})
    return folder


def load_interventions(folder: str | Path) -> tuple[Intervention, ...]:
    """Read what `save_interventions` wrote.

    Returns:
        Interventions equal to those written, with the same keys.

    Raises:
        UserError: if there is nothing, or it is damaged, or names an intervention that is not
            registered here.
    """
    folder = Path(folder)
    if not (folder / RECORD).is_file():
        raise UserError(f"'{folder}' holds no interventions (it has no {RECORD}); check the path.")
    with reading(folder / RECORD, remedy=_REMEDY):
        record = _record((folder / RECORD).read_text(encoding="utf-8"))
    with reading(folder / TENSORS, remedy=_REMEDY), safe_open(folder / TENSORS, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    with reading(folder / RECORD, remedy=_REMEDY):
        return tuple(_made(row, i, tensors) for i, row in enumerate(record["interventions"]))


def _record(text: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(text)
    if record["format"] != FORMAT:
        raise ValueError(f"its format is {record['format']!r}, and {FORMAT!r} is known")
    return record


def _row(intervention: Intervention, place: int, tensors: dict[str, Tensor]) -> dict[str, Any]:
    name = str(intervention.describe()["intervention"])
    units = intervention.units
    tensors[f"{place}.units"] = units.flat.clone()  # safetensors holds no tensor twice
    arguments: dict[str, Any] = {}
    for field in fields(intervention):  # type: ignore[arg-type]
        held = getattr(intervention, field.name)
        if isinstance(held, UnitValues):
            tensors[f"{place}.{field.name}"] = held.values[units.flat].contiguous()
            arguments[field.name] = {"values": held.name}
        elif isinstance(held, Transplanted):
            named = {f"{place}.{field.name}.{n}": t.contiguous() for n, t in held.tensors.items()}
            tensors.update(named)
            arguments[field.name] = {"weights": len(named)}
        elif held is None or isinstance(held, bool | int | float | str):
            arguments[field.name] = held
        elif field.name != "units":
            raise UserError(
                f"The intervention '{name}' has a {type(held).__name__} in '{field.name}', which "
                "cannot be written; make it of units, numbers, texts and values of units."
            )
    if name not in INTERVENTIONS.names():
        raise UserError(
            f"The intervention '{name}' is not registered, so nobody could read it again; register "
            "it in safety_neurons.registry.INTERVENTIONS."
        )
    blocks = [[b.key.layer, str(b.key.site), b.width] for b in units.space.blocks]
    return {"intervention": name, "key": intervention.key, "arguments": arguments, "blocks": blocks}


def _made(row: dict[str, Any], place: int, tensors: dict[str, Tensor]) -> Intervention:
    blocks = (Block(BlockKey(int(n), SiteKind(site)), int(w)) for n, site, w in row["blocks"])
    units = UnitSet.of(tensors[f"{place}.units"], UnitSpace(tuple(blocks)))
    arguments = {
        name: _held(held, units, f"{place}.{name}", tensors) if isinstance(held, dict) else held
        for name, held in row["arguments"].items()
    }
    made = INTERVENTIONS.get(row["intervention"])(units=units, **arguments)
    if made.key != row["key"]:
        raise ValueError(f"intervention {place} is not the one that was written")
    return made


def _held(
    held: dict[str, Any], units: UnitSet, name: str, tensors: dict[str, Tensor]
) -> UnitValues | Transplanted:
    if "values" in held:
        return UnitValues.at(units, tensors[name], held["values"])
    inside = {n.removeprefix(f"{name}."): t for n, t in tensors.items() if n.startswith(f"{name}.")}
    if len(inside) != held["weights"]:
        raise ValueError(f"{len(inside)} tensors stand where {held['weights']} were written")
    return Transplanted.of_tensors(inside, units)
