"""What all trainings ask of ``Trainer``."""

import pytest
from transformers import MPNetConfig, MPNetForMaskedLM

from longspan.training.trainer_setup import checkpoint_activations


def test_a_class_without_checkpointing_is_refused_by_the_recipes_field() -> None:
    model = MPNetForMaskedLM(
        MPNetConfig(vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4)
    )
    with pytest.raises(ValueError, match="gradient_checkpointing is true, which MPNetForMaskedLM doesn't support"):
        checkpoint_activations(model)
