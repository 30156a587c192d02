"""IMDB: is a film review positive (Maas et al. 2011).

Data: the folder ``aclImdb`` of the official archive. Set-up: Beltagy et al. 2020, section 6.1. The development set is
not published; here it is drawn from the training reviews, all reviews of a film and all equal texts on one side.
(123 reviews of the official test set stand in its training set, too; they are left as they are.)
"""

import re
from pathlib import Path
from typing import Literal

from longspan.tasks.documents import LabelledText, linked_groups, split_by_seed
from longspan.tasks.files import read_text
from longspan.tasks.recipe import classification_recipe

LABELS = ("neg", "pos")
"""The classes in order, which are the names of the folders."""

RECIPE = classification_recipe("imdb", metric="accuracy")
"""The base model's."""

_NAME = re.compile(r"(\d+)_(\d+)\.txt")
_BREAK = re.compile(r"\s*<br\s*/?>\s*")


def without_breaks(text: str) -> str:
    """A review with new lines for its ``<br />``."""
    return _BREAK.sub("\n", text).strip()


def read_imdb(folder: str | Path, split: Literal["train", "test"]) -> list[LabelledText]:
    """Read the labelled reviews of a split. Line breaks written as ``<br />`` become new lines.

    Args:
        folder: ``aclImdb``, which holds ``train/pos/0_9.txt`` and so on.
        split: which.

    Returns:
        Reviews with ids such as ``train/pos/0_9``, sorted by class and number.

    Raises:
        FileNotFoundError: a folder is missing or has no review. ValueError: a file isn't UTF-8, is empty, or isn't
            named as ``0_9.txt``.
    """
    reviews = []
    for label, name in enumerate(LABELS):
        place = Path(folder) / split / name
        files = sorted(place.glob("*.txt")) if place.is_dir() else []
        if not files:
            raise FileNotFoundError(f"{place} holds no review; give the folder aclImdb of the official archive")
        numbered = []
        for file in files:
            match = _NAME.fullmatch(file.name)
            if match is None:
                raise ValueError(f"{file} is no review's name; they are NUMBER_RATING.txt, such as 0_9.txt")
            numbered.append((int(match[1]), file))
        for _, file in sorted(numbered):
            text = without_breaks(read_text(file, "IMDB reviews"))
            if not text:
                raise ValueError(f"{file} is empty; unpack the archive again")
            reviews.append(LabelledText(id=f"{split}/{name}/{file.stem}", text=text, label=label))
    return reviews


def split_imdb(
    folder: str | Path, seed: int, *, dev_share: float = 0.1
) -> tuple[list[LabelledText], list[LabelledText]]:
    """Training and development set out of the official training reviews, drawn by ``seed``.

    Reviews of one film, which ``train/urls_pos.txt`` and ``urls_neg.txt`` name line by line, stay together: otherwise
    the film's name gives answers away. So do equal reviews, whatever film they are said to be of.

    Args:
        folder: ``aclImdb``.
        seed: of the draw.
        dev_share: the development set's share (our choice).

    Raises:
        FileNotFoundError, ValueError: as :func:`read_imdb`, or a list of addresses is missing or too short.
    """
    films = {name: read_text(Path(folder) / "train" / f"urls_{name}.txt", "film addresses").split() for name in LABELS}

    def film(review: LabelledText) -> str:
        _, name, stem = review.id.split("/")
        number = int(stem.split("_")[0])
        if number >= len(films[name]):
            raise ValueError(
                f"{Path(folder) / 'train' / f'urls_{name}.txt'} has {len(films[name])} lines, none for review {stem}"
            )
        return films[name][number].removesuffix("usercomments")

    reviews = read_imdb(folder, "train")
    together = linked_groups([(("film", film(review)), ("text", review.text)) for review in reviews])
    groups = {review.id: number for review, number in zip(reviews, together, strict=True)}
    train, dev = split_by_seed(reviews, (1 - dev_share, dev_share), seed, group=lambda review: groups[review.id])
    return train, dev
