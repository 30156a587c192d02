"""``attn_implementation="longspan"`` equals the model's own eager attention under the definition's dense mask."""

import copy
import subprocess
import sys
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
import transformers
from torch import Tensor, nn

from longspan.attention import AttentionPattern
from longspan.integrations import attention_interface
from longspan.integrations.attention_interface import attend
from tests.models.tiny_models import randomize

LAYERS, HEADS, LENGTH = 3, 3, 29
SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
IDS = {"bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", SIZES),
    "roberta": ("Roberta", SIZES),
    "xlm-roberta": ("XLMRoberta", SIZES),
    "camembert": ("Camembert", SIZES),
    "electra": ("Electra", {**SIZES, "embedding_size": 16}),
    "modernbert": ("ModernBert", {**SIZES, **IDS, "local_attention": 12, "global_attn_every_n_layers": 3}),
    "eurobert": ("EuroBert", {**SIZES, **IDS, "num_key_value_heads": 1, "mask_token_id": 3}),  # keys of all heads
    "bart": (
        "Bart",
        {
            "vocab_size": 61,
            "d_model": 24,
            "encoder_layers": LAYERS,
            "decoder_layers": 2,
            "encoder_attention_heads": HEADS,
            "decoder_attention_heads": HEADS,
            "encoder_ffn_dim": 40,
            "decoder_ffn_dim": 40,
            "max_position_embeddings": 64,
            "dropout": 0.0,
            "forced_eos_token_id": None,
        },
    ),
}
WINDOWS = [4, 8, 12]
GLOBALS = [[0, 28], [], [5, 6]]


def _build(family: str, head: str = "Model", **fields: Any) -> Any:
    prefix, sizes = FAMILIES[family]
    config = getattr(transformers, prefix + "Config")(**{**sizes, **fields})
    model = getattr(transformers, prefix + head)(config)
    randomize(model)
    return model.eval()


def _batch() -> dict[str, Tensor]:
    ids = torch.randint(3, 61, (3, LENGTH))
    mask = torch.ones_like(ids)
    mask[1, 20:] = 0
    mask[2, 25:] = 0
    return {"input_ids": ids.masked_fill(mask == 0, 1), "attention_mask": mask}


def _global_mask(batch: dict[str, Tensor]) -> Tensor:
    mask = torch.zeros_like(batch["attention_mask"])
    for row, positions in enumerate(GLOBALS):
        mask[row, positions] = 1
    return mask


def _attention_modules(model: Any, family: str) -> list[nn.Module]:
    """The self-attention modules of the encoder, in order."""
    if family == "modernbert":
        return [layer.attn for layer in model.layers]
    if family in ("bart", "eurobert"):
        return [layer.self_attn for layer in (model.encoder if family == "bart" else model).layers]
    return [layer.attention.self for layer in model.encoder.layer]


def _dense(model: Any, family: str, batch: dict[str, Tensor], windows: list[int | None], global_mask: Tensor) -> Any:
    """A copy on eager attention whose layers are given the definition as a dense additive mask."""
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    key_mask = batch["attention_mask"].bool()
    for module, width in zip(_attention_modules(eager, family), windows, strict=True):
        half = LENGTH if width is None else width // 2
        pattern = AttentionPattern.make(1, (half, half), causal=False)
        local, global_ = pattern.dense_masks(LENGTH, global_mask.bool(), key_mask)
        bias = torch.zeros(local.shape).masked_fill(~(local | global_), torch.finfo(torch.float32).min)
        module.register_forward_pre_hook(
            lambda _, args, kwargs, bias=bias: _put_mask(args, kwargs, bias), with_kwargs=True
        )
    return eager


