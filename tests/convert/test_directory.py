"""Directories made long on disk: what stock transformers computes from them, and that they are there whole or not."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from longspan.convert import convert_directory, lengthen
from longspan.models import LEDForConditionalGeneration, LongformerForMaskedLM

Save = Callable[..., tuple[PreTrainedModel, Path]]
Batch = Callable[..., dict[str, torch.Tensor]]
AddTokenizer = Callable[[Path], None]
EditConfig = Callable[..., None]

HEADS = {
    "Model": {},
    "ForMaskedLM": {},
    "ForSequenceClassification": {"num_labels": 5, "problem_type": "single_label_classification"},
    "ForTokenClassification": {"id2label": {0: "O", 1: "B", 2: "I"}, "label2id": {"O": 0, "B": 1, "I": 2}},
    "ForQuestionAnswering": {},
    "ForMultipleChoice": {},
}


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "camembert"])
@pytest.mark.parametrize("head", HEADS)
def test_stock_transformers_computes_the_same(
    tmp_path: Path, save_model: Save, batch: Batch, head: str, family: str
) -> None:
    source, directory = save_model(head, family=family, **HEADS[head])
    inputs = batch(32, choices=3 if head == "ForMultipleChoice" else None)
    if head in ("Model", "ForSequenceClassification", "ForMultipleChoice"):
        inputs = {
            name: tensor[::2].contiguous() for name, tensor in inputs.items()
        }  # the first token read must not be padding

    target = convert_directory(directory, tmp_path / "long", max_positions=150, attention_window=64)

    stock_class = getattr(transformers, "Longformer" + head)
    stock, info = stock_class.from_pretrained(target, output_loading_info=True)
    assert not any(info.values()), info
    assert stock.config.architectures == [stock_class.__name__]
    assert stock.config.id2label == source.config.id2label
    assert stock.config.problem_type == source.config.problem_type
    is_real = inputs["attention_mask"].bool()
    with torch.no_grad():
        expected, actual = source(**inputs), stock(**inputs)
    for name, tensor in expected.items():
        ours, theirs = actual[name], tensor
        if theirs.shape[: is_real.dim()] == is_real.shape and head != "ForMultipleChoice":
            ours, theirs = ours[is_real], theirs[is_real]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


def test_as_lengthen(tmp_path: Path, save_model: Save) -> None:
    source, directory = save_model()

    target = convert_directory(directory, tmp_path / "long", max_positions=70, attention_window=[4, 7])

    in_memory = lengthen(source, 70, [4, 7])
    opened = LongformerForMaskedLM.from_pretrained(target)
    saved = json.loads((target / "config.json").read_text())
    assert saved == json.loads(in_memory.config.to_json_string()) | {"dtype": "float32"}
    for name, tensor in in_memory.state_dict().items():
        assert torch.equal(opened.state_dict()[name], tensor), name


def test_heads_not_in_longspan_are_refused_in_memory_only(save_model: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("longspan.models.LongformerForMultipleChoice", raising=False)
    source, directory = save_model("ForMultipleChoice")
    for given in (source, directory):
        with pytest.raises(ValueError, match=r"longspan has no LongformerForMultipleChoice.*convert_directory"):
            lengthen(given, 64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dtype_is_kept(tmp_path: Path, save_model: Save, dtype: torch.dtype) -> None:
    model, directory = save_model()
    model.to(dtype).save_pretrained(directory)

    target = convert_directory(directory, tmp_path / "long", max_positions=64)

    assert {tensor.dtype for tensor in load_file(target / "model.safetensors").values()} == {dtype}
    assert json.loads((target / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("form", ["sharded", "bin", "old bin"])
def test_other_forms_of_weights(tmp_path: Path, save_model: Save, form: str) -> None:
    model, directory = save_model()
    expected = contents(convert_directory(directory, tmp_path / "expected", max_positions=64))
    (directory / "model.safetensors").unlink()
    if form == "sharded":
        model.save_pretrained(directory, max_shard_size="4KB")
        assert len(list(directory.glob("*.safetensors"))) > 2
    else:
        state = model.state_dict()  # a .bin has the tied decoder too
        torch.save(state, directory / "pytorch_model.bin", _use_new_zipfile_serialization=form == "bin")

    assert contents(convert_directory(directory, tmp_path / "long", max_positions=64)) == expected


def test_old_names_and_buffers(tmp_path: Path, save_model: Save) -> None:
    """Checkpoints of the first years: gamma and beta, position_ids, the decoder's bias, a pooler beside the head."""
    _, directory = save_model()
    tensors = load_file(directory / "model.safetensors")
    expected = load_file(convert_directory(directory, tmp_path / "new", max_positions=64) / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors.items()
    }
    old["lm_head.decoder.bias"] = old.pop("lm_head.bias")
    old["roberta.embeddings.position_ids"] = torch.arange(34)[None]
    old["roberta.pooler.dense.weight"] = torch.randn(16, 16)
    old["roberta.pooler.dense.bias"] = torch.randn(16)
    save_file(old, directory / "model.safetensors", metadata={"format": "pt"})

    target = convert_directory(directory, tmp_path / "long", max_positions=64)

    actual = load_file(target / "model.safetensors")
    poolers = {f"longformer.pooler.dense.{part}" for part in ("weight", "bias")}
    assert actual.keys() == expected.keys() | poolers
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    assert torch.equal(actual["longformer.pooler.dense.weight"], old["roberta.pooler.dense.weight"])


