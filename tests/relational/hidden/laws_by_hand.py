"""Laws set by hand, and springs of which one body is hidden."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.graphs import supergraphs
from modmeta.relational import data
from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.data.simulators.springs import SPRING_CONSTANT
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.modules.bank import ModuleBank
from modmeta.relational.modules.config import ModuleConfig
from modmeta.relational.modules.fitting import fit_preprocessing
from modmeta.relational.modules.laws import units_of
from modmeta.relational.modules.network import RelationalNetwork
from modmeta.relational.modules.proposal_head import ProposalConfig

VISIBLE, FRAMES = 3, 20
# Added to a logarithm so that a rectifier lets it pass, and taken off again.
_SHIFT = 50.0
# Log-scale of the errors that the model expects, in units of the typical change.
_EXPECTED = -4.0


def power_model(dataset, coefficients, power, **options):
    """A model whose relations pull by coefficient * distance^power, and its arrays."""
    constants, layout = fit_preprocessing(dataset, compress=False)
    limit = np.full_like(constants.target_limit, 1e6)
    constants = jax.tree.map(jnp.asarray, constants._replace(target_limit=limit))
    config = ModuleConfig(
        path="interpolated",
        law="central",
        attributes=False,
        num_relations=len(coefficients),
        edge_sizes=(1,),
        node_sizes=(1,),
        activation="relu",
        span=1,
        **{"entities": "alike", **options},
    )
    network = RelationalNetwork(ModuleBank(config, layout), ProposalConfig("none"))
    model = RelationalModel(network)
    pair = supergraphs.build_supergraph([2], supergraphs.padding_budget([2], 1))
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), constants, pair))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    length = float(constants.normalization.scale[0] * constants.position_scale)
    # Rates are lengths per squared frame interval, in units of the typical change.
    unit = float(units_of(model.bank.laws.law, constants, 1).acceleration)
    unit = unit * length / dataset.frame_interval**2
    first, last = (params.modules.edge["rate_network"][f"layer_{i}"] for i in (0, 1))
    first["kernel"][:, 0, 0], first["bias"][:] = 1.0, _SHIFT
    last["kernel"][:, 0, 0], last["bias"][:, 0] = power, -power * _SHIFT
    last["bias"][:, 1] = np.array(coefficients) * length**power / unit
    params.modules.edge["spread_network"]["layer_1"]["bias"][:] = -20.0
    params.modules.log_scale[:] = _EXPECTED
    params = params._replace(preprocessing=constants)
    return model, jax.tree.map(jnp.asarray, params)


@functools.cache
def springs():
    """Complete systems of three visible bodies and one more, and a model of them."""
    whole = data.simulate_springs(3, 8, num_nodes=VISIBLE + 1, num_frames=FRAMES)
    return whole, *power_model(whole, (0.0, SPRING_CONSTANT), 1.0)


def visible(whole, num_visible=VISIBLE):
    return TrajectoryDataset(
        states=whole.states[:, :, :num_visible],
        features=whole.features,
        frame_interval=whole.frame_interval,
    )
