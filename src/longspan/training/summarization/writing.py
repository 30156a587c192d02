"""A model that writes summaries, and whole files of texts summarized as a stream."""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from longspan.data.atomic import atomic_text
from longspan.data.growing_file import alone, append_lines, check_output, publish, whole_lines
from longspan.data.paths import path_list
from longspan.data.progress import progress_bar
from longspan.data.stream import is_hub
from longspan.models.inputs import table_rows
from longspan.training.masked_lm import load_tokenizer
from longspan.training.reading_layout import has_global_attention
from longspan.training.sequence_to_sequence import load_sequence_to_sequence, position_limits
from longspan.training.summarization.inputs import SummarizationInputs
from longspan.training.summarization.texts import (
    SummarizationColumns,
    SummarizationExample,
    read_summarization_examples,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SETTINGS_FILE = "longspan_summarization.json"
"""In a finetuned model's folder, beside its ``config.json``."""
_LONGEST = 16384  # tokens read by a model that says no limit of its own


@dataclass(frozen=True, kw_only=True)
class SummarizationSettings:
    """What a finetuned model's folder says beside weights and generation settings."""

    max_input_length: int
    """Tokens that the model was trained to read."""
    max_target_length: int
    """Tokens of the summaries it was trained on."""
    prefix: str = ""
    """What stood in front of every text."""

    def save(self, folder: Path) -> None:
        """Write them beside a model."""
        atomic_text(folder / SETTINGS_FILE, json.dumps(asdict(self)) + "\n", "the description of the task")


@dataclass(frozen=True, kw_only=True)
class Summarizer:
    """A model with its inputs."""

    model: "PreTrainedModel"
    inputs: SummarizationInputs

    @classmethod
    def load(cls, model: str | Path, *, max_input_length: int | None = None, prefix: str | None = None) -> "Summarizer":
        """A finetuned model, or any encoder-decoder, in evaluation mode.

        Args:
            model: a folder, or a hub name.
            max_input_length: tokens of a text, the rest is cut off; None: as the model was finetuned, or all it reads.
            prefix: what stands in front of every text, such as ``"summarize: "`` for a T5 that wasn't finetuned here;
                None: as the model was finetuned, or nothing.

        Raises:
            FileNotFoundError, ValueError: as :func:`load_sequence_to_sequence`; or the model reads fewer tokens.
        """
        loaded = load_sequence_to_sequence(model)
        limit, written = position_limits(loaded.config)
        file = Path(model) / SETTINGS_FILE
        if file.is_file():
            settings = SummarizationSettings(**json.loads(file.read_text(encoding="utf-8")))
        else:
            settings = SummarizationSettings(max_input_length=limit or _LONGEST, max_target_length=written or 256)
        if max_input_length is not None and limit is not None and max_input_length > limit:
            raise ValueError(
                f"max_input_length is {max_input_length:,}, but model {str(model)!r} reads {limit:,} tokens"
            )
        inputs = SummarizationInputs(
            tokenizer=load_tokenizer(model),
            max_input_length=max_input_length or settings.max_input_length,
            max_target_length=settings.max_target_length,
            has_global_attention=has_global_attention(loaded),
            vocabulary=table_rows(loaded.get_input_embeddings()),
            prefix=settings.prefix if prefix is None else prefix,
        )
        return cls(model=loaded.eval(), inputs=inputs)

    def summarize(
        self, texts: Sequence[str], queries: Sequence[str | None] | None = None, **generation: Any
    ) -> list[str]:
        """The summaries of a few texts, all in one batch.

        Args:
            texts: at least one; a blank text has a blank summary.
            queries: what each summary is about; None: everything.
            **generation: what replaces the model's settings, as ``num_beams=4, max_new_tokens=200``.

        Raises:
            TypeError: one text in place of a list of texts.
            ValueError: as :meth:`check_generation`, or there are not as many queries as texts.
        """
        if isinstance(texts, str):
            raise TypeError("texts is one str; give a list of texts, as [text]")
        self.check_generation(generation)
        queries = [None] * len(texts) if queries is None else queries
        if len(queries) != len(texts):
            raise ValueError(f"there are {len(queries)} queries for {len(texts)} texts; give one for each, or None")
        written = [""] * len(texts)
        real = [number for number, text in enumerate(texts) if text.strip()]
        if not real:
            return written
        batch = self.inputs.collate([self.inputs.encode(texts[number], queries[number]) for number in real])
        with torch.inference_mode():
            ids = self.model.generate(
                **{name: tensor.to(self.model.device) for name, tensor in batch.items()}, **one_limit(generation)
            )
        for number, summary in zip(real, self.decode(ids), strict=True):
            written[number] = summary
        return written

    def check_generation(self, generation: dict[str, Any]) -> None:
        """See that each text gets one summary, and that the model has positions for as many tokens as it is to write.

        Raises:
            ValueError: several are asked for, or no beams, or the model has fewer positions.
        """
        if (several := generation.get("num_return_sequences") or 1) != 1:
            raise ValueError(f"num_return_sequences is {several}, but each text gets one summary; leave it out")
        if (beams := generation.get("num_beams")) is not None and beams < 1:
            raise ValueError(f"num_beams is {beams}; it must be at least 1")
        asked, (_, longest) = generation.get("max_new_tokens"), position_limits(self.model.config)
        if asked is not None and longest is not None and asked > longest:
            raise ValueError(
                f"max_new_tokens is {asked:,}, but model {self.model.name_or_path!r} writes {longest:,} tokens at "
                "most; ask for fewer"
            )

    def decode(self, ids: Any) -> list[str]:
        """Summaries of token ids ``[B, T]``."""
        return [text.strip() for text in self.inputs.tokenizer.batch_decode(ids, skip_special_tokens=True)]


def one_limit(generation: dict[str, Any]) -> dict[str, Any]:
    """Settings of ``generate`` in which ``max_new_tokens`` takes the place of the model's own ``max_length``."""
    return {"max_length": None, **generation} if generation.get("max_new_tokens") else generation


@dataclass(frozen=True, kw_only=True)
class SummarizedFiles:
    """The result of :func:`summarize_files`."""

    output: Path
    """The file of summaries."""
    summaries: int
    """How many it holds."""
    written: int
    """How many of them this call wrote."""
    seconds: float
    """What that took."""


def summarize_files(
    paths: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    model: Summarizer | str | Path,
    columns: SummarizationColumns | None = None,
    query: str | None = None,
    batch_size: int = 1,
    force: bool = False,
    progress: bool = True,
    **generation: Any,
) -> SummarizedFiles:
    """Summarize every text of files, in order, in the memory of one batch.

    A line of the output is ``{"origin": file and place, "id": the record's, if it has one, "summary": ...}``. What a
    stopped call has written stays in a hidden file beside the output; called again, it goes on there, and the output
    appears when all is done.

    Args:
        paths: ``.jsonl``, ``.jsonl.gz``, ``.csv``, ``.tsv``, ``.parquet``, ``.txt`` and ``.pdf`` files, or data sets of
            the hub as ``hub:NAME[:CONFIG]``, whose ``test`` split is read.
        output: a ``.jsonl`` file. A blank text has the summary ``""``.
        model: a folder, a hub name, or what :meth:`Summarizer.load` gave.
        columns: where the files have text and query; None: the text in one of the known columns, no query.
        query: one query for all texts, instead of a column's.
        batch_size: texts at once.
        force: replace the output, and forget what a stopped call has written.
        progress: show a bar.
        **generation: as :meth:`Summarizer.summarize`.

    Raises:
        FileNotFoundError, ValueError: as :meth:`Summarizer.load` and :func:`read_summarization_examples`.
        ValueError: a stopped call had other settings, or other texts.
        ValueError: the output is a folder, one of the files, or doesn't end in ``.jsonl``.
        FileExistsError: the output exists, or another process is writing it.
        OSError: something can't be written.
    """
    paths, output = path_list(paths), Path(output)
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    if query is not None and columns is not None and columns.query is not None:
        raise ValueError("give a query or a column of queries, not both")
    if output.suffix != ".jsonl":
        raise ValueError(f"output {output} must end in .jsonl; summaries are written as JSON lines")
    check_output(output, [Path(path) for path in paths if not is_hub(str(path))])
    if output.exists() and not force:
        raise FileExistsError(f"{output} exists already; pass force=True (--force) to replace it")
    partial = _Partial(output)
    summarizer = model if isinstance(model, Summarizer) else Summarizer.load(model)
    summarizer.check_generation(generation)
    settings = {
        "model": summarizer.model.name_or_path,
        "max_input_length": summarizer.inputs.max_input_length,
        "paths": [str(path) for path in paths],
        "columns": asdict(columns or SummarizationColumns()),
        "query": query,
        "generation": generation,
        **({"prefix": summarizer.inputs.prefix} if summarizer.inputs.prefix else {}),
    }
    with alone(output):
        if force:
            partial.forget()
        examples = iter(read_summarization_examples(paths, columns, with_summary=False, split="test"))
        done = partial.begin(settings, examples, batch_size)
        started = time.perf_counter()
        written = 0
        with progress_bar("summarize", "texts", shown=progress, initial=done) as bar:
            while batch := tuple(islice(examples, batch_size)):
                partial.append(_lines(summarizer, batch, query, generation))
                written += len(batch)
                bar.update(len(batch))
        partial.finish()
    return SummarizedFiles(
        output=output, summaries=done + written, written=written, seconds=time.perf_counter() - started
    )


def _lines(
    summarizer: Summarizer, batch: Sequence[SummarizationExample], query: str | None, generation: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    try:
        summaries = summarizer.summarize(
            [example.text for example in batch], [query or example.query for example in batch], **generation
        )
    except ValueError as error:
        raise ValueError(f"{batch[0].origin}: {error}") from error
    for example, summary in zip(batch, summaries, strict=True):
        name = {} if example.id is None else {"id": example.id}
        yield {"origin": example.origin, **name, "summary": summary}


class _Partial:
    """The output while it grows: whole lines, and the settings that made them."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.lines_file = output.with_name(f".{output.name}.partial")
        self.settings_file = output.with_name(f".{output.name}.settings.json")
        self.settings: str | None = None  # to be written

    def forget(self) -> None:
        self.lines_file.unlink(missing_ok=True)
        self.settings_file.unlink(missing_ok=True)

    def begin(self, settings: dict[str, Any], examples: Iterator[SummarizationExample], batch_size: int) -> int:
        """Take as many examples as whole batches have lines already, and see that they are the ones."""
        has_lines = self.lines_file.is_file() and self.lines_file.stat().st_size > 0
        if not has_lines or not self.settings_file.is_file():  # what failed before its first summary binds nobody
            self.forget()
            self.settings = json.dumps(settings, default=str)
            return 0
        begun = json.loads(self.settings_file.read_text(encoding="utf-8"))
        for name, value in json.loads(json.dumps(settings, default=str)).items():
            if begun.get(name) != value:
                raise ValueError(
                    f"the summaries for {self.output} were begun with {name} {begun.get(name)!r}, and now it is "
                    f"{value!r}; put it back to go on, or pass force=True (--force) to begin anew"
                )
        done = whole_lines(self.lines_file, batch_size)
        with self.lines_file.open("rb") as stream:
            for line in stream:
                origin, example = json.loads(line)["origin"], next(examples, None)
                if example is None or example.origin != origin:
                    raise ValueError(
                        f"the summaries for {self.output} were begun with other texts: {origin} was there; pass "
                        "force=True (--force) to begin anew"
                    )
        return done

    def append(self, lines: Iterable[dict[str, Any]]) -> None:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        if self.settings is not None:
            atomic_text(self.settings_file, self.settings, "the settings of the summaries")
            self.settings = None
        append_lines(self.lines_file, text.encode(), self.output, "the summaries")

    def finish(self) -> None:
        self.lines_file.touch()
        publish(self.lines_file, self.output, "the summaries")
        self.settings_file.unlink(missing_ok=True)
