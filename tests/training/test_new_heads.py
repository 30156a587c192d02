"""What is said of weights that a model's folder lacks."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import transformers

from longspan import LongformerForSequenceClassification, LongformerModelForSequenceClassification
from longspan.models import read_config
from longspan.training import new_heads
from longspan.training.new_heads import load_with_head

TABLES = logging.getLogger("transformers.modeling_utils")
MINI = "longspan-mini"


@pytest.fixture(autouse=True)
def _nothing_said_yet() -> Iterator[None]:
    new_heads._tell_once.cache_clear()
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_warning()  # whatever other tests left
    transformers.logging.enable_propagation()  # to caplog
    yield
    transformers.logging.disable_propagation()
    transformers.logging.set_verbosity(verbosity)


def test_a_new_head_is_one_sentence(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        load_with_head(LongformerForSequenceClassification, MINI, read_config(MINI))
    assert caplog.messages == [
        "longspan-mini has no head of LongformerForSequenceClassification; its classifier begins with random weights."
    ]
    assert not TABLES.filters


def test_a_new_head_of_several_parts(caplog: pytest.LogCaptureFixture) -> None:
    load_with_head(LongformerModelForSequenceClassification, MINI, read_config(MINI, segment_length=64))
    [line] = caplog.messages
    assert " and " in line
    assert line.endswith(" begin with random weights.")


def test_a_saved_head_is_no_news(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = load_with_head(LongformerForSequenceClassification, MINI, read_config(MINI))
    model.save_pretrained(tmp_path)
    caplog.clear()
    load_with_head(LongformerForSequenceClassification, tmp_path, read_config(tmp_path))
    assert caplog.messages == []


def test_weights_that_the_encoder_lacks_are_shown_as_before(caplog: pytest.LogCaptureFixture) -> None:
    config = read_config(MINI, num_hidden_layers=5)
    load_with_head(LongformerForSequenceClassification, MINI, config)
    [table] = caplog.messages
    assert "LOAD REPORT" in table
    assert "longformer.encoder.layer.4" in table
