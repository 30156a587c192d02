"""What the model reads of each task, what is cut, and that every token finds its way back."""

from typing import Any

import numpy as np
import pytest
from tiny_text import make_text
from transformers import PreTrainedTokenizerBase

from longspan.data.examples import Answer, Example
from longspan.training.finetuning.encoding import IGNORED, ExampleEncoder
from longspan.training.finetuning.task import FinetunedTask

S, PAD, E = 0, 1, 2


def encoder(tokenizer: PreTrainedTokenizerBase, name: str, *labels: str, **fields: Any) -> ExampleEncoder:
    task = FinetunedTask(**{"task": name, "labels": labels, "max_length": 64, **fields})
    return ExampleEncoder(task, tokenizer)


def example(target: Any = None, **inputs: Any) -> Example:
    return Example(inputs=inputs, target=target, origin="a line")


def test_a_text_is_cut_and_counted(tokenizer: PreTrainedTokenizerBase) -> None:
    encode = encoder(tokenizer, "classification", "no", "yes", max_length=16).encode
    short = encode(example("yes", text="the court"))
    assert short.pieces[0].input_ids.tolist() == tokenizer("the court")["input_ids"]
    assert (short.cut, short.pieces[0].targets["labels"]) == (0, 1)
    text = make_text(1, 60)
    long = encode(example(text=text))
    assert long.pieces[0].input_ids.tolist() == tokenizer(text, truncation=True, max_length=16)["input_ids"]
    assert long.cut == long.tokens - 14 > 0
    assert long.pieces[0].targets == {}
    spelled = encode(example(text="the </s> court")).pieces[0].input_ids.tolist()
    assert spelled.count(E) == 1  # a separator spelled out is text


def test_a_hypothesis_stays_whole(tokenizer: PreTrainedTokenizerBase) -> None:
    encode = encoder(tokenizer, "nli", "no", "yes", max_length=40).encode
    piece = encode(example("no", premise=make_text(1, 60), hypothesis="the seller")).pieces[0]
    hypothesis = tokenizer("the seller", add_special_tokens=False)["input_ids"]
    assert piece.input_ids[: len(hypothesis) + 3].tolist() == [S, *hypothesis, E, E]
    assert (piece.length, piece.input_ids[-1]) == (40, E)
    both = encode(example(premise=make_text(1, 60), hypothesis=make_text(2, 60)))
    assert both.pieces[0].length == 40
    assert np.flatnonzero(both.pieces[0].input_ids == E).tolist() == [19, 20, 39]  # half each
    assert both.cut == both.tokens - 36
    asked = encode(example(premise="the seller", hypothesis=make_text(2, 60)))
    assert asked.cut == asked.tokens - (asked.pieces[0].length - 4) > 0


