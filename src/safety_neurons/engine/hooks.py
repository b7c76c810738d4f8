"""Forward hooks: the only place of the package that registers any.

A hook that did not act is an error, never a number: every hook counts its calls, and
`HookSet.check` compares the counts with what the caller planned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from safety_neurons.errors import InterventionError

InputEdit = Callable[[Tensor], Tensor | None]
OutputEdit = Callable[[Tensor, Tensor], Tensor | None]


@dataclass
class HookPoint:
    """One edit at one module. An edit returns a new tensor, or None to leave it as it is."""

    name: str
    module: nn.Module
    at: Literal["input", "output"]
    edit: InputEdit | OutputEdit
    calls: int = field(default=0, init=False)

    def register(self) -> torch.utils.hooks.RemovableHandle:
        if self.at == "input":
            return self.module.register_forward_pre_hook(self._on_input)
        return self.module.register_forward_hook(self._on_output)

    def _on_input(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        edited = self.edit(args[0])  # type: ignore[call-arg]
        self.calls += 1
        return None if edited is None else (edited, *args[1:])

    def _on_output(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        edited = self.edit(args[0], output)  # type: ignore[call-arg]
        self.calls += 1
        return edited


class HookSet:
    """Hooks that live as long as a `with` block; removed whatever happens inside it.

    Hooks on one module run in the order in which their points were given.
    """

    def __init__(self, points: Sequence[HookPoint]) -> None:
        self.points = list(points)
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> HookSet:
        for point in self.points:
            self._handles.append(point.register())
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def check(self, passes: int) -> None:
        """Demand that every hook ran exactly once in each of `passes` forward passes.

        Raises:
            InterventionError: naming the modules whose hooks did not.
        """
        wrong = [f"{p.name} ({p.calls} calls)" for p in self.points if p.calls != passes]
        if wrong:
            raise InterventionError(
                f"{len(wrong)} of {len(self.points)} hooks did not run once in each of "
                f"{passes} forward passes: {', '.join(wrong[:5])}."
            )


class ModuleTap:
    """What some modules read and gave, as they last ran while the tap's hooks were set.

    Args (of the state):
        read, given: tensors by module.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.read: dict[nn.Module, Tensor] = {}
        self.given: dict[nn.Module, Tensor] = {}
        self.hooks = HookSet([point for module in modules for point in self._points(module)])

    def _points(self, module: nn.Module) -> list[HookPoint]:
        def entering(x: Tensor) -> None:
            self.read[module] = x

        def leaving(_: Tensor, y: Tensor) -> None:
            self.given[module] = y

        name = type(module).__name__
        return [
            HookPoint(name, module, "input", entering),
            HookPoint(name, module, "output", leaving),
        ]
