"""Whether the method learns: relations of unseen springs, found without any label.

The first two tests are the ones that matter most in this repository. The others break
one part at a time and show that these two would notice. Edge accuracies on 200 unseen
systems of 3 bodies, cold start (chance is 0.5):

| run | edges | proposal head |
|---|---|---|
| seeds 0, 1, 2 | 0.994, 0.977, 1.000 | 0.933, 0.860, 0.929 |
| structures never move | 0.513 | 0.512 |
| modules never move | 0.569 | 0.518 |
| proposal head never moves | 0.998 | 0.502 |
"""

import numpy as np
import pytest

from modmeta.relational.evaluation import scores
from tests.relational.springs_run import SpringsRun

EDGE_ACCURACY = 0.95
PROPOSAL_ACCURACY = 0.75


def test_relations_of_unseen_systems(springs_run):
    assert springs_run.scores["edge_accuracy"] >= EDGE_ACCURACY
    # On the systems of the training, too.
    assert springs_run.result.edge_accuracy >= EDGE_ACCURACY


def test_proposal_head_learns_from_the_search(springs_run):
    assert springs_run.scores["proposal_accuracy"] >= PROPOSAL_ACCURACY


def test_probabilities_of_unseen_systems_know_their_errors(springs_run):
    """Edges that the chains are sure of are right more often than the others."""
    found, labels = springs_run.found, springs_run.test_set.edges
    names = scores.match_labels(found.edges, labels, 2, 2)
    is_edge = labels >= 0
    is_right = names[found.edges[is_edge]] == labels[is_edge]
    confidence = found.probabilities[is_edge].max(axis=-1)
    np.testing.assert_allclose(found.probabilities[is_edge].sum(-1), 1.0, rtol=1e-5)
    assert is_right[confidence > 0.95].mean() >= EDGE_ACCURACY
    assert (confidence > 0.95).mean() > 0.8


def test_structures_that_never_move_teach_nothing():
    """Without the search the modules see random structures and become alike."""
    broken = SpringsRun(search_steps=0)
    assert broken.scores["edge_accuracy"] < EDGE_ACCURACY - 0.2
    assert broken.scores["proposal_accuracy"] < PROPOSAL_ACCURACY - 0.1


@pytest.mark.slow
def test_modules_that_never_move_find_nothing():
    broken = SpringsRun(learning_rate=0.0)
    assert broken.scores["edge_accuracy"] < EDGE_ACCURACY - 0.2


@pytest.mark.slow
def test_broken_proposal_head_is_told_apart():
    """The search alone still finds the relations; the head's own score falls."""
    broken = SpringsRun(proposal_learning_rate=0.0)
    assert broken.scores["edge_accuracy"] >= EDGE_ACCURACY
    assert broken.scores["proposal_accuracy"] < PROPOSAL_ACCURACY - 0.1
