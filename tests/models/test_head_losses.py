"""The heads' losses: any problem, any labels, the same however gradients are accumulated, never NaN."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import build_ours, make_batch
from torch import Tensor
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments

INPUTS = make_batch([29, 12])
SENTENCES = "ForSequentialSentenceClassification"
CLASSES = "ForSequenceClassification"
TOKENS = "ForTokenClassification"
QUESTION = "ForQuestionAnswering"
CHOICE = "ForMultipleChoice"


def _loss(head: str, labels: Any, **fields: Any) -> Tensor:
    return build_ours(head, **fields)(**INPUTS, labels=labels).loss


@pytest.mark.parametrize("head", [CLASSES, SENTENCES])
def test_problem_types(head: str) -> None:
    fields: dict[str, Any] = {"segment_length": 8}
    shape = (2,) if head == CLASSES else (2, 4)
    model = build_ours(head, num_labels=3, **fields)
    logits = model(**INPUTS).logits
    assert logits.shape == (*shape, 3)
    classes = torch.randint(3, shape)
    torch.testing.assert_close(
        model(**INPUTS, labels=classes).loss, F.cross_entropy(logits.flatten(0, -2), classes.flatten())
    )
    assert model.config.problem_type == "single_label_classification"

    several = torch.rand(*shape, 3).round()
    expected = F.binary_cross_entropy_with_logits(logits, several)
    for labels in (several, several.bool()):
        torch.testing.assert_close(_loss(head, labels, num_labels=3, **fields), expected)
    explicit = fields | {"num_labels": 3, "problem_type": "multi_label_classification"}
    torch.testing.assert_close(_loss(head, several.long(), **explicit), expected)

    numbers = torch.randn(*shape, 3)
    explicit["problem_type"] = "regression"
    torch.testing.assert_close(_loss(head, numbers, **explicit), F.mse_loss(logits, numbers))

    one = build_ours(head, num_labels=1, **fields)
    logits = one(**INPUTS).logits[..., 0]
    for labels in (torch.randn(shape), torch.randint(5, shape)):
        expected = F.mse_loss(logits, labels.float())
        torch.testing.assert_close(one(**INPUTS, labels=labels).loss, expected)
        torch.testing.assert_close(one(**INPUTS, labels=labels[..., None]).loss, expected)


def _labels(head: str, kind: str, ignored: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Labels of each kind, some or all of them -100, and the fields they need."""
    shape = {CLASSES: (2,), TOKENS: (2, 29), SENTENCES: (2, 4), QUESTION: (2,)}[head]
    keep = torch.zeros(shape, dtype=torch.bool) if ignored else torch.rand(shape) < 0.6
    keep.view(-1)[0] = not ignored
    if head == QUESTION:
        return {name: torch.where(keep, 5, -100) for name in ("start_positions", "end_positions")}, {}
    fields: dict[str, Any] = {"segment_length": 8, "num_labels": 1 if kind == "number" else 3}
    if kind == "several":
        return {"labels": torch.rand(*shape, 3).round().masked_fill(~keep[..., None], -100)}, fields
    labels = torch.randn(shape) if kind == "number" else torch.randint(3, shape)
    return {"labels": labels.masked_fill(~keep, -100)}, fields


KINDS = [
    (CLASSES, "class"),
    (CLASSES, "several"),
    (CLASSES, "number"),
    (SENTENCES, "class"),
    (SENTENCES, "several"),
    (SENTENCES, "number"),
    (TOKENS, "class"),
    (QUESTION, "class"),
]


