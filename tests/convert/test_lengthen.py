"""What is made long in memory computes what the source computes, wherever the window covers the text."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import PreTrainedModel

from longspan.convert import lengthen
from longspan.models import LongformerConfig, LongformerForMaskedLM, LongformerModel

Make = Callable[..., PreTrainedModel]
Save = Callable[..., tuple[PreTrainedModel, Path]]
Batch = Callable[..., dict[str, torch.Tensor]]

FAMILIES = [
    {"family": "roberta"},
    {"family": "xlm-roberta"},
    {"family": "camembert", "bos_token_id": 5, "eos_token_id": 6},
    {"family": "roberta", "pad_token_id": 0},
    {"family": "roberta", "pad_token_id": 3},
]


def real(tensor: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return tensor[inputs["attention_mask"].bool()]


@pytest.mark.parametrize("fields", FAMILIES, ids=str)
@pytest.mark.parametrize("length", [3, 16, 32])
def test_masked_lm_is_the_source_within_the_window(
    make_model: Make, batch: Batch, fields: dict[str, Any], length: int
) -> None:
    source = make_model("ForMaskedLM", **fields)
    inputs = batch(length, pad=source.config.pad_token_id)

    long = lengthen(source, 150, 62)

    assert type(long) is LongformerForMaskedLM
    with torch.no_grad():
        expected = source(**inputs, output_hidden_states=True)
        actual = long(**inputs, output_hidden_states=True)
    torch.testing.assert_close(real(actual.logits, inputs), real(expected.logits, inputs), rtol=0, atol=1e-5)
    for ours, theirs in zip(actual.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(real(ours, inputs), real(theirs, inputs), rtol=0, atol=1e-5)


def test_integers_of_numpy_are_taken(make_model: Make, tmp_path: Path) -> None:
    long = lengthen(make_model(), np.int64(64), [np.int64(14), np.int64(16)], attention_dilation=np.int32(2))
    assert (long.config.attention_window, long.config.attention_dilation) == ([14, 16], 2)
    long.save_pretrained(tmp_path)
    config = LongformerModel.from_pretrained(tmp_path).config
    assert (config.max_position_embeddings, config.attention_dilation) == (66, 2)


@pytest.mark.parametrize("window", [15, [14, 16], [15, 14], None])
def test_a_window_that_stock_refuses_is_told(
    make_model: Make, batch: Batch, window: Any, caplog: pytest.LogCaptureFixture
) -> None:
    source, inputs = make_model(), batch(32)
    long = lengthen(source, 64, window)
    told = "attention_window 15 is odd, which stock transformers refuses to compute; 14 is the same window"
    assert caplog.text.count(told) == (window in (15, [15, 14]))
    if window == 15:
        assert torch.equal(long(**inputs).logits, lengthen(source, 64, 14)(**inputs).logits)


@pytest.mark.parametrize("window", [0, 1, [16, 1]])
def test_a_window_of_the_token_alone_is_told(make_model: Make, window: Any, caplog: pytest.LogCaptureFixture) -> None:
    long = lengthen(make_model(), 64, window)
    narrowest = window if isinstance(window, int) else 1
    assert f"attention_window {narrowest} lets a token see itself and the global tokens only" in caplog.text
    assert "opens there" not in caplog.text
    with pytest.raises(AssertionError, match=r"positive|even"):
        transformers.LongformerForMaskedLM(transformers.LongformerConfig.from_dict(long.config.to_dict()))


def test_a_window_too_small_is_seen(make_model: Make, batch: Batch) -> None:
    source, inputs = make_model(), batch(32)

    with torch.no_grad():
        difference = lengthen(source, 150, 8)(**inputs).logits - source(**inputs).logits

    assert real(difference, inputs).abs().max() > 1e-3


@pytest.mark.parametrize("pooler", [True, False])
def test_bare_model(make_model: Make, batch: Batch, pooler: bool) -> None:
    source = make_model("Model")
    if not pooler:
        source = transformers.RobertaModel(source.config, add_pooling_layer=False).eval()
    inputs = batch(32)

    long = lengthen(source, 64, 64)

    assert type(long) is LongformerModel
    with torch.no_grad():
        expected, actual = source(**inputs), long(**inputs)
    torch.testing.assert_close(
        real(actual.last_hidden_state, inputs), real(expected.last_hidden_state, inputs), rtol=0, atol=1e-5
    )
    if pooler:
        starts = inputs["attention_mask"][:, 0].bool()  # the pooler reads the first token, which may be padding
        torch.testing.assert_close(actual.pooler_output[starts], expected.pooler_output[starts], rtol=0, atol=1e-5)
    else:
        assert actual.pooler_output is None


def test_all_weights(make_model: Make) -> None:
    source = make_model()
    long = lengthen(source, 100).state_dict()

    for name, tensor in source.state_dict().items():
        if "position_embeddings" not in name:
            assert torch.equal(long[name.replace("roberta.", "longformer.")], tensor), name
    for name, tensor in long.items():
        if "_global" in name:
            assert torch.equal(tensor, long[name.replace("_global", "")]), name
    table = source.roberta.embeddings.position_embeddings.weight
    rows = [0, 1, *(2 + i % 32 for i in range(100))]
    assert torch.equal(long["longformer.embeddings.position_embeddings.weight"], table[rows])


def test_the_config_carries_over(make_model: Make) -> None:
    source = make_model(
        classifier_dropout=0.4, hidden_dropout_prob=0.3, bos_token_id=5, eos_token_id=6, chunk_size_feed_forward=2
    )
    source.config.auto_map = {"AutoModel": "theirs.TheirModel"}
    before = source.config.to_dict()

    config = lengthen(source, 100, [4, 6]).config

    assert type(config) is LongformerConfig
    carried = (
        "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act layer_norm_eps "
        "hidden_dropout_prob attention_probs_dropout_prob type_vocab_size initializer_range pad_token_id "
        "bos_token_id eos_token_id classifier_dropout chunk_size_feed_forward tie_word_embeddings"
    )
    for name in carried.split():
        assert getattr(config, name) == getattr(source.config, name), name
    assert config.max_position_embeddings == 102
    assert config.attention_window == [4, 6]
    assert config.sep_token_id == 6
    assert config.architectures == ["LongformerForMaskedLM"]
    for name in ("auto_map", "use_cache", "is_decoder", "add_cross_attention"):
        assert not hasattr(config, name), name
    assert source.config.to_dict() == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes_stay(make_model: Make, dtype: torch.dtype) -> None:
    source = make_model().to(dtype)
    source.roberta.encoder.layer[0].output.LayerNorm.float()

    long = lengthen(source, 64)

    for name, tensor in source.state_dict().items():
        assert long.state_dict()[name.replace("roberta.", "longformer.")].dtype == tensor.dtype, name


def test_nothing_is_shared(make_model: Make) -> None:
    source = make_model()
    before = {name: tensor.clone() for name, tensor in source.state_dict().items()}

    long = lengthen(source, 32)
    with torch.no_grad():
        for parameter in long.parameters():
            parameter.add_(1.0)

    assert all(torch.equal(tensor, before[name]) for name, tensor in source.state_dict().items())
    layer = long.longformer.encoder.layer[0].attention.self
    assert layer.query.weight.data_ptr() != layer.query_global.weight.data_ptr()
    assert long.lm_head.decoder.weight is long.longformer.embeddings.word_embeddings.weight
    assert long.lm_head.decoder.bias is long.lm_head.bias
    assert all(parameter.requires_grad for parameter in long.parameters())


def test_the_mode_is_the_sources(save_model: Save) -> None:
    source, directory = save_model()

    assert not lengthen(source, 64).training
    assert lengthen(source.train(), 64).training
    assert not lengthen(directory, 64).training


@pytest.mark.parametrize("as_string", [True, False])
def test_from_a_directory(save_model: Save, batch: Batch, as_string: bool) -> None:
    source, directory = save_model()

    from_directory = lengthen(str(directory) if as_string else directory, 100, 64).state_dict()

    for name, tensor in lengthen(source, 100, 64).state_dict().items():
        assert torch.equal(from_directory[name], tensor), name


def test_a_decoder_of_its_own_is_kept(make_model: Make, batch: Batch) -> None:
    source = make_model(tie_word_embeddings=False)
    inputs = batch(32)

    long = lengthen(source, 64, 64)

    assert long.config.tie_word_embeddings is False
    with torch.no_grad():
        torch.testing.assert_close(
            real(long(**inputs).logits, inputs), real(source(**inputs).logits, inputs), rtol=0, atol=1e-5
        )


def _save_original(directory: Path, **fields: object) -> LongformerForMaskedLM:
    """A directory as allenai/longformer saves a RoBERTa that it made long, and the Longformer that it is."""
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
        "max_position_embeddings": 66, "type_vocab_size": 1, "pad_token_id": 1,
    }  # fmt: skip
    model = LongformerForMaskedLM(LongformerConfig(**sizes, attention_window=[8, 12])).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    weights = {name.replace("longformer.", "roberta."): tensor.clone() for name, tensor in model.state_dict().items()}
    # The notebook leaves these rows as the memory was.
    weights["roberta.embeddings.position_embeddings.weight"][:2] = float("nan")
    directory.mkdir()
    torch.save(weights, directory / "pytorch_model.bin")
    config = {"model_type": "roberta", **sizes, **fields}
    (directory / "config.json").write_text(json.dumps({name: v for name, v in config.items() if v is not None}))
    return model


@pytest.mark.parametrize(
    "fields",
    [
        # The notebook's class, with Hugging Face's windows.
        {"architectures": ["RobertaLongForMaskedLM"], "attention_window": [8, 12]},
        {"architectures": ["RobertaForMaskedLM"], "attention_window": [8, 12]},
        # Its own classes, whose windows count one side.
        {"architectures": ["LongformerForMaskedLM"], "attention_window": [4, 6], "attention_mode": "sliding_chunks"},
        {
            "model_type": None,
            "attention_window": [4, 6],
            "attention_mode": "longformer",
            "attention_dilation": [1, 1],
            "autoregressive": False,
        },
    ],
    ids=["notebook", "roberta", "own class", "no type"],
)
def test_allenais_originals(fields: dict[str, Any], tmp_path: Path) -> None:
    expected = _save_original(tmp_path / "original", **fields)
    ids = torch.randint(5, 50, (2, 40))
    ids[1, -6:] = 1
    masks = {"attention_mask": (ids != 1).long(), "global_attention_mask": torch.zeros_like(ids)}
    masks["global_attention_mask"][:, [0, 7]] = 1
    real = ids != 1
    for positions in (64, 150):
        long = lengthen(tmp_path / "original", positions)
        assert type(long) is LongformerForMaskedLM
        assert long.config.attention_window == [8, 12]
        assert not hasattr(long.config, "attention_mode")
        with torch.no_grad():
            actual = long(ids, **masks).logits
            torch.testing.assert_close(actual[real], expected(ids, **masks).logits[real], rtol=0, atol=1e-5)
    assert lengthen(tmp_path / "original", 64, 6).config.attention_window == 6


def test_an_original_is_not_opened_as_what_it_is_not(tmp_path: Path) -> None:
    _save_original(tmp_path / "original", model_type=None, attention_window=[4, 6], attention_mode="tvm")
    with pytest.raises(ValueError, match="original of allenai/longformer, whose windows count one side"):
        LongformerForMaskedLM.from_pretrained(tmp_path / "original")


def test_random_positions(make_model: Make) -> None:
    source = make_model()
    table = source.roberta.embeddings.position_embeddings.weight
    name = "longformer.embeddings.position_embeddings.weight"

    long = lengthen(source, 400, positions="random", seed=3).state_dict()[name]

    assert torch.equal(long[:34], table)
    assert long[34:].std().item() == pytest.approx(0.3, rel=0.05)
    assert torch.equal(long, lengthen(source, 400, positions="random", seed=3).state_dict()[name])
    assert not torch.equal(long, lengthen(source, 400, positions="random", seed=4).state_dict()[name])


class TestLongformerSources:
    def test_lengthened_further(self, make_model: Make) -> None:
        first = lengthen(make_model(), 48, [8, 10])
        with torch.no_grad():  # trained apart since
            first.longformer.encoder.layer[0].attention.self.query_global.weight.add_(1.0)

        second = lengthen(first, 200)

        assert second.config.attention_window == [8, 10]
        table = first.longformer.embeddings.position_embeddings.weight
        rows = [0, 1, *(2 + i % 48 for i in range(200))]
        for name, tensor in second.state_dict().items():
            expected = table[rows] if "position_embeddings" in name else first.state_dict()[name]
            assert torch.equal(tensor, expected), name

    def test_window_and_dilation_are_kept_or_set(self, make_model: Make) -> None:
        first = lengthen(make_model(), 48, 8, attention_dilation=[1, 2])

        assert lengthen(first, 48).config.attention_dilation == [1, 2]
        assert lengthen(first, 48, attention_dilation=3).config.attention_dilation == 3
        assert lengthen(first, 48, 12).config.attention_window == 12

    def test_stock_transformers(self, make_model: Make, batch: Batch) -> None:
        config = transformers.LongformerConfig(
            **make_model().config.to_dict() | {"attention_window": 8, "model_type": "longformer"}
        )
        stock = transformers.LongformerForMaskedLM(config).eval()
        inputs = batch(32)

        long = lengthen(stock, 80)

        assert type(long) is LongformerForMaskedLM
        assert long.config.attention_window == [8, 8]
        with torch.no_grad():
            torch.testing.assert_close(
                real(long(**inputs).logits, inputs), real(stock(**inputs).logits, inputs), rtol=0, atol=1e-5
            )

    def test_rows_no_text_reaches_are_not_repeated(self, make_model: Make) -> None:
        """kiddothe2b/longformer-base-4096 has 4,099 rows for 4,096 tokens; config.json says so."""
        first = lengthen(make_model(positions=33), 33, 8)
        first.config.model_max_length = 32

        second = lengthen(first, 64)

        table = first.longformer.embeddings.position_embeddings.weight
        long = second.longformer.embeddings.position_embeddings.weight
        assert torch.equal(long, table[[0, 1, *(2 + i % 32 for i in range(64))]])
        assert second.config.model_max_length == 64


class TestWindows:
    @pytest.mark.parametrize("window", [0, 3, 7, 512, [4, 9], [[4, 4, 4, 64], [6, 6, 2, 2]]], ids=str)
    def test_forms(self, make_model: Make, batch: Batch, window: object) -> None:
        long = lengthen(make_model(), 64, window)

        assert long.config.attention_window == window
        assert long(**batch(50)).logits.isfinite().all()

    def test_default(self, make_model: Make) -> None:
        long = lengthen(make_model())

        assert long.config.attention_window == 512
        assert long.config.max_position_embeddings == 4098

    @pytest.mark.parametrize("window", [-2, [4, 4, 4], [[4, 4]] * 2, "512"], ids=str)
    def test_refused(self, make_model: Make, window: object) -> None:
        with pytest.raises((ValueError, TypeError), match="attention_window"):
            lengthen(make_model(), 64, window)


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"max_positions": 0}, "max_positions must be at least 1 token, got 0"),
            ({"max_positions": 64.0}, r"max_positions must be an integer, got 64\.0"),
            ({"max_positions": True}, "max_positions must be an integer, got True"),
            ({"max_positions": 31}, "max_positions is 31 but the roberta model has 32 already.*allow_shorter=True"),
            ({"positions": "copy"}, "positions must be 'tile' or 'random', got 'copy'"),
        ],
    )
    def test_arguments(self, make_model: Make, options: dict[str, Any], message: str) -> None:
        with pytest.raises((ValueError, TypeError), match=message):
            lengthen(make_model(), **options)

    def test_shorter_when_asked(self, make_model: Make) -> None:
        source = make_model()

        long = lengthen(source, 10, 4, allow_shorter=True)

        table = source.roberta.embeddings.position_embeddings.weight
        assert torch.equal(long.longformer.embeddings.position_embeddings.weight, table[:12])

    def test_other_families(self) -> None:
        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        config = transformers.RoFormerConfig(vocab_size=50, **sizes)
        supported = "roberta, xlm-roberta, camembert, longformer, .*, deberta, .*, deberta-v2"
        with pytest.raises(ValueError, match=f"models of type 'roformer' .* {supported}"):
            lengthen(transformers.RoFormerModel(config), 64)

    def test_decoders(self, make_model: Make) -> None:
        with pytest.raises(ValueError, match="the roberta model is a decoder"):
            lengthen(make_model(is_decoder=True), 64)

    def test_other_position_embeddings(self, make_model: Make) -> None:
        source = make_model()
        source.config.position_embedding_type = "relative_key"
        with pytest.raises(ValueError, match="position_embedding_type is 'relative_key'"):
            lengthen(source, 64)

    def test_quantized(self, make_model: Make) -> None:
        source = make_model()
        source.config.quantization_config = {"quant_method": "bitsandbytes"}
        with pytest.raises(ValueError, match="the roberta model is quantized"):
            lengthen(source, 64)

    def test_no_padding_id(self, make_model: Make) -> None:
        source = make_model()
        source.config.pad_token_id = None
        with pytest.raises(ValueError, match="has no pad_token_id"):
            lengthen(source, 64)

    def test_causal_head(self, make_model: Make) -> None:
        with pytest.raises(ValueError, match="RobertaForCausalLM has no Longformer counterpart"):
            lengthen(make_model("ForCausalLM"), 64)

    def test_other_objects(self) -> None:
        with pytest.raises(TypeError, match="give a transformers model, a directory or a hub name, not a Linear"):
            lengthen(torch.nn.Linear(2, 2), 64)

    def test_a_table_with_no_position_left(self, make_model: Make) -> None:
        source = make_model(positions=1)
        source.config.pad_token_id = 2
        with pytest.raises(ValueError, match="has 3 rows, of which pad_token_id 2 reserves 3: no position is left"):
            lengthen(source, 64)

    def test_weights_that_contradict_the_config(self, make_model: Make) -> None:
        source = make_model()
        source.config.intermediate_size = 25
        with pytest.raises(
            ValueError, match=r"intermediate\.dense\.weight has shape \[24, 16\] but the config says \[25, 16\]"
        ):
            lengthen(source, 64)
        source.config.max_position_embeddings = 40
        with pytest.raises(ValueError, match=r"has shape \[34, 16\] but the config says \[40, 16\]"):
            lengthen(source, 64)

    def test_missing_layers(self, make_model: Make) -> None:
        source = make_model()
        source.config.num_hidden_layers = 3
        with pytest.raises(ValueError, match=r"lack 22 of LongformerForMaskedLM's tensors: .*layer\.2\..* and 19 more"):
            lengthen(source, 64)


def test_a_subclass_is_known_by_its_base(make_model: Make) -> None:
    class MyRoberta(transformers.RobertaForMaskedLM):
        pass

    source = MyRoberta(make_model().config)

    assert type(lengthen(source, 64)) is LongformerForMaskedLM
