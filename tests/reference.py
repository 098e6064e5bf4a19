"""The composed network in float64 NumPy, one node, edge and frame at a time.

Written from the equations, with none of the tricks of the library: no super-graph, no
cache, no products of layers taken in advance. One system at a time; `states` is
`[nodes, frames, features]`, `edges` `[receivers, senders]`, `node_modules` `[nodes]`.
"""

import itertools

import jax
import numpy as np
import scipy.stats

ACTIVATIONS = {"tanh": np.tanh, "relu": lambda values: np.maximum(values, 0.0)}


class Reference:
    """The network of a model with given parameters."""

    def __init__(self, model, params):
        self.config = model.bank.config
        self.layout = model.bank.layout
        as_float64 = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
        self.params = as_float64.modules
        self.preprocessing = as_float64.preprocessing
        self.activation = ACTIVATIONS[self.config.activation]

    def edge_input(self, sender, receiver):
        spec = self.layout.spec
        if self.config.geometry == "raw":
            return np.concatenate([sender, receiver])
        parts, others = [], list(range(len(spec.names)))
        if spec.positions and spec.velocities:
            displacement = [sender[i] - receiver[i] for i in spec.positions]
            displacement = np.array(displacement) / self.preprocessing.position_scale
            velocity = [sender[i] - receiver[i] for i in spec.velocities]
            velocity = np.array(velocity) / self.preprocessing.velocity_scale
            distance = np.sqrt(displacement @ displacement + 1e-8)
            direction = displacement / distance
            parts += [displacement, velocity, [2.0 * np.log(distance)], direction]
            parts += [[direction @ velocity]]
            others = [i for i in others if i not in spec.positions + spec.velocities]
        else:
            others = [i for i in others if i not in spec.sines + spec.cosines]
        # A turn is a quotient of complex numbers.
        products = [
            complex(sender[c], sender[s]) * complex(receiver[c], -receiver[s])
            for s, c in zip(spec.sines, spec.cosines, strict=True)
        ]
        parts += [
            [value.imag for value in products],
            [value.real for value in products],
        ]
        return np.concatenate([*parts, sender[others], receiver[others]])

    def layers(self, params, module, hidden, is_activated):
        """Layers in order; the last one is followed by an activation or not."""
        for index in range(len(params)):
            layer = params[f"layer_{index}"]
            hidden = hidden @ layer["kernel"][module] + layer["bias"][module]
            if index < len(params) - 1 or is_activated:
                hidden = self.activation(hidden)
        return hidden

    def contribution(self, output):
        """A change and its variance, which add up."""
        size = len(self.preprocessing.target_scale)
        deviation = np.exp(5.0 * np.tanh(output[size:] / 5.0))
        return np.concatenate([output[:size], deviation**2])

    def message(self, module, sender, receiver):
        message = self.layers(
            self.params.edge,
            module,
            self.edge_input(sender, receiver),
            self.config.activate_messages,
        )
        if self.config.node_update == "additive":
            message = self.contribution(message)
        return np.zeros_like(message) if self.is_null(module) else message

    def is_null(self, module):
        return self.config.null_relation and module == 0

    def node_output(self, module, messages, state):
        node = self.params.node
        if self.config.node_update == "additive":
            own = self.layers(node, module, state, False)
            return messages + self.contribution(own)
        heard = messages @ node["message_layer"]["kernel"][module]
        own = state @ node["state_layer"]["kernel"][module]
        hidden = self.activation(heard + own + node["state_layer"]["bias"][module])
        rest = {
            f"layer_{index}": node[f"hidden_layers_{index}"]
            for index in range(len(self.config.node_sizes) - 1)
        }
        hidden = self.layers(rest, module, hidden, True)
        last = node["output_layer"]
        return hidden @ last["kernel"][module] + last["bias"][module]

    def prediction(self, states, edges, node_modules, receiver):
        """Mean and log-scale of one node's target, from all states at one frame."""
        total = 0.0 * self.message(0, states[receiver], states[receiver])
        for sender in range(len(states)):
            if sender != receiver:
                total = total + self.message(
                    edges[receiver, sender], states[sender], states[receiver]
                )
        output = self.node_output(node_modules[receiver], total, states[receiver])
        return self.split(output)

    def split(self, output):
        """Outputs of a node as mean and log-scale of its target."""
        size = len(self.preprocessing.target_scale)
        log_scale = self.params.log_scale.copy()
        mean, spread = output[:size], output[size:]
        if self.config.node_update == "additive":
            mean = self.compressed(mean)
            spread = np.log(spread) / 2.0
        else:
            spread = 5.0 * np.tanh(spread / 5.0)
        if len(spread):
            log_scale = log_scale + spread
        return mean, np.maximum(log_scale, -9.0)

    def compressed(self, change):
        if self.layout.compress:
            return np.sign(change) * np.log(1.0 + np.abs(change))
        return change

    def baseline(self, state):
        return state @ self.preprocessing.step_matrix + self.preprocessing.step_offset

    def angles(self):
        spec = self.layout.spec
        pairs = zip(spec.sines, spec.cosines, strict=True)
        return [pair for pair in pairs if set(pair) <= set(self.layout.predicted)]

    def columns(self):
        spec = self.layout.spec
        return [i for i in self.layout.predicted if i not in spec.sines + spec.cosines]

    def target(self, state, following):
        expected = self.baseline(state)
        change = [following[i] - expected[i] for i in self.columns()]
        change += [
            np.angle(
                complex(following[c], following[s]) / complex(expected[c], expected[s])
            )
            for s, c in self.angles()
        ]
        return self.compressed(change / self.preprocessing.target_scale)

    def next_state(self, state, mean):
        limit = self.preprocessing.target_limit
        if self.layout.compress:
            mean = np.clip(mean, -limit, limit)
            mean = np.sign(mean) * (np.exp(np.abs(mean)) - 1.0)
        change = list(mean * self.preprocessing.target_scale)
        following = self.baseline(state)
        for column in self.columns():
            following[column] += change.pop(0)
        for sine, cosine in self.angles():
            value = complex(following[cosine], following[sine])
            value *= np.exp(1j * change.pop(0)) / abs(value)
            following[sine], following[cosine] = value.imag, value.real
        return following

    def frame_energy(self, mean, log_scale, target):
        if self.config.likelihood == "squared_error":
            return np.sum((target - mean) ** 2)
        return -scipy.stats.norm.logpdf(target, mean, np.exp(log_scale)).sum()

    def energies(self, states, edges, node_modules, horizon=1):
        """Energies `[nodes]` under free roll-outs of `horizon` steps."""
        states = np.asarray(states, np.float64)
        num_nodes, num_frames, _ = states.shape
        energies = np.zeros(num_nodes)
        for frame in range(num_frames - 1):
            if frame % horizon == 0:
                current = states[:, frame]
            following = np.empty_like(current)
            for node in range(num_nodes):
                mean, log_scale = self.prediction(current, edges, node_modules, node)
                target = self.target(current[node], states[node, frame + 1])
                energies[node] += self.frame_energy(mean, log_scale, target)
                following[node] = self.next_state(current[node], mean)
            current = following
        return energies

    def receiver_energies(self, states, receiver, node_module=0):
        """One-step energies of a receiver for all modules of its incoming edges.

        Returns:
          Dictionary from the modules of its senders, in order, to the energy.
        """
        states = np.asarray(states, np.float64)
        num_nodes, num_frames, _ = states.shape
        others = [node for node in range(num_nodes) if node != receiver]
        modules = range(self.config.num_relations)
        node_modules = np.full(num_nodes, node_module)
        energies = {}
        for assignment in itertools.product(modules, repeat=len(others)):
            edges = np.zeros((num_nodes, num_nodes), int)
            edges[receiver, others] = assignment
            energies[assignment] = 0.0
            for frame in range(num_frames - 1):
                prediction = self.prediction(
                    states[:, frame], edges, node_modules, receiver
                )
                target = self.target(
                    states[receiver, frame], states[receiver, frame + 1]
                )
                energies[assignment] += self.frame_energy(*prediction, target)
        return energies
