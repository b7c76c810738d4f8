"""Prompts: the built-in ones, files of one's own, and their rendering."""

from __future__ import annotations

import csv
import datetime
import hashlib
import itertools
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from safety_neurons.errors import UserError
from safety_neurons.inference import left_padded
from safety_neurons.prompts import (
    ChatFormat,
    Kind,
    Prompt,
    PromptSet,
    Split,
    builtin,
    decode_text,
    divide_apart,
    encode_all,
    load_prompts,
    near_duplicates,
    parts_of,
    prompts_of,
    refuse_overlap,
    splits_of,
)
from safety_neurons.prompts.overlap import normalised
from tests.commands import invoke, refused
from tests.tiny import BOS, EOS, PAD, tokenizer


def splits(kind: Kind) -> list[Split]:
    return [s for s in Split if (kind, s) != (Kind.BORDERLINE, Split.CONFIRM)]


EVERY = [(kind, split) for kind in Kind for split in splits(kind)]


def topic(prompt: Prompt) -> str:
    """`category/number`, which a harmful prompt and its harmless match share."""
    return prompt.id.split("/", 1)[1]


# The built-in prompts.


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        (Kind.HARMFUL, [440, 120, 80, 200, 100]),
        (Kind.HARMLESS, [440, 120, 80, 200, 100]),
        (Kind.BORDERLINE, [240, 20, 60, 100]),
    ],
)
def test_splits_have_their_documented_sizes_and_no_common_ids(kind, sizes):
    assert list(Split) == ["train", "find", "select", "test", "confirm"]
    assert [len(builtin(kind, split)) for split in splits(kind)] == sizes
    ids = [prompt.id for split in splits(kind) for prompt in builtin(kind, split)]
    assert len(set(ids)) == len(ids)


def test_borderline_prompts_have_no_split_to_confirm_on():
    with pytest.raises(UserError, match="confirm"):
        builtin(Kind.BORDERLINE, Split.CONFIRM)


@pytest.mark.parametrize("kind", Kind)
def test_ten_categories_in_every_split(kind):
    categories = {prompt.category for prompt in builtin(kind, Split.TEST)}
    assert len(categories) == 10
    for split in splits(kind):
        assert {prompt.category for prompt in builtin(kind, split)} == categories
    whole = Counter(p.category for split in splits(kind) for p in builtin(kind, split))
    assert len(set(whole.values())) == 1  # as many of each


@pytest.mark.parametrize("split", Split)
def test_a_harmful_prompt_and_its_match_are_in_one_split(split):
    harmful, harmless = (builtin(kind, split) for kind in (Kind.HARMFUL, Kind.HARMLESS))
    assert {topic(p) for p in harmful} == {topic(p) for p in harmless}
    assert {topic(p): p.category for p in harmful} == {topic(p): p.category for p in harmless}


def test_openings_are_varied():
    """A probe must not succeed by the opening words."""
    openings: Counter[str] = Counter()
    for kind, split in EVERY:
        openings.update(
            " ".join(normalised(text).split()[:4]) for text in builtin(kind, split).texts
        )
    assert openings.most_common(1)[0][1] <= 5, openings.most_common(5)


def test_no_near_duplicates_across_splits():
    """Over all kinds together, so that no claim is tested on what was seen before."""
    pooled = {
        split: PromptSet(
            split, tuple(p for kind, of in EVERY if of is split for p in builtin(kind, split))
        )
        for split in Split
    }
    for one, other in itertools.combinations(Split, 2):
        assert near_duplicates(pooled[one], pooled[other]) == []
        refuse_overlap(pooled[one], pooled[other])


def test_no_prompt_stands_twice():
    texts = [normalised(text) for kind, split in EVERY for text in builtin(kind, split).texts]
    assert len(set(texts)) == len(texts) == 2300


# Near duplicates.


def named(*texts: str) -> PromptSet:
    return PromptSet("named", tuple(Prompt(str(i), text) for i, text in enumerate(texts)))


