"""``run_demo``: the story of the Longformer paper at small size, on text that every Python machine has."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from longspan.convert import convert_directory, lengthen
from longspan.convert.checkpoint import Positions
from longspan.data.atomic import atomic_directory
from longspan.data.corpus import TokenCorpus
from longspan.demo.budget import DemoBudget
from longspan.demo.corpus import read_files, read_standard_library, split_files, write_corpus
from longspan.demo.cost import measure_cost
from longspan.demo.examples import choose_examples, fill_example
from longspan.demo.lookups import by_distance, guess, mask_sequences
from longspan.demo.small_roberta import new_roberta
from longspan.demo.stages import Result, Stages, demo_settings
from longspan.demo.story import table_of_rows, write_report
from longspan.demo.tokenizer import train_tokenizer
from longspan.training import PretrainRecipe, evaluate_masked_lm, load_masked_lm, load_tokenizer, pretrain

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What a finished demo leaves."""

    report: Path
    """``report.html``, one self-contained file."""
    table: str
    """Bits per character of every model, as text."""
    seconds: float
    """Wall-clock time of all stages."""


def run_demo(
    output_dir: str | Path,
    seed: int = 0,
    *,
    budget: DemoBudget | None = None,
    source: str | Path | None = None,
) -> DemoResult:
    """Pretrain a small RoBERTa on the standard library's text, lengthen it, train it on, compare, and report.

    What is finished is remembered in the folder: a demo that was stopped, however hard, goes on where it was when it
    is called again, and one that is finished only writes its report again.

    Args:
        output_dir: folder of everything the demo makes; ``report.html`` in it tells the story.
        seed: of the weights, the order of the text and the masks; which files are held out is up to their names alone.
        budget: sizes; None: the defaults.
        source: a folder of ``.py`` and ``.txt`` files to use instead of the standard library.

    Returns:
        The report and its main table.

    Raises:
        ValueError: the folder holds a run of another seed or budget, or other files; or there is too little text.
        FileExistsError: another process is at work in the folder.
        FileNotFoundError: there is no text.
        KeyboardInterrupt: Ctrl-C; the message says how to go on.
    """
    budget = DemoBudget() if budget is None else budget
    folder = Path(output_dir)
    with Stages.opened(folder, demo_settings(seed, source, budget.to_dict())) as stages:
        return _Demo(folder, seed, budget, None if source is None else Path(source), stages).run()


