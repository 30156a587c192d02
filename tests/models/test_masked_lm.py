"""The masked language model's loss: at labelled positions only, and the same however a batch is divided."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import SIZES, build_ours, make_batch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainingArguments

INPUTS = make_batch([29, 12, 20], [[0], [], [3, 4]])


def _labels(share: float = 0.3) -> Tensor:
    ids = INPUTS["input_ids"]
    chosen = (torch.rand(ids.shape) < share) & INPUTS["attention_mask"].bool()
    return torch.where(chosen, torch.randint(SIZES["vocab_size"], ids.shape), -100)


@pytest.mark.parametrize("sparse", [False, True])
def test_loss_is_the_mean_over_labelled_positions(sparse: bool) -> None:
    model, labels = build_ours("ForMaskedLM"), _labels()
    logits = model(**INPUTS).logits
    assert logits.shape == (3, 29, SIZES["vocab_size"])
    output = model(**INPUTS, labels=labels, sparse_prediction=sparse)
    chosen = labels != -100
    torch.testing.assert_close(output.loss, cross_entropy(logits[chosen], labels[chosen]))
    torch.testing.assert_close(output.logits, logits[chosen] if sparse else logits, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("num_items", [None, 7, torch.tensor(50)])
def test_sparse_prediction_changes_neither_loss_nor_gradients(num_items: Any) -> None:
    labels, gradients, losses = _labels(), [], []
    for sparse in (False, True):
        model = build_ours("ForMaskedLM", sparse_prediction=sparse).train()
        loss = model(**INPUTS, labels=labels, num_items_in_batch=num_items).loss
        loss.backward()
        losses.append(loss)
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    torch.testing.assert_close(losses[1], losses[0], atol=0, rtol=1e-6)
    for name, expected in gradients[0].items():
        torch.testing.assert_close(
            gradients[1][name], expected, atol=1e-6, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.4, 0.6, 1.0])
def test_loss_is_the_cross_entropy_of_the_logits_returned(fraction: float) -> None:
    model = build_ours("ForMaskedLM")
    labels = torch.where(torch.rand(INPUTS["input_ids"].shape) < fraction, INPUTS["input_ids"], -100)
    parameters = [parameter for name, parameter in model.named_parameters() if "_global" not in name]
    output = model(**INPUTS, labels=labels)
    total = cross_entropy(output.logits.flatten(0, 1), labels.flatten(), reduction="sum")
    expected = total / (labels != -100).sum().clamp(min=1)
    torch.testing.assert_close(output.loss, expected)
    # The way back from the loss and the one from the logits are two, and both are there.
    for actual, wanted in zip(
        torch.autograd.grad(output.loss, parameters, retain_graph=True),
        torch.autograd.grad(expected, parameters),
        strict=True,
    ):
        torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(model(**INPUTS, labels=labels).loss, expected)


def test_sparse_prediction_runs_the_head_at_labelled_positions_only() -> None:
    model, labels = build_ours("ForMaskedLM", sparse_prediction=True), _labels()
    rows: list[int] = []
    model.lm_head.register_forward_hook(lambda _, args, out: rows.append(out.numel() // out.shape[-1]))
    with torch.no_grad():
        model(**INPUTS, labels=labels)
        model(**INPUTS, labels=labels, sparse_prediction=False)
        model(**INPUTS)
    assert rows == [int((labels != -100).sum()), 3 * 29, 3 * 29]


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("num_items", [None, 5, 0, torch.tensor(0)])
def test_no_labelled_position_is_no_loss(sparse: bool, num_items: Any) -> None:
    model = build_ours("ForMaskedLM").train()
    labels = torch.full((3, 29), -100)
    loss = model(**INPUTS, labels=labels, sparse_prediction=sparse, num_items_in_batch=num_items).loss
    loss.backward()
    assert loss == 0
    assert all((parameter.grad == 0).all() for parameter in model.parameters())


def test_labels_need_not_be_contiguous() -> None:
    model, labels = build_ours("ForMaskedLM"), _labels()
    strided = labels.T.contiguous().T
    assert model(**INPUTS, labels=strided).loss == model(**INPUTS, labels=labels).loss


def test_tuple_has_the_loss_first() -> None:
    model, labels = build_ours("ForMaskedLM"), _labels()
    output = model(**INPUTS, labels=labels)
    loss, logits = model(**INPUTS, labels=labels, return_dict=False)
    assert loss == output.loss
    assert logits.equal(output.logits)


def test_a_hook_of_the_head_sees_one_call_that_the_loss_goes_back_through() -> None:
    model, labels = build_ours("ForMaskedLM"), torch.full_like(_labels(), -100)
    labels[0, 3] = 5
    seen: list[Tensor] = []
    model.lm_head.layer_norm.register_forward_hook(lambda module, args, out: seen.append(out))
    output = model(**INPUTS, labels=labels)
    assert [tuple(out.shape) for out in seen] == [(3, 29, 24)]
    grads = torch.autograd.grad(output.loss, [seen[0], output.logits])
    assert [grad.flatten(0, 1).any(1).nonzero().tolist() for grad in grads] == [[[3]], [[3]]]


@pytest.mark.parametrize("sparse", [False, True])
def test_half_precision_loss_is_computed_in_float(sparse: bool) -> None:
    model, labels = build_ours("ForMaskedLM").bfloat16(), _labels()
    assert model(**INPUTS, labels=labels, sparse_prediction=sparse).loss.dtype == torch.float32


class _Examples(torch.utils.data.Dataset):
    """Texts with very different numbers of labels, so that a mean of means isn't the mean."""

    def __init__(self) -> None:
        ids = make_batch([24] * 32)["input_ids"]
        chosen = torch.rand(32, 24) < torch.rand(32, 1) ** 3 + 0.04
        self.examples = [
            {"input_ids": row, "labels": torch.where(mask, row, -100)} for row, mask in zip(ids, chosen, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.examples[index]


def test_trainer_gives_the_same_however_gradients_are_accumulated(tmp_path: Path) -> None:
    data, results = _Examples(), []
    for batch_size, steps in ((16, 1), (4, 4), (1, 16)):
        model = build_ours("ForMaskedLM", sparse_prediction=batch_size == 1)
        arguments = TrainingArguments(
            output_dir=str(tmp_path / str(batch_size)),
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=steps,
            num_train_epochs=2,
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
    (expected_log, expected_weights), *others = results
    assert len(expected_log) == 4
    for log, weights in others:
        torch.testing.assert_close(log, expected_log, atol=2e-4, rtol=1e-4)
        for name, expected in expected_weights.items():
            torch.testing.assert_close(weights[name], expected, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