def _put_mask(args: tuple[Any, ...], kwargs: dict[str, Any], bias: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if len(args) > 1:
        return (args[0], bias, *args[2:]), kwargs
    return args, {**kwargs, "attention_mask": bias}


@pytest.mark.parametrize("with_globals", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_values_and_gradients_of_each_family(family: str, with_globals: bool) -> None:
    batch = _batch()
    global_mask = _global_mask(batch) if with_globals else torch.zeros_like(batch["attention_mask"])
    model = _build(family)
    windows: list[int | None] = list(WINDOWS)
    if family == "modernbert":
        windows = [None, 12, 12]  # its own: every third layer full
    else:
        model.config.attention_window = WINDOWS
    dense = _dense(model, family, batch, windows, global_mask)
    model.set_attn_implementation("longspan")
    extra = {"global_attention_mask": global_mask} if with_globals else {}
    if family == "bart":
        batch["decoder_input_ids"] = torch.randint(3, 61, (3, 7))
    expected, result = dense(**batch), model(**batch, **extra)
    name = "encoder_last_hidden_state" if family == "bart" else "last_hidden_state"
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(result[name][real], expected[name][real], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result[0][:, :7], expected[0][:, :7], atol=1e-5, rtol=1e-5)

    weight = torch.randn_like(expected[name][real])
    for output in (expected, result):
        ((output[name][real] * weight).mean() + output[0][:, :7].square().mean()).backward()
    theirs = dict(dense.named_parameters())
    for parameter_name, parameter in model.named_parameters():
        expected_gradient = theirs[parameter_name].grad
        if expected_gradient is not None:
            torch.testing.assert_close(parameter.grad, expected_gradient, atol=1e-4, rtol=1e-4, msg=parameter_name)


def test_the_window_matters() -> None:
    """The comparison above could fail: full attention gives something else."""
    batch, model = _batch(), _build("bert", attention_window=4)
    full = model(**batch).last_hidden_state
    model.set_attn_implementation("longspan")
    local = model(**batch).last_hidden_state
    assert (full - local).abs().max() > 0.01
    with_global = model(**batch, global_attention_mask=_global_mask(batch)).last_hidden_state
    assert (with_global - local)[0].abs().max() > 0.01
    torch.testing.assert_close(with_global[1, :20], local[1, :20])  # this text has no global token


@pytest.mark.parametrize("head", ["ForMaskedLM", "ForSequenceClassification", "ForTokenClassification"])
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_heads_pass_the_global_mask_on(family: str, head: str) -> None:
    batch, model = _batch(), _build(family, head, attention_window=4)
    model.set_attn_implementation("longspan")
    assert (model(**batch, global_attention_mask=_global_mask(batch)).logits - model(**batch).logits).abs().max() > 0


def test_a_window_that_holds_the_text_is_full_attention() -> None:
    batch = _batch()
    for family in FAMILIES:
        model = _build(family, attention_window=2 * LENGTH, local_attention=2 * LENGTH)
        expected = model(**batch).last_hidden_state
        model.set_attn_implementation("longspan")
        result = model(**batch).last_hidden_state
        real = batch["attention_mask"].bool()
        torch.testing.assert_close(result[real], expected[real], atol=1e-5, rtol=1e-5)


def test_bart_generates_as_with_full_attention() -> None:
    batch = _batch()
    model = _build("bart", "ForConditionalGeneration", attention_window=2 * LENGTH)
    options = {"max_new_tokens": 6, "num_beams": 2, "do_sample": False}
    expected = model.generate(**batch, **options)
    model.set_attn_implementation("longspan")
    assert torch.equal(model.generate(**batch, **options), expected)


def test_dilation() -> None:
    batch, model = _batch(), _build("bert", attention_window=4, attention_dilation=[1, 1, 2])
    model.set_attn_implementation("longspan")
    dilated = model(**batch).last_hidden_state
    model.config.attention_dilation = 1
    assert (model(**batch).last_hidden_state - dilated).abs().max() > 0.001


def test_given_at_construction_and_loading(tmp_path: Any) -> None:
    model, batch = _build("bert", attention_window=4), _batch()
    model.save_pretrained(tmp_path)
    model.set_attn_implementation("longspan")
    loaded = transformers.BertModel.from_pretrained(tmp_path, attn_implementation="longspan").eval()
    assert loaded.config.attention_window == 4  # a field that transformers' BERT doesn't know is kept
    torch.testing.assert_close(loaded(**batch).last_hidden_state, model(**batch).last_hidden_state)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_compiles_to_one_graph(family: str) -> None:
    batch, model = _batch(), _build(family, attention_window=8)
    model.set_attn_implementation("longspan")
    batch["global_attention_mask"] = _global_mask(batch)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(**batch).last_hidden_state, model(**batch).last_hidden_state)


@pytest.mark.parametrize("family", ["bert", "modernbert", "bart"])
def test_no_square_is_built(family: str) -> None:
    length = 1024
    model = _build(family, attention_window=8, max_position_embeddings=length, global_attn_every_n_layers=100)
    if family == "modernbert":
        model.layers = model.layers[1:]  # the first layer is full attention
    model = getattr(model, "encoder", model) if family == "bart" else model
    model.set_attn_implementation("longspan")
    ids = torch.randint(3, 61, (1, length))
    mask = torch.ones_like(ids)
    mask[:, -3:] = 0
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(tensor, Tensor):
                    largest = max(largest, tensor.untyped_storage().nbytes() // tensor.element_size())
            return out

    with Watch(), torch.no_grad():
        model(input_ids=ids, attention_mask=mask)
    assert 0 < largest < length * length // 2


def test_refusals() -> None:
    batch, model = _batch(), _build("bert")
    model.set_attn_implementation("longspan")
    with pytest.raises(ValueError, match=r"needs config\.attention_window.*bert config has none"):
        model(**batch)
    model.config.attention_window = [4, 4]
    with pytest.raises(ValueError, match="attention_window has 2 entries for 3 layers"):
        model(**batch)
    model.config.attention_window = 4.0
    with pytest.raises(TypeError, match="attention_window must be an int"):
        model(**batch)
    model.config.attention_window = -1
    with pytest.raises(ValueError, match="attention_window must be >= 0"):
        model(**batch)
    model.config.attention_window = 4
    with pytest.raises(ValueError, match=r"global_attention_mask must have shape \[B, N\] = \[3, 29\], got \[3, 28\]"):
        model(**batch, global_attention_mask=torch.ones(3, 28))
    with pytest.raises(
        ValueError, match=r"global_attention_mask must be 1 for global tokens and 0 .* negative numbers"
    ):
        model(**batch, global_attention_mask=-torch.ones(3, LENGTH))
    with pytest.raises(TypeError, match="knows no 'global_mask'; did you mean 'global_attention_mask'"):
        model(**batch, global_mask=torch.ones(3, 29))
    with pytest.raises(ValueError, match=r"takes an attention_mask \[B, N\]"):
        model(batch["input_ids"], attention_mask=torch.zeros(3, 1, LENGTH, LENGTH))


def test_the_mask_that_is_too_short_is_called_as_its_user_calls_it() -> None:
    model = _build("bert", attention_window=4)
    model.set_attn_implementation("longspan")
    out = torch.zeros(3, LENGTH, 24).unflatten(-1, (HEADS, -1)).transpose(1, 2)
    module = model.encoder.layer[0].attention.self
    with pytest.raises(ValueError, match=r"attention_mask \[B, N\] = \[3, 29\] that marks padding, got shape \[3, 9\]"):
        attend(module, out, out, out, torch.ones(3, 9, dtype=torch.bool))


T5 = {"vocab_size": 61, "d_model": 24, "d_kv": 8, "d_ff": 40, "num_layers": LAYERS, "num_heads": HEADS}
BOTH_SIDES = {
    "vocab_size": 61,
    "d_model": 24,
    **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in
       (("layers", 1), ("attention_heads", HEADS), ("ffn_dim", 40))},
    "num_experts": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "sizes", "told"),
    [
        ("T5EncoderModel", T5, "can't compute T5Attention: it attends with position_bias"),
        ("T5Model", T5, "can't compute T5Attention: it attends with position_bias"),
        ("PegasusXModel", BOTH_SIDES, "leaves this PegasusXAttention full attention, by 'sdpa'"),
        ("NllbMoeModel", BOTH_SIDES, "leaves this NllbMoeAttention full attention, by 'sdpa'"),
    ],
)
def test_attention_of_another_arithmetic_is_refused(name: str, sizes: dict[str, Any], told: str) -> None:
    config = getattr(transformers, name.replace("EncoderModel", "Model").replace("Model", "Config"))
    model = getattr(transformers, name)(config(**sizes, attention_window=64))
    model.set_attn_implementation("longspan")
    if name == "T5Model":  # transformers 5.17 doesn't hand it on to the encoder
        model.encoder.set_attn_implementation("longspan")
    ids = torch.arange(3, 12)[None]
    with pytest.raises(ValueError, match=told):
        model(ids, **({} if "Encoder" in name else {"decoder_input_ids": ids}))


