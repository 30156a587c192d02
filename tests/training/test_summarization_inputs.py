"""Reading, encoding and scoring summaries: what is global, what is cut, what is refused."""

import csv
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from summaries import make_led, make_records, save_led, write_records
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from longspan.training.summarization import finetune_summarization
from longspan.training.summarization.inputs import SummarizationInputs, check_lengths
from longspan.training.summarization.pipeline import SummarizationPipeline
from longspan.training.summarization.recipe import SummarizationRecipe, load_summarization_recipe
from longspan.training.summarization.rouge import rouge_scores
from longspan.training.summarization.texts import ExampleFile, SummarizationColumns, read_summarization_examples
from longspan.training.summarization.writing import Summarizer

RECIPES = Path(__file__).parents[2] / "recipes"


def test_the_scientific_papers_release(tmp_path: Path) -> None:
    paper = {
        "article_id": "1009.3123",
        "article_text": ["we study attention .", "", "it is long ."],
        "abstract_text": ["<S> a study . </S>", "<S> of length . </S>"],
        "labels": None,
        "section_names": ["introduction"],
        "sections": [["we study attention ."]],
    }
    (example,) = read_summarization_examples([write_records(tmp_path / "train.jsonl", [paper])])
    assert example.text == "we study attention .\nit is long ."
    assert example.summary == "a study .\nof length ."
    assert (example.query, example.id) == (None, "1009.3123")


def test_named_columns_of_every_format(tmp_path: Path) -> None:
    rows = [{"body": 'a "long", text', "tldr": "short", "about": "what?"}, {"body": "b", "tldr": "c", "about": ""}]
    columns = SummarizationColumns(text="body", summary="tldr", query="about")
    files = [write_records(tmp_path / "a.jsonl", rows), tmp_path / "a.csv", tmp_path / "a.parquet"]
    with files[1].open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.Table.from_pylist(rows), files[2])
    for file in files:
        found = list(read_summarization_examples([file], columns))
        assert [(e.text, e.summary, e.query) for e in found] == [('a "long", text', "short", "what?"), ("b", "c", None)]
    text = tmp_path / "a.txt"
    text.write_text("one text\nof two lines", encoding="utf-8")
    (example,) = read_summarization_examples([text], with_summary=False)
    assert example.text == "one text\nof two lines"


def _pdf(pages: list[str]) -> bytes:
    """A PDF file of one line of text a page, or of empty pages."""
    kids = " ".join(f"{3 + 2 * number} 0 R" for number in range(len(pages)))
    font = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>"]
    for number, line in enumerate(pages):
        content = f"BT /F1 12 Tf 72 700 Td ({line}) Tj ET" if line else ""
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {4 + 2 * number} 0 R "
            f"/Resources << /Font << /F1 {font} >> >> >>",
            f"<< /Length {len(content)} >>\nstream\n{content}\nendstream",
        ]
    file, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(file))
        file += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    end = f"xref\n0 {len(places) + 1}\n0000000000 65535 f \n{table}"
    end += f"trailer\n<< /Size {len(places) + 1} /Root 1 0 R >>\nstartxref\n{len(file)}\n%%EOF\n"
    return file + end.encode()


