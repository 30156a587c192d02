"""Tiny finetunings: a model, files of examples of every task that a word decides, and recipes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from longspan.models import LongformerConfig, LongformerForMaskedLM
from longspan.training.finetuning import FinetuneResult, finetune
from longspan.training.finetuning.recipe import FinetuneRecipe

FILLER = "was held in the law of a contract"


@pytest.fixture(scope="session")
def longformer_dir(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerBase) -> Path:
    """A Longformer of 64 positions."""
    folder = tmp_path_factory.mktemp("longformer")
    torch.manual_seed(3)
    config = LongformerConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=66,
        attention_window=16,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        sep_token_id=2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = LongformerForMaskedLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)  # so that a word makes a difference before it is learnt
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def record(task: str, number: int) -> dict[str, Any]:
    """An example whose target a word decides."""
    yes = number % 2 == 0
    word = "seller" if yes else "buyer"
    text = f"{FILLER[: number % 20]} the {word} {FILLER}"
    if task == "classification":
        return {"text": text, "label": "yes" if yes else "no"}
    if task == "multi-label":
        return {"text": text, "labels": ["yes", "any"] if yes else ["any"]}
    if task == "nli":
        return {"premise": text, "hypothesis": "a seller", "label": "yes" if yes else "no"}
    if task == "sequential":
        words = [word, "price" if number % 3 else "seller", "buyer"]
        return {"sentences": words, "labels": ["yes" if w == "seller" else "no" for w in words]}
    if task == "multiple-choice":
        choices = ["the seller", "the buyer", "price"][: 2 + number % 2]
        return {"context": FILLER, "question": "who", "choices": choices[:: 1 if yes else -1],
                "answer": 0 if yes else len(choices) - 1}  # fmt: skip
    if task == "qa":
        return {"question": "who", "context": text, "answers": [word]}
    words = text.split()
    return {"tokens": words, "tags": ["B-x" if w in ("seller", "buyer") else "O" for w in words]}


def write(path: Path, task: str, count: int, start: int = 0) -> Path:
    rows = [json.dumps({**record(task, number), "id": number}) for number in range(start, start + count)]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def make_recipe(folder: Path, model: Path, task: str, **fields: Any) -> FinetuneRecipe:
    defaults: dict[str, Any] = {
        "task": task,
        "model": str(model),
        "train": (str(write(folder / "train.jsonl", task, 24)),),
        "eval": (str(write(folder / "dev.jsonl", task, 8, start=24)),),
        "output_dir": str(folder / "run"),
        "segment_length": 8,
        "overlap": 8,
        "epochs": 20,
        "patience": 6,
        "batch_size": 4,
        "micro_batch": 4,
        "learning_rate": 3e-3,
    }
    return FinetuneRecipe(**{**defaults, **fields})


def run(recipe: FinetuneRecipe, **options: Any) -> FinetuneResult:
    return finetune(recipe, progress=False, **options)
