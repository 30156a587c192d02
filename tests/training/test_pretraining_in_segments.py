"""Pretraining in segments that end at sentences, against texts laid out one by one by ``SegmentLayout``."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import make_recipe
from tiny_text import make_sentences, save_roberta, write_jsonl
from transformers import PreTrainedTokenizerBase

from longspan import lengthen
from longspan.data import SegmentLayout
from longspan.data.layout import SequenceLayout
from longspan.data.masking import mask_tokens
from longspan.data.tokenization import tokenize_with_extent
from longspan.models import LongformerForMaskedLM
from longspan.training import PretrainRecipe, evaluate_masked_lm, load_masked_lm, pretrain
from longspan.training.resumable_trainer import MASK_KEY

TEXTS, HELD_OUT = make_sentences(30), make_sentences(6, seed=1)
SEGMENTS: dict[str, Any] = {
    "layout": "document", "segment_length": 8, "segment_ends": "sentences", "global_tokens": "separators",
    "sequence_length": 44, "stream": True, "warmup_steps": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def long_dir(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerBase) -> Path:
    """A Longformer of 128 positions without dropout, and with weights so large that what is attended matters."""
    folder = tmp_path_factory.mktemp("models")
    model = lengthen(save_roberta(folder / "short", tokenizer, dropout=0.0), 128, 8)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(10 if weight.dim() > 1 else 1)
    model.save_pretrained(folder / "long")
    tokenizer.save_pretrained(folder / "long")
    return folder / "long"


def recipe_of(tmp_path: Path, model: Path, **fields: Any) -> PretrainRecipe:
    tmp_path.mkdir(exist_ok=True)
    write_jsonl(tmp_path / "train.jsonl", TEXTS)
    write_jsonl(tmp_path / "eval.jsonl", HELD_OUT)
    return make_recipe(tmp_path, model, **{**SEGMENTS, **fields})


class Reference:
    """Sums over texts that are laid out, masked and read one at a time."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, inner: bool, max_segments: int | None) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.layout = SegmentLayout.for_tokenizer(
            tokenizer, segment_length=8, max_segments=max_segments, attend_inner_padding=inner
        )
        self.nats, self.masked, self.tokens, self.characters, self.padding = 0.0, 0, 0, 0, 0

    def add(self, text: str, key: tuple[int, ...], *, at_least_one: bool) -> None:
        laid = self.layout.encode(self.tokenizer, text, truncate=True)
        names = SequenceLayout.for_tokenizer(self.tokenizer, 40)
        masked = mask_tokens(laid.text_ids, names, 0.15, key, at_least_one=at_least_one)
        ids = laid.input_ids.copy()
        ids[laid.positions] = masked.tokens
        with torch.no_grad():
            logits = self.model(
                torch.from_numpy(ids)[None],
                attention_mask=torch.from_numpy(laid.attention_mask)[None],
                global_attention_mask=torch.from_numpy(laid.global_attention_mask)[None],
            ).logits[0]
        for place, token in zip(laid.positions[masked.chosen], laid.text_ids[masked.chosen], strict=True):
            self.nats -= float(logits[place].log_softmax(-1)[token])
        self.masked += int(masked.chosen.sum())
        self.tokens += len(laid.positions) + len(laid.segments)
        self.padding += len(ids) - len(laid.positions) - len(laid.segments)
        extent = tokenize_with_extent(self.tokenizer, text).characters[: len(laid.positions)]
        self.characters += int(extent[masked.chosen].sum())


