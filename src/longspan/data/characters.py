"""Text as one long sequence of bytes or characters in a memory-mapped file: text8, enwik8, any file or folder."""

import codecs
import gzip
import hashlib
import json
import logging
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from longspan.data.atomic import atomic_directory, atomic_text
from longspan.data.json_text import check_characters
from longspan.data.paths import path_list
from longspan.data.text import visible_files

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

Unit = Literal["bytes", "characters"]
"""What a model predicts: UTF-8 bytes, or the Unicode characters that the text holds."""

Split = Literal["train", "valid", "test", "all"]
"""A part of a corpus: the first 90 %, the next 5 %, the last 5 %, or everything."""

Symbols = NDArray[np.unsignedinteger]

FORMAT = 1
"""Version of the cached files; part of the fingerprint."""

ALPHABET_FILE = "alphabet.json"
"""In a model's folder: what its symbols mean."""

_PIECE = 1 << 24  # bytes read at a time


@dataclass(frozen=True)
class Official:
    """A benchmark file as published (M. Mahoney, Large Text Compression Benchmark, "About the Test Data")."""

    bytes: int
    md5: str
    unit: Unit


OFFICIAL = {
    "text8": Official(100_000_000, "3bea1919949baf155f99411df5fada7e", "characters"),
    "enwik8": Official(100_000_000, "a1fa5ffddb56f4953e226637dabbb36a", "bytes"),
}
"""By the file's name, without .zip or .gz."""


