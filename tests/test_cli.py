"""The commands as a user runs them: good input, wrong input, a stop in the middle."""

from __future__ import annotations

import errno
import json
import os
import shlex

import pyarrow.parquet as parquet
import pytest
import torch
import typer
from safetensors import SafetensorError

from safety_neurons.cli import app, options
from safety_neurons.cli.errors import explained
from safety_neurons.cli.examples import EXAMPLES, pasted
from safety_neurons.errors import UserError
from tests.commands import WORDS, Interrupting, invoke, prompt_file, refused, replaced
from tests.tiny import LAYERS, random_model, save, tokenizer


def test_the_whole_job_on_a_tiny_pair(find_arguments, validate_arguments, files, tmp_path):
    run = tmp_path / "run"
    result = invoke(*find_arguments, "--out", run)
    assert result.exit_code == 0, result.output

    columns = parquet.read_table(run / "neurons.parquet").to_pydict()
    assert len(columns["layer"]) == LAYERS * 24
    assert columns["score"] == columns["score_path_attribution"]
    assert columns["rank"] == columns["rank_path_attribution"]
    assert sorted(columns["rank_change_score"]) == list(range(LAYERS * 24))
    assert {"mean_aligned", "mean_unaligned"} <= columns.keys()

    result = invoke("validate", run, *validate_arguments)
    assert result.exit_code == 0, result.output
    summary = json.loads((run / "summary.json").read_text())
    for key in ("refusal_rate", "over_refusal_rate", "borderline_refusal_rate"):
        assert summary["aligned"][key] is not None
    assert summary["unaligned"]["refusal_rate"] is not None
    assert {row["share"] for row in summary["curve"]} == {0.05, 0.5, 1.0}
    assert {row["split"] for row in summary["curve"]} == {"select", "test"}
    assert {row["ranking"] for row in summary["curve"]} == {"path-attribution", "change-score"}
    needed = (
        "ranking split share k n unscored causal_effect ci_low ci_high control_mean control_max"
    )
    assert set(needed.split()) <= summary["curve"][0].keys()
    assert summary["n90"].keys() == {"path-attribution", "change-score"}
    assert set(summary["seconds"]) == {"find", "validate"}
    # These random models refuse nothing, so there is no effect to tell, and none is made up.
    assert summary["ceiling"] is None
    assert all(row["causal_effect"] is None for row in summary["curve"])

    result = invoke("report", run)
    assert result.exit_code == 0, result.output
    assert (run / "report.html").stat().st_size > 1000

    out = tmp_path / "answers.jsonl"
    result = invoke(
        "generate", run, "--share", 0.05, "--prompts", files["test"], "--out", out,
        "--max-new-tokens", 4, "--device", "cpu",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 12
    assert all(isinstance(row["response"], str) and row["prompt"] for row in rows)

    judged = tmp_path / "judged.jsonl"
    assert invoke("judge", out, "--out", judged).exit_code == 0
    verdicts = [json.loads(line)["verdict"] for line in judged.read_text().splitlines()]
    assert set(verdicts) <= {"refusal", "partial", "compliance", "unscored"}


def test_a_ranking_that_is_made_otherwise_since_is_made_again(find_arguments, tmp_path):
    run = tmp_path / "run"
    assert invoke(*find_arguments, "--out", run).exit_code == 0
    manifest = json.loads((run / "manifest.json").read_text())
    held = manifest["stages"]["find"]["config"]["methods"]
    name = next(iter(held))
    held[name] = "of-before"
    (run / "manifest.json").write_text(json.dumps(manifest))
    stamp = (run / "neurons.parquet").stat().st_mtime_ns
    again = invoke(*find_arguments, "--out", run)
    assert again.exit_code == 0, again.output
    assert "made otherwise since" in " ".join(again.output.split())
    assert (run / "neurons.parquet").stat().st_mtime_ns > stamp
    written = json.loads((run / "manifest.json").read_text())
    assert written["stages"]["find"]["config"]["methods"][name] != "of-before"
    stamp = (run / "neurons.parquet").stat().st_mtime_ns
    assert invoke(*find_arguments, "--out", run).exit_code == 0
    assert (run / "neurons.parquet").stat().st_mtime_ns == stamp


@pytest.mark.parametrize("where", ["Answers", "Contrasting", "Attributing"])
def test_a_stopped_find_goes_on_to_the_same_result(find_arguments, tmp_path, monkeypatch, where):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert invoke(*find_arguments, "--out", whole).exit_code == 0
    monkeypatch.setattr("safety_neurons.cli.options.bars", lambda: Interrupting(where))
    result = invoke(*find_arguments, "--out", stopped)
    assert result.exit_code == 130
    assert "goes on where it was" in result.output
    assert not (stopped / "neurons.parquet").exists()
    refused(invoke("validate", stopped), "no complete 'find' stage")
    monkeypatch.undo()
    assert invoke(*find_arguments, "--out", stopped).exit_code == 0
    assert parquet.read_table(stopped / "neurons.parquet").equals(
        parquet.read_table(whole / "neurons.parquet")
    )


def test_a_stopped_validation_leaves_no_summary_and_goes_on(
    find_arguments, validate_arguments, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    assert invoke(*find_arguments, "--out", run).exit_code == 0
    monkeypatch.setattr(
        "safety_neurons.cli.options.bars", lambda: Interrupting("path-attribution (test)", 0)
    )
    assert invoke("validate", run, *validate_arguments).exit_code == 130
    assert not (run / "summary.json").exists()
    refused(invoke("report", run), "no complete 'validate' stage")
    monkeypatch.undo()
    kept = {file: file.stat().st_mtime_ns for file in (run / "state/answers").iterdir()}
    assert kept
    assert invoke("validate", run, *validate_arguments).exit_code == 0
    assert all(file.stat().st_mtime_ns == time for file, time in kept.items())


def test_a_full_disk_is_said_and_the_run_goes_on(find_arguments, tmp_path, monkeypatch):
    run = tmp_path / "run"

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    refused(invoke(*find_arguments, "--out", run), "disk is full")
    assert not (run / "neurons.parquet").exists()
    monkeypatch.undo()
    assert invoke(*find_arguments, "--out", run).exit_code == 0


def test_a_full_disk_told_by_a_library_is_said_too(find_arguments, tmp_path, monkeypatch):
    def full(*_):
        raise SafetensorError("Error while serializing: I/O error: No space (os error 28)")

    monkeypatch.setattr("safety_neurons.methods.accumulation.save_file", full)
    refused(invoke(*find_arguments, "--out", tmp_path / "run"), "disk is full")


def test_what_a_user_cannot_mend_is_not_hidden():
    @explained
    def command() -> None:
        raise SafetensorError("a defect")

    with pytest.raises(SafetensorError, match="a defect"):
        command()


def test_wrong_files(find_arguments, tmp_path):
    out = ["--out", tmp_path / "run"]
    refused(invoke(*replaced(find_arguments, "--prompts", "no.jsonl"), *out), "'no.jsonl' does not")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    refused(invoke(*replaced(find_arguments, "--prompts", empty), *out), "holds no prompts")
    refused(
        invoke(*find_arguments, "--prompt-column", "question", *out),
        "no column 'question'",
        "prompt, text",
    )
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"prompt": " ".join(WORDS * 2)}) + "\n")
    refused(invoke(*replaced(find_arguments, "--prompts", long), *out), "too long", "128 tokens")
    assert not (tmp_path / "run" / "neurons.parquet").exists()