@pytest.mark.parametrize("inner", [False, True])
def test_losses_and_counts_are_those_of_single_texts(
    tmp_path: Path, long_dir: Path, tokenizer: PreTrainedTokenizerBase, inner: bool
) -> None:
    recipe = recipe_of(tmp_path, long_dir, attend_inner_padding=inner, steps=2, log_every=1, eval_every=1,
                       learning_rate=1e-9)  # fmt: skip
    result = pretrain(recipe, progress=False)
    model = load_masked_lm(long_dir)
    assert isinstance(model, LongformerForMaskedLM)
    steps = [Reference(model, tokenizer, inner, max_segments=5) for _ in range(2)]
    for index, text in enumerate(TEXTS[:16]):
        steps[index // 8].add(text, (recipe.seed, MASK_KEY, index), at_least_one=True)
    lines = [entry for entry in result.log if "loss" in entry]
    for line, step in zip(lines, steps, strict=True):
        assert step.padding > 10
        assert line["loss"] == pytest.approx(step.nats / step.masked, rel=1e-5)
        assert line["masked"] == step.masked
    assert [line["tokens"] for line in lines] == [steps[0].tokens, steps[0].tokens + steps[1].tokens]
    assert result.tokens == lines[-1]["tokens"]

    held_out = Reference(model, tokenizer, inner, max_segments=5)
    for number, text in enumerate(HELD_OUT):
        held_out.add(text, (recipe.seed, number), at_least_one=False)
    metrics = result.metrics
    assert metrics is not None
    assert metrics.loss == pytest.approx(held_out.nats / held_out.masked, rel=1e-5)
    assert (metrics.masked, metrics.masked_characters) == (held_out.masked, held_out.characters)
    bits = held_out.nats / math.log(2) / held_out.characters
    assert metrics.bits_per_character == pytest.approx(bits, rel=1e-5)
    assert metrics.tokens == held_out.tokens - metrics_headers(tokenizer)
    assert (metrics.documents, metrics.sequences) == (len(HELD_OUT), len(HELD_OUT))


def metrics_headers(tokenizer: PreTrainedTokenizerBase) -> int:
    layout = SegmentLayout.for_tokenizer(tokenizer, segment_length=8, max_segments=5)
    return sum(len(layout.encode(tokenizer, text, truncate=True).segments) for text in HELD_OUT)


def test_text_in_memory_is_read_as_streamed_text_is(tmp_path: Path, long_dir: Path) -> None:
    """The order differs, so the pass is one text: the same in every sequence."""
    logs = []
    for stream in (False, True):
        recipe = recipe_of(tmp_path / str(stream), long_dir, stream=stream, steps=2, log_every=1, eval=(),
                           eval_every=None)  # fmt: skip
        write_jsonl(Path(recipe.train[0]), TEXTS[:1])
        logs.append(pretrain(recipe, progress=False).log)
    for memory, streamed in zip(*logs, strict=True):
        for name in ("loss", "masked", "tokens", "grad_norm"):
            assert memory[name] == pytest.approx(streamed[name], nan_ok=True), name


def test_a_model_is_evaluated_as_it_was_trained(
    tmp_path: Path, long_dir: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    texts = [text for text in TEXTS if len(text) < 150]
    assert len(texts) > 2
    losses: dict[str, float] = {}
    for name, fields in {
        "sentences": {"attend_inner_padding": True},
        "full": {"segment_ends": "full"},
        "one": {"segment_length": None, "segment_ends": "full", "global_tokens": "cls"},
        "packed": {"layout": "packed", "segment_length": None, "segment_ends": "full", "global_tokens": "none"},
    }.items():
        recipe = recipe_of(tmp_path / name, long_dir, steps=1, eval_every=None, sequence_length=128, **fields)
        write_jsonl(Path(recipe.eval[0]), texts)
        result = pretrain(recipe, progress=False)
        assert result.metrics is not None
        options: dict[str, Any] = {"sequence_length": 128, "seed": recipe.seed, "progress": False}
        again = evaluate_masked_lm(load_masked_lm(result.model_dir), tokenizer, texts, **options)
        assert (again.loss, again.masked) == (pytest.approx(result.metrics.loss, rel=1e-6), result.metrics.masked)
        losses[name] = again.loss
    assert len({round(loss, 6) for loss in losses.values()}) == len(losses), "the layouts make no difference"


def test_long_documents_are_cut_into_sequences_of_whole_segments(
    long_dir: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Every token once, the masks of any layout, and each sequence as the segments of the whole text say."""
    text = " ".join(HELD_OUT)
    model = load_masked_lm(long_dir)
    options: dict[str, Any] = {"sequence_length": 32, "progress": False}
    cut = evaluate_masked_lm(model, tokenizer, [text], segment_length=8, **options)
    plain = evaluate_masked_lm(model, tokenizer, [text], segment_length=0, **options)
    assert (cut.tokens, cut.masked, cut.masked_characters) == (plain.tokens, plain.masked, plain.masked_characters)

    layout = SegmentLayout.for_tokenizer(tokenizer, segment_length=8, max_segments=None)
    whole = layout.encode(tokenizer, text)
    masked = mask_tokens(whole.text_ids, SequenceLayout.for_tokenizer(tokenizer, 32), 0.15, (0, 0))
    nats = 0.0
    ids = whole.input_ids.copy()
    ids[whole.positions] = masked.tokens
    columns, tokens = whole.positions[masked.chosen], whole.text_ids[masked.chosen]
    for first in range(0, len(ids), 32):
        part = slice(first, first + 32)
        row = ids[part].copy()
        row[0] = layout.first_id
        with torch.no_grad():
            logits = model.eval()(
                torch.from_numpy(row)[None],
                attention_mask=torch.from_numpy(whole.attention_mask[part])[None],
                global_attention_mask=torch.from_numpy(whole.global_attention_mask[part])[None],
            ).logits[0]
        inside = (columns >= first) & (columns < first + 32)
        for column, token in zip(columns[inside], tokens[inside], strict=True):
            nats -= float(logits[column - first].log_softmax(-1)[token])
    assert cut.loss == pytest.approx(nats / cut.masked, rel=1e-5)
    assert cut.sequences == -(-len(whole.segments) // 4)
    limited = evaluate_masked_lm(model, tokenizer, [text], segment_length=8, max_tokens=100, **options)
    assert limited.tokens == 100
    assert limited.masked == int(np.sum(masked.chosen[:100]))
