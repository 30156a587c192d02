"""HAT: its layers against RoBERTa's, what padding and segments change, and its names."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

import longspan
import longspan.models
from longspan.convert.hat import convert_to_hat, hat_from_roberta
from longspan.models import HATConfig, HATModel
from tests.models.tiny_models import PAD, SIZES, make_batch, randomize

K = 16
FIELDS = {name: value for name, value in SIZES.items() if name not in ("attention_window", "max_position_embeddings")}
HAT_PARTS = ("sentence_encoder", "document_encoder")
HEADS = ("ForSequenceClassification", "ForSequentialSentenceClassification", "ForMultipleChoice")


def _config(layout: str = "S|SD|SD", **fields: Any) -> HATConfig:
    blocks = layout.count("|") + 1
    sizes = {**FIELDS, "num_hidden_layers": blocks, "max_sentence_length": K, "max_sentences": 8}
    return HATConfig(**{**sizes, "encoder_layout": layout, **fields})


def _model(layout: str = "S|SD|SD") -> HATModel:
    model = HATModel(_config(layout)).eval()
    randomize(model)
    return model


def _roberta(**fields: Any) -> Any:
    sizes = {name: value for name, value in SIZES.items() if name != "attention_window"}
    roberta = transformers.RobertaModel(transformers.RobertaConfig(**{**sizes, **fields})).eval()
    randomize(roberta)
    return roberta


def _states(model: Any, **inputs: Tensor) -> Tensor:
    with torch.no_grad():
        states: Tensor = model(**inputs).last_hidden_state
    return states


def test_within_segments_it_is_roberta_on_each() -> None:
    """Without layers across segments, every segment is what RoBERTa makes of it."""
    roberta = _roberta()
    model = hat_from_roberta(roberta, encoder_layout="S|S", segment_length=K, max_segments=8)
    inputs = make_batch([5 * K, 3 * K + 5])
    states = _states(model, **inputs)
    for start in range(0, 5 * K, K):
        columns = slice(start, start + K)
        real = inputs["attention_mask"][:, columns].bool()
        rows = real.any(1)
        piece = {"input_ids": inputs["input_ids"][rows, columns], "attention_mask": real[rows].long()}
        expected = _states(roberta, **piece)
        torch.testing.assert_close(states[rows, columns][real[rows]], expected[real[rows]])


def test_across_segments_it_is_roberta_on_the_headers() -> None:
    """A layer across segments reads headers and their positions, and changes headers alone."""
    roberta = _roberta()
    within = hat_from_roberta(roberta, encoder_layout="S", segment_length=K, max_segments=8)
    both = hat_from_roberta(roberta, encoder_layout="SD", segment_length=K, max_segments=8)
    inputs = make_batch([4 * K])
    before, after = _states(within, **inputs), _states(both, **inputs)
    headers = before[:, ::K] + roberta.embeddings.position_embeddings.weight[PAD + 1 : PAD + 5]
    with torch.no_grad():
        expected = roberta.encoder.layer[0](headers)
    expected = expected[0] if isinstance(expected, tuple) else expected
    torch.testing.assert_close(after[:, ::K], expected)
    others = torch.arange(4 * K) % K != 0
    torch.testing.assert_close(after[:, others], before[:, others])


def test_order_of_segments_matters() -> None:
    """The authors' released weights were trained without: positions were added where they were overwritten."""
    model = _model("SD|S")
    ids = make_batch([3 * K])["input_ids"]
    swapped = torch.cat([ids[:, :K], ids[:, 2 * K :], ids[:, K : 2 * K]], dim=1)
    states, others = _states(model, input_ids=ids), _states(model, input_ids=swapped)
    assert not torch.allclose(states[:, :K], others[:, :K], atol=1e-4)
    with torch.no_grad():
        model.encoder.layer[0].position_embeddings.weight.zero_()
    states, others = _states(model, input_ids=ids), _states(model, input_ids=swapped)
    torch.testing.assert_close(states[:, :K], others[:, :K])


def test_padding_changes_nothing() -> None:
    """Neither more padded segments, nor what stands in padding, nor a last segment that is cut short."""
    model = _model()
    inputs = make_batch([3 * K + 5, K])
    states = _states(model, **inputs)
    wider = {name: torch.nn.functional.pad(tensor, (0, 2 * K)) for name, tensor in inputs.items()}
    wider["input_ids"][wider["attention_mask"] == 0] = PAD
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(_states(model, **wider)[:, : 3 * K + 5][real], states[real])
    alone = _states(model, input_ids=inputs["input_ids"][:1])
    torch.testing.assert_close(alone, states[:1])
    assert _states(model, input_ids=torch.full((1, 40), PAD), attention_mask=torch.zeros(1, 40)).isfinite().all()


