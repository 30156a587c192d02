"""The snippets of docs/pipelines.md run, in order, as one program."""

import re
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

import longspan
from tests.models.tiny_models import build_stock

PAGE = Path(__file__).parents[2] / "docs" / "pipelines.md"


def test_snippets_run(
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    build_stock("ForMaskedLM", vocab_size=len(tokenizer), max_position_embeddings=258).save_pretrained("longformer")
    tokenizer.save_pretrained("longformer")
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(snippets) == 4
    names: dict[str, Any] = {"tokenizer": tokenizer}
    try:
        for snippet in snippets:
            if "sentence_transformers" in snippet:
                pytest.importorskip("sentence_transformers")
            exec(compile(snippet, str(PAGE), "exec"), names)
    finally:
        longspan.register(False)
    printed = capsys.readouterr().out
    assert "torch.Size([2, 24])" in printed
    assert "(1, 24)" in printed
    assert [len(answers) for answers in names["three"]] == [3, 3]
