"""``transformers.Seq2SeqTrainer`` with whole checkpoints, ROUGE, the best model kept, and label smoothing."""

import json
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PrinterCallback, Seq2SeqTrainer, TrainerControl

from longspan.data.atomic import atomic_directory
from longspan.data.json_text import to_json
from longspan.data.masking import IGNORED
from longspan.data.progress import no_transformers_bars
from longspan.models.losses import label_count
from longspan.training.run_folder import EVALUATION_FILE, RunFolder
from longspan.training.summarization.rouge import rouge_scores
from longspan.training.summarization.texts import ExampleFile
from longspan.training.summarization.writing import SummarizationSettings
from longspan.training.trainer_setup import check_loss
from longspan.training.whole_checkpoints import WholeCheckpoints


class SummarizationTrainer(WholeCheckpoints, Seq2SeqTrainer):
    """See the module.

    Args:
        folder: where checkpoints, log and the best model go.
        references: the held-out examples, in the order of ``eval_dataset``.
        label_smoothing: share of the target probability that is spread over the vocabulary.
        best_by: the measure that the best model is told by.
        use_stemmer: of ROUGE.
        keep_checkpoints: how many checkpoints are kept.
        settings: saved with the model.
        **trainer_arguments: ``Seq2SeqTrainer``'s.
    """

    control: TrainerControl

    def __init__(
        self,
        *,
        folder: RunFolder,
        references: ExampleFile | None,
        label_smoothing: float,
        best_by: str,
        use_stemmer: bool,
        keep_checkpoints: int,
        settings: SummarizationSettings,
        **trainer_arguments: Any,
    ) -> None:
        super().__init__(compute_metrics=self._score, **trainer_arguments)
        # The loss is divided by the labels of the whole step, so have Trainer leave it as it is.
        self.model_accepts_loss_kwargs = True
        self.pop_callback(PrinterCallback)
        self.folder, self.references, self.settings = folder, references, settings
        self.label_smoothing, self.best_by, self.use_stemmer = label_smoothing, best_by, use_stemmer
        self.keep_checkpoints = keep_checkpoints
        self.best_dir = folder.path / "best"

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Cross-entropy of the summaries' tokens, smoothed, divided by the labels of the whole step."""
        outputs = model(**inputs, use_cache=False)
        labels = inputs["labels"]
        chosen = labels != IGNORED
        count = chosen.sum()
        nats = outputs.loss * count
        if self.label_smoothing and model.training:
            logits = outputs.logits[chosen].float()  # [M, V]
            uniform = (logits.logsumexp(-1) - logits.mean(-1)).sum()
            nats = (1 - self.label_smoothing) * nats + self.label_smoothing * uniform
        loss = nats / label_count(chosen, num_items_in_batch)
        if num_items_in_batch is not None:
            # DistributedDataParallel averages over the processes; the quotient is already over all of them.
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _score(self, evaluated: Any) -> dict[str, float]:
        assert self.references is not None
        tokenizer: Any = self.processing_class
        special = torch.tensor(sorted({*tokenizer.all_special_ids, IGNORED}))
        count = len(self.references)
        ids = torch.as_tensor(evaluated.predictions)[:count]  # [B, T]
        length = (~torch.isin(ids, special)).sum(1).double().mean().item()
        ids = ids.masked_fill(ids == IGNORED, tokenizer.pad_token_id)
        written = [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
        true = [self.references[number].summary or "" for number in range(count)]
        return {**rouge_scores(written, true, use_stemmer=self.use_stemmer).to_dict(), "tokens": length}

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Write summaries of the held-out texts, score them, and keep the model if it is the best so far."""
        logs: dict[str, float] = super().evaluate(*args, **kwargs)
        names = ("loss", "rouge1", "rouge2", "rougeL", "rougeLsum", "tokens")
        metrics = {name: logs[f"eval_{name}"] for name in names}
        if self.is_world_process_zero() and self._is_best(metrics):
            with atomic_directory(self.best_dir, "the best model") as place:
                with no_transformers_bars():
                    self.accelerator.unwrap_model(self.model).save_pretrained(place)
                tokenizer: Any = self.processing_class
                tokenizer.save_pretrained(place)
                found = {"step": self.state.global_step, "metrics": metrics}
                (place / EVALUATION_FILE).write_text(to_json(found, indent=1) + "\n", encoding="utf-8")
        self.accelerator.wait_for_everyone()
        return logs

    def _is_best(self, metrics: dict[str, float]) -> bool:
        file = self.best_dir / EVALUATION_FILE
        if not file.is_file():
            return True
        kept = json.loads(file.read_text(encoding="utf-8"))["metrics"][self.best_by]
        now = metrics[self.best_by]
        if kept is None:  # it wasn't finite
            return True
        return now < kept if self.best_by == "loss" else now > kept

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write a line of the log.

        Raises:
            FloatingPointError: the loss is infinite or NaN.
        """
        super().log(logs, start_time)
        if "loss" not in logs and "eval_loss" not in logs:
            return
        if self.is_world_process_zero():
            self.folder.append_log({"step": self.state.global_step, **logs})
        if "loss" in logs:
            check_loss(logs["loss"], self.state.global_step)
