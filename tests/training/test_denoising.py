"""Denoising pretraining: a BART and an LED learn, a stopped run goes on, and what doesn't fit is said."""

from pathlib import Path
from typing import Any

import pytest
import torch
from runs import make_recipe, numbers
from summaries import save_led
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedTokenizerBase,
    TrainerCallback,
)

from longspan.convert import convert_directory
from longspan.data.denoising import collate_denoising
from longspan.data.layout import SequenceLayout
from longspan.training import PretrainInterrupted, PretrainRecipe, load_recipe, pretrain
from longspan.training.denoising import DenoisingMetrics, true_text_logits
from longspan.training.sequence_to_sequence import load_sequence_to_sequence

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="module")
def bart_dir(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerBase) -> Path:
    folder = tmp_path_factory.mktemp("bart")
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=32,
    )  # fmt: skip
    BartForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _recipe(folder: Path, model: Path, **fields: Any) -> PretrainRecipe:
    return make_recipe(folder, model, objective="denoising", **fields)


class _StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def test_a_bart_learns_and_a_stopped_run_goes_on(tmp_path: Path, bart_dir: Path) -> None:
    whole = pretrain(_recipe(tmp_path, bart_dir, steps=30, learning_rate=5e-3), progress=False)
    assert isinstance(whole.metrics, DenoisingMetrics)
    losses = [entry["loss"] for entry in whole.log if "loss" in entry]
    assert losses[-1] < losses[0] - 1
    other = _recipe(tmp_path, bart_dir, steps=30, learning_rate=5e-3, output_dir=str(tmp_path / "other"))
    with pytest.raises(PretrainInterrupted, match="holds the checkpoint of step 10 of 30"):
        pretrain(other, callbacks=[_StopAt(13)], progress=False)
    resumed = pretrain(other, progress=False)
    assert numbers(resumed.log) == numbers(whole.log)
    one, two = (AutoModelForSeq2SeqLM.from_pretrained(run.model_dir).state_dict() for run in (whole, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert "| 30 |" in whole.table


def test_what_was_pretrained_becomes_an_led_that_trains_on(tmp_path: Path, bart_dir: Path) -> None:
    first = pretrain(_recipe(tmp_path, bart_dir, steps=2, eval_every=None), progress=False)
    led = convert_directory(
        first.model_dir, tmp_path / "led", max_positions=64, attention_window=16, max_decoder_positions=64
    )
    recipe = _recipe(tmp_path, led, steps=2, eval_every=None, sequence_length=64, output_dir=str(tmp_path / "longer"))
    result = pretrain(recipe, progress=False)
    before, after = (load_sequence_to_sequence(folder).state_dict() for folder in (led, result.model_dir))
    name = "led.encoder.layers.0.self_attn.longformer_self_attn.query_global.weight"
    assert not torch.equal(before[name], after[name])  # an LED's first token is global


def test_the_loss_is_the_models_own(bart_dir: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    model = load_sequence_to_sequence(bart_dir)
    layout = SequenceLayout.for_tokenizer(tokenizer, 32)
    batch = collate_denoising([(torch.arange(5, 9).numpy(), torch.arange(5, 15).numpy())] * 2, layout)
    logits, truth = true_text_logits(model.eval(), batch)
    expected = model(**batch).loss
    torch.testing.assert_close(torch.nn.functional.cross_entropy(logits, truth), expected)


def test_random_weights_and_streams(tmp_path: Path, bart_dir: Path) -> None:
    recipe = _recipe(tmp_path, bart_dir, init="random", stream=True, layout="document", steps=2, precision="bf16")
    result = pretrain(recipe, progress=False)
    assert result.steps == 2
    assert isinstance(result.metrics, DenoisingMetrics)
    assert 5 < result.metrics.loss < 7


def test_what_does_not_fit_is_said(tmp_path: Path, bart_dir: Path, roberta_dir: Path, tokenizer: Any) -> None:
    with pytest.raises(
        ValueError, match=r"sequence_length is 40, but the model reads 32 tokens; lower it, or lengthen"
    ):
        pretrain(_recipe(tmp_path, bart_dir, sequence_length=40), progress=False)
    led = save_led(tmp_path / "led", tokenizer)
    with pytest.raises(ValueError, match="sequence_length is 40, but the model writes 24 tokens"):
        pretrain(_recipe(tmp_path, led, sequence_length=40), progress=False)
    with pytest.raises(ValueError, match="is a 'roberta', which does not generate texts"):
        pretrain(_recipe(tmp_path, roberta_dir), progress=False)
    with pytest.raises(ValueError, match="global_tokens is 'cls', which is for masked language models"):
        _recipe(tmp_path, bart_dir, global_tokens="cls")
    with pytest.raises(ValueError, match=r"noise_density is 1\.0; it must lie between 0 and 1, as 0\.3"):
        _recipe(tmp_path, bart_dir, noise_density=1.0)


def test_the_recipe_of_bart_is_complete() -> None:
    recipe = load_recipe(RECIPES / "bart_base.yaml")
    assert (recipe.objective, recipe.noise_density, recipe.mean_span, recipe.permute_sentences) == (
        "denoising", 0.3, 3.0, True,
    )  # fmt: skip
    assert (recipe.sequences_per_step, recipe.steps) == (8000, 500_000)
