"""Scans in Triton's interpreter, on a CPU: python triton_child.py CASES RESULTS.

TRITON_INTERPRET=1 has to be set before Triton is imported, and holds for a whole process.
"""

import sys

import torch

from radrep.ops.selective_scan import triton


def main() -> None:
    results = []
    for case in torch.load(sys.argv[1]):
        triton.CHUNK, triton.BLOCK = case["chunk"], case["block"]
        given = [None if x is None else x.requires_grad_() for x in case["inputs"]]
        outputs = triton.scan(*given, softplus=case["softplus"])
        weighted = zip(outputs, case["weights"], strict=True)
        loss = sum((x.double() * weight).sum() for x, weight in weighted if weight is not None)
        grads = torch.autograd.grad(
            loss, [x for x in given if x is not None], allow_unused=True, materialize_grads=True
        )
        results.append([x.detach() for x in (*outputs, *grads)])
    torch.save(results, sys.argv[2])


if __name__ == "__main__":
    main()