def test_every_token_reaches_every_token_in_two_steps() -> None:
    def reach(layout: str) -> Tensor:
        model = _model(layout)
        embeds = torch.randn(1, 4 * K, SIZES["hidden_size"], generator=torch.Generator().manual_seed(0))
        embeds.requires_grad_()
        model(inputs_embeds=embeds).last_hidden_state[0, K + 3].sum().backward()
        assert embeds.grad is not None
        return embeds.grad[0].abs().sum(-1) > 0

    segment = (torch.arange(4 * K) // K) == 1
    torch.testing.assert_close(reach("S|S|S"), segment)
    assert reach("S|SD|S").all()


@pytest.mark.parametrize("length", [3 * K, 2 * K + 5])
def test_gradients_pass_the_hidden_states(length: int) -> None:
    """They are what the blocks read, also where the last segment is cut short; asking for them changes nothing."""
    model = _model()
    inputs = make_batch([length, K - 3])
    output = model(**inputs, output_hidden_states=True)
    assert len(output.hidden_states) == 4
    assert output.hidden_states[-1] is output.last_hidden_state
    gradients = torch.autograd.grad(output.last_hidden_state[:, :K].square().sum(), output.hidden_states[:-1])
    assert all(gradient.shape == (2, length, SIZES["hidden_size"]) for gradient in gradients)
    assert all(gradient[0, 2 * K].abs().sum() > 0 for gradient in gradients[:-1])  # through the headers
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(output.last_hidden_state[real], _states(model, **inputs)[real])


@pytest.mark.parametrize("head", HEADS)
def test_heads_learn_save_and_open(head: str, tmp_path: Path) -> None:
    model = getattr(longspan.models, f"HAT{head}")(_config(num_labels=3)).eval()
    inputs = make_batch([3 * K, 2 * K + 4])
    labels = torch.tensor([2, 0])
    if head == "ForMultipleChoice":
        inputs = {name: tensor[:, None].expand(2, 3, -1).clone() for name, tensor in inputs.items()}
        inputs["input_ids"][:, 1:, 2 * K] = torch.tensor([[5, 6], [7, 8]])
    elif head == "ForSequentialSentenceClassification":
        labels = torch.tensor([[0, 1, 2], [1, 2, -100]])
    model(**inputs, labels=labels).loss.backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    with torch.no_grad():
        logits = model(**inputs).logits
        torch.testing.assert_close(again(**inputs).logits, logits)
    assert logits.shape[:2] == (2, 3)
    # The encoder alone opens out of a file with a head, which the authors' own code can't do.
    bare = HATModel.from_pretrained(tmp_path)
    flat = {name: tensor.flatten(0, -2) for name, tensor in inputs.items()}
    torch.testing.assert_close(_states(bare, **flat), _states(model.hi_transformer, **flat))


@pytest.mark.parametrize("head", HEADS)
def test_auto_classes_open_it(head: str, tmp_path: Path) -> None:
    model = getattr(longspan.models, f"HAT{head}")(_config(num_labels=3))
    model.save_pretrained(tmp_path)
    longspan.register()
    try:
        package = longspan if head == "ForSequentialSentenceClassification" else transformers
        again = getattr(package, f"AutoModel{head}").from_pretrained(tmp_path)
        assert type(again) is type(model)
        assert type(transformers.AutoModel.from_pretrained(tmp_path)) is HATModel
    finally:
        longspan.register(False)


def test_names_are_the_authors() -> None:
    model = longspan.models.HATForSequenceClassification(_config("S|SD", pooling="attentive"))
    names = set(model.state_dict())
    assert {
        "hi_transformer.embeddings.word_embeddings.weight",
        "hi_transformer.encoder.layer.0.sentence_encoder.attention.self.query.weight",
        "hi_transformer.encoder.layer.1.document_encoder.output.LayerNorm.bias",
        "hi_transformer.encoder.layer.1.position_embeddings.weight",
        "pooler.dense.weight",
        "pooler.attentive_pooling.lin_proj.weight",
        "pooler.attentive_pooling.v.weight",
        "classifier.weight",
    } <= names


def test_directory_with_tokenizer_and_config(tmp_path: Path) -> None:
    _roberta().save_pretrained(tmp_path / "roberta")
    (tmp_path / "roberta" / "tokenizer_config.json").write_text('{"model_max_length": 512}')
    made = convert_to_hat(tmp_path / "roberta", tmp_path / "hat", segment_length=K, max_segments=4)
    model = HATModel.from_pretrained(made)
    assert model.config.encoder_layout == {
        "0": {"sentence_encoder": True, "document_encoder": False},
        "1": {"sentence_encoder": True, "document_encoder": True},
    }
    assert '"model_max_length": 64' in (made / "tokenizer_config.json").read_text()
    with pytest.raises(FileExistsError, match="exists already"):
        convert_to_hat(tmp_path / "roberta", tmp_path / "hat")


def test_a_source_is_read_by_old_names_and_refused_in_a_sentence(tmp_path: Path) -> None:
    roberta = _roberta()
    weights = roberta.state_dict()
    roberta.config.save_pretrained(tmp_path)

    def make(tensors: dict[str, Tensor]) -> HATModel:
        save_file(tensors, tmp_path / "model.safetensors")
        return hat_from_roberta(tmp_path, segment_length=K, max_segments=4)

    old = {
        name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): t for name, t in weights.items()
    }
    expected = hat_from_roberta(roberta, segment_length=K, max_segments=4).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in make(old).state_dict().items())
    with pytest.raises(ValueError, match=r"lack 4 of HATModel's tensors: encoder\.layer\.1\.sentence_encoder"):
        make({name: tensor for name, tensor in weights.items() if "layer.1.intermediate" not in name})
    with pytest.raises(ValueError, match=r"the weights have no embeddings\.position_embeddings\.weight"):
        make({name: tensor for name, tensor in weights.items() if "position_embeddings" not in name})
    words = "embeddings.word_embeddings.weight"
    with pytest.raises(ValueError, match=r"has shape \[9, 24\] but the config says \[61, 24\]"):
        make({**weights, words: weights[words][:9].clone()})
    with pytest.raises(ValueError, match="the roberta model is a decoder"):
        hat_from_roberta(_roberta(is_decoder=True), segment_length=K, max_segments=4)


