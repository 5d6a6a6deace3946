"""Recipe sections `optim`, `train`, `parallel` and `decode`."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from radrep.metrics.labeler.vocabulary import ABNORMAL
from radrep.recipe.section import (
    Count,
    Folder,
    Fraction,
    NotNegative,
    Number,
    Positive,
    Repeats,
    Rule,
    Section,
    Seed,
    Size,
    Whole,
)

Share = Annotated[Number, Field(gt=0, le=1)]


class Optim(Section):
    """Adam or AdamW with two learning rates, linear warm-up, then a cosine down to min_lr.

    Models differ in nearly all of these, so a recipe writes them down.
    """

    name: Literal["adam", "adamw"]  # adamw decays matrices alone, apart from the gradient
    lr: Positive
    encoder_lr: Positive  # extractor and enhancer, or the X-ray Mamba
    betas: Annotated[tuple[Fraction, Fraction], Field(strict=False)]
    eps: Positive
    weight_decay: NotNegative
    amsgrad: bool
    warmup_steps: Whole = 0
    min_lr: NotNegative
    clip_norm: Positive | None = None  # null clips nothing


class Reward(Section):
    """Self-critical training: a model draws reports and learns by their rewards.

    The reward is the weighted sum of CIDEr-D, ROUGE-L and the F1 of abnormal findings, of which
    rare ones weigh up to 3 times as much.
    """

    samples: Annotated[int, Field(ge=2, le=1_000)] = (
        5  # a study; each is compared with the mean of the rest
    )
    temperature: Positive = 1.0
    cider: NotNegative = 0.1  # CIDEr-D reaches 10
    rouge: NotNegative = 0.5
    labels: NotNegative = 1.0
    both_empty: Annotated[Number, Field(ge=0, le=1)] = 0.3  # F1 of two reports without a finding
    # sentences: what labels earn goes to the tokens of the sentences that earned it
    credit: Literal["sentences", "report"] = "sentences"
    anchor: NotNegative = 0.2  # weight of the likelihood's loss


class Train(Section):
    """The training loop: how long, how much at once, what is kept."""

    epochs: Count
    batch_size: Count  # studies per device
    grad_accum_steps: Count = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    # fp32 products and convolutions on CUDA with 10-bit mantissas: two to three times as fast
    tf32: bool = False
    # On CUDA the same bits again; the scan is then not mamba-ssm's, whose sums change their order.
    # On CPUs runs repeat to the bit anyway.
    deterministic: bool = False
    seed: Seed = 0
    monitor: str = "val/loss"  # its best checkpoint is the run's best
    patience: Count | None = None  # epochs without a better one; null never stops early
    save_every_steps: Count | None = None  # besides the end of every epoch
    # Copied to the CPU's memory and written from there while the next steps are taken
    async_checkpoints: bool = False
    log_every: Count = 10  # steps
    logger: Literal["none", "tensorboard", "wandb"] = "none"
    start_from: Folder | None = None  # a run of the same model and words, whose weights it takes
    reward: Reward | None = None  # needs start_from; null learns by likelihood alone
    finding_weight: Positive = 1.0  # of the tokens of sentences that name something abnormal
    repeat_abnormal: Repeats = 1  # times an epoch for studies with an abnormal finding

    def rules(self) -> Iterable[Rule]:
        """A checkpoint is never chosen by the test split."""
        text = f"must be a val/ metric, got '{self.monitor}': a checkpoint chosen by a test score "
        text += "makes that score worthless"
        yield self.monitor.startswith("test/"), "train.monitor", text
        text = "must name the run to start from, for example runs/csr_lmca_iu_cpu: rewards teach "
        text += "a model nothing that cannot write yet"
        yield self.reward is not None and self.start_from is None, "train.start_from", text


def _refuse_deepspeed(value: object) -> object:
    if value == "deepspeed":
        raise ValueError("DeepSpeed is not built: one engine for sharding is enough; use fsdp")
    return value


class Parallel(Section):
    """How several processes train one model; how many there are is the launcher's business."""

    # ddp: each has all of it; fsdp: each has its part of every layer, and gathers layer by layer
    data: Annotated[Literal["ddp", "fsdp"], BeforeValidator(_refuse_deepspeed)] = "ddp"
    shard: Literal["full", "hybrid"] = "full"  # over all devices, or inside each machine; fsdp only
    cpu_offload: bool = False  # keep the parts in the CPU's memory; fsdp only
    activation_checkpointing: bool = False  # blocks compute activations again in the backward pass
    compile: bool = False  # torch.compile, block by block


_LONG = {
    "method": "beam", "beam_size": 3, "min_new_tokens": 80, "max_new_tokens": 120,
    "repetition_penalty": 2.0, "length_penalty": 2.0,
}  # fmt: skip
# MambaXray-VL and EMRRG as published; the minimum and the penalties make short reports longer.
DECODE_PRESETS: Mapping[str, dict[str, Any]] = {
    "mambaxray_iu": {**_LONG, "beam_size": 5, "min_new_tokens": 40, "max_new_tokens": 100},
    "mambaxray_mimic": _LONG,
    "mambaxray_chexpert_plus": _LONG,
}


class Select(Section):
    """Expected-utility selection: what the utility of a training report is made of."""

    # Candidates, the most frequent training reports; generate and eval may take fewer of them.
    pool: Count = 300
    rouge: NotNegative = 5.0  # weight of ROUGE-L beside CIDEr-D
    labels: NotNegative = 5.0  # weight of the F1 of the 13 abnormal findings beside it
    # Weight of the film's grey-level statistics (histogram, spectra) beside the encoder's maps, of
    # weight 1, in what the utility is predicted from; settled in training.
    film: NotNegative = 0.5


