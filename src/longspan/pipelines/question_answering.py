"""``pipeline("question-answering")``, which ``transformers`` 5 dropped, for contexts of any length."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.pipelines.base import ChunkPipeline

from longspan.pipelines.windows import Columns, check_stride, split_into_windows, take_columns, window_tokens


@dataclass(frozen=True)
class _Question:
    """What all windows of one question share; columns are those of the whole text's encoding."""

    context: str
    is_context: NDArray[np.bool_]
    """``[N]``, which tokens are the context's."""
    starts: NDArray[np.int64]
    """``[N]``, where in the context an answer begins that begins with this token."""
    stops: NDArray[np.int64]
    """``[N]``, and where one stops that ends with it."""
    no_answer: int
    """The column whose scores stand for "there is no answer"."""


@dataclass(frozen=True)
class _Window:
    """Which tokens of which question a window holds."""

    question: _Question
    columns: Columns


class QuestionAnsweringPipeline(ChunkPipeline):
    """A question and a context of any length in, the spans of the context that answer it out.

    A context longer than the model is read in windows that overlap, the question in each of them; its probabilities are
    one distribution over all windows. One that fits is read at once, and gives what ``transformers`` 4 gave. Which
    tokens attend globally is the model's matter: those of the question, in a
    :class:`longspan.LongformerForQuestionAnswering`.

    Options of a call, or of the pipeline, named as in ``transformers`` 4:

    * ``top_k`` (1): how many answers. One comes as a dict, more as a list of dicts.
    * ``doc_stride`` (128, or half of a window if that is less): tokens of the context that windows share. Answers
      of up to as many tokens are whole in some window.
    * ``max_seq_len`` (all that the model reads): tokens of a window, question and special tokens counted.
    * ``max_answer_len`` (15): tokens of an answer.
    * ``max_question_len`` (no limit): tokens of the question; of a longer one the end is cut off.
    * ``handle_impossible_answer`` (False): whether the empty answer may be among the results. It may be the best only
      where all windows prefer it.
    * ``align_to_words`` (True): answers begin and end with words. Turn it off for languages without spaces.

    Args:
        model: with two scores for each token, ``start_logits`` and ``end_logits``.
        tokenizer: a fast one.
        **kwargs: of ``transformers.Pipeline``, as ``device`` and ``batch_size`` (windows at once), and the above.
    """

    default_input_names = "question,context"
    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True

    def __call__(self, *inputs: Any, **kwargs: Any) -> Any:
        """Answer questions.

        Args:
            inputs: ``{"question": ..., "context": ...}``, or a list, a data set or a generator of such; or a question
                and a context, two strings; or nothing, if ``question`` and ``context`` are given by name, each a string
                or a list, one context serving all questions.
            kwargs: the options of the class.

        Returns:
            For each question ``{"score", "start", "end", "answer"}``, or with ``top_k`` above 1 a list of these, best
            first: ``context[start:end] == answer``, and the score is the probability of the start times that of the
            end. An empty answer has start and end 0. A list for a list; a stream for a data set or a generator.

        Raises:
            TypeError, ValueError: something else, an empty question or context, or an option out of range.
        """
        given = _questions(inputs, kwargs.pop("question", None), kwargs.pop("context", None))
        return super().__call__(given, **kwargs) if given != [] else []

    def _sanitize_parameters(
        self,
        top_k: int | None = None,
        doc_stride: int | None = None,
        max_seq_len: int | None = None,
        max_answer_len: int | None = None,
        max_question_len: int | None = None,
        handle_impossible_answer: bool | None = None,
        align_to_words: bool | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        at_least_one = {
            "top_k": top_k,
            "max_answer_len": max_answer_len,
            "max_question_len": max_question_len,
        }
        for name, value in at_least_one.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        check_stride("doc_stride", doc_stride, window_tokens(self.model, self.tokenizer, max_seq_len))
        before = {
            "doc_stride": doc_stride,
            "max_seq_len": max_seq_len,
            "max_question_len": max_question_len,
            "align_to_words": align_to_words,
        }
        after = {
            "top_k": top_k,
            "max_answer_len": max_answer_len,
            "handle_impossible_answer": handle_impossible_answer,
        }
        return _said(before), {}, _said(after)

    def preprocess(
        self,
        input_: Any,
        doc_stride: int | None = None,
        max_seq_len: int | None = None,
        max_question_len: int | None = None,
        align_to_words: bool = True,
    ) -> Iterator[dict[str, Any]]:
        """The windows of one question."""
        question, context = _check_question(input_)
        if not self.tokenizer.is_fast:
            raise TypeError(
                f"{type(self.tokenizer).__name__} doesn't say where its tokens stand in the text; use a fast tokenizer"
            )
        if max_question_len is not None:
            question = self._cut(question, max_question_len)
        encoding = self.tokenizer(
            question, context, return_tensors="pt", return_offsets_mapping=True, truncation=False, verbose=False
        )
        offsets = encoding.pop("offset_mapping")[0].numpy()
        is_context = np.array([part == 1 for part in encoding.sequence_ids(0)])
        if not is_context.any():
            raise ValueError(f"the context has no token: {context!r}")
        starts, stops = _edges(offsets, is_context, encoding.word_ids(0) if align_to_words else None)
        ids = encoding["input_ids"][0]
        first = (ids == self.tokenizer.cls_token_id).nonzero() if self.tokenizer.cls_token_id is not None else []
        asked = _Question(context, is_context, starts, stops, int(first[0]) if len(first) else 0)

        limit = window_tokens(self.model, self.tokenizer, max_seq_len)
        written = getattr(self.model.config, "max_decoder_position_embeddings", None)
        if limit is not None and written is not None:
            limit = min(limit, written)  # LED's decoder reads the text too
        windows = split_into_windows((~is_context).tolist(), limit, doc_stride)
        for number, columns in enumerate(windows):
            yield {
                **take_columns(encoding, columns),
                "window": _Window(asked, columns),
                "is_last": number == len(windows) - 1,
            }

    def _cut(self, question: str, tokens: int) -> str:
        offsets = self.tokenizer(question, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return question if len(offsets) <= tokens else question[: offsets[tokens - 1][1]]

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        held = {name: model_inputs.pop(name) for name in ("window", "is_last")}
        output = self.model(**model_inputs)
        return {"start": output.start_logits.float(), "end": output.end_logits.float(), **held}

    def postprocess(
        self,
        model_outputs: list[dict[str, Any]],
        top_k: int = 1,
        max_answer_len: int = 15,
        handle_impossible_answer: bool = False,
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """The answers of one question."""
        question: _Question = model_outputs[0]["window"].question
        windows = [_Scores.read(output, self.tokenizer.padding_side) for output in model_outputs]
        # Every window without the answer says "none here", so the window that says it least speaks for all.
        silent = min((window.no_answer for window in windows), key=lambda both: float(both.sum()))
        totals = [
            np.logaddexp.reduce(np.concatenate([*(window.scores[side] for window in windows), silent[side, None]]))
            for side in (0, 1)
        ]
        found: dict[tuple[int, int], float] = {}
        for window in windows:
            for place, score in window.best_answers(question, top_k, max_answer_len).items():
                found[place] = max(found.get(place, -np.inf), score)
        answers = [(score, start, stop) for (start, stop), score in found.items()]
        if handle_impossible_answer or not answers:
            answers.append((float(silent.sum()), 0, 0))
        answers.sort(key=lambda answer: -answer[0])
        results = [
            {
                "score": float(np.exp(score - sum(totals))),
                "start": start,
                "end": stop,
                "answer": question.context[start:stop],
            }
            for score, start, stop in answers[:top_k]
        ]
        return results[0] if top_k == 1 else results


class _Scores(NamedTuple):
    """A window's scores, in float64, which keeps the order of close ones."""

    tokens: Columns  # [n], the columns of the context's tokens
    scores: NDArray[np.float64]  # [2, n], of starts and ends
    no_answer: NDArray[np.float64]  # [2]

    @classmethod
    def read(cls, output: dict[str, Any], padding_side: str) -> "_Scores":
        question, columns = output["window"].question, output["window"].columns
        both = torch.cat([output["start"], output["end"]]).double().numpy()  # [2, N], perhaps padded
        both = both[:, -len(columns) :] if padding_side == "left" else both[:, : len(columns)]
        mine = question.is_context[columns]
        return cls(columns[mine], both[:, mine], both[:, int(np.searchsorted(columns, question.no_answer))])

    def best_answers(self, question: _Question, count: int, longest: int) -> dict[tuple[int, int], float]:
        """``(start, stop)`` in the context and scores of the best answers, each once."""
        starts, ends = self.scores
        longest = min(longest, len(ends))
        ahead = np.concatenate([ends, np.full(longest - 1, -np.inf)])
        sums = starts[:, None] + np.lib.stride_tricks.sliding_window_view(ahead, longest)  # [n, longest]
        best: dict[tuple[int, int], float] = {}
        for place in np.argsort(-sums, axis=None, kind="stable"):
            first, more = divmod(int(place), longest)
            if len(best) == count or not np.isfinite(sums[first, more]):
                break
            start, stop = question.starts[self.tokens[first]], question.stops[self.tokens[first + more]]
            # Tokens of some tokenizers begin with the space before, or are nothing but space.
            text = question.context[start:stop]
            start, stop = start + len(text) - len(text.lstrip()), stop - len(text) + len(text.rstrip())
            if start < stop:
                best.setdefault((int(start), int(stop)), float(sums[first, more]))
        return best


def _edges(
    offsets: NDArray[np.int64], is_context: NDArray[np.bool_], words: Sequence[int | None] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where an answer begins and stops, by its first and its last token, each ``[N]``; with words, at theirs."""
    starts, stops = offsets[:, 0].copy(), offsets[:, 1].copy()
    columns = np.flatnonzero(is_context).tolist()
    if words is not None:
        for before, column in pairwise(columns):
            if words[column] is not None and words[column] == words[before]:
                starts[column] = starts[before]
        for after, column in pairwise(reversed(columns)):
            if words[column] is not None and words[column] == words[after]:
                stops[column] = stops[after]
    return starts, stops


def _said(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _questions(inputs: tuple[Any, ...], question: Any, context: Any) -> Any:
    """What a call was given, as one question, a list of them, or a stream."""
    if len(inputs) == 2 and all(isinstance(text, str) for text in inputs) and question is None and context is None:
        return {"question": inputs[0], "context": inputs[1]}
    if inputs:
        if len(inputs) > 1 or question is not None or context is not None:
            raise TypeError('give question=... and context=..., or one {"question": ..., "context": ...} or several')
        return list(inputs[0]) if isinstance(inputs[0], tuple) else inputs[0]
    if question is None or context is None:
        raise TypeError(
            f"{'question' if question is None else 'context'} is missing; give question=... and context=..."
        )
    if isinstance(question, str) and isinstance(context, str):
        return {"question": question, "context": context}
    questions, contexts = ([text] if isinstance(text, str) else list(text) for text in (question, context))
    if isinstance(context, str):
        contexts *= len(questions)
    elif isinstance(question, str):
        questions *= len(contexts)
    if len(questions) != len(contexts):
        raise ValueError(f"there are {len(questions)} questions for {len(contexts)} contexts; give a context for each")
    return [{"question": one, "context": other} for one, other in zip(questions, contexts, strict=True)]


def _check_question(input_: Any) -> tuple[str, str]:
    if not isinstance(input_, Mapping) or not {"question", "context"} <= input_.keys():
        raise TypeError(f'a question must be {{"question": ..., "context": ...}}, got {type(input_).__name__}')
    for name in ("question", "context"):
        text = input_[name]
        if not isinstance(text, str):
            raise TypeError(f"{name} must be a string, got {type(text).__name__}")
        if not text.strip():
            raise ValueError(f"{name} is empty")
    return input_["question"], input_["context"]
