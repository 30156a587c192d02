from tiny_text import roberta_dir, tokenizer  # noqa: F401