def test_wrong_models(find_arguments, zoo, tmp_path):
    out = ["--out", tmp_path / "run"]

    def with_aligned(source: object):
        return invoke(*replaced(find_arguments, "--aligned", source), *out)

    refused(with_aligned(tmp_path / "nowhere"), "neither a folder")
    refused(with_aligned(zoo.base("qwen2")), "cannot be paired", "model_type")
    other = f"{zoo.base('llama')}+{zoo.adapter('gpt2', 'ia3')}"
    refused(with_aligned(other), "trained on")
    refused(with_aligned(f"{zoo.base('llama')}+{tmp_path}"), "no PEFT adapter")
    unknown = tmp_path / "unknown"
    unknown.mkdir()
    (unknown / "config.json").write_text(json.dumps({"model_type": "unheard-of"}))
    (unknown / "model.safetensors").write_bytes(b"")
    refused(with_aligned(unknown), "unheard-of")
    assert not (tmp_path / "run").exists()


def test_every_difference_of_two_models_is_in_one_error(find_arguments, zoo, tmp_path):
    other = tmp_path / "other"
    save(random_model("llama", 1, num_hidden_layers=LAYERS + 1), other)
    words = tokenizer()
    words.chat_template = "{{ messages[0]['content'] }}"
    words.add_tokens(["extra"])
    words.save_pretrained(other)
    result = invoke(*replaced(find_arguments, "--aligned", other), "--out", tmp_path / "run")
    refused(
        result,
        f"num_hidden_layers: aligned {LAYERS + 1}, unaligned {LAYERS}",
        "vocabulary: 1 token",
        "template",
    )


