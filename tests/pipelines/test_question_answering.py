"""The question answering pipeline: the plain model where a context fits, a search by hand where it doesn't."""

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tiny_text import make_text
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from longspan import QuestionAnsweringPipeline
from tests.models.tiny_models import build_ours, build_stock

QUESTION = "was the court held?"
SHORT, LONG = make_text(1, 30), make_text(2, 900)


def _pipe(tokenizer: PreTrainedTokenizerBase, model: Any = None, **options: Any) -> QuestionAnsweringPipeline:
    if model is None:
        model = build_ours("ForQuestionAnswering", vocab_size=len(tokenizer))
    return QuestionAnsweringPipeline(model=model, tokenizer=tokenizer, device="cpu", **options)


def _plain_answers(
    pipe: QuestionAnsweringPipeline, context: str, longest: int
) -> tuple[list[tuple[float, int, int]], float]:
    """All spans of tokens with their probabilities, best first, and that of no answer, by plain loops."""
    encoded = pipe.tokenizer(QUESTION, context, return_tensors="pt", return_offsets_mapping=True)
    offsets, parts = encoded.pop("offset_mapping")[0].tolist(), encoded.sequence_ids(0)
    with torch.no_grad():
        output = pipe.model(**encoded)
    allowed = torch.tensor([part == 1 for part in parts])
    allowed[0] = True  # <s>, no answer
    start, end = (
        logits[0].double().masked_fill(~allowed, -torch.inf).softmax(0)
        for logits in (output.start_logits, output.end_logits)
    )
    columns = [column for column, part in enumerate(parts) if part == 1]
    spans = [
        (float(start[i] * end[j]), *_strip(context, offsets[i][0], offsets[j][1]))
        for i in columns
        for j in columns
        if 0 <= j - i < longest
    ]
    # Several spans of tokens may be one place, and white space is none.
    best = {span[1:]: span for span in sorted(spans) if span[1] < span[2]}
    return sorted(best.values(), reverse=True), float(start[0] * end[0])


def _strip(context: str, start: int, end: int) -> tuple[int, int]:
    while start < end and context[start].isspace():
        start += 1
    while start < end and context[end - 1].isspace():
        end -= 1
    return start, end


def test_a_context_that_fits_is_the_plain_models(tokenizer: PreTrainedTokenizerBase) -> None:
    pipe = _pipe(tokenizer)
    spans, nothing = _plain_answers(pipe, SHORT, 7)
    answers = pipe(question=QUESTION, context=SHORT, top_k=9, max_answer_len=7, align_to_words=False)
    assert [(one["start"], one["end"]) for one in answers] == [span[1:] for span in spans[:9]]
    assert [one["score"] for one in answers] == pytest.approx([span[0] for span in spans[:9]], rel=1e-4)
    assert all(SHORT[one["start"] : one["end"]] == one["answer"] for one in answers)
    everything = pipe(
        question=QUESTION,
        context=SHORT,
        top_k=10**6,
        max_answer_len=7,
        align_to_words=False,
        handle_impossible_answer=True,
    )
    (empty,) = [one for one in everything if one["answer"] == ""]
    assert (empty["start"], empty["end"]) == (0, 0)
    assert empty["score"] == pytest.approx(nothing, rel=1e-4)
    assert len(everything) == len(spans) + 1


