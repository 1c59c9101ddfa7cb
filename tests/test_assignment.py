"""The kernel that matches on a GPU: run by Triton's interpreter on a CPU, and compiled for GPUs that are not here."""

import os
import subprocess
import sys

import pytest
import torch
from losses.test_matching import problems

from lcl import assignment
from lcl.losses.matching import exact

pytestmark = pytest.mark.skipif(assignment.triton is None, reason="this torch comes without Triton")


def test_the_kernel_finds_what_scipy_finds():
    """In a process of its own: Triton reads when it is imported that it is to interpret."""
    code = f"import sys; sys.path[:0] = {sys.path!r}; import test_assignment; test_assignment.compare()"
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"TRITON_INTERPRET": "1"}, check=True, timeout=300)


def compare() -> None:
    torch.set_num_threads(1)
    for number, (words, patches, grid) in enumerate([(3, 4, 4), (6, 3, None), (5, 9, None), (1, 1, 4), (7, 16, None)]):
        cost, real = problems(number, 8, words, patches, grid)
        for unmatched_cost in (0.4, 0.0, -0.25, 2.0, 100.0):  # the last: every word that can has a patch
            known, wanted = cost.masked_fill(~real[..., None], 0.0), exact(cost, real, unmatched_cost)
            price = torch.tensor(unmatched_cost, dtype=torch.float64)
            found = assignment.by_kernel(known, real, price)
            paid, best = (_total(known, patch, price) for patch in (found, wanted.patch))
            torch.testing.assert_close(paid, best, rtol=0, atol=1e-9)  # with ties there are several cheapest ones
            if grid is None:
                assert torch.equal(found, wanted.patch), (words, patches, unmatched_cost)
            assert (found[~real] == -1).all()
            for patch in found:  # each patch has one word at most
                taken = patch[patch >= 0]
                assert len(taken.unique()) == len(taken) and (taken < patches).all()


def _total(known: torch.Tensor, patch: torch.Tensor, price: torch.Tensor) -> torch.Tensor:
    return known.gather(2, patch.clamp(min=0)[..., None])[..., 0].where(patch >= 0, price).sum(1)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("kind", ["fp32", "bf16", "fp64"])
def test_the_kernel_compiles_for_gpus(capability, kind, tmp_path, monkeypatch):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    types = {"cost": f"*{kind}", "words": "*u8", "price": "*fp64", "chosen": "*i64", "m": "i32", "n": "i32"}
    source = ASTSource(assignment._add_words, types | {"M": "constexpr", "N": "constexpr"}, {"M": 16, "N": 512})
    made = compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 2})
    assert len(made.asm["cubin"]) > 10_000
