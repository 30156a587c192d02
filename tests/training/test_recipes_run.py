"""The published recipes run from end to end on local text, a few steps of a tiny converted model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_text import make_text, write_jsonl
from transformers import PreTrainedTokenizerBase

from longspan.convert import convert_directory
from longspan.models import LongformerForMaskedLM
from longspan.training import evaluate_masked_lm, load_masked_lm, load_recipe, pretrain
from longspan.training.freezing import global_projection_pairs

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="module")
def long_model(roberta_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny RoBERTa of 64 positions, made to read 256 with a window of 16."""
    return convert_directory(
        roberta_dir, tmp_path_factory.mktemp("long") / "model", max_positions=256, attention_window=16
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_jsonl(folder / "train.jsonl", [make_text(number, 20 + 30 * (number % 5)) for number in range(24)])
    write_jsonl(folder / "eval.jsonl", [make_text(100 + number, 150) for number in range(6)])
    return folder


SMALL: dict[str, dict[str, Any]] = {
    "paper_base": {"warmup_steps": 1},
    "paper_positions_only": {"warmup_steps": 1, "source_positions": 64},
    "card_base": {"segment_length": 16, "min_length": 60, "stream": True, "eval_documents": 4, "warmup_ratio": 0.4},
}


@pytest.mark.parametrize("name", SMALL)
def test_a_published_recipe_runs(
    tmp_path: Path, long_model: Path, corpus: Path, tokenizer: PreTrainedTokenizerBase, name: str
) -> None:
    recipe = load_recipe(
        RECIPES / f"{name}.yaml",
        model=str(long_model), train=str(corpus / "train.jsonl"), eval=str(corpus / "eval.jsonl"),
        output_dir=str(tmp_path / "run"), sequence_length=256, sequences_per_step=4, micro_batch=2, steps=4,
        log_every=1, eval_every=2, **SMALL[name],
    )  # fmt: skip
    result = pretrain(recipe, progress=False)
    assert [entry["step"] for entry in result.log if "eval_loss" in entry] == [2, 4]
    assert len(result.table.splitlines()) == 4
    trained, source = load_masked_lm(result.model_dir), load_masked_lm(long_model)
    assert isinstance(trained, LongformerForMaskedLM)
    assert trained.config.segment_length == SMALL[name].get("segment_length")
    moved = {
        name for name, weight in trained.state_dict().items() if not torch.equal(weight, source.state_dict()[name])
    }
    if name == "paper_positions_only":
        assert moved == {"longformer.embeddings.position_embeddings.weight"}
    else:
        copied = [torch.equal(local.weight, far.weight) for local, far in global_projection_pairs(trained)]
        # Only the card's run has global tokens to train them; the paper's code copies the local ones.
        assert all(copied) if name == "paper_base" else not any(copied)
        assert any("query_global" in key for key in moved)
    if name == "card_base":
        assert result.metrics is not None
        assert result.metrics.documents == 4
        assert result.tokens < 4 * 4 * 256, "documents are not joined"
    else:
        assert result.tokens == 4 * 4 * 256
    evaluate_masked_lm(trained, tokenizer, corpus / "eval.jsonl", sequence_length=256, progress=False)
