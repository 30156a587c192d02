"""Which tokens each named policy marks, and who has the last word: the caller, the configuration, the head."""

from typing import Any

import pytest
import torch
from tiny_models import PAD, build_ours, make_batch
from torch import Tensor

from longspan.models import LongformerConfig, make_global_attention_mask

SEP = 2
# columns       0  1  2    3    4  5    6  7    8    9
PAIR = [0, 9, 9, SEP, SEP, 8, 8, SEP, PAD, PAD]
LEFT = [PAD, PAD, 0, 9, SEP, 8, 8, 8, 8, SEP]
NO_SEPARATOR = [0, 9, 9, 9, 9, 9, PAD, PAD, PAD, PAD]
MANY = [0, SEP, 9, SEP, 8, SEP, SEP, SEP, 7, 7]
IDS = torch.tensor([PAIR, LEFT, NO_SEPARATOR, MANY])
MASK = (IDS != PAD).long()


def _columns(policy: Any, **more: Any) -> list[list[int]]:
    given = {"attention_mask": MASK, "sep_token_id": SEP, "pad_token_id": PAD} | more
    mask = make_global_attention_mask(policy, IDS, **given)
    assert mask.dtype == torch.bool
    return [row.nonzero().flatten().tolist() for row in mask]


@pytest.mark.parametrize(
    ("policy", "columns"),
    [
        ("none", [[], [], [], []]),
        ("first", [[0], [2], [0], [0]]),
        ("cls", [[0], [2], [0], [0]]),
        ("sep", [[3, 4, 7], [4, 9], [], [1, 3, 5, 6, 7]]),
        ("separators", [[0, 3, 4, 7], [2, 4, 9], [0], [0, 1, 3, 5, 6, 7]]),
        ("cls+sep", [[0, 3, 4, 7], [2, 4, 9], [0], [0, 1, 3, 5, 6, 7]]),
        ("question", [[0, 1, 2], [2, 3], [0], [0]]),
        ("choice", [[5, 6, 7], [5, 6, 7, 8, 9], [0], [2, 3, 4, 5, 6, 7, 8, 9]]),
        ("every_3", [[0, 3, 6], [2, 5, 8], [0, 3], [0, 3, 6, 9]]),
        ("1:4", [[1, 2, 3], [3, 4, 5], [1, 2, 3], [1, 2, 3]]),
        ([[0, 2], [7, 9]], [[0, 1, 7], [2, 3, 9], [0, 1], [0, 1, 7, 8]]),
        ([], [[], [], [], []]),
        ("first + every_4 + 1:2", [[0, 1, 4], [2, 3, 6], [0, 1, 4], [0, 1, 4, 8]]),
    ],
    ids=str,
)
def test_policies(policy: Any, columns: list[list[int]]) -> None:
    assert _columns(policy) == columns


def test_without_a_mask_the_padding_tokens_are_padding() -> None:
    assert _columns("choice", attention_mask=None)[0] == [5, 6, 7]
    assert _columns("every_4", attention_mask=None)[2] == [0, 4]


def test_spans_of_each_text() -> None:
    spans = [[(0, 2), (5, 6)], [], [(3, 9)], [(9, 10)]]
    assert _columns("none", spans=spans) == [[0, 1, 5], [], [3, 4, 5], [9]]
    with pytest.raises(ValueError, match="spans must hold a list for each of the 4 texts, got 1"):
        _columns("none", spans=[[]])
    with pytest.raises(ValueError, match=r"span \(5, 11\) of text 1 is not within its 10 tokens"):
        _columns("none", spans=[[], [(5, 11)], [], []])


def test_a_text_of_padding_has_no_global_token() -> None:
    mask = make_global_attention_mask("first+every_2+question", IDS, torch.zeros_like(IDS), sep_token_id=SEP)
    assert not mask.any()


def test_it_runs_in_one_graph() -> None:
    policy = "first+separators+question+choice+every_3+1:4"
    compiled = torch.compile(make_global_attention_mask, fullgraph=True, backend="eager")
    arguments = (policy, IDS, MASK)
    assert compiled(*arguments, sep_token_id=SEP).equal(make_global_attention_mask(*arguments, sep_token_id=SEP))


@pytest.mark.parametrize(
    "policy", ["fist", "", "every_0", "every_-1", "every_", "3:3", "4:2", "first,sep", "first+", "1:", "-2:4"]
)
def test_unknown_names(policy: str) -> None:
    with pytest.raises(ValueError, match=r"global_attention_policy .* is unknown at .*; use none, first, separators"):
        make_global_attention_mask(policy, IDS)
    with pytest.raises(ValueError, match="is unknown at"):
        LongformerConfig(global_attention_policy=policy)


@pytest.mark.parametrize("policy", [5, [5], [[1, 2, 3]], [[2, 1]], [[-1, 2]], {"every": 3}, [["a", "b"]]])
def test_wrong_kinds(policy: Any) -> None:
    with pytest.raises(TypeError, match="must be a name or a list of"):
        LongformerConfig(global_attention_policy=policy)


