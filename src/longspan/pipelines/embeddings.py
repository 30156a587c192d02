"""One vector for a document of any length."""

import inspect
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import AutoModel, AutoModelForTextEncoding, MT5Config, PreTrainedModel, T5Config, UMT5Config

from longspan.bundled import model_source
from longspan.data.atomic import atomic_directory
from longspan.data.json_text import check_characters
from longspan.integrations.long_configuration import LongConfiguration
from longspan.models import LongformerConfig, LongformerModel, make_global_attention_mask, read_config, read_tokenizer
from longspan.models.global_policies import GlobalPolicy, parse_policy
from longspan.pipelines.windows import (
    Columns,
    check_stride,
    most_central,
    special_tokens_around,
    split_into_windows,
    window_tokens,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EmbeddingPooling = Literal["mean", "cls"]
"""The mean of all tokens' vectors, special ones included; or the first token's."""


class DocumentEmbedder:
    """Documents to vectors.

    A document that fits into the model is read at once. A longer one is read in windows that overlap: the mean takes
    each token once, from the window that shows most of the text around it; "cls" is the mean of the windows' first
    tokens.

    Args:
        model: an encoder with or without a head, which is left out. It is put into evaluation mode.
        tokenizer: the model's.
        pooling: "mean", or "cls" for the first token's vector.
        normalize: scale each vector to length 1, so that a product of two is their cosine.
        global_attention_policy: which tokens attend globally in a model that has such tokens, see
            :mod:`longspan.models.global_policies`; ``None``: what its configuration says, else the first.
        max_length: tokens of a window, special ones counted; ``None``: all that the model reads.
        stride: tokens that windows share; ``None``: 128, or half of a window if that is less.

    Raises:
        TypeError, ValueError: another pooling or policy, an encoder-decoder, or a ``max_length`` that the model doesn't
            read.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        pooling: EmbeddingPooling = "mean",
        normalize: bool = False,
        global_attention_policy: GlobalPolicy | None = None,
        max_length: int | None = None,
        stride: int | None = None,
    ) -> None:
        if not isinstance(model, PreTrainedModel):
            raise TypeError(
                f"model must be a loaded model, got {type(model).__name__}; use from_pretrained for a folder"
            )
        if pooling not in get_args(EmbeddingPooling):
            known = " or ".join(repr(name) for name in get_args(EmbeddingPooling))
            raise ValueError(f"pooling must be {known}, got {pooling!r}")
        if model.config.is_encoder_decoder:
            raise ValueError(f"{type(model).__name__} is an encoder-decoder; document vectors need an encoder")
        self.model: PreTrainedModel = model.base_model.eval()
        self.tokenizer, self.pooling, self.normalize = tokenizer, pooling, normalize
        config: Any = self.model.config
        # A long DeBERTa or MPNet, too, takes the mask, but nothing that is saved with it would give it again.
        takes_globals = "global_attention_mask" in inspect.signature(self.model.forward).parameters
        self._has_globals = takes_globals and (
            hasattr(config, "global_attention_policy") or not isinstance(config, LongConfiguration)
        )
        configured = getattr(config, "global_attention_policy", None)
        policy = global_attention_policy if global_attention_policy is not None else configured
        self.global_attention_policy: GlobalPolicy = "first" if policy is None else policy
        parse_policy(self.global_attention_policy)
        self.max_length, self.stride = window_tokens(self.model, tokenizer, max_length), stride
        check_stride("stride", stride, self.max_length)

    @classmethod
    def from_pretrained(cls, directory: str | Path, **options: Any) -> "DocumentEmbedder":
        """An embedder of a saved model, with or without a head.

        Args:
            directory: a folder with model and tokenizer, a bundled model's name, or a hub name. A Longformer becomes a
                :class:`longspan.LongformerModel`, any other encoder is ``AutoModel``'s, of a T5 or its
                relatives ``AutoModelForTextEncoding``'s. Of one that
                :meth:`save_pretrained` or ``sentence-transformers`` wrote, pooling and normalization are taken over.
            **options: as of the class, instead of those.

        Raises:
            OSError: there is no such model or tokenizer. TypeError, ValueError: as the class; or the model's vectors
                go through more than normalization and a pooling that is known here.
        """
        name = model_source(directory)
        config = read_config(name)
        if config.model_type == "longformer":
            model = LongformerModel.from_pretrained(name, add_pooling_layer=False)
        elif isinstance(config, (T5Config, MT5Config, UMT5Config)):
            model = AutoModelForTextEncoding.from_pretrained(name)  # the encoder alone, where there is a decoder, too
        else:
            model = AutoModel.from_pretrained(name)
        folder = Path(name)
        if not folder.is_dir():
            folder = Path(snapshot_download(name, allow_patterns=["modules.json", "*/config.json"]))
        saved = _read_options(folder)
        return cls(model, read_tokenizer(name), **{**saved, **options})

    def encode(self, documents: str | Iterable[str], *, batch_size: int = 8) -> Tensor:
        """The vectors of documents.

        Args:
            documents: one, or any number of them.
            batch_size: windows at once; those of like length share a batch.

        Returns:
            float32 ``[D, C]`` on the CPU, in the order of the documents; ``[C]`` for one string.

        Raises:
            TypeError: something else than strings.
            ValueError: ``batch_size`` below 1, or a document holds half of a character.
        """
        if isinstance(documents, str):
            return self.encode([documents], batch_size=batch_size)[0]
        if not isinstance(documents, Iterable):
            raise TypeError(f"documents must be a string or several, got {type(documents).__name__}")
        documents = list(documents)
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        windows, weights, owners = [], [], []
        for number, document in enumerate(documents):
            if not isinstance(document, str):
                raise TypeError(f"document {number} must be a string, got {type(document).__name__}")
            check_characters(document, f"document {number}")
            encoding = self.tokenizer(document, return_special_tokens_mask=True, truncation=False, verbose=False)
            kept = special_tokens_around(encoding.pop("special_tokens_mask"))
            cuts = split_into_windows(kept, self.max_length, self.stride)
            windows += [{name: [values[at] for at in columns] for name, values in encoding.items()} for columns in cuts]
            weights += self._weights(cuts, kept)
            owners += [number] * len(cuts)
        vectors = torch.zeros(len(documents), self.model.config.hidden_size)
        order = sorted(range(len(windows)), key=lambda at: -len(windows[at]["input_ids"]))
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            states = self._states([windows[at] for at in chosen])
            for at, rows in zip(chosen, states, strict=True):
                vectors[owners[at]] += weights[at] @ rows
        return F.normalize(vectors, dim=-1) if self.normalize else vectors

    def _weights(self, windows: Sequence[Columns], kept: list[bool]) -> list[Tensor]:
        """How much each token of each window counts, ``[n]`` each; all together 1."""
        if self.pooling == "cls":
            return [F.one_hot(torch.tensor(0), len(columns)).float() / len(windows) for columns in windows]
        chosen = most_central(windows, kept)
        return [
            torch.from_numpy(chosen[columns] == number).float() / len(kept) for number, columns in enumerate(windows)
        ]

    @torch.inference_mode()
    def _states(self, windows: list[dict[str, list[int]]]) -> list[Tensor]:
        """The last hidden states of windows, float32 ``[n, C]`` each, without padding."""
        lengths = [len(window["input_ids"]) for window in windows]
        if len(set(lengths)) == 1:
            batch = {name: torch.tensor([window[name] for window in windows]) for name in windows[0]}
        else:
            batch = dict(self.tokenizer.pad(windows, padding_side="right", return_tensors="pt"))
        if self._has_globals:
            config = self.model.config
            separator = getattr(config, "sep_token_id", None)
            batch["global_attention_mask"] = make_global_attention_mask(
                self.global_attention_policy,
                batch["input_ids"],
                batch["attention_mask"],
                sep_token_id=config.eos_token_id if separator is None else separator,
            ).long()
        output = self.model(**{name: values.to(self.model.device) for name, values in batch.items()})
        states = output.last_hidden_state.float().cpu()
        return [rows[:length] for rows, length in zip(states, lengths, strict=True)]

    def save_pretrained(self, directory: str | Path) -> Path:
        """Write model, tokenizer and pooling as ``sentence-transformers`` reads them.

        ``SentenceTransformer(directory)`` gives the same vectors for documents that fit into the model, and cuts longer
        ones. A Longformer needs ``longspan.register()`` before: its global tokens are in its configuration, which stock
        ``transformers`` would not heed; it refuses the directory.

        Args:
            directory: written whole or not at all; an embedder that is there is replaced.

        Returns:
            The directory.

        Raises:
            FileExistsError: the directory holds something else. OSError: it can't be written.
        """
        target = Path(directory).expanduser()
        if target.exists() and not (target / "modules.json").is_file() and (target.is_file() or any(target.iterdir())):
            raise FileExistsError(f"{target} exists and holds no earlier embedder; give a new directory")
        steps = ["Transformer", "Pooling"] + ["Normalize"] * self.normalize
        paths = ["", "1_Pooling", "2_Normalize"]
        modules = [
            {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{step}"}
            for at, (step, path) in enumerate(zip(steps, paths, strict=False))
        ]
        pooling = {
            "word_embedding_dimension": self.model.config.hidden_size,
            "pooling_mode_cls_token": self.pooling == "cls",
            "pooling_mode_mean_tokens": self.pooling == "mean",
        }
        with atomic_directory(target, "the embedder") as folder:
            self._save_model(folder)
            self.tokenizer.save_pretrained(folder)
            _write(folder / "modules.json", modules)
            _write(folder / "sentence_bert_config.json", {"max_seq_length": self.max_length, "do_lower_case": False})
            _write(folder / "1_Pooling" / "config.json", pooling)
            if self.normalize:
                (folder / "2_Normalize").mkdir()
        return target

    def _save_model(self, folder: Path) -> None:
        config: Any = self.model.config
        if not self._has_globals or not hasattr(config, "global_attention_policy"):
            self.model.save_pretrained(folder)
            return
        before = config.global_attention_policy, config.attention_window
        if isinstance(config, LongformerConfig):
            layers = range(config.num_hidden_layers)
            reaches = [config.layer_pattern(layer)[0] for layer in layers]
            # A window for each head: the same windows, in a form that stock transformers refuses.
            config.attention_window = [
                [2 * left for left, _ in (reach if isinstance(reach, list) else [reach] * config.num_attention_heads)]
                for reach in reaches
            ]
        config.global_attention_policy = self.global_attention_policy
        try:
            self.model.save_pretrained(folder)
        finally:
            config.global_attention_policy, config.attention_window = before


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _read_options(directory: Path) -> dict[str, Any]:
    """Pooling and normalization of a folder in the form of ``sentence-transformers``, if it is one."""
    modules = directory / "modules.json"
    if not modules.is_file():
        return {}
    steps = json.loads(modules.read_text(encoding="utf-8"))
    paths = {step["type"].rpartition(".")[2]: step["path"] for step in steps}
    if others := sorted(set(paths) - {"Transformer", "Pooling", "Normalize"}):
        raise ValueError(
            f"{directory} has a module {others[0]} of sentence-transformers, which DocumentEmbedder doesn't compute; "
            "give DocumentEmbedder the loaded model and tokenizer for vectors without it"
        )
    options: dict[str, Any] = {"normalize": "Normalize" in paths}
    if "Pooling" in paths:
        options["pooling"] = _read_pooling(directory / paths["Pooling"] / "config.json")
    return options


def _read_pooling(path: Path) -> EmbeddingPooling:
    held = json.loads(path.read_text(encoding="utf-8"))
    flags = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
    modes = [
        flags.get(name, name) for name, value in held.items() if name.startswith("pooling_mode_") and value is True
    ]
    modes = modes or [held.get("pooling_mode", "mean")]
    if modes not in (["cls"], ["mean"]):
        raise ValueError(
            f"{path} names {' and '.join(map(str, modes))}, which DocumentEmbedder doesn't compute; "
            "give DocumentEmbedder the loaded model and tokenizer, with pooling 'mean' or 'cls'"
        )
    return cast("EmbeddingPooling", modes[0])
