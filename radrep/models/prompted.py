"""A language model behind a prompt of visual tokens: what it writes, and what it learns by.

Letters: b studies, p prompt positions, d width of the language model, l report tokens.
"""

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList

from radrep.data.batch import Batch
from radrep.generation.draws import DrawnTokens
from radrep.models.base import VisionModel, mean_token_loss, without_dropout
from radrep.modules.language_model import LanguageModel

Part = tuple[Tensor, Tensor | None]  # of prompts: (b, k, d), and which is real, (b, k); None: all


@dataclass(frozen=True)
class Prompt:
    """Prompts of several studies, some positions of which may be padding."""

    embedded: Tensor  # (b, p, d)
    real: Tensor | None = None  # bool (b, p); None: all

    @classmethod
    def join(cls, parts: Sequence[Part]) -> "Prompt":
        """Parts in their order."""
        embedded = torch.cat([part for part, _ in parts], dim=1)
        if all(real is None for _, real in parts):
            return cls(embedded)
        every = [
            part.new_ones(part.shape[:2], dtype=torch.bool) if real is None else real
            for part, real in parts
        ]
        return cls(embedded, torch.cat(every, dim=1))

    def text_around(self, images: Sequence[Part], start: int) -> Tensor:
        """Whether a position has text, (b, p), where parts from `start` on are of images.

        Positions count what is real: where an image is missing, the text behind it has its places.
        """
        text = self.embedded.new_ones(self.embedded.shape[:2], dtype=torch.bool)
        for part, real in images:
            end = start + part.shape[1]
            text[:, start:end] = False if real is None else ~real
            start = end
        return text

    def repeat(self, count: int) -> "Prompt":
        """Each so many times, side by side."""
        real = None if self.real is None else self.real.repeat_interleave(count, dim=0)
        return Prompt(self.embedded.repeat_interleave(count, dim=0), real)


class PromptedModel(VisionModel):
    """The half of a `PolicyModel` behind the vision encoder: encoded studies have features."""

    language: LanguageModel
    language_model: Any
    language_training: str

    @abstractmethod
    def _shown(self, batch: Batch, num_beams: int = 1) -> AbstractContextManager[Prompt]:
        """The prompt of each study, after which `num_beams` reports are written."""

    def encode_studies(self, batch: Batch) -> Batch:
        """See `PolicyModel`."""
        return self.with_features(batch)

    def likelihood(self, encoded: Batch, batch: Batch) -> Tensor:
        """See `PolicyModel`."""
        tokens, weights = batch.tokens, batch.token_weights
        assert tokens is not None, "a batch to learn from has tokens"
        assert batch.lengths is not None, "a batch to learn from has lengths"
        with self._shown(encoded) as prompt:
            logits = self._logits(prompt, tokens)
        # By length and not by id: a tokenizer may pad with the end token.
        real = torch.arange(tokens.shape[1], device=logits.device) < batch.lengths[:, None]
        scores = logits.float().flatten(0, 1)
        losses = F.cross_entropy(scores, tokens.flatten(), reduction="none").view_as(real)
        return mean_token_loss(losses, real, weights)

    def _logits(self, prompt: Prompt, tokens: Tensor) -> Tensor:
        """Logits of each token of reports after b prompts: (b, l) -> (b, l, words)."""
        # Padding behind a report needs no mask: no real token sees it.
        inputs = torch.cat([prompt.embedded, self._words(tokens[:, :-1])], dim=1)
        padded: dict[str, Tensor] = {}
        if prompt.real is not None:
            real = F.pad(prompt.real, (0, tokens.shape[1] - 1), value=True)
            padded = {"attention_mask": real.long(), "position_ids": positions(real)}
        # By index and not by number: a slice would have the weights copied for every study.
        first = inputs.shape[1] - tokens.shape[1]
        kept = torch.arange(first, inputs.shape[1], device=inputs.device)
        logits: Tensor = self.language_model(
            inputs_embeds=inputs, use_cache=False, logits_to_keep=kept, **padded
        ).logits
        return logits

    def draw(self, encoded: Batch, uniforms: Tensor, temperature: float) -> list[list[int]]:
        """See `PolicyModel`."""
        _, count, length = uniforms.shape
        with torch.no_grad(), without_dropout(self), self._shown(encoded, count) as prompt:
            reports = self._search(
                prompt.repeat(count),
                GenerationConfig(do_sample=False, max_new_tokens=length),
                DrawnTokens(uniforms.flatten(0, 1), temperature),
            )
        end = self.language.eos_id
        return [[*own, end][:length] for own in map(self._until_end, reports)]

    def log_probs(self, encoded: Batch, tokens: Tensor, temperature: float) -> Tensor:
        """See `PolicyModel`."""
        count = len(tokens) // len(encoded.ids)
        # A frozen one has no dropout, and checkpointed layers that stay in training mode.
        mode = nullcontext if self.language_training == "frozen" else without_dropout
        with self._shown(encoded, count) as prompt, mode(self.language_model):
            logits = self._logits(prompt.repeat(count), tokens)
        log_probs = F.log_softmax(logits.float() / temperature, dim=-1)
        return log_probs.gather(-1, tokens[..., None]).squeeze(-1)

    def _words(self, tokens: Tensor) -> Tensor:
        words: Tensor = self.language_model.get_input_embeddings()(tokens)
        return words

    def _search(self, prompt: Prompt, settings: Any, *processors: Any) -> list[list[int]]:
        """What the language model writes after prompts, with what follows an end."""
        own, real = self.language, prompt.real
        if real is None:
            real = prompt.embedded.new_ones(prompt.embedded.shape[:2], dtype=torch.bool)
        settings.update(bos_token_id=own.bos_id, eos_token_id=own.eos_id, pad_token_id=own.pad_id)
        with warnings.catch_warnings():
            # Rightly so: it is the report that should not repeat itself.
            warnings.filterwarnings("ignore", "Passing `repetition_penalty` with `inputs_embeds`")
            reports: Tensor = self.language_model.generate(
                inputs_embeds=prompt.embedded,
                attention_mask=real.long(),
                generation_config=settings,
                logits_processor=LogitsProcessorList(processors),
            )
        return reports.tolist()

    def _until_end(self, tokens: list[int]) -> list[int]:
        end = self.language.eos_id
        return tokens[: tokens.index(end)] if end in tokens else tokens


def positions(real: Tensor) -> Tensor:
    """The place of each real token among those of its row, as transformers counts: (b, p)."""
    return (real.long().cumsum(dim=1) - 1).clamp(min=0)
