"""Examples into the tokens a model reads, with the way back from its outputs to the example.

An example becomes one piece or several. A text to classify is one piece, cut at the model's length. Sentences, words
and contexts to search go on in another piece where they don't fit. How much is cut is told.

=================  =================================================================================
task               tokens
=================  =================================================================================
classification     ``<s> text </s>``, the text's end cut
nli                ``<s> hypothesis </s></s> premise </s>``, the premise's end cut
multiple-choice    ``<s> context </s></s> question choice </s>`` for each choice, the context's end cut
qa                 ``<s> question </s></s> context </s>``, pieces of the context that overlap
tokens             ``<s> words </s>``, pieces that end between words
sequential         segments, each headed by ``<s>`` or ``</s>``, one or more for a sentence
=================  =================================================================================

With the layout ``segments``, the first three are segments as well: the text's, then one for each text that stands with
it.

Separators are those of the tokenizer. What stands with a text, a hypothesis, a question or a choice, is cut as well: to
half of the tokens, of a text that is cut, or to its segment. So is a sentence that fills more than a piece.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longspan.data.examples import Answer, Example
from longspan.data.segments import SegmentLayout
from longspan.data.tokenization import tokenize_with_offsets
from longspan.tasks.segment_rows import encode_with_tails
from longspan.training.finetuning.task import FinetunedTask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""The label of a place without one."""

Ids = NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class EncodedPiece:
    """What a model reads at once, N tokens."""

    input_ids: Ids
    """``[N]``, or ``[M, N]`` for M choices."""
    attention_mask: NDArray[np.int8]
    """In the same shape, 0 marks padding."""
    token_type_ids: NDArray[np.int8]
    """In the same shape, what the tokenizer gives the first and the second text of a pair."""
    targets: dict[str, Any] = field(default_factory=dict)
    """``labels``, or ``start_positions`` and ``end_positions``; empty without a target."""
    places: NDArray[np.int64]
    """Sequential: rows ``[segment, sentence]``; tokens: ``[column, word]``, of each word's first token; else ``[column,
    start, stop]``, the characters of each token of the text that is cut or searched."""

    @property
    def length(self) -> int:
        """Tokens, of all choices together."""
        return int(self.input_ids.size)


@dataclass(frozen=True, kw_only=True)
class EncodedExample:
    """The pieces of an example."""

    pieces: tuple[EncodedPiece, ...]
    """At least one."""
    tokens: int
    """Tokens of its texts, without special tokens; of several choices those with the one that loses, or has, most."""
    cut: int
    """How many of them are in no piece."""


