"""Bytes and characters of official files, own files and folders; sequences as a function of their number."""

import gzip
import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tiny_text import write_parquet
from transformers import AutoTokenizer

from longspan.data import characters
from longspan.data.characters import Alphabet, CharacterCorpus, CharacterSequences, Official

TEXT = "the court of Strasbourg, naïve: § 7 東京 ﬁn\nline two\r\n" * 20


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_bytes(TEXT.encode())
    return file


def read(paths: object, tmp_path: Path, **options: object) -> CharacterCorpus:
    return CharacterCorpus.of_files(paths, cache_dir=tmp_path / "cache", **options)  # type: ignore[arg-type]


def test_bytes_and_characters_come_back(text_file: Path, tmp_path: Path) -> None:
    as_bytes = read(text_file, tmp_path)
    assert (len(as_bytes.alphabet), len(as_bytes.symbols)) == (256, len(TEXT.encode()))
    assert as_bytes.alphabet.decode(as_bytes.symbols) == TEXT
    as_characters = read(text_file, tmp_path, unit="characters")
    assert len(as_characters.symbols) == len(TEXT)
    assert as_characters.alphabet.characters == "".join(sorted(set(TEXT)))
    assert as_characters.alphabet.decode(as_characters.symbols) == TEXT
    with pytest.raises(ValueError, match="the text holds half of a character"):
        as_bytes.alphabet.encode("a \ud800")
    assert isinstance(as_characters.symbols, np.memmap)
    assert as_bytes.digest != as_characters.digest


def test_characters_are_whole_across_pieces(text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(characters, "_PIECE", 7)  # cuts through characters of two and three bytes
    corpus = read(text_file, tmp_path, unit="characters")
    assert corpus.alphabet.decode(corpus.symbols) == TEXT


def test_many_characters_take_wider_symbols(tmp_path: Path) -> None:
    file = tmp_path / "wide.txt"
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 400)))
    file.write_text(text, encoding="utf-8")
    corpus = read(file, tmp_path, unit="characters")
    assert corpus.symbols.dtype == np.uint16
    assert corpus.alphabet.decode(corpus.symbols) == text


def test_the_text_is_read_once(text_file: Path, tmp_path: Path) -> None:
    first = read(text_file, tmp_path)
    (folder,) = (tmp_path / "cache").glob("characters-*")
    stamp = folder.stat().st_mtime_ns
    assert read(text_file, tmp_path).digest == first.digest
    assert folder.stat().st_mtime_ns == stamp
    text_file.write_bytes(TEXT.encode() + b"more")
    assert read(text_file, tmp_path).digest != first.digest


def test_a_folder_is_joined_by_line_breaks_and_leaves_out_what_is_no_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "sources"
    (folder / "b").mkdir(parents=True)
    (folder / "z.py").write_text("print(1)\n")
    (folder / "b" / "a.py").write_text("x = 'é'", encoding="utf-8")
    (folder / "b" / "a.pyc").write_bytes(b"\x00\x01\xff")
    (folder / ".hidden").write_text("no")
    with gzip.open(folder / "b" / "c.txt.gz", "wb") as stream:
        stream.write(b"packed\n")
    (folder / "b" / "picture.gz").write_bytes(gzip.compress(b"\x89PNG\0"))
    with caplog.at_level("INFO", logger="longspan"):
        corpus = read(folder, tmp_path)
    assert corpus.alphabet.decode(corpus.symbols) == "x = 'é'\npacked\nprint(1)\n"
    assert "2 files that are no UTF-8 text are left out" in caplog.text


def test_a_file_that_ends_within_a_character_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"torn \xc3")
    (tmp_path / "b.txt").write_text("whole", encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.txt is not UTF-8 text"):
        CharacterCorpus.of_files([tmp_path / "a.txt", tmp_path / "b.txt"], cache_dir=tmp_path, unit="characters")


@pytest.mark.parametrize("kind", ["raw", "zip", "gz"])
@pytest.mark.parametrize(("name", "unit"), [("text8", "characters"), ("enwik8", "bytes")])
def test_official_files_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, unit: characters.Unit, kind: str
) -> None:
    content = b" anarchism originated as a term of abuse" * 50
    monkeypatch.setitem(characters.OFFICIAL, name, Official(len(content), hashlib.md5(content).hexdigest(), unit))

    def write(content: bytes) -> Path:
        file = tmp_path / (name if kind == "raw" else f"{name}.{kind}")
        if kind == "zip":
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr(name, content)
        elif kind == "gz":
            file.write_bytes(gzip.compress(content))
        else:
            file.write_bytes(content)
        return file

    corpus = read(write(content), tmp_path)
    assert corpus.alphabet.unit == unit
    assert [len(corpus.part(split)) for split in ("train", "valid", "test")] == [1800, 100, 100]
    joined = np.concatenate([corpus.part(split) for split in ("train", "valid", "test")])
    assert corpus.alphabet.decode(joined).encode() == content
    with pytest.raises(ValueError, match=f"is not the published {name}: it has 1,999 bytes and MD5"):
        read(write(content[:-1]), tmp_path)


