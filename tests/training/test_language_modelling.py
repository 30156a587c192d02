"""Training character language models in stages: what is learnt, what survives a kill, and what is refused."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from runs import environment, numbers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import Trainer, TrainerCallback, pipeline

from longspan import register
from longspan.data.characters import Alphabet
from longspan.models import LongformerForCausalLM
from longspan.training.language_modelling import LanguageModelResult, train_language_model
from longspan.training.language_modelling.recipe import LanguageModelRecipe, Stage
from longspan.training.language_modelling.text import generate_text, load_language_model
from longspan.training.language_modelling.trainer import LanguageModelTrainer

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "attention_window": [4, 8],
    "attention_dilation": [[1, 1], [2, 1]],
    "hidden_dropout_prob": 0.1,
}
STAGES = (
    Stage(sequence_length=32, steps=8, learning_rate=3e-3, sequences_per_step=4, micro_batch=2),
    Stage(sequence_length=64, steps=5, learning_rate=1e-3, sequences_per_step=2, window_scale=2, warmup_steps=2),
)

# Forked after the imports and before any work; kills itself without warning after an optimizer step of a stage.
DRIVER = """
import json, os, signal, sys
from transformers import TrainerCallback
from longspan.training.language_modelling import train_language_model
from longspan.training.language_modelling.recipe import load_language_model_recipe

class Kill(TrainerCallback):
    def __init__(self, stage, step):
        self.stage, self.step = stage, step
    def on_step_end(self, args, state, control, **kwargs):
        if args.output_dir.endswith(f"stage-{self.stage}") and state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)

file, kills = json.loads(sys.argv[1])
for stage, step in kills:
    child = os.fork()
    if not child:
        train_language_model(load_language_model_recipe(file), callbacks=[Kill(stage, step)], progress=False)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def make_recipe(folder: Path, **fields: Any) -> LanguageModelRecipe:
    file = folder / "text.txt"
    if not file.exists():
        file.write_text("".join(f"the court of {n % 7} held that clause {n % 5} is void.\n" for n in range(400)))
    defaults: dict[str, Any] = {
        "text": (str(file),),
        "output_dir": str(folder / "run"),
        "model": TINY,
        "stages": STAGES,
        "log_every": 2,
        "eval_every": 4,
        "eval_characters": 300,
        "save_every": 3,
        "seed": 1,
    }
    return LanguageModelRecipe(**{**defaults, **fields})