def test_a_decoder_that_is_not_the_embeddings(tmp_path: Path, save_model: Save) -> None:
    """Tied says the config, different is the checkpoint: transformers keeps both, and so does the conversion."""
    _, directory = save_model()
    tensors = load_file(directory / "model.safetensors")
    tensors["lm_head.decoder.weight"] = torch.randn(97, 16)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})

    target = convert_directory(directory, tmp_path / "long", max_positions=64)

    opened = LongformerForMaskedLM.from_pretrained(target)
    assert opened.config.tie_word_embeddings is False
    assert torch.equal(opened.lm_head.decoder.weight, tensors["lm_head.decoder.weight"])
    assert torch.equal(opened.lm_head.decoder.bias, tensors["lm_head.bias"])


def test_the_bias_that_is_added(tmp_path: Path, save_model: Save) -> None:
    _, directory = save_model()
    tensors = load_file(directory / "model.safetensors")
    tensors["lm_head.decoder.bias"] = torch.randn(97)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    ids = torch.randint(5, 97, (1, 9))

    target = convert_directory(directory, tmp_path / "long", max_positions=64)

    source = transformers.RobertaForMaskedLM.from_pretrained(directory)
    stock = transformers.LongformerForMaskedLM.from_pretrained(target)
    torch.testing.assert_close(stock(ids).logits, source(ids).logits, rtol=0, atol=1e-5)


def test_tensors_without_a_place_are_kept_and_named(
    tmp_path: Path, save_model: Save, caplog: pytest.LogCaptureFixture
) -> None:
    _, directory = save_model()
    tensors = load_file(directory / "model.safetensors") | {"extra.weight": torch.ones(3)}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})

    target = convert_directory(directory, tmp_path / "long", max_positions=64)

    assert torch.equal(load_file(target / "model.safetensors")["extra.weight"], torch.ones(3))
    assert "has no place for 1 of the tensors: extra.weight" in caplog.text


@pytest.mark.parametrize("saved_with", ["Model", "ForMaskedLM"])
def test_no_architecture_in_the_config(
    tmp_path: Path, save_model: Save, edit_config: EditConfig, saved_with: str
) -> None:
    _, directory = save_model(saved_with)
    edit_config(directory, architectures=None)

    target = convert_directory(directory, tmp_path / "long", max_positions=64)

    assert json.loads((target / "config.json").read_text())["architectures"] == ["Longformer" + saved_with]


