"""The two models that tasks are compared with, through official files: pieces of 512 tokens in small, and HAT."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import official_files
import pytest
import torch
from test_official_tasks import base, make_plan  # noqa: F401
from torch import Tensor

from longspan.convert import convert_to_hat
from longspan.tasks.registry import TASKS
from longspan.training.masked_lm import load_tokenizer
from longspan.training.tasks import finetune_task
from longspan.training.tasks.prediction import evaluate_official, predict_official
from longspan.training.tasks.saved import SavedTask, UnitPredictor, load_for_task

pytest.importorskip("accelerate")
pytest.importorskip("sklearn")

HAT_TASKS = ("contract-nli", "ecthr-arg", "ecthr-violation", "hyperpartisan", "imdb", "quality", "race")


def _predictor(folder: Path, task: str, **fields: Any) -> UnitPredictor:
    saved = SavedTask(task=TASKS[task](), max_length=512)
    tokenizer = load_tokenizer(folder)
    torch.manual_seed(0)
    network = load_for_task(folder, tokenizer, saved, **fields).eval()
    for name, weight in network.named_parameters():  # so that what a layer hears shows in what it says
        if "attention" in name and name.endswith("weight"):
            torch.nn.init.normal_(weight, std=0.5)
    return UnitPredictor(network, tokenizer, saved)


def _logits(predictor: UnitPredictor, unit: Any) -> Tensor:
    example = predictor.saved.task.encode(predictor.layout, unit)
    logits: Tensor = predictor._outputs([example]).logits
    return logits


@pytest.mark.parametrize("task", ["contract-nli", "race", "quality"])
def test_pieces_let_the_head_see_the_whole_document(tmp_path: Path, base: Path, task: str) -> None:  # noqa: F811
    """The head reads the last header; the hypothesis or the choice stands in every piece, so that it hears of each."""
    source = official_files.write(tmp_path, task, 2)
    unit = TASKS[task]().read(str(source), "eval")[0]
    field = "contract" if task == "contract-nli" else "article"
    texts = [f"{word} held the law of a contract. " * 10 + "the goods. " * 50 for word in ("seller", "buyer")]
    predictor = _predictor(base, task, reading_length=128)
    first, other = (_logits(predictor, replace(unit, **{field: text})) for text in texts)
    assert (first - other).abs().max() > 1e-4


def test_pieces_of_hotpotqa_hold_the_question(tmp_path: Path, base: Path) -> None:  # noqa: F811
    source = official_files.write(tmp_path, "hotpotqa", 1)
    (unit,) = TASKS["hotpotqa"]().read(str(source), "eval")
    long = replace(unit, paragraphs=tuple(replace(paragraph) for paragraph in unit.paragraphs * 4))
    predictor = _predictor(base, "hotpotqa", reading_length=64)
    scores = []
    for word in ("seller", "buyer"):
        example = predictor.saved.task.encode(predictor.layout, replace(long, question=f"{word} {word}"))
        assert len(example.input_ids) > 128
        scores.append(predictor._outputs([example])["sentence_logits"][0, -1])
    assert abs(scores[0] - scores[1]) > 1e-4


@pytest.mark.parametrize("task", ["coreference", "wikihop"])
def test_rows_of_their_own_are_pieces(tmp_path: Path, base: Path, task: str) -> None:  # noqa: F811
    """Tasks that lay a document out in several rows read pieces as rows: each with its first token, or its prefix."""
    plan = make_plan(tmp_path, base, task, max_length=64, reading_length=64)
    (run,) = finetune_task(plan, progress=False).seeds
    assert 0 <= run.eval[plan.recipe.metric] <= 100


def test_candidates_that_fill_a_piece_are_named_before_training(tmp_path: Path, base: Path) -> None:  # noqa: F811
    plan = make_plan(tmp_path, base, "wikihop", reading_length=8)
    with pytest.raises(
        ValueError, match=r"question WH_0_0: query .* of reading_length 8 tokens .* larger reading_leng"
    ):
        finetune_task(plan, progress=False)


@pytest.mark.parametrize("task", HAT_TASKS)
def test_a_hat_from_official_files_to_predictions(
    tmp_path: Path,
    base: Path,  # noqa: F811
    task: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hat = convert_to_hat(base, tmp_path / "hat", encoder_layout="SD", max_segments=4)
    plan = make_plan(tmp_path, hat, task, max_length=384)
    (run,) = finetune_task(plan, progress=False).seeds
    assert 0 <= run.eval[plan.recipe.metric] <= 100
    assert "You are using a model of type" not in caplog.text
    output = tmp_path / f"again{plan.task.suffix}"
    source = (plan.eval or plan.train)[0]
    assert predict_official(run.model_dir, [source], output, split="eval" if plan.eval else "train", progress=False) > 0
    if plan.eval:
        assert evaluate_official(run.model_dir, [source], progress=False) == pytest.approx(run.eval)


def test_what_a_hat_can_not_do_is_said(tmp_path: Path, base: Path) -> None:  # noqa: F811
    assert {name for name, task in TASKS.items() if task().hat_class() is not None} == set(HAT_TASKS)
    hat = convert_to_hat(base, tmp_path / "hat", encoder_layout="SD", max_segments=2)
    with pytest.raises(ValueError, match="is a HAT, which has no head for task 'wikihop'; use a Longformer"):
        finetune_task(make_plan(tmp_path, hat, "wikihop"), progress=False)
    with pytest.raises(ValueError, match="no field 'reading_length'"):
        finetune_task(make_plan(tmp_path / "pieces", hat, "race", reading_length=64), progress=False)
    with pytest.raises(ValueError, match=r"max_length is 384, but model .* reads 256 tokens; lower it"):
        finetune_task(make_plan(tmp_path / "long", hat, "race"), progress=False)
    short = convert_to_hat(base, tmp_path / "short", encoder_layout="SD", segment_length=64, max_segments=4)
    with pytest.raises(ValueError, match="segments of 64 tokens; task 'race' has segments of 128"):
        finetune_task(make_plan(tmp_path / "short-segments", short, "race", max_length=256), progress=False)
