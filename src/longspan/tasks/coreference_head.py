"""The coarse-to-fine head of coreference: which spans are mentions, and which earlier mention each refers to.

The model of Lee et al. (2018) as Joshi et al. (2019) run it over a pretrained encoder (mandarjoshi90/coref), which
Beltagy et al. (2020, appendix D) keep. Its time and memory are linear in the document but for the coarse scores' time:
spans are pruned block by block without gradients, and only what is kept is scored again with them, blocks of the fine
scores being computed anew in the backward pass.
"""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedConfig

from longspan.tasks.coreference_layout import GENRES

_STARTS, _SPANS = 64, 64
"""Span starts, and spans with all their antecedents, that are scored at once."""
_BUCKETS = 10


@dataclass(frozen=True, kw_only=True)
class CoreferenceSizes:
    """Sizes of the head; ``config.coreference`` holds those that differ from these, which are mandarjoshi90/coref's.

    Raises:
        ValueError: a value out of range.
    """

    hidden_size: int = 3000
    """Size of the scorers' one hidden layer."""
    feature_size: int = 20
    """Size of the vectors for widths, distances, speakers and genres."""
    max_span_width: int = 30
    """Most tokens of a mention."""
    top_span_ratio: float = 0.4
    """Spans that are kept, per token of the document."""
    max_top_spans: int = 3900
    """Most spans that are kept of a document."""
    max_antecedents: int = 50
    """Antecedents of a span that get a fine score."""
    depth: int = 2
    """Rounds of fine scores; between rounds, each span's vector is updated from its likely antecedents."""
    dropout: float = 0.3
    """Dropout of features and hidden layers."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value <= 0 and name != "dropout":
                raise ValueError(f"coreference {name} is {value}; it must be greater than 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"coreference dropout is {self.dropout}; it must be at least 0 and less than 1")


class Antecedents(NamedTuple):
    """What the head finds in a document of n tokens."""

    spans: Tensor
    """First and last token of the K kept spans, int ``[K, 2]``, in the order of the text."""
    antecedents: Tensor
    """For each the kept spans that it may refer to, int ``[K, A]``."""
    scores: Tensor
    """How well, against 0 for none: fp32 ``[K, A]``, ``-inf`` where there are fewer than A."""


class CoreferenceHead(nn.Module):
    """See the module. C is the encoder's size, E = 3 C + ``feature_size`` that of a span's vector.

    Args:
        config: gives C, and the sizes in its field ``coreference``.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.sizes = sizes = CoreferenceSizes(**(getattr(config, "coreference", None) or {}))
        size, feature = config.hidden_size, sizes.feature_size
        span = 3 * size + feature
        self.width_embeddings = nn.Embedding(sizes.max_span_width, feature)
        self.head_attention = nn.Linear(size, 1)
        self.mention_scorer = self._scorer(span)
        self.width_prior_embeddings = nn.Embedding(sizes.max_span_width, feature)
        self.width_scorer = self._scorer(feature)
        self.coarse_projection = nn.Linear(span, span)
        self.distance_prior_embeddings = nn.Embedding(_BUCKETS, feature)
        self.distance_scorer = nn.Linear(feature, 1)
        self.speaker_embeddings = nn.Embedding(2, feature)
        self.genre_embeddings = nn.Embedding(len(GENRES), feature)
        self.distance_embeddings = nn.Embedding(_BUCKETS, feature)
        self.antecedent_scorer = self._scorer(3 * span + 3 * feature)
        self.refinement_gate = nn.Linear(2 * span, span) if sizes.depth > 1 else None
        self.dropout = nn.Dropout(sizes.dropout)

    def _scorer(self, inputs: int) -> nn.Sequential:
        hidden = self.sizes.hidden_size
        return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(self.sizes.dropout), nn.Linear(hidden, 1))

    def forward(
        self, hidden: Tensor, word_ids: Tensor, sentence_ids: Tensor, speaker_ids: Tensor, genre: Tensor
    ) -> Antecedents:
        """Find mentions and score their antecedents in one document.

        Args:
            hidden: the tokens' vectors, ``[n, C]``, n at least 1; the scores are computed in fp32.
            word_ids, sentence_ids, speaker_ids: int ``[n]``, of each token. A mention begins and ends with a word and
                stays in a sentence (that it doesn't cut words is our choice).
            genre: int ``[]``, in the order of ``GENRES``.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.float()
            spans = self._prune(hidden, word_ids, sentence_ids)
            vectors = self._span_vectors(hidden, spans)  # [K, E]
            widths = spans[:, 1] - spans[:, 0]
            mention_scores = self.mention_scorer(vectors)[:, 0] + self._width_scores()[widths]  # [K]
            antecedents, offsets = self._coarse_antecedents(vectors, mention_scores)  # [K, A]
            coarse = self._coarse_scores(vectors, mention_scores, antecedents, offsets)
            speakers = speaker_ids[spans[:, 0]]
            same_speaker = (speakers[:, None] == speakers[antecedents]).long()
            scores = coarse
            for layer in range(self.sizes.depth):
                fine, attended = self._fine_scores(
                    vectors, antecedents, offsets, same_speaker, genre, coarse, layer + 1 < self.sizes.depth
                )
                scores = coarse + fine
                if attended is not None and self.refinement_gate is not None:
                    gate = self.refinement_gate(torch.cat([vectors, attended], dim=1)).sigmoid()
                    vectors = gate * attended + (1 - gate) * vectors
        return Antecedents(spans, antecedents, scores.masked_fill(offsets < 1, -torch.inf))

    # ---- spans

    @torch.no_grad()
    def _prune(self, hidden: Tensor, word_ids: Tensor, sentence_ids: Tensor) -> Tensor:
        """The spans to keep, int ``[K, 2]``: the best that don't cross one that is better."""
        length, width = hidden.shape[0], self.sizes.max_span_width
        changes = word_ids[1:] != word_ids[:-1]
        edge = changes.new_ones(1)
        starts = torch.cat([edge, changes]).nonzero()[:, 0]  # [s], the first token of each word
        is_last = torch.cat([changes, edge])
        scorer: Any = self.mention_scorer
        first, last = scorer[0], scorer[3]
        of_start, of_end, of_width, of_head = first.weight.split(
            [hidden.shape[1], hidden.shape[1], self.sizes.feature_size, hidden.shape[1]], dim=1
        )
        # A span's vector is start, end, width and head in a row, so their parts of the layer can be applied before.
        by_start, by_end, by_head = (hidden @ part.T for part in (of_start, of_end, of_head))  # [n, hidden_size]
        by_width = self.width_embeddings.weight @ of_width.T + first.bias
        attention = self.head_attention(hidden)[:, 0]
        priors = self._width_scores()
        steps = torch.arange(width, device=hidden.device)
        found = []
        for block in starts.split(_STARTS):
            window = block[:, None] + steps  # [b, W]
            inside = window < length
            window = window.clamp(max=length - 1)
            weights = attention[window][:, None].masked_fill(steps > steps[:, None], -torch.inf).softmax(-1)
            headed = weights @ by_head[window]  # [b, W, hidden_size]
            layer = (by_start[block][:, None] + by_end[window] + by_width + headed).relu()
            scores = last(layer)[..., 0] + priors
            inside &= is_last[window] & (sentence_ids[window] == sentence_ids[block][:, None])
            rows, columns = inside.nonzero(as_tuple=True)
            found.append((block[rows], window[rows, columns], scores[rows, columns]))
        begins, ends, scores = (torch.cat(parts).cpu().numpy() for parts in zip(*found, strict=True))
        keep = max(1, min(self.sizes.max_top_spans, int(self.sizes.top_span_ratio * length)))
        chosen = best_without_crossing(begins, ends, scores, length, keep)
        return torch.from_numpy(np.column_stack([begins[chosen], ends[chosen]])).to(hidden.device)

    def _span_vectors(self, hidden: Tensor, spans: Tensor) -> Tensor:
        """``[K, E]``: first token, last token, width, and the mean of all tokens weighted by attention."""
        steps = torch.arange(self.sizes.max_span_width, device=hidden.device)
        widths = spans[:, 1] - spans[:, 0]
        window = (spans[:, :1] + steps).clamp(max=hidden.shape[0] - 1)  # [K, W]
        logits = self.head_attention(hidden)[:, 0][window].masked_fill(steps > widths[:, None], -torch.inf)
        head = (logits.softmax(-1)[:, None] @ hidden[window])[:, 0]
        width = self.dropout(self.width_embeddings(widths))
        return torch.cat([hidden[spans[:, 0]], hidden[spans[:, 1]], width, head], dim=1)

    def _width_scores(self) -> Tensor:
        """What a span's width alone speaks for it, ``[W]``."""
        return cast(Tensor, self.width_scorer(self.width_prior_embeddings.weight)[:, 0])

    # ---- antecedents

    @torch.no_grad()
    def _coarse_antecedents(self, vectors: Tensor, mention_scores: Tensor) -> tuple[Tensor, Tensor]:
        """The spans that come before each with the best coarse scores, and how many spans before; both ``[K, A]``."""
        count = vectors.shape[0]
        most = min(self.sizes.max_antecedents, count)
        priors = self.distance_scorer(self.distance_prior_embeddings.weight)[:, 0]
        numbers = torch.arange(count, device=vectors.device)
        chosen = []
        for block in numbers.split(_SPANS):
            offsets = block[:, None] - numbers  # [b, K]
            scores = self.coarse_projection(vectors[block]) @ vectors.T + mention_scores + priors[_bucket(offsets)]
            chosen.append(scores.masked_fill(offsets < 1, -torch.inf).topk(most, dim=1).indices)
        antecedents = torch.cat(chosen)
        return antecedents, numbers[:, None] - antecedents

    def _coarse_scores(self, vectors: Tensor, mention_scores: Tensor, antecedents: Tensor, offsets: Tensor) -> Tensor:
        """The coarse scores of the chosen antecedents with gradients, ``[K, A]``."""
        sources, targets = self.dropout(self.coarse_projection(vectors)), self.dropout(vectors)

        def products(source: Tensor, block: Tensor, targets: Tensor) -> Tensor:
            return (targets[block] @ source[..., None])[..., 0]

        parts = [
            _again(products, source, block, targets)
            for source, block in zip(sources.split(_SPANS), antecedents.split(_SPANS), strict=True)
        ]
        priors = self.distance_scorer(self.dropout(self.distance_prior_embeddings.weight))[:, 0]
        both = mention_scores[:, None] + mention_scores[antecedents]
        return torch.cat(parts) + both + priors[_bucket(offsets)]

    def _fine_scores(
        self,
        vectors: Tensor,
        antecedents: Tensor,
        offsets: Tensor,
        same_speaker: Tensor,
        genre: Tensor,
        coarse: Tensor,
        attend: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Fine scores ``[K, A]``, and if asked each span's mean over itself and its antecedents, ``[K, E]``."""
        size, feature = vectors.shape[1], self.sizes.feature_size
        scorer: Any = self.antecedent_scorer
        first, relu, dropout, last = scorer
        of_span, of_other, of_product, of_features = first.weight.split([size, size, size, 3 * feature], dim=1)
        by_span, by_other = vectors @ of_span.T + first.bias, vectors @ of_other.T  # [K, hidden_size]

        def block_scores(begin: int, vectors: Tensor, by_span: Tensor, by_other: Tensor, coarse: Tensor) -> Any:
            rows = slice(begin, begin + _SPANS)
            others, mine = antecedents[rows], vectors[rows, None]
            theirs = vectors[others]  # [b, A, E]
            features = torch.cat(
                [
                    self.speaker_embeddings(same_speaker[rows]),
                    self.genre_embeddings(genre).expand(*others.shape, feature),
                    self.distance_embeddings(_bucket(offsets[rows])),
                ],
                dim=-1,
            )
            layer = by_span[rows, None] + by_other[others] + (mine * theirs) @ of_product.T
            layer = layer + self.dropout(features) @ of_features.T
            scores = last(dropout(relu(layer)))[..., 0]
            if not attend:
                return scores, scores.new_zeros(0)
            # A score of 0 stands for no antecedent, where the span keeps its own vector.
            whole = (scores + coarse[rows]).masked_fill(offsets[rows] < 1, -torch.inf)
            weights = F.pad(whole, (1, 0)).softmax(1)
            return scores, weights[:, :1] * vectors[rows] + (weights[:, None, 1:] @ theirs)[:, 0]

        parts = [
            _again(block_scores, begin, vectors, by_span, by_other, coarse)
            for begin in range(0, vectors.shape[0], _SPANS)
        ]
        scores, attended = (torch.cat(column) for column in zip(*parts, strict=True))
        return scores, attended if attend else None


def best_without_crossing(
    begins: NDArray[np.int64], ends: NDArray[np.int64], scores: NDArray[np.float32], length: int, keep: int
) -> NDArray[np.int64]:
    """The best spans, none of which crosses another: one may lie in another, but not end in it and begin before.

    Args:
        begins, ends: first and last token of each candidate, ``[c]``.
        scores: ``[c]``.
        length: tokens of the document.
        keep: at most so many.

    Returns:
        Which candidates, sorted by begin and end.
    """
    chosen: list[int] = []
    # Of the spans that are taken: the last end of those that begin at a token, the first begin of those that end there.
    last_end = np.full(length, -1)
    first_begin = np.full(length, length)
    for candidate in np.argsort(-scores, kind="stable").tolist():
        begin, end = begins[candidate], ends[candidate]
        if end > begin and (last_end[begin + 1 : end + 1].max() > end or first_begin[begin:end].min() < begin):
            continue
        chosen.append(candidate)
        last_end[begin] = max(last_end[begin], end)
        first_begin[end] = min(first_begin[end], begin)
        if len(chosen) == keep:
            break
    taken = np.array(chosen, dtype=np.int64)
    return taken[np.lexsort((ends[taken], begins[taken]))]


def _bucket(distances: Tensor) -> Tensor:
    """Distances in ten groups: 0, 1, 2, 3, 4, 5 to 7, 8 to 15, 16 to 31, 32 to 63, more."""
    powers = distances.clamp(min=1).log2().floor().long() + 3
    return torch.where(distances <= 4, distances, powers).clamp(0, _BUCKETS - 1)


def _again(function: Any, *arguments: Any) -> Any:
    """``function(*arguments)``, computed again in the backward pass instead of kept."""
    if not torch.is_grad_enabled():
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False)