def test_pdf_files_are_read_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pypdf")
    file = tmp_path / "report.pdf"
    file.write_bytes(_pdf(["A long docu-", "ment of two pages."]))
    (example,) = read_summarization_examples([file], with_summary=False)
    assert (example.text, example.origin) == ("A long document of two pages.", str(file))
    for content, message in (
        (_pdf([""]), "report.pdf holds no text, perhaps only images of pages"),
        (b"no PDF at all", "report.pdf is not a readable PDF file: .*; make or fetch the file again"),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            list(read_summarization_examples([file], with_summary=False))
    page = SimpleNamespace(extract_text=lambda: "eine Über-\nübung der EU-\nLänder")
    monkeypatch.setattr("pypdf.PdfReader", lambda _: SimpleNamespace(is_encrypted=False, pages=[page]))
    (example,) = read_summarization_examples([file], with_summary=False)
    assert example.text == "eine Überübung der EU-\nLänder"
    page.extract_text = lambda: [][0]
    with pytest.raises(ValueError, match=r"report\.pdf is not a readable PDF file: list index out of range"):
        list(read_summarization_examples([file], with_summary=False))
    (tmp_path / "x.md").touch()
    with pytest.raises(ValueError, match=r"x\.md has an unknown extension; texts are read from .*, \.txt, \.pdf files"):
        list(read_summarization_examples([tmp_path / "x.md"], with_summary=False))
    with pytest.raises(ValueError, match=r"report\.pdf holds no summaries"):
        list(read_summarization_examples([file]))
    with pytest.raises(FileNotFoundError, match="there is no file"):
        list(read_summarization_examples([tmp_path / "typo.pdf"], with_summary=False))
    monkeypatch.setitem(sys.modules, "pypdf", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs the pypdf package: pip install 'longspan\[pdf\]'"):
        list(read_summarization_examples([file], with_summary=False))


def test_data_sets_of_the_hub_are_read_by_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder in the hub's form stands for one there."""
    pytest.importorskip("datasets")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = tmp_path / "set"
    folder.mkdir()
    for split in ("train", "validation", "test"):
        write_records(folder / f"{split}.jsonl", [{"article": f"an article of {split}", "abstract": split}] * 2)
    source = f"hub:{folder}"
    for split in ("train", "validation", "test"):
        first, second = read_summarization_examples([source], split=split)
        assert (first.text, first.summary) == (f"an article of {split}", split)
        assert second.origin == f"{source} {split} row 2"
    kept = ExampleFile(tmp_path / "kept.jsonl", [source], SummarizationColumns(), 1, "validation")
    assert [example.summary for example in kept] == ["validation"]
    with pytest.raises(FileNotFoundError, match="data set 'hub:nobody/nothing', split 'train', can't be opened"):
        list(read_summarization_examples(["hub:nobody/nothing"]))


@pytest.mark.parametrize(
    ("record", "columns", "message"),
    [
        ({"body": "a", "summary": "b"}, {}, "a.jsonl line 1 has columns body, summary; say which holds the text"),
        ({"text": "a", "gist": "b"}, {}, "a.jsonl line 1 has no column 'summary', only text, gist"),
        ({"text": "a", "summary": "b"}, {"query": "q"}, "has no column 'q'"),
        ({"text": 3, "summary": "b"}, {}, "line 1 column 'text' holds a int"),
        ({"text": "a", "summary": ["b \ud800"]}, {}, "line 1 column 'summary' holds half of a character"),
    ],
)
def test_refused_records(record: dict[str, Any], columns: dict[str, str], message: str, tmp_path: Path) -> None:
    file = write_records(tmp_path / "a.jsonl", [record])
    with pytest.raises(ValueError, match=message):
        list(read_summarization_examples([file], SummarizationColumns(**columns)))


def test_examples_by_number_from_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = make_records(5)
    records[1]["text"] = "  "
    source = write_records(tmp_path / "a.jsonl", records)
    kept = ExampleFile(tmp_path / "run" / "train.jsonl", [source], SummarizationColumns())
    assert "1 examples without a text or a summary" in caplog.text
    assert [kept[number].id for number in range(len(kept))] == [0, 2, 3, 4]
    assert kept[2].text == records[3]["text"]
    stamp = kept.file.stat().st_mtime_ns
    assert len(ExampleFile(kept.file, [source], SummarizationColumns())) == 4
    assert kept.file.stat().st_mtime_ns == stamp  # made once
    write_records(source, records[:1])
    assert len(ExampleFile(kept.file, [source], SummarizationColumns())) == 1
    write_records(source, [{"text": "", "summary": ""}])
    with pytest.raises(ValueError, match="hold no example"):
        ExampleFile(kept.file, [source], SummarizationColumns())


def test_the_first_token_or_the_query_is_global(tokenizer: PreTrainedTokenizerBase) -> None:
    inputs = SummarizationInputs(tokenizer=tokenizer, max_input_length=40, max_target_length=6)
    plain = inputs.encode("the court held", None, "a contract in law and more of it")
    asked = inputs.encode("the court held " * 40, "which party?")
    question = tokenizer("which party?").input_ids
    assert asked.input_ids[: len(question)] == question
    assert asked.input_ids[len(question)] != tokenizer.bos_token_id
    assert len(asked.input_ids) == 40
    assert asked.input_ids[-1] == tokenizer.eos_token_id
    assert plain.labels is not None
    assert len(plain.labels) == 6
    batch = inputs.collate([plain, asked._replace(labels=[5, 6])])
    assert batch["global_attention_mask"].sum(1).tolist() == [1, len(question)]
    assert batch["attention_mask"].sum(1).tolist() == [len(plain.input_ids), 40]
    assert batch["labels"][1].tolist() == [5, 6, -100, -100, -100, -100]
    with pytest.raises(ValueError, match="a query takes"):
        inputs.encode("text", "which party? " * 40)


@pytest.fixture
def with_last_token(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A tokenizer with a special token that is the last of all, as ``facebook/bart-large-cnn``'s ``<mask>``."""
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    made: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tmp_path / "tokenizer", mask_token="<hole>")
    assert made.mask_token_id == len(made) - 1 == len(tokenizer)
    return made


def test_special_tokens_that_the_model_has_no_vectors_for_are_unknown(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, with_last_token: PreTrainedTokenizerBase
) -> None:
    folder = save_led(tmp_path / "led", tokenizer)
    with_last_token.save_pretrained(folder)
    summarizer = Summarizer.load(folder)
    text = "the court held a <hole> of law"
    encoded = summarizer.inputs.encode(text, "which <hole>?", text)
    assert with_last_token.mask_token_id in with_last_token(text).input_ids
    unknown = with_last_token.unk_token_id
    assert encoded.labels is not None
    assert [encoded.input_ids.count(unknown), encoded.labels.count(unknown)] == [2, 1]
    said = summarizer.summarize([text.replace("<hole>", "<unk>")], max_new_tokens=6)
    assert summarizer.summarize([text], max_new_tokens=6) == said
    pipe = SummarizationPipeline(model=summarizer.model, tokenizer=with_last_token)
    assert pipe(text, max_new_tokens=6) == [{"summary_text": said[0].strip()}]
    records = [{"text": text, "summary": "the <hole>"}] * 2
    recipe = SummarizationRecipe(
        model=str(folder), train=str(write_records(tmp_path / "a.jsonl", records)), steps=1, examples_per_step=2,
        max_input_length=64, max_target_length=12, output_dir=str(tmp_path / "run"),
    )  # fmt: skip
    assert finetune_summarization(recipe, progress=False).steps == 1


def test_another_models_tokenizer_is_refused(with_last_token: PreTrainedTokenizerBase) -> None:
    vocabulary = len(with_last_token) - 2
    with pytest.raises(ValueError, match=rf"the tokenizer has {len(with_last_token)} tokens, but .* {vocabulary}; use"):
        SummarizationInputs(tokenizer=with_last_token, max_input_length=96, vocabulary=vocabulary)


def test_a_query_changes_what_the_model_says(tokenizer: PreTrainedTokenizerBase) -> None:
    model = make_led(tokenizer)
    inputs = SummarizationInputs(tokenizer=tokenizer, max_input_length=96)
    batch = inputs.collate([inputs.encode("the court of law " * 6, "price?", "term")])
    first = torch.zeros_like(batch["input_ids"])
    first[:, 0] = 1
    logits = model(**batch).logits
    assert (logits - model(**{**batch, "global_attention_mask": first}).logits).abs().max() > 1e-4


def test_lengths_that_the_model_lacks(tokenizer: PreTrainedTokenizerBase) -> None:
    config = make_led(tokenizer).config
    check_lengths(config, 96, 24)
    with pytest.raises(
        ValueError, match=r"max_input_length is 97 but the led model has 96 positions.*--max-positions 97"
    ):
        check_lengths(config, 97, 24)
    with pytest.raises(ValueError, match=r"max_target_length is 25 .* --max-decoder-positions 25"):
        check_lengths(config, 96, 25)
    with pytest.raises(ValueError, match=r"max_new_tokens is 25 .* --max-decoder-positions 25"):
        check_lengths(config, 96, 24, 25)


def test_rouge_by_hand() -> None:
    scores = rouge_scores(["the cat sat", "dogs bark"], ["the cat ran", "dogs bark"])
    assert scores.rouge1 == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert scores.rouge2 == pytest.approx(100 * (1 / 2 + 1) / 2)
    assert scores.rougeL == pytest.approx(100 * (2 / 3 + 1) / 2)
    swapped = rouge_scores(["b c\na d"], ["a d\nb c"])  # sentences in another order
    assert swapped.rougeLsum == pytest.approx(100)
    assert swapped.rougeL == pytest.approx(50)
    assert rouge_scores(["dog barks"], ["dogs bark"]).rouge1 == 0
    assert rouge_scores(["dog barks"], ["dogs bark"], use_stemmer=True).rouge1 == pytest.approx(100)
    with pytest.raises(ValueError, match="1 predictions for 2 references"):
        rouge_scores(["a"], ["a", "b"])


FIELDS: dict[str, Any] = {"model": "m", "train": "a.jsonl", "output_dir": "o", "max_input_length": 1024, "steps": 5}


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"epochs": 2}, ValueError, "epochs is 2.0 and steps 5; give one of them"),
        ({"label_smoothing": 1}, ValueError, "label_smoothing is 1.0"),
        ({"optimizer": "sgd"}, ValueError, "optimizer is 'sgd'; it must be one of 'adamw', 'adafactor'"),
        ({"min_new_tokens": 300}, ValueError, "min_new_tokens is 300, more than the 256"),
        ({"micro_batch": 3}, ValueError, "which micro_batch 3 doesn't divide"),
        ({"num_beams": "four"}, TypeError, "num_beams is 'four'; it must be a whole number"),
        ({"eval_every": 5}, ValueError, "eval names no file"),
        ({"train": []}, ValueError, "train is empty"),
        ({"max_input_length": 3}, ValueError, "must be at least 16"),
    ],
)
def test_refused_recipes(fields: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SummarizationRecipe(**{**FIELDS, **fields})


def test_recipes_are_read_from_yaml(tmp_path: Path) -> None:
    recipe = SummarizationRecipe(**FIELDS)
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe.to_dict()), encoding="utf-8")
    assert load_summarization_recipe(file) == recipe
    assert load_summarization_recipe(file, num_beams=4).num_beams == 4
    with pytest.raises(ValueError, match="no field 'beams'"):
        load_summarization_recipe(file, beams=4)


@pytest.mark.parametrize("length", [1024, 4096, 16384])
def test_the_papers_recipe_at_its_three_lengths(length: int) -> None:
    recipe = load_summarization_recipe(RECIPES / "arxiv_led.yaml", max_input_length=length)
    assert recipe.max_input_length == length
    assert recipe.num_beams > 1


def test_a_numpy_free_copy_of_an_example_is_plain_json(tmp_path: Path) -> None:
    source = write_records(tmp_path / "a.jsonl", make_records(1))
    kept = ExampleFile(tmp_path / "kept.jsonl", [source], SummarizationColumns())
    assert kept[np.int64(0)] == kept[0]
    assert json.loads(kept.file.read_text(encoding="utf-8"))[0] == kept[0].text