class _Finds(transformers.PreTrainedModel):
    """Finds one token anywhere: its logit falls with the distance to the middle of the window, so windows differ."""

    config_class = transformers.LongformerConfig

    def __init__(self, config: Any, token: int) -> None:
        super().__init__(config)
        self.token = token
        self.lengths: list[int] = []
        self.empty = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        self.lengths.append(input_ids.shape[1])
        column = torch.arange(input_ids.shape[1])
        near = 5 - (column - input_ids.shape[1] / 2).abs() / input_ids.shape[1]
        logits = torch.where(input_ids == self.token, near, -9.0)
        logits[:, 0] = 2.0 - 6.0 * (input_ids[:, 1:] == self.token).any(1)
        return transformers.modeling_outputs.QuestionAnsweringModelOutput(start_logits=logits, end_logits=logits)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_an_answer_anywhere_in_a_long_context(tokenizer: PreTrainedTokenizerBase, batch_size: int) -> None:
    words = make_text(3, 300).replace("東京", "law").split()
    config = transformers.LongformerConfig(max_position_embeddings=66, pad_token_id=1)
    token = tokenizer(" 東京", add_special_tokens=False).input_ids[-1]
    model = _Finds(config, token)
    pipe = _pipe(tokenizer, model, batch_size=batch_size, handle_impossible_answer=True)
    for place in (0, 140, 299):
        context = " ".join(["", *words[:place], "東京", *words[place + 1 :]])
        answer = pipe(question=QUESTION, context=context, doc_stride=20)
        assert answer["answer"] == "東京"
        assert context[answer["start"] : answer["end"]] == "東京"
        assert answer["score"] > 0.9
    assert set(model.lengths) == {66}  # all windows are full
    nowhere = pipe(question=QUESTION, context=" ".join(words), doc_stride=20)
    assert nowhere["answer"] == ""
    assert nowhere["score"] > 0.9


def test_windows_are_merged_as_one_distribution(tokenizer: PreTrainedTokenizerBase) -> None:
    """By plain loops over windows: the best spans, each with its best score, over one normaliser."""
    pipe = _pipe(tokenizer)
    encoded = pipe.tokenizer(QUESTION, LONG, return_offsets_mapping=True, verbose=False)
    ids, offsets, parts = encoded["input_ids"], encoded["offset_mapping"], encoded.sequence_ids(0)
    head = [column for column, part in enumerate(parts) if part != 1 and column < len(ids) - 1]
    body = [column for column, part in enumerate(parts) if part == 1]
    room = 128 - len(head) - 1
    starts = [*range(0, len(body) - room, room - 40), len(body) - room]
    found: dict[tuple[int, int], float] = {}
    normal: list[list[float]] = [[], []]
    nulls = []
    for begin in starts:
        columns = [*head, *body[begin : begin + room], len(ids) - 1]
        with torch.no_grad():
            output = pipe.model(input_ids=torch.tensor([[ids[column] for column in columns]]))
        start, end = output.start_logits[0].double(), output.end_logits[0].double()
        inner = range(len(head), len(columns) - 1)
        normal[0] += start[inner].tolist()
        normal[1] += end[inner].tolist()
        for i in inner:
            for j in range(i, min(i + 5, inner.stop)):
                place = _strip(LONG, offsets[columns[i]][0], offsets[columns[j]][1])
                if place[0] < place[1]:
                    found[place] = max(found.get(place, -np.inf), float(start[i] + end[j]))
        nulls.append((float(start[0]), float(end[0])))
    least = min(nulls, key=sum)
    total = sum(np.logaddexp.reduce([*values, nothing]) for values, nothing in zip(normal, least, strict=True))
    expected = sorted(((np.exp(score - total), place) for place, score in found.items()), reverse=True)[:5]
    answers = pipe(
        {"question": QUESTION, "context": LONG}, top_k=5, doc_stride=40, max_answer_len=5, align_to_words=False
    )
    assert [(one["start"], one["end"]) for one in answers] == [place for _, place in expected]
    assert [one["score"] for one in answers] == pytest.approx([float(score) for score, _ in expected], rel=1e-4)


def test_answers_are_whole_words(tokenizer: PreTrainedTokenizerBase) -> None:
    answers = _pipe(tokenizer)(question=QUESTION, context=LONG, top_k=30)
    assert len({(one["start"], one["end"]) for one in answers}) == 30
    for one in answers:
        before, after = LONG[: one["start"]][-1:], LONG[one["end"] :][:1]
        assert not (before.isalnum() and one["answer"][0].isalnum()), one
        assert not (after.isalnum() and one["answer"][-1].isalnum()), one


