"""The hub's copies: data sets of the same columns, on the disk, read as the official files are."""

from pathlib import Path
from typing import Any

import pytest

from longspan.tasks.hub import (
    coreference_from_hub,
    hotpotqa_from_hub,
    imdb_from_hub,
    read_hub_rows,
    triviaqa_domain,
    triviaqa_from_hub,
)
from longspan.tasks.registry import TASKS

datasets = pytest.importorskip("datasets")


def save(folder: Path, split: str, rows: list[dict[str, Any]]) -> str:
    """A data set that ``load_dataset`` reads, as a folder of parquet files."""
    folder.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(rows).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return f"hub:{folder}"


@pytest.fixture(autouse=True)
def _no_shared_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def read(task: str, source: str, split: str = "train") -> list[Any]:
    return TASKS[task]().read(source, split)  # type: ignore[arg-type]


def test_wikihop(tmp_path: Path) -> None:
    row = {"id": "WH_0", "query": "country x", "supports": ["a"], "candidates": ["b", "c"], "answer": "c"}
    save(tmp_path / "d", "train", [row])
    source = save(tmp_path / "d", "test", [{**row, "answer": ""}])
    (question,) = read("wikihop", source)
    assert (question.candidates, question.label) == (("b", "c"), 1)
    assert read("wikihop", source, "test")[0].answer is None
    with pytest.raises(ValueError, match=r"hub:.*d: 'WH_0' has no answer, so it can't be scored; take it out, or name"):
        TASKS["wikihop"]().read_all([source], "test")


def test_hotpotqa(tmp_path: Path) -> None:
    row = {
        "id": "5a", "question": "who", "answer": "b", "type": "bridge", "level": "easy",
        "supporting_facts": {"title": ["T", "U"], "sent_id": [0, 1]},
        "context": {"title": ["T", "U"], "sentences": [["a b"], ["c", " d"]]},
    }  # fmt: skip
    (question,) = read("hotpotqa", save(tmp_path / "d", "validation", [row]), "eval")
    assert question.supporting_facts == (("T", 0), ("U", 1))
    assert question.paragraphs[1].sentences == ("c", " d")


