"""Run folders: one writer, nothing removed before it is replaced, damage told or mended."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from safety_neurons.errors import UserError
from safety_neurons.runs import RunFolder
from safety_neurons.storage import RowLog, require_place
from tests.commands import Interrupting, invoke, refused

OLD = Path(__file__).parent / "golden" / "run-format-1"


@pytest.fixture
def made(whole_run, tmp_path) -> Path:
    """A run with all stages complete, for one test."""
    return shutil.copytree(whole_run, tmp_path / "run")


def contents(run: Path) -> dict[str, bytes]:
    """Everything but what only serves resuming."""
    return {f.name: f.read_bytes() for f in run.iterdir() if f.is_file()}


def results(run: Path) -> dict[str, bytes]:
    return {k: v for k, v in contents(run).items() if k not in ("manifest.json", ".lock")}


@pytest.mark.parametrize("wrong", ["nan", "inf", "-inf", "0.5,nan"])
def test_options_are_checked_before_anything_is_touched(made, validate_arguments, wrong):
    before = contents(made)
    refused(invoke("validate", made, *validate_arguments, "--strengths", wrong), "0 or more")
    refused(invoke("validate", made, *validate_arguments, "--shares", wrong), "fractions")
    assert contents(made) == before


def test_a_stopped_stage_leaves_the_earlier_results(made, validate_arguments, monkeypatch):
    before = results(made)
    stopped = Interrupting("Dose", 0)
    monkeypatch.setattr("safety_neurons.cli.options.bars", lambda: stopped)
    again = ("validate", made, *validate_arguments, "--strengths", "0.5")
    assert invoke(*again).exit_code == 130
    assert results(made) == before
    run = RunFolder.open(made)
    assert run.config("validate")["strengths"] == []
    assert run.begun("validate")["strengths"] == [0.5]
    assert invoke("report", made).exit_code == 0
    monkeypatch.undo()
    assert invoke(*again).exit_code == 0
    assert json.loads((made / "summary.json").read_text())["dose"]
    assert RunFolder.open(made).begun("validate") == {}


def test_a_report_of_earlier_results_does_not_stay(made, validate_arguments):
    """It would look as if it showed those that are there now."""
    assert (made / "report.html").is_file()
    again = ("validate", made, *validate_arguments, "--strengths", "0.5")
    assert invoke(*again).exit_code == 0
    assert not (made / "report.html").exists()
    assert not RunFolder.open(made).is_complete("report")
    assert invoke("report", made).exit_code == 0


def test_what_is_made_of_the_same_results_stays(made, find_arguments):
    (made / "neurons.parquet").unlink()
    assert invoke(*find_arguments, "--out", made).exit_code == 0
    assert RunFolder.open(made).is_complete("validate")
    assert (made / "report.html").is_file()


def test_a_failing_stage_leaves_no_drafts(tmp_path):
    run = RunFolder.begin(tmp_path / "run")

    def fail() -> None:
        with run.stage("find", {}, ["a"]) as stage:
            stage.file("a").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [f.name for f in (tmp_path / "run/state").rglob("*") if f.is_file()] == []
    assert not run.is_complete("find")


def test_a_stage_without_all_its_results_is_not_complete(tmp_path):
    run = RunFolder.begin(tmp_path / "run")
    with pytest.raises(FileNotFoundError), run.stage("find", {}, ["a", "b"]) as stage:
        stage.file("a").write_text("whole")
    assert not run.file("a").exists()
    assert not run.is_complete("find")


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("neurons.parquet", "find"),
        ("completions.jsonl", "find"),
        ("summary.json", "validate"),
        ("samples.jsonl", "validate"),
    ],
)
@pytest.mark.parametrize("lost", [True, False])
def test_a_result_that_was_changed_or_lost_is_told(made, validate_arguments, name, stage, lost):
    file = made / name
    before = file.read_bytes()
    if lost:
        file.unlink()
    else:
        file.write_bytes(before[:-1] + b" ")
    said = "is missing" if lost else "is not what the command wrote"
    command = ("validate", made, *validate_arguments)
    if name != "completions.jsonl":
        command = ("report", made)
    refused(invoke(*command), name, said, f"safety-neurons {stage}")


def test_find_makes_a_damaged_result_again(made, find_arguments):
    table = made / "neurons.parquet"
    before = table.read_bytes()
    table.write_bytes(before[: len(before) // 2])
    assert invoke(*find_arguments, "--out", made).exit_code == 0
    assert table.read_bytes() == before


def test_results_half_replaced_are_known(made):
    """As a loss of power between two renames leaves them: new samples, old summary."""
    (made / "samples.jsonl").write_text("{}\n")
    refused(invoke("report", made), "samples.jsonl", "is not what the command wrote")


HOLD = """
import sys, time
from safety_neurons.runs import RunFolder
with RunFolder.begin(sys.argv[1]).writing():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that writes to a run folder."""
    run = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", HOLD, run], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_one_command_writes_at_a_time(holder, find_arguments, tmp_path):
    run = tmp_path / "run"
    refused(invoke(*find_arguments, "--out", run), "Another command is writing")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert invoke(*find_arguments, "--out", run).exit_code == 0


@pytest.mark.parametrize("command", [["report"], ["validate"]])
def test_every_writer_asks_for_the_lock(made, validate_arguments, command):
    more = validate_arguments if command == ["validate"] else []
    before = results(made)
    with RunFolder.open(made).writing():
        refused(invoke(*command, made, *more), "Another command is writing")
    assert results(made) == before


def test_two_commands_at_once_on_a_new_folder(tmp_path):
    """Whoever comes second is refused or goes on, and the folder is a run afterwards."""
    code = (
        "import sys, time\n"
        "from safety_neurons.runs import RunFolder\n"
        "from safety_neurons.errors import UserError\n"
        "time.sleep(max(0, float(sys.argv[2]) - time.time()))\n"
        "try:\n    RunFolder.begin(sys.argv[1])\n"
        "except UserError as e:\n    sys.exit(2 if 'Another command' in str(e) else 1)\n"
    )
    for i in range(3):
        run, start = tmp_path / str(i), str(time.time() + 0.6)
        both = [subprocess.Popen([sys.executable, "-c", code, run, start]) for _ in range(2)]
        codes = sorted(process.wait() for process in both)
        assert codes in ([0, 0], [0, 2])
        assert RunFolder.open(run).manifest.stages == {}


def test_what_a_killed_command_left_is_taken_over(tmp_path):
    run = tmp_path / "run"
    (run / "state").mkdir(parents=True)
    (run / ".lock").touch()
    (run / "manifest.json.x8f").write_text("{")
    assert RunFolder.begin(run).manifest.stages == {}


def test_a_full_disk_while_the_folder_is_made(find_arguments, tmp_path, monkeypatch):
    run = tmp_path / "run"

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("safety_neurons.runs.folder.write_json", full)
    refused(invoke(*find_arguments, "--out", run), "disk is full")
    monkeypatch.undo()
    assert invoke(*find_arguments, "--out", run).exit_code == 0


@pytest.mark.parametrize("text", ["[]", "null", "3", "{}", '{"format": 2}', '{"format": "x"}', "{"])
def test_a_damaged_manifest_is_one_sentence(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    for command in ("report", "validate"):
        refused(invoke(command, tmp_path), "manifest.json")
    assert (tmp_path / "manifest.json").read_text() == text


@pytest.mark.parametrize("stages", [[], {"find": []}, {"find": {"config": 1}}, {"find": None}, "x"])
def test_damaged_stages_are_one_sentence(tmp_path, stages):
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 2, "stages": stages}))
    for command in ("report", "validate"):
        refused(invoke(command, tmp_path), "manifest.json")


@pytest.mark.parametrize("lost", ["models", "loading", "chat", "neurons", "packages"])
@pytest.mark.parametrize("left", [None, [], "x"])
def test_damaged_facts_are_no_traceback(made, validate_arguments, lost, left):
    manifest = json.loads((made / "manifest.json").read_text())
    manifest[lost] = left
    (made / "manifest.json").write_text(json.dumps(manifest))
    before = results(made)
    for command in (("report", made), ("validate", made, *validate_arguments)):
        done = invoke(*command)
        if done.exit_code:
            refused(done, "manifest.json")
    of_report = {name for name in before if name.startswith(("report", "figure"))}
    assert results(made).keys() >= before.keys() - of_report


@pytest.mark.parametrize("damage", [b"", b"{", b"[]\n", b"3\n", b"\xff\xfe", b'{"prompt": 0}\n'])
def test_damaged_state_is_made_again(find_arguments, tmp_path, damage):
    run = tmp_path / "run"
    assert invoke(*find_arguments, "--out", run).exit_code == 0
    whole = results(run)
    for file in whole:
        (run / file).unlink()
    for file in (run / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(damage)
    done = invoke(*find_arguments, "--out", run)
    assert done.exit_code == 0, done.output
    assert results(run) == whole


def test_a_kept_row_that_was_altered_is_not_used(tmp_path):
    log = RowLog(tmp_path / "log")
    log.extend([{"prompt": 0, "tokens": [1, 2]}])
    log.extend([{"prompt": 1, "tokens": [3, 4]}])
    text = log.path.read_text()
    log.path.write_text(text.replace("[3, 4]", "[3, 5]"))
    assert RowLog(log.path).rows == [{"prompt": 0, "tokens": [1, 2]}]
    assert log.path.read_text() == text.splitlines(keepends=True)[0]


def test_a_kept_sum_that_was_altered_is_not_used(find_arguments, tmp_path):
    run = tmp_path / "run"
    assert invoke(*find_arguments, "--out", run).exit_code == 0
    whole = results(run)
    kept = [f for f in run.glob("state/*.safetensors") if "attribution" in f.name]
    assert len(kept) >= 2  # two rounds at least
    for file in [*kept, *run.glob("state/change-score*.safetensors")]:
        data = bytearray(file.read_bytes())
        data[-9] ^= 1
        file.write_bytes(bytes(data))
    (run / "neurons.parquet").unlink()
    assert invoke(*find_arguments, "--out", run).exit_code == 0
    assert results(run) == whole


def test_a_run_of_format_1_is_not_validated_on_models_that_it_cannot_name(
    zoo, validate_arguments, tmp_path
):
    old = shutil.copytree(OLD, tmp_path / "old")
    manifest = (old / "manifest.json").read_text()
    manifest = manifest.replace("/models/llama-0", str(zoo.base("llama")))
    manifest = manifest.replace("/models/llama-ia3-0", str(zoo.adapter("llama", "ia3")))
    (old / "manifest.json").write_text(manifest)
    before = results(old)
    refused(invoke("validate", old, *validate_arguments), "earlier version", "find")
    assert results(old) == before


@pytest.mark.parametrize("where", ["/proc/nothing/x", "folder", "file/below", "a\0b", "a" * 300])
def test_a_place_is_tried_before_the_work(tmp_path, where):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"folder; name a file|cannot be written"):
        require_place(tmp_path / where if where[0] != "/" else where)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["file", "folder"]


def test_trying_a_place_leaves_nothing(tmp_path):
    require_place(tmp_path / "a/b/c.jsonl")
    require_place(tmp_path / "a/run", folder=True)
    assert list(tmp_path.iterdir()) == []


def listening() -> None:
    """Tests that run in the background inherit that Ctrl-C is ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_schedulers_stop_ends_like_ctrl_c(find_arguments, tmp_path, number):
    run = tmp_path / "run"
    arguments = [str(a) for a in (*find_arguments, "--out", run)]
    arguments[arguments.index("--max-new-tokens") + 1] = "100"
    arguments[arguments.index("--batch-size") + 1] = "1"
    process = subprocess.Popen(
        [sys.executable, "-m", "safety_neurons", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=listening,
    )
    until = time.monotonic() + 60
    while not list(run.glob("state/find/*")) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "goes on where it was" in said
    assert "Traceback" not in said
    assert not (run / "neurons.parquet").exists()


def test_ctrl_c_during_the_imports_is_no_traceback(tmp_path):
    """The interpreter tells of each module when it is loaded; torch is among the first."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-X",
            "importtime",
            "-m",
            "safety_neurons",
            "run",
            "--out",
            tmp_path / "x",
        ],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=listening,
    )
    for line in process.stderr:
        if "torch" in line:
            break
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT)
    assert "Stopped." in said
    assert "Traceback" not in said