def test_the_question_is_global(tokenizer: PreTrainedTokenizerBase) -> None:
    model = build_ours("ForQuestionAnswering", vocab_size=len(tokenizer))
    answers = [_pipe(tokenizer, model)(question=QUESTION, context=LONG)]
    model.config.global_attention_policy = "none"
    answers.append(_pipe(tokenizer, model)(question=QUESTION, context=LONG))
    assert answers[0]["score"] != pytest.approx(answers[1]["score"], rel=1e-3)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_forms_of_a_call(tokenizer: PreTrainedTokenizerBase, batch_size: int) -> None:
    pipe = _pipe(tokenizer, batch_size=batch_size)
    one = pipe(question=QUESTION, context=SHORT)
    assert set(one) == {"score", "start", "end", "answer"}
    row = {"question": QUESTION, "context": SHORT}
    assert pipe(row)["answer"] == one["answer"]
    assert pipe(QUESTION, SHORT) == one
    with pytest.raises(TypeError, match="give question="):
        pipe(QUESTION, SHORT, context=SHORT)
    for several in (
        pipe([row, {**row, "context": LONG}]),
        pipe(question=[QUESTION] * 2, context=[SHORT, LONG]),
        pipe(question=QUESTION, context=[SHORT, LONG]),
        list(pipe(each for each in [row, {**row, "context": LONG}])),
    ):
        assert len(several) == 2
        assert several[0]["score"] == pytest.approx(one["score"], rel=1e-4)
        assert several[0]["answer"] == one["answer"]
    assert pipe([]) == pipe(question=[], context=SHORT) == []
    both = pipe(question=[QUESTION, "price?"], context=SHORT, top_k=2)
    assert [len(answers) for answers in both] == [2, 2]


def test_models_of_transformers_answer_as_well(tokenizer: PreTrainedTokenizerBase) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.RobertaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=66, pad_token_id=1, type_vocab_size=1, **sizes
    )
    for model in (
        build_stock("ForQuestionAnswering", vocab_size=len(tokenizer)),
        transformers.RobertaForQuestionAnswering(config).eval(),
    ):
        answer = _pipe(tokenizer, model)(question=QUESTION, context=LONG)
        assert LONG[answer["start"] : answer["end"]] == answer["answer"] != ""


def test_long_questions(tokenizer: PreTrainedTokenizerBase) -> None:
    pipe = _pipe(tokenizer)
    with pytest.raises(ValueError, match="leaves no room for the text; shorten the question"):
        pipe(question=LONG, context=SHORT)
    cut = pipe(question=LONG, context=SHORT, max_question_len=5)
    five = pipe.tokenizer(LONG, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"][4][1]
    assert cut == pipe(question=LONG[:five], context=SHORT)


def test_refusals(tokenizer: PreTrainedTokenizerBase) -> None:
    pipe = _pipe(tokenizer)
    with pytest.raises(TypeError, match="context is missing; give question"):
        pipe(question=QUESTION)
    with pytest.raises(TypeError, match=r"must be \{.*\}, got str"):
        pipe("a text")
    with pytest.raises(ValueError, match="context is empty"):
        pipe(question=QUESTION, context=" \n")
    with pytest.raises(TypeError, match="question must be a string, got int"):
        pipe({"question": 3, "context": SHORT})
    with pytest.raises(ValueError, match="there are 2 questions for 3 contexts"):
        pipe(question=[QUESTION] * 2, context=[SHORT] * 3)
    with pytest.raises(ValueError, match="top_k is 0; it must be at least 1"):
        pipe(question=QUESTION, context=SHORT, top_k=0)
    with pytest.raises(ValueError, match=r"max_seq_len|max_length is 4,096.*at most 128"):
        pipe(question=QUESTION, context=SHORT, max_seq_len=4096)
    with pytest.raises(ValueError, match="stride is 128"):
        pipe(question=QUESTION, context=LONG, doc_stride=128)
    for stride in (-1, 9999):
        with pytest.raises(ValueError, match=f"doc_stride is {stride:,}, .* at least 0 and less than a window"):
            pipe(question=QUESTION, context=SHORT, doc_stride=stride)
