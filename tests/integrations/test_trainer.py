"""``Trainer``, PEFT and checkpointing on our models: what a user of transformers does on the first day."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from one_step import one_step
from torch import Tensor, nn

from longspan.integrations import accelerate
from tests.models.tiny_models import build_ours, build_stock, make_batch

pytest.importorskip("accelerate")
from transformers import Trainer

# Trainer and PEFT still use names that transformers has given others.
OLD_NAMES = pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6:FutureWarning")
LENGTHS = [29, 20, 11, 25, 8, 17, 5, 23]


def _rows(head: str) -> list[dict[str, Tensor]]:
    """Eight texts with labels, of which some have many and some few."""
    batch = make_batch(LENGTHS, [[0]] * len(LENGTHS))
    rows = []
    for index, length in enumerate(LENGTHS):
        row = {name: tensor[index] for name, tensor in batch.items()}
        if head == "ForSequenceClassification":
            row["labels"] = torch.tensor(index % 3)
        elif head == "ForQuestionAnswering":
            row["start_positions"], row["end_positions"] = torch.tensor(index % 4), torch.tensor(4)
        else:
            position = torch.arange(len(row["input_ids"]))
            wanted = (position % (index + 1) == 0) & (position < length)
            row["labels"] = torch.where(wanted, (position + index) % 3, -100)
        rows.append(row)
    return rows


def _train(model: nn.Module, head: str, output: Path, batch: int, accumulate: int, **options: Any) -> float:
    arguments = one_step(output, batch, accumulate, 0.1, **options)
    rows = _rows(head)
    order = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=_stack)
    return float(order.train().training_loss)


def _stack(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize(
    "head", ["ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"]
)
def test_accumulated_gradients_are_the_big_batchs(head: str, tmp_path: Path) -> None:
    fields = {} if head in ("ForMaskedLM", "ForQuestionAnswering") else {"num_labels": 3}
    whole = build_ours(head, **fields)
    parts, before = copy.deepcopy(whole), copy.deepcopy(whole)
    loss = _train(whole, head, tmp_path, batch=8, accumulate=1)
    accumulated = _train(parts, head, tmp_path, batch=2, accumulate=4)
    assert accumulated == pytest.approx(loss, rel=1e-5)
    moved = 0.0
    for one, other, old in zip(whole.parameters(), parts.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(other, one, atol=1e-6, rtol=1e-5)
        moved = max(moved, (one - old).abs().max().item())
    assert moved > 1e-3


@OLD_NAMES
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_through_the_trainer_changes_nothing(reentrant: bool, tmp_path: Path) -> None:
    plain = build_ours("ForMaskedLM")
    checkpointed = copy.deepcopy(plain)
    calls: list[int] = []
    checkpointed.longformer.encoder.layer[0].intermediate.register_forward_hook(lambda *_: calls.append(1))
    loss = _train(plain, "ForMaskedLM", tmp_path, 8, 1)
    options = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}
    assert _train(checkpointed, "ForMaskedLM", tmp_path, 8, 1, **options) == pytest.approx(loss, rel=1e-6)
    assert len(calls) == 2
    for one, other in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(other, one, atol=1e-6, rtol=1e-5)


@OLD_NAMES
@pytest.mark.parametrize("make", [build_ours, lambda head: accelerate(build_stock(head))], ids=["ours", "accelerated"])
def test_lora_by_default_adapts_queries_and_values(make: Any, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = make("ForTokenClassification")
    batch = make_batch([20, 9], [[0], [3]])
    expected = model(**batch).logits
    adapted = peft.get_peft_model(model, peft.LoraConfig())
    names = {
        name.rsplit(".lora_A", 1)[0].rsplit(".", 1)[1] for name, _ in adapted.named_parameters() if "lora_A" in name
    }
    assert names == {"query", "value", "query_global", "value_global"}
    torch.testing.assert_close(adapted(**batch).logits, expected)  # adapters start as nothing
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    adapted(**batch).logits.square().mean().backward()
    for name, parameter in adapted.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)
        if "lora_" in name:
            assert parameter.grad.abs().max() > 0, name
    result = adapted(**batch).logits
    assert (result - expected).abs().max() > 1e-3
    merged = adapted.merge_and_unload()  # back to plain layers, whose global rows are computed another way
    torch.testing.assert_close(merged(**batch).logits, result, atol=1e-5, rtol=1e-4)


@OLD_NAMES
def test_adapters_stay_when_a_model_is_accelerated() -> None:
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(build_stock("ForTokenClassification"), peft.LoraConfig(init_lora_weights=False))
    batch = make_batch([20, 9], [[0], [3]])
    expected = adapted(**batch).logits
    assert accelerate(adapted) is adapted
    torch.testing.assert_close(adapted(**batch).logits, expected, atol=1e-5, rtol=1e-4)


def test_an_accelerated_head_compiles_to_one_graph() -> None:
    model = accelerate(build_stock("ForTokenClassification"))
    batch = make_batch([29, 20], [[0, 28], [3]])
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(**batch).logits, model(**batch).logits)
