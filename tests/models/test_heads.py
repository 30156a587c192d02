"""What every model with a head must do: load, save, resize, checkpoint, compile, report, whatever wraps it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_models import PAD, SIZES, build_ours, build_stock, make_batch, randomize
from torch import Tensor

import longspan.models
from longspan.models.global_policies import make_global_attention_mask

SEP = 2
SHARED = [
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
]
HEADS = [*SHARED, "ForSequentialSentenceClassification"]
FIELDS: dict[str, Any] = {"segment_length": 8}


def _inputs(head: str, labels: bool = False, lengths: tuple[int, int] = (29, 12)) -> dict[str, Tensor]:
    """Two texts of two parts, or two questions of one choice each."""
    inputs = make_batch(list(lengths))
    inputs["input_ids"].masked_fill_(inputs["input_ids"] == SEP, 7)
    for row, length in enumerate(lengths):
        inputs["input_ids"][row, [4, 5, length - 1]] = SEP
    if labels and head == "ForQuestionAnswering":
        inputs |= {"start_positions": torch.tensor([7, 8]), "end_positions": torch.tensor([9, 9])}
    elif labels:
        shapes = {"ForTokenClassification": (2, lengths[0]), "ForSequentialSentenceClassification": (2, 4)}
        inputs["labels"] = torch.randint(0, 2, shapes.get(head, (2,)))
    if head == "ForMultipleChoice":
        inputs = {key: value[:, None] if key != "labels" else value * 0 for key, value in inputs.items()}
    return inputs


def _logits(output: Any) -> Tensor:
    return output.start_logits if "start_logits" in output else output.logits


@pytest.mark.parametrize("head", SHARED)
def test_weights_travel_both_ways(head: str, tmp_path: Path) -> None:
    stock, inputs = build_stock(head), _inputs(head)
    stock.save_pretrained(tmp_path / "stock")
    ours_class, stock_class = getattr(longspan.models, f"Longformer{head}"), type(stock)
    ours, info = ours_class.from_pretrained(tmp_path / "stock", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    torch.testing.assert_close(_logits(ours.eval()(**inputs)), _logits(stock(**inputs)), atol=1e-5, rtol=1e-5)

    randomize(ours, seed=1)
    ours.save_pretrained(tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["architectures"] == [f"Longformer{head}"]
    again, info = stock_class.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    torch.testing.assert_close(_logits(again.eval()(**inputs)), _logits(ours(**inputs)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_a_head_is_put_on_a_pretrained_encoder(head: str, tmp_path: Path) -> None:
    pretrained = build_stock("ForMaskedLM")
    pretrained.save_pretrained(tmp_path)
    model_class = getattr(longspan.models, f"Longformer{head}")
    model, info = model_class.from_pretrained(tmp_path, num_labels=5, output_loading_info=True)
    assert all(
        key.split(".")[0] in ("classifier", "qa_outputs", "sentencizer") or "pooler" in key
        for key in info["missing_keys"]
    )
    assert info["missing_keys"]
    inputs = make_batch([29, 12], [[0], []])
    expected = pretrained.longformer(**inputs).last_hidden_state
    torch.testing.assert_close(model.eval().longformer(**inputs).last_hidden_state, expected, atol=1e-5, rtol=1e-5)
    fresh = [parameter for name, parameter in model.named_parameters() if name in info["missing_keys"]]
    assert all(parameter.isfinite().all() and parameter.abs().max() < 0.2 for parameter in fresh)


@pytest.mark.parametrize("head", HEADS)
def test_outputs(head: str) -> None:
    model = build_ours(head, **FIELDS)
    inputs = _inputs(head, labels=True)
    output = model(**inputs, output_hidden_states=True, output_attentions=True)
    assert output.loss.dim() == 0
    batch = 2
    assert [state.shape for state in output.hidden_states] == [(batch, 29, 24)] * 3
    assert all(layer.shape[:3] == (batch, 3, 29) for layer in output.attentions)
    assert len(output.attentions) == 2
    shapes = {
        "ForSequenceClassification": (2, 2),
        "ForTokenClassification": (2, 29, 2),
        "ForQuestionAnswering": (2, 29),
        "ForMultipleChoice": (2, 1),
        "ForSequentialSentenceClassification": (2, 4, 2),
    }
    assert _logits(output).shape == shapes[head]
    assert (output.global_attentions is None) == (head == "ForTokenClassification")
    plain = model(**inputs)
    assert plain.hidden_states is None
    assert plain.attentions is None
    torch.testing.assert_close(plain.loss, output.loss)
    as_tuple = model(**inputs, return_dict=False)
    assert as_tuple[0].equal(plain.loss)
    assert as_tuple[1].equal(_logits(plain))
    assert len(model(**inputs, output_hidden_states=True, return_dict=False)[-1]) == 3
    model.config.return_dict = False
    assert isinstance(model(**inputs), tuple)


@pytest.mark.parametrize("head", HEADS)
def test_embeddings_equal_ids(head: str) -> None:
    model = build_ours(head, **FIELDS)
    inputs = _inputs(head, lengths=(29, 29))
    inputs["global_attention_mask"] = torch.zeros_like(inputs["input_ids"])
    inputs["global_attention_mask"][..., [0, 7]] = 1
    expected = _logits(model(**inputs))
    ids = inputs.pop("input_ids")
    inputs["inputs_embeds"] = model.get_input_embeddings()(ids)
    torch.testing.assert_close(_logits(model(**inputs)), expected)
    del inputs["global_attention_mask"]
    assert _logits(model(**inputs)).shape == expected.shape


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("head", HEADS)
def test_gradient_checkpointing(head: str, reentrant: bool) -> None:
    inputs, gradients = _inputs(head, labels=True), []
    for checkpointing in (False, True):
        model = build_ours(head, **FIELDS).train()
        if checkpointing:
            newer = getattr(model, "activation_checkpointing_enable", None)
            (newer or model.gradient_checkpointing_enable)({"use_reentrant": reentrant})
        model(**inputs).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_every_parameter_has_a_gradient(head: str) -> None:
    """As data-parallel training without a search for unused parameters needs, here with no global token."""
    model = build_ours(head, **FIELDS).train()
    inputs = _inputs(head, labels=True)
    model(**inputs, global_attention_mask=torch.zeros_like(inputs["input_ids"])).loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("head", HEADS)
def test_gradients_of_each_text_by_vmap(head: str) -> None:
    model, inputs = build_ours(head, **FIELDS), _inputs(head, labels=True)
    parameters = dict(model.named_parameters())

    def loss(parameters: dict[str, Tensor], text: dict[str, Tensor]) -> Tensor:
        one = {name: tensor[None] for name, tensor in text.items()}
        result: Tensor = torch.func.functional_call(model, parameters, (), one).loss
        return result

    together = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, inputs)
    for row in range(2):
        alone = torch.func.grad(loss)(parameters, {name: tensor[row] for name, tensor in inputs.items()})
        for name in parameters:
            torch.testing.assert_close(together[name][row], alone[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("head", HEADS)
def test_one_graph(head: str) -> None:
    model, inputs = build_ours(head, **FIELDS), _inputs(head, labels=True)
    expected = model(**inputs)
    torch._dynamo.reset()
    result = torch.compile(model, fullgraph=True, backend="aot_eager")(**inputs)
    torch.testing.assert_close(_logits(result), _logits(expected))
    torch.testing.assert_close(result.loss, expected.loss)


def test_one_graph_from_embeddings() -> None:
    model, embeddings = build_ours("ForQuestionAnswering"), torch.randn(2, 20, 24)
    torch._dynamo.reset()
    result = torch.compile(model, fullgraph=True, backend="eager")(inputs_embeds=embeddings)
    torch.testing.assert_close(result.start_logits, model(inputs_embeds=embeddings).start_logits)


@pytest.mark.parametrize("head", HEADS)
def test_resized_vocabulary(head: str, tmp_path: Path) -> None:
    model, inputs = build_ours(head, **FIELDS), _inputs(head)
    expected = _logits(model(**inputs))
    model.resize_token_embeddings(SIZES["vocab_size"] + 6)
    assert model.config.vocab_size == SIZES["vocab_size"] + 6
    torch.testing.assert_close(_logits(model(**inputs)), expected)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(_logits(again(**inputs)), expected)
    inputs["input_ids"][..., 2] = SIZES["vocab_size"] + 5
    assert _logits(again(**inputs)).isfinite().all()


@pytest.mark.parametrize("head", HEADS)
def test_a_text_is_independent_of_its_batch(head: str) -> None:
    model, inputs = build_ours(head, **FIELDS), _inputs(head)
    together = _logits(model(**inputs))
    alone = _logits(model(**{key: value[1:, ..., :12] for key, value in inputs.items()}))
    together = together[1:, : alone.shape[1]]
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForMultipleChoice", "ForQuestionAnswering"])
def test_padding_on_the_left_changes_nothing(head: str) -> None:
    """Hugging Face's classification heads read column 0, padding or not."""
    model, inputs = build_ours(head), _inputs(head, lengths=(29, 29))
    expected = _logits(model(**inputs))
    padded = {
        key: torch.nn.functional.pad(value, (6, 0), value=PAD if key == "input_ids" else 0)
        for key, value in inputs.items()
    }
    result = _logits(model(**padded))
    result = result[:, 6:] if head == "ForQuestionAnswering" else result
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_dropout_of_the_head(head: str) -> None:
    inputs = _inputs(head)
    for fields, is_random in (({}, False), ({"classifier_dropout": 0.5}, True), ({"hidden_dropout_prob": 0.5}, True)):
        model = build_ours(head, **FIELDS, **fields).train()
        drops = head != "ForQuestionAnswering" or "hidden_dropout_prob" in fields
        same = _logits(model(**inputs)).equal(_logits(model(**inputs)))
        assert same != (is_random and drops)
    silent = build_ours(head, **FIELDS, hidden_dropout_prob=0.5, classifier_dropout=0.0).train()
    dropouts = [module.p for name, module in silent.named_modules() if name in ("dropout", "classifier.dropout")]
    assert dropouts == [] if head == "ForQuestionAnswering" else dropouts == [0.0]


