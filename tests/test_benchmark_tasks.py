"""The comparison on real documents, on files in the official formats that the test writes."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_text import tokenizer  # noqa: F401
from transformers import PreTrainedTokenizerBase

from benchmarks import tasks
from benchmarks.task_examples import READERS, Counts, write_examples
from benchmarks.task_scores import ExampleScores, compare, difference, read_scores
from longspan.models import LongformerConfig, LongformerForMaskedLM
from longspan.training.finetuning.task import FinetunedTask

FILLER = "the seller held the law of a contract in the court"


def _lines(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty small documents of each set."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "hyperpartisan").mkdir()
    texts = "".join(f'<article id="{n}" title="t"><p>{FILLER} {n}</p></article>' for n in range(20))
    truth = "".join(f'<article id="{n}" hyperpartisan="{str(n % 2 == 0).lower()}"/>' for n in range(20))
    (folder / "hyperpartisan" / "articles-a.xml").write_text(f"<articles>{texts}</articles>")
    (folder / "hyperpartisan" / "ground-truth-a.xml").write_text(f"<articles>{truth}</articles>")
    reviews = [
        {"split": split, "label": "pos" if n % 2 else "neg", "text": f"{FILLER}<br />{n} " * (20 if n else 1)}
        for split in ("train", "val", "test")
        for n in range(8)
    ]
    _lines(folder / "imdb" / "imdb.jsonl.gz", reviews)
    (folder / "contract_nli").mkdir()
    for name in ("test", "dev"):
        documents = [
            {
                "id": n,
                "text": f"{FILLER} {name} {n}",
                "spans": [[0, 5]],
                "annotation_sets": [{"annotations": {"nda-1": {"choice": choice, "spans": []}}}],
            }
            for n, choice in enumerate(["Entailment", "NotMentioned", "Contradiction"] * 2)
        ]
        top = {"documents": documents, "labels": {"nda-1": {"hypothesis": "the court held"}}}
        (folder / "contract_nli" / f"{name}.json").write_text(json.dumps(top))
    judgments = [
        {
            "id": f"{split}{n}",
            "split": split,
            "paragraphs": [
                {"tokens": FILLER, "arg": []},
                {"tokens": "law", "arg": [[0, 1, "Subsumtion"]]},
            ],
        }
        for split in ("train", "val", "test")
        for n in range(3)
    ]
    _lines(folder / "ecthr_arg" / "ecthr_arg.jsonl.gz", judgments)
    (folder / "covid_qa").mkdir()
    squad = [
        {
            "paragraphs": [
                {
                    "context": f"{FILLER} {n}. A court.",
                    "qas": [{"question": "who", "answers": [{"text": "court", "answer_start": 60}]}],
                }
            ]
        }
        for n in range(12)
    ]
    (folder / "covid_qa" / "covid.json").write_text(json.dumps({"data": squad}))
    articles = [
        {"id": f"{n}", "article": f"{FILLER} {n}", "questions": ["who"], "options": [["a", "b"]], "answers": ["B"]}
        for n in range(6)
    ]
    for name in ("train_high", "dev_high"):
        _lines(folder / "race" / f"{name}.jsonl.gz", articles)
    return folder


@pytest.mark.parametrize("name", list(READERS))
def test_splits_share_no_document(name: str, data: Path) -> None:
    splits = READERS[name](data, 1)
    key = {"nli": "premise"}.get(tasks.PLANS[name].task, "")

    def texts(part: list[Any]) -> set[str]:
        return {json.dumps(row.get(key) or row.get("text") or row.get("context") or row) for row in part}

    assert all(splits)
    if name not in ("imdb", "ecthr_arg", "race"):  # there the file's own splits hold, here of equal texts
        assert not texts(splits.train) & (texts(splits.eval) | texts(splits.test))
    if name not in ("imdb", "ecthr_arg"):
        assert not texts(splits.eval) & texts(splits.test)
    again = READERS[name](data, 1)
    assert again == splits


def test_answers_are_where_they_are_said_to_be(data: Path) -> None:
    """Given as 60, the answer stands at 45 and 54 or so: the nearest is taken."""
    for part in READERS["covid_qa"](data, 1):
        for row in part:
            answer = row["answers"][0]
            assert row["context"][answer["answer_start"] :].startswith(answer["text"])
            assert answer["answer_start"] == row["context"].rindex("court")


def test_the_long_half_of_imdb(data: Path) -> None:
    assert all(len(row["text"].split()) >= 173 and "<br" not in row["text"] for row in READERS["imdb"](data, 1).train)


def test_four_ways_through_finetune(
    data: Path,
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerBase,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All models, JSON and table; called again, nothing is run."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "sep_token_id": 2, "type_vocab_size": 1}
    config = LongformerConfig(
        vocab_size=len(tokenizer), max_position_embeddings=4098, attention_window=8, **sizes, **ids
    )
    LongformerForMaskedLM(config).save_pretrained(tmp_path / "long")
    tokenizer.save_pretrained(tmp_path / "long")
    plan = tasks.Plan(task="classification", metric="macro_f1", counts=Counts(6, 2, 2), max_length=1024, epochs=1)
    monkeypatch.setitem(tasks.PLANS, "hyperpartisan", plan)
    arguments = ["--data", str(data), "--model", str(tmp_path / "long"), "--output", str(tmp_path / "runs")]
    arguments += ["--results", str(tmp_path), "--tasks", "hyperpartisan", "--seeds", "1"]
    tasks.main(arguments)
    shown = capsys.readouterr().out
    assert all(f"| hyperpartisan | macro_f1 | {model} |" in shown for model in tasks.MODELS)
    assert all(f"| hyperpartisan | {model} | " in shown for model in tasks.MODELS[1:])
    (file,) = tmp_path.glob("*_tasks.json")
    record = json.loads(file.read_text())
    for model in tasks.MODELS[1:]:
        found = record["differences"]["hyperpartisan"][model]
        right = [record["runs"]["hyperpartisan"][name]["1"]["test"]["accuracy"] for name in ("long", model)]
        assert found["all"]["examples"] == 2
        assert found["all"]["mean"] == pytest.approx(right[0] - right[1])
        assert found["long"] is None  # no text is longer than 512 tokens
    assert {model: list(runs) for model, runs in record["runs"]["hyperpartisan"].items()} == {
        model: ["1"] for model in tasks.MODELS
    }
    lengths = {
        model: json.loads((tmp_path / f"runs/hyperpartisan/{model}/1/seed-1/model/longspan_task.json").read_text())
        for model in tasks.MODELS
    }
    assert [lengths[model]["max_length"] for model in tasks.MODELS] == [1024, 512, 1024, 1024]
    monkeypatch.setattr("benchmarks.tasks.convert_to_hat", None)
    tasks.main(arguments)
    assert json.loads(file.read_text())["runs"] == record["runs"]
    with pytest.raises(SystemExit):
        tasks.main([*arguments, "--tasks", "mimic"])


def test_a_missing_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"hyperpartisan holds no articles"):
        write_examples("hyperpartisan", tmp_path, 1, Counts(1, 1, 1), tmp_path / "out")


def _scores(tokens: list[int], scores: list[float]) -> ExampleScores:
    return ExampleScores(tokens=np.array(tokens), scores=np.array(scores))


def test_predictions_with_line_separators_are_read(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:  # noqa: F811
    place = tmp_path / "run" / "seed-1"
    tokenizer.save_pretrained(place / "model")
    FinetunedTask(task="qa", max_length=64).save(place / "model")
    answer = "the law\u2028of the court\x85"
    example = {"question": "what", "context": f"{answer} held", "answers": [answer]}
    (tmp_path / "test.jsonl").write_text(json.dumps(example, ensure_ascii=False), encoding="utf-8")
    written = json.dumps({"answer": answer}, ensure_ascii=False) + "\n"
    (place / "test_predictions.jsonl").write_text(written, encoding="utf-8")
    assert read_scores(tmp_path / "run", 1, tmp_path / "test.jsonl").scores.tolist() == [1.0]


def test_differences_are_of_the_same_examples() -> None:
    first = _scores([100, 600, 700, 800], [1.0, 1.0, 0.5, np.nan])
    other = _scores([100, 600, 700, 800], [1.0, 0.0, 0.0, 1.0])
    whole = difference([first, first], [other, other])
    assert whole is not None
    assert whole.examples == 6  # the one without a label doesn't count
    assert whole.mean == pytest.approx(0.5)
    assert 0 <= whole.low < 0.5 < whole.high <= 1
    long = difference([first], [other], longer_than=600)
    assert long is None  # one example has no spread
    same = difference([first], [first])
    assert same is not None
    assert (same.mean, same.low, same.high) == (0, 0, 0)


def test_seeds_that_one_model_lacks_are_left_out() -> None:
    scores = {
        "long": {"1": _scores([9, 9], [1.0, 0.0]), "2": _scores([9, 9], [1.0, 1.0])},
        "cut": {"1": _scores([9, 9], [0.0, 0.0])},
        "hat": {},
    }
    found = compare(scores, first="long", longer_than=5)
    assert found["cut"]["all"]["examples"] == 2
    assert found["cut"]["long"]["mean"] == 0.5
    assert found["hat"] == {"all": None, "long": None}
    assert compare({"cut": scores["cut"]}, first="long", longer_than=5) == {}
