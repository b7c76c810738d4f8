"""Every adapter is shown to act as PEFT's own layers do, or is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from safety_neurons.engine import PairedRows, Side, Tokens, gating
from safety_neurons.errors import UserError
from safety_neurons.models import ModelPair, adapters, proofs
from tests.tiny import PARTS, load, logits_of, random_model, save, tokenizer

WEIGHTS = "adapter_model.safetensors"


def pair_of(base: Path, adapter: Path, dtype: torch.dtype = torch.float64) -> ModelPair:
    return ModelPair.load(f"{base}+{adapter}", str(base), dtype=dtype, device="cpu")


def rewritten(adapter: Path, folder: Path, change) -> Path:
    shutil.copytree(adapter, folder)
    tensors = change(load_file(folder / WEIGHTS))
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    return folder


def configured(adapter: Path, folder: Path, **changes) -> Path:
    shutil.copytree(adapter, folder)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return folder


def sides(pair: ModelPair, ids: list[int]) -> dict[Side, Tensor]:
    tokens = Tokens(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long))
    with torch.no_grad(), PairedRows(pair, dict.fromkeys(Side, 1)) as rows:
        logits = rows.forward(dict.fromkeys(Side, tokens), logits=len(ids))
    return {side: found[0] for side, found in logits.items()}


IDS = [1, 30, 40, 9, 55]


@pytest.mark.parametrize("kind", ["ia3", "lora"])
def test_names_that_do_not_fit_are_refused_though_their_number_does(zoo, tmp_path, kind):
    adapter = rewritten(
        zoo.adapter("llama", kind),
        tmp_path / "adapter",
        lambda t: {name.replace("layers.1.", "layers.7."): x for name, x in t.items()},
    )
    with pytest.raises(UserError) as caught:
        pair_of(zoo.base("llama"), adapter)
    assert "have no place in the model: base_model.model.model.layers.7" in str(caught.value)
    assert "get no tensor: base_model.model.model.layers.1" in str(caught.value)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_prefix_on_every_name_is_refused(zoo, tmp_path, kind):
    adapter = rewritten(
        zoo.adapter("llama", kind),
        tmp_path / "adapter",
        lambda t: {f"module.{name}": x for name, x in t.items()},
    )
    with pytest.raises(UserError, match=r"have no place in the model: module\.base"):
        pair_of(zoo.base("llama"), adapter)


@pytest.mark.parametrize("kind", ["ia3", "lora", "lora-rs"])
def test_an_adapter_that_changes_no_logit_is_refused(zoo, tmp_path, kind):
    def nothing(tensors):
        return {
            name: torch.ones_like(x) if "ia3_l" in name else x * (0 if "lora_B" in name else 1)
            for name, x in tensors.items()
        }

    adapter = rewritten(zoo.adapter("llama", kind), tmp_path / "adapter", nothing)
    with pytest.raises(UserError, match="changes no logit"):
        pair_of(zoo.base("llama"), adapter)


def test_merging_that_gives_another_model_is_refused(zoo, tmp_path):
    """Replicated layers share weights, so merging adds every copy's product to all of them."""
    base = zoo.base("llama")
    config = LoraConfig(
        r=3, target_modules=["down_proj", "q_proj"], layer_replication=[(0, 2), (0, 2)]
    )
    model = get_peft_model(load(base), config)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = 0.3 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "adapter")
    source = f"{base}+{tmp_path / 'adapter'}"
    with pytest.raises(UserError, match="cannot be run as PEFT runs it: logits differ by"):
        ModelPair.load(source, source, device="cpu")


def test_an_adapter_with_a_random_start_is_refused(zoo, tmp_path):
    adapter = configured(
        zoo.adapter("llama", "pissa"), tmp_path / "adapter", init_lora_weights="pissa_niter_4"
    )
    with pytest.raises(UserError, match=r"another model at every load, .* \(pissa_niter_4\)"):
        pair_of(zoo.base("llama"), adapter, torch.float32)


