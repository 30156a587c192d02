"""Loading encoder-decoders: an LED, a BART or any other model that reads one text and writes another."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from longspan.data.progress import no_transformers_bars
from longspan.training.masked_lm import first_line
from longspan.training.run_folder import check_model_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_sequence_to_sequence(model: str | Path, *, init: str = "pretrained", seed: int = 0) -> "PreTrainedModel":
    """An encoder-decoder in fp32; an LED becomes :class:`longspan.LEDForConditionalGeneration`.

    Args:
        model: a folder, or a hub name. Any model of ``AutoModelForSeq2SeqLM`` will do, such as a BART.
        init: ``"pretrained"`` loads the weights; ``"random"`` reads the configuration only and draws weights.
        seed: of the random weights.

    Raises:
        FileNotFoundError: there is no such model. ValueError: it is no encoder-decoder.
    """
    from transformers import AutoModelForSeq2SeqLM, set_seed

    from longspan.models import LEDForConditionalGeneration, read_config

    check_model_folder(model)
    try:
        config = read_config(model)
        if not config.is_encoder_decoder:
            raise ValueError(
                f"model {str(model)!r} is a {config.model_type!r}, which does not generate texts; use an LED, or "
                "make one from a BART: longspan convert"
            )
        builder: Any = AutoModelForSeq2SeqLM
        if config.model_type == "led":
            builder = LEDForConditionalGeneration
        if init == "random":
            set_seed(seed)
            make = builder.from_config if builder is AutoModelForSeq2SeqLM else builder._from_config
            return make(config, dtype=torch.float32)
        with no_transformers_bars():
            return builder.from_pretrained(str(model), config=config, dtype=torch.float32)
    except OSError as error:
        raise FileNotFoundError(f"model {str(model)!r} can't be loaded: {first_line(error)}") from error


def position_limits(config: Any) -> tuple[int | None, int | None]:
    """Tokens that an encoder reads and its decoder writes; None where any number goes."""
    both = getattr(config, "max_position_embeddings", None)
    return (
        getattr(config, "max_encoder_position_embeddings", both),
        getattr(config, "max_decoder_position_embeddings", both),
    )
