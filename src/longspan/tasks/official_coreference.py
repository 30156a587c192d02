"""Coreference as an :class:`longspan.tasks.official.OfficialTask`."""

# ruff: noqa: D102

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longspan.tasks import coreference, hub
from longspan.tasks.coreference_head import CoreferenceSizes
from longspan.tasks.coreference_layout import CoreferenceLayout, decode_coreference
from longspan.tasks.coreference_metric import (
    count_coreference,
    evaluate_coreference,
    official_scores,
    score_counts,
)
from longspan.tasks.coreference_model import LongformerForCoreference
from longspan.tasks.official import Decoded, ItemView, OfficialTask, Split


@dataclass(frozen=True, kw_only=True)
class Coreference(OfficialTask, CoreferenceSizes):
    """See :mod:`longspan.tasks.coreference`. Sources: files and folders of CoNLL-2012;
    ``hub:ontonotes/conll2012_ontonotesv5:english_v4``. The settings are the sizes of the head.
    """

    name = "coreference"
    recipe = coreference.RECIPE
    target = "cluster of mentions"
    all_have_targets = False
    suffix = ".conll"

    def from_files(self, source: str, split: Split) -> list[Any]:
        return coreference.read_conll(source)

    def from_hub(self, rows: hub.Rows) -> list[Any]:
        return hub.coreference_from_hub(rows)

    def keys(self, item: Any) -> Sequence[str]:
        return (item.key,)

    def has_target(self, item: Any) -> bool:
        return bool(item.clusters)

    def model_class(self) -> type[LongformerForCoreference]:
        return LongformerForCoreference

    def config_fields(self, max_length: int) -> dict[str, Any]:
        return {"coreference": asdict(self)}

    def layout(self, tokenizer: Any, max_length: int) -> CoreferenceLayout:
        return CoreferenceLayout(tokenizer, max_length)

    def decode(self, units: Sequence[Any], examples: Sequence[Any], output: Any) -> list[Decoded]:
        decoded: list[Decoded] = []
        for at, unit in enumerate(units):
            found = decode_coreference(output.spans[at], output.antecedents[at], output.antecedent_scores[at])
            decoded.append([unit.key, [[list(mention) for mention in cluster] for cluster in found]])
        return decoded

    def collect(self, decoded: Iterable[Decoded]) -> dict[str, Any]:
        return {
            key: tuple(tuple(coreference.Mention(*mention) for mention in cluster) for cluster in clusters)
            for key, clusters in decoded
        }

    def score(self, items: Sequence[Any], predictions: Mapping[str, Any]) -> dict[str, float]:
        return evaluate_coreference(items, predictions)

    def rescorer(
        self, items: Sequence[Any], predictions: Mapping[str, Any]
    ) -> Callable[[NDArray[np.int64]], dict[str, float]]:
        counts = np.array([count_coreference(item.clusters, predictions[item.key]) for item in items])
        return lambda chosen: official_scores(score_counts(counts[chosen].sum(0)))

    def view(self, item: Any, predictions: Mapping[str, Any]) -> ItemView:
        """The beginnings of the text and of its clusters."""
        words = [word for sentence in item.sentences for word in sentence]
        right, found = (
            "; ".join(
                " = ".join(" ".join(words[mention.first : mention.last + 1]) for mention in sorted(cluster))
                for cluster in sorted(clusters, key=min)
            )
            for clusters in (item.clusters, predictions[item.key])
        )
        return ItemView(asked=" ".join(words), right=right, predicted=found)

    def write(self, path: Path, items: Sequence[Any], predictions: Mapping[str, Any]) -> None:
        coreference.write_conll(path, items, predictions)