def test_what_a_policy_needs() -> None:
    with pytest.raises(ValueError, match="'question' needs sep_token_id, which is not set"):
        make_global_attention_mask("question", IDS)
    with pytest.raises(ValueError, match="'sep' looks for separators, which inputs_embeds don't show"):
        make_global_attention_mask("sep", inputs_embeds=torch.zeros(1, 3, 4), sep_token_id=SEP)
    with pytest.raises(ValueError, match="give input_ids or inputs_embeds, got neither"):
        make_global_attention_mask("first")


def _used(model: Any, *args: Any, **inputs: Any) -> Tensor | None:
    """The global mask that reaches the encoder."""
    seen: list[Any] = []
    hook = model.longformer.register_forward_pre_hook(
        lambda _, __, given: seen.append(given["global_attention_mask"]), with_kwargs=True
    )
    model(*args, **inputs)
    hook.remove()
    return seen[0]


DEFAULTS = {
    "ForMaskedLM": None,
    "ForTokenClassification": None,
    "ForSequenceClassification": "first",
    "ForQuestionAnswering": "question",
    "ForSequentialSentenceClassification": "separators",
}


@pytest.mark.parametrize("head", DEFAULTS)
def test_who_decides(head: str) -> None:
    model = build_ours(head)
    default = DEFAULTS[head]
    expected = None if default is None else make_global_attention_mask(default, IDS, MASK, sep_token_id=SEP)
    used = _used(model, IDS, MASK)
    assert used is None if expected is None else used.equal(expected)

    model.config.global_attention_policy = "every_3"
    assert _used(model, IDS, MASK).equal(make_global_attention_mask("every_3", IDS, MASK))
    model.config.global_attention_policy = "none"
    assert _used(model, IDS, MASK) is None
    mine = torch.zeros_like(IDS)
    assert _used(model, IDS, MASK, mine) is mine


def test_multiple_choice_decides_for_each_choice() -> None:
    model = build_ours("ForMultipleChoice")
    inputs = {"input_ids": IDS[None], "attention_mask": MASK[None]}
    expected = make_global_attention_mask("choice", IDS, MASK, sep_token_id=SEP)
    assert _used(model, **inputs).equal(expected)
    mine = torch.ones_like(IDS)[None]
    assert _used(model, **inputs, global_attention_mask=mine).equal(mine[0])


def test_the_policy_is_saved_and_overridden_on_loading(tmp_path: Any) -> None:
    model = build_ours("ForSequenceClassification", global_attention_policy=[[0, 2], [5, 6]])
    model.save_pretrained(tmp_path)
    inputs = make_batch([20, 9])
    assert _used(type(model).from_pretrained(tmp_path), **inputs).nonzero().tolist() == [
        [0, 0],
        [0, 1],
        [0, 5],
        [1, 0],
        [1, 1],
        [1, 5],
    ]
    loaded = type(model).from_pretrained(tmp_path, global_attention_policy="first")
    assert _used(loaded, **inputs).nonzero().tolist() == [[0, 0], [1, 0]]


@pytest.mark.parametrize("head", DEFAULTS)
def test_embeddings_without_a_mask(head: str) -> None:
    model = build_ours(head)
    used = _used(model, inputs_embeds=torch.randn(2, 20, 24))
    assert used is None if head != "ForSequenceClassification" else used.nonzero().tolist() == [[0, 0], [1, 0]]
    model.config.global_attention_policy = "separators"
    with pytest.raises(ValueError, match="inputs_embeds don't show; give global_attention_mask"):
        model(inputs_embeds=torch.randn(2, 20, 24))


def test_the_end_token_serves_where_no_separator_is_named() -> None:
    model = build_ours("ForQuestionAnswering", sep_token_id=None, eos_token_id=[SEP, 50])
    assert _used(model, IDS, MASK).equal(make_global_attention_mask("question", IDS, MASK, sep_token_id=SEP))


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForQuestionAnswering"])
def test_wrong_inputs_are_refused_as_by_the_encoder(head: str) -> None:
    model = build_ours(head)
    with pytest.raises(ValueError, match=r"input_ids must have shape \[B, N\], got \[10\]"):
        model(IDS[0])
    with pytest.raises(TypeError, match="attention_mask must be a tensor"):
        model(IDS, MASK.tolist())
    with pytest.raises(ValueError, match=r"attention_mask must have shape .* got \[4, 4\]"):
        model(IDS, MASK[:, :4])
    with pytest.raises(ValueError, match="give input_ids or inputs_embeds, not neither"):
        model()
    with pytest.raises(ValueError, match="input_ids is empty"):
        model(IDS[:, :0])
    with pytest.raises(TypeError, match="unexpected argument 'globl_attention_mask'"):
        model(IDS, globl_attention_mask=MASK)
