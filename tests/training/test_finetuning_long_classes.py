"""A DeBERTa made long goes through finetuning, evaluation and prediction as other encoders do."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from finetuning_runs import make_recipe, run, write
from transformers import PreTrainedTokenizerBase

from longspan.convert import convert_directory
from longspan.training.finetuning.prediction import predict_files
from longspan.training.finetuning.task import load_finetuned

_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "pad_token_id": 1,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.1,
}


def _make_long(folder: Path, tokenizer: PreTrainedTokenizerBase, prefix: str, **fields: Any) -> Path:
    """A long DeBERTa of 64 positions, made of one of 32."""
    torch.manual_seed(3)
    config = getattr(transformers, f"{prefix}Config")(vocab_size=len(tokenizer), **_SIZES, **fields)
    getattr(transformers, f"{prefix}ForMaskedLM")(config).save_pretrained(folder / "short")
    tokenizer.save_pretrained(folder / "short")
    return convert_directory(folder / "short", folder / "long", max_positions=64, attention_window=16)


@pytest.fixture(scope="session")
def deberta_v1_dir(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerBase) -> Path:
    """Of DeBERTa v1."""
    return _make_long(tmp_path_factory.mktemp("deberta_v1"), tokenizer, "Deberta")


@pytest.fixture(scope="session")
def deberta_dir(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerBase) -> Path:
    """Of DeBERTa v3."""
    of_v3: dict[str, Any] = {"position_buckets": 8, "share_att_key": True, "norm_rel_ebd": "layer_norm"}
    return _make_long(tmp_path_factory.mktemp("deberta"), tokenizer, "DebertaV2", **of_v3)


@pytest.mark.parametrize(("task", "head"), [("classification", "Sequence"), ("tokens", "Token")])
@pytest.mark.parametrize(("folder", "prefix"), [("deberta_v1_dir", "LongDeberta"), ("deberta_dir", "LongDebertaV2")])
def test_it_learns(
    folder: str, prefix: str, task: str, head: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    result = run(make_recipe(tmp_path, request.getfixturevalue(folder), task))
    assert result.best.eval[result.metric] > 0.8
    model, _, _ = load_finetuned(result.best.model_dir)
    assert type(model).__name__ == f"{prefix}For{head}Classification"
    assert predict_files(result.best.model_dir, write(tmp_path / "new.jsonl", task, 3), tmp_path / "out.jsonl") == 3


@pytest.mark.parametrize(
    ("folder", "task"), [("deberta_v1_dir", "qa"), ("deberta_dir", "qa"), ("deberta_dir", "multiple-choice")]
)
def test_it_runs_the_other_tasks(folder: str, task: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    result = run(make_recipe(tmp_path, request.getfixturevalue(folder), task, epochs=1))
    assert result.best.eval[result.metric] >= 0.0


def test_a_head_that_v1_lacks_is_refused(deberta_v1_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a 'long-deberta', which has no head for task 'multiple-choice'"):
        run(make_recipe(tmp_path, deberta_v1_dir, "multiple-choice"))


def test_what_only_a_longformer_has_is_refused(deberta_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a 'long-deberta-v2', which has no field 'global_attention_policy'"):
        run(make_recipe(tmp_path, deberta_dir, "classification", global_attention_policy="first"))
