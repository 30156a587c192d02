"""All families of long classes made long: the same weights, the tokenizer's files, and what the tools do."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from longspan import DocumentEmbedder
from longspan.convert import convert_directory, lengthen
from longspan.training.masked_lm import check_model_fits, load_masked_lm, load_tokenizer, masked_logits
from longspan.training.masked_lm import max_sequence_length as tokens_read
from tests.convert.long_sources import LONG, SHORT, SOURCES, make_source, make_texts, writes


@pytest.mark.parametrize(
    ("name", "head", "auto"),
    [
        *(
            (name, head, head.removeprefix("For") if head != "Model" else "")
            for name in SOURCES
            if not writes(name)
            for head in ("Model", "ForMaskedLM", "ForSequenceClassification", "ForQuestionAnswering")
        ),
        ("v1", "ForTokenClassification", "TokenClassification"),
        *((name, "ForConditionalGeneration", "Seq2SeqLM") for name in SOURCES if writes(name)),
        ("t5", "Model", ""),
        ("t5", "EncoderModel", "TextEncoding"),
        ("umt5", "EncoderModel", "TextEncoding"),
        ("t5", "ForSequenceClassification", "SequenceClassification"),
        ("mt5", "ForTokenClassification", "TokenClassification"),
        ("t5", "ForQuestionAnswering", "QuestionAnswering"),
    ],
)
def test_the_long_class_computes_what_the_source_does(name: str, head: str, auto: str, tmp_path: Path) -> None:
    source, batch = make_source(name, head), make_texts(name, SHORT, head)
    source.save_pretrained(tmp_path / "short")
    convert_directory(tmp_path / "short", tmp_path / "long", max_positions=LONG, attention_window=2 * LONG)
    kind = getattr(transformers, f"AutoModelFor{auto}" if auto else "AutoModel")
    expected = source(**batch)[0]
    real = batch["attention_mask"].bool() if expected.shape[:2] == (2, SHORT) else slice(None)
    for long in (
        lengthen(source, LONG, 2 * LONG),
        lengthen(tmp_path / "short", LONG, 2 * LONG),
        kind.from_pretrained(tmp_path / "long").eval(),
    ):
        assert type(long).__name__ == f"Long{'span' if writes(name) else ''}{type(source).__name__}"
        assert long.config.architectures == [type(long).__name__]
        torch.testing.assert_close(long(**batch)[0][real], expected[real], atol=3e-5, rtol=1e-4)
        assert long(**make_texts(name, LONG, head))[0].isfinite().all()
        assert tokens_read(long) == LONG
        tables = {id(weight) for label, weight in long.named_parameters(remove_duplicate=False) if "embed_tok" in label}
        assert len(tables) == int(writes(name))
    theirs = {tensor.untyped_storage().data_ptr() for tensor in source.state_dict().values()}
    assert not theirs & {t.untyped_storage().data_ptr() for t in lengthen(source, LONG).state_dict().values()}


def test_positions_are_tiled_and_distances_stay() -> None:
    for name, reserved in (("v1 legacy, with positions", 0), ("with positions", 0), ("mpnet", 2)):
        source = make_source(name)
        table = lengthen(source, LONG).embeddings.position_embeddings.weight
        short = source.embeddings.position_embeddings.weight
        assert len(table) == reserved + LONG
        torch.testing.assert_close(table[: reserved + SHORT], short)
        torch.testing.assert_close(table[reserved + SHORT : reserved + 2 * SHORT], short[reserved:])
    for name in ("v1", "v3"):
        long = lengthen(make_source(name), LONG)
        assert (long.config.max_position_embeddings, long.config.max_relative_positions) == (LONG, SHORT)


@pytest.mark.parametrize(
    ("name", "field", "reads", "reserved"),
    [
        ("v1", "max_position_embeddings", 4096, 0),
        ("v3", "max_position_embeddings", 4096, 0),
        ("mpnet", "max_position_embeddings", 4096, 2),
        ("t5", "max_encoder_position_embeddings", 16384, 0),
    ],
)
def test_what_it_is_asked_for_and_what_it_has(name: str, field: str, reads: int, reserved: int) -> None:
    long = lengthen(make_source(name))
    config = long.config
    assert (getattr(config, field), config.attention_window, config.attention_dilation) == (reads + reserved, 512, 1)
    with pytest.raises(ValueError, match=f"max_positions is 8 but the {config.model_type} model has {reads} already"):
        lengthen(long, 8)
    once = lengthen(make_source(name), LONG, [4, 8], attention_dilation=2)
    again = lengthen(once, 2 * LONG)
    assert type(again) is type(long)
    assert getattr(again.config, field) == 2 * LONG + reserved
    assert (again.config.attention_window, again.config.attention_dilation) == ([4, 8], 2)
    with pytest.raises(ValueError, match="attention_window has 3 entries for 2 layers"):
        lengthen(make_source(name), LONG, [4, 4, 4])


@pytest.mark.parametrize(("name", "prefix"), [("v1", "LongDeberta"), ("v3", "LongDebertaV2")])
def test_files_that_leave_things_unsaid(
    name: str, prefix: str, tmp_path: Path, edit_config: Callable[..., None]
) -> None:
    """As microsoft/deberta-v3-base's: no class is named, nor which masked LM's head it is."""
    source, batch = make_source(name, "ForMaskedLM"), make_texts(name, SHORT)
    source.save_pretrained(tmp_path / "short")
    edit_config(tmp_path / "short", architectures=None, legacy=None, max_relative_positions=None)
    convert_directory(tmp_path / "short", tmp_path / "long", max_positions=LONG, attention_window=2 * LONG)
    expected = source(**batch).logits[0]
    for long in (lengthen(tmp_path / "short", LONG, 2 * LONG), load_masked_lm(tmp_path / "long").eval()):
        assert type(long).__name__ == f"{prefix}ForMaskedLM"
        torch.testing.assert_close(long(**batch).logits[0], expected, atol=3e-5, rtol=1e-4)
    chosen = torch.rand(2, SHORT) < 0.3
    torch.testing.assert_close(masked_logits(long, batch, chosen), long(**batch).logits[chosen], atol=1e-4, rtol=1e-4)


def test_an_encoder_whose_files_name_a_head_that_it_lacks(tmp_path: Path, edit_config: Callable[..., None]) -> None:
    """As sentence-transformers/all-mpnet-base-v2's; also with a buffer of old versions."""
    source, batch = make_source("mpnet"), make_texts("mpnet", SHORT)
    source.save_pretrained(tmp_path / "short")
    edit_config(tmp_path / "short", architectures=["MPNetForMaskedLM"])
    file = tmp_path / "short" / "model.safetensors"
    save_file({**load_file(file), "embeddings.position_ids": torch.arange(SHORT + 2)[None]}, file, {"format": "pt"})
    convert_directory(tmp_path / "short", tmp_path / "long", max_positions=LONG, attention_window=2 * LONG)
    real = batch["attention_mask"].bool()
    for long in (
        lengthen(tmp_path / "short", LONG, 2 * LONG),
        transformers.AutoModel.from_pretrained(tmp_path / "long"),
    ):
        torch.testing.assert_close(long.eval()(**batch)[0][real], source(**batch)[0][real], atol=3e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "head", "kind"),
    [
        ("v1", "ForMaskedLM", "DebertaTokenizer"),
        ("v3", "ForMaskedLM", "DebertaV2Tokenizer"),
        ("mpnet", "ForMaskedLM", "MPNetTokenizer"),
        ("t5", "ForConditionalGeneration", "T5Tokenizer"),
    ],
)
def test_tokenizer_files_name_class_and_length(
    name: str, head: str, kind: str, tmp_path: Path, add_tokenizer: Callable[[Path], None]
) -> None:
    make_source(name, head).save_pretrained(tmp_path / "short")
    add_tokenizer(tmp_path / "short")
    file = tmp_path / "short" / "tokenizer_config.json"
    fields = json.loads(file.read_text())
    ours = fields.pop("tokenizer_class")
    file.write_text(json.dumps(fields))
    convert_directory(tmp_path / "short", tmp_path / "long", max_positions=LONG)
    written = json.loads((tmp_path / "long" / "tokenizer_config.json").read_text())
    assert (written["tokenizer_class"], written["model_max_length"]) == (kind, LONG)
    (tmp_path / "long" / "tokenizer_config.json").write_text(json.dumps({**written, "tokenizer_class": ours}))
    for tokenizer in (load_tokenizer(tmp_path / "long"), transformers.AutoTokenizer.from_pretrained(tmp_path / "long")):
        assert tokenizer("w1 w2").input_ids == [6, 7]
    if writes(name):  # whose vectors have tests of their own
        return
    model = load_masked_lm(tmp_path / "long")
    check_model_fits(model, tokenizer, LONG, "cls")
    with pytest.raises(ValueError, match=r"the model has 100 positions; .*longspan convert"):
        check_model_fits(model, tokenizer, LONG + 1)
    embedder = DocumentEmbedder.from_pretrained(tmp_path / "long")
    assert embedder.max_length == LONG
    vectors = embedder.encode(["w1 w2 w3", "w4 " * 300])
    assert vectors.isfinite().all()
    embedder.save_pretrained(tmp_path / "saved")
    torch.testing.assert_close(DocumentEmbedder.from_pretrained(tmp_path / "saved").encode("w1 w2 w3"), vectors[0])


