"""EMRRG and MambaXray-VL: a vision encoder writes reports through a language model.

Source: MambaXray-VL (arXiv 2410.00379) and EMRRG (arXiv 2510.16776). On purpose unlike the released
code: reports end with the tokenizer's own end token, the loss takes tokens by length and not by id.

Letters: b studies, v views of all studies, n encoder tokens of a view, c encoder width, m visual
tokens in the sequence, d width of the language model, p prompt positions, l report tokens.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from radrep.data.batch import Batch
from radrep.device import without_autocast
from radrep.generation.contract import DecodeOptions
from radrep.generation.draws import SeenTokens
from radrep.guidance.image_features import summarize_maps
from radrep.guidance.label_tokens import LabelTokens
from radrep.models.prompted import Part, Prompt, PromptedModel
from radrep.models.xray_mamba import XrayMamba, average_views
from radrep.modules.hybrid_decoder import VisualCrossAttention, add_hybrid_layers
from radrep.modules.language_model import Float32Weights, LanguageModel, language_part
from radrep.modules.low_rank import LowRankUpdate

IMAGE = "{image}"  # where visual tokens stand in a prompt
PROMPT = (  # as published
    f"Human: <Img>{IMAGE}</Img> Generate a comprehensive and detailed diagnosis report for this "
    "chest xray image. \nAssistant:"
)
GPUS = ("cuda", "xpu")  # their memory may not hold a language model in float32
EncoderTraining = Literal["frozen", "adapters", "trained"]
LanguageTraining = Literal["frozen", "lora", "trained"]
VisualTokens = Literal["all", "pooled"]
ProjectorScale = Literal["unit", "words"]


class Emrrg(PromptedModel):
    """The whole model: vision encoder, projector and language model.

    Batches have as tokens the report's ids and the end id, from `LanguageModel.encode_report`.

    Args:
        language: Becomes a part of this model. Its weights may have half precision; what is trained
            is float32.
        encoder_training: "adapters" are the encoder's low-rank updates alone.
        language_training: "lora" is of queries and values, scaled by alpha over rank.
        visual_tokens: In the sequence: "all" tokens of the encoder, or "pooled", the averages of
            2 x 2 patches without the class token.
        hybrid_every: Every n-th layer of the language model attends to all tokens of the encoder;
            0 for none, published is 8.
        gradient_checkpointing: Layers of the language model compute their activations again in the
            backward pass instead of keeping them.
        label_tokens: Behind the visual tokens in the sequence; not published.
        prior_images: Visual tokens of prior studies follow, with one embedding; not published.
        prompt: Has `IMAGE` once.
        projector_scale: Root mean square of visual tokens at the start: "unit" is 1, as published,
            "words" that of embedded words: .14 in SmolLM2, .02 in a new model.
    """

    def __init__(
        self,
        *,
        encoder: XrayMamba,
        language: LanguageModel,
        encoder_training: EncoderTraining = "trained",
        language_training: LanguageTraining = "frozen",
        visual_tokens: VisualTokens = "all",
        hybrid_every: int = 0,
        gradient_checkpointing: bool = False,
        lora_rank: int = 16,
        lora_alpha: int = 16,
        lora_dropout: float = 0.1,
        label_tokens: LabelTokens | None = None,
        prompt: str = PROMPT,
        projector_scale: ProjectorScale = "unit",
        prior_images: bool = False,
    ) -> None:
        super().__init__()
        _one_of("encoder_training", encoder_training, get_args(EncoderTraining))
        _one_of("language_training", language_training, get_args(LanguageTraining))
        _one_of("visual_tokens", visual_tokens, get_args(VisualTokens))
        _one_of("projector_scale", projector_scale, get_args(ProjectorScale))
        self.encoder = encoder
        self.language = language
        self.language_model: Any = language.model
        self.encoder_training = encoder_training
        self.language_training = language_training
        self.visual_tokens = visual_tokens
        self.label_tokens = label_tokens
        dim: int = self.language_model.config.hidden_size
        norm = nn.LayerNorm(dim)
        self.projector = nn.Sequential(nn.Linear(encoder.dim, dim), norm)
        words: Any = self.language_model.get_input_embeddings().weight
        if projector_scale == "words" and not words.is_meta:
            nn.init.constant_(norm.weight, float(words.float().square().mean().sqrt()))
        self.earlier = (
            nn.Parameter(norm.weight.detach() * torch.randn(dim)) if prior_images else None
        )
        self._context = (
            add_hybrid_layers(self.language_model, hybrid_every) if hybrid_every else None
        )
        # That of a model without hybrid layers: transformers has a setter, and no getter.
        self._attention = (
            None if hybrid_every else self.language_model.get_correct_attn_implementation(None)
        )
        self._checkpointed: list[nn.Module] = []
        self._float32 = Float32Weights()
        if language_training == "lora":
            # Takes seconds to import, and most models need none.
            from peft import LoraConfig, inject_adapter_in_model

            config = LoraConfig(
                r=lora_rank,
                lora_alpha=lora_alpha,
                lora_dropout=lora_dropout,
                target_modules=["q_proj", "v_proj"],
            )
            inject_adapter_in_model(config, self.language_model)
        if gradient_checkpointing:
            self.language_model.activation_checkpointing_enable(
                {"use_reentrant": False, "context_fn": self._computed_again}
            )
            layers = self.language_model.modules()
            self._checkpointed = [x for x in layers if isinstance(x, GradientCheckpointingLayer)]
        bos = [] if language.bos_id is None else [language.bos_id]
        if prompt.count(IMAGE) != 1:
            raise ValueError(f"prompt must have {IMAGE} once, got {prompt!r}")
        first, second = map(language.encode, prompt.split(IMAGE))
        self._before: Tensor
        self._after: Tensor
        self.register_buffer("_before", _ids([*bos, *first]), persistent=False)
        self.register_buffer("_after", _ids(second), persistent=False)
        self._freeze()
        self.train()

    def _freeze(self) -> None:
        self.encoder.requires_grad_(self.encoder_training == "trained")
        if self.encoder_training == "adapters":
            updates = [part for part in self.encoder.modules() if isinstance(part, LowRankUpdate)]
            if not updates:
                raise ValueError("encoder_training is 'adapters', but the encoder has none")
            for update in updates:
                update.requires_grad_(True)
        self.language_model.requires_grad_(self.language_training == "trained")
        for name, parameter in self.language_model.named_parameters():
            if language_part(name) != "language model":
                parameter.requires_grad_(True)
            if parameter.requires_grad:
                parameter.data = parameter.data.float()

    def train(self, mode: bool = True) -> "Emrrg":
        """Training or evaluation mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        if mode:
            self._float32.set(self, False)
        if self.encoder_training == "frozen":
            self.encoder.eval()
        if self.language_training == "frozen":
            self.language_model.eval()
            for part in self.language_model.modules():
                if isinstance(part, VisualCrossAttention):
                    part.train(mode)
        for layer in self._checkpointed:  # only layers in training mode are
            layer.training = mode
        # On CPUs the fused attention has the faster forward, but a backward as long as all the rest
        # of a layer. Models that come with another one, such as hybrid layers, need it.
        if self._attention == "sdpa":
            eager = mode and not torch.accelerator.is_available()
            self.language_model.set_attn_implementation("eager" if eager else "sdpa")
        return self

    def _computed_again(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Contexts of a layer's forward and of its recomputation, which follows after `_shown`."""
        seen = self._context and self._context.seen
        return self._layer_context(seen), self._layer_context(seen)

    @contextmanager
    def _layer_context(self, seen: Any) -> Iterator[None]:
        for layer in self._checkpointed:
            layer.training = self.language_training != "frozen"
        try:
            with self._context.again(seen) if self._context else nullcontext():
                yield
        finally:  # a recomputation ends with an exception, when it has all that it needs
            for layer in self._checkpointed:
                layer.training = True

    def frozen_encoder(self) -> nn.Module | None:
        """The vision encoder, if it is frozen."""
        return self.encoder if self.encoder_training == "frozen" else None

    def checkpoint_state(self) -> dict[str, Tensor]:
        """All but the frozen weights of the language model."""
        own = {
            name
            for name, parameter in self.named_parameters()  # shared ones under one name
            if parameter.requires_grad or not name.startswith("language_model.")
        }
        return {
            name: tensor
            for name, tensor in self.state_dict().items()
            if name in own or not name.startswith("language_model.")
        }

    def features(self, batch: Batch) -> Tensor:
        """The encoder's tokens; a frozen one keeps to its own precision, as when cached."""
        frozen = self.encoder_training == "frozen"
        with without_autocast(batch.device) if frozen else nullcontext():
            return super().features(batch)

    def encode_images(self, batch: Batch, decode: DecodeOptions) -> Batch:
        """See `ReportModel`."""
        with self._precision(decode.float32_weights):
            batch = super().encode_images(batch, decode)
        if self.label_tokens is None:
            return batch
        return replace(batch, label_buckets=self.label_tokens.read(batch, self.summaries))

    def summaries(self, batch: Batch) -> Tensor:
        """Statistics of the maps of the vision encoder."""
        return summarize_maps(self._maps(self.features(batch))).flatten(1)

    def encode(self, batch: Batch) -> Tensor:
        """The encoder's tokens, averaged over the views of a study: (b, n, c)."""
        return average_views(self.features(batch), batch.num_views)

    def num_loss_terms(self, batch: Batch) -> int:
        """Real tokens of the reports, the end included."""
        assert batch.lengths is not None, "a batch to learn from has lengths"
        return int(batch.lengths.sum())

    def write(
        self, batch: Batch, decode: DecodeOptions, generator: torch.Generator | None = None
    ) -> list[list[int]]:
        """See `generate`; nothing is drawn, so the generator is not read."""
        beams = decode.beam_size if decode.method == "beam" else 1
        return self.generate(batch, num_beams=beams, **_limits(decode))

    def write_candidates(
        self, batch: Batch, decode: DecodeOptions, seed: int = 0
    ) -> list[list[list[int]]]:
        """Beams, and samples of each study alone: transformers' draws depend on the batch."""
        k, limits = decode.beam_size, _limits(decode)
        batch = self.encode_images(batch, decode)
        found = self.generate(batch, num_beams=k, num_returned=k, **limits)
        candidates = [found[start : start + k] for start in range(0, len(found), k)]
        drawn: dict[str, Any] = {
            "num_returned": decode.num_samples,
            "temperature": decode.temperature,
        }
        for i, (own, features) in enumerate(zip(candidates, self.encode(batch), strict=True)):
            one_view = torch.ones(1, dtype=torch.long)
            alone = replace(batch.study(i), features=features[None], num_views=one_view)
            if decode.num_samples:
                with torch.random.fork_rng():
                    torch.manual_seed(seed)
                    own += self.generate(alone, num_beams=1, **drawn, **limits)
        return candidates

    def attention(self, batch: Batch, ids: list[int]) -> None:
        """None: a language model attends to no map of patches."""

    @contextmanager
    def _shown(self, batch: Batch, num_beams: int = 1) -> Iterator[Prompt]:
        """The prompt around visual tokens, seen by hybrid layers too, labels and context."""
        features = self.features(batch)
        tokens = average_views(features, batch.num_views)
        added = visual = self.projector(inline := self._inline(tokens))
        if self.label_tokens is not None:
            labels = self.label_tokens(replace(batch, features=features), self.summaries)
            added = torch.cat([visual, labels.to(visual.dtype)], dim=1)
        prompt = self._prompt(images := self._image_parts(added, batch), batch)
        if self._context is None:
            yield prompt
            return
        real = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        seen = visual if inline is tokens else self.projector(tokens)
        self._context.set(seen, real, prompt.text_around(images, len(self._before)), num_beams)
        try:
            yield prompt
        finally:
            self._context.reset()

    def _inline(self, tokens: Tensor) -> Tensor:
        """Those of an image's tokens that stand in the sequence: (b, n, c) -> (b, m, c)."""
        return tokens if self.visual_tokens == "all" else self._pooled(tokens)

    def _pooled(self, tokens: Tensor) -> Tensor:
        """Average 2 x 2 patches, fewer at the edge of an odd grid: (b, n, c) -> (b, m, c)."""
        maps = self._maps(tokens).permute(0, 3, 1, 2)  # (b, c, rows, columns)
        return F.avg_pool2d(maps, 2, ceil_mode=True).flatten(2).transpose(1, 2)

    def _maps(self, tokens: Tensor) -> Tensor:
        """Patches without the class token: (b, n, c) -> (b, rows, columns, c)."""
        index = self.encoder.class_index
        if index is not None:
            tokens = torch.cat([tokens[:, :index], tokens[:, index + 1 :]], dim=1)
        return tokens.unflatten(1, self.encoder.grid)

    def _prompt(self, images: list[Part], batch: Batch) -> Prompt:
        """Around `_image_parts` and the texts of the studies."""
        words = self._words(torch.cat([self._before, self._after]).expand(len(batch.ids), -1))
        before, after = words.split([len(self._before), len(self._after)], dim=1)
        parts: list[Part] = [(before, None), *images, (after, None)]
        if batch.context is not None and batch.context_kinds is not None:
            parts.insert(-1, (self._words(batch.context), batch.context_kinds > 0))
        return Prompt.join([(part.to(words.dtype), real) for part, real in parts])

    def _image_parts(self, own: Tensor, batch: Batch) -> list[Part]:
        """Visual tokens of the study itself, (b, m, d), and of the one before it."""
        parts: list[Part] = [(own, None)]
        if self.earlier is not None and batch.prior is None:  # gradients in all processes
            parts.append((self.earlier.expand(len(batch.ids), 0, -1), None))
        elif self.earlier is not None and batch.prior is not None:
            views = batch.prior.num_views
            places = views.nonzero()[:, 0]
            tokens = average_views(self.features(batch.prior), views[places])
            found = self.projector(self._inline(tokens)) + self.earlier
            places, given = (x.to(found.device, non_blocking=True) for x in (places, views > 0))
            whole = found.new_zeros(len(views), *found.shape[1:]).index_copy(0, places, found)
            parts.append((whole, given[:, None].expand(whole.shape[:2])))
        return parts

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Mean negative log-likelihood of the real report tokens, ends included, as "loss"."""
        self._float32.set(self, False)
        return {"loss": self.likelihood(self.encode_studies(batch), batch)}

    @torch.no_grad()
    def generate(
        self,
        batch: Batch,
        *,
        num_beams: int = 3,
        num_returned: int = 1,
        min_new_tokens: int = 0,
        max_new_tokens: int = 100,
        repetition_penalty: float = 1.0,
        length_penalty: float = 1.0,
        temperature: float | None = None,
        in_float32: bool | None = True,
        on_tokens: Callable[[list[int]], None] | None = None,
    ) -> list[list[int]]:
        """Token ids of each study's report, without its end, by beam search; 1 beam is greedy.

        With `num_returned` those of so many beams, the best first, study after study; with a
        temperature so many reports are drawn.

        In half precision the rounding of a product depends on the rows beside it, and penalties
        and beams amplify it: only in float32 is a study's report the same in a batch of any size.
        So weights take 4 bytes each until training or `loss` goes on, with in_float32 None except
        on GPUs, where a 7B would take 27 GB; there it computes in their precision.
        """
        settings = GenerationConfig(
            do_sample=temperature is not None,
            temperature=temperature,
            top_k=0 if temperature is not None else None,
            num_beams=num_beams,
            num_return_sequences=num_returned,
            min_new_tokens=min_new_tokens,
            max_new_tokens=max_new_tokens,
            repetition_penalty=repetition_penalty,
            length_penalty=length_penalty if num_beams > 1 else None,
        )
        num_rows = max(num_beams, num_returned)
        with self._precision(in_float32), self._shown(batch, num_rows) as prompt:
            seen = [SeenTokens(on_tokens)] if on_tokens else []
            return [self._until_end(report) for report in self._search(prompt, settings, *seen)]

    def _precision(self, in_float32: bool | None) -> AbstractContextManager[object]:
        device, auto = self._before.device.type, in_float32 is None
        dtype = self.language_model.dtype
        on = device not in GPUS or dtype == torch.float32 if auto else bool(in_float32)
        self._float32.set(self, on)
        if on:
            return torch.autocast(device, enabled=False)
        return torch.autocast(device, dtype=dtype) if auto else nullcontext()


def _ids(numbers: list[int]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.long)  # of an empty list it would be float


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _limits(decode: DecodeOptions) -> dict[str, Any]:
    names = ("min_new_tokens", "max_new_tokens", "repetition_penalty", "length_penalty")
    found = {name: getattr(decode, name) for name in (*names, "on_tokens")}
    return found | {"in_float32": decode.float32_weights}
