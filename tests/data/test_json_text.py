"""JSON of others: every fault is a sentence with the place."""

import gzip
import json
import math
import re
from pathlib import Path

import pytest

from longspan.data.examples_files import read_records
from longspan.data.json_text import numbers_of, parse_json, to_json
from longspan.tasks.files import read_json, read_json_lines


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "a.json line 3 is not valid JSON: Expecting property name"),
        ("[" * 100_000, "a.json line 3 is nested too deep to be read as JSON; a line is an object"),
        ("1" * 5_000, "a.json line 3 holds a number that can't be read: Exceeds the limit"),
        ('{"a": 1, "a": 2}', "a.json line 3 names 'a' twice; give every field a name of its own"),
        ('{"b": {"a": 1, "a": 2}}', "names 'a' twice"),
    ],
)
def test_faults_are_one_sentence(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_json(text, "a.json line 3", "a line is an object", once=True)


def test_what_is_whole_is_read() -> None:
    assert parse_json('{"a": [1, {"b": null}]}', "a", "b", once=True) == {"a": [1, {"b": None}]}
    assert parse_json('{"a": 1, "a": 2}', "a", "b") == {"a": 2}


def test_damaged_archives_are_named(tmp_path: Path) -> None:
    """Bytes that no archive holds: zlib's own error, from which neither reader made a sentence."""
    whole = bytearray(gzip.compress(b'{"text": "a contract", "label": "x"}\n' * 400, mtime=0))
    whole[10:14] = b"\xff" * 4
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(whole)
    for read in (lambda: list(read_records([file])), lambda: list(read_json_lines(file, "reviews"))):
        with pytest.raises(ValueError, match=r"a.jsonl.gz is damaged: .*; make or fetch the file again"):
            read()
    (tmp_path / "b.json").write_text("[\n,]")
    with pytest.raises(ValueError, match=r"b.json line 2 is not valid JSON"):
        read_json(tmp_path / "b.json", "questions")


def test_damaged_and_doubled_parquet_is_named(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    file = tmp_path / "a.parquet"
    pq.write_table(pa.table([pa.array(["x"]), pa.array(["y"])], names=["text", "text"]), file)
    with pytest.raises(ValueError, match=r"a.parquet names column 'text' twice"):
        list(read_records([file]))
    texts = [f"{number} {number**9} contracts" for number in range(300)]
    pq.write_table(pa.table({"text": texts}), file, use_dictionary=False, compression="gzip")
    data = bytearray(file.read_bytes())
    data[200:400] = b"\xff" * 200
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"a.parquet is damaged after row 0: .*; make or fetch the file again"):
        list(read_records([file]))


def test_what_is_written_is_valid_json() -> None:
    held = {"a": [1, 2.5, math.inf, (math.nan, "NaN")], "b": {"c": -math.inf, "d": None, "e": True}}
    text = to_json(held, indent=1)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    read = json.loads(text, parse_constant=refuse)
    assert read == {"a": [1, 2.5, None, [None, "NaN"]], "b": {"c": None, "d": None, "e": True}}
    assert "\n" in text
    numbers = numbers_of({"x": 1, "y": 2.5, "z": None})
    assert (numbers["x"], numbers["y"]) == (1, 2.5)
    assert math.isnan(numbers["z"])
