"""How texts, queries and summaries become a model's inputs, and which tokens are global."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from longspan.data.masking import IGNORED
from longspan.training.masked_lm import refuse_unknown_tokens
from longspan.training.sequence_to_sequence import position_limits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class EncodedText(NamedTuple):
    """One text as token ids."""

    input_ids: list[int]
    global_tokens: int
    """So many tokens at the front are global."""
    labels: list[int] | None = None
    """The summary's token ids."""


@dataclass(frozen=True, kw_only=True)
class SummarizationInputs:
    """Encodes and collates for one model.

    Without a query the first token is global (paper, section 7). A query stands in front of the text, as
    ``<s> query </s> text </s>``, and all its tokens are global, its separators too. A text that is too
    long loses its end.

    Raises:
        ValueError: the tokenizer has tokens beyond ``vocabulary`` that aren't special.
    """

    tokenizer: "PreTrainedTokenizerBase"
    max_input_length: int
    """Tokens of query and text together, special ones included."""
    max_target_length: int = 256
    """Tokens of a summary to learn, special ones included."""
    has_global_attention: bool = True
    """The model takes a ``global_attention_mask``, as LED does and BART doesn't."""
    prefix: str = ""
    """What stands in front of every text, or of its query, such as T5's ``"summarize: "``."""
    vocabulary: int | None = None
    """Tokens that the model has vectors for; None: all of the tokenizer's. Special tokens beyond them, such as the
    ``<mask>`` of ``facebook/bart-large-cnn``, are read as the unknown token where a text holds them."""

    def __post_init__(self) -> None:
        if self.vocabulary is None or self.vocabulary >= len(self.tokenizer):
            return
        special = self.tokenizer.all_special_ids if self.tokenizer.unk_token_id is not None else ()
        if any(number >= self.vocabulary and number not in special for number in self.tokenizer.get_vocab().values()):
            refuse_unknown_tokens(self.tokenizer, self.vocabulary)

    def encode(self, text: str, query: str | None = None, summary: str | None = None) -> EncodedText:
        """Token ids of one example.

        Raises:
            ValueError: the query leaves no room for the text.
        """
        front: list[int] = self.tokenizer(self.prefix + query).input_ids if query else []
        text = text if query else self.prefix + text
        room = self.max_input_length - len(front)
        if room < 8:
            raise ValueError(
                f"a query takes {len(front)} of {self.max_input_length} tokens; shorten it or raise max_input_length"
            )
        begins = bool(front) and front[0] == self.tokenizer.bos_token_id
        ids: list[int] = self.tokenizer(text, truncation=True, max_length=room + begins).input_ids
        if begins and ids[0] == self.tokenizer.bos_token_id:
            ids = ids[1:]
        labels = None
        if summary is not None:
            written = self.tokenizer(text_target=summary, truncation=True, max_length=self.max_target_length)
            labels = self._known(written.input_ids)
        return EncodedText(self._known(front + ids), len(front) or 1, labels)

    def _known(self, ids: list[int]) -> list[int]:
        """The ids with the unknown token in place of those that the model has no vectors for."""
        if self.vocabulary is None:
            return ids
        return [number if number < self.vocabulary else self.tokenizer.unk_token_id for number in ids]

    def collate(self, examples: Sequence[EncodedText]) -> dict[str, Tensor]:
        """A padded batch.

        Returns:
            int64 ``input_ids``, ``attention_mask`` and, if the model takes it, ``global_attention_mask`` ``[B, N]``;
            ``labels`` ``[B, T]`` if the examples have some, -100 where there is none.
        """
        pad = self.tokenizer.pad_token_id
        longest = max(len(example.input_ids) for example in examples)
        input_ids = torch.full((len(examples), longest), pad)
        attention_mask, global_mask = torch.zeros_like(input_ids), torch.zeros_like(input_ids)
        for row, example in enumerate(examples):
            input_ids[row, : len(example.input_ids)] = torch.tensor(example.input_ids)
            attention_mask[row, : len(example.input_ids)] = 1
            global_mask[row, : example.global_tokens] = 1
        batch = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self.has_global_attention:
            batch["global_attention_mask"] = global_mask
        targets = [example.labels for example in examples if example.labels is not None]
        if targets:
            labels = torch.full((len(examples), max(map(len, targets))), IGNORED)
            for row, target in enumerate(targets):
                labels[row, : len(target)] = torch.tensor(target)
            batch["labels"] = labels
        return batch


def check_lengths(
    config: Any, max_input_length: int, max_target_length: int, max_new_tokens: int | None = None
) -> None:
    """See that a model has the positions.

    Raises:
        ValueError: it hasn't.
    """
    read, written = position_limits(config)
    given = {
        "max_input_length": (max_input_length, read),
        "max_target_length": (max_target_length, written),
        "max_new_tokens": (max_new_tokens, written),
    }
    for name, (wanted, limit) in given.items():
        if limit is not None and wanted is not None and wanted > limit:
            option = "--max-positions" if name == "max_input_length" else "--max-decoder-positions"
            raise ValueError(
                f"{name} is {wanted:,} but the {config.model_type} model has {limit:,} positions; lower it, or "
                f"lengthen the model: longspan convert {option} {wanted}"
            )