class _Demo:
    """One run; each method is a stage or a few."""

    def __init__(self, folder: Path, seed: int, budget: DemoBudget, source: Path | None, stages: Stages) -> None:
        self.folder, self.seed, self.budget, self.source, self.stages = folder, seed, budget, source, stages
        self.text = folder / "text"
        self.tokenizer_dir = folder / "tokenizer"

    def run(self) -> DemoResult:
        """All stages in order."""
        run, budget = self.stages.run, self.budget
        results: dict[str, Result] = {}
        results["text"] = run("text", self._gather_text)
        results["tokenizer"] = run("tokenizer", self._train_tokenizer)
        results["pretrain"] = run("pretrain", self._pretrain_short)
        short, long = self.folder / "short" / "model", self.folder / "long" / "model"
        rows = {
            "short": run("evaluate-short", lambda: self._evaluate(load_masked_lm(short), budget.short_length)),
            "random": run("evaluate-random", lambda: self._evaluate_lengthened(short, "random")),
            "copied": run("evaluate-copied", lambda: self._evaluate_lengthened(short, "tile")),
        }
        results["continue"] = run("continue", self._continue_long)
        results["control"] = run("control", self._continue_short)
        control = self.folder / "control" / "model"
        rows["long"] = run("evaluate-long", lambda: self._evaluate(load_masked_lm(long), budget.long_length))
        rows["control"] = run("evaluate-control", lambda: self._evaluate(load_masked_lm(control), budget.short_length))
        results["lookups"] = run("lookups", self._look_up)
        results["cost"] = run("cost", self._measure_cost)
        seconds = self.stages.seconds()
        report = write_report(
            self.folder / "report.html", budget=budget, seed=self.seed, results=results, rows=rows, seconds=seconds
        )
        table = table_of_rows(rows, results, budget).to_text()
        return DemoResult(report=report, table=table, seconds=sum(seconds.values()))

    def _gather_text(self) -> Result:
        budget = self.budget
        corpus = split_files(
            read_standard_library(self.source, budget.max_characters),
            held_out_files=budget.held_out_files,
            long_characters=budget.long_characters,
            excerpt_characters=budget.excerpt_characters,
        )
        write_corpus(corpus, self.text)
        return corpus.to_dict()

    def _train_tokenizer(self) -> Result:
        texts = [file.text for file in read_files(self.text / "train.jsonl")]
        tokenizer = train_tokenizer(texts, vocab_size=self.budget.vocab_size, folder=self.tokenizer_dir)
        tokens = self._train_tokens(tokenizer).tokens.size
        characters = sum(map(len, texts))
        return {"vocab_size": len(tokenizer), "tokens": int(tokens), "characters_per_token": characters / int(tokens)}

    def _train_tokens(self, tokenizer: "PreTrainedTokenizerBase") -> TokenCorpus:
        """The tokenized training text, made once for all runs."""
        return TokenCorpus.of_files(
            [self.text / "train.jsonl"], tokenizer, cache_dir=self.folder / "tokens", progress=True
        )

    def _pretrain_short(self) -> Result:
        budget, start = self.budget, self.folder / "short-untrained"
        if not (start / "config.json").is_file():
            tokenizer = load_tokenizer(self.tokenizer_dir)
            tokens = self._train_tokens(tokenizer).tokens
            model = new_roberta(
                counts=np.bincount(tokens, minlength=len(tokenizer)),
                hidden_size=budget.hidden_size,
                layers=budget.layers,
                heads=budget.heads,
                intermediate_size=budget.intermediate_size,
                positions=budget.short_length,
                seed=self.seed,
            )
            with atomic_directory(start, "the untrained model") as staging:
                model.save_pretrained(staging)
                tokenizer.save_pretrained(staging)
        return self._pretrain(
            start,
            "short",
            sequence_length=budget.short_length,
            sequences_per_step=budget.pretrain_sequences,
            micro_batch=budget.pretrain_sequences,
            steps=budget.pretrain_steps,
            learning_rate=budget.pretrain_rate,
        )

    def _continue_long(self) -> Result:
        budget, start = self.budget, self.folder / "long-untrained"
        if not start.is_dir():
            convert_directory(
                self.folder / "short" / "model",
                start,
                max_positions=budget.long_length,
                attention_window=list(budget.attention_window),
            )
        return self._pretrain(
            start,
            "long",
            sequence_length=budget.long_length,
            sequences_per_step=1,
            micro_batch=1,
            steps=budget.continue_steps,
            learning_rate=budget.continue_rate,
        )

    def _continue_short(self) -> Result:
        """The control: as many tokens as the long model got, with the same optimizer, in short sequences."""
        budget = self.budget
        sequences = budget.long_length // budget.short_length
        return self._pretrain(
            self.folder / "short" / "model",
            "control",
            sequence_length=budget.short_length,
            sequences_per_step=sequences,
            micro_batch=sequences,
            steps=budget.continue_steps,
            learning_rate=budget.continue_rate,
        )

    def _pretrain(self, model: Path, name: str, *, steps: int, **fields: Any) -> Result:
        result = pretrain(
            PretrainRecipe(
                model=str(model),
                train=(str(self.text / "train.jsonl"),),
                cache_dir=str(self.folder / "tokens"),
                output_dir=str(self.folder / name),
                steps=steps,
                warmup_steps=min(30, steps // 10),
                max_grad_norm=1.0,
                seed=self.seed,
                log_every=max(1, steps // 60),
                save_every=max(1, steps // 4),
                keep_checkpoints=1,
                **fields,
            )
        )
        curve = [(entry["step"], entry["tokens"], entry["loss"]) for entry in result.log if "loss" in entry]
        return {"tokens": result.tokens, "seconds": result.seconds, "steps": steps, "curve": curve}

    def _held_out(self) -> list[str]:
        return [file.text for file in read_files(self.text / "held_out.jsonl")]

    def _evaluate(self, model: "PreTrainedModel", length: int) -> Result:
        """Every model is asked about the same masked tokens."""
        metrics = evaluate_masked_lm(
            model,
            load_tokenizer(self.tokenizer_dir),
            self._held_out(),
            sequence_length=length,
            batch_size=self.budget.long_length // length,
        )
        return {**metrics.to_dict(), "sequence_length": length}

    def _evaluate_lengthened(self, short: Path, positions: Positions) -> Result:
        model = lengthen(
            short,
            max_positions=self.budget.long_length,
            attention_window=list(self.budget.attention_window),
            positions=positions,
            seed=self.seed,
        )
        return self._evaluate(model, self.budget.long_length)

    def _look_up(self) -> Result:
        """Where the long context helps, and what it looks like."""
        budget = self.budget
        tokenizer = load_tokenizer(self.folder / "long" / "model")
        files = read_files(self.text / "held_out.jsonl")
        sequences = mask_sequences(
            tokenizer, [file.text for file in files], sequence_length=budget.long_length, seed=self.seed
        )
        names = {"short": budget.short_length, "control": budget.short_length, "long": budget.long_length}
        models = {name: load_masked_lm(self.folder / name / "model") for name in names}
        guesses = {
            name: guess(
                models[name],
                tokenizer,
                sequences,
                sequence_length=length,
                batch_size=budget.long_length // length,
            )
            for name, length in names.items()
        }
        limits = _distance_limits(budget.short_length, budget.long_length)
        classes = by_distance(sequences, list(guesses.values()), limits)
        choices, candidates = choose_examples(
            tokenizer, sequences, guesses["control"], guesses["long"], beyond=budget.short_length
        )
        examples = [
            fill_example(
                choice,
                files[sequences[choice.sequence].document].name,
                sequences[choice.sequence],
                tokenizer,
                models["control"],
                models["long"],
                short_length=budget.short_length,
                long_length=budget.long_length,
            )
            for choice in choices
        ]
        return {
            "models": list(names),
            "classes": [each.to_dict() for each in classes],
            "candidates": candidates,
            "examples": [example.to_dict() for example in examples],
        }

    def _measure_cost(self) -> Result:
        budget = self.budget
        return measure_cost(
            budget.cost_lengths,
            hidden_size=budget.cost_hidden_size,
            heads=budget.cost_heads,
            window=budget.cost_window,
            rounds=budget.cost_rounds,
            seed=self.seed,
        )


def _distance_limits(short: int, long: int) -> list[int]:
    """Powers of two times the short length, and two fractions of it: 32, 128, 512, 1024, ..., ``long``."""
    limits = [max(1, short // 16), short // 4, short]
    while limits[-1] < long:
        limits.append(min(2 * limits[-1], long))
    return limits
