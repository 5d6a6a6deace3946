"""Beam search, greedy decoding and sampling over any step decoder.

For EMRRG transformers searches, with its own length penalty (radrep/models/emrrg.py).

Letters: b open studies, k beams, w words.
"""

from collections.abc import Callable
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from radrep.generation.contract import StepDecoder


def beam_search(
    decoder: StepDecoder,
    encoded: Any,
    *,
    num_studies: int,
    beam_size: int = 3,
    max_words: int = 60,
    length_penalty: float = 0.0,
    block_trigrams: bool = False,
) -> list[list[int]]:
    """Find the report of highest summed log-probability over length ** length_penalty, by study.

    It is the first of `finished_beams`. Return word ids without the opening and closing ids.
    """
    found = finished_beams(
        decoder,
        encoded,
        num_studies=num_studies,
        beam_size=beam_size,
        max_words=max_words,
        length_penalty=length_penalty,
        block_trigrams=block_trigrams,
    )
    return [beams[0] for beams in found]


@torch.no_grad()
def finished_beams(
    decoder: StepDecoder,
    encoded: Any,
    *,
    num_studies: int,
    beam_size: int = 3,
    max_words: int = 60,
    length_penalty: float = 0.0,
    block_trigrams: bool = False,
) -> list[list[list[int]]]:
    """Search for the reports of highest summed log-probability over length ** length_penalty.

    Each step takes the ``beam_size`` best continuations of a study's open beams. Those that end
    are set aside and the next step takes as many from the beams still open. At ``max_words`` open
    beams count as finished. A study is done when no open beam can win any more: sums only fall.

    A length_penalty of 0 is the published search, which favours short reports; 1 compares the mean
    log-probability per word, the end included. Return for each study the beams that were finished
    by then, the best first, at most `beam_size`.
    """
    k = beam_size
    state = decoder.start(encoded, k)
    finished: list[list[tuple[float, list[int]]]] = [[] for _ in range(num_studies)]
    best_score = torch.full((num_studies,), float("-inf"))
    open_studies = torch.arange(num_studies)
    device = decoder.device
    last = torch.full((num_studies * k,), decoder.begin, device=device)
    sums = torch.full((num_studies, k), float("-inf"), device=device)
    sums[:, 0] = 0.0  # all beams are equal at first: one stands for them
    words = torch.empty(num_studies, k, 0, dtype=torch.long, device=device)
    for step in range(max_words):
        log_probs, state = decoder.step(last, state)  # (b k, w)
        b, num_words = len(open_studies), log_probs.shape[-1]
        log_probs = log_probs.view(b, k, num_words)
        if block_trigrams:
            log_probs = _without_repeated_trigrams(log_probs, words)
        totals = (sums[..., None] + log_probs).flatten(1)  # (b, k w)
        sums, choice = totals.topk(k, dim=-1)  # (b, k)
        beams, next_words = choice // num_words, choice % num_words
        words = torch.cat([words.gather(1, beams[..., None].expand(-1, -1, step)),
                           next_words[..., None]], dim=-1)  # fmt: skip
        ends = (next_words == decoder.end) | (step == max_words - 1)
        scores = sums / (step + 1) ** length_penalty
        _set_aside(finished, best_score, open_studies, words, scores, ends, decoder.end)
        sums = sums.masked_fill(ends, float("-inf"))
        still_open = sums.amax(dim=1).cpu() / max_words**length_penalty > best_score[open_studies]
        if not still_open.any():
            break
        keep = still_open.to(device)
        rows = beams + torch.arange(b, device=device)[:, None] * k
        state = state.select(rows[keep])
        sums, words, open_studies = sums[keep], words[keep], open_studies[still_open]
        last = next_words[keep].flatten()
    ranked = [sorted(found, key=lambda each: -each[0]) for found in finished]  # of equals the first
    return [[ids for _, ids in found[:k]] or [[]] for found in ranked]


def _set_aside(
    finished: list[list[tuple[float, list[int]]]],
    best_score: Tensor,
    open_studies: Tensor,
    words: Tensor,
    scores: Tensor,
    ends: Tensor,
    end: int,
) -> None:
    """Note each ended beam with its score."""
    rows = ends.nonzero()[:, 0].tolist()  # three transfers from the device, whatever their number
    for row, score, ids in zip(rows, scores[ends].tolist(), words[ends].tolist(), strict=True):
        study = int(open_studies[row])
        if score > float("-inf"):
            best_score[study] = max(score, best_score[study])
            finished[study].append((score, ids[:-1] if ids[-1] == end else ids))


