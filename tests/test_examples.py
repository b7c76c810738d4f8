"""The examples run, and do what they say: extensions act without a change to the package."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import PhiConfig, PhiForCausalLM

from safety_neurons import (
    ARCHITECTURES,
    INTERVENTIONS,
    JUDGES,
    RANKINGS,
    Decoding,
    ExplainOptions,
    ExplanationPrompts,
    FindOptions,
    ModelPair,
    Verdict,
    find,
)
from safety_neurons.errors import UserError
from safety_neurons.models import LoadedModel
from safety_neurons.registry import Registry
from safety_neurons.report import render_report
from safety_neurons.runs import RunFolder, read_samples
from safety_neurons.studies.alignment import AlignRecipe
from safety_neurons.units import load_set
from tests import planted
from tests.tiny import VOCABULARY, save

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


@pytest.fixture
def example(monkeypatch):
    """An example as a module; what it registers is forgotten afterwards."""
    for registry in (ARCHITECTURES, JUDGES, RANKINGS):
        monkeypatch.setattr(registry, "_values", dict(registry._values))

    def imported(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look
        spec.loader.exec_module(module)
        return module

    return imported


@pytest.fixture(scope="module")
def sources(zoo) -> tuple[str, str]:
    return zoo.source("llama", "ia3"), zoo.source("llama", None)


@pytest.fixture
def pair(sources) -> ModelPair:
    return ModelPair.load(*sources, device="cpu")


@pytest.fixture(scope="module")
def made(sources, tmp_path_factory) -> RunFolder:
    """The run that other examples go on from, at the names that they open."""
    out = tmp_path_factory.mktemp("examples") / "run"
    spec = importlib.util.spec_from_file_location("whole", EXAMPLES / "find_and_validate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    report = module.main(ModelPair.load(*sources, device="cpu"), out, limit=8, max_new_tokens=4)
    assert report.stat().st_size > 10_000
    return RunFolder.open(out)


def test_what_neurons_do(example, tmp_path, capsys):
    """On a pair with a planted pipeline."""
    of = planted.plant(tmp_path, 2)
    pair = ModelPair.load(str(of.aligned), str(of.unaligned), device="cpu")
    sets = {split: planted.prompts(2, split) for split in planted.SPLITS}
    decoding = Decoding(8, 24)
    run = find(
        pair,
        tmp_path / "run",
        sets["find"][0],
        FindOptions(("path-attribution",), decoding=decoding),
        harmless=sets["find"][1],
    )
    prompts = ExplanationPrompts(*sets["find"], sets["select"][0], *sets["test"])
    options = ExplainOptions(share=0.04, controls=1, exact=4, pages=0, decoding=decoding)
    main = example("explain_a_set").main
    card = main(pair, run.path, prompts, options=options, tokens=400)
    assert card.verdict == "present"
    assert f"{card.neurons[0].unit} writes" in capsys.readouterr().out


def test_every_example_is_listed_and_tested():
    listed = set(re.findall(r"^\| `(\w+)\.py`", (EXAMPLES / "README.md").read_text(), re.M))
    tested = set(re.findall(r'(?:example\(|EXAMPLES / )"([a-z_]+)', Path(__file__).read_text()))
    assert listed == tested == {file.stem for file in EXAMPLES.glob("*.py")}


def test_stability_card(example, made, pair):
    card = example("stability_card").main(pair, made.path, limit=4)
    assert card.n == 8
    assert "halves" in card.sentence or "cannot be told" in card.sentence


def test_audit_a_fine_tune(example, sources, tmp_path):
    card = example("audit_a_fine_tune").main(*sources, tmp_path / "audit", limit=4, share=0.1)
    assert card.verdict == "broken"  # random weights say nothing that can be read
    assert (tmp_path / "audit" / "report.html").is_file()


def test_generate_patched(example, made, pair):
    answers = example("generate_patched").main(made, pair, share=0.3)
    assert list(answers) == [0.0, 0.5, 1.0]
    assert answers[0.0] != answers[1.0]


def test_judge_answers(example, tmp_path):
    counts = example("judge_answers").main(tmp_path)
    assert counts == {"compliance": 1, "refusal": 1, "unscored": 1}


def test_align_a_model(example, sources, tmp_path):
    recipe = AlignRecipe(steps=2, batch_size=2, answer_tokens=4)
    assert example("align_a_model").main(sources[1], tmp_path / "adapter", recipe, limit=2).shared


def test_saved_set(example, made, pair, tmp_path):
    units = example("saved_set").main(made, tmp_path / "set", share=0.2)
    saved = load_set(tmp_path / "set")
    card = saved.card
    assert set(saved.means_on(pair.identity)) == {"aligned", "unaligned"}
    assert card.models["aligned"]["files"] == pair.provenance["aligned"]["files"]
    assert [b.module for b in card.blocks] == [f"model.layers.{i}.mlp.down_proj" for i in (0, 1)]
    assert card.size == len(units) == 10


def test_attention_channels(example, pair, tmp_path):
    kinds = example("attention_channels").main(pair, tmp_path / "run", limit=4, share=0.9)
    assert set(kinds) == {"neurons", "attention channels"}
    assert sum(kinds.values()) == round(0.9 * (2 * 24 + 2 * 16))


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("adapter", [None, "ia3"])
def test_an_ablation_that_is_baked_equals_the_live_one(example, zoo, architecture, adapter):
    source = zoo.source(architecture, adapter)
    model = LoadedModel.load(source, dtype=torch.float64, device="cpu")
    before = {name: tensor.clone() for name, tensor in model.hooked.model.state_dict().items()}
    ablation = example("ablation")
    as_it_is, live, baked = ablation.main(model, "w10 w20 w30", share=0.5)
    assert live == baked != as_it_is
    after = model.hooked.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_an_amplified_checkpoint_answers_as_the_live_model(example, made, tmp_path):
    found = example("amplified_checkpoint").main(made, tmp_path, scale=5.0, share=0.5, limit=8)
    assert found["same tokens as live"] == found["prompts"] == 8
    assert found["other tokens than unscaled"] > 0
    assert found["undone to the byte"]


def test_all_neurons_of_a_pair_that_differs_in_nothing_else(example, zoo):
    pair = zoo.pair(zoo.source("llama", "ia3"), zoo.source("llama", None))
    found = example("transplant").main(pair, "w10 w20 w30")
    assert found["all neurons"] == found["aligned"] != found["unaligned"]


def test_an_intervention_of_ones_own(example, zoo):
    model = LoadedModel.load(zoo.source("llama", None), dtype=torch.float64, device="cpu")
    as_it_is, clipped = example("own_intervention").main(model, "w10 w20 w30")
    assert as_it_is != clipped


def test_a_ranking_from_outside_goes_through_the_whole_job(example, made, pair, tmp_path):
    own = example("own_ranking")
    run = own.main(pair, tmp_path / "run", limit=8)
    judge = example("own_judge")
    summary = judge.main(run, pair, limit=8)
    assert summary.rankings == ["mean-difference", "change-score"]
    assert set(summary.n90) == {"mean-difference", "change-score"}
    assert "mean-difference" in render_report(run).read_text()
    assert "mean-difference" in RANKINGS.names()


def test_a_judge_from_outside_is_asked(example, made, pair):
    module = example("own_judge")
    summary = module.main(made, pair, limit=8)
    assert summary.judge == "openings-1"
    assert made.config("validate")["judge"] == "openings-1"
    verdicts = {answer.verdict for row in read_samples(made) for answer in row.answers.values()}
    assert verdicts <= {Verdict.COMPLIANCE, Verdict.REFUSAL, Verdict.UNSCORED}


def test_an_architecture_from_outside_is_supported(example, tmp_path):
    config = PhiConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.4,
    )
    torch.manual_seed(0)
    folder = save(PhiForCausalLM(config), tmp_path / "phi")
    model = example("own_architecture").main(str(folder))
    assert model.space().widths == (24, 24)
    assert [s.name.rpartition("layers.")[2] for s in model.hooked.sites] == [
        "0.self_attn.dense",
        "0.mlp.fc2",
        "1.self_attn.dense",
        "1.mlp.fc2",
    ]


def test_the_code_of_the_readme_runs(sources, tmp_path):
    """Every Python block, with tiny models in place of the reader's own."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert blocks
    for block in blocks:
        code = block.replace("my/model-dpo", sources[0]).replace("my/model-sft", sources[1])
        code = code.replace("runs/mine", str(tmp_path / "mine"))
        exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "mine" / "report.html").is_file()


