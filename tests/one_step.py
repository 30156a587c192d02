"""A step of plain gradient descent by ``Trainer``, for tests of what a batch adds up to."""

from pathlib import Path
from typing import Any

from transformers import TrainingArguments


def one_step(output: Path, batch: int, accumulate: int, learning_rate: float, **options: Any) -> TrainingArguments:
    """The arguments of one step over ``batch * accumulate`` examples, unclipped, on the CPU, without a file."""
    return TrainingArguments(
        output_dir=str(output),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulate,
        max_steps=1,
        learning_rate=learning_rate,
        optim="sgd",
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **options,
    )