class ExampleEncoder:
    """Encode and collate the examples of a task.

    Args:
        task: the task, with its lengths.
        tokenizer: a fast tokenizer.
        token_types: how many types of tokens the model tells apart, see :func:`known_token_types`.

    Raises:
        ValueError: a tokenizer without offsets, or one that lacks a token that the task needs.
    """

    def __init__(self, task: FinetunedTask, tokenizer: "PreTrainedTokenizerBase", *, token_types: int = 2) -> None:
        self.task, self.tokenizer = task, tokenizer
        self._pad: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        # A tokenizer may have types where its model knows none, as a BERT's beside a Longformer.
        self._with_types = "token_type_ids" in tokenizer.model_input_names and token_types > 1
        self._numbers = {label: number for number, label in enumerate(task.labels)}
        single, pair = self._template(), self._template(pair=True)
        self._single, self._pair = single, pair
        self._layout: SegmentLayout | None = None
        if task.has_segments:
            self._layout = SegmentLayout.for_tokenizer(
                tokenizer,
                segment_length=task.segment_length,
                max_segments=task.max_length // task.segment_length,
                attend_inner_padding=task.attend_inner_padding,
            )

    @property
    def has_separators(self) -> bool:
        """Whether the tokenizer marks where a text begins, and where texts stand side by side, the second one."""
        if self._layout is not None:
            return True
        pairs = self.task.task in ("nli", "multiple-choice", "qa")
        return bool(len(self._pair.between)) if pairs else bool(len(self._single.before) or len(self._single.after))

    def encode(self, example: Example) -> EncodedExample:
        """The pieces of an example, with targets if it has one."""
        inputs, target = example.inputs, example.target
        name = self.task.task
        if name == "nli" and self.task.layout == "segments":
            return self._classified(self._in_segments(inputs["premise"], [inputs["hypothesis"]]), target)
        if name == "nli":
            return self._classified(self._cut_pair(inputs["hypothesis"], inputs["premise"]), target)
        if name in ("classification", "multi-label") and self.task.layout == "segments":
            return self._classified(self._in_segments(inputs["text"], []), target)
        if name in ("classification", "multi-label"):
            return self._classified(self._cut_single(inputs["text"]), target)
        if name == "multiple-choice":
            return self._choices(inputs, target)
        if name == "qa":
            return self._contexts(inputs, target)
        if name == "tokens":
            return self._words(inputs["tokens"], target)
        return self._sentences(inputs["sentences"], target)

    def collate(self, pieces: Sequence[EncodedPiece]) -> dict[str, Tensor]:
        """A batch, padded on the right.

        Returns:
            ``input_ids`` and ``attention_mask`` int64 ``[B, N]`` (``[B, M, N]`` for M choices, padded with choices of
            one token if examples have fewer), ``token_type_ids`` if tokenizer and model have them, and the targets.
        """
        batch = {"input_ids": _pad([piece.input_ids for piece in pieces], self._pad)}
        batch["attention_mask"] = _pad([piece.attention_mask for piece in pieces], 0)
        if self._with_types:
            batch["token_type_ids"] = _pad([piece.token_type_ids for piece in pieces], 0)
        if self.task.task == "multiple-choice":
            # A choice that is all padding has no token to attend to; its logit is never read.
            batch["attention_mask"][..., 0] = 1
        for name in pieces[0].targets:
            values = [np.asarray(piece.targets[name]) for piece in pieces]
            batch[name] = _pad(values, IGNORED) if values[0].ndim else torch.tensor(np.stack(values))
        if self.task.task == "multi-label" and "labels" in batch:
            batch["labels"] = batch["labels"].float()
        return batch

    # ---- tasks

    def _classified(self, encoded: tuple[EncodedPiece, int, int], target: Any) -> EncodedExample:
        piece, tokens, cut = encoded
        if target is not None and self.task.task == "multi-label":
            held = [self._numbers[label] for label in target]
            piece.targets["labels"] = np.isin(np.arange(len(self._numbers)), held).astype(np.float32)
        elif target is not None:
            piece.targets["labels"] = self._numbers[target]
        return EncodedExample(pieces=(piece,), tokens=tokens, cut=cut)

    def _choices(self, inputs: dict[str, Any], target: int | None) -> EncodedExample:
        if self.task.layout == "segments":
            question = [inputs["question"]] if inputs["question"] else []
            rows = [self._in_segments(inputs["context"], [*question, choice]) for choice in inputs["choices"]]
        else:
            texts = [f"{inputs['question']} {choice}".strip() for choice in inputs["choices"]]
            rows = [self._cut_pair(text, inputs["context"], kept_last=True) for text in texts]
        cut, tokens = max((cut, tokens) for _, tokens, cut in rows)
        width = max(piece.input_ids.size for piece, _, _ in rows)

        def stack(arrays: list[NDArray[Any]], fill: int) -> NDArray[Any]:
            return np.stack([np.pad(array, (0, width - array.size), constant_values=fill) for array in arrays])

        piece = EncodedPiece(
            input_ids=stack([row.input_ids for row, _, _ in rows], self._pad),
            attention_mask=stack([row.attention_mask for row, _, _ in rows], 0),
            token_type_ids=stack([row.token_type_ids for row, _, _ in rows], 0),
            targets={} if target is None else {"labels": target},
            places=rows[0][0].places,
        )
        return EncodedExample(pieces=(piece,), tokens=tokens, cut=cut)

    def _contexts(self, inputs: dict[str, Any], target: tuple[Answer, ...] | None) -> EncodedExample:
        room = self.task.max_length - self._pair.size
        asked = self._ids(inputs["question"])[0]
        question = asked[: room // 2]
        ids, offsets = self._ids(inputs["context"])
        room -= len(question)
        # A step of a quarter at least: an overlap that leaves nothing new would never come to an end.
        step = max(room - self.task.overlap, room // 4, 1)
        pieces = []
        for start in range(0, max(len(ids) - room, 0) + step, step):
            part = slice(start, start + room)
            piece = self._joined(self._pair, question, ids[part])
            places = _places(len(self._pair.before) + len(question) + len(self._pair.between), offsets[part])
            pieces.append(_with(piece, places, {} if target is None else _span(places, target)))
            if start + room >= len(ids):
                break
        return EncodedExample(pieces=tuple(pieces), tokens=len(asked) + len(ids), cut=len(asked) - len(question))

    def _words(self, words: Sequence[str], target: tuple[str, ...] | None) -> EncodedExample:
        stops = np.cumsum([len(word) + 1 for word in words]) - 1  # of each word in the joined text
        ids, offsets = self._ids(" ".join(words))
        word_of = np.searchsorted(stops, offsets[:, 1], side="left")  # [n]; a token may begin with the space before
        firsts = np.flatnonzero(np.diff(word_of, prepend=-1))  # the first token of each word
        room = self.task.max_length - self._single.size
        pieces: list[EncodedPiece] = []
        start = 0
        while start < len(ids) or not pieces:
            stop = min(start + room, len(ids))
            if stop < len(ids):
                ends = firsts[(firsts > start) & (firsts <= stop)]
                stop = int(ends[-1]) if len(ends) else stop
            piece = self._joined(self._single, ids[start:stop])
            here = firsts[(firsts >= start) & (firsts < stop)]
            places = np.column_stack([here - start + len(self._single.before), word_of[here]])
            targets: dict[str, Any] = {}
            if target is not None:
                labels = np.full(piece.input_ids.size, IGNORED)
                labels[places[:, 0]] = [self._numbers[target[word]] for word in places[:, 1]]
                targets["labels"] = labels
            pieces.append(_with(piece, places, targets))
            start = stop
        return EncodedExample(pieces=tuple(pieces), tokens=len(ids), cut=0)

    def _sentences(self, sentences: Sequence[str], target: tuple[str | None, ...] | None) -> EncodedExample:
        layout = self._layout
        assert layout is not None
        assert layout.max_segments is not None
        ids = [self._ids(sentence)[0] for sentence in sentences]
        needed = [max(1, -(-len(tokens) // (layout.segment_length - 1))) for tokens in ids]
        cuts, filled = [0], 0
        for number, segments in enumerate(needed):
            if filled and filled + segments > layout.max_segments:
                cuts.append(number)
                filled = 0
            filled += segments
        pieces, cut = [], 0
        for start, stop in pairwise([*cuts, len(ids)]):
            laid = layout.arrange([tokens.tolist() for tokens in ids[start:stop]], merge=False, truncate=True)
            cut += laid.truncated
            places = np.column_stack([laid.sentence_starts, np.arange(start, start + len(laid.sentence_starts))])
            targets: dict[str, Any] = {}
            if target is not None:
                labels = np.full(len(laid.segments), IGNORED)
                for segment, sentence in places:
                    label = target[sentence]
                    labels[segment] = IGNORED if label is None else self._numbers[label]
                targets["labels"] = labels
            pieces.append(
                EncodedPiece(
                    input_ids=laid.input_ids.astype(np.int32),
                    attention_mask=laid.attention_mask.astype(np.int8),
                    token_type_ids=np.zeros(len(laid.input_ids), dtype=np.int8),
                    places=places,
                    targets=targets,
                )
            )
        return EncodedExample(pieces=tuple(pieces), tokens=sum(map(len, ids)), cut=cut)

    # ---- tokens

    def _in_segments(self, text: str, tails: Sequence[str]) -> tuple[EncodedPiece, int, int]:
        """A text in segments, its end cut, and short texts behind it in one each, as :meth:`_cut_pair` gives them."""
        assert self._layout is not None
        row = encode_with_tails(self._layout, self.tokenizer, text, tails)
        ids, offsets = self._ids(text)
        behind = [len(self._ids(tail)[0]) for tail in tails]
        kept = len(row.positions) - sum(min(size, self._layout.segment_length - 1) for size in behind)
        piece = EncodedPiece(
            input_ids=row.input_ids.astype(np.int32),
            attention_mask=row.attention_mask.astype(np.int8),
            token_type_ids=np.zeros(len(row.input_ids), dtype=np.int8),
            places=np.column_stack([row.positions[:kept], offsets[:kept]]),
        )
        return piece, len(ids) + sum(behind), row.truncated

    def _ids(self, text: str) -> tuple[Ids, NDArray[np.int64]]:
        """Token ids ``[n]`` and offsets ``[n, 2]`` of a text."""
        ids, offsets = tokenize_with_offsets(self.tokenizer, text)
        return np.asarray(ids, dtype=np.int32), np.asarray(offsets, dtype=np.int64).reshape(-1, 2)

    def _template(self, pair: bool = False) -> "_Template":
        """The special tokens around a text or two, read off an example of the tokenizer's own."""
        text, word = self._known_text()
        encoded = self.tokenizer(text, text if pair else None, truncation=False, return_token_type_ids=True)
        ids, types = np.array(encoded["input_ids"], dtype=np.int32), np.array(encoded["token_type_ids"], dtype=np.int8)
        found = [at for at in range(len(ids)) if ids[at : at + len(word)].tolist() == word]
        if len(found) < 1 + pair:
            raise ValueError(f"{type(self.tokenizer).__name__} changes a text when it adds special tokens to it")
        first, last = found[0], found[-1]
        before, after = slice(first), slice(last + len(word), None)
        between = slice(first + len(word), last if pair else first + len(word))
        return _Template(
            before=ids[before],
            between=ids[between],
            after=ids[after],
            types=(types[before], types[first], types[between], types[last], types[after]),
        )

    def _known_text(self) -> tuple[str, list[int]]:
        """A text that the tokenizer has tokens for, and these; of a vocabulary without an "a", one of its own."""
        special = set(self.tokenizer.all_special_ids)
        own = (self.tokenizer.decode([number]) for number in sorted(self.tokenizer.get_vocab().values()))
        unknown: tuple[str, list[int]] | None = None
        for text in chain("a", own):
            ids = self._ids(text)[0].tolist()
            if ids and not special.intersection(ids):
                return text, ids
            unknown = unknown or ((text, ids) if ids else None)
        if unknown is None:
            raise ValueError(f"{type(self.tokenizer).__name__} has no token for any text")
        return unknown

    def _joined(self, template: "_Template", *parts: Ids) -> EncodedPiece:
        """Parts with their special tokens."""
        first, second = parts[0], parts[1] if len(parts) > 1 else parts[0][:0]
        before, of_first, between, of_second, after = template.types
        types = [before, np.repeat(of_first, len(first)), between, np.repeat(of_second, len(second)), after]
        ids = np.concatenate([template.before, first, template.between, second, template.after])
        return EncodedPiece(
            input_ids=ids,
            attention_mask=np.ones(len(ids), dtype=np.int8),
            token_type_ids=np.concatenate(types),
            places=np.zeros((0, 2), dtype=np.int64),
        )

    def _cut_single(self, text: str) -> tuple[EncodedPiece, int, int]:
        ids, offsets = self._ids(text)
        kept = ids[: self.task.max_length - self._single.size]
        piece = self._joined(self._single, kept)
        return _with(piece, _places(len(self._single.before), offsets[: len(kept)]), {}), len(ids), len(ids) - len(kept)

    def _cut_pair(self, kept_text: str, cut_text: str, kept_last: bool = False) -> tuple[EncodedPiece, int, int]:
        """A pair of a text that stays, up to half of the room, and one that is cut; all tokens, and those cut."""
        room = self.task.max_length - self._pair.size
        stays, (long, offsets) = self._ids(kept_text)[0], self._ids(cut_text)
        tokens = len(stays) + len(long)
        if tokens > room:
            stays = stays[: room // 2]
        kept = long[: room - len(stays)]
        first = len(self._pair.before)
        if kept_last:
            piece = self._joined(self._pair, kept, stays)
        else:
            piece = self._joined(self._pair, stays, kept)
            first += len(stays) + len(self._pair.between)
        return _with(piece, _places(first, offsets[: len(kept)]), {}), tokens, tokens - len(stays) - len(kept)


@dataclass(frozen=True, kw_only=True)
class _Template:
    """The special tokens around texts, and the types of all tokens: before, first text, between, second text, after."""

    before: Ids
    between: Ids
    after: Ids
    types: tuple[NDArray[np.int8], np.int8, NDArray[np.int8], np.int8, NDArray[np.int8]]

    @property
    def size(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)


def _with(piece: EncodedPiece, places: NDArray[np.int64], targets: dict[str, Any]) -> EncodedPiece:
    return replace(piece, places=places, targets=targets)


def _places(first: int, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows ``[column, start, stop]`` of tokens that stand from column ``first`` on."""
    return np.column_stack([np.arange(first, first + len(offsets)), offsets])


def _span(places: NDArray[np.int64], answers: tuple[Answer, ...]) -> dict[str, Any]:
    """First and last column of the first answer that lies in the piece; column 0 where none does, as for SQuAD 2.0."""
    for text, start in answers:
        stop = start + len(text)
        inside = places[(places[:, 1] < stop) & (places[:, 2] > start)]
        if len(inside) and inside[0, 1] <= start and inside[-1, 2] >= stop:
            return {"start_positions": int(inside[0, 0]), "end_positions": int(inside[-1, 0])}
    return {"start_positions": 0, "end_positions": 0}


def _pad(arrays: Sequence[NDArray[Any]], fill: int) -> Tensor:
    """Arrays of one rank, padded at the ends to the largest of each dimension; int64, or float32 for floats."""
    shape = np.max([array.shape for array in arrays], axis=0)
    kind = np.float32 if np.issubdtype(arrays[0].dtype, np.floating) else np.int64
    padded = np.full((len(arrays), *shape), fill, dtype=kind)
    for row, array in zip(padded, arrays, strict=True):
        row[tuple(slice(size) for size in array.shape)] = array
    return torch.from_numpy(padded)