class TestPlaces:
    def test_parents_are_made(self, tmp_path: Path, save_model: Save) -> None:
        _, directory = save_model()

        target = convert_directory(str(directory), str(tmp_path / "a" / "b"), max_positions=64)

        assert target == tmp_path / "a" / "b"
        assert sorted(contents(target)) == ["config.json", "model.safetensors"]

    def test_an_empty_directory_is_filled(self, tmp_path: Path, save_model: Save) -> None:
        _, directory = save_model()
        (tmp_path / "long").mkdir()

        assert (convert_directory(directory, tmp_path / "long", max_positions=64) / "config.json").is_file()

    def test_readable_as_any_new_directory(self, tmp_path: Path, save_model: Save) -> None:
        _, directory = save_model()
        (tmp_path / "plain").mkdir()

        target = convert_directory(directory, tmp_path / "long", max_positions=64)

        assert target.stat().st_mode == (tmp_path / "plain").stat().st_mode

    def test_overwriting_needs_force(self, tmp_path: Path, save_model: Save) -> None:
        _, directory = save_model()
        target = convert_directory(directory, tmp_path / "long", max_positions=64)
        before = contents(target)

        with pytest.raises(FileExistsError, match=r"exists already; pass force=True \(--force\)"):
            convert_directory(directory, target, max_positions=100)
        assert contents(target) == before

        (target / "stale.bin").write_text("old")
        convert_directory(directory, target, max_positions=100, force=True)
        assert sorted(contents(target)) == ["config.json", "model.safetensors"]
        assert json.loads((target / "config.json").read_text())["max_position_embeddings"] == 102
        assert sorted(path.name for path in tmp_path.iterdir()) == ["long", "short"]

    def test_force_replaces_models_only(self, tmp_path: Path, save_model: Save) -> None:
        _, directory = save_model()
        home = tmp_path / "home"
        home.mkdir()
        (home / "thesis.tex").write_text("years of work")

        with pytest.raises(FileExistsError, match=r"has no config\.json, so it is not a model's"):
            convert_directory(directory, home, max_positions=64, force=True)
        assert contents(home) == {"thesis.tex": b"years of work"}

    def test_a_link_is_followed(self, tmp_path: Path, save_model: Save) -> None:
        _, directory = save_model()
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "real")

        convert_directory(directory, tmp_path / "link", max_positions=64)

        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "real" / "config.json").is_file()

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            ("short", "source and target are both"),
            ("short/../short", "source and target are both"),
            ("short/long", "is inside the source"),
            (".", "is inside the target"),
            ("short/config.json/x", "is inside the source"),
            ("a file", "is a file; give a directory as the target"),
        ],
    )
    def test_impossible(self, tmp_path: Path, save_model: Save, target: str, message: str) -> None:
        _, directory = save_model()
        (tmp_path / "a file").write_text("x")
        before = contents(directory)

        with pytest.raises((ValueError, FileExistsError), match=message):
            convert_directory(directory, tmp_path / target, max_positions=64, force=True)
        assert contents(directory) == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a file", "short"]


