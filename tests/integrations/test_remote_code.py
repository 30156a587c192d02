"""A directory with code opens in a process that cannot import this package, and computes the same."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from longspan.integrations import add_remote_code
from longspan.integrations.registration import CONFIGS
from longspan.models import HATConfig, HATForSequenceClassification
from tests.models.tiny_models import build_ours, make_batch

# What a machine without the package sees: importing it fails.
WITHOUT = """
import sys
sys.modules["longspan"] = None
import torch
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification
"""


def _run(program: str, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=240, env=environment)


def test_it_opens_and_computes_without_the_package(tmp_path: Path) -> None:
    model = build_ours("ForMaskedLM", attention_window=7, attention_dilation=2)  # what stock transformers lacks
    batch = make_batch([29, 20], [[0, 28], [3]])
    directory = tmp_path / "model"
    model.save_pretrained(directory)
    assert add_remote_code(directory) == directory
    add_remote_code(directory)
    torch.save({"batch": batch, "logits": model(**batch).logits.detach()}, tmp_path / "expected.pt")
    _save_hat(tmp_path / "hat", batch)
    program = f"""{WITHOUT}
expected = torch.load({str(tmp_path / "expected.pt")!r})
again = {str(tmp_path / "again")!r}
model = AutoModelForMaskedLM.from_pretrained({str(directory)!r}, trust_remote_code=True).eval()
assert "transformers_modules" in type(model).__module__, type(model)
batch = expected["batch"]
torch.testing.assert_close(model(**batch).logits, expected["logits"])
model(**batch).logits.sum().backward()
assert type(model.config).__name__ == "LongformerConfig" and model.config.attention_dilation == 2
base = AutoModel.from_pretrained({str(directory)!r}, trust_remote_code=True)
assert type(base.config) is type(model.config)
compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
torch.testing.assert_close(compiled(**batch).logits, expected["logits"])
model.save_pretrained(again)
model = AutoModelForMaskedLM.from_pretrained(again, trust_remote_code=True).eval()
torch.testing.assert_close(model(**batch).logits, expected["logits"])
hat = AutoModelForSequenceClassification.from_pretrained({str(tmp_path / "hat")!r}, trust_remote_code=True).eval()
of_hat = torch.load({str(tmp_path / "hat" / "expected.pt")!r})
torch.testing.assert_close(hat(**of_hat["given"]).logits, of_hat["logits"])
"""
    _run(program, tmp_path)


def _save_hat(directory: Path, batch: dict[str, Any]) -> None:
    """A HAT with its code, and the logits that it gives for the batch."""
    sizes = {"vocab_size": 61, "hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 16}
    config = HATConfig(**sizes, num_hidden_layers=2, max_sentence_length=8, max_sentences=8)
    model = HATForSequenceClassification(config).eval()
    model.save_pretrained(directory)
    add_remote_code(directory)
    given = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    torch.save({"given": given, "logits": model(**given).logits.detach()}, directory / "expected.pt")


def test_beside_the_package_and_from_two_directories(tmp_path: Path) -> None:
    """Operators of the installed package and of each directory don't meet."""
    batch = make_batch([20], [[0]])
    for name in ("one", "two"):
        build_ours("ForMaskedLM").save_pretrained(tmp_path / name)
        add_remote_code(tmp_path / name)
    torch.save(batch, tmp_path / "batch.pt")
    program = f"""
import torch
from longspan import LongformerForMaskedLM
from transformers import AutoModelForMaskedLM
batch = torch.load({str(tmp_path / "batch.pt")!r})
one = AutoModelForMaskedLM.from_pretrained({str(tmp_path / "one")!r}, trust_remote_code=True).eval()
two = AutoModelForMaskedLM.from_pretrained({str(tmp_path / "two")!r}, trust_remote_code=True).eval()
own = LongformerForMaskedLM.from_pretrained({str(tmp_path / "one")!r}).eval()
assert len({{type(one), type(two), type(own)}}) == 3
for model in (one, two, own):
    model(**batch).logits.sum().backward()
assert torch.equal(one(**batch).logits, two(**batch).logits)
torch.testing.assert_close(one(**batch).logits, own(**batch).logits)  # the package's attention is compiled
"""
    _run(program, tmp_path)


def test_without_trust_it_opens_as_before(tmp_path: Path) -> None:
    build_ours("ForMaskedLM").save_pretrained(tmp_path)
    add_remote_code(tmp_path)
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path, trust_remote_code=False)
    assert type(model) is transformers.LongformerForMaskedLM


@pytest.mark.parametrize("model_type", CONFIGS)
def test_the_files_need_nothing_else(tmp_path: Path, model_type: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    add_remote_code(tmp_path)
    auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert auto_map["AutoModel"].startswith("modeling_longspan.")
    assert auto_map["AutoConfig"] == f"modeling_longspan.{CONFIGS[model_type]}"
    for file in tmp_path.glob("*.py"):
        for requirement in transformers.dynamic_module_utils.get_imports(file):
            assert (
                requirement in {"torch", "transformers", "huggingface_hub", "safetensors"} | sys.stdlib_module_names
            ), file
        for relative in transformers.dynamic_module_utils.get_relative_imports(file):
            assert (tmp_path / f"{relative}.py").is_file()
        ast.parse(file.read_text())


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no config\.json; save the model there first"):
        add_remote_code(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(
        ValueError, match="of a model of type 'bert'; longspan has code for hierarchical-transformer, led"
    ):
        add_remote_code(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        add_remote_code(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json"}
