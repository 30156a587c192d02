"""Reading documents: every kind of file, and a clear sentence for every fault."""

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_text import make_texts, write_jsonl, write_parquet

from longspan.data.text import as_documents, find_files, read_documents

TEXTS = make_texts(6)


def texts_of(*paths: Path, **options: object) -> list[str]:
    return [document.text for document in read_documents(paths, **options)]  # type: ignore[arg-type]


def test_every_kind_of_file_gives_the_same_texts(tmp_path: Path) -> None:
    plain = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    table = write_parquet(tmp_path / "c.parquet", TEXTS)
    folder = tmp_path / "folder"
    (folder / "deeper").mkdir(parents=True)
    for number, text in enumerate(TEXTS):
        (folder / ("deeper" if number < 3 else "") / f"{number}.txt").write_text(text, encoding="utf-8")
    assert texts_of(plain) == texts_of(packed) == texts_of(table) == TEXTS
    assert sorted(texts_of(folder)) == sorted(TEXTS)
    assert texts_of(plain, table) == TEXTS + TEXTS


def test_lines_of_a_txt_file_can_be_documents(tmp_path: Path) -> None:
    file = tmp_path / "lines.txt"
    file.write_bytes("one\r\n\ntwo é\n   \nthree".encode())
    documents = list(read_documents([file], txt_document="line"))
    assert [document.text for document in documents] == ["one", "two é", "three"]
    assert [document.origin for document in documents] == [f"{file} line {n}" for n in (1, 3, 5)]


