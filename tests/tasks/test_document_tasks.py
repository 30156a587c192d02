"""Hyperpartisan news and IMDB: official files, cleaning, splits without leaks, layout."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from longspan.models import LongformerForSequenceClassification
from longspan.tasks.documents import DocumentLayout, LabelledText, split_by_seed
from longspan.tasks.hyperpartisan import clean_article, find_hyperpartisan, read_hyperpartisan, split_hyperpartisan
from longspan.tasks.imdb import read_imdb, split_imdb

ARTICLES = """<?xml version="1.0" encoding="UTF-8"?><articles>
<article id="0000000" published-at="2017-09-10" title="One">
<p>Naïve <a href="https://x.org/y" type="external">party</a> held &amp; priced!!!</p> <p>Second</p></article>
<article id="0000001" title="Two"><p>law and/or goods</p></article>
</articles>"""
TRUTH = """<?xml version="1.0" ?><articles>
<article hyperpartisan="true" id="0000000" labeled-by="article" url="http://a"/>
<article hyperpartisan="false" id="0000001" labeled-by="article" url="http://b"/>
</articles>"""


def write(folder: Path, articles: str = ARTICLES, truth: str = TRUTH) -> tuple[Path, Path]:
    (folder / "articles.xml").write_text(articles, encoding="utf-8")
    (folder / "truth.xml").write_text(truth, encoding="utf-8")
    return folder / "articles.xml", folder / "truth.xml"


def test_official_articles_are_read(tmp_path: Path) -> None:
    first, second = read_hyperpartisan(*write(tmp_path))
    assert first == LabelledText(id="0000000", text="Naïve party held & priced! Second", label=1)
    assert second.label == 0
    raw = read_hyperpartisan(*write(tmp_path), clean=False)
    assert [document.text for document in raw] == ["Naïve party held & priced!!! Second", "law and/or goods"]


def test_cleaning_is_the_authors() -> None:
    assert clean_article("see www.a.org now&#160;or\nhttp://b never") == "see now or never"
    assert clean_article("and/or soooo good?? no..") == "so good? no."
    assert clean_article("book feed") == "book feed"
    assert clean_article("after 9/11, and/or 24/7 (see http://a.org/b)") == "after 9/11, 24/7 (see )"
    assert clean_article("what?! so... --- f*** *****") == "what! so. --- f*** *****"
    assert clean_article("2000 loooong soooo!!") == "20 loooong so!"


@pytest.mark.parametrize(
    ("articles", "truth", "message"),
    [
        (ARTICLES.replace("</article>", "", 1), TRUTH, r"articles.xml line 5 is not valid XML: mismatched tag"),
        (ARTICLES, TRUTH.replace('"true"', '"maybe"'), "article 0000000 has hyperpartisan='maybe'; it must be 'true'"),
        (ARTICLES, TRUTH.replace("0000001", "0000009"), "article 0000001 has no label in .*truth.xml"),
        (ARTICLES.replace("0000001", "0000000"), TRUTH, "two articles have the id 0000000"),
        (ARTICLES.replace("<p>law and/or goods</p>", ""), TRUTH, "article 0000001 has no text"),
        (ARTICLES, TRUTH.replace(' id="0000001"', ""), "an <article> has no attribute 'id'; it has hyperpartisan='fa"),
        ("<articles/>", TRUTH, "articles.xml holds no <article>"),
    ],
)
def test_malformed_articles_are_one_sentence(tmp_path: Path, articles: str, truth: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_hyperpartisan(*write(tmp_path, articles, truth))


def test_missing_articles_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none.xml does not exist; name an XML file of SemEval-2019 task 4"):
        read_hyperpartisan(tmp_path / "a.xml", tmp_path / "none.xml")


def test_splits_share_nothing_and_repeat() -> None:
    documents = [LabelledText(id=str(n), text=f"text {n // 2}", label=n % 2) for n in range(200)]
    for seed in range(3):
        splits = split_hyperpartisan(documents, seed)
        assert splits == split_hyperpartisan(documents, seed)
        assert [len(split) for split in splits] == [160, 20, 20]
        assert sorted(int(document.id) for split in splits for document in split) == list(range(200))
        texts = [{document.text for document in split} for split in splits]
        assert not (texts[0] & texts[1])
        assert not (texts[0] & texts[2])
        assert not (texts[1] & texts[2])
    assert split_hyperpartisan(documents, 0) != split_hyperpartisan(documents, 1)


def test_impossible_splits_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shares are \[0.5, 0.4\]; they must be greater than 0 and add up to 1"):
        split_by_seed([1, 2], (0.5, 0.4), 0, group=int)
    with pytest.raises(ValueError, match="3 items in 1 groups are too few for shares"):
        split_by_seed([1, 1, 1], (0.5, 0.5), 0, group=int)


def write_imdb(folder: Path, films: int = 10) -> Path:
    for split in ("train", "test"):
        for name in ("neg", "pos"):
            (folder / split / name).mkdir(parents=True)
            for number in range(2 * films):
                path = folder / split / name / f"{number}_{9 if name == 'pos' else 2}.txt"
                path.write_text(f"{name} naïve<br /><br />review {number}", encoding="utf-8")
            addresses = [f"http://www.imdb.com/title/tt{number // 2}/usercomments\n" for number in range(2 * films)]
            (folder / split / f"urls_{name}.txt").write_text("".join(addresses), encoding="utf-8")
    return folder


def test_official_reviews_are_read(tmp_path: Path) -> None:
    reviews = read_imdb(write_imdb(tmp_path / "aclImdb"), "train")
    assert len(reviews) == 40
    assert reviews[2] == LabelledText(id="train/neg/2_2", text="neg naïve\n\nreview 2", label=0)
    assert reviews[20].id == "train/pos/0_9"
    assert reviews[20].label == 1


def test_reviews_of_a_film_stay_together(tmp_path: Path) -> None:
    folder = write_imdb(tmp_path / "aclImdb")
    train, dev = split_imdb(folder, 3, dev_share=0.2)
    assert len(train) + len(dev) == 40
    assert 8 <= len(dev) <= 11
    films = [{int(review.id.split("/")[2].split("_")[0]) // 2 for review in split} for split in (train, dev)]
    assert not films[0] & films[1]
    assert split_imdb(folder, 3, dev_share=0.2) == (train, dev)


def test_equal_reviews_stay_together_across_films(tmp_path: Path) -> None:
    """A text of film 0 stands again with film 5: all reviews of both films go to one side."""
    folder = write_imdb(tmp_path / "aclImdb")
    first, other = (next((folder / "train" / "neg").glob(f"{number}_*.txt")) for number in (0, 10))
    other.write_text(first.read_text(encoding="utf-8"), encoding="utf-8")
    for seed in range(8):
        split = split_imdb(folder, seed, dev_share=0.3)
        films = [{int(review.id.split("/")[2].split("_")[0]) // 2 for review in part} for part in split]
        assert not films[0] & films[1]
        assert ({0, 5} <= films[0]) or ({0, 5} <= films[1])


def test_malformed_reviews_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="train/neg holds no review; give the folder aclImdb"):
        read_imdb(tmp_path, "train")
    folder = write_imdb(tmp_path / "aclImdb")
    (folder / "train" / "urls_pos.txt").write_text("http://www.imdb.com/title/tt0/usercomments\n")
    with pytest.raises(ValueError, match=r"urls_pos.txt has 1 lines, none for review 1_9"):
        split_imdb(folder, 0)
    (folder / "test" / "pos" / "0_9.txt").write_bytes(b"ok\n\xff")
    with pytest.raises(ValueError, match=r"0_9.txt line 2 is not UTF-8"):
        read_imdb(folder, "test")
    (folder / "test" / "neg" / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"notes.txt is no review's name; they are NUMBER_RATING.txt"):
        read_imdb(folder, "test")


def test_layout_and_model(words: PreTrainedTokenizerBase, build: Any) -> None:
    layout = DocumentLayout(words, max_length=12)
    texts = [LabelledText(id="a", text="the law of goods " * 9, label=1), LabelledText(id="b", text="law", label=0)]
    long, short = (layout.encode(text) for text in texts)
    assert len(long.input_ids) == 12
    assert long.truncated > 0
    assert (long.input_ids[0], long.input_ids[-1]) == (words.cls_token_id, words.sep_token_id)
    assert short.truncated == 0
    batch = layout.collate([long, short])
    assert batch["global_attention_mask"].sum(1).tolist() == [1, 1]
    assert batch["attention_mask"].sum(1).tolist() == [12, len(short.input_ids)]
    model = build(LongformerForSequenceClassification, words, num_labels=2)
    loss = model(**batch).loss
    assert torch.isfinite(loss)
    with pytest.raises(ValueError, match="max_length is 2; use at least 3"):
        DocumentLayout(words, max_length=2)


def test_articles_of_hyperpartisan_are_found(tmp_path: Path) -> None:
    articles, truth = tmp_path / "articles-1.xml", tmp_path / "ground-truth-1.xml"
    for name, kind, message in [
        (
            "nowhere",
            FileNotFoundError,
            "nowhere does not exist; name the folder of the official XML files, or articles-",
        ),
        (".", FileNotFoundError, "holds 0 files articles-"),
    ]:
        with pytest.raises(kind, match=message):
            find_hyperpartisan(tmp_path / name)
    articles.touch()
    assert find_hyperpartisan(tmp_path) == find_hyperpartisan(articles) == (articles, truth)
    truth.touch()
    with pytest.raises(ValueError, match=r"ground-truth-1.xml is not named articles-"):
        find_hyperpartisan(truth)
