"""Tiny LEDs and texts whose summary is a word of theirs."""

import json
import random
from pathlib import Path
from typing import Any

import torch
from tiny_text import WORDS
from transformers import PreTrainedTokenizerBase

from longspan import LEDConfig, LEDForConditionalGeneration

SIZES: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_encoder_position_embeddings": 96,
    "max_decoder_position_embeddings": 24,
    "attention_window": 16,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "init_std": 0.1,
}


def make_led(tokenizer: PreTrainedTokenizerBase, **fields: Any) -> LEDForConditionalGeneration:
    torch.manual_seed(3)
    return LEDForConditionalGeneration(LEDConfig(vocab_size=len(tokenizer), **{**SIZES, **fields})).eval()


def save_led(folder: Path, tokenizer: PreTrainedTokenizerBase, **fields: Any) -> Path:
    make_led(tokenizer, **fields).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_records(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Texts of 8 to 30 words; a summary is the first three of them."""
    draw = random.Random(seed)
    records = []
    for number in range(count):
        words = [draw.choice(WORDS) for _ in range(draw.randint(8, 30))]
        records.append({"id": number, "text": " ".join(words), "summary": " ".join(words[:3])})
    return records


def write_records(file: Path, records: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file
