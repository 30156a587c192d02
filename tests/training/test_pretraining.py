"""Pretraining from end to end: what is learnt, what is kept, and what is refused."""

import json
import math
import resource
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import make_recipe, numbers
from tiny_text import make_texts, save_roberta, write_jsonl
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedTokenizerBase, TrainerCallback

from longspan.data.layout import SequenceLayout
from longspan.data.masking import Piece, collate, mask_tokens
from longspan.data.text import Document
from longspan.training import PretrainInterrupted, PretrainRecipe, PretrainResult, evaluate_masked_lm, load_masked_lm
from longspan.training import pretrain as pretrain_with_bars
from longspan.training.freezing import frozen
from longspan.training.resumable_trainer import Share
from longspan.training.run_folder import RunFolder
from longspan.training.run_texts import RunTexts
from longspan.training.trainer import StepBatches


def pretrain(recipe: PretrainRecipe, **options: Any) -> PretrainResult:
    return pretrain_with_bars(recipe, progress=False, **options)


class Recorder(TrainerCallback):
    """Keeps what callbacks get to see."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.logs: list[dict[str, float]] = []
        self.optimizer: Any = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps.append(state.global_step)
        self.optimizer = kwargs["optimizer"]

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.logs.append(logs)


def test_a_run_learns_logs_evaluates_and_saves(
    tmp_path: Path, roberta_dir: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    recorder = Recorder()
    recipe = make_recipe(tmp_path, roberta_dir, steps=30, learning_rate=5e-3, eval_every=10)
    result = pretrain(recipe, callbacks=[recorder])
    assert recorder.steps == list(range(1, 31))
    losses = [entry["loss"] for entry in result.log if "loss" in entry]
    assert len(losses) == 10
    assert losses[-1] < losses[0] - 1
    evaluations = [entry for entry in result.log if "eval_loss" in entry]
    assert [entry["step"] for entry in evaluations] == [10, 20, 30]
    assert evaluations[-1]["eval_loss"] < evaluations[0]["eval_loss"]
    assert result.tokens == 30 * 8 * 32
    assert recorder.logs[0]["loss"] == losses[0]

    model = AutoModelForMaskedLM.from_pretrained(result.model_dir)
    assert len(AutoTokenizer.from_pretrained(result.model_dir)) == len(tokenizer)
    again = evaluate_masked_lm(
        model, tokenizer, tmp_path / "eval.jsonl", sequence_length=32, seed=recipe.seed, progress=False
    )
    assert result.metrics is not None
    assert again.loss == pytest.approx(result.metrics.loss, rel=1e-6)
    assert again.masked == result.metrics.masked

    folder = RunFolder(recipe.output_dir)
    assert [step for step, _ in folder.checkpoints()] == [25, 30]
    assert [json.loads(line) for line in folder.log_file.read_text().splitlines()] == result.log
    assert list(folder.tensorboard_dir.glob("events*"))
    table = folder.table_file.read_text().splitlines()
    assert table == result.table.splitlines()
    assert table[2].split("|")[1:4] == [" 10 ", f" {losses[2]:.4f} ", f" {evaluations[0]['eval_loss']:.4f} "]
    assert len(table) == 5


def test_the_same_recipe_gives_the_same_run(tmp_path: Path, roberta_dir: Path) -> None:
    first = pretrain(make_recipe(tmp_path, roberta_dir))
    again = pretrain(make_recipe(tmp_path, roberta_dir, output_dir=str(tmp_path / "again")))
    other = pretrain(make_recipe(tmp_path, roberta_dir, output_dir=str(tmp_path / "other"), seed=1))
    assert numbers(again.log) == numbers(first.log)
    assert numbers(other.log) != numbers(first.log)


def test_a_finished_run_is_left_alone(tmp_path: Path, roberta_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = make_recipe(tmp_path, roberta_dir)
    first = pretrain(recipe)
    before = {path: path.stat().st_mtime_ns for path in Path(recipe.output_dir).rglob("*") if path.is_file()}
    recorder = Recorder()
    with caplog.at_level("INFO", logger="longspan"):
        assert pretrain(recipe, callbacks=[recorder]) == first
    assert "is finished; nothing is left to do" in caplog.text
    assert not recorder.steps
    changed = {path for path, time in before.items() if path.exists() and path.stat().st_mtime_ns != time}
    assert {path.name for path in changed} <= {"recipe.yaml", ".lock"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 2e-3}, "begun with learning_rate = 0.001, and now learning_rate is 0.002; put it back"),
        ({"train": ("elsewhere.txt",)}, r"begun with train = \[.*\], and now train is \['elsewhere.txt'\]"),
        ({"steps": 13}, "begun with steps = 12, and now steps is 13"),
    ],
)
def test_a_changed_recipe_does_not_resume(
    tmp_path: Path, roberta_dir: Path, change: dict[str, Any], message: str
) -> None:
    pretrain(make_recipe(tmp_path, roberta_dir, steps=12))
    with pytest.raises(ValueError, match=message):
        pretrain(make_recipe(tmp_path, roberta_dir, **change))


def test_a_run_may_resume_with_smaller_micro_batches(tmp_path: Path, roberta_dir: Path) -> None:
    whole = pretrain(make_recipe(tmp_path, roberta_dir, output_dir=str(tmp_path / "whole")))
    recipe = make_recipe(tmp_path, roberta_dir, micro_batch=4)
    with pytest.raises(RuntimeError, match="stop here"):
        pretrain(recipe, callbacks=[StopAt(7)])
    result = pretrain(make_recipe(tmp_path, roberta_dir, micro_batch=1, log_every=1))
    assert result.log[-1]["eval_loss"] == pytest.approx(whole.log[-1]["eval_loss"], rel=0.01)


class StopAt(TrainerCallback):
    def __init__(self, step: int, error: type[BaseException] = RuntimeError) -> None:
        self.step, self.error = step, error

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise self.error("stop here")


def test_ctrl_c_says_how_to_go_on(tmp_path: Path, roberta_dir: Path) -> None:
    recipe = make_recipe(tmp_path, roberta_dir)
    with pytest.raises(PretrainInterrupted, match=r"Stopped before the first checkpoint \(save_every 5\)"):
        pretrain(recipe, callbacks=[StopAt(3, KeyboardInterrupt)])
    with pytest.raises(
        PretrainInterrupted, match=r"holds the checkpoint of step 5 of 12: run the same command again to go on"
    ):
        pretrain(recipe, callbacks=[StopAt(7, KeyboardInterrupt)])
    recorder = Recorder()
    log = pretrain(recipe, callbacks=[recorder]).log
    assert recorder.steps == list(range(6, 13))
    assert [entry["step"] for entry in log if "loss" in entry] == [3, 6, 9, 12]


def test_an_attempt_without_a_checkpoint_binds_nobody(tmp_path: Path, roberta_dir: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no model folder"):
        pretrain(make_recipe(tmp_path, tmp_path / "typo"))
    with pytest.raises(RuntimeError, match="stop here"):
        pretrain(make_recipe(tmp_path, roberta_dir, learning_rate=1e-4), callbacks=[StopAt(4)])
    assert pretrain(make_recipe(tmp_path, roberta_dir), resume=False).steps == 12


def test_changed_text_does_not_resume(tmp_path: Path, roberta_dir: Path) -> None:
    recipe = make_recipe(tmp_path, roberta_dir)
    with pytest.raises(RuntimeError, match="stop here"):
        pretrain(recipe, callbacks=[StopAt(7)])
    train = tmp_path / "train.jsonl"
    text = train.read_text(encoding="utf-8")
    train.write_text(text.replace("court", "house"), encoding="utf-8")
    with pytest.raises(ValueError, match="the text to train on has changed since the run was begun; put it back"):
        pretrain(recipe)
    train.write_text(text, encoding="utf-8")
    assert pretrain(recipe).steps == 12


def test_without_resume_a_run_is_not_touched(tmp_path: Path, roberta_dir: Path) -> None:
    recipe = make_recipe(tmp_path, roberta_dir)
    pretrain(recipe, resume=False)
    with pytest.raises(FileExistsError, match="already holds a run; resume it, choose another output_dir or delete it"):
        pretrain(recipe, resume=False)


def test_two_runs_in_one_folder_are_refused(tmp_path: Path, roberta_dir: Path) -> None:
    class Second(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            with pytest.raises(FileExistsError, match="another process is training in output_dir"):
                pretrain(make_recipe(tmp_path, roberta_dir))

    pretrain(make_recipe(tmp_path, roberta_dir, steps=1, warmup_steps=0), callbacks=[Second()])


@pytest.mark.parametrize("family", ["roberta", "stock longformer"])
def test_accumulation_gives_the_loss_and_gradient_of_one_batch(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, family: str
) -> None:
    """Stock heads ignore how many tokens the other micro-batches have; documents of different lengths show it."""
    folder = save_roberta(tmp_path / "model", tokenizer, dropout=0.0)
    norms, losses = [], []
    for micro_batch in (8, 4, 1):
        recipe = make_recipe(
            tmp_path, folder, micro_batch=micro_batch, steps=3, warmup_steps=0, log_every=1, eval=(), eval_every=None,
            layout="document", output_dir=str(tmp_path / f"run{micro_batch}"),
        )  # fmt: skip
        model = load_masked_lm(folder)
        if family != "roberta":
            from transformers import LongformerConfig, LongformerForMaskedLM

            torch.manual_seed(0)
            model = LongformerForMaskedLM(
                LongformerConfig(**{**model.config.to_dict(), "attention_window": 8, "model_type": "longformer"})
            )
        log = pretrain(recipe, model=model, tokenizer=tokenizer).log
        norms.append([entry["grad_norm"] for entry in log])
        losses.append([entry["loss"] for entry in log])
    for other in (1, 2):
        assert losses[other] == pytest.approx(losses[0], rel=1e-5)
        assert norms[other] == pytest.approx(norms[0], rel=1e-3)


def test_biases_and_layer_norms_do_not_decay(tmp_path: Path, roberta_dir: Path) -> None:
    recorder = Recorder()
    recipe = make_recipe(tmp_path, roberta_dir, weight_decay=0.2, betas=(0.8, 0.9), eps=1e-5)
    model = load_masked_lm(roberta_dir)
    pretrain(recipe, model=model, callbacks=[recorder])
    decay = {
        name: group["weight_decay"]
        for group in recorder.optimizer.param_groups
        for name, parameter in model.named_parameters()
        if any(parameter is member for member in group["params"])
    }
    assert set(decay) == {name for name, _ in model.named_parameters()}
    for name, value in decay.items():
        assert value == (0.0 if "LayerNorm" in name or "layer_norm" in name or name.endswith("bias") else 0.2), name
    assert recorder.optimizer.param_groups[0]["betas"] == (0.8, 0.9)
    assert recorder.optimizer.param_groups[0]["eps"] == 1e-5


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0.5, 1, 0.75, 0.5, 0.25, 0]),
        ("polynomial", [0.5, 1, 0.75**3, 0.5**3, 0.25**3, 0]),
        ("constant", [0.5, 1, 1, 1, 1, 1]),
    ],
)
def test_schedules(tmp_path: Path, roberta_dir: Path, schedule: str, expected: list[float]) -> None:
    class Rates(TrainerCallback):
        def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            rates.append(kwargs["optimizer"].param_groups[0]["lr"])

    rates: list[float] = []
    recipe = make_recipe(
        tmp_path, roberta_dir, steps=6, warmup_steps=2, schedule=schedule, power=3, learning_rate=4e-3, eval_every=None
    )
    pretrain(recipe, callbacks=[Rates()])
    # The rate of step k is that of k - 1 steps done.
    assert rates == pytest.approx([0, *[share * 4e-3 for share in expected[:-1]]])


def test_only_new_positions_are_trained(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    folder = save_roberta(tmp_path / "model", tokenizer, positions=64)
    write_jsonl(tmp_path / "train.jsonl", make_texts(30))
    write_jsonl(tmp_path / "eval.jsonl", make_texts(6, seed=1))
    before = load_masked_lm(folder).state_dict()
    recipe = make_recipe(
        tmp_path, folder, sequence_length=64, trainable="positions", source_positions=40, weight_decay=0.5, steps=4
    )
    after = load_masked_lm(pretrain(recipe).model_dir).state_dict()
    table = "roberta.embeddings.position_embeddings.weight"
    for name, weight in before.items():
        if name != table:
            assert torch.equal(after[name], weight), name
    assert torch.equal(after[table][:42], before[table][:42])  # two rows come before position 0
    assert (after[table][42:] != before[table][42:]).any(dim=1).all()


def test_training_positions_needs_new_ones(roberta_dir: Path) -> None:
    model = load_masked_lm(roberta_dir)
    with (
        pytest.raises(ValueError, match="source_positions is 64, but the model has only 64 positions, so none is new"),
        frozen(model, source_positions=64),
    ):
        pass
    with frozen(model, source_positions=63):
        assert [parameter.requires_grad for parameter in model.parameters()].count(True) == 1
    assert all(parameter.requires_grad for parameter in model.parameters())


def batches(recipe: PretrainRecipe, tokenizer: PreTrainedTokenizerBase, process: int, processes: int) -> Iterator[Any]:
    layout = SequenceLayout.for_tokenizer(tokenizer, recipe.sequence_length, **asdict(recipe.text_layout))
    source = RunTexts(recipe, RunFolder(recipe.output_dir), tokenizer, layout, progress=False).sequences()
    share = Share(recipe.sequences_per_step, recipe.micro_batch, process, processes)

    def mask(sequences: Any) -> dict[str, torch.Tensor]:
        pieces = [
            Piece(tokens, mask_tokens(tokens, layout, 0.15, (recipe.seed, index)), segment_starts)
            for index, (tokens, segment_starts) in sequences
        ]
        return collate(pieces, layout)

    return iter(StepBatches(source, share, mask, start=0, position=None))


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param({"layout": "packed"}, id="packed"),
        pytest.param({"layout": "document"}, id="document"),
        pytest.param({"layout": "document", "segment_length": 8, "segment_ends": "sentences"}, id="sentences"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_step_is_the_same_for_any_number_of_processes(
    tmp_path: Path, roberta_dir: Path, tokenizer: PreTrainedTokenizerBase, layout: dict[str, Any], stream: bool
) -> None:
    recipe = make_recipe(tmp_path, roberta_dir, stream=stream, **layout)
    Path(recipe.output_dir).mkdir()
    alone = batches(recipe, tokenizer, 0, 1)
    pair = [batches(recipe, tokenizer, process, 2) for process in range(2)]
    for micro_batch in range(12):
        expected, found = next(alone), next(pair[micro_batch % 2])
        assert expected.keys() == found.keys()
        for name, tensor in expected.items():
            assert torch.equal(tensor, found[name]), (micro_batch, name)


def test_masks_change_from_pass_to_pass(tmp_path: Path, roberta_dir: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    write_jsonl(tmp_path / "train.jsonl", make_texts(1))
    write_jsonl(tmp_path / "eval.jsonl", make_texts(1))
    recipe = make_recipe(tmp_path, roberta_dir, layout="document", micro_batch=1, sequences_per_step=1)
    Path(recipe.output_dir).mkdir()
    stream = batches(recipe, tokenizer, 0, 1)
    seen = {tuple((next(stream)["labels"][0] != -100).tolist()) for _ in range(10)}
    assert len(seen) == 10


def test_processes_must_divide_a_step(tmp_path: Path, roberta_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import TrainingArguments

    monkeypatch.setattr(TrainingArguments, "world_size", property(lambda self: 3))
    with pytest.raises(
        ValueError, match="sequences_per_step is 8, which is no multiple of micro_batch 2 times 3 processes"
    ):
        pretrain(make_recipe(tmp_path, roberta_dir))


def test_random_weights_and_checkpointing_and_bf16_train(tmp_path: Path, roberta_dir: Path) -> None:
    result = pretrain(
        make_recipe(tmp_path, roberta_dir, init="random", gradient_checkpointing=True, precision="bf16", steps=4)
    )
    assert math.isfinite(result.log[-1]["eval_loss"])
    assert load_masked_lm(result.model_dir).dtype == torch.float32
    with pytest.raises(ValueError, match="precision is 'fp16', which needs a GPU"):
        pretrain(make_recipe(tmp_path, roberta_dir, precision="fp16"))


def test_gradient_checkpointing_changes_nothing(tmp_path: Path, roberta_dir: Path) -> None:
    plain = pretrain(make_recipe(tmp_path, roberta_dir, steps=3))
    saved = pretrain(
        make_recipe(tmp_path, roberta_dir, steps=3, gradient_checkpointing=True, output_dir=str(tmp_path / "saved"))
    )
    assert [entry.get("loss") for entry in saved.log] == pytest.approx([entry.get("loss") for entry in plain.log])


def test_a_text_of_one_token_trains(tmp_path: Path, roberta_dir: Path) -> None:
    for name in ("train.jsonl", "eval.jsonl"):
        write_jsonl(tmp_path / name, ["a"])
    for layout in ("packed", "document"):
        fields: dict[str, Any] = {"layout": layout, "steps": 3, "warmup_steps": 0, "sequences_per_step": 2}
        fields |= {"output_dir": str(tmp_path / layout), "mlm_probability": 0.01, "log_every": 1}
        result = pretrain(make_recipe(tmp_path, roberta_dir, **fields, eval=(), eval_every=None))
        assert (result.steps, len(result.log)) == (3, 3)
        assert all(math.isfinite(entry["loss"]) for entry in result.log)
        assert result.model_dir.is_dir()
        with pytest.raises(ValueError, match="the text to evaluate on is so short that none of its tokens is masked"):
            pretrain(make_recipe(tmp_path, roberta_dir, **{**fields, "output_dir": str(tmp_path / "scored")}))


def test_empty_held_out_text_is_told_as_what_it_is(tmp_path: Path, roberta_dir: Path) -> None:
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ValueError, match=r"empty\.txt: there is no text to evaluate on; name other text"):
        pretrain(make_recipe(tmp_path, roberta_dir, eval=(str(tmp_path / "empty.txt"),)))


def test_sequences_of_separators_alone_are_refused(tmp_path: Path, roberta_dir: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", ["a"])
    fields: dict[str, Any] = {"sequence_length": 3, "sequences_per_step": 1, "micro_batch": 1, "log_every": 1}
    with pytest.raises(
        ValueError, match=r"nothing can be learnt from the last steps .* has a loss; raise sequence_length"
    ):
        pretrain(make_recipe(tmp_path, roberta_dir, eval=(), eval_every=None, **fields))


def test_a_loss_that_explodes_stops_the_run(tmp_path: Path, roberta_dir: Path) -> None:
    model = load_masked_lm(roberta_dir)
    with torch.no_grad():
        model.lm_head.bias.fill_(float("inf"))
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 3; .*lower learning_rate"):
        pretrain(make_recipe(tmp_path, roberta_dir), model=model)


def test_the_first_evaluation_documents_are_used(tmp_path: Path, roberta_dir: Path) -> None:
    recipe = make_recipe(
        tmp_path, roberta_dir, steps=1, warmup_steps=0, eval_documents=2, min_length=20, eval_every=None
    )
    metrics = pretrain(recipe).metrics
    assert metrics is not None
    assert metrics.documents == 2
    with pytest.raises(ValueError, match="no evaluation document has min_length 900 words"):
        pretrain(make_recipe(tmp_path, roberta_dir, min_length=900, output_dir=str(tmp_path / "none")))


def test_held_out_text_of_the_hub_is_kept(tmp_path: Path, roberta_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import Dataset

    asked: list[tuple[Any, ...]] = []

    def load(name: str, config: str | None, *, split: str, streaming: bool) -> Any:
        asked.append((name, config, split, streaming))
        return Dataset.from_dict({"text": make_texts(20, seed=2), "url": ["x"] * 20}).to_iterable_dataset()

    monkeypatch.setattr("datasets.load_dataset", load)
    recipe = make_recipe(
        tmp_path, roberta_dir, train=("hub:some/text:en",), eval=("hub:some/text:en",), eval_documents=5, steps=4
    )
    metrics = pretrain(recipe).metrics
    assert metrics is not None
    assert metrics.documents == 5
    assert asked == [("some/text", "en", "validation", True), ("some/text", "en", "train", True)]


def test_a_full_disk_while_saving_keeps_the_run(
    tmp_path: Path, roberta_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from longspan.training.trainer import MaskedLMTrainer

    def full(self: Any, output_dir: str) -> None:
        if self.state.global_step == 10:
            raise OSError(28, "No space left on device")
        whole(self, output_dir)

    whole = MaskedLMTrainer._save_optimizer_and_scheduler
    recipe = make_recipe(tmp_path, roberta_dir)
    reference = pretrain(make_recipe(tmp_path, roberta_dir, output_dir=str(tmp_path / "reference")))
    with monkeypatch.context() as patch:
        patch.setattr(MaskedLMTrainer, "_save_optimizer_and_scheduler", full)
        with pytest.raises(
            OSError, match=r"the checkpoint of step 10 could not be written to .*No space left on device"
        ):
            pretrain(recipe)
    folder = RunFolder(recipe.output_dir)
    assert [path.name for path in folder.checkpoints_dir.iterdir()] == ["checkpoint-5"]
    assert numbers(pretrain(recipe).log) == numbers(reference.log)


def test_a_disk_that_fills_up_is_a_sentence(tmp_path: Path, roberta_dir: Path) -> None:
    """The files' own writers (safetensors, torch.save) meet the limit, each with an error of its own."""
    for limit, file in ((20_000, "model.safetensors"), (60_000, "optimizer.pt")):

        class Fill(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if state.global_step == 5:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))  # noqa: B023

        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        recipe = make_recipe(tmp_path, roberta_dir, output_dir=str(tmp_path / file), eval=(), eval_every=None)
        try:
            with pytest.raises(OSError, match=r"the checkpoint of step 5 could not be written to .*: make room, then"):
                pretrain(recipe, callbacks=[Fill()])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert not list(RunFolder(recipe.output_dir).checkpoints_dir.iterdir())


