"""A T5 made long in the commands: finetuning, summaries, pipelines, document vectors; and what they refuse."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from finetuning_runs import make_recipe, run, write
from summaries import make_records, write_records
from transformers import PreTrainedTokenizerBase, pipeline
from typer.testing import CliRunner

import longspan
from longspan import DocumentEmbedder
from longspan.cli import app
from longspan.convert import convert_directory, lengthen
from longspan.training.finetuning.prediction import predict_files
from longspan.training.finetuning.task import load_finetuned
from longspan.training.summarization import SummarizationRecipe, Summarizer, finetune_summarization

SIZES: dict[str, Any] = {
    "d_model": 32,
    "d_kv": 16,
    "d_ff": 32,
    "num_layers": 1,
    "num_heads": 2,
    "dropout_rate": 0.0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}


@pytest.fixture(scope="module")
def t5_dir(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerBase) -> Path:
    """A long T5 of 64 tokens, window 16."""
    folder = tmp_path_factory.mktemp("t5")
    torch.manual_seed(3)
    config = transformers.T5Config(vocab_size=len(tokenizer), **SIZES)
    transformers.T5ForConditionalGeneration(config).save_pretrained(folder / "short")
    tokenizer.save_pretrained(folder / "short")
    return convert_directory(folder / "short", folder / "long", max_positions=64, attention_window=16)


def test_it_learns_to_summarize_and_does(t5_dir: Path, tmp_path: Path) -> None:
    recipe = SummarizationRecipe(
        model=str(t5_dir),
        train=str(write_records(tmp_path / "train.jsonl", make_records(24))),
        eval=str(write_records(tmp_path / "eval.jsonl", make_records(4, seed=1))),
        output_dir=str(tmp_path / "run"),
        max_input_length=64,
        max_target_length=12,
        prefix="the contract ",
        examples_per_step=4,
        micro_batch=2,
        steps=20,
        learning_rate=1e-2,
        num_beams=2,
        log_every=2,
        gradient_checkpointing=True,
    )
    result = finetune_summarization(recipe, progress=False)
    losses = [entry["loss"] for entry in result.log if "loss" in entry]
    assert losses[-1] < 0.7 * losses[0]
    summarizer = Summarizer.load(result.model_dir)
    assert type(summarizer.model).__name__ == "LongspanT5ForConditionalGeneration"
    assert (summarizer.inputs.prefix, summarizer.inputs.has_global_attention) == ("the contract ", True)
    text = " ".join(record["text"] for record in make_records(3, seed=2))
    (written,) = summarizer.summarize([text])
    plain = Summarizer.load(result.model_dir, prefix="")
    queried = summarizer.inputs.encode("a seller", "what?")
    assert queried == plain.inputs.encode("a seller", "the contract what?")
    assert summarizer.inputs.encode("a seller") == plain.inputs.encode("the contract a seller")

    longspan.register()
    try:
        assert pipeline("summarization", model=str(result.model_dir))(text, prefix="the contract ") == [
            {"summary_text": written}
        ]
    finally:
        longspan.register(False)
    command = ["summarize", "--model", str(result.model_dir), str(tmp_path / "eval.jsonl"), "--output"]
    assert CliRunner().invoke(app, [*command, str(tmp_path / "out.jsonl")]).exit_code == 0
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize(("task", "head"), [("classification", "Sequence"), ("tokens", "Token"), ("nli", "Sequence")])
def test_it_learns_to_classify(task: str, head: str, t5_dir: Path, tmp_path: Path) -> None:
    result = run(make_recipe(tmp_path, t5_dir, task))
    assert result.best.eval[result.metric] > 0.8
    model, _, _ = load_finetuned(result.best.model_dir)
    assert type(model).__name__ == f"LongspanT5For{head}Classification"
    assert predict_files(result.best.model_dir, write(tmp_path / "new.jsonl", task, 3), tmp_path / "out.jsonl") == 3


def test_a_recipe_may_say_which_tokens_are_global(t5_dir: Path, tmp_path: Path) -> None:
    result = run(make_recipe(tmp_path, t5_dir, "classification", epochs=1, global_attention_policy="first+sep"))
    model, _, _ = load_finetuned(result.best.model_dir)
    assert model.config.global_attention_policy == "first+sep"


def test_it_answers_questions(t5_dir: Path, tmp_path: Path) -> None:
    result = run(make_recipe(tmp_path, t5_dir, "qa", epochs=1))
    assert result.best.eval[result.metric] >= 0.0


def test_what_it_lacks_is_refused(t5_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a 'longspan-t5', which has no head for task 'multiple-choice'"):
        run(make_recipe(tmp_path, t5_dir, "multiple-choice"))
    texts = write(tmp_path / "texts.jsonl", "classification", 3)
    for command in (["evaluate", "--model", str(t5_dir), str(texts)], ["pretrain", "--model", str(t5_dir)]):
        if command[0] == "pretrain":
            command += [
                "--train",
                str(texts),
                "--output",
                str(tmp_path / "run"),
                "--sequence-length",
                "64",
                "--steps",
                "2",
            ]
        outcome = CliRunner().invoke(app, command)
        assert outcome.exit_code == 2, outcome.output
        assert "longspan-t5" in outcome.output
        assert "tells no masked tokens; use longspan summarize" in " ".join(outcome.output.split())


def test_document_vectors_of_its_encoder(t5_dir: Path, tmp_path: Path) -> None:
    texts = ["the seller was held", "a contract of the buyer " * 40]
    embedder = DocumentEmbedder.from_pretrained(t5_dir, normalize=True)
    assert type(embedder.model).__name__ == "LongspanT5EncoderModel"
    assert embedder.max_length == 64
    vectors = embedder.encode(texts)
    folder = embedder.save_pretrained(tmp_path / "embedder")
    assert json.loads((folder / "config.json").read_text())["global_attention_policy"] == "first"
    again = DocumentEmbedder.from_pretrained(folder)
    torch.testing.assert_close(again.encode(texts), vectors)
    none = DocumentEmbedder.from_pretrained(t5_dir, normalize=True, global_attention_policy="none").encode(texts)
    assert (none - vectors)[1].abs().max() > 1e-5
    short = DocumentEmbedder.from_pretrained(t5_dir.parent / "short", normalize=True, max_length=9)
    assert type(short.model).__name__ == "T5EncoderModel"
    torch.testing.assert_close(short.encode(texts[0]), vectors[0])
    sentence_transformers = pytest.importorskip("sentence_transformers")
    with pytest.raises(ValueError, match="longspan_distance"):  # it builds stock's class
        sentence_transformers.SentenceTransformer(str(folder))
    steps = json.loads((folder / "modules.json").read_text())  # as sentence-t5's
    steps.insert(2, {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(steps))
    with pytest.raises(ValueError, match="has a module Dense of sentence-transformers"):
        DocumentEmbedder.from_pretrained(folder)
    with pytest.raises(ValueError, match="T5ForConditionalGeneration is an encoder-decoder"):
        DocumentEmbedder(transformers.AutoModelForSeq2SeqLM.from_pretrained(t5_dir), embedder.tokenizer)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_adapters_find_its_projections(t5_dir: Path) -> None:
    peft = pytest.importorskip("peft")
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(t5_dir)
    adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_2_SEQ_LM"))
    ids = torch.randint(5, 20, (1, 30))
    adapted(ids, labels=ids[:, :4].clone(), global_attention_mask=(ids == ids[0, 0]).long()).loss.backward()
    grads = [name for name, parameter in adapted.named_parameters() if parameter.grad is not None]
    assert any("encoder.block.0.layer.0.SelfAttention.q.lora_B" in name for name in grads)


def test_the_command_converts(t5_dir: Path, tmp_path: Path) -> None:
    outcome = CliRunner().invoke(app, ["convert", str(t5_dir.parent / "short"), str(tmp_path / "long")])
    said = " ".join(outcome.output.split())
    assert "reads 16,384 tokens with a window of 512; to train it: longspan finetune --task summarization" in said
    lengthen(transformers.T5EncoderModel.from_pretrained(t5_dir.parent / "short"), 64).save_pretrained(tmp_path / "e")
    outcome = CliRunner().invoke(app, ["convert", str(tmp_path / "e"), str(tmp_path / "longer")])
    assert "longspan finetune --task TASK" in " ".join(outcome.output.split())