def remove(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def write(name: str, content: str) -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_text(content)


def cut_weights(directory: Path) -> None:
    content = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(content[:-100])


def drop_tensor(name: str) -> Callable[[Path], None]:
    def drop(directory: Path) -> None:
        tensors = load_file(directory / "model.safetensors")
        del tensors[name]
        save_file(tensors, directory / "model.safetensors")

    return drop


class TestRefusals:
    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (shutil.rmtree, "there is no directory"),
            (remove("config.json"), "has no config.json, so it is not a model's directory"),
            (remove("model.safetensors"), "has no weights"),
            (write("config.json", "{"), "config.json is not valid JSON"),
            (write("config.json", "[]"), "holds no JSON object"),
            (write("config.json", '{"vocab_size": 3}'), "names no model_type"),
            (write("config.json", '{"model_type": "roformer"}'), "models of type 'roformer' cannot be made long"),
            (write("config.json", '{"model_type": "roberta", "vocab_size": "x"}'), "is not a valid roberta config"),
            (cut_weights, "model.safetensors is damaged or cut short"),
            (
                drop_tensor("roberta.encoder.layer.1.attention.self.key.bias"),
                r"lack 2 of LongformerForMaskedLM's tensors: longformer\.encoder.*key\.bias, .*key_global\.bias",
            ),
            (drop_tensor("roberta.embeddings.position_embeddings.weight"), "there are no positions to lengthen"),
            (drop_tensor("lm_head.bias"), r"lack 1 of LongformerForMaskedLM's tensors: lm_head\.bias"),
        ],
    )
    def test_source(self, tmp_path: Path, save_model: Save, damage: Callable[[Path], object], message: str) -> None:
        _, directory = save_model()
        damage(directory)

        with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
            convert_directory(directory, tmp_path / "new" / "long", max_positions=64)

        assert "\n" not in str(caught.value)
        assert not (tmp_path / "new").exists()

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"architectures": ["RobertaForThings"]}, "RobertaForThings has no Longformer counterpart"),
            ({"hidden_size": 20}, r"config says \[34, 20\]"),
            ({"vocab_size": 98}, r"word_embeddings\.weight has shape \[97, 16\] but the config says \[98, 16\]"),
            ({"quantization_config": {"quant_method": "gptq"}}, "is quantized"),
        ],
    )
    def test_config(
        self, tmp_path: Path, save_model: Save, edit_config: EditConfig, fields: dict[str, Any], message: str
    ) -> None:
        _, directory = save_model()
        edit_config(directory, **fields)

        with pytest.raises(ValueError, match=message):
            convert_directory(directory, tmp_path / "long", max_positions=64)
        assert not (tmp_path / "long").exists()

    def test_unnamed_head(self, tmp_path: Path, save_model: Save, edit_config: EditConfig) -> None:
        _, directory = save_model("ForTokenClassification")
        edit_config(directory, architectures=None)

        with pytest.raises(ValueError, match="names no architecture and the weights have a head, classifier"):
            convert_directory(directory, tmp_path / "long", max_positions=64)

    def test_a_file_as_source(self, tmp_path: Path, save_model: Save) -> None:
        _, directory = save_model()
        with pytest.raises(NotADirectoryError, match="is a file; give the directory"):
            convert_directory(directory / "model.safetensors", tmp_path / "long")

    def test_window_before_anything_is_written(self, tmp_path: Path, save_model: Save) -> None:
        _, directory = save_model()
        with pytest.raises(ValueError, match="attention_window"):
            convert_directory(directory, tmp_path / "new" / "long", max_positions=64, attention_window=-1)
        assert not (tmp_path / "new").exists()


