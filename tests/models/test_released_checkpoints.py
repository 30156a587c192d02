"""The released weights give the numbers that Hugging Face's slow tests have for them.

A checkpoint that the hub's cache of this machine doesn't hold is skipped; nothing is fetched.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from longspan.models import LEDForConditionalGeneration, LEDModel, LongformerForMaskedLM, LongformerModel

BASE, LED = "allenai/longformer-base-4096", "allenai/led-base-16384"
WORLD = [20920, 232, 328, 1437]  # " Hello world! " and a space
LED_TEXT = [0, 31414, 232, 328, 740, 1140, 12695, 69]


def load(model_class: Any, name: str) -> Any:
    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError:
        folder = Path("nowhere")
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("pytorch_model*.bin")):
        pytest.skip(f"the weights of {name} are not in the hub's cache of this machine")
    return model_class.from_pretrained(folder, dtype=torch.float32).eval()


def long_text() -> tuple[torch.Tensor, torch.Tensor]:
    """4,002 tokens, and three of them that attend globally."""
    ids = torch.tensor([[0, *WORLD * 1000, 2]])
    global_mask = torch.zeros_like(ids)
    global_mask[:, [1, 4, 21]] = 1
    return ids, global_mask


@pytest.mark.parametrize("with_mask", [False, True])
def test_longformer_on_a_short_text(with_mask: bool) -> None:
    model = load(LongformerModel, BASE)
    ids = torch.tensor([[0, *WORLD, 2]])
    with torch.no_grad():
        states = model(ids, attention_mask=torch.ones_like(ids) if with_mask else None).last_hidden_state
    assert states[0, 0, -5:].tolist() == pytest.approx([0.0549, 0.1087, -0.1119, -0.0368, 0.0250], abs=1e-4)


def test_longformer_on_a_long_text() -> None:
    model = load(LongformerModel, BASE)
    ids, global_mask = long_text()
    with torch.no_grad():
        states = model(ids, global_attention_mask=global_mask).last_hidden_state
    assert float(states.sum()) == pytest.approx(74585.8594, rel=1e-5)
    assert float(states.mean()) == pytest.approx(0.0243, abs=1e-4)


def test_longformer_tells_tokens() -> None:
    model = load(LongformerForMaskedLM, BASE)
    ids, _ = long_text()
    with torch.no_grad():
        output = model(ids, labels=ids)
    assert float(output.loss) == pytest.approx(0.0074, abs=1e-4)
    assert float(output.logits.sum()) == pytest.approx(-6.1048e8, rel=2e-5)
    assert float(output.logits.mean()) == pytest.approx(-3.0348, abs=1e-4)


def test_led() -> None:
    model = load(LEDModel, LED)
    with torch.no_grad():
        states = model(
            torch.tensor([LED_TEXT * 512]), decoder_input_ids=torch.tensor([LED_TEXT * 128]), use_cache=False
        ).last_hidden_state
    assert states.shape == (1, 1024, 768)
    expected = [[2.3050, 2.8279, 0.6531], [-1.8457, -0.1455, -3.5661], [-1.0186, 0.4586, -2.2043]]
    torch.testing.assert_close(states[0, :3, :3], torch.tensor(expected), rtol=0, atol=1e-4)


def test_led_writes() -> None:
    model = load(LEDForConditionalGeneration, LED)
    ids = torch.tensor([LED_TEXT * 512])
    with torch.no_grad():
        logits = model(
            ids,
            decoder_input_ids=torch.tensor([LED_TEXT * 128]),
            global_attention_mask=torch.zeros_like(ids),  # Hugging Face's test has no global token
            use_cache=False,
        ).logits
    assert logits.shape == (1, 1024, model.config.vocab_size)
    expected = [[33.6507, 6.4572, 16.8089], [5.8739, -2.4238, 11.2902], [-3.2139, -4.3149, 4.2783]]
    torch.testing.assert_close(logits[0, :3, :3], torch.tensor(expected), rtol=0, atol=1e-4)