def lines(result: LanguageModelResult) -> list[dict[str, Any]]:
    """The log without times and memory."""
    return [{key: value for key, value in entry.items() if "memory" not in key} for entry in numbers(result.log)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[LanguageModelRecipe, LanguageModelResult]:
    recipe = make_recipe(tmp_path_factory.mktemp("trained"))
    return recipe, train_language_model(recipe, progress=False)


def test_a_training_learns_stage_by_stage(trained: tuple[LanguageModelRecipe, LanguageModelResult]) -> None:
    result = trained[1]
    first, last = result.log[0], result.log[-1]
    assert first["bits_per_character"] == pytest.approx(8, abs=0.6)
    assert result.metrics.bits_per_character < first["bits_per_character"] - 1
    assert last["eval_bits_per_character"] == result.metrics.bits_per_character
    assert (result.steps, result.characters) == (13, 8 * 4 * 32 + 5 * 2 * 64)
    evaluated = [(entry["stage"], entry["step"]) for entry in result.log if "eval_loss" in entry]
    assert evaluated == [(1, 4), (1, 8), (2, 4), (2, 5)]
    rates = [entry["learning_rate"] for entry in result.log if "loss" in entry]
    assert rates == pytest.approx([3e-3] * 4 + [5e-4, 1e-3, 1e-3])  # the second stage warms up for two steps
    assert all(0 < entry["grad_norm"] < math.inf for entry in result.log if "loss" in entry)
    model = LongformerForCausalLM.from_pretrained(result.model_dir)
    assert model.config.attention_window == [8, 16]
    assert len(Alphabet.load(result.model_dir)) == model.config.vocab_size == 256
    assert result.table.count("\n") == 2 + 4


def test_each_stage_is_logged_for_tensorboard(trained: tuple[LanguageModelRecipe, LanguageModelResult]) -> None:
    recipe, result = trained
    for number in (1, 2):
        events = EventAccumulator(str(Path(recipe.output_dir) / f"stage-{number}" / "tensorboard"))
        events.Reload()
        for name, tag in (
            ("bits_per_character", "train/bits_per_character"),
            ("characters_per_second", "train/characters_per_second"),
            ("memory_gib", "train/memory_gib"),
            ("eval_bits_per_character", "eval/bits_per_character"),
        ):
            written = [(event.step, event.value) for event in events.Scalars(tag)]
            logged = [(line["step"], line[name]) for line in result.log if line["stage"] == number and name in line]
            assert [step for step, _ in written] == [step for step, _ in logged]
            assert [value for _, value in written] == pytest.approx([value for _, value in logged], rel=1e-6)


def test_the_bar_shows_bits_throughput_and_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = train_language_model(make_recipe(tmp_path, stages=STAGES[:1]))
    shown = capsys.readouterr().err
    last = [line for line in result.log if "loss" in line][-1]
    assert (
        f"{last['bits_per_character']:.3f} bits/character, {last['characters_per_second']:,.0f} characters/s" in shown
    )
    assert f"{last['memory_gib']:.1f} GiB" in shown
    assert f"step 8: {result.metrics.bits_per_character:.4f} bits/character on 300 held-out characters" in shown


def test_transformers_loads_it_once_registered(trained: tuple[LanguageModelRecipe, LanguageModelResult]) -> None:
    register()
    try:
        write = pipeline("text-generation", model=str(trained[1].model_dir), device="cpu")
        written = write("the court", max_new_tokens=12, do_sample=False)[0]["generated_text"]
    finally:
        register(False)
    language_model = load_language_model(trained[1].model_dir)
    assert written == "the court" + generate_text(language_model, "the court", characters=12, temperature=0)


@pytest.mark.parametrize("found", ["result.json", "model", "checkpoints", "seed-3"])
def test_trainings_of_another_kind_are_left_alone(found: str, tmp_path: Path, trained: tuple[Any, Any]) -> None:
    (tmp_path / found).mkdir()
    recipe = replace(trained[0], output_dir=str(tmp_path))
    with pytest.raises(ValueError, match=f"holds {found} of another kind of training, which would be overwritten"):
        train_language_model(recipe, progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([found, ".lock"])


def test_a_finished_training_is_only_read(trained: tuple[LanguageModelRecipe, LanguageModelResult]) -> None:
    recipe, result = trained
    weights = (result.model_dir / "model.safetensors").stat()
    text = Path(recipe.text[0])
    hidden = text.rename(text.with_suffix(".hidden"))
    assert train_language_model(recipe, progress=False) == result
    hidden.rename(text)
    assert (result.model_dir / "model.safetensors").stat() == weights
    with pytest.raises(FileExistsError, match="already holds a training; resume it"):
        train_language_model(recipe, resume=False, progress=False)
    at_once = replace(
        recipe, stages=tuple(replace(stage, micro_batch=stage.sequences_per_step) for stage in recipe.stages)
    )
    assert train_language_model(at_once, progress=False) == result  # no other numbers come of it
    with pytest.raises(ValueError, match=r"stage-1 was begun with seed = 1, and now seed is 2; put it back"):
        train_language_model(replace(recipe, seed=2), progress=False)


def test_a_killed_training_goes_on_to_the_same_losses(
    trained: tuple[LanguageModelRecipe, LanguageModelResult], tmp_path: Path
) -> None:
    recipe, whole = trained
    killed = replace(recipe, output_dir=str(tmp_path / "run"))
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(killed.to_dict()))  # JSON is YAML
    kills = [(1, 2), (1, 7), (2, 4)]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps([str(file), kills])],
        # Sums are added up in the order of the threads: losses equal to the last bit take as many as this process has.
        env=environment(torch.get_num_threads()),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.stdout.split() == ["-9"] * len(kills), done.stderr
    resumed = train_language_model(killed, progress=False)
    assert lines(resumed) == lines(whole)
    weights = [(result.model_dir / "model.safetensors").read_bytes() for result in (resumed, whole)]
    assert weights[0] == weights[1]


LAUNCHED = """
import sys
from longspan.training.language_modelling import train_language_model
from longspan.training.language_modelling.recipe import load_language_model_recipe
train_language_model(load_language_model_recipe(sys.argv[1]), progress=False)
"""


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(
    trained: tuple[LanguageModelRecipe, LanguageModelResult], tmp_path: Path
) -> None:
    recipe = replace(trained[0], output_dir=str(tmp_path / "alone"), model={**TINY, "hidden_dropout_prob": 0.0})
    recipe = replace(recipe, stages=tuple(replace(stage, micro_batch=1) for stage in STAGES))
    alone = train_language_model(recipe, progress=False)
    pair = replace(recipe, output_dir=str(tmp_path / "pair"))
    file, program = tmp_path / "recipe.json", tmp_path / "launched.py"
    file.write_text(json.dumps(pair.to_dict()))
    program.write_text(LAUNCHED)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program), str(file)]
    done = subprocess.run(
        [sys.executable, *launch], env=environment(), capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    together = train_language_model(pair, progress=False)  # only read
    for two, one in zip(lines(together), lines(alone), strict=True):
        assert two == pytest.approx(one, rel=1e-5, nan_ok=True)


def test_one_of_several_processes_writes_the_alphabet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "_save", lambda *_: None)
    trainer = LanguageModelTrainer.__new__(LanguageModelTrainer)
    trainer.alphabet = Alphabet()
    for writes in (False, True):
        trainer.args = SimpleNamespace(should_save=writes)
        folder = tmp_path / str(writes)
        folder.mkdir()
        trainer._save(str(folder))
        assert any(folder.iterdir()) is writes