def test_only_templates_differ_and_one_is_chosen(find_arguments, zoo, tmp_path):
    other = save(random_model("llama", 1), tmp_path / "other")
    words = tokenizer()
    words.chat_template = "{{ messages[0]['content'] }}"
    words.save_pretrained(other)
    arguments = replaced(find_arguments, "--aligned", other)
    refused(invoke(*arguments, "--out", tmp_path / "a"), "--template-from")
    chosen = invoke(*arguments, "--template-from", "unaligned", "--out", tmp_path / "a")
    assert chosen.exit_code == 0, chosen.output


def test_wrong_options(find_arguments, validate_arguments, tmp_path):
    run = tmp_path / "run"
    refused(invoke(*find_arguments, "--ranking", "magic", "--out", run), "attribution")
    refused(invoke(*find_arguments, "--dtype", "int3", "--out", run), "bfloat16")
    assert invoke(*find_arguments, "--out", run).exit_code == 0
    refused(invoke("validate", run, *replaced(validate_arguments, "--shares", "1.5")), "1.5")
    refused(invoke("validate", run, *replaced(validate_arguments, "--shares", "5 pc")), "5%")
    refused(invoke("validate", run, *replaced(validate_arguments, "--shares", "150%")), "1.5")
    refused(invoke("save-set", run, "--share", "5 pc", "--out", tmp_path / "set"), "5%")
    refused(invoke("validate", tmp_path), "no run folder")
    refused(invoke("report", tmp_path / "nowhere"), "no run folder")
    refused(
        invoke(*replaced(find_arguments, "--max-new-tokens", 5), "--out", run),
        "other decoding",
        "--out",
    )
    assert invoke(*find_arguments, "--out", run).exit_code == 0


def test_shares_are_fractions_or_per_cent():
    assert options.parse_numbers("0.05, 5%,0.7%,12.5 %,1e-3", "shares") == (
        *(0.05, 0.05, 0.007, 0.125, 0.001),
    )
    assert options.parse_share("5%") == options.parse_share("0.05") == 0.05
    assert options.parse_numbers("", "shares") == ()
    for wrong in ("%", "5%5", "five%", "5%%", "0.1;0.2"):
        with pytest.raises(UserError, match="such as"):
            options.parse_numbers(wrong, "shares")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        *(("fp32", "float32"), ("F16", "float16"), ("bf16", "bfloat16"), ("half", "float16")),
        *(("torch.bfloat16", "bfloat16"), ("double", "float64"), ("auto", "auto")),
    ],
)
def test_short_names_of_precisions(find_arguments, given, meant, monkeypatch, tmp_path):
    seen = []

    def stop(name, device):
        seen.append(name)
        raise UserError("far enough")

    monkeypatch.setattr(options, "dtype_of", stop)
    refused(invoke(*find_arguments, "--dtype", given, "--out", tmp_path), "far enough")
    assert seen == [meant]


