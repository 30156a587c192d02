"""A budget of the demo that takes seconds."""

from longspan.demo import DemoBudget

TINY = DemoBudget(
    held_out_files=3,
    long_characters=3000,
    excerpt_characters=3000,
    vocab_size=320,
    hidden_size=32,
    layers=2,
    heads=2,
    intermediate_size=32,
    short_length=32,
    long_length=256,
    attention_window=(32, 128),
    pretrain_steps=12,
    pretrain_sequences=4,
    continue_steps=4,
    cost_lengths=(32, 64),
    cost_hidden_size=16,
    cost_heads=2,
    cost_window=32,
    cost_rounds=1,
)
