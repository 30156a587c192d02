"""One face for all tasks: official files in, rows for a model, its outputs to official predictions and scores.

What a task does with an item (a question, a document), in order: :meth:`OfficialTask.read`,
:meth:`~OfficialTask.units`, :meth:`~OfficialTask.encode`, the model, :meth:`~OfficialTask.decode`,
:meth:`~OfficialTask.collect`, :meth:`~OfficialTask.score` and :meth:`~OfficialTask.write`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from longspan.data.stream import is_hub
from longspan.tasks.files import write_json
from longspan.tasks.hub import read_hub_rows
from longspan.tasks.recipe import TaskRecipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from longspan.models.heads import LongformerHead

Split = Literal["train", "eval", "test"]
"""What a source is read for: ``eval`` chooses the checkpoint."""

Decoded = list[Any]
"""What was decoded for one unit: a key, then what JSON holds."""

T = TypeVar("T")


class Layout(Protocol):
    """Makes batches of encoded units; :meth:`OfficialTask.encode` encodes with it."""

    def collate(self, examples: Sequence[Any], /) -> dict[str, Tensor]:
        """A batch, the arguments of the model."""
        ...


@dataclass(frozen=True, kw_only=True)
class ItemView:
    """An item with what is predicted for it, to read."""

    asked: str
    """The question, or the text."""
    right: str
    """What is right."""
    predicted: str
    """What is predicted."""


@dataclass(frozen=True, kw_only=True)
class OfficialTask(ABC):
    """A task with its settings, which are the fields of its class."""

    name: ClassVar[str]
    """As on the command line."""
    recipe: ClassVar[TaskRecipe]
    """How it is trained."""
    markers: ClassVar[tuple[str, ...]] = ()
    """What it adds to the vocabulary."""
    suffix: ClassVar[str] = ".json"
    """Of a file of predictions."""
    target: ClassVar[str] = "label"
    """What items are learnt from and scored against is called so."""
    confused: ClassVar[tuple[str, ...]] = ()
    """Labels of which an item has one, and of which :meth:`view` tells the right and the predicted one."""
    averaged: ClassVar[tuple[str, ...]] = ()
    """Scores that are means over the keys of items, and so have intervals; none: all have, see :meth:`rescorer`."""
    all_have_targets: ClassVar[bool] = True
    """Whether every item must have one to be learnt from and scored; False: at least one of a set."""

    def read(self, source: str, split: Split) -> list[Any]:
        """The items of a source.

        Args:
            source: a path in the task's official format, or ``hub:NAME[:CONFIG]``.
            split: what it is read for; tells which part of a source that has several.

        Raises:
            FileNotFoundError, ValueError: the source can't be read, see the task's reader.
        """
        if is_hub(source):
            return self.from_hub(read_hub_rows(source, split))
        return self.from_files(source, split)

    def read_all(
        self, sources: Sequence[str], split: Split, *, with_targets: bool = True, apart: bool = True
    ) -> list[Any]:
        """The items of several sources, which are one set.

        Args:
            sources, split: as :meth:`read`.
            with_targets: see that there is what they are learnt from or scored against.
            apart: see that their predictions can be kept apart.

        Raises:
            FileNotFoundError, ValueError: as :meth:`read` and :meth:`check_apart`; or a target is missing.
        """
        held = [(source, self.read(source, split)) for source in sources]
        if apart:
            self.check_apart(held)
        if with_targets:
            self._check_targets(held, split)
        return [item for _, items in held for item in items]

    def check_apart(self, held: Sequence[tuple[str, Sequence[Any]]]) -> None:
        """See that no two sources have predictions under one key, of which the last would be scored for both.

        Args:
            held: sources with their items.

        Raises:
            ValueError: two have, or one is named twice.
        """
        owner: dict[str, str] = {}
        for number, (source, items) in enumerate(held):
            if source in [earlier for earlier, _ in held[:number]]:
                raise ValueError(f"{source} is named twice; name each source once")
            keys = dict.fromkeys(key for item in items for key in self.keys(item))
            twice = next((key for key in keys if key in owner), None)
            if twice is not None:
                raise ValueError(
                    f"{owner[twice]} and {source} both hold the id {twice!r}; ids must be unique in all sources of a "
                    f"set: rename it, or use the sources apart"
                )
            owner |= dict.fromkeys(keys, source)

    def _check_targets(self, held: Sequence[tuple[str, Sequence[Any]]], split: Split) -> None:
        use = "learnt from" if split == "train" else "scored"
        if not self.all_have_targets:
            if not any(self.has_target(item) for _, items in held for item in items):
                names = ", ".join(source for source, _ in held)
                raise ValueError(f"no item of {names} has a {self.target}, so it can't be {use}; name annotated data")
            return
        for source, items in held:
            for item in items:
                if not self.has_target(item):
                    raise ValueError(
                        f"{source}: {self.keys(item)[0]!r} has no {self.target}, so it can't be {use}; take it out, or "
                        f"name annotated data"
                    )

    def keys(self, item: Any) -> Sequence[str]:
        """What predictions for an item are kept under, see :meth:`collect`."""
        return (str(item.id),)

    def has_target(self, item: Any) -> bool:
        """Whether an item has what it is learnt from and scored against."""
        return True

    @abstractmethod
    def from_files(self, source: str, split: Split) -> list[Any]:
        """The items of a path."""

    def from_hub(self, rows: Any) -> list[Any]:
        """The items of a data set's rows, see :mod:`longspan.tasks.hub`."""
        raise ValueError(f"task {self.name!r} has no copy on the hub; give its official files")

    def draw(self, sources: Sequence[str], seed: int) -> dict[Split, list[Any]]:
        """Training and development items, perhaps test items, out of training data that has no such splits.

        Raises:
            ValueError: the task's official data has splits.
        """
        raise ValueError(f"eval is empty; task {self.name!r} has official development data, give it")

    @abstractmethod
    def model_class(self) -> "type[LongformerHead]":
        """The model."""

    def config_fields(self, max_length: int) -> dict[str, Any]:
        """Fields of the model's configuration that the task sets."""
        return {}

    def hat_class(self) -> type[Any] | None:
        """The model of a HAT for this task; None: there is none."""
        return None

    def hat_layout(self, tokenizer: "PreTrainedTokenizerBase", max_length: int) -> Layout:
        """As :meth:`layout`, in segments: the task's own, if that has them."""
        return self.layout(tokenizer, max_length)

    @abstractmethod
    def layout(self, tokenizer: "PreTrainedTokenizerBase", max_length: int) -> Layout:
        """How units become rows of at most ``max_length`` tokens."""

    def units(self, items: Iterable[Any], max_length: int) -> list[Any]:
        """What is encoded one by one: the items, or their parts, for rows of at most ``max_length`` tokens."""
        return list(items)

    def evidence_texts(self, items: Iterable[Any]) -> Iterable[tuple[str, str]]:
        """Name and text of what items only name, and what is read anew whenever they are encoded.

        Raises:
            FileNotFoundError, ValueError: a text can't be read.
        """
        return ()

    def check(self, layout: Any, units: Sequence[Any], reading_length: int | None) -> None:  # noqa: B027
        """See before a training that its units can be encoded: texts can be read, what rows repeat leaves room.

        Args:
            layout: the task's.
            units: what will be encoded.
            reading_length: of a model that reads rows in pieces.

        Raises:
            FileNotFoundError, ValueError: a unit can't.
        """

    def can_teach(self, layout: Any, units: Sequence[Any]) -> bool:
        """Whether any of the training units holds the answer that is looked for in it; single ones needn't."""
        return True

    def training_unit(self, unit: Any, seed: int) -> Any:
        """The unit as it is trained on in the epoch that ``seed`` belongs to."""
        return unit

    def encode(self, layout: Any, unit: Any) -> Any:
        """The rows of a unit."""
        return layout.encode(unit)

    @abstractmethod
    def decode(self, units: Sequence[Any], examples: Sequence[Any], output: Any) -> list[Decoded]:
        """The model's outputs for a batch, per unit.

        Args:
            units, examples: B units, and the same encoded.
            output: the model's, on the CPU in fp32.
        """

    def collect(self, decoded: Iterable[Decoded]) -> dict[str, Any]:
        """What was decoded for all units as predictions: key to answer."""
        return dict(decoded)

    @abstractmethod
    def score(self, items: Sequence[Any], predictions: Mapping[str, Any]) -> dict[str, float]:
        """The official scores, the recipe's ``metric`` among them; all are better when greater."""

    def score_item(self, item: Any, predictions: Mapping[str, Any]) -> float:
        """The metric of one item, in 0 .. 1.

        Args:
            item: with its target.
            predictions: of all items.
        """
        return self.score([item], {key: predictions[key] for key in self.keys(item)})[self.recipe.metric]

    def rescorer(
        self, items: Sequence[Any], predictions: Mapping[str, Any]
    ) -> Callable[[NDArray[np.int64]], dict[str, float]]:
        """What gives the scores of chosen items, by their numbers, among which one may be several times.

        Of means the items are scored once; other scores are worked out anew for each choice.

        Args:
            items, predictions: as :meth:`score`.
        """
        if not self.averaged:
            return lambda chosen: self.score([items[at] for at in chosen], predictions)
        keys = [self.keys(item) for item in items]
        alone = [
            self.score([item], {key: predictions[key] for key in of_item if key in predictions})
            for item, of_item in zip(items, keys, strict=True)
        ]
        values = np.array([[scores.get(name, np.nan) for name in self.averaged] for scores in alone])  # [items, scores]
        weights = np.where(np.isnan(values), 0, np.array([len(of_item) for of_item in keys])[:, None])
        totals = np.nan_to_num(values) * weights

        def rescore(chosen: NDArray[np.int64]) -> dict[str, float]:
            total, weight = totals[chosen].sum(0), weights[chosen].sum(0)
            means = zip(self.averaged, total, weight, strict=True)
            return {name: float(of_all / count) for name, of_all, count in means if count}

        return rescore

    def view(self, item: Any, predictions: Mapping[str, Any]) -> ItemView:
        """An item with its prediction, see :meth:`score_item`; here of items that hold a question and an answer."""
        return ItemView(asked=item.question, right=item.answer, predicted=predictions[item.id])

    def write(self, path: Path, items: Sequence[Any], predictions: Mapping[str, Any]) -> None:
        """Write predictions in the official form, or where there is none as a JSON object of key to answer."""
        write_json(path, dict(predictions), f"the predictions for {self.name}")


def labelled(task: str, items: Sequence[T], labels: Iterable[Any]) -> None:
    """See that all items have what predictions are compared with.

    Raises:
        ValueError: no items, or one without.
    """
    if not items:
        raise ValueError(f"there is nothing to score for task {task!r}")
    if any(label is None for label in labels):
        raise ValueError(f"the data of task {task!r} has items without a label to score against; use development data")