@pytest.mark.parametrize(
    ("name", "head", "wrong"),
    [
        ("v1", "Model", "DebertaForNothing"),
        ("v1", "Model", "DebertaV2Model"),  # whose long class another family has
        ("v1", "Model", "DebertaForMultipleChoice"),
        ("v3", "Model", "DebertaV2ForNothing"),
        ("t5", "ForConditionalGeneration", "T5ForMaskedLM"),
    ],
)
def test_classes_that_have_no_long_one(
    name: str, head: str, wrong: str, tmp_path: Path, edit_config: Callable[..., None]
) -> None:
    make_source(name, head).save_pretrained(tmp_path)
    edit_config(tmp_path, architectures=[wrong])
    if not writes(name):  # an encoder alone opens, whatever is named
        file = tmp_path / "model.safetensors"
        save_file({f"deberta.{name}": tensor for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(ValueError, match=f"{wrong} has no long class here; the heads that carry over are Model, "):
        convert_directory(tmp_path, tmp_path.parent / "long", max_positions=LONG)
    edit_config(tmp_path, architectures=None)
    with pytest.raises(ValueError, match=rf'names no architecture; add for example .*"{SOURCES[name][0]}Model"'):
        lengthen(tmp_path, LONG)


def test_heads_that_mix_are_refused(tmp_path: Path, edit_config: Callable[..., None]) -> None:
    source = make_source("v1", talking_head=True)
    source.save_pretrained(tmp_path / "short")
    for make in (
        lambda: lengthen(source, LONG),
        lambda: lengthen(tmp_path / "short", LONG),
        lambda: convert_directory(tmp_path / "short", tmp_path / "new" / "long", max_positions=LONG),
    ):
        with pytest.raises(ValueError, match=r"^talking_head is True: attention whose heads mix") as caught:
            make()
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_a_table_that_nothing_reads(tmp_path: Path) -> None:
    """DeBERTa v1's classes pass over positions in the files of a model without any, and so do the long ones."""
    source, batch = make_source("v1", "ForMaskedLM"), make_texts("v1", SHORT)
    source.save_pretrained(tmp_path / "short")
    file = tmp_path / "short" / "model.safetensors"
    table = {"deberta.embeddings.position_embeddings.weight": torch.randn(SHORT, 16)}
    save_file({**load_file(file), **table}, file, {"format": "pt"})
    convert_directory(tmp_path / "short", tmp_path / "long", max_positions=LONG, attention_window=2 * LONG)
    for long in (lengthen(tmp_path / "short", LONG, 2 * LONG), load_masked_lm(tmp_path / "long").eval()):
        real = batch["attention_mask"].bool()
        torch.testing.assert_close(long(**batch)[0][real], source(**batch)[0][real], atol=3e-5, rtol=1e-4)