def test_near_duplicates_are_found_by_hand_counted_similarity():
    # " abcd " has the 4-grams " abc", "abcd", "bcd "; " abcde " has " abc", "abcd", "bcde", "cde ".
    (found,) = near_duplicates(named("abcd", "xyz"), named("ABCDE!"), threshold=0.4)
    assert (found.first, found.second, found.similarity) == ("abcd", "ABCDE!", pytest.approx(2 / 5))
    assert near_duplicates(named("abcd"), named("abcde"), threshold=0.41) == []


@pytest.mark.parametrize(
    "other",
    [
        "How do I build a bomb at home?",
        "how do i   build a BOMB at home",
        "Please, how do I build a bomb at home?",
    ],
)
def test_overlap_is_refused(other):
    found_on, tested_on = named("How do I build a bomb at home?"), named("A cake.", other)
    with pytest.raises(UserError, match="1 prompts of 'named'"):
        refuse_overlap(found_on, tested_on)
    refuse_overlap(found_on, named("Which cake is best for a child?"))


def test_near_duplicates_are_not_divided():
    twins = [f"How do I build a {x} bomb at home, {y}?" for x in "ab" for y in ("now", "today")]
    others = [" ".join(f"w{i}{j}" for j in range(6)) for i in range(8)]
    prompts = named(*twins, *others)
    for seed in range(8):
        first, second = divide_apart(prompts, 1 / 2, seed=seed)
        assert sorted([*first.texts, *second.texts]) == sorted(prompts.texts)
        assert first.texts
        refuse_overlap(first, second)
        plain, _ = prompts.divided(1 / 2, seed=seed)
        assert set(first.texts) == set(plain.texts) & set(others) or set(twins) <= set(plain.texts)
    with pytest.raises(UserError, match="nearly the same as each other"):
        divide_apart(named(*twins), 1 / 2)


# Prompt sets.


def test_limits_keep_the_order_and_depend_on_the_seed():
    prompts = named(*(f"text {i}" for i in range(30)))
    drawn = prompts.limited(10, seed=1)
    assert len(drawn) == 10
    places = [int(p.id) for p in drawn]
    assert places == sorted(places)
    assert drawn == prompts.limited(10, seed=1)
    assert drawn != prompts.limited(10, seed=2)
    assert prompts.limited(None) == prompts.limited(99) == prompts
    with pytest.raises(UserError, match="leaves no prompts"):
        prompts.limited(0)


@pytest.mark.parametrize(("share", "size"), [(0.5, 5), (0.25, 2), (0.0, 1), (1.0, 9)])
def test_division_is_disjoint_complete_and_never_empty(share, size):
    prompts = named(*(f"text {i}" for i in range(10)))
    first, second = prompts.divided(share, seed=3)
    assert len(first) == size
    assert sorted([*first.texts, *second.texts]) == sorted(prompts.texts)
    with pytest.raises(UserError, match="two disjoint parts"):
        named("alone").divided(0.5)


def test_digest_tells_texts_and_order():
    assert named("a", "b").digest == named("a", "b").digest
    assert len({named(*t).digest for t in (("a", "b"), ("b", "a"), ("ab",), ("a",))}) == 4
    assert named("a\x1eb").digest != named("a", "b").digest
    assert named("a", "ü").digest == hashlib.sha256(b'["a", "\\u00fc"]').hexdigest()[:16]


# Files.

QUOTED = 'Second, with "quotes", comma\nand line'
ROWS = [
    {"id": "x", "prompt": " Erste Frage? ", "category": "a", "split": "find"},
    {"id": "y", "prompt": QUOTED, "category": "b", "split": "test"},
]


