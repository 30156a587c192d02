"""``longspan.register()``: tasks that transformers dropped are there, long texts are read; all can be taken back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers
from tiny_text import make_text
from transformers import PreTrainedTokenizerBase, pipeline, pipelines

import longspan
from longspan.models import LongformerForQuestionAnswering, LongformerForSequenceClassification
from longspan.pipelines import LongTextClassificationPipeline, LongTokenClassificationPipeline
from longspan.training.summarization.pipeline import SummarizationPipeline
from tests.models.tiny_models import build_ours, build_stock

LONG = make_text(2, 300)


@pytest.fixture
def registered() -> Iterator[None]:
    longspan.register()
    yield
    longspan.register(False)


def _save(folder: Path, tokenizer: PreTrainedTokenizerBase, head: str, **fields: Any) -> str:
    build_stock(head, vocab_size=len(tokenizer), **fields).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.usefixtures("registered")
def test_question_answering_by_name(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    answer = pipeline("question-answering", model=_save(tmp_path, tokenizer, "ForQuestionAnswering"), device="cpu")
    assert type(answer) is longspan.QuestionAnsweringPipeline
    assert type(answer.model) is LongformerForQuestionAnswering
    result = answer(question="was the court held?", context=LONG)
    assert LONG[result["start"] : result["end"]] == result["answer"]


@pytest.mark.usefixtures("registered")
def test_long_texts_by_name(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    classify = pipeline("text-classification", model=_save(tmp_path / "t", tokenizer, "ForSequenceClassification"))
    assert type(classify) is LongTextClassificationPipeline
    assert type(classify.model) is LongformerForSequenceClassification
    assert classify(LONG)[0]["label"] in ("LABEL_0", "LABEL_1")
    assert type(pipeline("sentiment-analysis", model=str(tmp_path / "t"))) is LongTextClassificationPipeline
    tag = pipeline("ner", model=_save(tmp_path / "n", tokenizer, "ForTokenClassification"))
    assert type(tag) is LongTokenClassificationPipeline
    assert tag(LONG)[-1]["end"] > len(LONG) - 10


@pytest.mark.usefixtures("registered")
def test_summarization_by_name(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    config = longspan.LEDConfig(
        vocab_size=len(tokenizer),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_encoder_position_embeddings=256,
        max_decoder_position_embeddings=32,
        attention_window=16,
    )
    longspan.LEDForConditionalGeneration(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    summarize = pipeline("summarization", model=str(tmp_path), device="cpu")
    assert type(summarize) is SummarizationPipeline
    assert type(summarize.model) is longspan.LEDForConditionalGeneration
    assert list(summarize(LONG, max_new_tokens=4)[0]) == ["summary_text"]


def test_undone_it_leaves_no_trace() -> None:
    def state() -> tuple[dict[str, Any], dict[str, Any]]:
        return dict(pipelines.PIPELINE_REGISTRY.supported_tasks), dict(getattr(pipelines, "REMOVED_TASKS", {}))

    before = state()
    longspan.register()
    longspan.register()
    assert state() != before
    assert state()[0]["text-classification"]["default"] == before[0]["text-classification"]["default"]
    longspan.register(False)
    assert state() == before
    longspan.register(False)
    assert state() == before
    with pytest.raises(KeyError, match="question-answering"):
        pipelines.check_task("question-answering")


@pytest.mark.usefixtures("registered")
def test_other_pipelines_are_left_alone(tokenizer: PreTrainedTokenizerBase) -> None:
    features = pipeline("feature-extraction", model=build_ours(vocab_size=len(tokenizer)), tokenizer=tokenizer)
    assert type(features) is transformers.FeatureExtractionPipeline


@pytest.mark.usefixtures("registered")
def test_a_mask_in_a_long_text_is_refused_by_the_model_alone(
    tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer.deprecation_warnings.clear()  # what has been warned of once isn't again
    model = build_ours("ForMaskedLM", vocab_size=len(tokenizer))
    fill, stock = pipeline("fill-mask", model=model, tokenizer=tokenizer), transformers.FillMaskPipeline
    assert fill("the <mask> court") == stock(model=model, tokenizer=tokenizer)("the <mask> court")
    transformers.utils.logging.enable_propagation()
    try:
        with pytest.raises(ValueError, match="this model has positions for 128"):
            fill(f"<mask> {LONG}")
    finally:
        transformers.utils.logging.disable_propagation()
    assert not caplog.records
