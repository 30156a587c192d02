"""Occurrences of answers, the loss over all of them, and the best span."""

import math

import pytest
import torch

from longspan.tasks.spans import Span, best_span, find_answers, marginal_span_loss, token_span


def test_every_occurrence_of_every_alias_is_found() -> None:
    text = "Art: the art of Bob  Dylan. Party? bob dylan! Dylan"
    assert [text[a:b] for a, b in find_answers(text, ["art", "Bob Dylan", "dylan", " "])] == [
        "Art",
        "art",
        "Bob  Dylan",
        "Dylan",
        "bob dylan",
        "dylan",
        "Dylan",
    ]
    assert find_answers("C++ (1985)", ["c++", "(1985)"]) == [(0, 3), (4, 10)]
    assert find_answers("a café", ["CAFÉ", "caf"]) == [(2, 6)]
    assert find_answers("a party", ["art"], at_edges=False) == [(3, 6)]


def test_tokens_that_touch_the_characters() -> None:
    offsets = [(0, 3), (4, 6), (6, 9), (10, 12)]
    assert token_span(offsets, 4, 9) == (1, 2)
    assert token_span(offsets, 5, 7) == (1, 2)
    assert token_span(offsets, 0, 12) == (0, 3)
    assert token_span(offsets, 3, 4) is None
    assert token_span([], 0, 1) is None


def test_loss_by_hand() -> None:
    # Starts: probabilities 1/8, 2/8, 4/8, 1/8, right ones 1 and 2: 6/8. Ends: 1/4 each, right one 3.
    starts = torch.tensor([[1.0, 2.0, 4.0, 1.0]]).log()
    loss = marginal_span_loss(starts, torch.zeros(1, 4), torch.tensor([[1, 2, 2]]), torch.tensor([[3, -1, 3]]))
    assert loss.item() == pytest.approx((math.log(8 / 6) + math.log(4)) / 2)


def test_rows_of_a_document_share_a_softmax() -> None:
    starts, ends = torch.randn(3, 5), torch.randn(3, 5)
    at_start, at_end = torch.tensor([[1, 2], [-1, -1], [0, -1]]), torch.tensor([[2, 4], [-1, -1], [1, -1]])
    owner = torch.tensor([0, 0, 1])
    both = marginal_span_loss(starts, ends, at_start, at_end, document_of_row=owner)
    joined = marginal_span_loss(starts[:2].view(1, 10), ends[:2].view(1, 10), at_start[:1], at_end[:1])
    alone = marginal_span_loss(starts[2:], ends[2:], at_start[2:], at_end[2:])
    torch.testing.assert_close(both, (joined + alone) / 2)
    summed = marginal_span_loss(starts, ends, at_start, at_end, document_of_row=owner, num_items_in_batch=4)
    torch.testing.assert_close(summed, (joined + alone) / 4)


def test_padding_gets_no_probability() -> None:
    starts, ends = torch.randn(1, 5), torch.randn(1, 5)
    positions = torch.tensor([[1]])
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    torch.testing.assert_close(
        marginal_span_loss(starts, ends, positions, positions, mask),
        marginal_span_loss(starts[:, :3], ends[:, :3], positions, positions),
    )


def test_documents_without_an_answer_have_no_part() -> None:
    starts, ends = torch.randn(2, 5, requires_grad=True), torch.randn(2, 5, requires_grad=True)
    positions = torch.tensor([[1], [-1]])
    loss = marginal_span_loss(starts, ends, positions, positions)
    torch.testing.assert_close(loss, marginal_span_loss(starts[:1], ends[:1], positions[:1], positions[:1]))
    loss.backward()
    assert starts.grad is not None
    assert starts.grad[1].tolist() == [0] * 5
    assert starts.grad[0].isfinite().all()
    none = marginal_span_loss(starts, ends, torch.tensor([[-1], [9]]), torch.tensor([[-1], [9]]))
    assert none.item() == 0
    none.backward()
    assert starts.grad.isfinite().all()
    with pytest.raises(ValueError, match=r"start_positions must be integers of shape \[R, A\] with R = 2 rows"):
        marginal_span_loss(starts, ends, torch.tensor([1, 1]), positions)


def test_best_span_by_hand() -> None:
    starts = torch.tensor([[9.0, 3.0, 1.0, 0.0], [0.0, 0.0, 0.0, 2.0]])
    ends = torch.tensor([[9.0, 0.0, 2.0, 5.0], [0.0, 0.0, 0.0, 1.0]])
    allowed = torch.tensor([[False, True, True, True], [True, True, True, True]])
    assert best_span(starts, ends, allowed) == Span(0, 1, 3, 8.0)
    assert best_span(starts, ends, allowed, max_answer_length=2) == Span(0, 2, 3, 6.0)
    # Of the one best start (1) and the one best end (3), the pair is too long; the second row's best is 2 + 1.
    assert best_span(starts, ends, allowed, max_answer_length=2, n_best=1) == Span(1, 3, 3, 3.0)
    assert best_span(starts, ends, torch.zeros_like(allowed)) is None
    assert best_span(torch.zeros(1, 3), torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool)) == Span(0, 0, 0, 0.0)
    # An end before its start is no span.
    starts, ends = torch.tensor([[0.0, 4.0]]), torch.tensor([[5.0, 0.0]])
    assert best_span(starts, ends, torch.ones(1, 2, dtype=torch.bool)) == Span(0, 0, 0, 5.0)