@dataclass(frozen=True)
class Alphabet:
    """What the symbols of a text mean.

    ``characters`` is None for bytes, whose symbols are their 256 values; else symbol i is ``characters[i]``.
    """

    characters: str | None = None

    def __post_init__(self) -> None:
        if self.characters is not None and len(set(self.characters)) != len(self.characters):
            raise ValueError("an alphabet's characters must differ from each other")

    def __len__(self) -> int:
        return 256 if self.characters is None else len(self.characters)

    @property
    def unit(self) -> Unit:
        """``"bytes"`` or ``"characters"``."""
        return "bytes" if self.characters is None else "characters"

    @property
    def dtype(self) -> "np.dtype[np.unsignedinteger]":
        """The smallest type that holds every symbol."""
        return np.dtype(np.uint8 if len(self) <= 1 << 8 else np.uint16 if len(self) <= 1 << 16 else np.uint32)

    def encode(self, text: str) -> Symbols:
        """The symbols of a text.

        Raises:
            ValueError: a character that the alphabet lacks, or half of one.
        """
        if self.characters is None:
            check_characters(text, "the text")
            return np.frombuffer(text.encode("utf-8"), np.uint8)
        codes = _codes(text)
        known = _codes(self.characters)
        order = np.argsort(known)
        places = np.searchsorted(known[order], codes).clip(max=len(known) - 1)
        found = order[places]
        wrong = np.flatnonzero(known[found] != codes)
        if wrong.size:
            raise ValueError(
                f"the text holds {text[wrong[0]]!r}, which is none of the {len(self):,} characters of the alphabet; "
                "take it out, or train on bytes, which know every character"
            )
        return found.astype(self.dtype)

    def decode(self, symbols: Iterable[int]) -> str:
        """The text of some symbols; bytes that aren't UTF-8 become U+FFFD."""
        if self.characters is None:
            return bytes(symbols).decode("utf-8", errors="replace")
        return "".join(self.characters[symbol] for symbol in symbols)

    def to_tokenizer(self) -> "PreTrainedTokenizerFast":
        """The same as a tokenizer of ``transformers``, for its pipelines: one token for each symbol, no special ones.

        It leaves out characters that the alphabet lacks, where :meth:`encode` refuses them.
        """
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        if self.characters is None:
            letters = _byte_letters()
            tokenizer = Tokenizer(models.BPE({letter: byte for byte, letter in enumerate(letters)}, []))
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            tokenizer.decoder = decoders.ByteLevel()
        else:
            tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(self.characters)}, []))
            tokenizer.decoder = decoders.Fuse()
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)

    def save(self, folder: Path) -> None:
        """Write :data:`ALPHABET_FILE` into a folder."""
        atomic_text(folder / ALPHABET_FILE, json.dumps({"characters": self.characters}) + "\n", "the alphabet")

    @classmethod
    def load(cls, folder: str | Path) -> "Alphabet":
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: the folder holds no alphabet. ValueError: the file is damaged.
        """
        file = Path(folder) / ALPHABET_FILE
        if not file.is_file():
            raise FileNotFoundError(f"{folder} holds no {ALPHABET_FILE}, so it is no character language model")
        try:
            return cls(json.loads(file.read_text(encoding="utf-8"))["characters"])
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is damaged; copy it again from where the model was trained") from error


@dataclass(frozen=True, eq=False)
class CharacterCorpus:
    """One text as symbols in a memory-mapped file, which all processes and workers share."""

    symbols: Symbols
    """``[total]``, memory-mapped."""
    alphabet: Alphabet
    digest: str
    """SHA-256 of alphabet and symbols."""

    @classmethod
    def of_files(
        cls,
        paths: str | Path | Iterable[str | Path],
        *,
        cache_dir: Path,
        unit: Unit | None = None,
        alphabet: Alphabet | None = None,
    ) -> "CharacterCorpus":
        """The corpus of some files: read the first time, opened from ``cache_dir`` after that.

        A file named ``text8`` or ``enwik8`` (also ``.zip`` or ``.gz``) must be the published one. Other files are
        joined in the given order, a folder's by path, with a line break between; ``.gz`` files and ``.zip`` files of
        one member are unpacked. Files are read as they stand, a ``.jsonl`` or an HTML file with its syntax. In a
        folder, files that aren't UTF-8 text are left out. A file that is named may be in another encoding where bytes
        are wanted, with a warning, but may not hold bytes of 0, as UTF-16 and tables do.

        Args:
            paths: files and folders.
            cache_dir: where the symbols are kept.
            unit: bytes or characters; ``None``: characters for text8, else bytes.
            alphabet: read with this alphabet, that of a trained model, instead of the text's own.

        Raises:
            FileNotFoundError: a path doesn't exist, or a folder holds no text.
            ValueError: an official file that isn't, a file that is no text, text that isn't UTF-8 where characters are
                wanted, a damaged archive, no text at all, or a character that the alphabet lacks.
            OSError: the cache can't be written.
        """
        given = path_list(paths)
        files = _find(given)
        official = _official(files)
        if alphabet is not None:
            unit = alphabet.unit
        elif unit is None:
            unit = official[1].unit if official else "bytes"
        if unit not in ("bytes", "characters"):
            raise ValueError(f"unit must be 'bytes' or 'characters', got {unit!r}")
        stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        identity = [FORMAT, stats, unit, alphabet.characters if alphabet else None]
        folder = cache_dir / f"characters-{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]}"
        cache_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if not folder.exists():
                if official:
                    _check_official(files[0], *official)
                else:
                    for file in filter(Path.is_file, map(Path, given)):
                        _check_named(file, unit)
                _write(folder, files, unit, alphabet)
        meta = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
        found = Alphabet.load(folder)
        return cls(np.memmap(folder / "symbols.bin", dtype=found.dtype, mode="r"), found, meta["sha256"])

    def part(self, split: Split) -> Symbols:
        """The symbols of a split, still mapped. Of 100 million, train has 90, valid and test 5 million."""
        total = len(self.symbols)
        held_out = total // 20
        ends: dict[str, tuple[int, int]] = {
            "train": (0, total - 2 * held_out),
            "valid": (total - 2 * held_out, total - held_out),
            "test": (total - held_out, total),
            "all": (0, total),
        }
        if split not in ends:
            raise ValueError(f"split must be one of {', '.join(ends)}, got {split!r}")
        return self.symbols[slice(*ends[split])]


class CharacterSequences:
    """Endless training sequences of a text: sequence ``i`` is a function of text, length, seed and ``i``.

    Each pass cuts the text anew at a drawn offset and reads the pieces in a drawn order, so that no place is always the
    first of its sequence.
    """

    def __init__(self, symbols: Symbols, length: int, seed: int) -> None:
        if len(symbols) < length + 1:
            raise ValueError(
                f"the text to train on has {len(symbols):,} symbols, too few for one sequence of sequence_length "
                f"{length:,} and the symbol after it; give more text or lower sequence_length"
            )
        self.symbols, self.length, self.seed = symbols, length, seed
        self.per_pass = max(1, (len(symbols) - length) // length)
        self._pass = lru_cache(maxsize=2)(self._make_pass)

    def _make_pass(self, number: int) -> NDArray[np.int64]:
        draw = np.random.default_rng((self.seed, number))
        slack = len(self.symbols) - 1 - self.per_pass * self.length
        return draw.integers(slack + 1) + draw.permutation(self.per_pass) * self.length

    def __getitem__(self, index: int) -> NDArray[np.int64]:
        """``length + 1`` symbols: the inputs, and shifted by one what is to be predicted."""
        number, place = divmod(index, self.per_pass)
        start = int(self._pass(number)[place])
        return self.symbols[start : start + self.length + 1].astype(np.int64)


def _byte_letters() -> list[str]:
    """The letter that stands for each byte in ``tokenizers``' byte-level alphabet: itself where it can be printed."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in printed else next(others)) for byte in range(256)]


def _codes(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), np.uint32)


def _find(paths: list[str | Path]) -> list[Path]:
    if not paths:
        raise ValueError("no text was given; name a file or a folder")
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = visible_files(path)
            texts = [file for file in inside if _look(file, 1 if _packed(file) else None) is None]
            if not texts:
                raise FileNotFoundError(f"folder {path} holds no UTF-8 text; put text files into it")
            if len(texts) < len(inside):
                logger.info("%s: %s files that are no UTF-8 text are left out.", path, f"{len(inside) - len(texts):,}")
            files += texts
        elif not path.exists():
            raise FileNotFoundError(f"there is no file or folder {path}")
        else:
            files.append(path)
    return files


def _packed(file: Path) -> bool:
    return file.suffix.lower() in (".gz", ".zip")


