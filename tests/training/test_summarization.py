"""Finetuning for summarization: it learns, and a killed run goes on where it was."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from summaries import make_records, save_led, write_records
from transformers import PreTrainedTokenizerBase, TrainerCallback

from longspan import LEDForConditionalGeneration
from longspan.training.summarization import SummarizationInterrupted, finetune_summarization
from longspan.training.summarization.recipe import SummarizationRecipe
from longspan.training.summarization.writing import Summarizer


@pytest.fixture(scope="module")
def led_dir(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerBase) -> Path:
    return save_led(tmp_path_factory.mktemp("led"), tokenizer)


def _recipe(folder: Path, model: Path, **fields: Any) -> SummarizationRecipe:
    defaults: dict[str, Any] = {
        "model": str(model),
        "train": str(write_records(folder / "train.jsonl", make_records(24))),
        "eval": str(write_records(folder / "eval.jsonl", make_records(4, seed=1))),
        "output_dir": str(folder / "run"),
        "max_input_length": 64,
        "max_target_length": 12,
        "examples_per_step": 4,
        "micro_batch": 2,
        "steps": 8,
        "learning_rate": 3e-3,
        "log_every": 2,
        "eval_every": 4,
        "save_every": 3,
    }
    return SummarizationRecipe(**{**defaults, **fields})


class _StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return LEDForConditionalGeneration.from_pretrained(folder).state_dict()


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, id="adamw", marks=pytest.mark.slow),
        pytest.param(
            {"optimizer": "adafactor", "label_smoothing": 0.1, "num_beams": 2, "length_penalty": 2.0}, id="adafactor"
        ),
    ],
)
def test_a_stopped_run_goes_on_to_the_same_weights(fields: dict[str, Any], tmp_path: Path, led_dir: Path) -> None:
    whole = finetune_summarization(_recipe(tmp_path, led_dir, **fields), progress=False)
    other = _recipe(tmp_path, led_dir, output_dir=str(tmp_path / "other"), **fields)
    with pytest.raises(SummarizationInterrupted, match=r"holds the checkpoint of step 3: run the same command again"):
        finetune_summarization(other, callbacks=[_StopAt(5)], progress=False)
    resumed = finetune_summarization(other, progress=False)
    assert resumed.steps == 8
    assert resumed.best_step == whole.best_step
    assert resumed.metrics == pytest.approx(whole.metrics)
    one, two = _weights(whole.model_dir), _weights(resumed.model_dir)
    assert all(torch.equal(one[name], two[name]) for name in one)
    steps = [entry["step"] for entry in resumed.log if "loss" in entry]
    assert steps == [2, 4, 6, 8]
    assert [entry["step"] for entry in resumed.log if "eval_loss" in entry] == [4, 8]
    again = finetune_summarization(other, progress=False)
    assert again == resumed
    changed = _recipe(tmp_path, led_dir, output_dir=other.output_dir, **{**fields, "learning_rate": 1e-3})
    with pytest.raises(ValueError, match=r"begun with learning_rate = 0\.003, and now learning_rate is 0\.001"):
        finetune_summarization(changed, progress=False)
    with pytest.raises(FileExistsError, match="already holds a run"):
        finetune_summarization(other, resume=False, progress=False)


def test_the_best_model_is_the_result(tmp_path: Path, led_dir: Path) -> None:
    """A learning rate that ruins the model after the first evaluation."""
    result = finetune_summarization(
        _recipe(tmp_path, led_dir, best_by="loss", learning_rate=0.3, eval_every=1, steps=3), progress=False
    )
    losses = {entry["step"]: entry["eval_loss"] for entry in result.log if "eval_loss" in entry}
    assert result.best_step == min(losses, key=lambda step: losses[step]) < 3
    assert result.metrics is not None
    assert result.metrics["loss"] == losses[result.best_step]
    checkpoint = next((tmp_path / "run" / "checkpoints").iterdir())
    last, best = _weights(checkpoint), _weights(result.model_dir)
    assert not all(torch.equal(last[name], best[name]) for name in last)


def test_accumulation_and_smoothing_are_one_big_batch(tmp_path: Path, led_dir: Path) -> None:
    """Summaries of different lengths: the loss is a mean over tokens, not over micro-batches."""
    records = [{**r, "summary": " ".join(r["text"].split()[: 1 + r["id"] % 4])} for r in make_records(4)]
    train = str(write_records(tmp_path / "four.jsonl", records))
    results = []
    for micro_batch in (1, 4):
        recipe = _recipe(
            tmp_path, led_dir, train=train, eval=(), eval_every=None, output_dir=str(tmp_path / str(micro_batch)),
            micro_batch=micro_batch, steps=1, log_every=1, label_smoothing=0.1, learning_rate=1e-4,
        )  # fmt: skip
        model = LEDForConditionalGeneration.from_pretrained(led_dir)
        for module in model.modules():
            if hasattr(module, "dropout") and isinstance(module.dropout, float):
                module.dropout = 0.0
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        results.append(finetune_summarization(recipe, model=model, progress=False).log[0])
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], rel=1e-5)
    assert results[0]["grad_norm"] == pytest.approx(results[1]["grad_norm"], rel=1e-4)


def test_it_learns_and_is_opened_everywhere(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    model = save_led(tmp_path / "led", tokenizer, dropout=0.0)
    train = str(write_records(tmp_path / "few.jsonl", make_records(4)))
    recipe = _recipe(
        tmp_path, model, train=train, eval=train, steps=60, eval_every=None, num_beams=2, save_every=60, micro_batch=4
    )
    result = finetune_summarization(recipe, progress=False)
    assert result.metrics is not None
    assert result.metrics["rouge1"] > 60, result.metrics
    summarizer = Summarizer.load(result.model_dir)
    assert summarizer.inputs.max_input_length == 64
    assert summarizer.model.generation_config.num_beams == 2
    stock = transformers.LEDForConditionalGeneration.from_pretrained(result.model_dir)
    assert stock.generation_config.max_length == 13
    assert json.loads((Path(recipe.output_dir) / "result.json").read_text())["steps"] == 60


def test_a_bart_is_a_baseline(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    config = transformers.BartConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=64,
    )  # fmt: skip
    transformers.BartForConditionalGeneration(config).save_pretrained(tmp_path / "bart")
    tokenizer.save_pretrained(tmp_path / "bart")
    result = finetune_summarization(_recipe(tmp_path, tmp_path / "bart", steps=2, eval_every=None), progress=False)
    assert result.metrics is not None
    with pytest.raises(ValueError, match="max_input_length is 65 but the bart model has 64 positions"):
        finetune_summarization(
            _recipe(tmp_path, tmp_path / "bart", max_input_length=65, output_dir=str(tmp_path / "b")), progress=False
        )


def test_what_is_no_summarizer(tmp_path: Path, roberta_dir: Path) -> None:
    with pytest.raises(ValueError, match="is a 'roberta', which does not generate texts"):
        finetune_summarization(_recipe(tmp_path, roberta_dir), progress=False)
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        finetune_summarization(_recipe(tmp_path, tmp_path), progress=False)