def test_token_types_of_one_text_serve_all() -> None:
    inputs = make_batch([K + 3, 9])
    types = torch.arange(inputs["input_ids"].shape[1])[None] % 2
    expected = _states(_model(), **inputs, token_type_ids=types.expand(2, -1))
    assert torch.equal(_states(_model(), **inputs, token_type_ids=types), expected)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    _model().save_pretrained(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-9])
    with pytest.raises(OSError, match="is cut short or damaged"):
        HATModel.from_pretrained(tmp_path)


def test_refusals_name_the_fix() -> None:
    with pytest.raises(ValueError, match="write S, D or SD for each block"):
        _config("S|X")
    with pytest.raises(ValueError, match=r"block 1 is \{\}; give it a sentence_encoder"):
        HATConfig(num_hidden_layers=2, encoder_layout={"0": dict.fromkeys(HAT_PARTS, True), "1": {}})
    with pytest.raises(ValueError, match="hidden_act must be one of 'gelu'"):
        _config(hidden_act="gellu")
    with pytest.raises(ValueError, match="pad_token_id must be within the vocabulary"):
        _config(pad_token_id=61)
    with pytest.raises(ValueError, match="max_sentence_length must be >= 2, got 1"):
        _config(max_sentence_length=1)
    with pytest.raises(ValueError, match=r"input_ids must have shape \[B, N\], got \[5\]"):
        _model()(torch.full((5,), 5))
    ids = torch.full((2, 5), 5)
    with pytest.raises(ValueError, match=r"token_type_ids must have shape \[B, N\] = \[2, 5\], got \[5, 2\]"):
        _model()(ids, token_type_ids=torch.zeros_like(ids.T))
    with pytest.raises(FileNotFoundError, match="there is no model folder /nowhere/at/all"):
        HATModel.from_pretrained("/nowhere/at/all")
    with pytest.raises(ValueError, match="has 1 blocks for num_hidden_layers 2"):
        HATConfig(num_hidden_layers=2, encoder_layout="S")
    with pytest.raises(ValueError, match="max_sentences is 8; cut the text"):
        _model()(input_ids=torch.full((1, 9 * K), 5))
    with pytest.raises(ValueError, match="source has 2 layers"):
        hat_from_roberta(_roberta(), encoder_layout="S|S|S", segment_length=K, max_segments=4)
    with pytest.raises(ValueError, match="fewer than a segment's 256 tokens"):
        hat_from_roberta(_roberta(), encoder_layout="S|SD", segment_length=256)
    bert = transformers.BertModel(transformers.BertConfig(num_hidden_layers=1, vocab_size=50, hidden_size=12))
    with pytest.raises(ValueError, match="can't be made from a 'bert'"):
        hat_from_roberta(bert)


def test_time_and_memory_are_linear() -> None:
    """No tensor grows faster than the text: the products of scores are segments times K^2 and segments^2."""
    sizes = []
    for segments in (2, 8):
        model, largest = _model(), 0
        ids = torch.full((1, segments * K), 5)

        def note(_: Any, __: Any, output: Tensor) -> None:
            nonlocal largest
            largest = max(largest, output.numel())

        for module in model.modules():
            if isinstance(module, (torch.nn.Linear, torch.nn.LayerNorm)):
                module.register_forward_hook(note)
        _states(model, input_ids=ids)
        sizes.append(largest)
    assert sizes[1] == 4 * sizes[0]