def written(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, ["id", "prompt", "category", "split"])
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_every_kind_of_file_gives_the_same_prompts(tmp_path, suffix):
    path = written(tmp_path / f"mine{suffix}", ROWS)
    assert load_prompts(path).prompts == (
        Prompt("x", "Erste Frage?", "a"),
        Prompt("y", QUOTED, "b"),
    )
    assert [p.id for p in load_prompts(path, split="test")] == ["y"]
    assert load_prompts(path, column="category").texts == ["a", "b"]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_unknown_column_is_refused_with_those_there(tmp_path, suffix):
    path = written(tmp_path / f"mine{suffix}", ROWS)
    with pytest.raises(UserError, match=r"no column 'question' \(it has id, prompt, category"):
        load_prompts(path, column="question")


def test_a_column_missing_in_one_row_is_refused(tmp_path):
    path = written(tmp_path / "mine.jsonl", [*ROWS, {"id": "z", "text": "third"}])
    with pytest.raises(UserError, match=r"no column 'prompt' \(it has id, text\)"):
        load_prompts(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_empty_files_are_refused(tmp_path, suffix):
    path = tmp_path / f"mine{suffix}"
    path.write_text("")
    with pytest.raises(UserError, match="holds no prompts"):
        load_prompts(path)


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no prompts"):
        load_prompts(written(tmp_path / "mine.jsonl", ROWS), split="nowhere")


@pytest.mark.parametrize("text", [None, "", "  ", 7])
def test_rows_without_text_are_refused(tmp_path, text):
    path = written(tmp_path / "mine.jsonl", [ROWS[0], {"id": "z", "prompt": text}])
    with pytest.raises(UserError, match=r"1 rows without text in 'prompt' \(the first is row 2\)"):
        load_prompts(path)


def test_torn_json_is_refused_by_line(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "whole"}\n{"prompt": "to')
    with pytest.raises(UserError, match=r"Line 2 of .* is not JSON"):
        load_prompts(path)
    path.write_text('"only text"\n')
    with pytest.raises(UserError, match=r"Line 1 of .* no JSON object"):
        load_prompts(path)


def test_missing_and_unknown_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_prompts(tmp_path / "nothing.jsonl")
    (tmp_path / "mine.txt").write_text("a")
    with pytest.raises(UserError, match="of no known kind"):
        load_prompts(tmp_path / "mine.txt")


def test_a_torn_parquet_file_is_refused(tmp_path):
    path = written(tmp_path / "mine.parquet", ROWS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"mine\.parquet"):
        load_prompts(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_file_in_another_encoding_is_refused(tmp_path, suffix):
    path = tmp_path / f"mine{suffix}"
    path.write_bytes("prompt\nGrüße?\n".encode("latin-1"))
    with pytest.raises(UserError, match="mine"):
        load_prompts(path)


def test_a_byte_order_mark_is_no_part_of_a_column_name(tmp_path):
    for suffix, text in ((".csv", "prompt\nHello?\n"), (".jsonl", '{"prompt": "Hello?"}\n')):
        path = tmp_path / f"mine{suffix}"
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert load_prompts(path).texts == ["Hello?"]


def test_a_line_separator_inside_json_text_is_no_new_line(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "one\u2028line"}\n', encoding="utf-8")
    assert load_prompts(path).texts == ["one\u2028line"]


# Rows that would be half understood.


def file(tmp_path, name: str, content: str | bytes):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("prompt\nFine.\nFirst, second\n", "Row 2 of .* 2 fields where the header has 1; .*quotes"),
        ("id,prompt\n1,First, second\n", "Row 1 of .* 3 fields where the header has 2"),
        ("id,prompt,category\n1,First\n", "Row 1 of .* 2 fields where the header has 3"),
        ('id,prompt\n1,"a\nb"\n2\n', "Row 2 of .* 1 fields"),
        ("prompt,prompt\na,b\n", "more than one column 'prompt'"),
        ("prompt, prompt\na,b\n", "more than one column 'prompt'"),
        (",prompt\n0,a\n", "Column 1 of .* no name; .*index=False"),
        ("prompt,\na,\n", "Column 2 of .* no name"),
        ('prompt\nFine.\n"open\n', r"Row 2 of .* not CSV \(unexpected end of data\)"),
        ('prompt\n"a"b\n', "Row 1 of .* not CSV"),
        ('"prompt\n', "The header of .* not CSV"),
        ("prompt\na\0b\n", "NUL"),
        ("prompt\nText?\n".encode("utf-16-le"), "NUL"),
        ("prompt\nText?\n".encode("utf-16"), "could not be read"),
        ("prompt\n" + "a" * 200_000 + "\n", "Row 1 of .* not CSV .*field larger"),
    ],
)
def test_csv_that_is_half_understood_is_refused(tmp_path, content, said):
    with pytest.raises(UserError, match=f"(?s){said}"):
        load_prompts(file(tmp_path, "mine.csv", content))


def test_white_space_in_a_csv_header_is_no_part_of_a_name(tmp_path):
    path = file(tmp_path, "mine.csv", "prompt, category\r\nText?, a\r\n\r\n")
    assert load_prompts(path).prompts == (Prompt("0", "Text?", "a"),)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"prompt": "a", "prompt": "b"}', "'prompt' stands twice"),
        ('{"prompt": "a", "more": {"x": 1, "x": 2}}', "'x' stands twice"),
        (r'{"prompt": "a \ud800"}', "surrogates"),
        (r'{"prompt": "a", "more": ["\udc00"]}', "surrogates"),
        (r'{"prompt": "a", "\ud83d": 1}', "surrogates"),
        ('{"prompt": "a", "id": NaN}', "NaN is no JSON"),
        ('{"prompt": "a", "more": [-Infinity]}', "-Infinity is no JSON"),
        ('{"prompt": "a", "more": 1e999}', "too large"),
        ('{"prompt": "a", "more": ' + "1" * 5000 + "}", "4300 digits"),
        ('{"prompt": "a", "more": ' + "[" * 100_000, "recursion"),
        ('{"prompt": "a\0"}', "not JSON"),
        ("[]", "no JSON object"),
    ],
)
def test_json_that_is_half_understood_is_refused_by_line(tmp_path, line, said):
    path = file(tmp_path, "mine.jsonl", '{"prompt": "Fine."}\n' + line + "\n")
    with pytest.raises(UserError, match=said) as refused:
        load_prompts(path)
    assert "ine 2" in str(refused.value)
    assert "mine.jsonl" in str(refused.value)


