"""The far-part task: its texts, its table, and that a model which reads the far part solves it, and no other."""

import json
import statistics
from pathlib import Path

import pytest
import yaml

from benchmarks import far_part


def places(text: str) -> list[int]:
    return [place for place, word in enumerate(text.split()) if word in far_part.SUMMARIES]


@pytest.mark.parametrize(
    ("place", "first", "last"),
    [("far", far_part.LONGEST // 2 - 1, far_part.LONGEST), ("near", 0, far_part.NEAR_WORDS - 1)],
)
def test_one_name_stands_where_it_should(place: far_part.Place, first: int, last: int) -> None:
    records = list(far_part.make_records(16, 1, place=place))
    for record in records:
        words = record["text"].split()
        assert len(words) == far_part.LONGEST - 2, "with the special tokens as long as the model reads"
        (found,) = places(record["text"])
        assert first <= found <= last
        assert record["summary"] == far_part.SUMMARIES[words[found]]
    summaries = [record["summary"] for record in records]
    assert {summaries.count(summary) for summary in far_part.SUMMARIES.values()} == {2}, "chance is one in eight"


def test_training_texts_have_all_lengths_and_are_others_than_the_tested() -> None:
    records = list(far_part.make_records(64, 1, shortest=64, longest=4096))
    lengths = sorted(len(record["text"].split()) + 2 for record in records)
    assert 64 <= lengths[0] < 128
    assert 2048 < lengths[-1] <= 4096
    assert 256 < statistics.median(lengths) < 1024, "evenly on a logarithmic scale"
    assert max(place for record in records for place in places(record["text"])) > 1024
    assert records == list(far_part.make_records(64, 1, shortest=64, longest=4096))
    assert records != list(far_part.make_records(64, 2, shortest=64, longest=4096))


def test_the_table_has_a_row_for_each_length_and_seed() -> None:
    runs = [
        {"seed": seed, "length": length, "seconds": 61.4, "far": share, "near": 1.0}
        for seed in (1, 2)
        for length, share in ((1024, 0.125), (16384, 0.984375))
    ]
    assert far_part.table({"runs": runs}).splitlines()[2:] == [
        "| 1,024 tokens | 1 | 12.5% | 100.0% | 61 |",
        "| 1,024 tokens | 2 | 12.5% | 100.0% | 61 |",
        "| 16,384 tokens | 1 | 98.4% | 100.0% | 61 |",
        "| 16,384 tokens | 2 | 98.4% | 100.0% | 61 |",
    ]


@pytest.mark.slow
def test_the_far_part_is_read_at_16k_and_not_at_1k(tmp_path: Path) -> None:
    options = ["--output", str(tmp_path / "runs"), "--results", str(tmp_path / "results"), "--seeds", "4"]
    far_part.main([*options, "--test", "48"])
    (file,) = (tmp_path / "results").glob("*_far-part.json")
    assert str(tmp_path) not in file.read_text(encoding="utf-8"), "no folder of this machine"
    runs = json.loads(file.read_text(encoding="utf-8"))["runs"]
    short, long = runs
    assert (short["length"], long["length"]) == (1024, 16384)
    assert long["far"] >= 0.95
    assert short["far"] <= 0.35, "one in eight by chance; more than a third has a chance of 1 in 10,000"
    assert short["near"] >= 0.8, "it has learnt the task too"
    assert long["near"] >= 0.95

    recipes = [yaml.safe_load((tmp_path / "runs/4" / name / "recipe.yaml").read_text()) for name in ("1024", "16384")]
    differ = {field for field in recipes[0] if recipes[0][field] != recipes[1][field]}
    assert differ == {"max_input_length", "output_dir"}, "the same start, texts, order and steps"

    far_part.main([*options, "--test", "1"])
    again = json.loads(file.read_text(encoding="utf-8"))["runs"]
    assert [run["seconds"] for run in again] == [run["seconds"] for run in runs], "not trained again"
