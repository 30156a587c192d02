"""``transformers``' Auto classes and ``pipeline`` with this package's models and pipelines."""

from typing import Any

from transformers import AutoModelForQuestionAnswering, AutoModelForSeq2SeqLM, pipelines

from longspan.integrations.registration import register_models
from longspan.pipelines.fill_mask import QuietFillMaskPipeline
from longspan.pipelines.question_answering import QuestionAnsweringPipeline
from longspan.pipelines.text_classification import LongTextClassificationPipeline
from longspan.pipelines.token_classification import LongTokenClassificationPipeline
from longspan.training.summarization.pipeline import SummarizationPipeline

# Tasks that transformers lacks, and those whose pipelines treat long texts otherwise here.
_NEW: dict[str, tuple[type, type]] = {
    "question-answering": (QuestionAnsweringPipeline, AutoModelForQuestionAnswering),
    "summarization": (SummarizationPipeline, AutoModelForSeq2SeqLM),
}
_LONGER: dict[str, type] = {
    "fill-mask": QuietFillMaskPipeline,
    "text-classification": LongTextClassificationPipeline,
    "token-classification": LongTokenClassificationPipeline,
}
_replaced: dict[str, Any] = {}  # what transformers had, by task
_removed: dict[str, str] = {}  # what it says of tasks that it once had


def register(active: bool = True) -> None:
    """Make ``transformers``' Auto classes and pipelines use this package's models for ``longformer`` and ``led``.

    Models: ``AutoModelForMaskedLM.from_pretrained(directory)``, ``pipeline("fill-mask", model=directory)`` and their
    like build this package's classes, as :func:`longspan.integrations.register_models` says.

    Tasks, for models of any type: ``pipeline("question-answering")`` and ``pipeline("summarization")``, which
    ``transformers`` 5 dropped, are there again; "text-classification" and "token-classification" read texts of any
    length, in windows where the model reads less, and give what they gave where a text fits; "fill-mask" gives what it
    gave, and leaves it to the model to refuse a text that is too long. See
    :class:`longspan.pipelines.QuestionAnsweringPipeline`,
    :class:`longspan.training.summarization.pipeline.SummarizationPipeline`,
    :class:`longspan.pipelines.LongTextClassificationPipeline`,
    :class:`longspan.pipelines.LongTokenClassificationPipeline`.

    Calling it again changes nothing; models and pipelines that exist already stay what they are.

    Args:
        active: ``False`` takes it all back, and ``transformers`` builds its own again.
    """
    register_models(active)
    tasks = pipelines.PIPELINE_REGISTRY.supported_tasks
    # Some versions refuse these names before they look them up.
    refused: dict[str, str] = getattr(pipelines, "REMOVED_TASKS", {})
    ours: dict[str, Any] = {name: {"impl": impl, "pt": (auto,), "type": "text"} for name, (impl, auto) in _NEW.items()}
    ours |= {name: {**tasks[name], "impl": impl} for name, impl in _LONGER.items()}
    for name, task in ours.items():
        if active and tasks.get(name, {}).get("impl") is not task["impl"]:
            _replaced[name], tasks[name] = tasks.get(name), task
            if name in refused:
                _removed[name] = refused.pop(name)
        elif not active and name in _replaced:
            before = _replaced.pop(name)
            tasks.pop(name)
            tasks.update({} if before is None else {name: before})
            if name in _removed:
                refused[name] = _removed.pop(name)
