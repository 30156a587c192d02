"""A DeBERTa made long goes through finetuning, evaluation and prediction as other encoders do."""

from pathlib import Path

import pytest
import torch
import transformers
from finetuning_runs import make_recipe, run, write
from transformers import PreTrainedTokenizerBase

from longspan.convert import convert_directory
from longspan.training.finetuning.prediction import predict_files
from longspan.training.finetuning.task import load_finetuned


@pytest.fixture(scope="session")
def deberta_dir(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerBase) -> Path:
    """A long DeBERTa of 64 positions, made of one of 32."""
    folder = tmp_path_factory.mktemp("deberta")
    torch.manual_seed(3)
    config = transformers.DebertaV2Config(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, relative_attention=True, position_buckets=8, pos_att_type=["p2c", "c2p"],
        share_att_key=True, position_biased_input=False, norm_rel_ebd="layer_norm", pad_token_id=1,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.1,
    )  # fmt: skip
    transformers.DebertaV2ForMaskedLM(config).save_pretrained(folder / "short")
    tokenizer.save_pretrained(folder / "short")
    return convert_directory(folder / "short", folder / "long", max_positions=64, attention_window=16)


@pytest.mark.parametrize(("task", "head"), [("classification", "Sequence"), ("tokens", "Token")])
def test_it_learns(task: str, head: str, deberta_dir: Path, tmp_path: Path) -> None:
    result = run(make_recipe(tmp_path, deberta_dir, task))
    assert result.best.eval[result.metric] > 0.8
    model, _, _ = load_finetuned(result.best.model_dir)
    assert type(model).__name__ == f"LongDebertaV2For{head}Classification"
    assert predict_files(result.best.model_dir, write(tmp_path / "new.jsonl", task, 3), tmp_path / "out.jsonl") == 3


@pytest.mark.parametrize("task", ["qa", "multiple-choice"])
def test_it_runs_the_other_tasks(task: str, deberta_dir: Path, tmp_path: Path) -> None:
    result = run(make_recipe(tmp_path, deberta_dir, task, epochs=1))
    assert result.best.eval[result.metric] >= 0.0


def test_what_only_a_longformer_has_is_refused(deberta_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a 'long-deberta-v2', which has no field 'global_attention_policy'"):
        run(make_recipe(tmp_path, deberta_dir, "classification", global_attention_policy="first"))