def test_no_window_is_asked_for_where_it_would_be_refused() -> None:
    model = transformers.T5EncoderModel(transformers.T5Config(**T5))
    model.set_attn_implementation("longspan")
    with pytest.raises(ValueError, match="can't compute T5Attention: it attends with position_bias"):
        model(torch.arange(3, 12)[None])


def test_a_decoder_of_its_own_code_stays_causal() -> None:
    """GIT's text model takes no mask for nothing hidden."""
    small = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": HEADS, "intermediate_size": 40}
    model = transformers.GitModel(transformers.GitConfig(vocab_size=61, vision_config=small, **small)).eval()
    randomize(model)
    for batch in ({"input_ids": torch.arange(3, 12)[None]}, _batch()):
        model.set_attn_implementation("eager")
        theirs = model(**batch).last_hidden_state
        model.set_attn_implementation("longspan")
        torch.testing.assert_close(model(**batch).last_hidden_state, theirs)


def test_an_encoder_with_more_layers_than_its_decoder() -> None:
    config = transformers.MoonshineConfig(
        vocab_size=61, hidden_size=24, intermediate_size=40, encoder_num_hidden_layers=3, decoder_num_hidden_layers=1,
        encoder_num_attention_heads=HEADS, decoder_num_attention_heads=HEADS, attention_window=[99, 99, 2],
    )  # fmt: skip
    model = transformers.MoonshineModel(config).eval()
    randomize(model)
    batch = {"input_values": torch.randn(1, 6000), "decoder_input_ids": torch.arange(3, 12)[None]}
    theirs = model(**batch, output_hidden_states=True).encoder_hidden_states
    model.set_attn_implementation("longspan")
    ours = model(**batch, output_hidden_states=True).encoder_hidden_states
    torch.testing.assert_close(ours[2], theirs[2], rtol=1e-4, atol=1e-5)
    assert (ours[3] - theirs[3]).abs().max() > 0.001


