"""WikiHop from the official file to predictions and accuracy."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase, Trainer

from longspan.tasks import wikihop
from longspan.tasks.sequences import add_markers
from longspan.tasks.wikihop import WikiHopLayout, WikiHopQuestion, decode_wikihop, evaluate_wikihop, read_wikihop
from longspan.tasks.wikihop_model import LongformerForWikiHop

ENTRIES: list[dict[str, Any]] = [
    {
        "id": "WH_train_0",
        "query": "held_by contract",
        "candidates": ["court", "buyer", "seller naïve"],
        "answer": "buyer",
        "supports": ["the contract was held in court .", "the buyer shall price the goods " * 5, "café law"],
    },
    {
        "id": "WH_train_1",
        "query": "party_to term",
        "candidates": ["goods", "law"],
        "answer": "law",
        "supports": ["term of law"],
    },
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path, ENTRIES)


def write(folder: Path, entries: Any) -> Path:
    path = folder / "dev.json"
    path.write_text(entries if isinstance(entries, str) else json.dumps(entries, indent=1), encoding="utf-8")
    return path


@pytest.fixture
def marked(words: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    add_markers(words, wikihop.MARKERS)
    return words


def test_official_file_is_read(path: Path) -> None:
    first, second = read_wikihop(path)
    assert (first.id, first.query, first.label) == ("WH_train_0", "held_by contract", 1)
    assert second.candidates == ("goods", "law")
    assert second.supports == ("term of law",)


def test_test_file_has_no_answers(tmp_path: Path) -> None:
    (question,) = read_wikihop(write(tmp_path, [{k: v for k, v in ENTRIES[0].items() if k != "answer"}]))
    assert question.answer is None
    assert question.label == -100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"supports": "text"}, r"dev.json entry 1 \(WH_train_0\): 'supports' holds 'text'; it must be a list"),
        ({"candidates": ["x"]}, "'candidates' has 1 entries; it must have at least 2"),
        ({"answer": "nobody"}, "the answer 'nobody' is not among its 3 candidates"),
        ({"candidates": ["x", 7]}, "'candidates' holds 7 among its entries; they must be strings"),
        ({"query": None}, "'query' holds None; it must be a string"),
        (
            {"query": "a \ud800"},
            r"\(WH_train_0\): 'query' holds half of a character, '.ud800' at position 2; write the",
        ),
        ({"supports": ["\udc00"]}, "an entry of 'supports' holds half of a character"),
        ({"id": "WH_train_1"}, r"entry 2 \(WH_train_1\) has the id of an earlier entry"),
    ],
)
def test_malformed_entries_are_one_sentence(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_wikihop(write(tmp_path, [{**ENTRIES[0], **change}, ENTRIES[1]]))


def test_malformed_files_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"dev.json line 2 is not valid JSON: .* at column 9"):
        read_wikihop(write(tmp_path, '[\n {"id": }\n]'))
    with pytest.raises(ValueError, match="holds a JSON dict; a file of WikiHop data is a list of objects"):
        read_wikihop(write(tmp_path, {"Data": []}))
    with pytest.raises(ValueError, match=r"entry 1 has no field 'id'; it has 'query'"):
        read_wikihop(write(tmp_path, [{"query": "x"}]))
    with pytest.raises(FileNotFoundError, match=r"none.json does not exist; name a file of WikiHop data"):
        read_wikihop(tmp_path / "none.json")
    (tmp_path / "dev.json").write_bytes(b'[\n{"id": "\xff"}]')
    with pytest.raises(ValueError, match=r"dev.json line 2 is not UTF-8"):
        read_wikihop(tmp_path / "dev.json")


def test_layout_is_the_papers(path: Path, marked: PreTrainedTokenizerBase) -> None:
    example = WikiHopLayout(marked, max_length=512).encode(read_wikihop(path)[1])
    (row,) = example.input_ids
    text = marked.decode(row)
    assert " ".join(text.split()) == "<s>[q] party to term[/q][ent] goods[/ent][ent] law[/ent]</s> term of law</s>"
    assert [marked.convert_ids_to_tokens(row[at]) for at in example.candidate_positions] == ["[ent]", "[ent]"]
    assert marked.convert_ids_to_tokens(row[example.prefix_length - 1]) == "[/ent]"
    assert example.truncated == 0


def test_long_documents_go_on_in_rows_that_repeat_the_prefix(path: Path, marked: PreTrainedTokenizerBase) -> None:
    question = read_wikihop(path)[0]
    (whole,) = WikiHopLayout(marked, max_length=512).encode(question).input_ids
    example = WikiHopLayout(marked, max_length=64).encode(question)
    start = example.prefix_length + 1
    assert len(example.input_ids) > 1
    assert all(len(row) <= 64 and row[:start] == whole[:start] for row in example.input_ids)
    assert sum((row[start:] for row in example.input_ids), ()) == whole[start:]
    first = WikiHopLayout(marked, max_length=64, max_chunks=1).encode(question)
    assert first.input_ids == example.input_ids[:1]
    assert first.truncated == len(whole) - len(first.input_ids[0])


def test_prefix_without_room_is_refused(path: Path, marked: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match=r"question WH_train_0: query and candidates take \d+ of max_length 20"):
        WikiHopLayout(marked, max_length=20).encode(read_wikihop(path)[0])


def test_markers_must_be_in_the_vocabulary(words: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match=r"lacks \[q\], \[/q\], \[ent\], \[/ent\]; call add_markers"):
        WikiHopLayout(words)


def test_markers_get_random_vectors_like_the_others(words: PreTrainedTokenizerBase, build: Any) -> None:
    model = build(LongformerForWikiHop, words)
    before = model.get_input_embeddings().weight.detach().clone()
    assert add_markers(words, wikihop.MARKERS, model) == 4
    after = model.get_input_embeddings().weight.detach()
    assert torch.equal(after[: len(before)], before)
    new = after[len(before) :]
    assert new.shape[0] == 4
    assert 0.7 < (new.std() / before.std()) < 1.3
    assert model.config.vocab_size == len(words)
    assert add_markers(words, wikihop.MARKERS, model) == 0


def test_batch_marks_the_prefix_global(path: Path, marked: PreTrainedTokenizerBase) -> None:
    layout = WikiHopLayout(marked, max_length=64)
    examples = [layout.encode(question) for question in read_wikihop(path)]
    batch = layout.collate(examples)
    rows = len(examples[0].input_ids)
    assert batch["question_of_row"].tolist() == [0] * rows + [1]
    assert batch["labels"].tolist() == [1, 1]
    assert batch["candidate_positions"][-1].tolist() == [*examples[1].candidate_positions, -1]
    is_separator = batch["input_ids"] == marked.sep_token_id
    for row, separators in zip(batch["global_attention_mask"], is_separator, strict=True):
        first = int(separators.int().argmax())
        assert row.tolist() == [1] * first + [0] * (len(row) - first)
    assert batch["attention_mask"].sum(1).tolist() == [len(row) for example in examples for row in example.input_ids]


def test_scores_are_the_mean_over_rows(path: Path, marked: PreTrainedTokenizerBase, build: Any) -> None:
    layout = WikiHopLayout(marked, max_length=64)
    model = build(LongformerForWikiHop, marked)
    examples = [layout.encode(question) for question in read_wikihop(path)]
    with torch.no_grad():
        together = model(**layout.collate(examples))
        alone = [model(**layout.collate([example])) for example in examples]
        rows = layout.collate(examples[:1])
        hidden = model.longformer(
            rows["input_ids"], rows["attention_mask"], rows["global_attention_mask"]
        ).last_hidden_state
    by_hand = model.candidate_scorer(hidden[:, list(examples[0].candidate_positions)])[..., 0].mean(0)
    torch.testing.assert_close(alone[0].logits[0], by_hand)
    torch.testing.assert_close(together.logits[0], alone[0].logits[0])
    torch.testing.assert_close(together.logits[1, :2], alone[1].logits[0])
    assert together.logits[1, 2] == -torch.inf
    torch.testing.assert_close(together.loss, (alone[0].loss + alone[1].loss) / 2)


def test_unused_candidates_give_no_nan_gradients(path: Path, marked: PreTrainedTokenizerBase, build: Any) -> None:
    layout = WikiHopLayout(marked, max_length=64)
    model = build(LongformerForWikiHop, marked)
    model(**layout.collate([layout.encode(question) for question in read_wikihop(path)])).loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert model.candidate_scorer.weight.grad.abs().max() > 0


def test_model_refuses_what_does_not_match(marked: PreTrainedTokenizerBase, build: Any) -> None:
    model = build(LongformerForWikiHop, marked)
    ids = torch.full((2, 8), 5)
    with pytest.raises(ValueError, match="candidate_positions must be given"):
        model(input_ids=ids)
    with pytest.raises(ValueError, match=r"shape \[R, M\] with R = 2 rows, got \[3, 1\]"):
        model(input_ids=ids, candidate_positions=torch.zeros(3, 1, dtype=torch.long))
    with pytest.raises(ValueError, match=r"question_of_row must have shape \[R\] = \[2\], got \[1\]"):
        model(
            input_ids=ids,
            candidate_positions=torch.zeros(2, 1, dtype=torch.long),
            question_of_row=torch.zeros(1, dtype=torch.long),
        )


def test_shuffling_keeps_the_answer_and_repeats(path: Path) -> None:
    question = read_wikihop(path)[0]
    orders = {wikihop.shuffled(question, seed).candidates for seed in range(20)}
    assert len(orders) > 1
    for seed in range(20):
        other = wikihop.shuffled(question, seed)
        assert other == wikihop.shuffled(question, seed)
        assert other.candidates[other.label] == "buyer"
        assert sorted(other.supports) == sorted(question.supports)


def test_decoding_takes_the_first_of_equals(path: Path, marked: PreTrainedTokenizerBase) -> None:
    layout = WikiHopLayout(marked, max_length=64)
    examples = [layout.encode(question) for question in read_wikihop(path)]
    logits = torch.tensor([[0.0, 2.0, 2.0], [1.0, 0.5, -torch.inf]])
    assert decode_wikihop(examples, logits) == {"WH_train_0": "buyer", "WH_train_1": "goods"}


def test_accuracy_by_hand_and_official_predictions(tmp_path: Path, path: Path) -> None:
    questions = read_wikihop(path)
    wikihop.write_wikihop_predictions(tmp_path / "out" / "predictions.json", {"WH_train_0": "buyer"})
    predictions = wikihop.read_wikihop_predictions(tmp_path / "out" / "predictions.json")
    assert json.loads((tmp_path / "out" / "predictions.json").read_text()) == predictions == {"WH_train_0": "buyer"}
    assert evaluate_wikihop(questions, predictions) == {"accuracy": 0.5}
    assert evaluate_wikihop(questions, {"WH_train_0": "Buyer", "WH_train_1": "law"}) == {"accuracy": 0.5}
    with pytest.raises(ValueError, match="a prediction is for 'WH_dev_9', which is no question of this set"):
        evaluate_wikihop(questions, {"WH_dev_9": "law"})
    unlabelled = WikiHopQuestion(id="x", query="q", candidates=("a", "b"), supports=("s",), answer=None)
    with pytest.raises(ValueError, match="question x has no answer to evaluate against"):
        evaluate_wikihop([unlabelled], {})
    (tmp_path / "bad.json").write_text('{"WH_train_0": 3}')
    with pytest.raises(ValueError, match=r"bad.json: 'WH_train_0' holds 3; it must be a string"):
        wikihop.read_wikihop_predictions(tmp_path / "bad.json")


def test_recipe_trains_with_trainer(tmp_path: Path, path: Path, marked: PreTrainedTokenizerBase, build: Any) -> None:
    layout = WikiHopLayout(marked, max_length=64)
    examples = [layout.encode(question) for question in read_wikihop(path)]
    model = build(LongformerForWikiHop, marked)
    arguments = wikihop.RECIPE.training_arguments(
        tmp_path / "run",
        micro_batch=2,
        max_steps=25,
        gradient_accumulation_steps=1,
        learning_rate=1e-2,
        warmup_steps=0,
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    Trainer(model, arguments, train_dataset=examples, data_collator=layout.collate).train()
    with torch.no_grad():
        logits = model.eval()(**layout.collate(examples)).logits
    assert evaluate_wikihop(read_wikihop(path), decode_wikihop(examples, logits)) == {"accuracy": 1.0}