def test_run_takes_own_prompts_and_claims_nothing_on_what_was_found_on(zoo, tmp_path):
    files = {kind: prompt_file(tmp_path / f"{kind}.jsonl", 18, i) for i, kind in enumerate("abc")}
    done = invoke(
        *("run", "--aligned", zoo.source("llama", "ia3"), "--unaligned", zoo.source("llama", None)),
        *("--prompts", files["a"], "--harmless", files["b"], "--borderline", files["c"]),
        *("--prompt-column", "text", "--shares", "5%,50%", "--controls", 0, "--device", "cpu"),
        *("--ranking", "change-score", "--max-new-tokens", 3, "--out", tmp_path / "run"),
    )
    assert done.exit_code == 0, done.output
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    found, tested = (manifest["stages"][stage]["config"] for stage in ("find", "validate"))
    assert found["prompts"]["name"] == files["a"]
    sizes = [found["prompts"]["n"], *(tested["prompts"][name]["n"] for name in ("select", "test"))]
    assert sum(sizes) == 18
    assert min(sizes) > 0
    assert tested["prompts"]["borderline"]["n"] == 18
    assert (tmp_path / "run/report.html").is_file()


def test_a_report_opens_in_the_browser_where_there_is_one(
    find_arguments, validate_arguments, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    assert invoke(*find_arguments, "--out", run).exit_code == 0
    assert invoke("validate", run, *validate_arguments).exit_code == 0
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: bool(opened.append(address)))
    assert invoke("report", run).exit_code == 0
    assert not opened
    done = invoke("report", run, "--open")
    assert done.exit_code == 0
    assert opened == [(run / "report.html").as_uri()]
    assert "by hand" in done.output


def test_every_command_has_examples_that_it_understands():
    group = typer.main.get_command(app)
    assert set(EXAMPLES) == set(group.commands)
    for name, examples in EXAMPLES.items():
        assert examples
        for _, typed in examples:
            first, *arguments = shlex.split(typed)
            assert first == name
            command = group.commands[name]
            # Parses, and checks every option's type, without running anything.
            command.make_context(name, arguments, parent=group.make_context("", [name]))
            shown = invoke(name, "--help").output
            assert all(line.strip() in shown for line in pasted(typed))
            # What is copied from a narrow terminal is one command.
            assert all(len(line) <= 78 for line in pasted(typed))
            copied = shlex.split("\n".join(pasted(typed)).replace("\\\n", " "))  # as a shell does
            assert copied == ["safety-neurons", *shlex.split(typed)]


def test_h_is_help():
    for command in ((), ("run",), ("save-set",)):
        done = invoke(*command, "-h")
        assert done.exit_code == 0
        assert "--help" in done.output


def test_testing_on_what_was_found_on_is_refused(
    find_arguments, validate_arguments, files, tmp_path
):
    run = tmp_path / "run"
    assert invoke(*find_arguments, "--out", run).exit_code == 0
    seen = replaced(validate_arguments, "--prompts", files["find"])
    refused(invoke("validate", run, *seen), "neither found nor chosen on")


def test_a_foreign_folder_is_left_alone(find_arguments, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    refused(invoke(*find_arguments, "--out", tmp_path), "no run folder")
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_judge_names_what_is_missing(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "Hi", "answer": "Hello"}) + "\n")
    refused(
        invoke("judge", rows, "--out", tmp_path / "out.jsonl"), "no column 'response'", "answer"
    )
    judged = invoke("judge", rows, "--out", tmp_path / "out.jsonl", "--response-column", "answer")
    assert judged.exit_code == 0
    row = json.loads((tmp_path / "out.jsonl").read_text())
    said = {name: row.pop(name) for name in ("p_refusal", "p_partial", "p_compliance")}
    assert sum(said.values()) == pytest.approx(1, abs=1e-3)
    assert row.pop("judge").startswith("refusal-classifier-")
    assert row == {"prompt": "Hi", "answer": "Hello", "verdict": "compliance"}


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), RuntimeError("x: can't allocate memory: y")]
)
def test_too_little_memory_is_said_with_the_remedy(error, capsys):
    @explained
    def command():
        raise error

    with pytest.raises(typer.Exit) as ended:
        command()
    assert ended.value.exit_code == 2
    assert "--batch-size" in capsys.readouterr().err