# Registries.


def test_names_need_no_torch():
    code = (
        "import sys; from safety_neurons.registry import RANKINGS, JUDGES, INTERVENTIONS;"
        "print(RANKINGS.names(), JUDGES.names(), INTERVENTIONS.names(), 'torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == (
        "['path-attribution', 'attribution', 'change-score'] ['refusal-classifier'] "
        "['patch', 'patch-means', 'ablate', 'scale', 'steer', 'ablate-direction', 'transplant'] "
        "False"
    )


def test_everything_registered_can_be_imported():
    for one in (RANKINGS, JUDGES, ARCHITECTURES, INTERVENTIONS):
        for name in one.names():
            assert one.get(name) is one.get(name)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package with entry points, as pip leaves it."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(value: str, name: str = "theirs") -> None:
        (tmp_path / "theirs.py").write_text(
            "class Judge:\n    name = 'theirs-1'\n\nJUDGE = Judge()\n"
        )
        info = tmp_path / "theirs-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[safety_neurons.judges]\n{name} = {value}\n")

    return install


def test_a_package_registers_by_an_entry_point(installed):
    installed("theirs:JUDGE")
    registry: Registry = Registry("judge", "judges", {})
    assert registry.names() == ["theirs"]
    assert registry.get("theirs").name == "theirs-1"
    assert list(registry.choices()) == ["theirs"]


def test_a_package_that_cannot_be_imported_is_told(installed):
    installed("theirs:NOTHING")
    registry: Registry = Registry("judge", "judges", {})
    with pytest.raises(UserError, match=r"'theirs' \(theirs:NOTHING\).*could not be imported"):
        registry.get("theirs")


def test_names_that_are_taken_or_unknown_are_told():
    registry: Registry = Registry(
        "judge", "judges", {"rules": "safety_neurons.judges:RefusalJudge"}
    )
    registry.register("mine", mine := object())
    assert registry.register("mine", mine) is mine
    for name in ("mine", "rules"):
        with pytest.raises(UserError, match=f"a judge '{name}' already"):
            registry.register(name, object())
    with pytest.raises(UserError, match="'other' is no judge; give one of rules, mine"):
        registry.get("other")


@pytest.mark.parametrize("name", ["", "a b", "../a", "a/b", "-a", "a,b", "ä"])
def test_names_that_no_file_could_have_are_refused(name):
    registry: Registry = Registry("ranking", "rankings", {})
    with pytest.raises(UserError, match="no name for a ranking"):
        registry.register(name, object())
