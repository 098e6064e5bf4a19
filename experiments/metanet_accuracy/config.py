"""Configurations of the accuracy experiment, as frozen dataclasses."""

from __future__ import annotations

import dataclasses

import numpy as np

from experiments import common
from modmeta.metanet.learning.prediction import PredictionConfig
from modmeta.metanet.models.gmn import POOLINGS, MetanetConfig
from modmeta.metanet.zoo.classifiers import ClassifierZooConfig
from modmeta.metanet.zoo.recipes import Recipe

MODELS = (
    "gmn",
    "scale_gmn",
    "layer_sets",
    "published_gmn",
    "neural_graph",
    "deep_sets",
    "weight_convolution",
    "statistics",
    "probing",
    "architecture",
    "gmn_and_probing",
)
BOTH = ("gmn", "probing")
"""Whose mean "gmn_and_probing" is."""


# Weights that hardly moved and those of a network that diverged are four powers of ten
# apart.
_METANET = MetanetConfig(
    width=32, num_blocks=3, reverse_messages=True, value_scales=(1.0, 10.0, 100.0)
)


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """One run of the experiment.

    Attributes:
      images: File of images that the zoo is trained on, see
        `modmeta.metanet.zoo.images`; empty for the digits of scikit-learn.
      zoo: The networks whose accuracy is predicted.
      models: Members of `MODELS`, in the order of the table; differences are given to
        the first. "gmn_and_probing" is the mean of what two others predict; nothing is
        trained for it.
      metanet: The graph metanetwork. All other models get as many parameters.
      pooling: Of the metanetwork, see `modmeta.metanet.models.options.POOLINGS`.
      bidirectional: Whether the parameter graph holds every edge reversed, too.
      training: Training of models that read weights.
      vector_training: Training of models that read a few features of a network.
      learning_rates: Tried for `pilot_share` of the steps each; validation networks
        choose, for every model.
      pilot_share: See there; 0 takes the first rate.
      num_train: Networks of the training split that are used; 0 for all.
      counts: Numbers of training networks that every model is trained with, too.
      max_train_width: Width above which networks are neither trained on nor chosen by,
        and all of them are to test; 0 for the splits of the zoo.
      num_resamples: Bootstrap draws behind every interval.
      seed: Seed of everything random but the zoo, which has its own.
    """

    images: str = ""
    zoo: ClassifierZooConfig = ClassifierZooConfig()
    models: tuple[str, ...] = MODELS
    metanet: MetanetConfig = _METANET
    pooling: str = "layer_statistics"
    bidirectional: bool = False
    training: PredictionConfig = PredictionConfig()
    vector_training: PredictionConfig = PredictionConfig(num_steps=3000, batch_size=32)
    learning_rates: tuple[float, ...] = (3e-3,)
    pilot_share: float = 0.25
    num_train: int = 0
    counts: tuple[int, ...] = ()
    max_train_width: int = 0
    num_resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks what concerns several parts."""
        unknown = sorted(set(self.models) - set(MODELS))
        if unknown or not self.models or len(set(self.models)) < len(self.models):
            raise ValueError(
                f"models: found {self.models}, expected some of {', '.join(MODELS)}, "
                "each once"
            )
        missing = [name for name in BOTH if name not in self.models]
        if "gmn_and_probing" in self.models and missing:
            raise ValueError(
                f"models: found gmn_and_probing without {' and '.join(missing)}, "
                "expected those whose mean it is"
            )
        empty = [name for name, rows in self._pools().items() if not len(rows)]
        if empty:
            widths = sorted({shape.width for shape in self.zoo.architectures})
            raise ValueError(
                f"max_train_width: found {self.max_train_width}, which leaves no "
                f"network for {', '.join(empty)}, expected 0 or a width from "
                f"{widths[0]} to below {widths[-1]}"
            )
        num_train = len(self._pools()["train"])
        if not 0 <= self.num_train <= num_train:
            raise ValueError(
                f"num_train: found {self.num_train}, expected 0 to {num_train}, the "
                "training networks of the zoo"
                + (" that are no wider" if self.max_train_width else "")
            )
        rates = self.learning_rates
        if not rates or min(rates) <= 0 or len(set(rates)) < len(rates):
            raise ValueError(
                f"learning_rates: found {rates}, expected some above 0, each once"
            )
        if not 0 <= self.pilot_share <= 1:
            raise ValueError(f"pilot_share: found {self.pilot_share}, expected 0 to 1")
        used = self.num_train or num_train
        counts = self.counts
        is_in_range = all(0 < count < used for count in counts)
        if not is_in_range or len(set(counts)) < len(counts):
            raise ValueError(
                f"counts: found {counts}, expected numbers from 1 to {used - 1}, each "
                "once, fewer than the training networks that are used"
            )
        if self.pooling not in POOLINGS:
            raise ValueError(
                f"pooling: found {self.pooling!r}, expected one of "
                f"{', '.join(POOLINGS)}"
            )
        if self.num_resamples < 1:
            raise ValueError(
                f"num_resamples: found {self.num_resamples}, expected at least 1"
            )

    def _pools(self) -> dict[str, np.ndarray]:
        pools = {name: np.asarray(rows) for name, rows in self.zoo.splits.items()}
        if not self.max_train_width:
            return pools
        widths = [shape.width for shape in self.zoo.architectures]
        is_wide = np.repeat(widths, self.zoo.networks_per_shape) > self.max_train_width
        pools = {name: rows[~is_wide[rows]] for name, rows in pools.items()}
        return {**pools, "test": np.flatnonzero(is_wide)}

    def splits(self, count: int = 0) -> dict[str, np.ndarray]:
        """Numbers of the networks that are trained on, choose and are to test.

        Args:
          count: Networks to train on; 0 for `num_train`. A smaller choice is part of a
            larger one.
        """
        pools, count = self._pools(), count or self.num_train
        if count:
            rng = np.random.default_rng(self.seed)
            pools["train"] = np.sort(rng.permutation(pools["train"])[:count])
        return pools


def digits() -> ExperimentConfig:
    """960 networks of 30 shapes on 8x8 digits; a quarter of an hour on two cores."""
    return ExperimentConfig()


def diverse() -> ExperimentConfig:
    """400 networks per family, on images of a file; an hour on two cores.

    Made for Fashion-MNIST at 7x7 or CIFAR-10 at 8x8 pixels, see `prepare_images`.
    """
    return ExperimentConfig(
        zoo=ClassifierZooConfig(
            widths=(4, 6, 8, 12, 16),
            num_shapes=8,
            networks_per_shape=50,
            num_valid=200,
            num_test=400,
            num_train_images=3000,
            num_test_images=5000,
            recipe=Recipe(
                batch_size=50, num_epochs=(1, 8), learning_rates=(1e-3, 5e-2)
            ),
            chunk_size=25,
        ),
        metanet=dataclasses.replace(_METANET, width=24, num_blocks=2),
        training=PredictionConfig(num_steps=1500, num_evaluations=10),
        learning_rates=(3e-3, 1e-2),
        pilot_share=0.1,
    )


def convolutions() -> ExperimentConfig:
    """As `diverse`, with networks of 40 shapes of one family, 2-D convolutions."""
    return common.override(
        diverse(), {"zoo.families": ("cnn_2d",), "zoo.num_shapes": 40}
    )


def published() -> ExperimentConfig:
    """400 networks per family on 8,000 images, metanets of 100,000 weights; for a GPU.

    Sizes and recipes of the released builders and of cptq/asymmetric-networks as far as
    small images allow; a tenth of the published number of networks, and of weights of
    a metanet a seventh.
    """
    return ExperimentConfig(
        zoo=ClassifierZooConfig(
            widths=(4, 6, 8, 12, 16, 24),
            num_shapes=8,
            networks_per_shape=50,
            num_valid=200,
            num_test=400,
            num_train_images=8000,
            recipe=Recipe(
                batch_size=50, num_epochs=(1, 8), learning_rates=(2e-4, 2e-2)
            ),
            chunk_size=50,
        ),
        metanet=dataclasses.replace(_METANET, width=48),
        training=PredictionConfig(num_steps=1500, batch_size=32, num_evaluations=10),
        vector_training=PredictionConfig(num_steps=3000, batch_size=64),
        learning_rates=(2e-3, 6e-3),
        pilot_share=0.1,
        counts=(140,),
    )


def published_convolutions() -> ExperimentConfig:
    """As `published`, with networks of 40 shapes of one family, 2-D convolutions."""
    return common.override(
        published(), {"zoo.families": ("cnn_2d",), "zoo.num_shapes": 40}
    )


CONFIGS = {
    "digits": digits,
    "diverse": diverse,
    "convolutions": convolutions,
    "published": published,
    "published_convolutions": published_convolutions,
}


def smoke(config: ExperimentConfig) -> ExperimentConfig:
    """The same pipeline in minutes; too few networks to rank models by."""
    return common.override(
        config,
        {
            "zoo.widths": (8,),
            "zoo.num_shapes": 1,
            "zoo.networks_per_shape": 48,
            "zoo.num_valid": 40,
            "zoo.num_test": 60,
            "zoo.num_train_images": 600,
            "zoo.num_test_images": 500,
            "zoo.chunk_size": 16,
            "metanet.width": 16,
            "metanet.num_blocks": 2,
            "training.num_steps": 600,
            "training.learning_rate": 1e-2,
            "training.num_evaluations": 12,
            "vector_training.num_steps": 500,
            "vector_training.num_evaluations": 5,
            "num_resamples": 200,
            "counts": (),
        },
    )