@torch.no_grad()
def sample(
    decoder: StepDecoder,
    encoded: Any,
    *,
    num_studies: int,
    max_words: int = 60,
    temperature: float = 0.0,
    top_p: float = 1.0,
    block_trigrams: bool = False,
    generator: torch.Generator | None = None,
    on_tokens: Callable[[list[int]], None] | None = None,
) -> list[list[int]]:
    """Draw a report word by word, or at temperature 0 take the likeliest word each time (greedy).

    Draws are among the likeliest words that together reach the probability top_p (Holtzman et al.
    2020), by a generator on the CPU. Return word ids without the opening and closing ids, of which
    `on_tokens` gets those of the first study so far after each.
    """
    if temperature < 0:
        raise ValueError(f"temperature must be at least 0, got {temperature}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, got {top_p}")
    state = decoder.start(encoded, 1)
    reports: list[list[int]] = [[] for _ in range(num_studies)]
    open_studies = list(range(num_studies))
    device = decoder.device
    last = torch.full((num_studies,), decoder.begin, device=device)
    words = torch.empty(num_studies, 1, 0, dtype=torch.long, device=device)
    for _ in range(max_words):
        log_probs, state = decoder.step(last, state)  # (b, w)
        if block_trigrams:
            log_probs = _without_repeated_trigrams(log_probs[:, None], words)[:, 0]
        last = _draw(log_probs, temperature, top_p, generator)
        words = torch.cat([words, last[:, None, None]], dim=-1)
        is_open = last != decoder.end
        for study, word, goes_on in zip(open_studies, last.tolist(), is_open.tolist(), strict=True):
            if goes_on:
                reports[study].append(word)
        if on_tokens is not None and open_studies[0] == 0:
            on_tokens(reports[0])
        if not is_open.any():
            break
        rows = is_open.nonzero()  # (studies kept, 1)
        state = state.select(rows)
        last, words = last[is_open], words[is_open]
        open_studies = [open_studies[row] for row in rows[:, 0].tolist()]
    return reports


@torch.no_grad()
def sample_many(
    decoder: StepDecoder,
    encoded: Any,
    *,
    num_studies: int,
    num_samples: int,
    max_words: int = 60,
    temperature: float = 1.0,
    block_trigrams: bool = False,
    seed: int = 0,
) -> list[list[list[int]]]:
    """Draw several reports of each study, all at once.

    Every study is given the same random numbers, so that its reports do not depend on its batch.
    Those of one word are stratified over its samples: each sample by itself is an ordinary one,
    together they differ more.
    """
    k, device = num_samples, decoder.device
    random = torch.Generator().manual_seed(seed)
    state = decoder.start(encoded, k)
    reports: list[list[list[int]]] = [[[] for _ in range(k)] for _ in range(num_studies)]
    open_studies = torch.arange(num_studies, device=device)
    last = torch.full((num_studies * k,), decoder.begin, device=device)
    words = torch.empty(num_studies, k, 0, dtype=torch.long, device=device)
    ended = torch.zeros(num_studies, k, dtype=torch.bool, device=device)
    for step in range(max_words):
        log_probs, state = decoder.step(last, state)  # (b k, w)
        log_probs = log_probs.view(len(open_studies), k, -1)
        if block_trigrams:
            log_probs = _without_repeated_trigrams(log_probs, words)
        strata = torch.randperm(k, generator=random) + torch.rand(k, generator=random)
        drawn = _at_level(log_probs / temperature, (strata / k).to(device))
        drawn = drawn.masked_fill(ended, decoder.end)
        words = torch.cat([words, drawn[..., None]], dim=-1)
        ended = ended | (drawn == decoder.end)
        done = ended.all(dim=1) if step < max_words - 1 else torch.ones_like(ended[:, 0])
        for study, ids in zip(open_studies[done].tolist(), words[done].tolist(), strict=True):
            reports[study] = [list(takewhile(lambda i: i != decoder.end, each)) for each in ids]
        if done.all():
            break
        if done.any():
            keep = ~done
            rows = torch.arange(len(done) * k, device=device).view(-1, k)[keep]
            state, words, ended = state.select(rows), words[keep], ended[keep]
            open_studies, drawn = open_studies[keep], drawn[keep]
        last = drawn.flatten()
    return reports


def _at_level(logits: Tensor, levels: Tensor) -> Tensor:
    """The words at which the cumulated probability passes a level: (b, k, w), (k,) -> (b, k)."""
    cumulated = logits.double().softmax(dim=-1).cumsum(dim=-1)
    found = torch.searchsorted(cumulated, (levels[None, :, None] * cumulated[..., -1:]), right=True)
    return found.squeeze(-1).clamp(max=logits.shape[-1] - 1)


def _draw(
    log_probs: Tensor, temperature: float, top_p: float, generator: torch.Generator | None
) -> Tensor:
    """(b, w) -> (b,)."""
    if temperature == 0:
        return log_probs.argmax(dim=-1)
    probs = (log_probs / temperature).softmax(dim=-1)
    ranked, order = probs.sort(dim=-1, descending=True)
    before = ranked.cumsum(dim=-1) - ranked  # probability of all likelier words
    ranked = ranked.masked_fill(before >= top_p, 0.0)
    # Drawn on the CPU, so that one seed gives one report on every device.
    drawn = torch.multinomial(ranked.cpu(), 1, generator=generator).to(order.device)
    return order.gather(-1, drawn).squeeze(-1)


def _without_repeated_trigrams(log_probs: Tensor, words: Tensor) -> Tensor:
    """Set words that would complete a trigram the beam has to -inf: (b, k, w), (b, k, l)."""
    length = words.shape[-1]
    if length < 3:
        return log_probs
    first, second, third = (words[..., i : length - 2 + i] for i in range(3))
    repeats = (first == words[..., -2:-1]) & (second == words[..., -1:])  # (b, k, l - 2)
    blocked = torch.zeros_like(log_probs, dtype=torch.bool)
    blocked.scatter_reduce_(-1, third, repeats, reduce="amax")
    return log_probs.masked_fill(blocked, float("-inf"))