def test_other_failures_keep_their_traceback():
    @explained
    def command():
        raise RuntimeError("a fault of ours")

    with pytest.raises(RuntimeError, match="a fault of ours"):
        command()


def test_a_stopped_alignment_keeps_what_it_has(zoo, tmp_path, monkeypatch):
    monkeypatch.setattr("safety_neurons.cli.options.bars", lambda: Interrupting("Training"))
    base = zoo.source("llama", None)
    result = invoke("align", "--base", base, "--out", tmp_path / "adapter", "--limit", "2")
    assert result.exit_code == 130
    assert "goes on where it was" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["adapter.training"]


def test_strengths_are_measured_with_random_sets(find_arguments, validate_arguments, tmp_path):
    run = tmp_path / "run"
    assert invoke(*find_arguments, "--out", run).exit_code == 0
    done = invoke("validate", run, *validate_arguments, "--strengths", "0,1")
    assert done.exit_code == 0, done.output
    told = [line.strip() for line in done.output.splitlines() if line.startswith("  test ")]
    assert sum(line.endswith("; taken back from the aligned model") for line in told) == 1
    assert sum(line.endswith("; 0 times the way") for line in told) == 1
    summary = json.loads((run / "summary.json").read_text())
    nothing, whole = summary["dose"]
    assert nothing["strength"] == 0
    assert nothing["refusal_rate"] == summary["unaligned"]["refusal_rate"]
    chosen = next(
        row
        for row in summary["curve"]
        if row["split"] == "test"
        and (row["ranking"], row["share"])
        == (summary["chosen"]["ranking"], summary["chosen"]["share"])
    )
    assert whole["refusal_rate"] == chosen["refusal_rate"]
    refused(invoke("validate", run, *validate_arguments, "--strengths", "-1"), "0 or more")
    refused(
        invoke("validate", run, *validate_arguments, "--strengths", "x"), "no list of strengths"
    )


def test_attention_channels_go_through_the_whole_job(find_arguments, validate_arguments, tmp_path):
    """Beside the neurons, and the page says what they are."""
    run, out = tmp_path / "run", tmp_path / "out.jsonl"
    found = invoke(*find_arguments, "--site", "mlp", "--site", "attention", "--out", run)
    assert found.exit_code == 0, found.output
    assert "80 neurons and attention channels" in " ".join(found.output.split())
    table = parquet.read_table(run / "neurons.parquet").to_pydict()
    assert {site: table["site"].count(site) for site in set(table["site"])} == {
        "mlp": 48,
        "attention": 32,
    }
    done = invoke("validate", run, *validate_arguments)
    assert done.exit_code == 0, done.output
    assert invoke("report", run).exit_code == 0
    page = (run / "report.html").read_text()
    assert "attention channels" in page
    prompts = validate_arguments[validate_arguments.index("--prompts") + 1]
    done = invoke(
        *("generate", run, "--share", 0.5, "--prompts", prompts, "--out", out),
        *("--max-new-tokens", 4, "--device", "cpu"),
    )
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [("--site", "heads", "attention"), ("--ranking", "magic", "change-score")],
)
def test_choices_are_listed_where_one_is_wrong(find_arguments, tmp_path, option, value, said):
    refused(invoke(*find_arguments, option, value, "--out", tmp_path / "run"), said)
    assert not (tmp_path / "run").exists()


def test_an_unknown_judge_is_told_with_those_there_are(whole_run, validate_arguments):
    refused(
        invoke("validate", whole_run, *validate_arguments, "--judge", "x"), "refusal-classifier"
    )
    rows = whole_run / "samples.jsonl"
    refused(
        invoke("judge", rows, "--out", rows.with_name("out.jsonl"), "--judge", "x"),
        "refusal-classifier",
    )
