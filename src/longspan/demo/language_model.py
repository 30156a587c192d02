"""``run_language_model_demo``: a character language model learns Python in growing windows."""

import zlib
from dataclasses import dataclass
from pathlib import Path

from longspan.data.atomic import atomic_text
from longspan.demo.corpus import read_standard_library, split_files, write_corpus
from longspan.demo.language_model_budget import LanguageModelBudget
from longspan.demo.language_model_speed import time_writing
from longspan.demo.language_model_story import table_of_stages, write_language_model_report
from longspan.demo.stages import Result, Stages, demo_settings
from longspan.training.language_modelling import train_language_model
from longspan.training.language_modelling.recipe import LanguageModelRecipe
from longspan.training.language_modelling.text import generate_text, load_language_model


@dataclass(frozen=True, kw_only=True)
class LanguageModelDemoResult:
    """What a finished demo leaves."""

    report: Path
    """``report.html``, one self-contained file."""
    table: str
    """Bits per character after each stage, as text."""
    sample: str
    """What the trained model writes, the prompt included."""
    seconds: float
    """Wall-clock time of all stages."""


def run_language_model_demo(
    output_dir: str | Path,
    seed: int = 0,
    *,
    budget: LanguageModelBudget | None = None,
    source: str | Path | None = None,
) -> LanguageModelDemoResult:
    """Train a character language model on the standard library's sources in stages, have it write, and report.

    The schedule has the form of Beltagy et al. 2020, section 4.2: every stage doubles windows and length. What is
    finished is remembered in the folder: a demo that was stopped, however hard, goes on where it was when it is called
    again, and one that is finished only writes its report again.

    Args:
        output_dir: folder of everything the demo makes; ``report.html`` in it tells the story.
        seed: of the weights, the order of the text and the samples; which files are held out is up to their names.
        budget: sizes; None: the defaults.
        source: a folder of ``.py`` files to use instead of the standard library.

    Returns:
        The report, its main table and a sample.

    Raises:
        ValueError: the folder holds a run of another seed or budget, or other files; or there is too little text.
        FileExistsError: another process is at work in the folder.
        FileNotFoundError: there is no text.
        KeyboardInterrupt: Ctrl-C; the message says how to go on.
    """
    budget = LanguageModelBudget() if budget is None else budget
    folder = Path(output_dir)
    with Stages.opened(folder, demo_settings(seed, source, budget.to_dict())) as stages:
        return _Demo(folder, seed, budget, None if source is None else Path(source), stages).run()


class _Demo:
    """One run; each method is a stage."""

    def __init__(
        self, folder: Path, seed: int, budget: LanguageModelBudget, source: Path | None, stages: Stages
    ) -> None:
        self.folder, self.seed, self.budget, self.source, self.stages = folder, seed, budget, source, stages
        self.text, self.training = folder / "text", folder / "training"

    def run(self) -> LanguageModelDemoResult:
        """All stages in order."""
        results: dict[str, Result] = {
            "text": self.stages.run("text", self._gather_text),
            "train": self.stages.run("train", self._train),
            "samples": self.stages.run("samples", self._write_samples),
            "speed": self.stages.run("speed", self._time_writing),
        }
        seconds = self.stages.seconds()
        report = write_language_model_report(
            self.folder / "report.html", budget=self.budget, seed=self.seed, results=results, seconds=seconds
        )
        return LanguageModelDemoResult(
            report=report,
            table=table_of_stages(results, self.budget).to_text(),
            sample=self.budget.prompt + results["samples"]["texts"][-1],
            seconds=sum(seconds.values()),
        )

    def _gather_text(self) -> Result:
        budget = self.budget
        files = read_standard_library(self.source, budget.max_characters)
        corpus = split_files(
            [file for file in files if file.name.endswith(".py")],
            held_out_files=budget.held_out_files,
            long_characters=budget.long_characters,
            excerpt_characters=budget.excerpt_characters,
        )
        write_corpus(corpus, self.text)
        texts = {"train": corpus.train, "held_out": corpus.held_out}
        joined = {name: "\n".join(file.text for file in files) for name, files in texts.items()}
        for name, text in joined.items():
            atomic_text(self.folder / f"{name}.txt", text, "the demo's text")
        held_out = joined["held_out"].encode()
        longest = max(budget.short_context, budget.long_context)
        if len(joined["train"].encode()) < longest:
            raise ValueError(f"the text to train on is shorter than the context of {longest:,} characters; give more")
        return {**corpus.to_dict(), "gzip_bits_per_character": 8 * len(zlib.compress(held_out, 9)) / len(held_out)}

    def _train(self) -> Result:
        budget = self.budget
        result = train_language_model(
            LanguageModelRecipe(
                text=(str(self.folder / "train.txt"),),
                eval=(str(self.folder / "held_out.txt"),),
                unit="bytes",
                output_dir=str(self.training),
                model={
                    "hidden_size": budget.hidden_size,
                    "num_hidden_layers": budget.layers,
                    "num_attention_heads": budget.heads,
                    "intermediate_size": budget.intermediate_size,
                    "attention_window": list(budget.attention_window),
                    "position_encoding": "relative",  # learns faster by the step than rotary: docs/log.md
                    "hidden_dropout_prob": 0.0,  # no text is read twice in so few steps
                    "initializer_range": budget.initializer_range,
                },
                stages=budget.stages,
                max_grad_norm=1.0,
                seed=self.seed,
                log_every=max(1, sum(stage.steps for stage in budget.stages) // 60),
                eval_every=budget.evaluate_every,
                save_every=max(1, budget.evaluate_every // 2),
                keep_checkpoints=1,
            )
        )
        return {
            "log": result.log,
            "characters": result.characters,
            "seconds": result.seconds,
            "parameters": load_language_model(result.model_dir).model.num_parameters(),
        }

    def _write_samples(self) -> Result:
        """What the model writes after each stage, from the same prompt and the same draws."""
        budget = self.budget
        texts = [
            generate_text(
                load_language_model(self.training / f"stage-{number}" / "model"),
                budget.prompt,
                characters=budget.sample_characters,
                temperature=budget.temperature,
                seed=self.seed,
            )
            for number in range(1, len(budget.stages) + 1)
        ]
        return {"texts": texts}

    def _time_writing(self) -> Result:
        budget = self.budget
        return time_writing(
            load_language_model(self.training / "model"),
            (self.folder / "train.txt").read_text(encoding="utf-8"),
            contexts=(budget.short_context, budget.long_context),
            characters=budget.timed_characters,
            rounds=budget.rounds,
        )