class Edit(Section):
    """Sentence editing: reports name what is predicted present and leave out what is not.

    An observation is present where its probability exceeds a threshold, by default that of the
    greatest F score in training, out of fold.
    """

    beta: Positive = 0.5  # of the F score: below 1 for precision, above 1 for recall
    min_precision: Fraction = 0.3  # observations whose calls are right less often are left alone
    # An operating point in place of them: 0.8, or {Cardiomegaly: 0.8}
    sensitivity: Share | dict[str, Share] | None = None
    thresholds: dict[str, Share] = {}  # of the probability, such as {Pleural Effusion: 0.3}

    def rules(self) -> Iterable[Rule]:
        """Observations are the fourteen but No Finding."""
        named = self.sensitivity if isinstance(self.sensitivity, dict) else {}
        for key, names in (("sensitivity", named), ("thresholds", self.thresholds)):
            unknown = [name for name in names if name not in ABNORMAL]
            text = f"must name one of {', '.join(ABNORMAL)}; got {', '.join(unknown)}"
            yield bool(unknown), f"decode.edit.{key}", text


class Consensus(Section):
    """Consensus: of beams, samples and training reports the one with the highest expected utility.

    The utility is that of `decode.select`, and is predicted from the images.
    """

    samples: Annotated[int, Field(ge=0, le=1_000)] = 4  # drawn by the decoder
    temperature: Positive = 0.7  # of these samples
    selections: Whole = 10  # training reports of highest predicted utility
    others: NotNegative = 0.1  # weight of the mean utility against the other candidates
    labels: NotNegative = 5.0  # weight of the agreement with the predicted findings


class Decode(Section):
    """How reports are generated, in validation, eval and generate alike."""

    preset: Literal["mambaxray_iu", "mambaxray_mimic", "mambaxray_chexpert_plus"] | None = None
    # select: a training report, by features of the model's encoder; consensus: the best of several
    # candidates; with both validation decodes by beam
    method: Literal["beam", "greedy", "sample", "select", "consensus"] = "beam"
    beam_size: Repeats = 3  # methods beam and consensus
    length_penalty: NotNegative = 0.0  # likewise; 0 as published, 1 the mean over tokens
    max_new_tokens: Size = 60
    min_new_tokens: Whole = 0  # emrrg only
    repetition_penalty: Positive = 1.0  # emrrg only
    top_p: Annotated[Number, Field(gt=0, le=1)] = 1.0  # method sample only
    temperature: Positive = 1.0  # method sample only
    block_trigrams: bool = False
    select: Select | None = Select()  # fitted at the end of training; null: not at all
    consensus: Consensus = Consensus()
    edit: Edit | None = None  # null: reports stay as they are decoded or selected
    batch_size: Count = 16
    # fp32: a report does not depend on its batch (a language model's weights take 4 bytes each
    # meanwhile); train: as train.precision, in which it may; auto: fp32, but on GPUs a language
    # model keeps the precision of its weights.
    precision: Literal["auto", "fp32", "train"] = "auto"

    def rules(self) -> Iterable[Rule]:
        """Selection and consensus have a utility, and candidates."""
        needed, text = (
            self.method in ("select", "consensus"),
            "must not be null for decode.method: ",
        )
        yield needed and self.select is None, "decode.select", text + self.method
        most = self.select.pool if self.select is not None else 0
        text = f"must be at most decode.select.pool ({most}), got {self.consensus.selections}"
        many = self.method == "consensus" and self.consensus.selections > most > 0
        yield many, "decode.consensus.selections", text

    @property
    def by_decoder(self) -> "Decode":
        """How the decoder writes, also where reports are selected, compared or edited."""
        method = "beam" if self.method in ("select", "consensus") else self.method
        consensus = self.method == "consensus"
        temperature = self.consensus.temperature if consensus else self.temperature
        update = {"method": method, "edit": None, "temperature": temperature}
        return self.model_copy(update=update)

    @property
    def guided(self) -> bool:
        """Whether selection or editing is fitted at the end of training."""
        return self.select is not None or self.edit is not None

    @property
    def num_samples(self) -> int:
        """Samples that the decoder draws beside its beams."""
        return self.consensus.samples if self.method == "consensus" else 0

    @property
    def made(self) -> str:
        """How a report was made, in words."""
        edited = ", sentences edited by predicted findings" if self.edit is not None else ""
        if self.method == "select" and self.select is not None:
            return f"selected from {self.select.pool} training reports{edited}"
        if self.method == "consensus":
            pool, beams = self.consensus, f"{self.beam_size} beams"
            samples = f", {pool.samples} samples" if pool.samples else ""
            selected = f" and {pool.selections} training reports" if pool.selections else ""
            return f"chosen by consensus of {beams}{samples}{selected}{edited}"
        by = {"beam": f"beam search, {self.beam_size} beams", "greedy": "greedy search"}
        return f"decoded by {by.get(self.method, 'sampling')}{edited}"

    @model_validator(mode="before")
    @classmethod
    def _fill_in_the_preset(cls, written: Any) -> Any:
        if isinstance(written, Mapping):
            return {**DECODE_PRESETS.get(str(written.get("preset")), {}), **written}
        return written
