"""Tiny texts, a tokenizer and masked LMs of a few thousand weights, made on the spot."""

import json
import random
import re
from pathlib import Path

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    BertConfig,
    BertForMaskedLM,
    PreTrainedTokenizerBase,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaTokenizer,
)

TEXT = "the court of a contract was held in café law naïve party and № § seller buyer goods 東京 price term shall"
WORDS = TEXT.split()
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def make_text(seed: int, words: int) -> str:
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) + draw.choice(["", "", "", ".", ",", "\n"]) for _ in range(words))


def make_texts(count: int = 12, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [make_text(seed * 1000 + number, draw.randint(3, 120)) for number in range(count)]


def make_sentences(count: int = 12, seed: int = 0) -> list[str]:
    """Texts as those of :func:`make_texts`, with a capital letter after each full stop, so that sentences end there."""
    return [re.sub(r"(?<=\. )\w", lambda found: found[0].upper(), text) for text in make_texts(count, seed)]


def write_jsonl(path: Path, texts: list[str], field: str = "text") -> Path:
    path.write_text("".join(json.dumps({field: text}) + "\n" for text in texts), encoding="utf-8")
    return path


def write_parquet(path: Path, texts: list[str], rows_per_group: int = 5) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"text": texts, "number": list(range(len(texts)))})
    pq.write_table(table, path, row_group_size=rows_per_group)
    return path


def save_roberta(folder: Path, tokenizer: PreTrainedTokenizerBase, positions: int = 64, dropout: float = 0.1) -> Path:
    torch.manual_seed(1)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=positions + 2,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    RobertaForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_bert(vocabulary: int, positions: int = 64) -> BertForMaskedLM:
    torch.manual_seed(2)
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=positions,
    )
    return BertForMaskedLM(config).eval()


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    folder = tmp_path_factory.mktemp("tokenizer")
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(make_texts(40), vocab_size=330, special_tokens=SPECIAL, show_progress=False)
    trained.save_model(str(folder))
    made = RobertaTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=64)
    made.save_pretrained(folder)
    return made


@pytest.fixture(scope="session")
def roberta_dir(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerBase) -> Path:
    """A RoBERTa of 64 positions with dropout."""
    return save_roberta(tmp_path_factory.mktemp("roberta"), tokenizer)
