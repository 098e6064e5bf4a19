"""Configurations of the editing experiment, as frozen dataclasses."""

from __future__ import annotations

import dataclasses

from experiments import common
from modmeta.metanet.learning.prediction import PredictionConfig
from modmeta.metanet.models.gmn import MetanetConfig
from modmeta.metanet.models.options import POOLINGS
from modmeta.metanet.zoo.image_fields import FieldZooConfig

EDITS = ("dilate", "contrast", "none")
EDITORS = ("gmn", "gmn_responses", "nfn", "pointwise")
READERS = (
    "gmn",
    "gmn_responses",
    "nfn",
    "neural_graph",
    "neural_graph_responses",
    "deep_sets",
    "statistics",
    "probing",
)


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """One run of the experiment.

    Attributes:
      images: File of images, see `modmeta.metanet.zoo.images`; empty for the digits of
        scikit-learn.
      zoo: The networks that hold the images.
      canonical: Whether, of all weights of one function that differ by signs and half
        turns of sines, one kind alone is read; see
        `modmeta.metanet.input_networks.sine_symmetries`.
      half_turns: Networks to train with are drawn anew in every step among those of the
        same function: hidden units are negated, and their phases turned by up to so
        many half turns; -1 for neither. For networks that are not canonical.
      weight_noise: Size of the noise on the weights of networks to train with, drawn
        anew in every step, in units of the spread of a weight's layer; 0 for none.
      edit: What is done to an image. "dilate": the largest value within three by three
        pixels; "contrast": the tone curve x^2 (3 - 2 x); "none": nothing, which has to
        be learned, too.
      editors: Members of `EDITORS`, in the order of the table; empty for no editing.
      num_heads: Numbers of heads K that the first editor is trained with; the first
        one is that of all editors.
      readers: Members of `READERS`, in the order of the table; empty for no
        classification.
      metanet: The graph metanetwork. All others get as many parameters, but
        "gmn_responses", which also reads what units compute at some pixels, as
        "neural_graph_responses" does.
      pooling: How the reader "gmn" pools edges, see
        `modmeta.metanet.models.options.POOLINGS`.
      training: Training of editors.
      reading: Training of readers.
      learning_rates: Tried for `pilot_steps` steps each; validation networks choose,
        for every editor and reader.
      pilot_steps: See there; 0 takes the first rate.
      counts: Numbers of training images whose networks the first editor and all
        readers are trained with, too, beside all of them.
      seed: Seed of everything random but the zoo, which has its own.
    """

    images: str = ""
    zoo: FieldZooConfig = FieldZooConfig(hidden_sizes=(16, 16))
    canonical: bool = True
    half_turns: int = -1
    weight_noise: float = 0.0
    edit: str = "dilate"
    editors: tuple[str, ...] = EDITORS
    num_heads: tuple[int, ...] = (1, 2, 4, 8)
    readers: tuple[str, ...] = READERS
    metanet: MetanetConfig = MetanetConfig(
        width=24, num_blocks=3, reverse_messages=True
    )
    pooling: str = "mean"
    training: PredictionConfig = PredictionConfig(num_steps=1000, num_evaluations=10)
    reading: PredictionConfig = PredictionConfig(num_steps=1000, num_evaluations=20)
    learning_rates: tuple[float, ...] = (3e-3,)
    pilot_steps: int = 100
    counts: tuple[int, ...] = (300,)
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks what concerns several parts."""
        if self.edit not in EDITS:
            raise ValueError(f"edit: found {self.edit!r}, expected one of {EDITS}")
        if self.half_turns < -1 or self.half_turns >= 0 and self.canonical:
            expected = "-1, as networks are canonical" if self.canonical else ">= -1"
            raise ValueError(
                f"half_turns: found {self.half_turns}, expected {expected}"
            )
        if self.weight_noise < 0:
            raise ValueError(f"weight_noise: found {self.weight_noise}, expected >= 0")
        if self.pooling not in POOLINGS:
            raise ValueError(
                f"pooling: found {self.pooling!r}, expected one of {POOLINGS}"
            )
        for field, choices in (("editors", EDITORS), ("readers", READERS)):
            chosen = getattr(self, field)
            if set(chosen) - set(choices) or len(set(chosen)) < len(chosen):
                raise ValueError(
                    f"{field}: found {chosen}, expected some of {', '.join(choices)}, "
                    "each once"
                )
        if not self.editors and not self.readers:
            raise ValueError("editors: found none, and no readers, expected some")
        for name in ("num_heads", "learning_rates"):
            values = getattr(self, name)
            if not values or min(values) <= 0 or len(set(values)) < len(values):
                raise ValueError(
                    f"{name}: found {values}, expected some above 0, each once"
                )
        if self.pilot_steps < 0:
            raise ValueError(f"pilot_steps: found {self.pilot_steps}, expected >= 0")
        num_train = self.zoo.num_train
        if any(not 0 < count < num_train for count in self.counts):
            raise ValueError(
                f"counts: found {self.counts}, expected numbers from 1 to "
                f"{num_train - 1}, fewer than the training images of the zoo"
            )


def digits() -> ExperimentConfig:
    """1,797 digits of 8x8 pixels; some minutes on two cores."""
    return ExperimentConfig()


def images() -> ExperimentConfig:
    """5,000 images of a file, five networks of each to train with; for a GPU."""
    return ExperimentConfig(
        zoo=FieldZooConfig(
            num_train=4000, num_valid=500, num_test=500, num_views=5, chunk_size=500
        ),
        metanet=MetanetConfig(width=64, num_blocks=4, reverse_messages=True),
        training=PredictionConfig(num_steps=6000, batch_size=64),
        reading=PredictionConfig(num_steps=6000, batch_size=64),
        learning_rates=(3e-3, 1e-2),
        pilot_steps=400,
        counts=(1000,),
    )


CONFIGS = {"digits": digits, "images": images}


def smoke(config: ExperimentConfig) -> ExperimentConfig:
    """The same pipeline in seconds; its numbers mean nothing."""
    return common.override(
        config,
        {
            "zoo.num_train": 24,
            "zoo.num_valid": 8,
            "zoo.num_test": 8,
            "zoo.hidden_sizes": (4, 4),
            "zoo.num_steps": 20,
            "zoo.chunk_size": 40,
            "num_heads": (1, 2),
            "metanet.width": 4,
            "metanet.num_blocks": 1,
            "training.num_steps": 4,
            "training.num_evaluations": 2,
            "training.batch_size": 8,
            "reading.num_steps": 4,
            "reading.num_evaluations": 2,
            "reading.batch_size": 8,
            "learning_rates": (3e-3,),
            "counts": (12,),
        },
    )
