"""The tokenizer goes along and knows its new length."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedModel

from longspan.convert import convert_directory

Save = Callable[..., tuple[PreTrainedModel, Path]]
AddTokenizer = Callable[[Path], None]

TEXT = " ".join(f"w{i % 92}" for i in range(200))


def test_model_max_length(tmp_path: Path, save_model: Save, add_tokenizer: AddTokenizer) -> None:
    _, directory = save_model()
    add_tokenizer(directory)

    target = convert_directory(directory, tmp_path / "long", max_positions=120)

    before, after = AutoTokenizer.from_pretrained(directory), AutoTokenizer.from_pretrained(target)
    assert (before.model_max_length, after.model_max_length) == (32, 120)
    assert len(after(TEXT, truncation=True)["input_ids"]) == 120
    assert after(TEXT)["input_ids"] == before(TEXT)["input_ids"]
    assert after.mask_token == "<mask>"
    assert (target / "tokenizer.json").read_bytes() == (directory / "tokenizer.json").read_bytes()


def test_a_saved_truncation_is_widened(tmp_path: Path, save_model: Save, add_tokenizer: AddTokenizer) -> None:
    _, directory = save_model()
    add_tokenizer(directory)
    raw = Tokenizer.from_file(str(directory / "tokenizer.json"))
    raw.enable_truncation(32)
    raw.save(str(directory / "tokenizer.json"))

    target = convert_directory(directory, tmp_path / "long", max_positions=120)

    assert len(Tokenizer.from_file(str(target / "tokenizer.json")).encode(TEXT).ids) == 120


@pytest.mark.parametrize(
    ("family", "tokenizer_class"),
    [("roberta", "RobertaTokenizer"), ("xlm-roberta", "XLMRobertaTokenizer"), ("camembert", "CamembertTokenizer")],
)
def test_the_family_names_the_class(tmp_path: Path, save_model: Save, family: str, tokenizer_class: str) -> None:
    """Without a name in the files, transformers goes by the model's type, which is Longformer's now."""
    _, directory = save_model(family=family)
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    if family == "roberta":
        words = [*specials, "a", "b", "ab"]
        (directory / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
        (directory / "merges.txt").write_text("#version: 0.2\na b\n")
    else:
        scores = [(word, -float(i)) for i, word in enumerate([*specials, "▁", "a", "b", "▁ab"])]
        Tokenizer(models.Unigram(scores, unk_id=3)).save(str(directory / "tokenizer.json"))
    before = AutoTokenizer.from_pretrained(directory)
    assert type(before).__name__ == tokenizer_class

    target = convert_directory(directory, tmp_path / "long", max_positions=64)

    after = AutoTokenizer.from_pretrained(target)
    assert type(after).__name__ == tokenizer_class
    assert after("ab ba ab").input_ids == before("ab ba ab").input_ids
    assert after.model_max_length == 64


def test_the_old_name_of_the_length(tmp_path: Path, save_model: Save, add_tokenizer: AddTokenizer) -> None:
    _, directory = save_model()
    add_tokenizer(directory)
    config = json.loads((directory / "tokenizer_config.json").read_text())
    del config["model_max_length"]
    (directory / "tokenizer_config.json").write_text(json.dumps(config | {"max_len": 32}))

    target = convert_directory(directory, tmp_path / "long", max_positions=64)

    converted = json.loads((target / "tokenizer_config.json").read_text())
    assert converted == config | {"model_max_length": 64}


def test_no_tokenizer(tmp_path: Path, save_model: Save) -> None:
    _, directory = save_model()
    (directory / "README.md").write_text("# a short model")
    (directory / "LICENSE.txt").write_text("terms")

    target = convert_directory(directory, tmp_path / "long", max_positions=64)

    assert sorted(path.name for path in target.iterdir()) == ["LICENSE.txt", "config.json", "model.safetensors"]


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_file(tmp_path: Path, save_model: Save, add_tokenizer: AddTokenizer, content: str) -> None:
    _, directory = save_model()
    add_tokenizer(directory)
    (directory / "tokenizer_config.json").write_text(content)

    with pytest.raises(ValueError, match=f"{directory}/tokenizer_config.json (is not valid JSON|holds no JSON)"):
        convert_directory(directory, tmp_path / "long", max_positions=64)
    assert [path.name for path in tmp_path.iterdir()] == ["short"]


def test_fill_mask_pipeline(tmp_path: Path, save_model: Save, add_tokenizer: AddTokenizer) -> None:
    _, directory = save_model()
    add_tokenizer(directory)

    target = convert_directory(directory, tmp_path / "long", max_positions=120, attention_window=16)

    fill = transformers.pipeline("fill-mask", model=str(target), top_k=2)
    answers = fill(TEXT[:150] + " <mask> w1")
    assert len(answers) == 2
