"""A learning run that several test modules share."""

import jax

from modmeta.relational import api, data
from modmeta.relational.evaluation import scores
from modmeta.relational.inference import infer
from modmeta.relational.inference.config import InferenceConfig
from modmeta.relational.modules.config import ModuleConfig
from modmeta.relational.modules.proposal_head import ProposalConfig
from modmeta.relational.training.bouncegrad import BounceGradConfig
from modmeta.relational.training.meta_training import TrainingConfig


class SpringsRun:
    """A short, real learning run on unlabelled springs, scored on unseen systems.

    Attributes:
      train_set: Systems that training saw without their labels.
      test_set: Systems that it did not see.
      result: What `infer_relations` returned.
      found: Relations of the unseen systems from a cold start.
      scores: Their edge accuracies.
    """

    SEARCH = InferenceConfig(num_steps=64, num_samples=16)

    def __init__(self, seed=0, **options):
        systems = {"num_nodes": 3, "num_frames": 25}
        self.train_set = data.simulate_springs(2 * seed, 256, **systems)
        self.test_set = data.simulate_springs(2 * seed + 1, 200, **systems)
        config = {
            "num_steps": 250,
            "gradient_frames": 12,
            "learning_rate": 5e-3,
            "proposal_learning_rate": 3e-3,
        }
        self.result = api.infer_relations(
            self.train_set,
            seed=seed,
            modules=ModuleConfig(
                edge_sizes=(24,), message_size=24, node_sizes=(24, 24)
            ),
            proposal=ProposalConfig(width=32),
            bouncegrad=BounceGradConfig(**{**config, **options}),
            training=TrainingConfig(num_evaluations=2),
            inference=self.SEARCH,
        )
        self.found = infer.infer_dataset(
            jax.random.key(seed),
            self.result.model,
            self.result.params,
            self.test_set,
            self.SEARCH,
        )
        self.scores = scores.label_scores(self.found, self.test_set, 2)