def test_text_faults_come_before_training(tmp_path: Path, roberta_dir: Path) -> None:
    make_recipe(tmp_path, roberta_dir)
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"bad\.txt line 1 is not UTF-8 text: byte 0xe9 at offset 3"):
        pretrain(make_recipe(tmp_path, roberta_dir, train=(str(tmp_path / "bad.txt"),)))
    with pytest.raises(ValueError, match="longspan convert"):
        pretrain(make_recipe(tmp_path, roberta_dir, sequence_length=128, output_dir=str(tmp_path / "long")))


def test_the_limit_of_evaluation_documents_holds_for_hub_and_files_together(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_hub = [Document(f"of the hub {number}", "") for number in range(2)]
    monkeypatch.setattr("longspan.training.run_texts.stream_documents", lambda *_, **__: iter(of_hub))
    file = write_jsonl(tmp_path / "local.jsonl", ["local 0", "local 1", "local 2"])
    recipe = PretrainRecipe(
        model="m", train=("hub:a",), eval=("hub:a", str(file)), output_dir=str(tmp_path), sequence_length=16, steps=1,
        eval_documents=3,
    )  # fmt: skip
    layout = SequenceLayout.for_tokenizer(tokenizer, 16)
    texts = RunTexts(recipe, RunFolder(tmp_path), tokenizer, layout, progress=False)
    texts.prepare_eval()
    assert [document.text for document in texts.eval_documents()] == ["of the hub 0", "of the hub 1", "local 0"]
