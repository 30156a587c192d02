"""Tokens, and the characters that each covers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_text import make_texts
from transformers import PreTrainedTokenizerBase

from longspan.data.tokenization import tokenize, tokenize_with_extent, tokenizer_fingerprint

pytestmark = pytest.mark.filterwarnings("error")


def test_special_tokens_in_a_text_are_plain_text(tokenizer: PreTrainedTokenizerBase) -> None:
    (tokens,) = tokenize(tokenizer, ["a <mask> b </s>"])
    assert not np.isin(tokens, tokenizer.all_special_ids).any()
    assert tokenizer.decode(tokens) == "a <mask> b </s>"


def test_texts_beyond_the_model_are_not_cut(tokenizer: PreTrainedTokenizerBase) -> None:
    (tokens,) = tokenize(tokenizer, ["court " * 1000])
    assert tokens.dtype == np.int64
    assert len(tokens) > tokenizer.model_max_length * 10


@given(text=st.text(max_size=60))
def test_extents_add_up_to_the_text(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    text = text.encode("utf-8", "ignore").decode("utf-8")  # no lone surrogates
    measured = tokenize_with_extent(tokenizer, text)
    if measured.tokens.size:
        assert measured.characters.sum() == len(text)
        assert measured.bytes.sum() == len(text.encode())
    assert (measured.characters >= 0).all()
    assert (measured.bytes >= measured.characters).all()
    assert measured.tokens.tolist() == tokenize(tokenizer, [text])[0].tolist()


def test_white_space_belongs_to_the_token_after_it(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "the court "
    measured = tokenize_with_extent(tokenizer, text)
    pieces = [tokenizer.decode([token]) for token in measured.tokens]
    assert "".join(pieces) == text
    assert measured.characters.tolist() == [len(piece) for piece in pieces]


def test_bytes_of_one_character_count_it_once(tokenizer: PreTrainedTokenizerBase) -> None:
    measured = tokenize_with_extent(tokenizer, "☃☃")  # not among the words, so three tokens each
    assert len(measured.tokens) == 6
    assert measured.characters.tolist() == [1, 0, 0, 1, 0, 0]
    assert measured.bytes.tolist() == [3, 0, 0, 3, 0, 0]


def test_fingerprints_tell_tokenizers_apart(tokenizer: PreTrainedTokenizerBase) -> None:
    other = type(tokenizer).from_pretrained(tokenizer.name_or_path) if tokenizer.name_or_path else tokenizer
    assert tokenizer_fingerprint(tokenizer) == tokenizer_fingerprint(other)
    from tokenizers import ByteLevelBPETokenizer

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(make_texts(40), vocab_size=300, show_progress=False)
    assert tokenizer_fingerprint(type(tokenizer)(tokenizer_object=trained._tokenizer)) != tokenizer_fingerprint(
        tokenizer
    )
