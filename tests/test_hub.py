"""Hub ids and Hub data sets, from a stand-in for the hub, by the real client libraries."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.hub import COMMIT, hub


@pytest.fixture(scope="module")
def cli(zoo, tmp_path_factory):
    """`safety-neurons` in a process of its own, as the endpoint is read when it starts."""
    root = tmp_path_factory.mktemp("hub")
    base, adapter = zoo.source("llama", "ia3").split("+")
    shutil.copytree(base, root / "models/tiny/base")
    (root / "models/tiny/base/pytorch_model.bin").write_bytes(b"a pickle that nobody may load")
    shutil.copytree(adapter, root / "models/tiny/safe-adapter")
    asked = root / "datasets/tiny/requests/data/train.jsonl"
    asked.parent.mkdir(parents=True)
    rows = [{"instruction": f"w{20 + i} w{30 + i} w{7 + 2 * i}"} for i in range(12)]
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows))
    home = tmp_path_factory.mktemp("hf-home")
    with hub(root) as address:
        settings = {
            "HF_ENDPOINT": address,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "OMP_NUM_THREADS": "1",
        }

        def run(*arguments: str) -> subprocess.CompletedProcess:
            command = [sys.executable, "-m", "safety_neurons", *arguments]
            environment = {**os.environ, **settings}
            return subprocess.run(command, env=environment, capture_output=True, text=True)

        run.home, run.root = home, root
        yield run


def find(cli, out: Path, aligned="tiny/base+tiny/safe-adapter", prompts="hub:tiny/requests"):
    return cli(
        *("find", "--aligned", aligned, "--unaligned", "tiny/base", "--out", str(out)),
        *("--prompts", prompts, "--prompt-column", "instruction", "--max-new-tokens", "4"),
    )


def test_models_adapters_and_prompts_come_from_the_hub(cli, tmp_path):
    done = find(cli, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["models"]["aligned"]["revision"] == COMMIT
    assert manifest["models"]["unaligned"]["source"] == "tiny/base"
    found_on = (tmp_path / "run/completions.jsonl").read_text().splitlines()
    assert len(found_on) == 12
    assert json.loads(found_on[0])["prompt"].startswith("w20 ")
    assert not list(cli.home.rglob("*.bin"))  # no pickle is even downloaded


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"aligned": "tiny/absent"}, "tiny/absent"),
        ({"prompts": "hub:tiny/absent"}, "tiny/absent"),
        ({"prompts": "hub:tiny/requests:nowhere"}, "nowhere"),
    ],
)
def test_what_the_hub_does_not_have_is_told_in_one_sentence(cli, tmp_path, wrong, said):
    done = find(cli, tmp_path / "run", **wrong)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_stays_with_the_commit_that_it_was_found_on(cli, tmp_path):
    """The branch moves on between two commands; the run knows what it was found on."""
    moving = cli.root / "models/tiny/moving"
    shutil.copytree(cli.root / "models/tiny/base", moving)
    run, asked = tmp_path / "run", ("--max-new-tokens", "3", "--prompts", "hub:tiny/requests")
    more = ("--prompt-column", "instruction")
    source = ("--aligned", "tiny/moving+tiny/safe-adapter", "--unaligned", "tiny/moving")
    done = cli("find", *source, "--out", str(run), *asked, *more)
    assert done.returncode == 0, done.stderr
    located = json.loads((run / "manifest.json").read_text())["models"]["unaligned"]["location"]
    assert located["base"] == f"tiny/moving@{COMMIT}"
    weights = moving / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.layers.0.mlp.down_proj.weight"] += 1
    save_file(tensors, weights, {"format": "pt"})
    (moving / ".commit").write_text(COMMIT[::-1])
    again = cli("find", *source, "--out", str(run), *asked, *more)
    assert again.returncode == 2, again.stderr
    assert "model.safetensors" in again.stderr
    out = tmp_path / "answers.jsonl"
    done = cli("generate", str(run), "--share", "0.1", "--out", str(out), *asked, *more)
    assert done.returncode == 0, done.stderr  # of the models that it was found on
