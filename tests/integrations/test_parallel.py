"""Two processes over gloo: DDP without ``find_unused_parameters``, and FSDP2 by the units the models name."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import longspan.models

ROOT = Path(__file__).parent.parent.parent

START = """
import os, sys, traceback
import torch
import torch.distributed as dist
from tests.models.tiny_models import build_ours, make_batch

def batches():
    # No global token in the first batch of either rank: nothing may go unused.
    yield make_batch([20, 9, 14, 20], seed=1)
    yield make_batch([20, 9, 14, 20], [[0], [], [3], [1, 2]], seed=2)

def part(batch, rank):
    return {name: tensor[2 * rank : 2 * rank + 2] for name, tensor in batch.items()}

def check(rank):
"""
END = """

def main():
    dist.init_process_group("gloo")
    check(dist.get_rank())

try:
    main()
    code = 0
except BaseException:
    traceback.print_exc()
    code = 1
sys.stdout.flush(); sys.stderr.flush()
os._exit(code)  # gloo's threads may hang while the interpreter shuts down
"""

DDP = """
    from torch.nn.parallel import DistributedDataParallel
    for head in HEADS:
        whole, split = build_ours(head), build_ours(head)
        ddp = DistributedDataParallel(split)
        for batch in batches():
            ddp.zero_grad(); whole.zero_grad()
            ddp(**part(batch, rank))[0].square().mean().backward()
            sum(whole(**part(batch, r))[0].square().mean() / 2 for r in range(2)).backward()
            for (name, expected), parameter in zip(whole.named_parameters(), split.parameters(), strict=True):
                assert parameter.grad is not None, name
                if expected.grad is not None:
                    torch.testing.assert_close(parameter.grad, expected.grad, atol=1e-5, rtol=1e-4, msg=name)
"""

FSDP = """
    from torch.distributed.fsdp import FSDPModule, fully_shard
    from torch.distributed.device_mesh import init_device_mesh
    mesh = init_device_mesh("cpu", (2,))
    for head in HEADS:
        whole, split = build_ours(head), build_ours(head)
        units = [m for m in split.modules() if type(m).__name__ in split._no_split_modules]
        assert len(units) == split.config.num_hidden_layers, units
        for unit in units:
            fully_shard(unit, mesh=mesh)
        fully_shard(split, mesh=mesh)
        assert all(isinstance(unit, FSDPModule) for unit in units)
        for batch in batches():
            split.zero_grad(); whole.zero_grad()
            out = split(**part(batch, rank))[0]
            torch.testing.assert_close(out, whole(**part(batch, rank))[0])
            out.square().mean().backward()
            sum(whole(**part(batch, r))[0].square().mean() / 2 for r in range(2)).backward()
            for (name, expected), parameter in zip(whole.named_parameters(), split.parameters(), strict=True):
                if expected.grad is not None:
                    gradient = parameter.grad.full_tensor()
                    torch.testing.assert_close(gradient, expected.grad, atol=1e-5, rtol=1e-4, msg=name)
"""

HEADS = ["ForMaskedLM", "ForSequenceClassification", "ForTokenClassification"]


def _run(check: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(START + check.replace("HEADS", repr(HEADS)) + END)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", str(program), str(tmp_path)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()


pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no distributed package")


@pytest.mark.slow
def test_ddp_finds_every_parameter_used(tmp_path: Path) -> None:
    _run(DDP, tmp_path)


@pytest.mark.slow
def test_fsdp2_shards_by_layer(tmp_path: Path) -> None:
    _run(FSDP, tmp_path)


# What ``from_pretrained`` shards by the plans of the configuration, in transformers' words.
LOADED = """
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor
    import longspan.models
    os.environ.setdefault("LOCAL_RANK", str(rank))
    directory = sys.argv[1]
    for head in HEADS:
        whole = build_ours(head)
        if rank == 0:
            whole.save_pretrained(f"{directory}/{head}")
        dist.barrier()
        split = getattr(longspan.models, f"Longformer{head}").from_pretrained(
            f"{directory}/{head}", distributed_config={SIZE: 2}
        ).eval()
        if SIZE == "fsdp_size":
            assert all(isinstance(layer, FSDPModule) for layer in split.longformer.encoder.layer)
        else:
            attention = split.longformer.encoder.layer[0].attention.self
            for name in ("query", "key", "value", "query_global", "key_global", "value_global"):
                weight = getattr(attention, name).weight
                weight = weight.to_local() if isinstance(weight, DTensor) else weight
                assert weight.shape[0] == split.config.hidden_size // 2, (name, weight.shape)
        for batch in batches():
            torch.testing.assert_close(split(**batch)[0], whole(**batch)[0], atol=1e-5, rtol=1e-4)
        split(**batch)[0].square().mean().backward()
        whole(**batch)[0].square().mean().backward()
        for (name, expected), parameter in zip(whole.named_parameters(), split.parameters(), strict=True):
            if expected.grad is not None:
                gradient = parameter.grad.full_tensor() if isinstance(parameter.grad, DTensor) else parameter.grad
                torch.testing.assert_close(gradient, expected.grad, atol=1e-5, rtol=1e-3, msg=name)
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", ["fsdp_size", "tp_size"])
def test_from_pretrained_shards_by_the_plans(tmp_path: Path, size: str) -> None:
    program = LOADED.replace("SIZE", repr(size))
    if size == "tp_size":
        program = program.replace("build_ours(head)", "build_ours(head, num_attention_heads=4)")
    _run(program, tmp_path)


@pytest.mark.parametrize("kind", ["LongformerForMaskedLM", "LEDForConditionalGeneration", "LongformerForCausalLM"])
def test_plans_name_modules_that_there_are(kind: str) -> None:
    model_class = getattr(longspan.models, kind)
    with torch.device("meta"):
        model = model_class(model_class.config_class())
    names = {re.sub(r"\.\d+", ".*", name) for name, _ in model.named_modules()}
    assert model._fsdp_plan.keys() <= names
    plan = (model._tp_plan or {}).keys() - {"longformer.embed_tokens"}  # transformers 5.17 gives every tied model one
    assert plan <= names
    units = {
        type(module).__name__
        for name, module in model.named_modules()
        if re.sub(r"\.\d+", ".*", name) in model._fsdp_plan
    }
    assert set(model._no_split_modules) <= units
