"""LED in ``transformers``' Trainer: collator, accumulation, evaluation by generation."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_led import build_ours, build_pair

pytest.importorskip("accelerate")


class _Padding:
    """What a seq2seq collator does, without a tokenizer."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, examples: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        longest = {name: max(len(example[name]) for example in examples) for name in examples[0]}
        fill = {"input_ids": 1, "attention_mask": 0, "global_attention_mask": 0, "labels": -100}
        batch = {
            name: torch.tensor([e[name] + [fill[name]] * (length - len(e[name])) for e in examples])
            for name, length in longest.items()
        }
        batch["decoder_input_ids"] = self.model.prepare_decoder_input_ids_from_labels(batch["labels"])
        return batch


def _examples(count: int) -> list[dict[str, list[int]]]:
    """Texts whose summary is their first four tokens."""
    generator = torch.Generator().manual_seed(0)
    examples = []
    for index in range(count):
        ids = torch.randint(3, 20, (12 + index % 7,), generator=generator).tolist()
        is_global = [1] + [0] * (len(ids) - 1)
        examples.append(
            {
                "input_ids": ids,
                "attention_mask": [1] * len(ids),
                "global_attention_mask": is_global,
                "labels": [*ids[:4], 2],
            }
        )
    return examples


def test_seq2seq_trainer_accumulates_and_generates(tmp_path: Path) -> None:
    from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

    losses = []
    for batch, accumulation in ((8, 1), (2, 4)):
        model = build_ours("ForConditionalGeneration", max_encoder_position_embeddings=32)
        arguments = Seq2SeqTrainingArguments(
            str(tmp_path / str(batch)),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            max_steps=3,
            learning_rate=1e-2,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            predict_with_generate=True,
            dataloader_pin_memory=False,
            disable_tqdm=True,
        )
        trainer = Seq2SeqTrainer(model, arguments, _Padding(model), train_dataset=_examples(24))
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        written = trainer.predict(_examples(5), max_new_tokens=7, num_beams=2).predictions
        assert written.shape[0] == 5
        assert (written[:, 8:] == 1).all()  # padded to what generation would have been by default
    assert losses[0][2] < losses[0][0]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


# PEFT still uses names that transformers has given others.
@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6:FutureWarning")
@pytest.mark.parametrize(("kind", "virtual"), [("PromptTuningConfig", 3), ("PrefixTuningConfig", 0)])
def test_an_leds_first_token_is_global_whether_virtual_or_not(kind: str, virtual: int) -> None:
    peft = pytest.importorskip("peft")
    ids = torch.randint(5, 61, (2, 20), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": (torch.arange(20) < torch.tensor([[20], [15]])).long()}
    labels, outputs = ids[:, :6].contiguous(), {}
    # PEFT takes the decoder to be as the encoder.
    pair = build_pair("ForConditionalGeneration", decoder_layers=2, decoder_attention_heads=3)
    for name, model in zip(("stock", "ours"), pair, strict=True):
        torch.manual_seed(0)
        config = getattr(peft, kind)(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=3)
        adapted = peft.get_peft_model(model, config).eval()
        first, of_text = (torch.zeros(2, virtual + 20, dtype=torch.long) for _ in range(2))
        first[:, 0], of_text[:, virtual] = 1, 1
        masks = {"none": {}, "first": {"global_attention_mask": first}, "text": {"global_attention_mask": of_text}}
        with torch.no_grad():
            outputs[name] = {mask: adapted(**batch, **given, labels=labels).logits for mask, given in masks.items()}
    torch.testing.assert_close(outputs["ours"]["none"], outputs["stock"]["first"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(outputs["ours"]["text"], outputs["stock"]["text"], atol=1e-4, rtol=1e-4)
    assert (outputs["ours"]["none"] - outputs["stock"]["none"]).abs().max() > 1e-3
