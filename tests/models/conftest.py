from tiny_text import tokenizer  # noqa: F401
