"""The tasks of the papers: official formats, input layouts, global tokens, heads, decoding, metrics and recipes."""
