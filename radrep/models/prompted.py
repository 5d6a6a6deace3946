"""A language model behind a prompt of visual tokens: what it writes, and what it learns by.

Letters: b studies, p prompt positions, d width of the language model, l report tokens.
"""

import warnings
from abc import abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList

from radrep.data.batch import Batch
from radrep.generation.draws import DrawnTokens
from radrep.models.base import VisionModel, mean_token_loss, without_dropout
from radrep.modules.language_model import LanguageModel


class PromptedModel(VisionModel):
    """The half of a `PolicyModel` behind the vision encoder: encoded studies have features."""

    language: LanguageModel
    language_model: Any
    language_training: str

    @abstractmethod
    def _shown(self, batch: Batch, num_beams: int = 1) -> AbstractContextManager[Tensor]:
        """The prompt of each study, (b, p, d), after which `num_beams` reports are written."""

    def encode_studies(self, batch: Batch) -> Batch:
        """See `PolicyModel`."""
        return replace(batch, images=None, early_maps=None, features=self.features(batch))

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

    def _logits(self, prompt: Tensor, tokens: Tensor) -> Tensor:
        """Logits of each token of reports: prompts (b, p, d), tokens (b, l) -> (b, l, words)."""
        # Without a mask: padding comes last, so no real token sees it.
        inputs = torch.cat([prompt, self._words(tokens[:, :-1])], dim=1)
        # By index and not by number: a slice would have the weights copied for every study.
        first = inputs.shape[1] - tokens.shape[1]
        kept = torch.arange(first, inputs.shape[1], device=inputs.device)
        logits: Tensor = self.language_model(
            inputs_embeds=inputs, use_cache=False, logits_to_keep=kept
        ).logits
        return logits

    def draw(self, encoded: Batch, uniforms: Tensor, temperature: float) -> list[list[int]]:
        """See `PolicyModel`."""
        _, count, length = uniforms.shape
        with torch.no_grad(), without_dropout(self), self._shown(encoded, count) as prompt:
            reports = self._search(
                prompt.repeat_interleave(count, dim=0),
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
            logits = self._logits(prompt.repeat_interleave(count, dim=0), tokens)
        log_probs = F.log_softmax(logits.float() / temperature, dim=-1)
        return log_probs.gather(-1, tokens[..., None]).squeeze(-1)

    def _words(self, tokens: Tensor) -> Tensor:
        words: Tensor = self.language_model.get_input_embeddings()(tokens)
        return words

    def _search(self, prompt: Tensor, settings: Any, *processors: Any) -> list[list[int]]:
        """What the language model writes after prompts (b, p, d), with what follows an end."""
        own = self.language
        settings.update(bos_token_id=own.bos_id, eos_token_id=own.eos_id, pad_token_id=own.pad_id)
        with warnings.catch_warnings():
            # Rightly so: it is the report that should not repeat itself.
            warnings.filterwarnings("ignore", "Passing `repetition_penalty` with `inputs_embeds`")
            reports: Tensor = self.language_model.generate(
                inputs_embeds=prompt,
                attention_mask=torch.ones(prompt.shape[:2], dtype=torch.long, device=prompt.device),
                generation_config=settings,
                logits_processor=LogitsProcessorList(processors),
            )
        return reports.tolist()

    def _until_end(self, tokens: list[int]) -> list[int]:
        end = self.language.eos_id
        return tokens[: tokens.index(end)] if end in tokens else tokens
