"""The demo's corpus and tokenizer."""

import shutil
import sysconfig
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from longspan.demo.corpus import SourceFile, read_files, read_standard_library, split_files, write_corpus
from longspan.demo.tokenizer import train_tokenizer

SIZES = {"held_out_files": 3, "long_characters": 3000, "excerpt_characters": 2000}


def names(files: list[SourceFile]) -> list[str]:
    return [file.name for file in files]


def test_this_pythons_library_is_enough_for_the_demo() -> None:
    files = read_standard_library()
    assert sum(len(file.text) for file in files) > 3_000_000
    corpus = split_files(files, held_out_files=16, long_characters=24_000, excerpt_characters=24_000)
    assert len(corpus.held_out) == 16
    here = sysconfig.get_paths()["purelib"]
    assert not any("site-packages" in file.name or "/test/" in file.name or here in file.name for file in files)


def test_files_that_are_no_text_are_left_out(library: Path, tmp_path: Path) -> None:
    whole = shutil.copytree(library, tmp_path / "library")
    before = names(read_standard_library(whole))
    for place in ("site-packages/a.py", "test/b.py", "package/tests/c.py", "encodings/d.py", "_sysconfigdata_x.py"):
        (whole / place).parent.mkdir(exist_ok=True)
        (whole / place).write_text("x = 1\n" * 200)
    (whole / "latin.py").write_bytes(b"# caf\xe9\n" * 200)
    (whole / "tiny.py").write_text("x = 1\n")
    (whole / "data.bin").write_text("x = 1\n" * 200)
    assert names(read_standard_library(whole)) == before


def test_the_split_is_disjoint_complete_and_repeatable(library: Path) -> None:
    files = read_standard_library(library)
    corpus = split_files(files, **SIZES)
    assert set(names(corpus.train)) | set(names(corpus.held_out)) == set(names(files))
    assert not set(names(corpus.train)) & set(names(corpus.held_out))
    assert split_files(list(reversed(files)), **SIZES) == corpus


def test_the_split_depends_on_names_only(library: Path) -> None:
    files = read_standard_library(library)
    longer = [SourceFile(name=file.name, text=file.text + "# one more line\n") for file in files]
    assert names(split_files(longer, **SIZES).held_out) == names(split_files(files, **SIZES).held_out)


def test_held_out_files_are_long_and_cut_at_a_line(library: Path) -> None:
    whole = {file.name: file.text for file in read_standard_library(library)}
    for file in split_files(read_standard_library(library), **SIZES).held_out:
        assert len(whole[file.name]) >= 3000
        assert 1900 < len(file.text) <= 2000
        assert file.text.endswith("\n")
        assert whole[file.name].startswith(file.text)


def test_a_limit_keeps_whole_files(library: Path) -> None:
    everything = read_standard_library(library)
    some = read_standard_library(library, max_characters=20_000)
    assert 0 < len(some) < len(everything)
    assert sum(len(file.text) for file in some) <= 20_000
    assert names(everything)[: len(some)] == names(some)


def test_too_little_text_is_refused(library: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no \.py or \.txt files in the standard library"):
        read_standard_library(tmp_path)
    with pytest.raises(ValueError, match="12 files, 0 of them of 100,000 characters or more; 3 such files"):
        split_files(read_standard_library(library), **{**SIZES, "long_characters": 100_000})


def test_the_corpus_is_written_as_it_is_read(library: Path, tmp_path: Path) -> None:
    corpus = split_files(read_standard_library(library), **SIZES)
    write_corpus(corpus, tmp_path / "text")
    assert read_files(tmp_path / "text" / "train.jsonl") == corpus.train
    assert read_files(tmp_path / "text" / "held_out.jsonl") == corpus.held_out


def test_the_tokenizer_has_robertas_special_tokens(library: Path, tmp_path: Path) -> None:
    texts = [file.text for file in read_standard_library(library)]
    made = train_tokenizer(texts, vocab_size=320, folder=tmp_path / "tokenizer")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    for tokenizer in (made, loaded):
        assert tokenizer.is_fast
        assert tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>"]) == [0, 1, 2, 3]
        assert tokenizer.mask_token_id == len(tokenizer) - 1
        text = "def café(x):\n\treturn '№'  # 東京"
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == 0
        assert ids[-1] == 2
        assert tokenizer.decode(ids[1:-1]) == text
        assert tokenizer("a<mask>b")["input_ids"].count(tokenizer.mask_token_id) == 1
    with pytest.raises(ValueError, match="vocab_size is 100; all bytes and the special tokens alone are 261"):
        train_tokenizer(texts, vocab_size=100, folder=tmp_path / "none")
