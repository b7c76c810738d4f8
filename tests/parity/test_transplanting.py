"""Transplants against models whose weights were copied by hand."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from safety_neurons.engine import ALONE, Side
from safety_neurons.errors import UserError
from safety_neurons.inference import Setting, decode
from safety_neurons.interventions import (
    Ablate,
    Patch,
    Scale,
    Transplant,
    intervene,
    load_interventions,
    save_interventions,
)
from safety_neurons.models import LoadedModel
from safety_neurons.units import UnitSet
from tests.parity.test_patching import some_neurons
from tests.tiny import ARCHITECTURES, EOS, LAYERS, PARTS, load, logits_of, prompts, save

TOKENS = [1, 20, 30, 40, 50, 21, 9]
KINDS = ["ia3", "ia3-kv", "lora", None]


def loaded(source) -> LoadedModel:
    return LoadedModel.load(str(source), dtype=torch.float64, device="cpu")


def merged(zoo, architecture: str, kind: str | None, seed: int = 0):
    """A plain model with its adapter merged by PEFT."""
    base = zoo.base(architecture, seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    if kind is not None:
        adapter = str(zoo.adapter(architecture, kind))
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return model.eval().requires_grad_(False)


def other_base(zoo, architecture: str):
    """Another model of the family whose norms are those of the first."""
    folder = zoo.root / f"{architecture}-same-norms"
    if not folder.is_dir():
        model, norms = load(zoo.base(architecture, 1)), load(zoo.base(architecture))
        same = {n: p for n, p in norms.state_dict().items() if "norm" in n or ".ln_" in n}
        model.load_state_dict(same, strict=False)
        save(model, folder)
    return folder


def transplanted_by_hand(recipient, donor, architecture: str, columns, factor: float = 1.0):
    """`recipient` with rows and columns of `donor`, both plain and merged."""
    parts = PARTS[architecture]
    turned = architecture == "gpt2"  # its weights are kept the other way round
    for layer in range(LAYERS):
        chosen = list(columns.get(layer, ()))
        for part in (*parts["into"], parts["down"]):
            name = f"{parts['layer'].format(layer)}.{part}"
            mine, theirs = recipient.get_submodule(name), donor.get_submodule(name)
            out = part == parts["down"]
            if out == turned:
                mine.weight[chosen] = theirs.weight[chosen] * (factor if out else 1)
            else:
                mine.weight[:, chosen] = theirs.weight[:, chosen] * (factor if out else 1)
            if not out and getattr(mine, "bias", None) is not None:
                mine.bias[chosen] = theirs.bias[chosen]
    return recipient


def columns_in(units: UnitSet) -> dict[int, list[int]]:
    return {key.layer: units.in_block(key).tolist() for key in units.space.keys}


@pytest.fixture(params=ARCHITECTURES)
def architecture(request) -> str:
    return request.param


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recipient_kind", [None, "ia3", "lora"])
@torch.no_grad()
def test_a_transplant_is_the_donors_effective_weights(zoo, architecture, kind, recipient_kind):
    """Live with PEFT's layers, in the engine with gated ones, and by hand in merged weights."""
    base = other_base(zoo, architecture)
    donor = loaded(f"{base}+{zoo.adapter(architecture, kind)}" if kind else base)
    recipient = loaded(zoo.source(architecture, recipient_kind))
    units = some_neurons(recipient)
    transplant = Transplant.between(donor.hooked, recipient.hooked, units)

    reference_donor = load(base)
    if kind is not None:
        wrapped = PeftModel.from_pretrained(reference_donor, str(zoo.adapter(architecture, kind)))
        reference_donor = wrapped.merge_and_unload()
    by_hand = transplanted_by_hand(
        merged(zoo, architecture, recipient_kind), reference_donor, architecture, columns_in(units)
    )
    expected = logits_of(by_hand, TOKENS)

    live = load(zoo.base(architecture))
    if recipient_kind is not None:
        adapter = str(zoo.adapter(architecture, recipient_kind))
        live = PeftModel.from_pretrained(live, adapter).eval()
    before = logits_of(live, TOKENS)
    with intervene(live, transplant):
        found = logits_of(live, TOKENS)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(logits_of(live, TOKENS), before, rtol=0, atol=0)
    assert (expected - before).abs().max() > 1e-3

    (answers,) = decode(
        recipient, prompts(), [Setting(interventions=(transplant,))], max_new_tokens=6
    )
    for prompt, answer in zip(prompts(), answers, strict=True):
        tokens = list(prompt)
        while len(tokens) - len(prompt) < 6 and tokens[-1] != EOS:
            tokens.append(int(logits_of(by_hand, tokens)[-1].argmax()))
        assert answer == tokens[len(prompt) :]