def test_settings_that_peft_does_not_know_are_refused(zoo, tmp_path):
    """PEFT warns, and leaves out what they mean."""
    lora = zoo.adapter("llama", "lora")
    newer = configured(lora, tmp_path / "newer", use_something_new=True)
    with pytest.raises(UserError, match=r"does not know \(use_something_new\)"):
        pair_of(zoo.base("llama"), newer)
    unused = configured(lora, tmp_path / "unused", use_something_new=False, other_new=None)
    assert pair_of(zoo.base("llama"), unused).shared


def test_a_gate_that_is_wrong_is_found(zoo, monkeypatch):
    plain = gating.gates

    def forgetful(model, adapter, rows):
        points = plain(model, adapter, rows)
        points[0].edit = lambda *_: None
        return points

    monkeypatch.setattr(gating, "gates", forgetful)
    with pytest.raises(UserError, match="cannot be run as PEFT runs it"):
        pair_of(zoo.base("llama"), zoo.adapter("llama", "lora"), torch.float32)


def test_other_precisions_say_how_far_off_they_are(zoo):
    (note,) = pair_of(zoo.base("llama"), zoo.adapter("llama", "lora"), torch.bfloat16).notes
    assert "of the largest logit in bfloat16" in note
    assert pair_of(zoo.base("llama"), zoo.adapter("llama", "lora"), torch.float32).notes == ()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("targets", ["head", "both"])
def test_an_adapter_that_carries_the_bases_embeddings(zoo, tmp_path, architecture, tied, targets):
    """As PEFT saves one that targets them: the base's own tensors lie among the adapter's."""
    base = save(random_model(architecture, tie_word_embeddings=tied), tmp_path / "base")
    model = load(base)
    embedding = next(n for n, m in model.named_modules() if m is model.get_input_embeddings())
    names = [PARTS[architecture]["head"]]
    names += [embedding.rpartition(".")[2]] if targets == "both" else []
    adapted = get_peft_model(model, LoraConfig(r=3, target_modules=names))
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = 0.3 * torch.randn_like(parameter)
    adapted.save_pretrained(tmp_path / "adapter")
    carried = [n for n in load_file(tmp_path / "adapter" / WEIGHTS) if "lora_" not in n]
    assert carried
    pair = pair_of(base, tmp_path / "adapter")
    assert pair.shared
    found = sides(pair, IDS)
    with torch.no_grad():
        wanted = logits_of(load(base, tmp_path / "adapter"), IDS)
        plain = logits_of(load(base), IDS)
    torch.testing.assert_close(found[Side.ALIGNED], wanted, rtol=0, atol=1e-9)
    torch.testing.assert_close(found[Side.UNALIGNED], plain, rtol=0, atol=1e-9)
    assert not torch.allclose(wanted, plain)


def test_carried_embeddings_that_differ_stay_on_their_side(zoo, tmp_path):
    """PEFT loads them over the base's, which for a shared model would be both sides'."""
    base = zoo.base("llama")
    adapted = get_peft_model(load(base), LoraConfig(r=3, target_modules=["lm_head"]))
    with torch.no_grad():
        adapted.get_base_model().lm_head.base_layer.weight += 0.5
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter += 0.1
    adapted.save_pretrained(tmp_path / "adapter")
    pair = pair_of(base, tmp_path / "adapter")
    assert not pair.shared
    found = sides(pair, IDS)
    with torch.no_grad():
        wanted = logits_of(load(base, tmp_path / "adapter"), IDS)
        plain = logits_of(load(base), IDS)
    torch.testing.assert_close(found[Side.ALIGNED], wanted, rtol=0, atol=1e-9)
    torch.testing.assert_close(found[Side.UNALIGNED], plain, rtol=0, atol=1e-9)


