import torch

from radrep.modules.memory import CrossModalMemory


def test_a_shared_projection_changes_nothing() -> None:
    memory = CrossModalMemory(dim=16, size=9, top_k=3, num_heads=4).eval()
    query = torch.randn(2, 5, 16)
    shared = memory(query, memory.keys_and_values())
    torch.testing.assert_close(memory(query), shared)
