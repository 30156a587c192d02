"""longspan-mini as a newcomer meets it: by its name, without a network, everywhere a model is asked for."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from typer.testing import CliRunner

import longspan
from longspan.bundled import bundled_names, model_source
from longspan.cli import app
from longspan.models import read_config, read_tokenizer
from longspan.training import load_masked_lm
from longspan.training.filling import fill_masks
from longspan.training.finetuning.inputs import digest_model

MINI = "longspan-mini"
LONG_TEXT = " ".join(f"Paragraph {number} of the report is about the history of the city." for number in range(250))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and no folder that has the model's name."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)


def test_what_comes_along() -> None:
    assert bundled_names() == [MINI]
    folder = longspan.bundled_model()
    assert folder == longspan.bundled_model(MINI)
    assert (folder / "README.md").is_file()
    assert all(file.stat().st_size <= 16 * 2**20 for file in folder.iterdir())
    with pytest.raises(ValueError, match="no model named 'longspan-maxi' comes with longspan; there is longspan-mini"):
        longspan.bundled_model("longspan-maxi")


def test_the_card_runs() -> None:
    card = (longspan.bundled_model() / "README.md").read_text(encoding="utf-8")
    [snippet] = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    exec(compile(snippet, "README.md", "exec"), {})


def test_weights_are_stored_in_16_bits_and_read_in_32() -> None:
    stored = load_file(longspan.bundled_model() / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    for model in (
        longspan.LongformerForMaskedLM.from_pretrained(MINI),
        transformers.LongformerForMaskedLM.from_pretrained(longspan.bundled_model()),
        load_masked_lm(MINI),
    ):
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_stock_transformers_computes_the_same() -> None:
    folder = longspan.bundled_model()
    inputs = transformers.AutoTokenizer.from_pretrained(folder)(LONG_TEXT, return_tensors="pt")
    assert inputs["input_ids"].shape[1] > 2500
    mask = torch.zeros_like(inputs["input_ids"])
    mask[:, 0] = 1
    ours = longspan.LongformerModel.from_pretrained(MINI, add_pooling_layer=False)
    stock = transformers.LongformerModel.from_pretrained(folder, add_pooling_layer=False)
    with torch.no_grad():
        expected = stock(**inputs, global_attention_mask=mask).last_hidden_state
        actual = ours(**inputs, global_attention_mask=mask).last_hidden_state
    assert (actual - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("She studied physics at the <mask> of Cambridge.", " University"),
        ("The president of the United <mask> lives in the White House.", " States"),
        ("In the 19th <mask>, many people moved to the cities.", " century"),
    ],
)
def test_it_knows_some_english(text: str, word: str) -> None:
    [filled] = fill_masks(load_masked_lm(MINI), read_tokenizer(MINI), text)
    assert filled.candidates[0].token == word


def test_it_reads_all_its_positions() -> None:
    tokenizer = read_tokenizer(MINI)
    assert tokenizer.model_max_length == 4096
    text = LONG_TEXT + " The next paragraph is about the <mask> of the city."
    [filled] = fill_masks(load_masked_lm(MINI), tokenizer, text)
    assert filled.position > 2500
    assert filled.candidates[0].token == " history"


def test_its_name_is_taken_wherever_a_model_is_asked_for(tmp_path: Path) -> None:
    assert read_config(MINI).num_hidden_layers == 4
    assert longspan.LongformerForQuestionAnswering.from_pretrained(MINI).config.vocab_size == 8000
    assert longspan.DocumentEmbedder.from_pretrained(MINI).encode("A text.").shape == (256,)
    longer = longspan.convert_directory(MINI, tmp_path / "longer", max_positions=8192)
    assert read_config(longer).max_position_embeddings == 8194
    assert digest_model(MINI) == digest_model(str(longspan.bundled_model()))


def test_a_folder_of_its_name_comes_first(tmp_path: Path) -> None:
    shutil.copytree(longspan.bundled_model(), tmp_path / MINI)
    assert model_source(MINI) == MINI
    config = json.loads((tmp_path / MINI / "config.json").read_text(encoding="utf-8"))
    (tmp_path / MINI / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 0.5}), encoding="utf-8")
    assert longspan.LongformerModel.from_pretrained(MINI).config.layer_norm_eps == 0.5


def test_a_model_without_a_name_still_loads() -> None:
    whole = longspan.LongformerForMaskedLM.from_pretrained(MINI)
    again = longspan.LongformerForMaskedLM.from_pretrained(None, config=whole.config, state_dict=whole.state_dict())
    assert torch.equal(again.lm_head.bias, whole.lm_head.bias)


def test_fill_mask_and_finetune_on_a_machine_without_a_network(tmp_path: Path) -> None:
    filled = CliRunner().invoke(app, ["fill-mask", "She studied physics at the <mask> of Cambridge."])
    assert filled.exit_code == 0, filled.output
    assert "' University'" in filled.output
    rows = [f"{word} as the sea,{label}" for word, label in (("calm", 0), ("wild", 1))] * 8
    (tmp_path / "examples.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    options = ["--task", "classification", "--model", MINI, "--train", "examples.csv", "--eval", "examples.csv"]
    tuned = CliRunner().invoke(
        app, ["finetune", *options, "--output", "run", "--set", "epochs=1", "--set", "micro_batch=8"]
    )
    assert tuned.exit_code == 0, tuned.output
