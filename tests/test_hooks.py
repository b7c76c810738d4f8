"""Hooks count what they did, run in order, and leave nothing behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from safety_neurons.engine.hooks import HookPoint, HookSet
from safety_neurons.errors import InterventionError


@pytest.fixture
def layer() -> nn.Linear:
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = torch.eye(2)
    return layer


ONES = torch.ones(1, 2)


def hooks_on(module: nn.Module) -> int:
    return len(module._forward_hooks) + len(module._forward_pre_hooks)


def test_input_and_output_edits_act(layer):
    points = [
        HookPoint("in", layer, "input", lambda x: x + 2),
        HookPoint("out", layer, "output", lambda x, y: 10 * x + y),
    ]
    with HookSet(points) as hooks, torch.no_grad():
        # The output edit sees the input as it was edited: 10 · 3 + 3.
        assert layer(ONES).tolist() == [[33, 33]]
    hooks.check(passes=1)


@pytest.mark.parametrize("order", [(2, 3), (3, 2)])
def test_hooks_on_one_module_run_in_the_order_given(layer, order):
    edits = {2: lambda x: x * 2, 3: lambda x: x + 3}
    points = [HookPoint(str(name), layer, "input", edits[name]) for name in order]
    with HookSet(points), torch.no_grad():
        found = layer(ONES)[0, 0].item()
    assert found == {(2, 3): 5, (3, 2): 8}[order]


def test_edits_never_change_the_callers_tensor(layer):
    x = ONES.clone()
    with HookSet([HookPoint("in", layer, "input", lambda x: x + 1)]), torch.no_grad():
        layer(x)
    assert torch.equal(x, ONES)


def test_none_leaves_everything_as_it_is(layer):
    points = [
        HookPoint("in", layer, "input", lambda x: None),
        HookPoint("out", layer, "output", lambda x, y: None),
    ]
    with HookSet(points) as hooks, torch.no_grad():
        assert torch.equal(layer(ONES), ONES)
    hooks.check(passes=1)


@pytest.mark.parametrize("at", ["input", "output"])
def test_a_hook_that_does_not_run_is_an_error(layer, at):
    idle = nn.Linear(2, 2)
    points = [
        HookPoint("busy", layer, at, lambda *_: None),
        HookPoint("idle", idle, at, lambda *_: None),
    ]
    with HookSet(points) as hooks:
        layer(ONES)
    with pytest.raises(InterventionError, match=r"1 of 2 hooks .* idle \(0 calls\)") as caught:
        hooks.check(passes=1)
    assert "busy" not in str(caught.value)


@pytest.mark.parametrize(("runs", "planned"), [(2, 1), (1, 2), (3, 2)])
def test_running_too_often_or_too_seldom_is_an_error(layer, runs, planned):
    with HookSet([HookPoint("in", layer, "input", lambda x: None)]) as hooks:
        for _ in range(runs):
            layer(ONES)
        hooks_ran = rf"in \({runs} calls\)"
        with pytest.raises(InterventionError, match=hooks_ran):
            hooks.check(passes=planned)


def test_an_edit_that_fails_is_not_caught(layer):
    def fail(x):
        raise ZeroDivisionError("inside")

    with (
        pytest.raises(ZeroDivisionError, match="inside"),
        HookSet([HookPoint("in", layer, "input", fail)]),
    ):
        layer(ONES)
    assert hooks_on(layer) == 0


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_hooks_are_removed_whatever_happens(layer, error):
    points = [
        HookPoint("in", layer, "input", lambda x: x * 0),
        HookPoint("out", layer, "output", lambda x, y: y * 0),
    ]

    def work():
        with HookSet(points):
            assert hooks_on(layer) == 2
            raise error

    with pytest.raises(error):
        work()
    assert hooks_on(layer) == 0
    assert torch.equal(layer(ONES), ONES)


def test_the_rest_of_the_arguments_is_passed_on():
    class Scaled(nn.Module):
        def forward(self, x, by):
            return x * by

    module = Scaled()
    with HookSet([HookPoint("in", module, "input", lambda x: x + 1)]):
        assert module(ONES, 5).tolist() == [[10, 10]]
