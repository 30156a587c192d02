"""How a masked LM was trained to read texts: noted in its configuration by pretraining, kept to by who uses it."""

import inspect
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any

from longspan.data.layout import GlobalTokens, SegmentEnds, TextLayout

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_KEY = "pretraining_layout"  # in config.json


def note_layout(model: "PreTrainedModel", layout: TextLayout) -> None:
    """Have a model's configuration say how it is trained; stock ``transformers`` keeps the note and ignores it."""
    setattr(model.config, _KEY, {field.name: getattr(layout, field.name) for field in fields(TextLayout)})


def reading_layout(
    model: "PreTrainedModel",
    *,
    segment_length: int | None = None,
    segment_ends: SegmentEnds | None = None,
    attend_inner_padding: bool | None = None,
    global_tokens: GlobalTokens | None = None,
) -> TextLayout:
    """How a masked LM should read texts.

    That is what pretraining noted in its configuration. One without a note, but with a length of segments, is taken for
    one of Chalkidis et al. (2022): segments that end at sentences, and global headers unless the configuration's
    ``global_attention_policy`` names others. Any other reads a text as one, without global tokens.

    Args:
        model: a masked LM.
        segment_length: read segments of so many tokens instead; 0: none. If that isn't what the model was trained with,
            nothing else of what it was trained with is kept either.
        segment_ends, attend_inner_padding, global_tokens: fields to replace.

    Raises:
        ValueError: the fields contradict each other, or the configuration's note isn't one.
    """
    layout = _trained_layout(model)
    if segment_length is not None and (segment_length or None) != layout.segment_length:
        layout = _in_segments(model, segment_length) if segment_length else TextLayout()
    if segment_ends == "full":
        layout = replace(layout, segment_ends="full", attend_inner_padding=False)
    given: dict[str, Any] = {
        "segment_ends": segment_ends,
        "attend_inner_padding": attend_inner_padding,
        "global_tokens": global_tokens,
    }
    return replace(layout, **{name: value for name, value in given.items() if value is not None})


def is_as_trained(model: "PreTrainedModel", layout: TextLayout) -> bool:
    """Whether a model's configuration tells how it was trained, and that it was so."""
    noted = getattr(model.config, _KEY, None) or getattr(model.config, "segment_length", None)
    return noted is not None and layout == _trained_layout(model)


def attends_inner_padding(config: "PreTrainedConfig") -> bool:
    """Whether pretraining noted that the padding inside segments was attended.

    Raises:
        ValueError: the configuration's note isn't one.
    """
    note = getattr(config, _KEY, None)
    return note is not None and _read_note(note).attend_inner_padding


def has_global_attention(model: "PreTrainedModel") -> bool:
    """Whether a model can be told which tokens attend globally."""
    return "global_attention_mask" in inspect.signature(model.forward).parameters


def _trained_layout(model: "PreTrainedModel") -> TextLayout:
    note = getattr(model.config, _KEY, None)
    if note is not None:
        return _read_note(note)
    length = getattr(model.config, "segment_length", None)
    return TextLayout() if length is None else _in_segments(model, length)


def _in_segments(model: "PreTrainedModel", length: int | None) -> TextLayout:
    # A policy of the model's own decides for itself.
    decides = not has_global_attention(model) or getattr(model.config, "global_attention_policy", None) is not None
    return TextLayout(
        segment_length=length, segment_ends="sentences", global_tokens="none" if decides else "separators"
    )


def _read_note(note: Any) -> TextLayout:
    usual = asdict(TextLayout())
    try:
        return TextLayout(**{**usual, **note})
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{_KEY} of the model's config.json is {note!r}, which is no layout of texts ({error}); mend it, or take "
            "it out"
        ) from error