def test_the_adapters_own_tokenizer_is_used(zoo, tmp_path):
    adapter = shutil.copytree(zoo.adapter("llama", "lora"), tmp_path / "adapter")
    words = tokenizer()
    words.chat_template = "{{ bos_token }}{{ messages[0]['content'] }} trained on this"
    words.save_pretrained(adapter)
    source = f"{zoo.base('llama')}+{adapter}"
    assert ModelPair.load(source, source).tokenizer.chat_template == words.chat_template
    with pytest.raises(UserError, match="--template-from"):
        pair_of(zoo.base("llama"), adapter)
    chosen = ModelPair.load(source, str(zoo.base("llama")), template_from="aligned")
    assert chosen.tokenizer.chat_template == words.chat_template


@pytest.mark.parametrize("where", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_chat_template_alone_is_used(zoo, tmp_path, where):
    adapter = Path(shutil.copytree(zoo.adapter("llama", "lora"), tmp_path / "adapter"))
    template = "{{ messages[0]['content'] }} trained on this"
    text = template if where.endswith("jinja") else json.dumps({"chat_template": template})
    (adapter / where).write_text(text)
    source = f"{zoo.base('llama')}+{adapter}"
    assert ModelPair.load(source, source).tokenizer.chat_template == template


def test_a_padding_token_of_the_adapters_tokenizer_is_no_obstacle(zoo, tmp_path):
    """Fine-tuning often gives a model another padding token; what stands under the mask."""
    adapter = shutil.copytree(zoo.adapter("llama", "lora"), tmp_path / "adapter")
    words = tokenizer()
    words.pad_token = "</s>"
    words.save_pretrained(adapter)
    assert pair_of(zoo.base("llama"), adapter).shared


def test_a_token_that_one_side_added_is_settled_by_a_choice(zoo, tmp_path):
    adapter = shutil.copytree(zoo.adapter("llama", "lora"), tmp_path / "adapter")
    words = tokenizer()
    words.add_special_tokens({"pad_token": "<padding>"})
    words.save_pretrained(adapter)
    with pytest.raises(UserError, match=r"(?s)1 tokens of the aligned side alone.*--template-from"):
        pair_of(zoo.base("llama"), adapter)
    for side in ("aligned", "unaligned"):
        source = f"{zoo.base('llama')}+{adapter}"
        pair = ModelPair.load(source, str(zoo.base("llama")), template_from=side)
        assert pair.pad_id < pair.vocabulary


def test_the_probe_holds_what_an_adapter_waits_for():
    assert adapters.probed({"trainable_token_indices": {"embed_tokens": [5, 6]}}) == [5, 6]
    assert adapters.probed({"alora_invocation_tokens": [7]}) == [7]
    tokens = proofs.probe_tokens(80, [77])
    assert (tokens[:, -1] == 77).all()
    assert torch.equal(tokens, proofs.probe_tokens(80, [77]))
    assert tokens.max() < 80


class Jittering:
    """A plain model whose logits move with the size of the batch, as a GPU's do."""

    def __init__(self, model, by: float):
        self.model, self.by, self.config = model, by, model.config
        self.parameters = model.parameters

    def __call__(self, input_ids, **options):
        out = self.model(input_ids=input_ids, **options)
        out.logits += self.by * (len(input_ids) - 2) * out.logits.abs().max()
        return out


@pytest.mark.parametrize(
    ("jitter", "off", "fits"),
    [
        (0, 5e-5, True),  # seen on a GPU with the embedded pair: 2.7e-5
        (0, 2e-4, False),
        (1e-4, 2e-4, True),  # no more than the order of sums does there
        (1e-4, 5e-3, False),
        (1, 0.2, False),  # a model whose rows depend on each other is not excused by it
    ],
)
def test_logits_may_differ_by_what_the_batch_alone_moves(zoo, jitter, off, fits):
    model = load(zoo.source("llama", None)).float()
    tokens = proofs.probe_tokens(50)
    wanted = proofs.Reference.of("mine", Jittering(model, jitter), tokens)
    found = wanted.logits + off * wanted.logits.abs().max()
    if fits:
        assert proofs.require_same("mine", found, wanted) == pytest.approx(off, rel=0.01)
        return
    with pytest.raises(UserError, match="'mine' cannot be run as PEFT runs it"):
        proofs.require_same("mine", found, wanted)
