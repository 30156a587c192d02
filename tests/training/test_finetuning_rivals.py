"""The models to compare with, through the same finetuning: HAT, pieces read one by one, texts in segments."""

# ruff: noqa: F811 - fixtures are imported

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import transformers
from finetuning_runs import FILLER, longformer_dir, make_recipe, run, write  # noqa: F401
from transformers import PreTrainedTokenizerBase

from longspan.convert.hat import convert_to_hat
from longspan.data.examples import Example
from longspan.models import HATForSequenceClassification, LongformerForSequenceClassification
from longspan.training.finetuning.encoding import ExampleEncoder
from longspan.training.finetuning.prediction import predict_files
from longspan.training.finetuning.task import FinetunedTask, load_finetuned

K = 8


@pytest.fixture(scope="session")
def hat_dir(tmp_path_factory: pytest.TempPathFactory, longformer_dir: Path) -> Path:
    """A HAT of eight segments of eight tokens."""
    return convert_to_hat(
        longformer_dir, tmp_path_factory.mktemp("hat") / "hat", encoder_layout="SD", segment_length=K, max_segments=8
    )


@pytest.mark.parametrize("task", ["classification", "sequential"])
def test_hat_learns(task: str, hat_dir: Path, tmp_path: Path) -> None:
    result = run(make_recipe(tmp_path, hat_dir, task))
    assert result.best.eval[result.metric] > 0.9
    assert result.task.layout == "segments"
    assert result.task.max_length == 64
    model, _, _ = load_finetuned(result.best.model_dir)
    assert type(model).__name__.startswith("HATFor")
    assert predict_files(result.best.model_dir, write(tmp_path / "new.jsonl", task, 3), tmp_path / "out.jsonl") == 3


@pytest.mark.parametrize("task", ["nli", "multiple-choice", "multi-label"])
def test_hat_runs_the_other_tasks(task: str, hat_dir: Path, tmp_path: Path) -> None:
    result = run(make_recipe(tmp_path, hat_dir, task, epochs=1))
    assert result.best.eval[result.metric] >= 0.0


def test_pieces_learn_beyond_the_position_table(longformer_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="reads texts of any length in pieces; give max_length"):
        run(make_recipe(tmp_path, longformer_dir, "classification", reading_length=16))
    result = run(make_recipe(tmp_path, longformer_dir, "classification", reading_length=16, max_length=200))
    assert result.best.eval["accuracy"] > 0.8
    model, _, task = load_finetuned(result.best.model_dir)
    assert isinstance(model, LongformerForSequenceClassification)
    assert (model.config.reading_length, task.max_length) == (16, 200)
    untrained = [name for name, weight in model.named_parameters() if not weight.requires_grad]
    assert untrained
    assert all("_global." in name for name in untrained)


@pytest.mark.parametrize("layout", ["plain", "segments"])
def test_a_model_of_segments_pools_headers_where_there_are_some(
    layout: str, longformer_dir: Path, tmp_path: Path
) -> None:
    """A configuration as the card's says how texts were laid out in pretraining, not how these are."""
    source = tmp_path / "card"
    shutil.copytree(longformer_dir, source)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "segment_length": None, "max_sentence_length": K}))
    recipe = make_recipe(
        tmp_path, source, "classification", epochs=1, layout=layout, segment_length=K, max_length=64, pooling="mean"
    )
    folder = run(recipe).best.model_dir
    model = LongformerForSequenceClassification.from_pretrained(folder)
    assert model.config.segment_length == (K if layout == "segments" else None)
    assert load_finetuned(folder)[0].config.segment_length == model.config.segment_length