def test_several_labels_become_numbers(tokenizer: PreTrainedTokenizerBase) -> None:
    made = encoder(tokenizer, "multi-label", "a", "b", "c")
    pieces = [made.encode(example(target, text="the court")).pieces[0] for target in (("c", "a"), ())]
    labels = made.collate(pieces)["labels"]
    assert labels.tolist() == [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    assert labels.is_floating_point()


def test_choices_of_different_number_make_a_batch(tokenizer: PreTrainedTokenizerBase) -> None:
    made = encoder(tokenizer, "multiple-choice", max_length=32)
    inputs = {"context": make_text(1, 60), "question": "price?"}
    first = made.encode(example(1, choices=("yes", "no and no"), **inputs))
    second = made.encode(example(0, choices=("a", "b", "c"), **inputs))
    assert first.cut > 0
    choice = tokenizer("price? yes", add_special_tokens=False)["input_ids"]
    row = first.pieces[0].input_ids[0][first.pieces[0].attention_mask[0] == 1].tolist()
    assert row[-len(choice) - 3 :] == [E, E, *choice, E]
    long = made.encode(example(choices=("yes", make_text(2, 60), "no"), context="the court", question="price?"))
    kept = long.pieces[0].attention_mask.sum(-1) - 4
    assert long.cut == long.tokens - kept[1] > 0
    batch = made.collate([first.pieces[0], second.pieces[0]])
    assert batch["input_ids"].shape == (2, 3, 32)
    assert batch["attention_mask"][0, 2].tolist() == [1] + [0] * 31
    assert batch["labels"].tolist() == [1, 0]


def test_a_context_is_searched_to_its_end(tokenizer: PreTrainedTokenizerBase) -> None:
    context = make_text(3, 80) + " finally café 東京 end"
    start = context.rindex("café")
    made = encoder(tokenizer, "qa", max_length=40, overlap=8)
    encoded = made.encode(example((Answer("café 東京", start),), question="where?", context=context))
    assert len(encoded.pieces) > 3
    assert encoded.cut == 0
    covered: set[int] = set()
    for piece in encoded.pieces:
        assert piece.length <= 40
        covered |= {character for _, begin, end in piece.places for character in range(begin, end)}
    assert all(index in covered for index, character in enumerate(context) if not character.isspace())
    with_answer = [piece for piece in encoded.pieces if piece.targets["end_positions"] > 0]
    assert with_answer
    for piece in with_answer:
        places = {int(column): (begin, end) for column, begin, end in piece.places}
        begin, end = places[piece.targets["start_positions"]][0], places[piece.targets["end_positions"]][1]
        assert context[begin:end].strip() == "café 東京"
    nothing = made.encode(example((), question="where?", context="the court"))
    assert nothing.pieces[0].targets == {"start_positions": 0, "end_positions": 0}


@pytest.mark.parametrize("overlap", [0, 20, 1000])
def test_any_overlap_comes_to_an_end(tokenizer: PreTrainedTokenizerBase, overlap: int) -> None:
    made = encoder(tokenizer, "qa", max_length=20, overlap=overlap)
    encoded = made.encode(example(question="q " * 50, context=make_text(3, 80)))
    assert all(piece.length <= 20 for piece in encoded.pieces)
    assert encoded.pieces[-1].places[-1, 2] == len(make_text(3, 80).rstrip())
    asked = len(made.tokenizer("q " * 50, add_special_tokens=False)["input_ids"])
    assert encoded.cut == asked - 8  # half of what 4 special tokens leave


def test_every_word_has_one_label(tokenizer: PreTrainedTokenizerBase) -> None:
    words = (*make_text(4, 70).split(), "東京", "§", "naïve")
    tags = tuple("xy"[number % 2] for number in range(len(words)))
    encoded = encoder(tokenizer, "tokens", "x", "y", max_length=30).encode(example(tags, tokens=words))
    assert len(encoded.pieces) > 3
    seen = [int(word) for piece in encoded.pieces for word in piece.places[:, 1]]
    assert seen == list(range(len(words)))
    for piece in encoded.pieces:
        assert piece.length <= 30
        for column, word in piece.places:
            assert piece.targets["labels"][column] == word % 2
            assert words[word].startswith(tokenizer.decode([piece.input_ids[column]]).strip().rstrip("\ufffd"))
        assert (piece.targets["labels"] != IGNORED).sum() == len(piece.places)


def test_sentences_go_on_in_another_piece(tokenizer: PreTrainedTokenizerBase) -> None:
    sentences = tuple(make_text(seed, 2 + seed % 7) for seed in range(20))
    labels = tuple(None if number == 3 else "xy"[number % 2] for number in range(20))
    made = encoder(tokenizer, "sequential", "x", "y", segment_length=8, max_length=64)
    encoded = made.encode(example(labels, sentences=sentences))
    assert encoded.cut == 0
    assert [int(item) for piece in encoded.pieces for item in piece.places[:, 1]] == list(range(20))
    for piece in encoded.pieces:
        assert piece.length <= 64
        wanted = np.full(piece.length // 8, IGNORED)
        for segment, sentence in piece.places:
            ids = tokenizer(sentences[sentence], add_special_tokens=False)["input_ids"][:7]
            assert piece.input_ids[segment * 8 + 1 :][: len(ids)].tolist() == ids
            wanted[segment] = IGNORED if sentence == 3 else sentence % 2
        assert piece.targets["labels"].tolist() == wanted.tolist()
    batch = made.collate(encoded.pieces)
    assert batch["labels"].shape == (len(encoded.pieces), batch["input_ids"].shape[1] // 8)
    endless = made.encode(example(sentences=(make_text(1, 90), "the end")))
    assert endless.cut > 0
    assert [int(item) for piece in endless.pieces for item in piece.places[:, 1]] == [0, 1]


def test_tasks_refuse_impossible_numbers() -> None:
    with pytest.raises(ValueError, match="max_length is 4; it must be at least 8"):
        FinetunedTask(task="qa", max_length=4)
    with pytest.raises(ValueError, match=r"max_length is 64, less than a segment of 128 tokens"):
        FinetunedTask(task="sequential", labels=("a", "b"), max_length=64)
    with pytest.raises(ValueError, match="threshold is 1"):
        FinetunedTask(task="multi-label", labels=("a",), max_length=64, threshold=1)


def test_a_vocabulary_without_an_a_keeps_its_special_tokens() -> None:
    encoder = ExampleEncoder(
        FinetunedTask(task="nli", labels=("no", "yes"), max_length=64),
        own_tokenizer("абв ", single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>"),
    )
    example = Example(inputs={"premise": "аб", "hypothesis": "в"}, target="no", origin="here")
    (piece,) = encoder.encode(example).pieces
    assert piece.input_ids.tolist() == [0, 5, 2, 2, 3, 4, 2]


def own_tokenizer(letters: str = "abc ", **post_processor: str) -> PreTrainedTokenizerBase:
    """A tokenizer of letters, of no class of its own, whose files say that it has types."""
    from tokenizers import Tokenizer, models, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: number for number, token in enumerate(["<s>", "<pad>", "</s>", *letters])}
    made = Tokenizer(models.BPE(vocabulary, []))
    if post_processor:
        special = [("<s>", 0), ("</s>", 2)]
        made.post_processor = processors.TemplateProcessing(**post_processor, special_tokens=special)
    names = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>"}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=made, model_input_names=inputs, **names)


def test_types_are_those_of_the_tokenizer_if_the_model_knows_them() -> None:
    pair = example("no", premise="ab", hypothesis="c")
    task = FinetunedTask(task="nli", labels=("no", "yes"), max_length=64)
    plain = own_tokenizer(single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>")
    typed = own_tokenizer(single="<s> $A </s>", pair="<s>:2 $A:0 </s>:0 $B:1 </s>:1")
    for tokenizer, wanted in ((plain, [0, 0, 0, 0, 0, 0, 0]), (typed, [2, 0, 0, 1, 1, 1])):
        made = ExampleEncoder(task, tokenizer)
        assert made.has_separators
        batch = made.collate(made.encode(pair).pieces)
        assert batch["token_type_ids"].tolist() == [wanted]
        assert batch["token_type_ids"].tolist()[0] == tokenizer("c", "ab")["token_type_ids"]
    for types in (0, 1):
        made = ExampleEncoder(task, typed, token_types=types)
        assert "token_type_ids" not in made.collate(made.encode(pair).pieces)


def test_a_tokenizer_without_separators_is_known() -> None:
    task = FinetunedTask(task="nli", labels=("no", "yes"), max_length=64)
    assert not ExampleEncoder(task, own_tokenizer()).has_separators
    joined = own_tokenizer(single="<s> $A </s>", pair="<s> $A $B </s>")
    assert not ExampleEncoder(task, joined).has_separators
    assert ExampleEncoder(FinetunedTask(task="tokens", labels=("A", "B"), max_length=64), joined).has_separators
