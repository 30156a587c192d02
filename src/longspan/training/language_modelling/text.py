"""A trained character language model at work: loading it, evaluating it on files, having it write."""

import codecs
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import set_seed
from transformers.generation.streamers import BaseStreamer

from longspan.data.characters import Alphabet, CharacterCorpus, Split
from longspan.data.progress import no_transformers_bars
from longspan.models import LongformerForCausalLM
from longspan.training.inference import evaluation_mode
from longspan.training.language_modelling.evaluation import LanguageModelMetrics, evaluate_language_model
from longspan.training.recipe_fields import check_seeds
from longspan.training.run_folder import refuse_run_folder

_LEAST_TEMPERATURE = 1e-30


class LanguageModel(NamedTuple):
    """A model and what its symbols mean."""

    model: LongformerForCausalLM
    alphabet: Alphabet


def load_language_model(folder: str | Path) -> LanguageModel:
    """Load what :func:`longspan.training.language_modelling.train_language_model` saved, in fp32 on the CPU.

    Raises:
        FileNotFoundError: there is no such folder, or it holds no character language model. ValueError: it is another
            model's, or a file is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no model folder {folder}; give the folder of a character model, which longspan train-lm makes"
        )
    refuse_run_folder(folder)
    alphabet = Alphabet.load(folder)
    try:
        with no_transformers_bars():
            model = LongformerForCausalLM.from_pretrained(folder, dtype=torch.float32)
    except OSError as error:
        raise FileNotFoundError(f"the model in {folder} can't be loaded: {str(error).splitlines()[0]}") from error
    if model.config.vocab_size < len(alphabet):
        raise ValueError(
            f"{folder} holds an alphabet of {len(alphabet):,} symbols, but a model of {model.config.vocab_size:,}; "
            "copy both again from where the model was trained"
        )
    return LanguageModel(model, alphabet)


def evaluate_language_model_on_files(
    language_model: LanguageModel, files: Sequence[str | Path], *, split: Split = "all", **options: Any
) -> LanguageModelMetrics:
    """Bits per character on files and folders, read with the model's alphabet.

    Args:
        language_model: the model and its alphabet.
        files: files and folders, see :meth:`longspan.data.characters.CharacterCorpus.of_files`.
        split: the part to evaluate on; ``"test"`` is the last 5 %, as of text8 and enwik8.
        **options: of :func:`longspan.training.language_modelling.evaluation.evaluate_language_model`.

    Raises:
        FileNotFoundError, ValueError: as these two.
    """
    model, alphabet = language_model
    with TemporaryDirectory(prefix="longspan-") as cache:
        corpus = CharacterCorpus.of_files(files, cache_dir=Path(cache), alphabet=alphabet)
        return evaluate_language_model(model, corpus.part(split), **options)


def generate_text(
    language_model: LanguageModel,
    prompt: str = "\n",
    *,
    characters: int = 500,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int | None = None,
    on_text: Callable[[str], None] | None = None,
) -> str:
    """Have a model go on with a text.

    Args:
        language_model: the model and its alphabet.
        prompt: the beginning, of any length; at least one character.
        characters: symbols to write: bytes or characters, as the model's alphabet.
        temperature: below 1 writes what is more probable, 0 always the most probable.
        top_k: draw among the so many most probable symbols; None: among all.
        top_p: draw among the most probable symbols that have this share of the probability together.
        seed: of the draws; None: another text each time.
        on_text: called with each new bit of text as it is written.

    Returns:
        The text without the prompt.

    Raises:
        ValueError: a number out of range, an empty prompt, or a character that the alphabet lacks.
    """
    model, alphabet = language_model
    if not prompt:
        raise ValueError("the prompt is empty; give at least one character to go on from")
    if characters < 1:
        raise ValueError(f"characters is {characters}; it must be at least 1")
    # Scores divided by less are infinite.
    if not (temperature == 0 or temperature >= _LEAST_TEMPERATURE):
        raise ValueError(
            f"temperature is {temperature}; it must be 0, for always the most probable character, or at least "
            f"{_LEAST_TEMPERATURE:g}"
        )
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is {top_k}; it must be at least 1")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}; it must be above 0 and at most 1")
    if seed is not None:
        check_seeds("seed", seed)
    ids = torch.from_numpy(alphabet.encode(prompt).astype("int64"))[None].to(model.device)
    drawn: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        drawn = {"do_sample": True, "temperature": temperature, "top_k": top_k or 0, "top_p": top_p}
    if seed is not None:
        set_seed(seed)
    streamer = None if on_text is None else _Streamer(alphabet, on_text)
    with evaluation_mode(model, "fp32"):
        written = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=characters,
            use_cache=True,
            streamer=streamer,
            **drawn,
        )
    return alphabet.decode(written[0, ids.shape[1] :].tolist())


class _Streamer(BaseStreamer):
    """Hands on text as soon as its bytes are whole characters."""

    def __init__(self, alphabet: Alphabet, on_text: Callable[[str], None]) -> None:
        self.alphabet, self.on_text = alphabet, on_text
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.is_prompt = True

    def put(self, value: Tensor) -> None:
        """Take the prompt, then symbol by symbol."""
        if self.is_prompt:
            self.is_prompt = False
            return
        symbols = value.flatten().tolist()
        is_bytes = self.alphabet.characters is None
        self._hand_on(self.decoder.decode(bytes(symbols)) if is_bytes else self.alphabet.decode(symbols))

    def end(self) -> None:
        """Hand on what is left."""
        self._hand_on(self.decoder.decode(b"", final=True))

    def _hand_on(self, text: str) -> None:
        if text:
            self.on_text(text)