def test_accumulation_gives_the_gradients_of_the_whole_step(
    trained: tuple[LanguageModelRecipe, LanguageModelResult], tmp_path: Path
) -> None:
    def losses(micro_batch: int) -> list[float]:
        stages = tuple(replace(stage, micro_batch=micro_batch) for stage in STAGES)
        model = {**TINY, "hidden_dropout_prob": 0.0}
        recipe = make_recipe(tmp_path, output_dir=str(tmp_path / str(micro_batch)), stages=stages, model=model)
        return [entry["loss"] for entry in train_language_model(recipe, progress=False).log if "loss" in entry]

    assert losses(1) == pytest.approx(losses(2), rel=1e-5)


def test_other_encodings_precision_and_held_out_files(tmp_path: Path) -> None:
    held_out = tmp_path / "held_out.txt"
    held_out.write_text("the court held that the clause is void.\n" * 10)
    recipe = make_recipe(
        tmp_path,
        unit="characters",
        eval=(str(held_out),),
        model={**TINY, "position_encoding": "rotary", "tie_word_embeddings": False},
        precision="bf16",
        gradient_checkpointing=True,
        stages=STAGES[:1],
    )
    result = train_language_model(recipe, progress=False)
    assert result.metrics.characters == 300
    alphabet = Alphabet.load(result.model_dir)
    assert alphabet.characters == "".join(sorted(set(Path(recipe.text[0]).read_text())))
    assert result.metrics.bits_per_character < math.log2(len(alphabet))


class _Interrupt(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 5:
            raise KeyboardInterrupt


def test_ctrl_c_says_how_to_go_on_and_other_text_is_refused(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path)
    with pytest.raises(
        KeyboardInterrupt, match="Stopped in stage 1 of 2: run the same command again to go on from step 3"
    ):
        train_language_model(recipe, callbacks=[_Interrupt()], progress=False)
    Path(recipe.text[0]).write_text("something else entirely.\n" * 200)
    with pytest.raises(ValueError, match="the text to train on has changed since the run was begun"):
        train_language_model(recipe, progress=False)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"stages": [{"sequence_length": 32, "steps": 1}]}, "stage 1: learning_rate must be given"),
        ({"stages": [{"sequence_length": 32, "steps": 1, "learning_rate": 0}]}, r"stage 1: learning_rate is 0\.0"),
        (
            {"stages": [{"sequence_length": 32, "steps": 1, "learing_rate": 1}]},
            "stage 1: there is no field 'learing_rate'; did you mean 'learning_rate'",
        ),
        ({"stages": []}, "stages is .*; it must be a list of at least one stage"),
        ({"model": {"hiden_size": 3}}, r"model: hiden_size is no field of the model; did you mean 'hidden_size'"),
        ({"model": {"vocab_size": 3}}, "model: vocab_size is the number of the text's symbols"),
        ({"model": {"attention_window": 0}}, "attention_window must be >= 1, got 0"),
        (
            {"stages": [{"sequence_length": 32, "steps": 1, "learning_rate": 1, "window_scale": 10**9}]},
            r"stage 1: window_scale is 1,000,000,000, so the widest window has 8,000,000,000 keys, more than",
        ),
        (
            {"stages": [STAGES[0], {"sequence_length": 32, "steps": 1, "learning_rate": 1, "window_scale": 5}]},
            r"stage 2: window_scale is 5, so the widest window has 40 keys, .* of 32, and is never filled; lower",
        ),
        ({"text": ()}, "text is empty"),
        ({"log_every": 0}, "log_every is 0; it must be at least 1"),
        ({"size": "huge"}, "size is 'huge'; it must be one of"),
        ({"precision": "fp16"}, "precision is 'fp16', which needs a GPU"),
        ({"text": ("nowhere.txt",)}, "there is no file or folder nowhere.txt"),
    ],
    ids=str,
)
def test_refusals_are_sentences(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    if torch.cuda.is_available() and fields.get("precision") == "fp16":
        pytest.skip("there is a GPU")
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=words):
        train_language_model(make_recipe(tmp_path, **fields), progress=False)


def test_a_text_too_short_for_a_sequence_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("short text, but not empty at all")
    with pytest.raises(ValueError, match="has 32 symbols, of which a twentieth is too little"):
        train_language_model(make_recipe(tmp_path), progress=False)
    (tmp_path / "text.txt").write_text("short " * 10)
    with pytest.raises(ValueError, match="too few for one sequence of sequence_length 64"):
        train_language_model(make_recipe(tmp_path, stages=STAGES[1:]), progress=False)