def test_whole_characters_written_as_two_halves_are_read(tmp_path):
    assert load_prompts(file(tmp_path, "a.jsonl", r'{"prompt": "\ud83d\ude00"}')).texts == ["😀"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_kind_of_line_end(tmp_path, end):
    path = file(tmp_path, "mine.jsonl", end.join(['{"prompt": "a"}', "", '{"prompt": "b"}']))
    assert load_prompts(path).texts == ["a", "b"]


def test_parquet_that_is_half_understood_is_refused(tmp_path):
    path = tmp_path / "mine.parquet"
    for names, said in ((["prompt", "prompt"], "mine.parquet"), (["prompt", ""], "no name")):
        parquet.write_table(pa.table([["a"], ["b"]], names=names), path)
        with pytest.raises(UserError, match=said):
            load_prompts(path)
    odd = pa.array(["a"]).cast(pa.binary()).view(pa.string())
    broken = pa.StringArray.from_buffers(1, odd.buffers()[1], pa.py_buffer(b"\xff"))
    parquet.write_table(pa.table({"prompt": broken}), path)
    with pytest.raises(UserError, match=r"mine\.parquet"):
        load_prompts(path)
    for content in (b"", b"PAR1", b"PAR1" + b"\xff" * 40 + b"PAR1"):
        with pytest.raises(UserError, match=r"mine\.parquet"):
            load_prompts(file(tmp_path, "mine.parquet", content))


def test_endings_in_capitals_are_known(tmp_path):
    assert load_prompts(file(tmp_path, "MINE.JSONL", '{"prompt": "a"}')).texts == ["a"]


def test_folders_and_files_that_cannot_be_read_are_said(tmp_path, monkeypatch):
    (tmp_path / "mine.jsonl").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        load_prompts(tmp_path / "mine.jsonl")
    with pytest.raises(UserError, match="cannot be read"):
        load_prompts("a\0b.jsonl")
    with pytest.raises(UserError, match="cannot be read"):
        load_prompts(f"{'a' * 999}.jsonl")
    path = file(tmp_path, "own.csv", "prompt\na\n")

    def forbidden(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.read_bytes", forbidden)
    with pytest.raises(UserError, match=r"own\.csv' cannot be read \(Permission denied\)"):
        load_prompts(path)


# Columns that name things.


def labelled(value: object, column: str = "category") -> PromptSet:
    return prompts_of([{"prompt": "a", column: value}], "mine")


@pytest.mark.parametrize("nothing", [None, "", "  ", float("nan")])
def test_what_means_nothing_is_no_category_and_no_id(nothing):
    assert labelled(nothing).prompts[0].category is None
    assert labelled(nothing, "id").prompts[0].id == "0"


def test_categories_and_ids_are_text(tmp_path):
    path = tmp_path / "mine.jsonl"
    rows = [{"category": 1, "id": 0}, {"category": "a"}, {"category": True}, {"category": 0.5}]
    path.write_text("".join(json.dumps({"prompt": "a", **row}) + "\n" for row in rows))
    prompts = load_prompts(path).prompts
    assert sorted(p.category for p in prompts) == ["0.5", "1", "True", "a"]
    assert [p.id for p in prompts] == ["0", "1", "2", "3"]
    day = datetime.date(2024, 7, 26)
    parquet.write_table(pa.table({"prompt": ["a"], "category": [day]}), tmp_path / "a.parquet")
    assert load_prompts(tmp_path / "a.parquet").prompts[0].category == "2024-07-26"


@pytest.mark.parametrize("column", ["category", "id", "split"])
@pytest.mark.parametrize("value", [["a"], {"a": 1}, b"a"])
def test_a_name_that_is_no_text_is_refused(column, value):
    rows = [{"prompt": "a"}, {"prompt": "b", column: value}]
    with pytest.raises(UserError, match=f"Row 2 of 'mine' has a .* in '{column}'"):
        prompts_of(rows, "mine", split="test" if column == "split" else None)
    if column == "split":
        assert len(prompts_of(rows, "mine")) == 2  # not asked for


def test_splits_are_read_from_any_plain_value():
    rows = [{"prompt": str(i), "split": s} for i, s in enumerate([1, "1", None, " test ", ""])]
    assert splits_of(rows, "mine") == {"1", "test"}
    assert prompts_of(rows, "mine", split="1").texts == ["0", "1"]
    with pytest.raises(UserError, match=r"no prompts of the split 'find' \(it has 1, test\)"):
        prompts_of(rows, "mine", split="find")


def test_rows_are_numbered_as_in_the_file_when_a_split_is_asked_for():
    rows = [{"prompt": "a", "split": "find"}, {"prompt": "b", "split": "test"}]
    assert prompts_of(rows, "mine", split="test").prompts[0].id == "1"
    with pytest.raises(UserError, match="the first is row 2"):
        prompts_of([rows[0], {"prompt": "", "split": "test"}], "mine", split="test")


def test_validate_reads_a_file_once_and_takes_its_splits(tmp_path, monkeypatch):
    path = tmp_path / "mine.jsonl"
    rows = [{"prompt": f"text {i}", "split": ["select", "test"][i % 2]} for i in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = []
    plain = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: read.append(self) or plain(self))
    select, test = parts_of(path, {"select": 1 / 3, "test": 2 / 3})
    assert (select.texts, test.texts) == (["text 0", "text 2"], ["text 1", "text 3"])
    assert read == [path]
    path.write_text('{"prompt": "a", "split": ["select"]}\n')
    with pytest.raises(UserError, match="a list in 'split'"):
        parts_of(path, {"select": 1 / 3, "test": 2 / 3})


def test_a_file_is_divided_into_three_by_the_shares(tmp_path):
    path = tmp_path / "mine.jsonl"
    texts = builtin(Kind.HARMLESS, Split.TEST).texts[:60]
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    shares = {"find": 1 / 2, "select": 1 / 6, "test": 1 / 3}
    found = parts_of(path, shares, seed=3)
    assert sorted(text for of in found for text in of.texts) == sorted(texts)
    sizes = [len(of) for of in found]
    assert all(abs(size - wanted) <= 6 for size, wanted in zip(sizes, (30, 10, 20), strict=True))
    for i, of in enumerate(found):
        for other in found[i + 1 :]:
            assert not near_duplicates(of, other)
    assert found == parts_of(path, shares, seed=3)
    assert found != parts_of(path, shares, seed=4)


def test_judge_refuses_what_it_could_not_write_before_it_judges(tmp_path):
    path, out = tmp_path / "mine.parquet", tmp_path / "out.jsonl"
    table = {"prompt": ["a"], "response": ["b"], "day": [datetime.date(2024, 7, 26)]}
    for more in ({}, {"day": [float("nan")]}):
        parquet.write_table(pa.table({**table, **more}), path)
        refused(invoke("judge", path, "--out", out), "mine.parquet", "holds what JSON cannot")
        assert not out.exists()


# Chats.


def test_a_template_writes_the_only_bos():
    ids = ChatFormat().encode(tokenizer(), "w10 w11")
    assert ids == [BOS, 5, 10, 11, 6]  # <s> user w10 w11 assistant
    assert tokenizer()("w10")["input_ids"] == [BOS, 10]  # it would have added one


def test_without_a_template_the_tokenizer_adds_its_bos():
    plain = tokenizer()
    plain.chat_template = None
    assert ChatFormat().encode(plain, "w10 w11") == [BOS, 10, 11]
    assert ChatFormat("w20").encode(plain, "w10") == [BOS, 20, 10]


def test_a_system_prompt_stands_first():
    assert ChatFormat("w20").encode(tokenizer(), "w10") == [BOS, 4, 20, 5, 10, 6]
    assert ChatFormat("").encode(tokenizer(), "w10") == [BOS, 4, 5, 10, 6]  # asked for, and empty


def test_the_manifest_tells_templates_apart():
    one, other = tokenizer(), tokenizer()
    other.chat_template += " "
    described = [ChatFormat("w9").describe(t) for t in (one, other)]
    assert described[0]["template_sha256"] != described[1]["template_sha256"]
    assert described[0]["system_prompt"] == "w9"
    assert described[0]["example"] == "<s> system w9 user PROMPT assistant"


@pytest.mark.parametrize(("context", "fits"), [(25, True), (24, False)])
def test_prompts_that_leave_no_room_are_refused(context, fits):
    prompts = named("w10", " ".join(["w10"] * 12))  # 15 tokens as a chat
    options = {"context_length": context, "max_new_tokens": 10}
    if fits:
        assert len(encode_all(prompts, tokenizer(), ChatFormat(), **options)[1]) == 15
    else:
        with pytest.raises(UserError, match=r"1 prompts of 'named' .*id '1' has 15"):
            encode_all(prompts, tokenizer(), ChatFormat(), **options)


def test_batches_are_padded_on_the_left_and_positions_skip_padding(zoo):
    pair = zoo.pair(zoo.source("llama", None), zoo.source("llama", None))
    tokens = left_padded([[BOS, 10, 11], [BOS]], pair)
    assert tokens.ids.tolist() == [[BOS, 10, 11], [PAD, PAD, BOS]]
    assert tokens.mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert tokens.positions.tolist() == [[0, 1, 2], [0, 0, 0]]


def test_completions_are_read_without_special_tokens():
    assert decode_text(tokenizer(), [10, 11, EOS]) == "w10 w11"
