"""The text of a run: what a recipe's ``train`` and ``eval`` name, found, tokenized or opened."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from longspan.data.atomic import atomic_text
from longspan.data.corpus import DocumentSequences, PackedSequences, TokenCorpus
from longspan.data.layout import SequenceLayout
from longspan.data.stream import StreamedSequences, is_hub, long_enough, stream_documents
from longspan.data.text import Document, read_documents
from longspan.training.recipe import PretrainRecipe
from longspan.training.run_folder import RunFolder
from longspan.training.trainer import SequenceSource

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class RunTexts:
    """Turns the sources that a recipe names into sequences and evaluation documents."""

    recipe: PretrainRecipe
    folder: RunFolder
    tokenizer: "PreTrainedTokenizerBase"
    layout: SequenceLayout
    progress: bool

    @property
    def cache_dir(self) -> Path:
        """Where tokenized text is kept."""
        return Path(self.recipe.cache_dir) if self.recipe.cache_dir else self.folder.path / "corpus"

    def sequences(self) -> SequenceSource:
        """What to train on: local text tokenized once, hub text and ``stream: true`` read as they come.

        Raises:
            FileNotFoundError, ValueError: local text can't be read, see :func:`longspan.data.text.read_documents`, or
                no document is long enough. Faults of streams come up when they are read.
        """
        recipe = self.recipe
        if recipe.stream or any(map(is_hub, recipe.train)):
            return StreamedSequences(
                recipe.train,
                self.tokenizer,
                self.layout,
                packed=recipe.layout == "packed",
                text_field=recipe.text_field,
                txt_document=recipe.txt_document,
                min_length=recipe.min_length,
                min_length_unit=recipe.min_length_unit,
            )
        corpus = TokenCorpus.of_files(
            recipe.train,
            self.tokenizer,
            cache_dir=self.cache_dir,
            text_field=recipe.text_field,
            txt_document=recipe.txt_document,
            sentences=self.layout.needs_sentences,
            progress=self.progress,
        )
        documents = corpus.long_documents(recipe.min_length, recipe.min_length_unit)
        kind = PackedSequences if recipe.layout == "packed" else DocumentSequences
        return kind(corpus, documents, self.layout, recipe.seed)

    def eval_documents(self) -> Iterator[Document]:
        """The held-out documents: what :meth:`prepare_eval` kept of the hub's, then those of local files."""
        files = [source for source in self.recipe.eval if not is_hub(source)]
        local = self._kept(self._read(files)) if files else iter(())
        of_hub = read_documents([self.folder.eval_file]) if len(files) < len(self.recipe.eval) else iter(())
        return islice(chain(of_hub, local), self.recipe.eval_documents)

    def prepare_eval(self) -> None:
        """See that there is held-out text, and keep the first documents of hub data sets in the output folder."""
        hub = [source for source in self.recipe.eval if is_hub(source)]
        with FileLock(self.folder.path / ".eval.lock"):
            if hub and not self.folder.eval_file.is_file():
                found = (
                    document
                    for source in hub
                    for document in stream_documents(source, split="validation", text_field=self.recipe.text_field)
                )
                lines = [
                    json.dumps({"text": document.text}) + "\n"
                    for document in islice(self._kept(found), self.recipe.eval_documents)
                ]
                atomic_text(self.folder.eval_file, "".join(lines), "the evaluation documents")
        if self.recipe.eval and next(self.eval_documents(), None) is None:
            if not self.recipe.min_length:
                raise ValueError(f"{', '.join(self.recipe.eval[:3])}: there is no text to evaluate on; name other text")
            raise ValueError(
                f"no evaluation document has min_length {self.recipe.min_length:,} {self.recipe.min_length_unit}; "
                "lower min_length or name other eval text"
            )

    def _read(self, files: list[str]) -> Iterator[Document]:
        return read_documents(files, text_field=self.recipe.text_field, txt_document=self.recipe.txt_document)

    def _kept(self, documents: Iterator[Document]) -> Iterator[Document]:
        limit = (self.recipe.min_length, self.recipe.min_length_unit)
        return (document for document in documents if long_enough(document.text, *limit, self.tokenizer))
