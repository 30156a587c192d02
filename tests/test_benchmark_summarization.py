"""The programs that measure summarization: what they read, and that they go on where they stopped."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import summarization
from benchmarks.summarization_texts import lead, read_papers, read_queries, read_wikipedia, split_of, write_texts

SENTENCE = "We tag words with the most probable tag of all that were seen before them in the corpus ."


def write_gz(file: Path, records: list[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(file, "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps(record) + "\n" for record in records)
    return file


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both sets and the encyclopedia in their official forms, a few documents each."""
    folder = tmp_path_factory.mktemp("data")
    papers = [
        {
            "id": f"P{number}",
            "title": f"Title {number}",
            "abstract": "Abstract.",
            "summary": f"Title {number}\nWe tag words, {number}.\nAnd well.",
            "sections": [{"title": "1 Introduction", "sentences": [f"Paper {number} .", *[SENTENCE] * 8]}],
        }
        for number in range(40)
    ]
    papers[7]["sections"] = [{"title": "1 Introduction", "sentences": [SENTENCE]}]
    write_gz(folder / "scisummnet" / "scisummnet2019.jsonl.gz", papers)
    for split in ("train", "val", "test"):
        meetings = [
            {
                "id": f"{split}{number}",
                "general_query_list": [{"query": "Summarize the meeting", "answer": f"About {split} {number}."}],
                "specific_query_list": [
                    {"query": "What of the remote?", "answer": "It is yellow.", "relevant_text_span": [["0", "1"]]}
                ],
                "meeting_transcripts": [
                    {"speaker": "Grad C", "content": f"Yeah {{disfmarker}} meeting {split}{number} ."},
                    *[{"speaker": "PhD D", "content": "The remote is yellow ."}] * 20,
                ],
            }
            for number in range(3)
        ]
        write_gz(folder / "qmsum" / f"{split}.jsonl.gz", meetings)
    (folder / "enwiki2015").mkdir()
    with gzip.open(folder / "enwiki2015" / "enwiki2015_head.txt.gz", "wt", encoding="utf-8") as stream:
        for number in range(3):
            stream.write(f'<doc id="{number}" url="u" title="T">\nT\n\nAn article &amp; more, {number}.\n</doc>\n')
    return folder


def test_papers_queries_and_articles(data: Path) -> None:
    papers = list(read_papers(data / "scisummnet" / "scisummnet2019.jsonl.gz"))
    assert len(papers) == 39
    assert papers[0]["text"].startswith("1 Introduction. Paper 0 . We tag words")
    assert papers[0]["summary"] == "We tag words, 0.\nAnd well."
    assert "Abstract" not in papers[0]["text"] + papers[0]["summary"]
    queries = list(read_queries(data / "qmsum" / "val.jsonl.gz"))
    assert [query["id"] for query in queries[:3]] == ["val0-0", "val0-1", "val1-0"]
    assert queries[1]["query"] == "What of the remote?"
    assert queries[1]["summary"] == "It is yellow."
    assert queries[0]["text"].startswith("Grad C: Yeah meeting val0 .\nPhD D: The remote")
    articles = list(read_wikipedia(data / "enwiki2015" / "enwiki2015_head.txt.gz"))
    assert articles[1] == "T\n\nAn article & more, 1."
    assert lead("one two\nthree four", 3) == "one two three"
    shares = [split_of(f"paper {number}") for number in range(2000)]
    assert 0.75 < shares.count("train") / 2000 < 0.85


def test_nothing_is_trained_on_that_is_tested(data: Path, tmp_path: Path) -> None:
    counts = write_texts(data, tmp_path / "texts", pretraining_characters=10**6)
    assert counts["qmsum-test"] == 6
    read = {file.stem: file.read_text(encoding="utf-8") for file in (tmp_path / "texts").iterdir()}
    order = [json.loads(line)["id"] for line in read["qmsum-test"].splitlines()]
    assert order == ["test0-0", "test1-0", "test2-0", "test0-1", "test1-1", "test2-1"]
    for name, texts in read.items():
        papers = {text for text in (f"Paper {number} ." for number in range(40)) if text in texts}
        assert {split_of("P" + text.split()[1]) for text in papers} <= {
            {"pretrain": "train", "held_out": "val"}.get(name, name.partition("-")[2])
        }
        assert ("meeting test" in texts) == (name == "qmsum-test")
    assert "An article & more" in read["pretrain"]


def test_the_program_runs_and_goes_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(summarization, "VOCABULARY", 300)
    monkeypatch.setattr(summarization, "POSITIONS", 64)
    monkeypatch.setattr(summarization, "BART", {"hidden_size": 16, "layers": 1, "intermediate_size": 16})
    sizes: dict[str, dict[str, Any]] = {
        "scisummnet": {"max_target_length": 16, "max_new_tokens": 6},
        "qmsum": {"max_target_length": 16, "max_new_tokens": 6, "query_column": "query"},
    }
    monkeypatch.setattr(summarization, "SETS", sizes)
    options = ["--data", str(data), "--output", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    options += ["--lengths", "64", "--pretrain-steps", "2", "--steps", "2", "--test-examples", "2"]
    options += ["--window", "32"]
    summarization.main([*options, "--seeds", "1"])
    shown = capsys.readouterr().out
    assert (shown.count("| 64 tokens |"), shown.count("| 64 tokens, BART |")) == (2, 2)
    trained = []
    whole = summarization.finetune_summarization

    def finetune(recipe: Any) -> Any:
        trained.append(Path(recipe.output_dir).joinpath("result.json").is_file())
        return whole(recipe)

    monkeypatch.setattr(summarization, "finetune_summarization", finetune)
    summarization.main([*options, "--seeds", "1,2"])
    assert trained == [True] * 4 + [False] * 4, "finished runs are only read"
    (file,) = (tmp_path / "results").glob("*_summarization.json")
    record = json.loads(file.read_text())
    assert [(run["set"], run["model"], run["length"], run["seed"]) for run in record["runs"]] == [
        (name, kind, 64, seed) for seed in (1, 2) for kind in ("bart", "led") for name in ("scisummnet", "qmsum")
    ]
    assert record["lead"]["scisummnet"]["rouge1"] > 0
    assert str(tmp_path) not in file.read_text(), "no folder of this machine"
