"""Trainings for several seeds in one folder: begun or resumed, each seed's metrics, their mean and spread."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from transformers import TrainingArguments

from longspan.data.atomic import atomic_text
from longspan.data.json_text import numbers_of
from longspan.data.progress import no_transformers_bars
from longspan.tasks.label_scores import mean_and_spread
from longspan.training.finetuning.inputs import check_inputs
from longspan.training.finetuning.metrics import SMALLER_IS_BETTER
from longspan.training.run_folder import RunFolder, Settings, check_same

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SeedResult:
    """One seed's model."""

    seed: int
    """The seed."""
    model_dir: Path
    """Its folder, with tokenizer and task."""
    eval: dict[str, float]
    """Metrics on the development examples, of the checkpoint they chose."""
    test: dict[str, float] | None
    """Metrics on the test examples, if there are any."""
    epoch: float
    """After how many epochs that checkpoint was taken."""
    seconds: float | None
    """Time of the training, evaluations included; None if it was interrupted."""


@dataclass(frozen=True, kw_only=True)
class SeedResults:
    """A finished training for each seed."""

    metric: str
    """The metric that chose the checkpoints."""
    seeds: tuple[SeedResult, ...]
    """In the order of the recipe."""

    @property
    def best(self) -> SeedResult:
        """The seed that does best on the development examples."""
        sign = -1 if self.metric in SMALLER_IS_BETTER else 1
        return max(self.seeds, key=lambda run: sign * run.eval[self.metric])

    def mean_and_spread(self, split: str = "eval") -> dict[str, tuple[float, float]]:
        """Of each metric its mean over the seeds and their standard deviation (n - 1; 0 for one seed).

        Args:
            split: ``"eval"`` or ``"test"``.
        """
        rows: list[dict[str, float]] = [values for run in self.seeds if (values := getattr(run, split)) is not None]
        return {name: mean_and_spread([row[name] for row in rows]) for name in (rows[0] if rows else ())}

    @property
    def table(self) -> str:
        """Metrics of each seed, mean and spread, in Markdown."""
        splits = [split for split in ("eval", "test") if self.mean_and_spread(split)]
        names = [(split, name) for split in splits for name in self.mean_and_spread(split)]
        lines = [
            "| seed | " + " | ".join(f"{split} {name}" for split, name in names) + " |",
            "|---:|" + "---:|" * len(names),
        ]
        for run in self.seeds:
            lines.append(f"| {run.seed} | " + " | ".join(f"{getattr(run, s)[name]:.4f}" for s, name in names) + " |")
        spreads = [self.mean_and_spread(split)[name] for split, name in names]
        if len(self.seeds) > 1:
            lines.append("| mean ± sd | " + " | ".join(f"{mean:.4f} ± {sd:.4f}" for mean, sd in spreads) + " |")
        return "\n".join(lines) + "\n"


def train_seeds(
    folder: Path,
    plan: Settings,
    seeds: Sequence[int],
    train: Callable[[int, Path], None],
    arguments: TrainingArguments,
    resume: bool,
    digests: Mapping[str, str],
) -> tuple[SeedResult, ...]:
    """Train for each seed that isn't finished, alone in the folder.

    Args:
        folder: of all seeds; ``recipe.yaml`` in it tells what was begun.
        plan: goes there.
        seeds: which.
        train: called with a seed and its folder; leaves ``result.json`` there at the end.
        arguments: say which process this is.
        resume: False refuses to go on with what the folder holds.
        digests: of the model and the data, see :mod:`longspan.training.finetuning.inputs`.

    Raises:
        ValueError: the folder was begun with another plan or other data, or holds another training.
        FileExistsError: it holds results and ``resume`` is False, or another process works in it.
        KeyboardInterrupt: Ctrl-C; its message says how to go on.
    """
    main = arguments.process_index == 0
    with RunFolder(folder).alone() if main else nullcontext():
        if main:
            check_inputs(folder, digests, _begin(folder, plan, resume))
        runs = []
        for seed in seeds:
            place = folder / f"seed-{seed}"
            if (place / "result.json").is_file():
                logger.info("Seed %d in %s is finished; nothing is left to do.", seed, place)
            else:
                try:
                    with no_transformers_bars():
                        train(seed, place)
                except KeyboardInterrupt as interrupt:
                    raise KeyboardInterrupt(
                        f"Stopped. {folder} holds what is done: run the same command again to go on from there."
                    ) from interrupt
            if arguments.world_size > 1:
                torch.distributed.barrier()
            values = json.loads((place / "result.json").read_text(encoding="utf-8"))
            values |= {name: numbers_of(values[name]) for name in ("eval", "test") if values[name]}
            runs.append(SeedResult(seed=seed, model_dir=place / "model", **values))
    return tuple(runs)


def _begin(folder: Path, plan: Settings, resume: bool) -> bool:
    """Write the plan, or see that it is the one that the folder was begun with; whether it was begun."""
    file = folder / "recipe.yaml"
    foreign = next((name for name in ("checkpoints", "model", "result.json") if (folder / name).exists()), None)
    if foreign is not None:
        raise ValueError(f"output_dir {folder} holds {foreign} of another training; choose another output_dir")
    begun = any(folder.glob("seed-*/checkpoints/checkpoint-*")) or any(folder.glob("seed-*/result.json"))
    if begun and not resume:
        raise FileExistsError(
            f"output_dir {folder} already holds a run; resume it, choose another output_dir or delete it"
        )
    if begun and not file.is_file():
        raise ValueError(f"output_dir {folder} holds seeds but no recipe.yaml; choose another output_dir")
    text = yaml.safe_dump(plan.to_dict(), sort_keys=False, allow_unicode=True)
    if begun:
        check_same(folder, file, plan)
    atomic_text(file, text, "the recipe")
    return begun
