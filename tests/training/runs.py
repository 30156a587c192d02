"""Small pretraining runs, in this process and in processes that are killed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from tiny_text import make_texts, write_jsonl

from longspan.training import PretrainRecipe

# Runs each recipe in a child that kills itself without warning: after an optimizer step, or in the middle of writing a
# checkpoint. Forked after the imports and before any work, so that the imports are paid once.
DRIVER = """
import json, os, signal, sys
from transformers import TrainerCallback
from longspan.training import load_recipe, pretrain
from longspan.training.trainer import MaskedLMTrainer

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

class AtStep(TrainerCallback):
    def __init__(self, step):
        self.step = step
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            kill()

def run(file, moment, step):
    whole = MaskedLMTrainer._save_optimizer_and_scheduler
    def torn(self, output_dir):
        if self.state.global_step == step:
            with open(os.path.join(output_dir, "optimizer.pt"), "wb") as stream:
                stream.write(b"half")
                stream.flush()
                kill()
        return whole(self, output_dir)
    if moment == "checkpoint":
        MaskedLMTrainer._save_optimizer_and_scheduler = torn
    pretrain(load_recipe(file), callbacks=[AtStep(step)] if moment == "step" else [], progress=False)

for file, moment, step in json.loads(sys.argv[1]):
    child = os.fork()
    if not child:
        run(file, moment, step)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def make_recipe(folder: Path, model: Path, **fields: Any) -> PretrainRecipe:
    """A recipe of 12 steps on a dozen texts."""
    folder.mkdir(exist_ok=True)
    train, held_out = folder / "train.jsonl", folder / "eval.jsonl"
    if not train.exists():
        write_jsonl(train, make_texts(30))
        write_jsonl(held_out, make_texts(6, seed=1))
    defaults: dict[str, Any] = {
        "model": str(model),
        "train": (str(train),),
        "eval": (str(held_out),),
        "output_dir": str(folder / "run"),
        "sequence_length": 32,
        "sequences_per_step": 8,
        "micro_batch": 2,
        "steps": 12,
        "learning_rate": 1e-3,
        "warmup_steps": 2,
        "log_every": 3,
        "eval_every": 6,
        "save_every": 5,
    }
    return PretrainRecipe(**{**defaults, **fields})


def environment(threads: int = 1) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


def write_recipe(recipe: PretrainRecipe, file: Path) -> Path:
    file.write_text(yaml.safe_dump(recipe.to_dict()), encoding="utf-8")
    return file


def run_and_kill(runs: list[tuple[PretrainRecipe, str, int]]) -> None:
    """Run each recipe in another process, which is killed at its moment."""
    work = [
        (str(write_recipe(recipe, Path(recipe.output_dir).with_suffix(".yaml"))), moment, step)
        for recipe, moment, step in runs
    ]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(work)],
        # Sums are added up in the order of the threads: losses equal to the last bit take as many as this process has.
        env=environment(torch.get_num_threads()),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.stdout.split() == ["-9"] * len(runs), done.stderr


def numbers(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The log without times."""
    return [{key: value for key, value in entry.items() if "second" not in key} for entry in log]
