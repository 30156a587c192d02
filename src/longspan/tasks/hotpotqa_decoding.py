"""From the scores of :class:`LongformerForHotpotQA` to paragraphs for the second stage, an answer and evidence."""

import torch
from torch import Tensor

from longspan.tasks.hotpotqa import ANSWER_TYPES, HotpotExample
from longspan.tasks.hotpotqa_metric import HotpotPrediction
from longspan.tasks.spans import best_span


def select_paragraphs(paragraph_logits: Tensor, *, threshold: float = -3.0, most: int = 5, least: int = 2) -> list[int]:
    """The paragraphs that the second stage reads: up to five with a score above -3.0 (Beltagy et al. 2020).

    Args:
        paragraph_logits: ``[P]``, of the first stage.
        threshold: the score a paragraph must be above.
        most: at most so many, the best.
        least: the best so many in any case (our choice: evidence is always in two).

    Returns:
        Their numbers, in the order of the text.
    """
    order = paragraph_logits.argsort(descending=True, stable=True).tolist()
    good = [index for place, index in enumerate(order) if place < least or float(paragraph_logits[index]) > threshold]
    return sorted(good[:most])


def decode_evidence(
    example: HotpotExample, paragraph_logits: Tensor, sentence_logits: Tensor
) -> tuple[tuple[str, int], ...]:
    """Evidence from exactly two paragraphs, as the data set always has it.

    The two are those with the largest sum of their own score and that of their best sentence; in each, sentences with
    a positive score are evidence, or the best one if there is none. (That exactly two paragraphs are taken is the
    paper's; how they are scored is not published, so it is our choice.)

    Args:
        example: the row.
        paragraph_logits: ``[P]`` or longer.
        sentence_logits: ``[S]`` or longer.

    Returns:
        ``(title, number of the sentence)`` in the order of the text; of a row with one paragraph, from that one.
    """
    of_paragraph: dict[int, list[tuple[float, int]]] = {}
    for (number, index), score in zip(example.sentences, sentence_logits.tolist(), strict=False):
        of_paragraph.setdefault(number, []).append((score, index))
    total = {number: float(paragraph_logits[number]) + max(scores)[0] for number, scores in of_paragraph.items()}
    chosen = sorted(sorted(total, key=lambda number: -total[number])[:2])
    evidence = []
    for number in chosen:
        scores = of_paragraph[number]
        positive = [index for score, index in scores if score > 0]
        best = max(scores, key=lambda pair: pair[0])[1]
        title = example.question.paragraphs[number].title
        evidence += [(title, index) for index in positive or [best]]
    return tuple(evidence)


def decode_hotpotqa(
    example: HotpotExample,
    start_logits: Tensor,
    end_logits: Tensor,
    type_logits: Tensor,
    paragraph_logits: Tensor,
    sentence_logits: Tensor,
    *,
    n_best: int = 20,
    max_answer_length: int = 30,
) -> HotpotPrediction:
    """Answer and evidence for one question.

    Args:
        example: the row.
        start_logits, end_logits: ``[N]``.
        type_logits: ``[3]``, in the order of ``ANSWER_TYPES``.
        paragraph_logits, sentence_logits: ``[P]`` and ``[S]``, or longer.
        n_best, max_answer_length: as :func:`longspan.tasks.spans.best_span`. A span lies within one sentence.
    """
    evidence = decode_evidence(example, paragraph_logits, sentence_logits)
    kind = ANSWER_TYPES[int(type_logits.argmax())]
    if kind != "span":
        return HotpotPrediction(answer=kind, supporting_facts=evidence)
    # A row for each sentence, so that no span crosses from one into another.
    count = len(example.sentence_columns)
    allowed = torch.zeros(count, len(start_logits), dtype=torch.bool, device=start_logits.device)
    for row, (start, stop) in enumerate(example.sentence_columns):
        allowed[row, start:stop] = True
    span = best_span(
        start_logits.expand(count, -1),
        end_logits.expand(count, -1),
        allowed,
        n_best=n_best,
        max_answer_length=max_answer_length,
    )
    if span is None:
        return HotpotPrediction(answer="", supporting_facts=evidence)
    number, index = example.sentences[span.row]
    offsets, first = example.offsets[span.row], example.sentence_columns[span.row][0]
    sentence = example.question.paragraphs[number].sentences[index]
    answer = sentence[offsets[span.start - first][0] : offsets[span.end - first][1]].strip()
    return HotpotPrediction(answer=answer, supporting_facts=evidence)