@torch.no_grad()
def test_rows_under_transplants_and_others_do_not_mix(zoo, architecture):
    donor, recipient = loaded(other_base(zoo, architecture)), loaded(zoo.base(architecture))
    few, many = some_neurons(recipient), UnitSet.all(recipient.space())
    settings = [
        Setting(),
        Setting(interventions=(Transplant.between(donor.hooked, recipient.hooked, few),)),
        Setting(interventions=(Scale(few, 0.3),)),
        Setting(interventions=(Transplant.between(donor.hooked, recipient.hooked, many),)),
        Setting(
            interventions=(
                Transplant.between(donor.hooked, recipient.hooked, few),
                Scale(few, 0.3),
            )
        ),
    ]
    together = decode(recipient, prompts(), settings, max_new_tokens=6)
    for setting, answers in zip(settings, together, strict=True):
        assert decode(recipient, prompts(), [setting], max_new_tokens=6)[0] == answers
    assert len({str(answers) for answers in together}) > 2


@pytest.mark.parametrize("kind", [None, "ia3", "lora"])
@torch.no_grad()
def test_interventions_behind_and_before_a_transplant(zoo, architecture, kind):
    """A scale behind it scales what was transplanted; one before it is overwritten."""
    donor, recipient = loaded(other_base(zoo, architecture)), loaded(zoo.source(architecture, kind))
    units = some_neurons(recipient)
    transplant = Transplant.between(donor.hooked, recipient.hooked, units)
    live = load(zoo.base(architecture))
    if kind is not None:
        live = PeftModel.from_pretrained(live, str(zoo.adapter(architecture, kind))).eval()
    for steps, factor in (
        ((transplant, Scale(units, 0.5)), 0.5),
        ((Scale(units, 0.5), transplant), 1.0),
        ((transplant, Ablate(units)), 0.0),
        ((transplant, transplant), 1.0),
    ):
        by_hand = transplanted_by_hand(
            merged(zoo, architecture, kind),
            load(other_base(zoo, architecture)),
            architecture,
            columns_in(units),
            factor,
        )
        with intervene(live, *steps):
            found = logits_of(live, TOKENS)
        torch.testing.assert_close(found, logits_of(by_hand, TOKENS), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shared", [True, False])
@torch.no_grad()
def test_in_a_pair_with_a_donor_beside_it(zoo, shared):
    """The aligned side's weights in the unaligned side, beside a patch; in one batch or two."""
    unaligned = zoo.source("llama", None) if shared else str(zoo.copy("llama"))
    pair = zoo.pair(zoo.source("llama", "lora"), unaligned)
    assert pair.shared == shared
    units = some_neurons(pair)
    transplant = Transplant.between(pair.sides[Side.ALIGNED], pair.sides[Side.UNALIGNED], units)
    settings = [
        Setting(Side.UNALIGNED, (transplant,)),
        Setting(Side.UNALIGNED, (Patch(units),)),
        Setting(Side.UNALIGNED),
    ]
    together = decode(pair, prompts(), settings, max_new_tokens=6)
    by_hand = transplanted_by_hand(
        merged(zoo, "llama", None), merged(zoo, "llama", "lora"), "llama", columns_in(units)
    )
    for prompt, answer in zip(prompts(), together[0], strict=True):
        tokens = list(prompt)
        while len(tokens) - len(prompt) < 6 and tokens[-1] != EOS:
            tokens.append(int(logits_of(by_hand, tokens)[-1].argmax()))
        assert answer == tokens[len(prompt) :]
    for setting, answers in zip(settings, together, strict=True):
        assert decode(pair, prompts(), [setting], max_new_tokens=6)[0] == answers


@torch.no_grad()
def test_all_units_of_a_pair_that_differs_in_them_give_the_donor(zoo, architecture):
    donor, recipient = loaded(zoo.other_neurons(architecture)), loaded(zoo.base(architecture))
    every = UnitSet.all(recipient.space())
    transplant = Transplant.between(donor.hooked, recipient.hooked, every)
    live = load(zoo.base(architecture))
    with intervene(live, transplant):
        found = logits_of(live, TOKENS)
    expected = logits_of(load(zoo.other_neurons(architecture)), TOKENS)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_norms_that_differ_are_folded_in_or_refused(zoo, architecture):
    """Each layer's own norm before the MLP has other weights in the donor."""
    recipient = loaded(zoo.base(architecture))
    changed = load(zoo.base(architecture))
    names = {
        "gpt2": "ln_2",
        "gpt_neox": "post_attention_layernorm",
        **dict.fromkeys(("gemma2", "gemma3_text", "gemma3"), "pre_feedforward_layernorm"),
    }
    norm = names.get(architecture, "post_attention_layernorm")
    torch.manual_seed(5)
    for name, parameter in changed.named_parameters():
        if f".{norm}." in name and "vision" not in name:
            parameter += 0.2 * torch.randn_like(parameter)
    folder = save(changed, zoo.root / f"{architecture}-other-norm")
    donor = loaded(folder)
    every = UnitSet.all(recipient.space())
    transplant = Transplant.between(donor.hooked, recipient.hooked, every)
    live = load(zoo.base(architecture))
    with intervene(live, transplant):
        found = logits_of(live, TOKENS)
    # Gemma's norms are computed in float32.
    close = 1e-4 if "gemma" in architecture else 1e-9
    torch.testing.assert_close(found, logits_of(load(folder), TOKENS), rtol=close, atol=close)


@torch.no_grad()
def test_what_weights_cannot_make_up_for_is_refused(zoo):
    recipient = loaded(zoo.base("gemma2"))
    changed = load(zoo.base("gemma2"))
    for name, parameter in changed.named_parameters():
        if "post_feedforward_layernorm" in name:
            parameter += 0.2
    donor = loaded(save(changed, zoo.root / "gemma2-other-post-norm"))
    units = some_neurons(recipient)
    with pytest.raises(UserError, match="norms around the MLP"):
        Transplant.between(donor.hooked, recipient.hooked, units)

    eps = loaded(zoo.base("llama", rms_norm_eps=0.5))
    plain = loaded(zoo.base("llama"))
    with pytest.raises(UserError, match="norms around the MLP"):
        Transplant.between(eps.hooked, plain.hooked, units_of(plain))
    with pytest.raises(UserError, match="change nothing"):
        Transplant.between(plain.hooked, loaded(zoo.copy("llama")).hooked, units_of(plain))
    with pytest.raises(UserError, match="other shapes or activation"):
        Transplant.between(plain.hooked, loaded(zoo.base("gpt2")).hooked, units_of(plain))
    relu = loaded(zoo.base("llama", hidden_act="relu"))
    with pytest.raises(UserError, match="other shapes or activation"):
        Transplant.between(relu.hooked, plain.hooked, units_of(plain))
    shifted = load(zoo.base("llama", 1, mlp_bias=True))
    biased = loaded(save(shifted, zoo.root / "llama-mlp-bias"))
    with pytest.raises(UserError, match="no place for any"):
        Transplant.between(
            biased.hooked, loaded(other_norms_of(zoo, shifted)).hooked, units_of(plain)
        )


def units_of(model: LoadedModel) -> UnitSet:
    return some_neurons(model)


def other_norms_of(zoo, model):
    """The llama with the norms of `model`."""
    plain = load(zoo.base("llama"))
    plain.load_state_dict(
        {n: p for n, p in model.state_dict().items() if "norm" in n}, strict=False
    )
    return save(plain, zoo.root / "llama-with-other-norms")


def test_it_can_be_written_and_read(zoo, tmp_path):
    donor, recipient = loaded(other_base(zoo, "llama")), loaded(zoo.base("llama"))
    units = units_of(recipient)
    transplant = Transplant.between(donor.hooked, recipient.hooked, units)
    folder = save_interventions([transplant, Scale(units, 2.0)], tmp_path / "kept")
    again, scale = load_interventions(folder)
    assert again == transplant
    assert again.key == transplant.key
    assert scale == Scale(units, 2.0)


@torch.no_grad()
def test_export_gives_parameters_by_their_names(zoo, architecture):
    donor, recipient = loaded(other_base(zoo, architecture)), loaded(zoo.base(architecture))
    units = units_of(recipient)
    transplant = Transplant.between(donor.hooked, recipient.hooked, units)
    plain = load(zoo.base(architecture))
    weights = transplant.export(recipient.hooked)
    missing = plain.load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys
    by_hand = transplanted_by_hand(
        load(zoo.base(architecture)),
        load(other_base(zoo, architecture)),
        architecture,
        columns_in(units),
    )
    torch.testing.assert_close(
        logits_of(plain, TOKENS), logits_of(by_hand, TOKENS), rtol=1e-12, atol=1e-12
    )
    wrapped = loaded(zoo.source(architecture, "lora"))
    with pytest.raises(UserError, match="fold it"):
        Transplant.between(donor.hooked, wrapped.hooked, units).export(wrapped.hooked)
    assert ALONE in recipient.members