class _NoText(NamedTuple):
    """Why a file isn't UTF-8 text."""

    zero_at: int | None
    """Offset of a byte of 0, which texts of no common 8-bit encoding have; None: the bytes can't be decoded."""


def _look(file: Path, pieces: int | None = None) -> _NoText | None:
    """Whether a file, unpacked, is something else than UTF-8 text, as far as so many pieces of it tell."""
    decoder, offset = codecs.getincrementaldecoder("utf-8")(), 0
    try:
        for piece in islice(_pieces(file), pieces):
            if (at := piece.find(b"\0")) >= 0:
                return _NoText(offset + at)
            decoder.decode(piece)
            offset += len(piece)
        decoder.decode(b"", final=pieces is None)
    except UnicodeDecodeError:
        return _NoText(None)
    return None


def _check_named(file: Path, unit: Unit) -> None:
    """Refuse a file that is surely no text, and warn of bytes in another encoding, which a model of bytes may learn."""
    found = _look(file)
    if found is None:
        return
    if found.zero_at is not None:
        raise ValueError(
            f"{file} is not text: it holds a zero byte at offset {found.zero_at:,}, as UTF-16, tables and programs do; "
            "write its text into a UTF-8 file"
        )
    if unit == "bytes":
        logger.warning("%s is not UTF-8 text; its bytes are read as they are.", file)


def _official(files: list[Path]) -> tuple[str, Official] | None:
    if len(files) != 1:
        return None
    name = files[0].stem if _packed(files[0]) else files[0].name
    return (name, OFFICIAL[name]) if name in OFFICIAL else None


def _check_official(file: Path, name: str, official: Official) -> None:
    digest, size = hashlib.md5(usedforsecurity=False), 0
    for piece in _pieces(file):
        digest.update(piece)
        size += len(piece)
    if (size, digest.hexdigest()) != (official.bytes, official.md5):
        raise ValueError(
            f"{file} is not the published {name}: it has {size:,} bytes and MD5 {digest.hexdigest()}, not "
            f"{official.bytes:,} and {official.md5}; fetch it again, or rename it if it is another text"
        )


def _pieces(file: Path) -> Iterator[bytes]:
    """The unpacked content of a file, piece by piece."""
    try:
        with closing(_open(file)) as stream:
            while piece := stream.read(_PIECE):
                yield piece
    except (gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{file} is damaged: {error}; make or fetch the file again") from error
    except RuntimeError as error:  # of an archive with a password, or packed in a way that Python can't unpack
        raise ValueError(f"{file} can't be unpacked: {error}; unpack it by other means") from error
    # No OSError, which the writing of the corpus would take for its own.
    except OSError as error:
        raise ValueError(
            f"{file} can't be read: {error.strerror or error}; check the file and its permissions"
        ) from error


def _open(file: Path) -> IO[bytes]:
    if file.suffix.lower() == ".gz":
        return gzip.open(file, "rb")  # type: ignore[return-value]
    if file.suffix.lower() != ".zip":
        return file.open("rb")
    archive = zipfile.ZipFile(file)
    members = [member for member in archive.namelist() if not member.endswith("/")]
    if len(members) != 1:
        archive.close()
        raise ValueError(f"{file} holds {len(members)} files; only archives of one text are read, so unpack it")
    stream = archive.open(members[0])
    archive.close()  # the open member keeps what it needs
    return stream


def _joined(files: list[Path]) -> Iterator[tuple[Path, bytes]]:
    """The content of all files, with a line break after each that has none, but for the last."""
    before, last = files[0], b"\n"
    for file in files:
        if last != b"\n":
            # Of the file before: it completes what that ends in, or shows that it ends within a character.
            yield before, b"\n"
            last = b"\n"
        for piece in _pieces(file):
            yield file, piece
            before, last = file, piece[-1:]


def _texts(files: list[Path]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    current = files[0]
    try:
        for file, piece in _joined(files):
            current = file
            yield decoder.decode(piece)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{current} is not UTF-8 text: {error.reason}; convert it (iconv -f ENCODING -t UTF-8), or take bytes "
            "instead of characters"
        ) from error


def _write(folder: Path, files: list[Path], unit: Unit, alphabet: Alphabet | None) -> None:
    if alphabet is None:
        alphabet = Alphabet()
        if unit == "characters":
            found: set[str] = set()
            for text in _texts(files):
                found.update(text)
            alphabet = Alphabet("".join(sorted(found)))
    total, digest = 0, hashlib.sha256(json.dumps(alphabet.characters).encode())
    with atomic_directory(folder, "the encoded text") as staging, (staging / "symbols.bin").open("wb") as stream:
        if alphabet.characters is None:
            encoded = (piece for _, piece in _joined(files))
        else:
            encoded = (alphabet.encode(text).tobytes() for text in _texts(files))
        for data in encoded:
            stream.write(data)
            digest.update(data)
            total += len(data)
        if not total:
            raise ValueError(f"there is no text in {', '.join(map(str, files[:3]))}; check the files")
        stream.flush()
        alphabet.save(staging)
        meta = {"format": FORMAT, "unit": unit, "sha256": digest.hexdigest(), "source": [str(file) for file in files]}
        (staging / "corpus.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