@pytest.mark.parametrize("name", ["softcap", "s_aux", "sinks"])
def test_arguments_that_change_scores_are_refused(name: str) -> None:
    module = _build("bert", attention_window=64).encoder.layer[0].attention.self
    heads = torch.randn(1, HEADS, LENGTH, 8)
    arguments: dict[str, Any] = {name: None}
    attend(module, heads, heads, heads, None, **arguments)
    with pytest.raises(ValueError, match=f"BertSelfAttention: it attends with {name}"):
        attend(module, heads, heads, heads, None, **{**arguments, name: 1.0})


def test_a_text_model_that_says_only_in_the_call_that_it_is_causal() -> None:
    config = transformers.CLIPTextConfig(
        vocab_size=61, hidden_size=24, num_hidden_layers=2, num_attention_heads=HEADS, intermediate_size=40,
        attention_window=64, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    model = transformers.CLIPTextModel(config).eval()
    randomize(model)
    ids = torch.randint(3, 61, (2, LENGTH))
    theirs = model(ids).last_hidden_state
    model.set_attn_implementation("longspan")
    torch.testing.assert_close(model(ids).last_hidden_state, theirs, rtol=1e-4, atol=1e-5)
    other = torch.cat([ids[:, :20], ids[:, 20:].flip(1)], 1)
    torch.testing.assert_close(model(other).last_hidden_state[:, :20], theirs[:, :20], rtol=1e-4, atol=1e-5)


def test_a_decoder_that_attends_in_chunks_looks_no_further_ahead() -> None:
    config = transformers.Llama4TextConfig(
        vocab_size=61, hidden_size=24, num_hidden_layers=2, num_attention_heads=HEADS, num_key_value_heads=HEADS,
        head_dim=8, intermediate_size=40, intermediate_size_mlp=40, num_local_experts=2, pad_token_id=1,
        attention_chunk_size=8, attention_window=8, bos_token_id=0, eos_token_id=2,
        layer_types=["chunked_attention", "full_attention"],
    )  # fmt: skip
    model = transformers.Llama4TextModel(config).eval()
    randomize(model)
    batch = _batch()
    model.set_attn_implementation("eager")
    theirs = model(**batch).last_hidden_state
    model.set_attn_implementation("longspan")
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(model(**batch).last_hidden_state[real], theirs[real], rtol=1e-4, atol=1e-5)


def test_weights_that_are_asked_for_are_said_to_be_missing() -> None:
    module = _build("bert", attention_window=64).encoder.layer[0].attention.self
    heads = torch.randn(1, HEADS, LENGTH, 8)
    warning = MagicMock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_interface._log, "warning_once", warning)
        attend(module, heads, heads, heads, None)
        warning.assert_not_called()
        attend(module, heads, heads, heads, None, output_attentions=True)
    warning.assert_called_once_with("attn_implementation='longspan' gives no attention weights; use 'eager' for them")


