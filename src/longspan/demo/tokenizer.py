"""The demo's tokenizer: byte-level BPE with RoBERTa's special tokens, trained on the demo's text."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from longspan.data.atomic import atomic_directory

# RoBERTa's special tokens at RoBERTa's ids; <mask> is the last of the vocabulary, as there.
_FIRST = ["<s>", "<pad>", "</s>", "<unk>"]
_MASK = "<mask>"


def train_tokenizer(texts: Iterable[str], *, vocab_size: int, folder: Path) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE as RoBERTa's (Liu et al. 2019, section 4.4) and save it.

    Args:
        texts: what to train on.
        vocab_size: number of tokens, special tokens included.
        folder: where to save it; ``AutoTokenizer.from_pretrained`` opens it.

    Raises:
        ValueError: ``vocab_size`` has no room for all bytes and the special tokens.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    least = len(alphabet) + len(_FIRST) + 1
    if vocab_size < least:
        raise ValueError(f"vocab_size is {vocab_size}; all bytes and the special tokens alone are {least}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        special_tokens=_FIRST,
        initial_alphabet=alphabet,
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([_MASK])
    start, end = ("<s>", 0), ("</s>", 2)
    tokenizer.post_processor = processors.RobertaProcessing(end, start, add_prefix_space=False)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        mask_token=_MASK,
        model_max_length=512,
    )
    with atomic_directory(folder, "the tokenizer") as staging:
        fast.save_pretrained(staging)
    return fast
