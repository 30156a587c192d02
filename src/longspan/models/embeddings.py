"""Token, position and token-type embeddings, as RoBERTa's."""

import torch
from torch import Tensor, nn

from longspan.attention.inspection import can_inspect, has_values
from longspan.models.configuration import LongformerConfig
from longspan.models.inputs import check_embeds, check_ids, one_input, table_rows


class LongformerEmbeddings(nn.Module):
    """The sum of word, position and token-type embeddings, normalised; key names are Hugging Face's.

    Positions start at ``pad_token_id + 1`` and count tokens that aren't padding, so that padding on the left
    changes nothing; padding itself has position ``pad_token_id``. A table of 4,098 rows with ``pad_token_id``
    1 thus holds 4,096 positions.
    """

    def __init__(self, config: LongformerConfig) -> None:
        super().__init__()
        if config.pad_token_id is None:
            raise ValueError("pad_token_id must be set, positions are counted from it; RoBERTa's is 1")
        self.padding_idx: int = config.pad_token_id
        self.hidden_size: int = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=self.padding_idx)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.position_embeddings = nn.Embedding(
            config.max_position_embeddings, config.hidden_size, padding_idx=self.padding_idx
        )

    def embeds_padding_alike(
        self,
        key_mask: Tensor | None,
        input_ids: Tensor | None,
        token_type_ids: Tensor | None,
        position_ids: Tensor | None,
    ) -> bool:
        """Whether all that ``key_mask`` (bool ``[B, N]``) says is padding has one embedding, as far as can be told."""
        if key_mask is None or input_ids is None or position_ids is not None or not can_inspect(input_ids):
            return False
        if not bool((input_ids[~key_mask] == self.padding_idx).all()):
            return False
        types = None if token_type_ids is None else token_type_ids.expand_as(input_ids)[~key_mask]
        return types is None or bool((types == types[:1]).all())

    @property
    def max_tokens(self) -> int:
        """How many tokens, padding not counted, have a position."""
        return table_rows(self.position_embeddings) - self.padding_idx - 1

    def forward(
        self,
        input_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Embed a batch of texts.

        Args:
            input_ids: int ``[B, N]``; exactly one of it and ``inputs_embeds``.
            token_type_ids: int ``[B, N]``; ``None`` is type 0 everywhere.
            position_ids: int ``[B, N]`` or ``[1, N]``; ``None`` counts them as the class says, and with
                ``inputs_embeds`` counts every row from 0 to N, since padding isn't known.
            inputs_embeds: ``[B, N, C]`` in place of the word embeddings.

        Returns:
            ``[B, N, C]``.

        Raises:
            ValueError: neither or both inputs, an id out of range, an empty input, or more tokens than
                positions.
        """
        given = self.check(input_ids, inputs_embeds, token_type_ids)
        inputs_embeds = self.word_embeddings(given) if input_ids is not None else given
        if position_ids is None:
            position_ids = self._count_positions(input_ids, inputs_embeds)
        else:
            rows = table_rows(self.position_embeddings)
            check_ids("position_ids", position_ids, rows, "the table has no further row", inputs_embeds)
        # A row for every token, which is what hooks and attribution methods expect of each table.
        position_ids = position_ids.expand(inputs_embeds.shape[:2])
        if token_type_ids is None:
            token_type_ids = position_ids.new_zeros(1, 1)
        token_type_ids = token_type_ids.expand(inputs_embeds.shape[:2])
        embeddings = inputs_embeds + self.position_embeddings(position_ids)
        embeddings = embeddings + self.token_type_embeddings(token_type_ids)
        return self.dropout(self.LayerNorm(embeddings))

    def check(self, input_ids: Tensor | None, inputs_embeds: Tensor | None, token_type_ids: Tensor | None) -> Tensor:
        """See that inputs are what :meth:`forward` takes, before they are taken apart for it.

        Returns:
            The ids or the embeddings, whichever are given.

        Raises:
            TypeError, ValueError: as :meth:`forward`.
        """
        given = one_input(input_ids, inputs_embeds)
        if input_ids is None:
            check_embeds(given, self.hidden_size, self.LayerNorm)
        else:
            check_ids("input_ids", given, table_rows(self.word_embeddings), "is the tokenizer this model's?")
        if token_type_ids is not None:
            rows = table_rows(self.token_type_embeddings)
            check_ids("token_type_ids", token_type_ids, rows, "type_vocab_size counts the types", given)
        return given

    def _count_positions(self, input_ids: Tensor | None, inputs_embeds: Tensor) -> Tensor:
        """Position ids, int64: ``[B, N]`` from ids, ``[1, N]`` from embeddings."""
        length = inputs_embeds.shape[1]
        if input_ids is None:
            if length > self.max_tokens:
                raise ValueError(self._too_long(length))
            first = self.padding_idx + 1
            return torch.arange(first, first + length, device=inputs_embeds.device)[None]
        is_token = input_ids.ne(self.padding_idx)
        # Padding takes no position: only a text that is long on paper is counted, so ordinary lengths cost no
        # wait.
        if length > self.max_tokens and has_values(is_token):
            longest = int(is_token.sum(1).max())
            if longest > self.max_tokens:
                raise ValueError(self._too_long(longest))
        return is_token.cumsum(1) * is_token + self.padding_idx

    def _too_long(self, length: int) -> str:
        return (
            f"the text has {length} tokens, but this model has positions for {self.max_tokens}; truncate or "
            f"split the text, or make the model longer with longspan.lengthen"
        )
