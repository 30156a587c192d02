"""``run_summaries_demo``: a BART learns to restore Python, becomes an LED, and learns to say what code does."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from longspan.convert import convert_directory
from longspan.data.atomic import atomic_directory, atomic_text
from longspan.data.progress import progress_bar
from longspan.data.tokenization import tokenize
from longspan.demo.corpus import Corpus, SourceFile, read_files, read_standard_library, split_files, write_corpus
from longspan.demo.docstrings import Definition, as_words, name_as_words, read_definitions
from longspan.demo.small_bart import new_bart
from longspan.demo.stages import Result, Stages, demo_settings
from longspan.demo.summaries_budget import SummariesBudget
from longspan.demo.summaries_story import sample_text, table_of_scores, write_summaries_report
from longspan.demo.tokenizer import train_tokenizer
from longspan.training import PretrainRecipe, load_tokenizer, pretrain
from longspan.training.summarization import SummarizationRecipe, finetune_summarization
from longspan.training.summarization.rouge import rouge_scores
from longspan.training.summarization.writing import Summarizer


@dataclass(frozen=True, kw_only=True)
class SummariesDemoResult:
    """What a finished demo leaves."""

    report: Path
    """``report.html``, one self-contained file."""
    table: str
    """ROUGE of the written summaries and their baseline, as text."""
    samples: str
    """Some definitions of held-out files with what their docstring says and what the model writes."""
    seconds: float
    """Wall-clock time of all stages."""


def run_summaries_demo(
    output_dir: str | Path,
    seed: int = 0,
    *,
    budget: SummariesBudget | None = None,
    source: str | Path | None = None,
) -> SummariesDemoResult:
    """Train an LED on the standard library's sources to write the first sentence of a docstring, and report.

    What is finished is remembered in the folder: a demo that was stopped, however hard, goes on where it was when it
    is called again, and one that is finished only writes its report again.

    Args:
        output_dir: folder of everything the demo makes; ``report.html`` in it tells the story.
        seed: of the weights and the order of the text; which files are held out is up to their names.
        budget: sizes; None: the defaults.
        source: a folder of ``.py`` files to use instead of the standard library.

    Returns:
        The report, its main table and samples.

    Raises:
        ValueError: the folder holds a run of another seed or budget, or other files; or there is too little text.
        FileExistsError: another process is at work in the folder.
        FileNotFoundError: there is no text.
        ModuleNotFoundError: rouge-score is missing.
        KeyboardInterrupt: Ctrl-C; the message says how to go on.
    """
    budget = SummariesBudget() if budget is None else budget
    folder = Path(output_dir)
    with Stages.opened(folder, demo_settings(seed, source, budget.to_dict())) as stages:
        return _Demo(folder, seed, budget, None if source is None else Path(source), stages).run()


class _Demo:
    """One run; each method is a stage."""

    def __init__(self, folder: Path, seed: int, budget: SummariesBudget, source: Path | None, stages: Stages) -> None:
        self.folder, self.seed, self.budget, self.source, self.stages = folder, seed, budget, source, stages
        self.text, self.bart, self.led = folder / "text", folder / "bart", folder / "led"

    def run(self) -> SummariesDemoResult:
        """All stages in order."""
        results: dict[str, Result] = {
            "text": self.stages.run("text", self._gather_text),
            "tokenizer": self.stages.run("tokenizer", self._make_bart),
            "pretrain": self.stages.run("pretrain", self._pretrain),
            "lengthen": self.stages.run("lengthen", self._lengthen),
            "finetune": self.stages.run("finetune", self._finetune),
            "write": self.stages.run("write", self._write_summaries),
        }
        seconds = self.stages.seconds()
        report = write_summaries_report(
            self.folder / "report.html", budget=self.budget, seed=self.seed, results=results, seconds=seconds
        )
        return SummariesDemoResult(
            report=report,
            table=table_of_scores(results, self.budget).to_text(),
            samples=sample_text(results["write"]["samples"]),
            seconds=sum(seconds.values()),
        )

    def _gather_text(self) -> Result:
        budget = self.budget
        files = [
            file for file in read_standard_library(self.source, budget.max_characters) if file.name.endswith(".py")
        ]
        longest = max(map(len, (file.text for file in files)), default=1)
        corpus = split_files(
            files,
            held_out_files=budget.held_out_files,
            long_characters=budget.long_characters,
            excerpt_characters=longest,  # whole files
        )
        as_text = {
            part: [SourceFile(name=file.name, text=as_words(file.text)) for file in part_files]
            for part, part_files in (("train", corpus.train), ("held_out", corpus.held_out))
        }
        write_corpus(Corpus(**as_text), self.text)
        train = [definition for file in corpus.train for definition in read_definitions(file)]
        held_out = [definition for file in corpus.held_out for definition in read_definitions(file)]
        if not train or not held_out:
            raise ValueError(
                f"{len(train):,} definitions to train on and {len(held_out):,} held-out ones have docstrings; there "
                "must be some of both"
            )
        test = _choose(held_out, budget.test_definitions)
        _write_definitions(self.folder / "train.jsonl", train)
        _write_definitions(self.folder / "test.jsonl", test)
        kinds = {kind: sum(definition.kind == kind for definition in train) for kind in ("module", "class", "function")}
        return {**corpus.to_dict(), "definitions": len(train), "test_definitions": len(test), "kinds": kinds}

    def _make_bart(self) -> Result:
        budget = self.budget
        files = read_files(self.text / "train.jsonl")
        sizes = np.cumsum([len(file.text) for file in files])
        texts = [file.text for file in files[: int(np.searchsorted(sizes, budget.tokenizer_characters)) + 1]]
        tokenizer = train_tokenizer(texts, vocab_size=budget.vocab_size, folder=self.folder / "tokenizer")
        tokens = tokenize(tokenizer, texts)
        model = new_bart(
            counts=np.bincount(np.concatenate(tokens), minlength=len(tokenizer)),
            hidden_size=budget.hidden_size,
            layers=budget.layers,
            intermediate_size=budget.intermediate_size,
            positions=budget.short_length,
            seed=self.seed,
        )
        with atomic_directory(self.bart, "the model before training") as staging:
            model.save_pretrained(staging)
            tokenizer.save_pretrained(staging)
        return {"parameters": model.num_parameters()}

    def _pretrain(self) -> Result:
        budget = self.budget
        result = pretrain(
            PretrainRecipe(
                objective="denoising",
                model=str(self.bart),
                train=(str(self.text / "train.jsonl"),),
                eval=(str(self.text / "held_out.jsonl"),),
                output_dir=str(self.folder / "pretraining"),
                sequence_length=budget.short_length,
                sequences_per_step=budget.pretrain_sequences,
                micro_batch=budget.pretrain_sequences,
                steps=budget.pretrain_steps,
                learning_rate=budget.pretrain_rate,
                warmup_ratio=0.05,
                max_grad_norm=1.0,
                seed=self.seed,
                log_every=max(1, budget.pretrain_steps // 40),
                eval_every=max(1, budget.pretrain_steps // 4),
                eval_tokens=16 * budget.short_length,
                save_every=max(1, budget.pretrain_steps // 8),
                keep_checkpoints=1,
            )
        )
        return {"log": result.log, "tokens": result.tokens, "seconds": result.seconds}

    def _lengthen(self) -> Result:
        budget = self.budget
        convert_directory(
            self.folder / "pretraining" / "model",
            self.led,
            max_positions=budget.long_length,
            attention_window=budget.attention_window,
            force=True,
        )
        return {"positions": budget.long_length}

    def _finetune(self) -> Result:
        budget = self.budget
        result = finetune_summarization(
            SummarizationRecipe(
                model=str(self.led),
                train=(str(self.folder / "train.jsonl"),),
                output_dir=str(self.folder / "finetuning"),
                max_input_length=budget.long_length,
                max_target_length=budget.max_summary,
                examples_per_step=budget.finetune_examples,
                micro_batch=1 if budget.finetune_examples % 2 else 2,  # lengths differ much, and padding costs
                steps=budget.finetune_steps,
                learning_rate=budget.finetune_rate,
                warmup_steps=budget.finetune_steps // 20,
                num_beams=budget.num_beams,
                no_repeat_ngram_size=2,
                seed=self.seed,
                log_every=max(1, budget.finetune_steps // 40),
                save_every=max(1, budget.finetune_steps // 8),
            )
        )
        return {"log": result.log, "seconds": result.seconds}

    def _write_summaries(self) -> Result:
        """The summaries of held-out definitions, read whole and read as far as the BART could."""
        budget = self.budget
        with (self.folder / "test.jsonl").open(encoding="utf-8") as lines:
            test = [Definition(**json.loads(line)) for line in lines]
        tokenizer = load_tokenizer(self.led)
        lengths = [len(tokens) for tokens in tokenize(tokenizer, [definition.text for definition in test])]
        long = [number for number, length in enumerate(lengths) if length > budget.short_length]
        written = {"name": [name_as_words(definition) for definition in test]}
        for row, length in (("short", budget.short_length), ("long", budget.long_length)):
            summarizer = Summarizer.load(self.folder / "finetuning" / "model", max_input_length=length)
            written[row] = []
            for definition in progress_bar_over(test, f"write, {length:,} tokens"):
                written[row] += summarizer.summarize([definition.text])
        true = [definition.summary for definition in test]
        everything = range(len(test))
        return {
            "scores": {
                row: {
                    "all": _scores(texts, true, everything),
                    "long": _scores(texts, true, long) if long else None,
                }
                for row, texts in written.items()
            },
            "long": len(long),
            "samples": [
                {
                    "name": definition.name,
                    "kind": definition.kind,
                    "tokens": length,
                    "source": definition.source,
                    "true": definition.summary,
                    "written": summary,
                }
                for definition, length, summary in zip(test, lengths, written["long"], strict=True)
            ],
        }


def progress_bar_over(definitions: Sequence[Definition], description: str) -> Iterable[Definition]:
    """Each of them, under a bar."""
    with progress_bar(description, "summaries", shown=True, total=len(definitions)) as bar:
        for definition in definitions:
            yield definition
            bar.update(1)


def _scores(written: Sequence[str], true: Sequence[str], chosen: Iterable[int]) -> dict[str, float]:
    numbers = list(chosen)
    return rouge_scores([written[n] for n in numbers], [true[n] for n in numbers]).to_dict()


def _choose(definitions: list[Definition], count: int) -> list[Definition]:
    """Half the longest, half evenly from the others, in the order of the files."""
    if len(definitions) <= count:
        return definitions
    by_length = sorted(range(len(definitions)), key=lambda number: -len(definitions[number].text))
    longest, others = by_length[: count // 2], sorted(by_length[count // 2 :])
    wanted = count - len(longest)
    even = [others[place * len(others) // wanted] for place in range(wanted)]
    return [definitions[number] for number in sorted([*longest, *even])]


def _write_definitions(file: Path, definitions: Iterable[Definition]) -> None:
    lines = (json.dumps(asdict(definition)) + "\n" for definition in definitions)
    atomic_text(file, "".join(lines), "the demo's definitions")