def test_segments_hold_text_and_tails(longformer_dir: Path) -> None:
    """The hypothesis is the last segment, the premise's end is cut, and places lead back to its characters."""
    tokenizer: PreTrainedTokenizerBase = transformers.AutoTokenizer.from_pretrained(longformer_dir)
    task = FinetunedTask(task="nli", labels=("no", "yes"), max_length=4 * K, segment_length=K, layout="segments")
    premise = f"{FILLER}. {FILLER}. {FILLER}. {FILLER}."
    inputs = {"premise": premise, "hypothesis": "a seller"}
    encoded = ExampleEncoder(task, tokenizer).encode(Example(inputs=inputs, target="yes", origin="here"))
    (piece,) = encoded.pieces
    assert piece.input_ids.size == 4 * K
    assert piece.input_ids[::K].tolist() == [0, 2, 2, 2]
    last = piece.input_ids[3 * K :][piece.attention_mask[3 * K :] == 1][1:]
    assert tokenizer.decode(last.tolist()).strip() == "a seller"
    ids = np.asarray(tokenizer(premise, add_special_tokens=False)["input_ids"])
    assert piece.input_ids[piece.places[:, 0]].tolist() == ids[: len(piece.places)].tolist()
    assert encoded.cut == len(ids) - len(piece.places) > 0
    longer = Example(inputs={**inputs, "hypothesis": FILLER * 3}, target="yes", origin="here")
    tail = tokenizer(FILLER * 3, add_special_tokens=False)["input_ids"]
    assert ExampleEncoder(task, tokenizer).encode(longer).cut == encoded.cut + len(tail) - (K - 1) > encoded.cut
    start, stop = piece.places[-1, 1:]
    assert premise[start:stop].strip() in tokenizer.decode([int(piece.input_ids[piece.places[-1, 0]])])


def test_a_longformer_reads_segments_with_their_headers_global(longformer_dir: Path, tmp_path: Path) -> None:
    result = run(make_recipe(tmp_path, longformer_dir, "nli", layout="segments", pooling="last", epochs=1))
    model, _, _ = load_finetuned(result.best.model_dir)
    assert (model.config.global_attention_policy, model.config.segment_length) == ("cls+sep", K)


@pytest.mark.parametrize(("given", "attended"), [(None, True), (False, False)])
def test_padding_inside_segments_is_attended_as_in_pretraining(
    given: bool | None, attended: bool, longformer_dir: Path, tmp_path: Path
) -> None:
    source = tmp_path / "pretrained"
    shutil.copytree(longformer_dir, source)
    config = json.loads((source / "config.json").read_text())
    note = {"segment_length": K, "segment_ends": "sentences", "attend_inner_padding": True}
    (source / "config.json").write_text(json.dumps({**config, "pretraining_layout": note}))
    fields = {"layout": "segments", "segment_length": K, "max_length": 64, "epochs": 1, "attend_inner_padding": given}
    folder = run(make_recipe(tmp_path, source, "classification", **fields)).best.model_dir
    _, tokenizer, task = load_finetuned(folder)
    assert task.attend_inner_padding is attended
    encoder = ExampleEncoder(task, tokenizer)
    rows = [Example(inputs={"text": text}, target=None, origin="here") for text in ("a seller", f"{FILLER}. {FILLER}")]
    masks = encoder.collate([encoder.encode(row).pieces[0] for row in rows])["attention_mask"]
    assert bool(masks[0, :K].all()) is attended
    assert not masks[0, K:].any()  # padding behind a text never is


def test_padding_is_attended_in_segments_alone(longformer_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="attend_inner_padding is true, but texts are not laid out in segments"):
        run(make_recipe(tmp_path, longformer_dir, "classification", attend_inner_padding=True))


def test_refusals_name_the_fix(hat_dir: Path, longformer_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a HAT, which has no head for task 'qa'"):
        run(make_recipe(tmp_path, hat_dir, "qa"))
    with pytest.raises(ValueError, match="is a HAT, which has no field 'reading_length'"):
        run(make_recipe(tmp_path, hat_dir, "classification", reading_length=8))
    with pytest.raises(ValueError, match="reads segments of 8 tokens; use layout 'segments' and segment_length 8"):
        run(make_recipe(tmp_path, hat_dir, "classification", segment_length=16))
    with pytest.raises(ValueError, match="max_length is 72, but the model has 64 positions"):
        run(make_recipe(tmp_path, hat_dir, "classification", max_length=72))
    with pytest.raises(ValueError, match="layout is 'segments', which task 'qa' doesn't have"):
        run(make_recipe(tmp_path, longformer_dir, "qa", layout="segments"))
    assert HATForSequenceClassification.base_model_prefix == "hi_transformer"
