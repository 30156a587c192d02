"""The text of PDF files, by the package pypdf."""

import re
from pathlib import Path

from longspan.data.text import Document

_PARTED = re.compile(r"(?<=\w)-\n(\w)")


def read_pdf(file: Path) -> Document:
    """The text of a PDF file's pages, words that were parted at the end of a line put together.

    Raises:
        ModuleNotFoundError: pypdf is missing.
        ValueError: the file is damaged, locked with a password, or holds no text.
    """
    try:
        from pypdf import PdfReader
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"reading {file} needs the pypdf package: pip install 'longspan[pdf]'", name="pypdf"
        ) from error
    try:
        reader = PdfReader(file)
        is_locked = reader.is_encrypted and not reader.decrypt("")
        pages = [] if is_locked else [page.extract_text() for page in reader.pages]
    except Exception as error:  # of what is no PDF inside, pypdf raises whatever comes of it
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{file} is not a readable PDF file: {reason}; make or fetch the file again") from error
    if is_locked:
        raise ValueError(f"{file} is locked with a password; save a copy without one")
    text = _PARTED.sub(_joined, "\n".join(page.strip() for page in pages)).strip()
    if not text:
        raise ValueError(f"{file} holds no text, perhaps only images of pages; run text recognition (OCR) on it first")
    return Document(text, str(file))


def _joined(parted: re.Match[str]) -> str:
    """The next line's first letter behind what a hyphen ends; a capital one begins a word of its own."""
    return parted[1] if parted[1].islower() else parted[0]
