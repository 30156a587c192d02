"""Fast paths beside the dense reference: output, LSE and every gradient."""

import torch
from attention_cases import Case, assert_near, cases, lengths_mask, marked, random_case, repeatable
from hypothesis import given, seed, settings

# Relative to the reference's largest magnitude (attention_cases.errors). In the half types sums are held in fp32, so
# what is left are roundings of half an eps: of the output; and of a gradient's part from the windows, its sum with the
# part from the global rows, and, in the cases where all texts are one, the sum over texts.
LIMITS = {
    torch.float64: 1e-12,
    torch.float32: 2e-5,
    torch.bfloat16: 3 * torch.finfo(torch.bfloat16).eps / 2,
    torch.float16: 3 * torch.finfo(torch.float16).eps / 2,
}


def assert_equals_reference(case: Case, dtype: torch.dtype, device: str = "cpu", backend: str = "blocked") -> None:
    """Compare in ``dtype`` with the fp64 reference on the same rounded inputs."""
    rounded = case.to(dtype)
    wide = rounded.to(torch.float64)
    results = rounded.to(torch.device(device)).evaluate(backend=backend)
    actual = {name: tensor.cpu() for name, tensor in results.items()}
    assert_near(actual, wide.evaluate(backend="reference"), LIMITS[dtype])


def compare_with_reference(
    dtype: torch.dtype, form: str, examples: int, device: str = "cpu", backend: str = "blocked"
) -> None:
    """Compare on other examples for each dtype and form."""

    @seed(list(LIMITS).index(dtype))
    @settings(repeatable(examples), derandomize=False)
    @given(cases(form=form))
    def compare(case: Case) -> None:
        assert_equals_reference(case, dtype, device, backend)

    compare()


MANY_BLOCKS = [
    (512, (0, 0), 1),
    (513, (256, 256), 1),
    (640, (100, 3), 1),
    (640, (100, 3), 3),
    (700, (0, 300), 1),
    (769, (2000, 0), 1),
    (769, [(3, 3), (90, 0), (0, 5), (300, 1)], [1, 2, 7, 1]),
]
"""Length, window and dilation for :func:`many_blocks`."""


def many_blocks(length: int, window: object, dilation: object) -> Case:
    """Two padded texts with global tokens where blocks meet, and with projections of their own."""
    at = [0, 1, 255, 256, length - 40]
    return random_case(
        (2, 4, length, 5),
        window=window,
        dilation=dilation,
        global_mask=marked(length, at, at),
        key_mask=lengths_mask(length, length - 30, length - 200),
        global_qkv="tensors",
    )


COVERING = {
    "held": (150, (148, 20), [1, 7, 20]),
    "one key short before": (150, (147, 20), [1, 7, 20]),
    "one key short after": (150, (148, 19), [1, 7, 20]),
    "a plain window": (150, (149, 149), [0, 64, 149]),
    "all": (70, (69, 69), range(70)),
    "causal": (150, (149, 0), [0, 7, 149]),
}
"""Length, window and global positions around where each row's window holds every global token."""


def covering(kind: str, *, shared: bool) -> Case:
    """Three texts, one padded and one without global tokens, and the global rows' projections."""
    length, window, at = COVERING[kind]
    return random_case(
        (3, 2, length, 16),
        window=window,
        global_mask=marked(length, at, at, []),
        key_mask=lengths_mask(length, length, length - 9, length),
        global_qkv=None if shared else {"hidden_size": 24},
    )
