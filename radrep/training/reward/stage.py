"""Self-critical training: policy gradient on drawn reports, beside the likelihood.

Source: Rennie et al., "Self-critical Sequence Training for Image Captioning", CVPR 2017, with the
mean reward of a study's other samples as the baseline in place of the greedy report's (Kool et al.,
"Buy 4 REINFORCE Samples, Get a Baseline for Free!", ICLR workshop 2019).
The rewards are computed in radrep/guidance/reward.py.

Letters: b studies, k drawn reports of each, l tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from radrep.data.batch import Batch
from radrep.data.tokenizer import ReportCodec
from radrep.guidance.reward import Rewards, RewardScorer, leave_one_out
from radrep.guidance.token_credit import credit_tokens
from radrep.metrics.protocol import scored_predictions
from radrep.models.base import PolicyModel


@dataclass(frozen=True)
class RewardOptions:
    """How reports are drawn, and what is learned from them."""

    samples: int = 5
    temperature: float = 1.0
    max_new_tokens: int = 60
    credit: Literal["sentences", "report"] = "sentences"
    anchor: float = 0.2


class RewardStage(nn.Module):
    """Around a model: its call gives the loss of a batch and the mean rewards."""

    def __init__(
        self, model: PolicyModel, codec: ReportCodec, scorer: RewardScorer, options: RewardOptions
    ) -> None:
        super().__init__()
        self.model = model
        self._decode: Callable[[Sequence[int]], str] = codec.decode
        self._scorer, self._options = scorer, options

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss and the means of reward, its parts and the drawn reports' tokens.

        The policy gradient of each study's expected reward, plus `anchor` times the likelihood.
        The first is divided by the number of the likelihood's terms, which is known before
        anything is drawn: a mean over the tokens drawn would favour long reports.
        """
        options, model = self._options, self.model
        encoded = model.encode_studies(batch)
        uniforms = _uniforms(batch.seeds, options.samples, options.max_new_tokens)
        drawn = model.draw(encoded, uniforms, options.temperature)
        # What autocast keeps of the weights has no gradients after draws without them.
        torch.clear_autocast_cache()
        rewards, advantages = self._judge(batch.ids, drawn)
        device = batch.device
        tokens = _padded([torch.tensor(ids) for ids in drawn]).to(device)
        weights = _padded([torch.from_numpy(each) for each in advantages]).to(device)
        log_probs = model.log_probs(encoded, tokens, options.temperature)
        gain = (log_probs * weights).sum() / options.samples
        loss = -gain / model.num_loss_terms(batch)
        if options.anchor:
            loss = loss + options.anchor * model.likelihood(encoded, batch)
        means = {
            "reward": self._total(rewards),
            "reward_cider": rewards.cider,
            "reward_rouge": rewards.rouge,
            "reward_labels": rewards.labels,
            "drawn_tokens": np.array([len(ids) for ids in drawn], np.float64),
        }
        logged = {name: torch.tensor(float(each.mean())) for name, each in means.items()}
        return {"loss": loss, **logged}

    def _judge(
        self, ids: Sequence[str], drawn: Sequence[Sequence[int]]
    ) -> tuple[Rewards, list[np.ndarray]]:
        """Rewards, and the advantage of every token of every drawn report, (l,) each."""
        written = [self._decode(own) for own in drawn]
        rewards = self._scorer.score(ids, written, scored_predictions(written))
        weights = self._scorer.weights
        of_words = leave_one_out(weights.cider * rewards.cider + weights.rouge * rewards.rouge)
        of_labels = leave_one_out(weights.labels * rewards.labels)
        advantages = []
        for i, (own, words, labels) in enumerate(
            zip(drawn, of_words.ravel(), of_labels.ravel(), strict=True)
        ):
            owed = np.ones(len(own), bool)
            if self._options.credit == "sentences" and labels != 0:
                reference = self._scorer.abnormal[ids[i // self._options.samples]]
                value = partial(self._scorer.label_f1, reference)
                owed = credit_tokens(
                    self._decode, own, rewards.findings[i], value, better=labels > 0
                )
            advantages.append((words + labels * owed).astype(np.float32))
        return rewards, advantages

    def _total(self, rewards: Rewards) -> np.ndarray:
        weights = self._scorer.weights
        total: np.ndarray = (
            weights.cider * rewards.cider
            + weights.rouge * rewards.rouge
            + weights.labels * rewards.labels
        )
        return total


def _uniforms(seeds: Sequence[int], samples: int, length: int) -> Tensor:
    """Numbers that decide the drawn reports of studies, by a seed of each: (b, k, l).

    Drawn on the CPU and for each study apart: the same on every device, and in any batch.
    """
    return torch.stack(
        [torch.rand(samples, length, generator=torch.Generator().manual_seed(s)) for s in seeds]
    )


def _padded(rows: Sequence[Tensor]) -> Tensor:
    return nn.utils.rnn.pad_sequence([*rows], batch_first=True)