# What Hugging Face's heads get wrong, and these must not.


@pytest.mark.parametrize("separators", [[], [4], [4, 9], [4, 5, 9, 12], [1, 2, 3, 4, 5, 6]])
def test_questions_with_any_number_of_separators(separators: list[int]) -> None:
    model, stock = build_ours("ForQuestionAnswering"), build_stock("ForQuestionAnswering")
    ids = torch.full((1, 14), 7)
    ids[0, separators] = SEP
    with pytest.raises(AssertionError, match="exactly three separator tokens"):
        stock(ids)
    until = separators[0] if separators else 1
    expected = model(ids, global_attention_mask=(torch.arange(14) < until)[None])
    torch.testing.assert_close(model(ids).start_logits, expected.start_logits)


def test_texts_of_one_batch_with_different_numbers_of_separators() -> None:
    model = build_ours("ForQuestionAnswering")
    ids = torch.full((2, 14), 7)
    ids[0, [3, 4, 5, 13]] = ids[1, [8, 13]] = SEP
    ids[0, [3, 4, 5, 13]] = SEP
    together = model(ids).start_logits
    for row in range(2):
        torch.testing.assert_close(together[row : row + 1], model(ids[row : row + 1]).start_logits)


@pytest.mark.parametrize("num_labels", [1, 3, 7])
def test_questions_whatever_the_configurations_number_of_labels(num_labels: int, tmp_path: Path) -> None:
    config = longspan.models.LongformerConfig(**SIZES, num_labels=num_labels)
    model = longspan.models.LongformerForQuestionAnswering(config).eval()
    assert config.num_labels == num_labels
    inputs = _inputs("ForQuestionAnswering", labels=True)
    assert model(**inputs).loss.isfinite()
    model.save_pretrained(tmp_path)
    stock = transformers.LongformerForQuestionAnswering.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(stock(**inputs).loss, model(**inputs).loss, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head", ["Model", "ForMaskedLM", "ForQuestionAnswering"])
def test_an_attention_that_is_set_chooses_nothing(head: str) -> None:
    """As in stock transformers, for the encoder and all heads."""
    model, stock = build_ours(head), build_stock(head)
    for name in ("sdpa", "eager", "longspan"):
        stock.set_attn_implementation(name)
        model.set_attn_implementation(name)
        assert model.config._attn_implementation == stock.config._attn_implementation


def test_answers_outside_the_text_are_no_labels() -> None:
    """Hugging Face's trains a negative position towards token 0, and gives NaN where all are outside."""
    model = build_ours("ForQuestionAnswering")
    inputs = _inputs("ForQuestionAnswering")
    expected = model(
        **{key: value[1:] for key, value in inputs.items()},
        start_positions=torch.tensor([3]),
        end_positions=torch.tensor([4]),
    ).loss
    for outside in (-1, -100, 29, 10_000):
        result = model(
            **inputs, start_positions=torch.tensor([outside, 3]), end_positions=torch.tensor([outside, 4])
        ).loss
        torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("count", [0, 1, 2, 4, 9])
def test_choices_with_any_number_of_separators(count: int) -> None:
    model = build_ours("ForMultipleChoice")
    ids = torch.full((1, 2, 30), 7)
    ids[:, :, 3 : 3 + 2 * count : 2] = SEP
    result = model(ids, labels=torch.tensor([1]))
    assert result.logits.shape == (1, 2)
    assert result.loss.isfinite()


def test_padding_of_choices_is_not_global_without_a_mask_either() -> None:
    model = build_ours("ForMultipleChoice")
    inputs = _inputs("ForMultipleChoice")
    ids = inputs["input_ids"]
    explicit = torch.zeros_like(ids)
    explicit[0, 0, 6:29] = explicit[1, 0, 6:12] = 1
    expected = model(ids, global_attention_mask=explicit).logits
    torch.testing.assert_close(model(ids).logits, expected)


def test_classification_from_embeddings_marks_the_first_token() -> None:
    model, stock = build_ours("ForSequenceClassification"), build_stock("ForSequenceClassification")
    embeddings = torch.randn(2, 20, 24)
    with pytest.raises(TypeError):
        stock(inputs_embeds=embeddings)
    mask = torch.zeros(2, 20)
    mask[:, 0] = 1
    expected = stock(inputs_embeds=embeddings, global_attention_mask=mask).logits
    torch.testing.assert_close(model(inputs_embeds=embeddings).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForQuestionAnswering"])
def test_labels_and_masks_need_not_be_contiguous(head: str) -> None:
    model, inputs = build_ours(head), _inputs(head, labels=True)
    strided = {key: value[..., None].expand(*value.shape, 2).clone()[..., 0] for key, value in inputs.items()}
    assert not strided["input_ids"].is_contiguous()
    assert model(**strided).loss == model(**inputs).loss


@pytest.mark.parametrize("name", ["attention_mask", "global_attention_mask", "token_type_ids", "position_ids"])
def test_what_belongs_to_choices_has_their_shape(name: str) -> None:
    ids = torch.full((2, 3, 7), 5)
    with pytest.raises(ValueError, match=rf"{name} must have shape \[B, M, N\] = \[2, 3, 7\], got \[3, 2, 7\]"):
        build_ours("ForMultipleChoice")(ids, **{name: torch.ones(3, 2, 7, dtype=torch.long)})


def test_choices_need_not_be_contiguous() -> None:
    model, inputs = build_ours("ForMultipleChoice"), _inputs("ForMultipleChoice")
    strided = {key: value.transpose(0, 2).contiguous().transpose(0, 2) for key, value in inputs.items()}
    torch.testing.assert_close(model(**strided).logits, model(**inputs).logits)


@pytest.mark.parametrize("pooling", [None, "last", "mean", "attentive"])
@pytest.mark.parametrize("left", [False, True])
def test_the_pooler_of_choices_is_called_once(pooling: str | None, left: bool) -> None:
    model, inputs = build_ours("ForMultipleChoice", pooling=pooling), _inputs("ForMultipleChoice")
    if left:
        inputs = {name: value.flip(-1) for name, value in inputs.items()}
    flat = {name: value.flatten(0, 1) for name, value in inputs.items()}
    mask = make_global_attention_mask("choice", flat["input_ids"], flat["attention_mask"], sep_token_id=SEP)
    last = model.longformer(**flat, global_attention_mask=mask).last_hidden_state
    pooled = model.longformer.pooler(model.pooling(last, flat["attention_mask"])[:, None])
    calls: list[Tensor] = []
    model.longformer.register_forward_hook(lambda _, args, out: calls.append(out.pooler_output))
    model.longformer.pooler.register_forward_hook(lambda _, args, out: calls.append(out))
    logits = model(**inputs).logits
    assert len(calls) == 2
    for call in calls:
        torch.testing.assert_close(call, pooled)
    torch.testing.assert_close(logits, model.classifier(pooled).view(2, 1))


def test_the_sentence_head_reads_the_segments_headers() -> None:
    model = build_ours("ForSequentialSentenceClassification", segment_length=8, num_labels=3)
    inputs = make_batch([29, 12])
    output = model(**inputs, output_hidden_states=True)
    headers = output.hidden_states[-1][:, [0, 8, 16, 24]]
    expected = model.classifier(torch.tanh(model.sentencizer.dense(headers)))
    torch.testing.assert_close(output.logits, expected)


@pytest.mark.parametrize(
    ("fields", "length"),
    [({}, 128), ({"max_sentence_length": 16}, 16), ({"segment_length": 8, "max_sentence_length": 16}, 8)],
)
def test_where_the_segment_length_comes_from(fields: dict[str, Any], length: int) -> None:
    model = build_ours("ForSequentialSentenceClassification", **fields)
    assert model.sentencizer.segment_length == length
    assert model(**make_batch([100])).logits.shape == (1, -(-100 // length), 2)
    for not_theirs in (None, 0, "16"):
        assert longspan.models.LongformerConfig(max_sentence_length=not_theirs).segment_length is None
    for wrong in (1, 0, -3, 2.5, True, "8"):
        with pytest.raises(ValueError, match="segment_length must be an int >= 2"):
            longspan.models.LongformerConfig(segment_length=wrong)


def test_the_repositorys_name() -> None:
    assert (
        longspan.models.LongformerModelForSentenceClassification
        is longspan.models.LongformerForSequentialSentenceClassification
    )


@pytest.mark.parametrize("value", [-0.1, 1.0, "0.1"])
def test_a_wrong_dropout_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="classifier_dropout must be in 0 <= p < 1"):
        longspan.models.LongformerConfig(classifier_dropout=value)