def test_lines_may_end_in_carriage_returns_alone(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\r\rtwo")
    (tmp_path / "b.txt").write_bytes(b"one\r\ntw\ro\n")
    assert texts_of(tmp_path, txt_document="line") == ["one", "two", "one", "tw\ro"]


def test_a_program_may_end_while_it_reads(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\ntwo\n")
    program = (
        f"from longspan.data.text import read_documents as r; d = r([{str(tmp_path)!r}], txt_document='line'); next(d)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=True, stderr=subprocess.PIPE).stderr == b""


def test_empty_null_and_blank_texts_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": ""}\n\n{"text": null}\n{"text": "x"}\n{"text": " \\n"}\n', encoding="utf-8")
    (tmp_path / "b.txt").write_text("  \n", encoding="utf-8")
    assert texts_of(tmp_path) == ["x"]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello")
    assert texts_of(tmp_path / "a.txt") == ["hello"]


def test_folders_are_read_in_a_fixed_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", ".hidden.txt", "notes.md"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "c.txt").write_text("c", encoding="utf-8")
    assert find_files([tmp_path]) == [tmp_path / "a.txt", tmp_path / "b.txt"]


def test_undecodable_bytes_name_file_and_offset(tmp_path: Path) -> None:
    whole = tmp_path / "whole.txt"
    whole.write_bytes("café ".encode() + b"\xff rest")
    with pytest.raises(ValueError, match=r"whole\.txt line 1 is not UTF-8 text: byte 0xff at offset 6 "):
        texts_of(whole)
    lines = tmp_path / "lines.jsonl"
    lines.write_bytes(b'{"text": "ok"}\n{"text": "caf\xe9"}\n')
    with pytest.raises(ValueError, match=r"lines\.jsonl line 2 is not UTF-8 text: byte 0xe9 at offset 28 "):
        texts_of(lines)
    assert lines.read_bytes()[28] == 0xE9


@pytest.mark.parametrize("txt_document", ["file", "line"])
def test_what_is_no_text_though_it_decodes_is_named(tmp_path: Path, txt_document: str) -> None:
    """UTF-16 of English without a byte-order mark, and many programs, are valid UTF-8."""
    (tmp_path / "wide.txt").write_bytes("café\n".encode() + "court".encode("utf-16-le"))
    with pytest.raises(
        ValueError, match=r"wide\.txt line 2 is not text: it holds a zero byte at offset 7, as UTF-16, .* UTF-8"
    ):
        texts_of(tmp_path / "wide.txt", txt_document=txt_document)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a"', r"bad\.jsonl line 2 is not valid JSON: .* at column 13"),
        ('["a"]', r"bad\.jsonl line 2 holds a JSON list"),
        ('{"body": "a", "id": 1}', r"bad\.jsonl line 2 has no field 'text', it has 'body', 'id'; .*text_field"),
        ("{}", r"bad\.jsonl line 2 has no field 'text', it has no field at all"),
        ('{"text": 3}', r"bad\.jsonl line 2: field 'text' holds a int, it must be a string"),
        ('{"text": "a", "text": "b"}', r"bad\.jsonl line 2 names 'text' twice"),
        ('{"text": "a\\ud800"}', r"bad\.jsonl line 2 holds half of a character, '\\ud800' at position 1"),
        ("[" * 100_000, r"bad\.jsonl line 2 is nested too deep to be read as JSON"),
        ('{"id": ' + "1" * 5_000 + "}", r"bad\.jsonl line 2 holds a number that can't be read: Exceeds the limit"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "fine"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        texts_of(tmp_path / "bad.jsonl")


def test_parquet_faults_are_named(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", TEXTS)
    with pytest.raises(ValueError, match=r"a\.parquet has no field 'body', it has 'text', 'number'"):
        texts_of(file, text_field="body")
    with pytest.raises(ValueError, match=r"a\.parquet: column 'number' holds int64"):
        texts_of(file, text_field="number")
    (tmp_path / "b.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=r"b\.parquet is not a readable parquet file"):
        texts_of(tmp_path / "b.parquet")
    data = bytearray(file.read_bytes())
    data[20:120] = b"\xff" * 100
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.parquet is damaged after row 0: .*; make or fetch the file again"):
        texts_of(file)


def test_a_torn_gzip_file_is_named(tmp_path: Path) -> None:
    whole = gzip.compress((json.dumps({"text": "a" * 5000}) + "\n").encode())
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"a\.jsonl\.gz is damaged"):
        texts_of(tmp_path / "a.jsonl.gz")


def test_changed_bytes_of_a_gzip_file_are_named(tmp_path: Path) -> None:
    whole = bytearray(gzip.compress(b'{"text": "a contract"}\n' * 400, mtime=0))
    whole[10:14] = b"\xff" * 4
    (tmp_path / "a.jsonl.gz").write_bytes(whole)
    with pytest.raises(ValueError, match=r"a\.jsonl\.gz is damaged: .*; make or fetch the file again"):
        texts_of(tmp_path / "a.jsonl.gz")


def test_a_file_that_cannot_be_read_is_no_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("x", encoding="utf-8")

    def refuse(_: Path, _mode: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ValueError, match=r"a\.txt can't be read: Permission denied"):
        texts_of(tmp_path)


def test_paths_without_text_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape(f"there is no file or folder {tmp_path / 'x'}")):
        find_files([tmp_path / "x"])
    with pytest.raises(FileNotFoundError, match="is empty; put text files"):
        find_files([tmp_path])
    (tmp_path / "a.csv").write_text("x", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"holds only \.csv files"):
        find_files([tmp_path])
    with pytest.raises(ValueError, match=r"a\.csv has an unknown extension; text is read from \.txt, \.jsonl"):
        find_files([tmp_path / "a.csv"])
    with pytest.raises(ValueError, match="no text was given"):
        find_files([])


def test_a_caller_may_give_texts_instead_of_paths(tmp_path: Path) -> None:
    assert [document.text for document in as_documents(["one text", "two"])] == ["one text", "two"]
    assert [document.text for document in as_documents(write_jsonl(tmp_path / "a.jsonl", TEXTS))] == TEXTS
    assert [document.text for document in as_documents([str(tmp_path)])] == TEXTS
    one_line = "longer than any name of a file " * 20
    assert [document.text for document in as_documents([one_line])] == [one_line]
    with pytest.raises(FileNotFoundError, match=r"gone\.txt"):
        list(as_documents("gone.txt"))
    with pytest.raises(ValueError, match="text 1 holds half of a character"):
        list(as_documents(["a \ud800"]))
    with pytest.raises(TypeError, match="text 2 must be a string, got int"):
        list(as_documents(["a", 3]))  # type: ignore[list-item]
