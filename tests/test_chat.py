"""Chat templates: what they are asked, what they do with it, and whose mistake it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from safety_neurons.cli import options
from safety_neurons.errors import UserError
from safety_neurons.prompts import ChatFormat, Prompt, PromptSet, encode_all
from safety_neurons.studies.finding import FindOptions
from tests.commands import invoke, prompt_file, refused
from tests.tiny import BOS, TEMPLATE, random_model, tokenizer

THINKING = (
    "{{ bos_token }} user {{ messages[-1]['content'] }} assistant"
    "{% if enable_thinking is defined and enable_thinking is false %} w9{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system role') }}{% endif %}"
    + TEMPLATE
)
DROPS_SYSTEM = "{{ bos_token }} user {{ messages[-1]['content'] }} assistant"
PARTS = "{% for part in messages[0]['content'] %}{{ part.text }}{% endfor %} assistant"


def with_template(template: str | dict[str, str] | None) -> PreTrainedTokenizerFast:
    chosen = tokenizer()
    chosen.chat_template = template
    return chosen


def encoded(chat: ChatFormat, template: str | None, *texts: str) -> list[list[int]]:
    prompts = PromptSet("mine", tuple(Prompt(f"id{i}", text) for i, text in enumerate(texts)))
    return encode_all(prompts, with_template(template), chat, context_length=99, max_new_tokens=1)


# Arguments of a template.


def test_arguments_reach_the_template():
    assert encoded(ChatFormat(), THINKING, "w10") == [[BOS, 5, 10, 6]]
    assert encoded(ChatFormat(None, {"enable_thinking": False}), THINKING, "w10") == [
        [BOS, 5, 10, 6, 9]
    ]


def test_an_argument_that_the_template_does_not_read_is_refused():
    chat = ChatFormat(None, {"enable_thinkin": False})
    said = r"not read enable_thinkin \(it reads enable_thinking\)"
    with pytest.raises(UserError, match=said):
        encoded(chat, THINKING, "w10")
    with pytest.raises(UserError, match=said):
        chat.describe(with_template(THINKING))
    with pytest.raises(UserError, match="it reads no arguments"):
        encoded(chat, TEMPLATE, "w10")
    with pytest.raises(UserError, match="no chat template"):
        encoded(chat, None, "w10")


@pytest.mark.parametrize(
    "template",
    [
        "{% if not day is defined %}{% set day = 'w8' %}{% endif %}{{ day }}" + TEMPLATE,
        "{% set day = day if day is defined else 'w8' %}{{ day }}" + TEMPLATE,
        "{% generation %}{{ day }}{% endgeneration %}" + TEMPLATE,
        "{% for x in [1, 2] %}{% if x == 2 %}{% break %}{% endif %}{{ day }}{% endfor %}"
        + TEMPLATE,
    ],
)
def test_arguments_are_found_however_a_template_reads_them(template):
    assert encoded(ChatFormat(None, {"day": "w9"}), template, "w10")[0][0] == 9


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("messages", [], "given by the chat"),
        ("tools", [], "given by the chat"),
        ("add_generation_prompt", False, "given by the chat"),
        ("tokenize", True, "given by the chat"),
        ("bos_token", "x", "given by the chat"),
        ("raise_exception", "x", "given by the chat"),
        ("enable-thinking", False, "no name"),
        ("", False, "no name"),
        ("x", float("nan"), "JSON cannot keep"),
        ("x", float("inf"), "JSON cannot keep"),
        ("x", {1: 2}, "JSON cannot keep"),
        ("x", (1, 2), "JSON cannot keep"),
        ("x", object(), "JSON cannot keep"),
        ("x", "\ud800", "JSON cannot keep"),
    ],
)
def test_arguments_that_cannot_be_given_or_kept_are_refused(name, value, said):
    with pytest.raises(UserError, match=said):
        FindOptions(template_args={name: value})


def test_the_format_of_a_run_is_made_of_its_options_and_old_runs_have_fewer():
    args = {"enable_thinking": False}
    assert ChatFormat.of_config({"system": "w9", "template_args": args}) == ChatFormat("w9", args)
    assert ChatFormat.of_config({"system": None}) == ChatFormat()
    assert hash(ChatFormat("w9", args)) == hash(ChatFormat("w9", dict(args)))
    with pytest.raises(UserError, match="names with values"):
        ChatFormat.of_config({"system": None, "template_args": ["x"]})


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("x=false", False),
        ("x=False", False),
        ("x= True ", True),
        ("x=3", 3),
        ("x=0.5", 0.5),
        ("x=null", None),
        ('x=["a"]', ["a"]),
        ("x=a=b", "a=b"),
        ("x=", ""),
        ("x=26 Jul 2024", "26 Jul 2024"),
        ("x=NaN", "NaN"),
        ("x=" + "[" * 100_000, "[" * 100_000),
    ],
)
def test_values_are_json_where_they_parse(given, value):
    assert options.parse_template_args([given]) == {"x": value}


def test_forms_of_arguments_that_are_none():
    assert options.parse_template_args(None) == {}
    for form in ("x", "=1", " =1"):
        with pytest.raises(UserError, match="NAME=VALUE"):
            options.parse_template_args([form])
    with pytest.raises(UserError, match="given twice"):
        options.parse_template_args(["x=1", " x=2"])


# What a template does with what it is asked.


@pytest.mark.parametrize(
    "template",
    [
        "{{ bos_token }} user assistant",
        "{{ messages[0]['content'] | upper }}",
        "{{ messages[0]['content'][:4] }}",
        PARTS,
    ],
)
def test_a_prompt_that_the_template_drops_or_changes_is_named(template):
    with pytest.raises(UserError, match="text of the prompt 'id0' of 'mine' as it is written"):
        encoded(ChatFormat(), template, "w10 w11")


def test_white_space_around_a_prompt_may_go():
    trimmed = TEMPLATE.replace("['content']", "['content'] | trim")
    assert encoded(ChatFormat(" w9 "), trimmed, " w10 \n")[0] == [BOS, 4, 9, 5, 10, 6]


def test_only_the_prompt_that_is_changed_is_named():
    template = "{{ messages[0]['content'].split('w12')[0] }}"
    with pytest.raises(UserError, match="'id1'"):
        encoded(ChatFormat(), template, "w10", "w11 w12 w13")


def test_a_system_prompt_that_the_template_drops_is_said():
    with pytest.raises(UserError, match=r"system prompt as it is written; leave --system out"):
        encoded(ChatFormat("w9"), DROPS_SYSTEM, "w10")
    encoded(ChatFormat(), DROPS_SYSTEM, "w10")
    encoded(ChatFormat(""), DROPS_SYSTEM, "w10")


def test_a_template_that_refuses_system_prompts_says_why():
    with pytest.raises(UserError, match=r"refuses the system prompt \(No system role\); leave"):
        encoded(ChatFormat("w9"), NO_SYSTEM, "w10")
    encoded(ChatFormat(), NO_SYSTEM, "w10")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('Not today') }}", "Not today"),
        ("{{ nobody.knows }}", "'nobody' is undefined"),
        ("{{ messages[0]['content'] + 1 }}", "str"),
        ("{% if %}", "Expected an expression"),
        ("{{ 1 / 0 }}", "division"),
        ({"tool_use": TEMPLATE}, "multiple chat templates"),
    ],
)
def test_a_template_that_raises_is_told_with_its_reason(template, reason):
    for ask in (ChatFormat().describe, ChatFormat().opened):
        with pytest.raises(UserError, match=reason):
            ask(with_template(template))
    with pytest.raises(UserError, match=reason):
        encoded(ChatFormat(), template, "w10")


def test_arguments_that_make_a_template_raise_are_named():
    template = "{% if n is defined %}{{ n + 1 }}{% endif %}" + TEMPLATE
    with pytest.raises(UserError, match=r"refuses \{'n': 'x'\} .*--template-arg"):
        encoded(ChatFormat(None, {"n": "x"}), template, "w10")


def test_the_default_of_several_templates_is_taken():
    both = with_template({"default": TEMPLATE, "tool_use": "{{ 1 }}"})
    described = ChatFormat().describe(both)
    assert described == ChatFormat().describe(with_template(TEMPLATE))


def test_a_prompt_without_a_token_is_named():
    bare = "{{ messages[0]['content'] }}"
    with pytest.raises(UserError, match=r"no token of the prompt 'id1'"):
        encoded(ChatFormat(), bare, "w10", "\u3000 ")


def test_half_characters_are_refused_before_the_tokenizer():
    with pytest.raises(UserError, match="The system prompt is not Unicode"):
        ChatFormat("\udcff")
    with pytest.raises(UserError, match="prompt 'id0' of 'mine' is not Unicode"):
        encoded(ChatFormat(), TEMPLATE, "w10 \ud800")


def test_the_manifest_tells_arguments():
    described = ChatFormat(None, {"enable_thinking": False}).describe(with_template(THINKING))
    assert described["template_args"] == {"enable_thinking": False}
    assert described["example"].endswith("assistant w9")


# On the command line.


def saved(folder: Path, template: str | None) -> str:
    random_model("llama").save_pretrained(folder)
    with_template(template).save_pretrained(folder)
    return str(folder)


def find(base: str, prompts: str, out: Path, *more: object):
    sibling = Path(base).with_name("sibling")
    if not sibling.exists():
        shutil.copytree(base, sibling)
        random_model("llama", 1).save_pretrained(sibling)
    return invoke(
        *("find", "--aligned", base, "--unaligned", sibling, "--prompts", prompts, "--out", out),
        *("--max-new-tokens", 2, "--ranking", "change-score", "--device", "cpu", *more),
    )


def test_arguments_of_a_run_serve_validation_and_generation(tmp_path):
    base = saved(tmp_path / "base", THINKING)
    asked = prompt_file(tmp_path / "find.jsonl", 2)
    other = prompt_file(tmp_path / "test.jsonl", 4, start=11)
    run = tmp_path / "run"

    # A mistake leaves nothing behind that keeps the right command from running.
    refused(find(base, asked, run, "--template-arg", "enable_thinkin=false"), "enable_thinking")
    refused(find(base, asked, run, "--template-arg", "enable_thinking"), "NAME=VALUE")
    refused(find(base, asked, run, "--template-arg", "tools=1"), "given by the chat")
    refused(find(base, asked, run, "--system", "w9"), "leave --system out")
    done = find(base, asked, run, "--template-arg", "enable_thinking=false")
    assert done.exit_code == 0, done.output

    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["stages"]["find"]["config"]["template_args"] == {"enable_thinking": False}
    assert manifest["chat"]["example"].endswith("assistant w9")
    refused(find(base, asked, run), "other template_args")

    sent: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        plain = ChatFormat.render

        def spied(self, tokenizer, text, **options):
            sent.append(plain(self, tokenizer, text, **options))
            return sent[-1]

        patch.setattr(ChatFormat, "render", spied)
        done = invoke(
            *("validate", run, "--prompts", other, "--harmless", other, "--borderline", other),
            *("--shares", "0.5", "--controls", 0, "--max-new-tokens", 2, "--device", "cpu"),
        )
        assert done.exit_code == 0, done.output
        done = invoke(
            *("generate", run, "--share", 0.5, "--prompts", other, "--max-new-tokens", 2),
            *("--device", "cpu", "--out", tmp_path / "out.jsonl"),
        )
        assert done.exit_code == 0, done.output
    assert sent
    assert all(text.endswith("assistant w9") for text in sent)


def test_arguments_without_a_template_are_refused(tmp_path):
    base = saved(tmp_path / "base", None)
    asked = prompt_file(tmp_path / "find.jsonl", 2)
    refused(find(base, asked, tmp_path / "run", "--template-arg", "x=1"), "no chat template")
    assert not (tmp_path / "run").exists()
