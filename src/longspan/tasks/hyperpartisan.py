"""Hyperpartisan news: is an article blindly one-sided (SemEval-2019 task 4, Kiesel et al. 2019).

Data: ``articles-training-byarticle-20181122.xml`` and its ``ground-truth-...xml``, 645 articles. Set-up: Beltagy et al.
2020, section 6.1. The splits that its authors released share 51 of 65 test articles with training, so splits are drawn
anew, disjoint by text.
"""

import html
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from longspan.tasks.documents import LabelledText, split_by_seed
from longspan.tasks.recipe import classification_recipe
from longspan.tasks.sequences import NO_LABEL

LABELS = ("false", "true")
"""The classes in order; F1 is that of ``true``."""

RECIPE = classification_recipe("hyperpartisan", metric="f1", seeds=(1, 2, 3, 4, 5))
"""The paper reports the mean of five seeds; which five is our choice."""

_MARK = re.compile(r"<[^<>]*>")
_JUNK = (
    (re.compile(r"[A-Za-z]+/[A-Za-z]+"), " "),
    (re.compile(r"&#160;"), " "),
    (re.compile(r"(?:http|www|href)\S+"), ""),
    (re.compile(r"\s+"), " "),
    (re.compile(r"[!?.]+([!?.])"), r"\1"),
    (re.compile(r"\b(\S*?(\S))\2{2,}\b"), r"\1"),
)


def clean_article(text: str) -> str:
    """The text as the authors' ``hp_preprocess.py`` cleans it.

    Words of letters joined by a slash and web addresses are dropped (numbers stay: 9/11), of several marks the last is
    kept, a character that ends a word three or more times becomes one, white space becomes single spaces.
    """
    for pattern, replacement in _JUNK:
        text = pattern.sub(replacement, text)
    return text.strip()


def strip_markup(text: str) -> str:
    """The words of an article's XML, given as a string, without its marks."""
    return " ".join(html.unescape(_MARK.sub("", text)).split())


def find_hyperpartisan(source: str | Path) -> tuple[Path, Path]:
    """The official file of articles, and where that of their labels is to be.

    Args:
        source: the folder of both, or the file ``articles-*.xml``.

    Raises:
        FileNotFoundError: there is no such folder or file, or not one file of articles in it. ValueError: the file has
            another name, from which that of the labels can't be told.
    """
    articles = Path(source)
    if not articles.exists():
        raise FileNotFoundError(
            f"{articles} does not exist; name the folder of the official XML files, or articles-*.xml"
        )
    if articles.is_dir():
        found = sorted(articles.glob("articles-*.xml"))
        if len(found) != 1:
            raise FileNotFoundError(f"folder {articles} holds {len(found)} files articles-*.xml; name the one to read")
        (articles,) = found
    truth = articles.with_name(articles.name.replace("articles-", "ground-truth-", 1))
    if truth == articles:
        raise ValueError(f"{articles} is not named articles-*.xml, so the file ground-truth-*.xml can't be found")
    return articles, truth


def read_hyperpartisan(articles: str | Path, truth: str | Path | None, *, clean: bool = True) -> list[LabelledText]:
    """Read the official articles and their labels.

    Args:
        articles: the XML file of articles; paragraphs become one text, without links and other marks.
        truth: the XML file of labels; None: articles to predict, whose labels are :data:`NO_LABEL`.
        clean: clean the texts with :func:`clean_article`.

    Raises:
        FileNotFoundError: a file doesn't exist. ValueError: it isn't such XML (with the line), or an article has no
            label, no text or an id that another has.
    """
    labels: dict[str, int] = {}
    if truth is not None:
        for element in _articles(truth):
            name, label = _attribute(element, "id", truth), _attribute(element, "hyperpartisan", truth)
            if name in labels:
                raise ValueError(f"{truth}: article {name} has two labels; ids must be unique")
            if label not in LABELS:
                raise ValueError(f"{truth}: article {name} has hyperpartisan={label!r}; it must be 'true' or 'false'")
            labels[name] = LABELS.index(label)
    documents: dict[str, LabelledText] = {}
    for element in _articles(articles):
        name = _attribute(element, "id", articles)
        text = " ".join("".join(element.itertext()).split())
        text = clean_article(text) if clean else text
        if truth is not None and name not in labels:
            raise ValueError(f"{articles}: article {name} has no label in {truth}; give the two files of one release")
        if name in documents:
            raise ValueError(f"{articles}: two articles have the id {name}; ids must be unique")
        if not text:
            raise ValueError(f"{articles}: article {name} has no text")
        documents[name] = LabelledText(id=name, text=text, label=labels.get(name, NO_LABEL))
    if not documents:
        raise ValueError(f"{articles} holds no <article>; name the file of articles")
    return list(documents.values())


def split_hyperpartisan(
    documents: Sequence[LabelledText], seed: int
) -> tuple[list[LabelledText], list[LabelledText], list[LabelledText]]:
    """Training, development and test set, 80, 10 and 10 per cent, drawn by ``seed``; equal texts stay together."""
    train, dev, test = split_by_seed(documents, (0.8, 0.1, 0.1), seed, group=lambda document: document.text)
    return train, dev, test


def _articles(path: str | Path) -> list[ElementTree.Element]:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; name an XML file of SemEval-2019 task 4")
    try:
        return list(ElementTree.parse(path).getroot().iter("article"))
    except LookupError as error:
        raise ValueError(f"{path} names an encoding that isn't known: {error}; convert the file to UTF-8") from error
    except ElementTree.ParseError as error:
        line, column = error.position
        reason = str(error).split(":")[0]
        raise ValueError(f"{path} line {line} is not valid XML: {reason} at column {column + 1}") from error


def _attribute(element: ElementTree.Element, name: str, path: str | Path) -> str:
    value = element.get(name)
    if value is None:
        known = ", ".join(f"{key}={value!r}" for key, value in list(element.items())[:3]) or "no attribute"
        raise ValueError(f"{path}: an <article> has no attribute {name!r}; it has {known}")
    return value