@pytest.mark.parametrize(("head", "kind"), KINDS)
def test_ignored_labels_do_not_count(head: str, kind: str) -> None:
    labels, fields = _labels(head, kind, ignored=False)
    model = build_ours(head, **fields)
    output = model(**INPUTS, **labels)
    if head == QUESTION:
        kept = labels["start_positions"] >= 0
        losses = [
            F.cross_entropy(output[f"{end}_logits"][kept], torch.full((int(kept.sum()),), 5))
            for end in ("start", "end")
        ]
        expected = sum(losses) / 2
    else:
        kept = labels["labels"] != -100
        if kind == "class":
            expected = F.cross_entropy(output.logits[kept], labels["labels"][kept])
        elif kind == "several":
            expected = F.binary_cross_entropy_with_logits(output.logits[kept], labels["labels"][kept])
        else:
            expected = F.mse_loss(output.logits[..., 0][kept], labels["labels"][kept])
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.parametrize("num_items", [None, 7, 0, torch.tensor(0)])
@pytest.mark.parametrize(("head", "kind"), KINDS)
def test_no_label_is_no_loss(head: str, kind: str, num_items: Any) -> None:
    labels, fields = _labels(head, kind, ignored=True)
    model = build_ours(head, **fields).train()
    loss = model(**INPUTS, **labels, num_items_in_batch=num_items).loss
    loss.backward()
    assert loss == 0
    assert all((parameter.grad == 0).all() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize(("head", "kind"), KINDS)
def test_parts_of_a_batch_add_up(head: str, kind: str) -> None:
    """With the number of labels in all parts, the losses of the parts sum to the loss of the whole."""
    labels, fields = _labels(head, kind, ignored=False)
    model = build_ours(head, **fields)
    whole = model(**INPUTS, **labels).loss
    key = next(iter(labels))
    count = (labels[key] != -100).sum()
    for number in (count, int(count)):
        parts = [
            model(
                **{name: value[row : row + 1] for name, value in (INPUTS | labels).items()}, num_items_in_batch=number
            ).loss
            for row in range(2)
        ]
        torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize("head", [CLASSES, SENTENCES, TOKENS, QUESTION, CHOICE])
def test_half_precision_losses_are_computed_in_float(head: str) -> None:
    inputs, labels = dict(INPUTS), {"labels": torch.zeros(2, dtype=torch.long)}
    if head == CHOICE:
        inputs, labels["labels"] = {key: value[None] for key, value in INPUTS.items()}, torch.zeros(1, dtype=torch.long)
    elif head != CLASSES:
        labels, _ = _labels(head, "class", ignored=False)
    output = build_ours(head, segment_length=8, num_labels=3).bfloat16()(**inputs, **labels)
    assert output.loss.dtype == torch.float32
    assert output.loss.isfinite()


@pytest.mark.parametrize(
    ("head", "fields", "labels", "message"),
    [
        (CLASSES, {"num_labels": 3}, torch.tensor([0, 3]), r"labels hold 3, neither a class in 0 \.\. 2 nor -100"),
        (CLASSES, {"num_labels": 3}, torch.tensor([0, -1]), r"labels hold -1, neither a class"),
        (CLASSES, {"num_labels": 3}, torch.zeros(2, 3).long(), r"shape \[2\], .* \[2, 3\]; .* 'multi_label"),
        (CLASSES, {"num_labels": 3}, torch.zeros(3).long(), r"labels must have shape \[2\], a class each, got \[3\]"),
        (CLASSES, {"num_labels": 3}, torch.zeros(2), r"must have shape \[2, 3\], one for each output, got \[2\]"),
        (CLASSES, {"num_labels": 3}, torch.full((2, 3), 2.0), r"labels hold 2, which is neither in 0 \.\. 1 nor -100"),
        (CLASSES, {"num_labels": 3}, torch.full((2, 3), torch.nan), "labels hold nan"),
        (CLASSES, {"num_labels": 1}, torch.tensor([0.0, torch.inf]), "labels hold inf, which is neither finite nor"),
        (CLASSES, {"num_labels": 1}, torch.zeros(3), r"'regression' must have shape \[2, 1\], .* got \[3\]"),
        (
            CLASSES,
            {"num_labels": 3, "problem_type": "single_label_classification"},
            torch.zeros(2),
            "labels must be integers",
        ),
        (TOKENS, {"num_labels": 3}, torch.zeros(2, 5).long(), r"shape \[2, 29\], a class each, got \[2, 5\]"),
        (TOKENS, {"num_labels": 3}, torch.full((2, 29), 3), r"labels hold 3, neither a class in 0 \.\. 2"),
        (SENTENCES, {"segment_length": 8}, torch.zeros(2, 5).long(), r"shape \[2, 4\], a class each, got \[2, 5\]"),
    ],
)
def test_wrong_labels(head: str, fields: dict[str, Any], labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _loss(head, labels, **fields)


def test_a_misspelt_problem_type() -> None:
    model = build_ours(CLASSES, num_labels=3)
    vars(model.config)["problem_type"] = "multilabel"  # at construction transformers 5.17 refuses it itself
    message = "problem_type must be one of .*, 'multi_label_classification', .* got 'multilabel'"
    with pytest.raises(ValueError, match=message):
        model(**INPUTS, labels=torch.zeros(2, 3))


def test_wrong_labels_of_questions_and_choices() -> None:
    model = build_ours(QUESTION)
    two = torch.tensor([1, 2])
    with pytest.raises(ValueError, match="end_positions is missing; give start_positions and end_positions"):
        model(**INPUTS, start_positions=two)
    with pytest.raises(ValueError, match=r"start_positions must be integers of shape \[B\] = \[2\], got .* \[3\]"):
        model(**INPUTS, start_positions=torch.zeros(3).long(), end_positions=two)
    with pytest.raises(ValueError, match="end_positions must be integers"):
        model(**INPUTS, start_positions=two, end_positions=two.float())
    choice = build_ours(CHOICE)
    with pytest.raises(ValueError, match=r"input_ids must have shape \[B, M, N\], with M choices .* got \[2, 29\]"):
        choice(**INPUTS)
    with pytest.raises(ValueError, match=r"labels hold 2, neither a class in 0 \.\. 1"):
        choice(**{key: value[None] for key, value in INPUTS.items()}, labels=torch.tensor([2]))
    with pytest.raises(ValueError, match="give input_ids or inputs_embeds, not neither"):
        choice()


@pytest.mark.parametrize("head", [CLASSES, TOKENS, SENTENCES, QUESTION, CHOICE])
def test_labels_that_are_no_tensor(head: str) -> None:
    model = build_ours(head, num_labels=3, segment_length=8)
    names = ["start_positions", "end_positions"] if head == QUESTION else ["labels"]
    inputs = {key: value[None] for key, value in INPUTS.items()} if head == CHOICE else INPUTS
    for wrong in ([0, 1], "court"):
        with pytest.raises(TypeError, match=rf"{names[0]} must be a tensor, got (list|str); make one with"):
            model(**inputs, **dict.fromkeys(names, wrong))


def test_refused_labels_decide_nothing() -> None:
    model = build_ours(CLASSES, num_labels=3)
    with pytest.raises(ValueError, match="multi_label_classification"):
        model(**INPUTS, labels=torch.zeros(2, 3).long())
    assert model.config.problem_type is None
    assert model(**INPUTS, labels=torch.zeros(2, 3)).loss.isfinite()


def test_a_loss_function_of_the_users() -> None:
    model = build_ours(CLASSES)
    model.loss_function = lambda labels, pooled_logits, config, **_: pooled_logits.sum() + labels.sum()
    output = model(**INPUTS, labels=torch.tensor([0, 1]))
    torch.testing.assert_close(output.loss, output.logits.sum() + 1)


class _Examples(torch.utils.data.Dataset):
    """Texts with labels of one head, different in number by text where the head allows."""

    def __init__(self, head: str, choices: int = 2) -> None:
        ids = make_batch([16] * 8 * choices)["input_ids"]
        ids[:, 6] = 2
        self.examples: list[dict[str, Any]] = []
        for row in range(8):
            example: dict[str, Any] = {"input_ids": ids[row]}
            if head == CLASSES:
                example["labels"] = row % 3
            elif head == TOKENS:
                example["labels"] = torch.where(torch.rand(16) < (row + 1) / 8, ids[row] % 3, -100)
            elif head == SENTENCES:
                example["labels"] = torch.where(torch.rand(4) < (row + 1) / 8, 1, -100)
            elif head == QUESTION:
                example |= {"start_positions": row, "end_positions": row + 2}
            else:
                example = {"input_ids": ids[row * choices : (row + 1) * choices], "labels": row % choices}
            self.examples.append(example)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.examples[index]


@pytest.mark.parametrize("head", [CLASSES, TOKENS, SENTENCES, QUESTION, CHOICE])
def test_trainer_gives_the_same_however_gradients_are_accumulated(head: str, tmp_path: Path) -> None:
    results = []
    torch.manual_seed(0)
    data = _Examples(head)
    for batch_size, steps in ((4, 1), (1, 4)):
        model = build_ours(head, num_labels=3, segment_length=4)
        arguments = TrainingArguments(
            output_dir=str(tmp_path / str(batch_size)),
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=steps,
            num_train_epochs=1,
            learning_rate=0.05,
            optim="sgd",
            lr_scheduler_type="constant",
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
            seed=1,
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=data)
        trainer.train()
        log = [(entry["loss"], entry["grad_norm"]) for entry in trainer.state.log_history if "loss" in entry]
        results.append((torch.tensor(log), dict(model.named_parameters())))
    (expected_log, expected_weights), (log, weights) = results
    assert len(expected_log) == 2
    torch.testing.assert_close(log, expected_log, atol=2e-4, rtol=1e-4)
    for name, expected in expected_weights.items():
        torch.testing.assert_close(weights[name], expected, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
