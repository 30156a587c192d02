"""Every form of example file is read, and every fault is a sentence with file, line and fix."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from longspan.data.examples import Answer, TaskName, collect_labels, read_examples, read_label_file, task_columns
from longspan.data.examples_files import read_records


def write_jsonl(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def write_text(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


RECORDS = [{"text": "Ein Fall, 東京", "label": "a"}, {"text": "two\nlines", "label": "b"}]


def test_all_kinds_of_files_hold_the_same_records(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    plain = write_jsonl(tmp_path / "a.jsonl", RECORDS)
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    comma = write_text(tmp_path / "a.csv", '\ufefftext,label\r\n"Ein Fall, 東京",a\r\n\r\n"two\nlines",b\r\n')
    semicolon = write_text(tmp_path / "b.csv", 'text;label\nEin Fall, 東京;a\n"two\nlines";b\n')
    tab = write_text(tmp_path / "a.tsv", 'text\tlabel\nEin Fall, 東京\ta\n"two\nlines"\tb\n')
    table = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(RECORDS), table)
    for file in (plain, packed, comma, semicolon, tab, table):
        assert [record.values for record in read_records([file])] == RECORDS, file
    assert [record.origin for record in read_records([comma])] == [f"{comma} line 2", f"{comma} line 4"]
    assert [record.origin for record in read_records([table])] == [f"{table} row 1", f"{table} row 2"]


def test_reading_is_lazy_and_a_cell_may_be_long(tmp_path: Path) -> None:
    file = write_text(tmp_path / "a.csv", "text,label\n" + "x " * 200_000 + ",a\nbad row\n")
    records = read_records([file])
    assert len(next(records).values["text"]) == 400_000
    with pytest.raises(ValueError, match="line 3 has 1 cells for 2 columns"):
        next(records)


CASES: list[tuple[TaskName, dict[str, Any], dict[str, Any], Any]] = [
    ("classification", {"text": "t", "label": 1}, {"text": "t"}, "1"),
    ("classification", {"text": "t", "label": True}, {"text": "t"}, "true"),
    ("classification", {"text": "t", "label": 2.0}, {"text": "t"}, "2"),
    ("multi-label", {"text": "t", "labels": [1, 0]}, {"text": "t"}, ("1", "0")),
    ("multi-label", {"text": "t", "labels": ["b", "a", "b"]}, {"text": "t"}, ("b", "a")),
    ("multi-label", {"text": "t", "labels": "b | a"}, {"text": "t"}, ("b", "a")),
    ("multi-label", {"text": "t", "labels": ""}, {"text": "t"}, ()),
    ("nli", {"premise": "p", "hypothesis": "h", "label": "no"}, {"premise": "p", "hypothesis": "h"}, "no"),
    ("sequential", {"sentences": ["a", "b"], "labels": ["x", None]}, {"sentences": ("a", "b")}, ("x", None)),
    ("sequential", {"sentences": '["a|b", "c"]', "labels": "x|y"}, {"sentences": ("a|b", "c")}, ("x", "y")),
    (
        "multiple-choice",
        {"context": "c", "choices": ["a", "b"], "answer": "B"},
        {"context": "c", "choices": ("a", "b"), "question": ""},
        1,
    ),
    ("qa", {"question": "q", "context": "ab ab", "answers": "ab"}, {"question": "q", "context": "ab ab"},
     (Answer("ab", 0),)),
    ("qa", {"question": "q", "context": "ab ab", "answers": {"text": ["ab"], "answer_start": [3]}},
     {"question": "q", "context": "ab ab"}, (Answer("ab", 3),)),
    ("qa", {"question": "q", "context": "ab ab", "answers": [{"text": "b", "answer_start": 4}]},
     {"question": "q", "context": "ab ab"}, (Answer("b", 4),)),
    ("qa", {"question": "q", "context": "ab", "answers": {"text": [], "answer_start": []}},
     {"question": "q", "context": "ab"}, ()),
    ("tokens", {"tokens": ["A", "b"], "tags": ["B-x", "O"]}, {"tokens": ("A", "b")}, ("B-x", "O")),
]  # fmt: skip


@pytest.mark.parametrize(("task", "record", "inputs", "target"), CASES)
def test_examples_of_every_task(
    tmp_path: Path, task: TaskName, record: dict[str, Any], inputs: dict[str, Any], target: Any
) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", [{**record, "id": 7}])
    (example,) = read_examples([file], task)
    assert (example.inputs, example.target, example.id) == (inputs, target, 7)
    del record[task_columns(task)[-1]]
    (unlabelled,) = read_examples([write_jsonl(file, [record])], task, with_target=False)
    assert unlabelled.inputs == inputs
    assert unlabelled.target is None


def test_columns_go_by_the_files_names(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", [{"body": "t", "kind": "x"}])
    (example,) = read_examples([file], "classification", columns={"text": "body", "label": "kind"})
    assert (example.inputs["text"], example.target) == ("t", "x")
    with pytest.raises(ValueError, match="no column 'lable'; did you mean 'label'"):
        list(read_examples([file], "classification", columns={"lable": "kind"}))


QA = {"question": "q", "context": "ab ab"}
FAULTS: list[tuple[TaskName, Any, str]] = [
    ("classification", {"label": "a"}, r"line 2 has no column 'text', it has 'label'; say which one it is"),
    ("classification", {"text": " ", "label": "a"}, r"line 2, column 'text' is empty"),
    ("classification", {"text": 3, "label": "a"}, r"line 2, column 'text' holds a int; it must be a text"),
    ("classification", {"text": "t", "label": None}, r"line 2, column 'label' is null"),
    ("classification", {"text": "t", "label": 0.5}, r"line 2, column 'label' is 0.5; a label is a text"),
    ("classification", {"text": "t", "label": "yess"}, r"line 2: label 'yess' is not one .* did you mean 'yes'"),
    ("classification", ["t"], r"line 2 holds a JSON list"),
    ("multi-label", {"text": "t", "labels": ["no", "maybe"]}, r"line 2: label 'maybe' is not one of the 2 labels"),
    ("multi-label", {"text": "t", "labels": {"yes": 1}}, r"line 2, column 'labels' holds a dict; it must be a list"),
    ("sequential", {"sentences": ["a"], "labels": ["yes", "no"]}, r"line 2 has 2 labels for 1 sentences"),
    ("sequential", {"sentences": ["a", ""], "labels": ["yes", "no"]}, r"column 'sentences' entry 2 is empty"),
    ("sequential", {"sentences": [], "labels": []}, r"line 2, column 'sentences' is an empty list"),
    ("multiple-choice", {"context": "c", "choices": ["a", "b"], "answer": 2}, r"line 2: the answer is choice 2, but"),
    ("multiple-choice", {"context": "c", "choices": ["a", "b"], "answer": "?"}, r"line 2, column 'answer' is '\?'"),
    (
        "multiple-choice",
        {"context": "c", "choices": ["a", "b"], "answer": "1" * 5_000},
        r"line 2, column 'answer' is '1+\.\.\.'; it must be the index",
    ),
    (
        "multi-label",
        {"text": "t", "labels": "[" * 100_000},
        r"line 2, column 'labels' is '\[+\.\.\.', which is no list in",
    ),
    (
        "multi-label",
        {"text": "t", "labels": "['no']"},
        r"is \"\['no'\]\", which is no list in JSON; put its texts between",
    ),
    (
        "multi-label",
        {"text": "t", "labels": [0, 1, 0]},
        r"is '\[0, 1, 0\]', a 0 or 1 for each label there is; name those",
    ),
    ("multi-label", {"text": "t", "labels": [True, True]}, r"is '\[True, True\]', a 0 or 1 for each label"),
    ("multiple-choice", {"context": "c", "choices": ["a"], "answer": 0}, r"column 'choices' has one choice"),
    ("qa", {**QA, "answers": ["x"]}, r"line 2: the answer 'x' is not in the context"),
    ("qa", {**QA, "answers": [{"text": "ab", "answer_start": 2}]}, r"not at answer_start 2 .* but at 3"),
    ("qa", {**QA, "answers": [{"text": "ab", "answer_start": -1}]}, r"not at answer_start -1 .* but at 0"),
    ("qa", {**QA, "answers": {"text": ["ab"], "answer_start": []}}, r"1 answers have 0 answer_start"),
    ("qa", {**QA, "answers": [5]}, r"line 2, column 'answers': answer 5 has no text"),
    ("tokens", {"tokens": ["a", "b"], "tags": ["no"]}, r"line 2 has 1 tags for 2 tokens"),
    ("tokens", {"tokens": "a b", "tags": "no no"}, r"'tokens' is 'a b', a text and no list of words; put \| between"),
]


@pytest.mark.parametrize(("task", "record", "message"), FAULTS)
def test_faults_name_file_line_and_fix(tmp_path: Path, task: TaskName, record: Any, message: str) -> None:
    file = tmp_path / "bad.jsonl"
    write_text(file, "\n" + json.dumps(record) + "\n")
    with pytest.raises(ValueError, match=message) as error:
        list(read_examples([file], task, labels=None if task == "qa" else ("yes", "no")))
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "t"}\n{"text": \n', "line 2 is not valid JSON: .* holds an object a line"),
        ("a.jsonl", b'{"text": "caf\xe9"}\n', "line 1 is not UTF-8 text: byte 0xe9"),
        ("a.jsonl.gz", b"not packed", "is damaged"),
        ("a.csv", b'text,label\n"open,a\nb,c\n', "line 2 is not valid CSV: .* close every double quote"),
        (
            "a.csv",
            gzip.compress(b"text,label\n", mtime=0),
            "line 1 is not UTF-8 text but the beginning of a gzip file; unpack it",
        ),
        (
            "a.jsonl.gz",
            gzip.compress(gzip.compress(b"{}", mtime=0), mtime=0),
            "beginning of a gzip file; unpack it, .* if it is packed once",
        ),
        ("a.jsonl", b"\x28\xb5\x2f\xfd\x00", "the beginning of a zstd file; unpack it"),
        ("a.csv", "text,label\n".encode("utf-16"), "beginning of UTF-16; convert the file to UTF-8 .iconv -f UTF-16"),
        (
            "a.csv",
            "\ufefftext,label\na,b\n\ufefftext,label\nc,d\n".encode(),
            "line 3 names the columns again; take it out",
        ),
        ("a.csv", b"", "is empty; its first line must name the columns"),
        ("a.csv", b"text,text\na,b\n", "line 1 names column 'text' twice"),
        ("a.parquet", b"not a table", "is not a readable parquet file"),
        ("a.xlsx", b"", "unknown extension; examples are read from .jsonl"),
    ],
)
def test_faulty_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read_records([file]))


@pytest.mark.parametrize(
    "content",
    [
        b'"body, whole";label\r\n"a, b";c\r\n',
        b"sep=;\r\nbody, whole;label\r\na, b;c\r\n",
        b"body, whole\tlabel\ttime\na, b\tc\td\n",
        b'"body, whole",label,,\n"a, b",c,,\n',
    ],
)
def test_spreadsheets_csv_files(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(content)
    (example,) = read_examples([file], "classification", columns={"text": "body, whole"})
    assert (example.inputs, example.target) == ({"text": "a, b"}, "c")
    assert example.origin == f"{file} line {content.count(bytes([10]))}"


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_lines_end_in_line_feeds_carriage_returns_or_both(tmp_path: Path, kind: str, end: bytes) -> None:
    file, separator = tmp_path / f"a.{kind}", ";" if kind == "csv" else "\t"
    rows = ["text;label", '"two\nlines, a\rreturn";b', "plain;c", ""]
    file.write_bytes(end.join(row.replace(";", separator).encode() for row in rows))
    texts = [(example.inputs["text"], example.target) for example in read_examples([file], "classification")]
    assert texts == [("two\nlines, a\rreturn", "b"), ("plain", "c")]


def test_a_carriage_return_within_a_line_is_called_that(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b"text,label\none,a\nt\rwo,b\n")
    with pytest.raises(
        ValueError, match=r"line 3 holds a carriage return that neither ends the line .* quote the cell"
    ):
        list(read_records([file]))


def test_files_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file"):
        list(read_records([tmp_path / "missing.jsonl"]))
    with pytest.raises(ValueError, match=r"is a folder; name its \.jsonl"):
        list(read_records([tmp_path]))
    with pytest.raises(ValueError, match="no file was given"):
        list(read_records([]))
    with pytest.raises(ValueError, match="task is 'ner'; it must be one of 'classification'"):
        list(read_examples([], "ner"))  # type: ignore[arg-type]


def test_tables_with_gaps_hold_whole_numbers_as_floats(tmp_path: Path) -> None:
    answers = [{"text": "b", "answer_start": 2.0}]
    file = write_jsonl(tmp_path / "a.jsonl", [{"question": "q", "context": "b b", "answers": answers}])
    assert next(read_examples([file], "qa")).target == (Answer("b", 2),)
    file = write_jsonl(tmp_path / "b.jsonl", [{"context": "c", "choices": ["a", "b"], "answer": 1.0}])
    assert next(read_examples([file], "multiple-choice")).target == 1


def test_an_empty_text_of_a_single_column_is_no_blank_line(tmp_path: Path) -> None:
    file = write_text(tmp_path / "a.csv", 'text\na\n\n""\nb\n')
    assert [record.values["text"] for record in read_records([file])] == ["a", "", "b"]
    with pytest.raises(ValueError, match=r"line 4, column 'text' is empty"):
        list(read_examples([file], "classification", with_target=False))


def test_a_number_is_one_label(tmp_path: Path) -> None:
    file = write_text(tmp_path / "a.csv", "text,label\na,1\nb,1.0\nc,2.5\n")
    with pytest.raises(ValueError, match=r"hold the labels '1' and '1.0', which are the same number; write one"):
        collect_labels("classification", read_examples([file], "classification"))
    file = write_text(tmp_path / "b.csv", "text,label\na,1.0\nb,2.0\nc,2.5\n")
    assert collect_labels("classification", read_examples([file], "classification")) == ("1.0", "2.0", "2.5")


def test_label_sets(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", [{"text": "t", "label": label} for label in (10, 9, "x", 9)])
    assert collect_labels("classification", read_examples([file], "classification")) == ("9", "10", "x")
    long = "1" * 5_000
    write_jsonl(file, [{"text": "t", "label": label} for label in ("x", long, 9)])
    assert collect_labels("classification", read_examples([file], "classification")) == ("9", long, "x")
    with pytest.raises(ValueError, match="hold '9'; classification needs at least 2"):
        collect_labels(
            "classification", read_examples([write_jsonl(file, [{"text": "t", "label": 9}])], "classification")
        )
    assert read_label_file(write_text(tmp_path / "labels.txt", "no\n\nyes\n")) == ("no", "yes")
    with pytest.raises(ValueError, match="line 3 names label 'no' again, after line 1"):
        read_label_file(write_text(tmp_path / "labels.txt", "no\nyes\nno\n"))
    with pytest.raises(ValueError, match="is empty; write one label a line"):
        read_label_file(write_text(tmp_path / "labels.txt", "\n"))
    with pytest.raises(FileNotFoundError, match="there is no label file"):
        read_label_file(tmp_path / "none.txt")


def test_half_characters_and_numbers_for_labels_are_named(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "ok \\ud800", "label": "x"}\n')
    with pytest.raises(ValueError, match=r"a.jsonl line 1, column 'text' holds half of a character, .* at position 3"):
        list(read_examples([file], "classification"))
    file.write_text('{"text": "ok", "label": 1.5}\n')
    with pytest.raises(ValueError, match=r"column 'label' is 1.5; a label is a text or a whole number"):
        list(read_examples([file], "classification"))
    with pytest.raises(ValueError, match="say which one it is: --column premise=NAME"):
        list(read_examples([file], "nli"))


def test_the_examples_of_the_page_are_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "finetuning.md").read_text(encoding="utf-8")
    lines = page.partition("```json\n")[2].partition("```")[0].splitlines()
    tasks: list[TaskName] = ["classification", "multi-label", "nli", "sequential", "multiple-choice", "qa", "tokens"]
    for task, line in zip(tasks, lines, strict=True):
        (tmp_path / "example.jsonl").write_text(line, encoding="utf-8")
        [example] = read_examples([tmp_path / "example.jsonl"], task)
        assert example.target is not None
