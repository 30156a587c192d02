"""Evaluation: the same masked tokens for every length, and sums that are what they say."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_text import make_texts, save_roberta, write_jsonl
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from longspan.data.layout import SequenceLayout
from longspan.data.masking import IGNORED, collate
from longspan.data.text import Document
from longspan.data.tokenization import tokenize
from longspan.training import evaluate_masked_lm, load_masked_lm
from longspan.training.evaluation import MaskedLMEvaluation

TEXTS = make_texts(8, seed=3)


@pytest.fixture
def model(roberta_dir: Path) -> PreTrainedModel:
    return load_masked_lm(roberta_dir)


def asked(
    tokenizer: PreTrainedTokenizerBase, length: int, segment: int | None = None, max_tokens: int | None = None
) -> list[tuple[int, int, int]]:
    """(true token, seen token, place among all tokens of text) of every masked token at a sequence length."""
    layout = SequenceLayout.for_tokenizer(tokenizer, length, segment_length=segment)
    evaluation = MaskedLMEvaluation(tokenizer=tokenizer, layout=layout, seed=7, max_tokens=max_tokens)
    found, place = [], 0
    for piece in evaluation._pieces(Document(text, "") for text in TEXTS):
        batch = collate([piece.piece], layout)
        at = layout.text_positions(len(piece.tokens))
        for label, seen in zip(batch["labels"][0, at].tolist(), batch["input_ids"][0, at].tolist(), strict=True):
            if label != IGNORED:
                found.append((label, seen, place))
            place += 1
    return found


def test_models_of_every_length_are_asked_the_same(tokenizer: PreTrainedTokenizerBase) -> None:
    short = asked(tokenizer, 16)
    assert len(short) > 100
    for length, segment in ((17, None), (64, None), (4096, None), (64, 8)):
        assert asked(tokenizer, length, segment) == short
    limited = asked(tokenizer, 16, max_tokens=300)
    assert limited == asked(tokenizer, 64, max_tokens=300) == [entry for entry in short if entry[2] < 300]
    text = np.concatenate(tokenize(tokenizer, TEXTS))
    assert all(text[place] == label for label, _, place in short)


def test_counts_do_not_depend_on_length_or_batch(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    results = [
        evaluate_masked_lm(model, tokenizer, TEXTS, sequence_length=length, batch_size=batch, progress=False)
        for length, batch in ((64, 1), (64, 5), (16, 4))
    ]
    for result in results:
        assert result.masked == results[0].masked
        assert (result.masked_characters, result.masked_bytes) == (
            results[0].masked_characters,
            results[0].masked_bytes,
        )
        assert result.tokens == sum(len(tokens) for tokens in tokenize(tokenizer, TEXTS))
        assert result.documents == 8
    assert results[1].loss == pytest.approx(results[0].loss, rel=1e-5)
    assert results[2].sequences > results[0].sequences


def test_metrics_are_their_definitions(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    layout = SequenceLayout.for_tokenizer(tokenizer, 64)
    pieces = list(MaskedLMEvaluation(tokenizer=tokenizer, layout=layout)._pieces(Document(t, "") for t in TEXTS))
    nats, right, masked = 0.0, 0, 0
    model.eval()
    for piece in pieces:
        batch = collate([piece.piece], layout)
        labels = batch["labels"]
        with torch.no_grad():
            scores = model(batch["input_ids"]).logits.log_softmax(-1)
        for place in (labels[0] != IGNORED).nonzero()[:, 0].tolist():
            nats -= float(scores[0, place, labels[0, place]])
            right += int(scores[0, place].argmax() == labels[0, place])
            masked += 1
    result = evaluate_masked_lm(model, tokenizer, TEXTS, sequence_length=64, progress=False)
    assert result.masked == masked
    assert result.loss == pytest.approx(nats / masked, rel=1e-5)
    assert result.accuracy == right / masked
    assert result.bits_per_token == pytest.approx(result.loss / math.log(2))
    assert result.perplexity == pytest.approx(math.exp(result.loss))
    assert result.bits_per_character == pytest.approx(nats / math.log(2) / result.masked_characters, rel=1e-5)
    assert result.bits_per_byte == pytest.approx(nats / math.log(2) / result.masked_bytes, rel=1e-5)
    assert result.masked_bytes > result.masked_characters > result.masked


def test_characters_of_all_tokens_are_the_text(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    result = evaluate_masked_lm(model, tokenizer, TEXTS, sequence_length=64, mlm_probability=0.999999, progress=False)
    assert result.masked == result.tokens
    assert result.masked_characters == sum(map(len, TEXTS))
    assert result.masked_bytes == sum(len(text.encode()) for text in TEXTS)


def test_limits_seeds_and_mode(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    model.train()
    first = evaluate_masked_lm(model, tokenizer, TEXTS, sequence_length=64, max_documents=3, progress=False)
    assert model.training
    again = evaluate_masked_lm(model, tokenizer, TEXTS[:3], sequence_length=64, progress=False)
    assert (first.loss, first.masked, first.documents) == (again.loss, again.masked, 3)
    other = evaluate_masked_lm(model, tokenizer, TEXTS[:3], sequence_length=64, seed=1, progress=False)
    assert other.loss != first.loss
    assert evaluate_masked_lm(model, tokenizer, TEXTS, sequence_length=64, max_tokens=50, progress=False).tokens == 50
    half = evaluate_masked_lm(model, tokenizer, TEXTS[:3], sequence_length=64, precision="bf16", progress=False)
    assert half.loss == pytest.approx(first.loss, rel=0.05)
    assert half.loss != first.loss


def test_processes_share_an_evaluation(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    evaluation = MaskedLMEvaluation(
        tokenizer=tokenizer, layout=SequenceLayout.for_tokenizer(tokenizer, 16), batch_size=2, progress=False
    )
    documents = [Document(text, "") for text in TEXTS]
    whole = evaluation.count(model, documents)
    parts = [evaluation.count(model, documents, process, 3) for process in range(3)]
    assert all(part.masked for part in parts)
    for part in parts[1:]:
        parts[0].add(part)
    assert parts[0].nats == pytest.approx(whole.nats)
    parts[0].nats = whole.nats
    assert parts[0] == whole


def test_a_file_of_one_token_may_be_too_short(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    file = write_jsonl(tmp_path / "one.jsonl", ["a"])
    with pytest.raises(
        ValueError, match=r"none of its tokens is masked \(seed 0, mlm_probability 0\.15\); give more text"
    ):
        evaluate_masked_lm(model, tokenizer, file, sequence_length=64, progress=False)
    certain = evaluate_masked_lm(model, tokenizer, file, sequence_length=64, mlm_probability=0.9999, progress=False)
    assert certain.masked == 1


def test_global_tokens_change_what_is_seen(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    from transformers import LongformerConfig, LongformerForMaskedLM

    torch.manual_seed(0)
    config = LongformerConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=66, attention_window=8, pad_token_id=1, type_vocab_size=1, initializer_range=0.5,
    )  # fmt: skip
    model = LongformerForMaskedLM(config)
    losses = {
        policy: evaluate_masked_lm(
            model,
            tokenizer,
            TEXTS,
            sequence_length=64,
            segment_length=16,
            global_tokens=policy,
            progress=False,  # type: ignore[arg-type]
        ).loss
        for policy in ("none", "cls", "separators")
    }
    assert len(set(losses.values())) == 3


def test_what_cannot_be_evaluated_is_said(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="longspan convert"):
        evaluate_masked_lm(model, tokenizer, TEXTS, sequence_length=128, progress=False)
    with pytest.raises(ValueError, match="every document is blank"):
        evaluate_masked_lm(model, tokenizer, [" ", "\n\n"], sequence_length=64, progress=False)
    with pytest.raises(FileNotFoundError, match="is empty"):
        evaluate_masked_lm(model, tokenizer, tmp_path, sequence_length=64, progress=False)


def test_a_longer_model_has_more_context_for_the_same_tokens(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    long = load_masked_lm(save_roberta(tmp_path, tokenizer, positions=256))
    results = [
        evaluate_masked_lm(long, tokenizer, TEXTS, sequence_length=length, progress=False) for length in (64, 256)
    ]
    assert results[0].masked == results[1].masked
    assert results[0].loss != results[1].loss