@pytest.mark.parametrize("as_lists", [False, True])
def test_triviaqa(tmp_path: Path, as_lists: bool) -> None:
    pages = {"doc_source": ["w"], "filename": ["P.txt"], "title": ["P"], "wiki_context": ["the seller held"]}
    none: dict[str, list[str]] = {"filename": [], "search_context": []}
    results = {"filename": ["1/r.txt"], "search_context": ["a web page"]}
    answer = {"aliases": ["Seller"], "normalized_aliases": ["seller"], "value": "Seller", "type": "x"}

    def records(columns: dict[str, list[str]]) -> Any:
        return (
            [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
            if as_lists
            else columns
        )

    rows = [
        {"question_id": "tc_1", "question": "Who?", "entity_pages": records(pages), "search_results": records(none),
         "answer": answer},
        {"question_id": "tc_2", "question": "Who?", "entity_pages": records(pages), "search_results": records(results),
         "answer": answer},
    ]  # fmt: skip
    source = save(tmp_path / "d", "train", rows)
    wiki, web = (question for question, _ in read("triviaqa", source))
    assert (wiki.domain, web.domain) == ("Wikipedia", "Web")
    assert (wiki.aliases, wiki.truths) == (("Seller", "seller"), ("seller",))
    assert [document.read("no folder") for document in web.documents] == ["the seller held", "a web page"]
    assert web.keys == ("tc_2--P.txt", "tc_2--1/r.txt")
    named = triviaqa_from_hub(iter([("row 1", rows[0]), ("row 2", rows[1])]), triviaqa_domain("hub:x/trivia_qa:rc.web"))
    assert [question.keys for question in named] == [("tc_1--P.txt",), ("tc_2--P.txt", "tc_2--1/r.txt")]
    assert triviaqa_domain("hub:x/trivia_qa:rc.wikipedia.nocontext") == "Wikipedia"
    assert triviaqa_domain("hub:x/webby") is None
    with pytest.raises(ValueError, match="row 2 has the id of an earlier entry"):
        triviaqa_from_hub(iter([("row 1", rows[0]), ("row 2", rows[0])]))
    hidden = {**answer, "aliases": [""], "normalized_aliases": [], "value": "<unk>"}
    source = save(tmp_path / "d", "test", [{**rows[1], "answer": hidden}])
    assert read("triviaqa", source, "test")[0][0].truths is None


def test_race(tmp_path: Path) -> None:
    row = {"example_id": "high1.txt", "article": "a", "question": "b _", "options": ["c", "d"], "answer": "B"}
    questions = read("race", save(tmp_path / "d", "train", [row, {**row, "answer": "A"}]))
    assert [(question.id, question.label) for question in questions] == [("high1.txt/0", 1), ("high1.txt/1", 0)]


def test_documents_are_drawn_apart(tmp_path: Path) -> None:
    rows = [
        {"text": f"<p>good&amp;bad {at} <a href='x'>party</a></p>", "title": "t", "hyperpartisan": at % 2 == 0}
        for at in range(20)
    ]
    source = save(tmp_path / "news", "train", rows)
    documents = read("hyperpartisan", source)
    assert (documents[0].text, documents[0].label, documents[1].label) == ("good&bad 0 party", 1, 0)
    drawn = TASKS["hyperpartisan"]().draw([source], 3)
    assert [len(drawn[split]) for split in ("train", "eval", "test")] == [16, 2, 2]
    reviews = [{"text": f"review<br />{at // 2}", "label": at % 2} for at in range(20)]
    source = save(tmp_path / "films", "train", reviews)
    drawn = TASKS["imdb"]().draw([source], 3)
    texts = [{document.text for document in drawn[split]} for split in ("train", "eval")]
    assert not texts[0] & texts[1]
    assert "review\n0" in texts[0] | texts[1]


def test_contract_nli(tmp_path: Path) -> None:
    row = {"premise": "a contract", "hypothesis": "b", "label": 1}
    (pair,) = read("contract-nli", save(tmp_path / "d", "train", [row]))
    assert (pair.contract, pair.hypothesis, pair.label) == ("a contract", "b", 1)


def test_coreference(tmp_path: Path) -> None:
    sentences = [
        {"part_id": 0, "words": ["The", "court"], "speaker": "A#1", "coref_spans": [[3, 0, 1]]},
        {"part_id": 0, "words": ["It", "held", "it"], "speaker": None, "coref_spans": [[3, 0, 0], [3, 2, 2]]},
        {"part_id": 1, "words": ["Yes"], "speaker": None, "coref_spans": []},
    ]
    row = {"document_id": "bc/cctv/00/cctv_0000", "sentences": sentences}
    first, second = read("coreference", save(tmp_path / "d", "train", [row]))
    assert first.clusters == (((0, 1), (2, 2), (4, 4)),)
    assert first.speakers == (("A#1", "A#1"), ("-", "-", "-"))
    assert (second.key, second.clusters) == ("bc/cctv/00/cctv_0000_1", ())


def test_wrong_rows_are_one_sentence() -> None:
    sentence = {"part_id": 0, "words": ["The", "court"], "speaker": None}
    for span in ([3, 0], [3, 0, 2], [3, 1, 0], [3, -1, 0], None):
        row = {"document_id": "a", "sentences": [{**sentence, "coref_spans": [span]}]}
        with pytest.raises(ValueError, match=r"row 1: 'coref_spans' holds .* in a sentence of 2 words; it must be"):
            coreference_from_hub(iter([("row 1", row)]))
    context = {"title": ["T"], "sentences": [["a"], ["b"]]}
    facts = {"title": ["T"], "sent_id": [0]}
    row = {"id": "1", "question": "?", "answer": "a", "context": context, "supporting_facts": facts}
    with pytest.raises(ValueError, match="row 1 context has 1 title, 2 sentences; they must be as many of each"):
        hotpotqa_from_hub(iter([("row 1", row)]))
    with pytest.raises(ValueError, match="row 1 has no text"):
        imdb_from_hub(iter([("row 1", {"text": " <br />", "label": 0})]))


def test_what_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    source = save(tmp_path / "d", "train", [{"id": "x", "query": "q"}])
    with pytest.raises(ValueError, match="has no split 'validation'; it has train"):
        list(read_hub_rows(source, "eval"))
    with pytest.raises(ValueError, match=r"train row 1 .*has no field 'candidates'; it has 'id', 'query'"):
        read("wikihop", source)
    with pytest.raises(FileNotFoundError, match=r"data set '.*nowhere' can't be found"):
        list(read_hub_rows(f"hub:{tmp_path / 'nowhere'}", "train"))
    with pytest.raises(ValueError, match="task 'ecthr-arg' has no copy on the hub; give its official files"):
        read("ecthr-arg", source)
