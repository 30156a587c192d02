"""Loading, evaluating on files and writing with a character language model."""

import shutil
from pathlib import Path

import pytest
import torch

from longspan.data.characters import Alphabet
from longspan.models import LongformerCausalConfig, LongformerForCausalLM
from longspan.training.language_modelling.text import (
    LanguageModel,
    evaluate_language_model_on_files,
    generate_text,
    load_language_model,
)


def save(folder: Path, alphabet: Alphabet) -> Path:
    torch.manual_seed(0)
    config = LongformerCausalConfig(
        vocab_size=len(alphabet),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        attention_window=6,
        initializer_range=0.3,
    )
    LongformerForCausalLM(config).save_pretrained(folder)
    alphabet.save(folder)
    return folder


@pytest.fixture(scope="module")
def characters(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load_language_model(save(tmp_path_factory.mktemp("characters"), Alphabet("\n abcdefg東")))


@pytest.fixture(scope="module")
def bytes_(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load_language_model(save(tmp_path_factory.mktemp("bytes"), Alphabet()))


def test_a_seed_writes_the_same_text_and_the_stream_is_the_text(characters: LanguageModel) -> None:
    pieces: list[str] = []
    text = generate_text(characters, "a cab\n", characters=60, seed=3, on_text=pieces.append)
    assert len(text) == 60
    assert "".join(pieces) == text
    assert set(text) <= set("\n abcdefg東")
    assert generate_text(characters, "a cab\n", characters=60, seed=3) == text
    assert generate_text(characters, "a cab\n", characters=60, seed=4) != text


def test_temperature_zero_is_greedy(characters: LanguageModel) -> None:
    greedy = generate_text(characters, "bad", characters=20, temperature=0)
    assert greedy == generate_text(characters, "bad", characters=20, temperature=0)
    assert greedy == generate_text(characters, "bad", characters=20, top_k=1, seed=1)
    assert greedy == generate_text(characters, "bad", characters=20, top_p=1e-6, seed=1)


def test_bytes_are_streamed_as_whole_characters(bytes_: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[str] = []
    wanted = iter(b"\xff\xff\xff" + "東né𝄞!".encode() * 2)
    monkeypatch.setattr(
        LongformerForCausalLM,
        "forward",
        _saying(bytes_.model, wanted),
    )
    text = generate_text(bytes_, "x", characters=25, temperature=0, on_text=pieces.append)
    assert text == "\ufffd\ufffd\ufffd" + "東né𝄞!" * 2
    assert pieces == list(text)


def _saying(model: LongformerForCausalLM, wanted: object) -> object:
    """A forward whose most probable symbols are the wanted ones."""
    whole = LongformerForCausalLM.forward

    def forward(self: LongformerForCausalLM, *args: object, **kwargs: object) -> object:
        output = whole(self, *args, **kwargs)  # type: ignore[arg-type]
        output.logits[:, -1, next(wanted)] = 1e4  # type: ignore[call-overload, union-attr]
        return output

    return forward


def test_files_are_read_with_the_models_alphabet(characters: LanguageModel, tmp_path: Path) -> None:
    file = tmp_path / "held_out.txt"
    file.write_text("a bad cabbage\n東 fed a dab\n" * 10, encoding="utf-8")
    whole = evaluate_language_model_on_files(characters, [file], progress=False)
    assert whole.characters == 26 * 10 - 1
    last = evaluate_language_model_on_files(characters, [file], split="test", protocol="windows", progress=False)
    assert last.characters == 13 - 1
    file.write_text("zebra")
    with pytest.raises(ValueError, match="the text holds 'z', which is none of the 10 characters"):
        evaluate_language_model_on_files(characters, [file], progress=False)


def test_wrong_folders_are_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no model folder"):
        load_language_model(tmp_path / "no")
    with pytest.raises(FileNotFoundError, match="so it is no character language model"):
        load_language_model(tmp_path)
    folder = save(tmp_path / "model", Alphabet("abc"))
    Alphabet().save(folder)
    with pytest.raises(ValueError, match="holds an alphabet of 256 symbols, but a model of 3"):
        load_language_model(folder)
    shutil.rmtree(folder)
    folder.mkdir()
    Alphabet().save(folder)
    with pytest.raises(FileNotFoundError, match=r"the model in .* can't be loaded"):
        load_language_model(folder)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": "zoo"}, "the text holds 'z'"),
        ({"characters": 0}, "characters is 0"),
        ({"temperature": -1.0}, r"temperature is -1\.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": 1e-45}, "temperature is 1e-45; it must be 0, .* or at least 1e-30"),
        ({"seed": -1}, "seed is -1; it must be from 0 to 4294967295"),
        ({"seed": 2**32}, "seed is 4294967296; it must be"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 0.0}, r"top_p is 0\.0"),
    ],
)
def test_refusals_are_sentences(characters: LanguageModel, options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        generate_text(characters, **{"prompt": "a", **options})  # type: ignore[arg-type]