def test_a_decoder_compiles_to_one_graph() -> None:
    model = _build("bert", attention_window=8, is_decoder=True)
    model.set_attn_implementation("longspan")
    ids = _batch()["input_ids"]
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        compiled(ids, use_cache=False).last_hidden_state, model(ids, use_cache=False).last_hidden_state
    )


def test_the_module_may_be_what_imports_transformers() -> None:
    program = """
import transformers, longspan
import longspan.integrations.attention_interface
assert "longspan" in transformers.AttentionInterface._global_mapping
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_a_decoder_with_a_window_of_its_own_is_refused() -> None:
    config = transformers.MistralConfig(
        vocab_size=61,
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=3,
        num_key_value_heads=3,
        intermediate_size=40,
        sliding_window=4,
    )
    model = transformers.MistralModel(config)
    model.set_attn_implementation("longspan")
    with pytest.raises(ValueError, match="is for encoders"):
        model(torch.tensor([[1, 2, 3, 4, 5, 6, 7]]))


DECODER: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS, "head_dim": 8, "intermediate_size": 40, "pad_token_id": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("Mistral", {"sliding_window": 4}),
        ("Gemma3Text", {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}),
    ],
)
def test_a_decoder_made_to_look_both_ways_keeps_its_own_window(name: str, fields: dict[str, Any]) -> None:
    model = getattr(transformers, name + "Model")(
        getattr(transformers, name + "Config")(**DECODER, **fields, is_causal=False)
    ).eval()
    randomize(model)
    batch = _batch()
    model.set_attn_implementation("eager")
    theirs = model(**batch, use_cache=False).last_hidden_state
    if theirs[:, 0].equal(model(batch["input_ids"][:, :1], use_cache=False).last_hidden_state[:, 0]):
        pytest.skip("this transformers doesn't know is_causal=False")
    model.set_attn_implementation("longspan")
    real = batch["attention_mask"].bool()
    ours = model(**batch, use_cache=False).last_hidden_state
    torch.testing.assert_close(ours[real], theirs[real], rtol=1e-4, atol=1e-5)


def test_global_tokens_of_a_causal_model_are_refused() -> None:
    model = transformers.LlamaModel(transformers.LlamaConfig(**DECODER, attention_window=8)).eval()
    model.set_attn_implementation("longspan")
    batch = _batch()
    with pytest.raises(ValueError, match=r"leaves this LlamaAttention causal, .* global_attention_mask has no effect"):
        model(**batch, global_attention_mask=_global_mask(batch))


@pytest.mark.parametrize("first", ["import longspan.integrations\n", "import transformers.modeling_utils\n"])
def test_the_name_is_known_whichever_is_imported_first(first: str) -> None:
    program = f"""{first}
import longspan.integrations
import sys
light = "torch" not in sys.modules
from transformers import BertConfig, BertModel, AttentionInterface
assert light == {"longspan" in first}
assert "longspan" in AttentionInterface._global_mapping
import inspect, transformers.modeling_utils as module
assert "class PreTrainedModel" in inspect.getsource(module)
assert "exec_module" not in vars(module.__loader__)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