def test_the_published_figures() -> None:
    text8 = characters.OFFICIAL["text8"]
    corpus = CharacterCorpus(np.zeros(text8.bytes, np.uint8), Alphabet(), "")
    assert [len(corpus.part(split)) for split in ("train", "valid", "test")] == [90_000_000, 5_000_000, 5_000_000]


def test_another_text_in_a_models_alphabet(text_file: Path, tmp_path: Path) -> None:
    alphabet = read(text_file, tmp_path, unit="characters").alphabet
    other = tmp_path / "other.txt"
    other.write_text("court § 7", encoding="utf-8")
    corpus = read(other, tmp_path, alphabet=alphabet)
    assert corpus.alphabet == alphabet
    assert corpus.symbols.tolist() == alphabet.encode("court § 7").tolist()
    other.write_text("a zebra", encoding="utf-8")
    with pytest.raises(ValueError, match="the text holds 'z', which is none of the"):
        read(other, tmp_path, alphabet=alphabet)


def test_an_alphabet_is_saved_with_a_model(tmp_path: Path) -> None:
    for alphabet in (Alphabet(), Alphabet("abc\n東")):
        alphabet.save(tmp_path)
        assert Alphabet.load(tmp_path) == alphabet
    (tmp_path / "alphabet.json").write_text("{")
    with pytest.raises(ValueError, match=r"alphabet\.json is damaged"):
        Alphabet.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"holds no alphabet\.json, so it is no character language model"):
        Alphabet.load(tmp_path / "no")


@pytest.mark.parametrize("alphabet", [Alphabet(), Alphabet("".join(sorted(set(TEXT))))], ids=["bytes", "characters"])
def test_the_alphabet_as_a_tokenizer(alphabet: Alphabet, tmp_path: Path) -> None:
    alphabet.to_tokenizer().save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for text in (TEXT, " leading and  double spaces ", "\n\n", "東"):
        kept = text if alphabet.characters is None else "".join(c for c in text if c in alphabet.characters)
        ids = tokenizer(text)["input_ids"]
        assert ids == alphabet.encode(kept).tolist()
        assert tokenizer.decode(ids) == kept
    assert len(tokenizer) == len(alphabet)


def test_wrong_files_are_refused_in_a_sentence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    latin, empty, damaged, two = (tmp_path / name for name in ("latin.txt", "empty.txt", "x.gz", "two.zip"))
    latin.write_bytes("naïve".encode("latin-1"))
    empty.write_bytes(b"")
    for content in (b"not gzip", gzip.compress(b"text" * 99, mtime=0)[:10] + b"\xff" * 20):
        damaged.write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.gz is damaged: .*; make or fetch the file again"):
            read(damaged, tmp_path)
    with zipfile.ZipFile(two, "w") as archive:
        archive.writestr("a", "a")
        archive.writestr("b", "b")
    with pytest.raises(ValueError, match=r"latin\.txt is not UTF-8 text: .*; convert it"):
        read(latin, tmp_path, unit="characters")
    assert len(read(latin, tmp_path).symbols) == 5  # bytes may be in any encoding
    assert caplog.messages == [f"{latin} is not UTF-8 text; its bytes are read as they are."]
    wide, table = tmp_path / "wide.txt", write_parquet(tmp_path / "t.parquet", ["a text"])
    wide.write_bytes("naïve".encode("utf-16"))
    for file, unit in ((wide, "bytes"), (wide, "characters"), (table, None)):
        with pytest.raises(
            ValueError, match=rf"{file.name} is not text: it holds a zero byte at offset \d+, as UTF-16"
        ):
            read(file, tmp_path, unit=unit)
    with pytest.raises(ValueError, match=r"there is no text in .*empty\.txt"):
        read(empty, tmp_path)
    with pytest.raises(ValueError, match=r"two\.zip holds 2 files; only archives of one text are read"):
        read(two, tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        read(tmp_path / "no.txt", tmp_path)
    with pytest.raises(ValueError, match="unit must be 'bytes' or 'characters', got 'words'"):
        read(empty, tmp_path, unit="words")
    assert not list((tmp_path / "cache").glob(".*partial"))


def test_sequences_cover_the_text_and_are_a_function_of_their_number() -> None:
    symbols = np.arange(1000, dtype=np.uint16)
    sequences = CharacterSequences(symbols, 64, seed=3)
    assert sequences.per_pass == 14
    starts = [int(sequences[index][0]) for index in range(28)]
    again = CharacterSequences(symbols, 64, seed=3)
    assert [int(again[index][0]) for index in reversed(range(28))] == starts[::-1]
    for first in (0, 14):
        ordered = sorted(starts[first : first + 14])
        assert np.diff(ordered).tolist() == [64] * 13  # no two overlap
        assert ordered[-1] + 64 <= 999
    assert starts[:14] != starts[14:]
    assert sequences[5].tolist() == list(range(starts[5], starts[5] + 65))
    assert CharacterSequences(symbols, 64, seed=4)[0][0] != starts[0]
    assert CharacterSequences(symbols[:65], 64, seed=0)[7].tolist() == list(range(65))
    with pytest.raises(ValueError, match="has 64 symbols, too few for one sequence of sequence_length 64"):
        CharacterSequences(symbols[:64], 64, seed=0)