class TestInterruptions:
    @pytest.mark.parametrize("force", [False, True])
    @pytest.mark.parametrize("after", [1, 20, 40])
    def test_ctrl_c_leaves_what_was_there(self, tmp_path: Path, save_model: Save, after: int, force: bool) -> None:
        _, directory = save_model()
        target = tmp_path / "long"
        if force:
            convert_directory(directory, target, max_positions=64)
        before = contents(target) if force else None
        calls = 0

        def interrupt(done: int, total: int) -> None:
            nonlocal calls
            calls += 1
            if calls == after:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            convert_directory(directory, target, max_positions=100, force=force, progress=interrupt)

        assert calls == after
        assert (contents(target) if force else None) == before
        assert sorted(p.name for p in tmp_path.iterdir()) == (["long", "short"] if force else ["short"])

    @pytest.mark.skipif(os.name == "nt", reason="signals")
    def test_a_kill_leaves_no_target(self, tmp_path: Path, save_model: Save) -> None:
        _, directory = save_model()
        target = tmp_path / "long"
        script = (
            "import sys, time\n"
            "from longspan.convert import convert_directory\n"
            "def slow(done, total):\n"
            "    print(done, flush=True)\n"
            "    time.sleep(0.05)\n"
            "convert_directory(sys.argv[1], sys.argv[2], max_positions=64, progress=slow)\n"
        )
        command = [sys.executable, "-c", script, str(directory), str(target)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(5):
                assert process.stdout.readline().strip()
            process.send_signal(signal.SIGKILL)
            process.wait(timeout=20)

        assert process.returncode == -signal.SIGKILL
        assert not target.exists()
        convert_directory(directory, target, max_positions=64)
        assert (target / "config.json").is_file()

    def test_no_room(self, tmp_path: Path, save_model: Save, monkeypatch: pytest.MonkeyPatch) -> None:
        _, directory = save_model()
        monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))

        with pytest.raises(OSError, match=r"has 0 MB free and the model takes 0 MB; nothing was written"):
            convert_directory(directory, tmp_path / "long", max_positions=64)
        assert [path.name for path in tmp_path.iterdir()] == ["short"]

    def test_the_disk_fills_up(self, tmp_path: Path, save_model: Save, monkeypatch: pytest.MonkeyPatch) -> None:
        _, directory = save_model()

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="nothing was written"):
            convert_directory(directory, tmp_path / "long", max_positions=64)
        assert [path.name for path in tmp_path.iterdir()] == ["short"]

    def test_the_old_one_comes_back(self, tmp_path: Path, save_model: Save, monkeypatch: pytest.MonkeyPatch) -> None:
        _, directory = save_model()
        target = convert_directory(directory, tmp_path / "long", max_positions=64)
        before = contents(target)
        rename = Path.rename

        def refuse(path: Path, place: Path) -> Path:
            if path.name.endswith(".partial"):
                raise PermissionError("no")
            return rename(path, place)

        monkeypatch.setattr(Path, "rename", refuse)
        with pytest.raises(PermissionError):
            convert_directory(directory, target, max_positions=100, force=True)
        assert contents(target) == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["long", "short"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of memory")
def test_memory_is_that_of_the_largest_tensor(tmp_path: Path, save_model: Save) -> None:
    """A model of 113 MB whose largest tensor has 8 MB takes less than 24 MB beyond what the process had before.

    Of a mapped .bin, pages of the file count as the process's until the system needs them: they are left out.
    """
    sizes = {"vocab_size": 8000, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 32}
    model, directory = save_model(**sizes)
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    torch.save(model.state_dict(), pickled / "pytorch_model.bin")
    shutil.copy(directory / "config.json", pickled)
    script = """
import sys
from pathlib import Path
from longspan.convert import convert_directory

def memory(field):
    return int(Path("/proc/self/status").read_text().split(field + ":")[1].split()[0]) / 1024

before = memory("VmHWM")
convert_directory(sys.argv[1], sys.argv[3])
grown = memory("VmHWM") - before
own, most = memory("RssAnon"), []
convert_directory(sys.argv[2], sys.argv[3], force=True, progress=lambda *_: most.append(memory("RssAnon")))
print(grown, max(most) - own)
"""
    places = [str(directory), str(pickled), str(tmp_path / "long")]
    done = subprocess.run([sys.executable, "-c", script, *places], check=True, capture_output=True, text=True)

    assert sum(path.stat().st_size for path in directory.iterdir()) > 100e6
    grown = [float(number) for number in done.stdout.split()]
    assert max(grown) < 24, grown


@pytest.mark.parametrize("positions", [None, 120])
def test_a_bart_becomes_an_led(positions: int | None, tmp_path: Path) -> None:
    config = transformers.BartConfig(
        vocab_size=97, d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=40,
        attention_window=16,
    )  # fmt: skip
    bart = transformers.BartForConditionalGeneration(config).eval()
    bart.generation_config.num_beams = 3
    bart.save_pretrained(tmp_path / "bart")
    target = convert_directory(
        tmp_path / "bart", tmp_path / "led", max_positions=positions, attention_window=80, max_decoder_positions=50
    )
    opened = LEDForConditionalGeneration.from_pretrained(target).eval()
    assert opened.config.max_encoder_position_embeddings == (positions or 16384)
    assert opened.config.max_decoder_position_embeddings == 50
    assert opened.generation_config.num_beams == 3
    ids = torch.randint(3, 97, (2, 40))
    labels = ids[:, :7].contiguous()  # stock needs it so
    expected = bart(ids, labels=labels)
    for led in (
        opened,
        lengthen(bart, positions, 80, max_decoder_positions=50),
        lengthen(tmp_path / "bart", positions, 80, max_decoder_positions=50),
    ):
        assert type(led) is LEDForConditionalGeneration
        torch.testing.assert_close(led(ids, labels=labels).logits, expected.logits, atol=1e-5, rtol=1e-5)


def test_an_encoder_has_no_decoder_positions(save_model: Callable[..., Any], tmp_path: Path) -> None:
    model, directory = save_model()
    for source in (model, directory):
        with pytest.raises(
            ValueError, match="max_decoder_positions is 9, but models of type 'roberta' have no decoder"
        ):
            lengthen(source, 64, max_decoder_positions=9)
    with pytest.raises(ValueError, match="no decoder"):
        convert_directory(directory, tmp_path / "long", max_positions=64, max_decoder_positions=9)
