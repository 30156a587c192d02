"""Documents of CoNLL-2012 as rows of tokens, and from the model's scores back to clusters of words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from longspan.data.tokenization import special_ids, tokenize_with_offsets
from longspan.tasks.coreference import Cluster, CoreferenceDocument, Mention, merge_clusters
from longspan.tasks.sequences import NO_POSITION, pad, pad_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GENRES = ("bc", "bn", "mz", "nw", "pt", "tc", "wb")
"""The genres of OntoNotes, which the names of its documents begin with; what has another name counts as ``bc``, as in
mandarjoshi90/coref."""


@dataclass(frozen=True, kw_only=True)
class CoreferenceExample:
    """One document as R rows; made by :class:`CoreferenceLayout`."""

    document: CoreferenceDocument
    """The document."""
    input_ids: tuple[tuple[int, ...], ...]
    """R rows of token ids."""
    word_ids: tuple[tuple[int, ...], ...]
    """The word of each token, -1 for a special token."""
    sentence_ids: tuple[tuple[int, ...], ...]
    """Its sentence."""
    speaker_ids: tuple[tuple[int, ...], ...]
    """A number for its speaker."""
    labels: tuple[tuple[int, int, int], ...]
    """``(first word, last word, cluster)`` of each mention."""


class CoreferenceLayout:
    """A document as rows ``<s> tokens </s>`` that don't overlap; no token attends globally (the paper's choice).

    All of a document is read. A row ends between sentences where it can.

    Args:
        tokenizer: a fast tokenizer.
        max_length: tokens of a row.

    Raises:
        ValueError: no room for text, or a tokenizer without special tokens.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", max_length: int = 4096) -> None:
        if max_length < 3:
            raise ValueError(f"max_length is {max_length}; use at least 3, two special tokens and text")
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.first_id, self.separator_id, self.pad_id = special_ids(tokenizer, "this task's layout needs")

    def encode(self, document: CoreferenceDocument) -> CoreferenceExample:
        """Lay a document out."""
        names = {name: number for number, name in enumerate(dict.fromkeys(sum(document.speakers, ())))}
        room = self.max_length - 2
        rows: list[list[tuple[int, int, int, int]]] = [[]]
        word = 0
        for sentence, (words, speakers) in enumerate(zip(document.sentences, document.speakers, strict=True)):
            tokens = []
            for text, speaker in zip(words, speakers, strict=True):
                # OntoNotes writes sentence ends as /. and /? in some genres.
                spoken = text[1:] if text in ("/.", "/?") else text
                ids = tokenize_with_offsets(self.tokenizer, spoken, leading_space=True).ids
                tokens += [(token, word, sentence, names[speaker]) for token in ids]
                word += 1
            if len(rows[-1]) + len(tokens) > room and rows[-1]:
                rows.append([])
            while len(tokens) > room:
                rows[-1] = tokens[:room]
                tokens = tokens[room:]
                rows.append([])
            rows[-1] += tokens
        rows = [row for row in rows if row] or [[]]
        none = NO_POSITION
        columns = [
            list(zip((self.first_id, none, none, none), *row, (self.separator_id, none, none, none), strict=True))
            for row in rows
        ]
        return CoreferenceExample(
            document=document,
            input_ids=tuple(row[0] for row in columns),
            word_ids=tuple(row[1] for row in columns),
            sentence_ids=tuple(row[2] for row in columns),
            speaker_ids=tuple(row[3] for row in columns),
            labels=tuple(
                (mention.first, mention.last, number)
                for number, cluster in enumerate(document.clusters)
                for mention in cluster
            ),
        )

    def collate(self, examples: Sequence[CoreferenceExample]) -> dict[str, Tensor]:
        """A batch of D documents in R rows, the arguments of :class:`LongformerForCoreference`.

        Returns:
            int64 ``input_ids``, ``attention_mask``, ``global_attention_mask``, ``word_ids``, ``sentence_ids``,
            ``speaker_ids`` ``[R, N]``; ``document_of_row`` ``[R]``; ``genre`` ``[D]``; ``labels`` ``[D, M, 3]``,
            padded with -1.
        """
        rows = [row for example in examples for row in example.input_ids]
        owner = [number for number, example in enumerate(examples) for _ in example.input_ids]
        most = max(1, *(len(example.labels) for example in examples))
        labels = torch.full((len(examples), most, 3), NO_POSITION)
        for row, example in zip(labels, examples, strict=True):
            if example.labels:
                row[: len(example.labels)] = torch.tensor(example.labels)
        genres = [example.document.name[:2] for example in examples]
        return {
            **pad_inputs(rows, [[]] * len(rows), self.pad_id),
            "word_ids": pad([row for example in examples for row in example.word_ids], NO_POSITION),
            "sentence_ids": pad([row for example in examples for row in example.sentence_ids], NO_POSITION),
            "speaker_ids": pad([row for example in examples for row in example.speaker_ids], NO_POSITION),
            "document_of_row": pad([owner], 0)[0],
            "genre": torch.tensor([GENRES.index(name) if name in GENRES else 0 for name in genres]),
            "labels": labels,
        }


def decode_coreference(spans: Tensor, antecedents: Tensor, antecedent_scores: Tensor) -> tuple[Cluster, ...]:
    """Clusters of one document: every span joins the antecedent with the best score, if one is above 0.

    A span that joins none and that none joins is no mention, so there is no cluster of one.

    Args:
        spans: int ``[K, 2]``, first and last word, rows of -1 being padding.
        antecedents: int ``[K, A]``, which spans.
        antecedent_scores: ``[K, A]``, against 0 for no antecedent; ``-inf`` for padding.
    """
    best, place = antecedent_scores.float().max(1)
    joined: list[set[Mention]] = []
    for number in (best > 0).nonzero()[:, 0].tolist():
        other = int(antecedents[number, place[number]])
        joined.append({Mention(*spans[number].tolist()), Mention(*spans[other].tolist())})
    return merge_clusters(joined)
