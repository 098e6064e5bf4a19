"""How much memory a search needs, told before anything is compiled.

The numbers are those of the largest arrays that are alive together, counted from the
shapes; factors were fitted to the buffers that XLA assigns on CPU. Letters as in
`modmeta.relational.energies.cached`; C receivers whose messages are held at once.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import jax

from modmeta import search
from modmeta.graphs.supergraphs import PaddingBudget, SuperGraph
from modmeta.relational.inference.config import InferenceConfig
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.modules import evidence
from modmeta.search import decoding

_FLOAT_BYTES = 4
_GIBIBYTE = 2**30
# Part of the memory that is left to a search; the rest holds data and programs.
_USABLE = 0.9


class MemoryNeed(NamedTuple):
    """Bytes that the stages of a search need; one stage follows another.

    Attributes:
      head: The proposal head on all edges.
      messages: Computing the messages of a chunk of receivers.
      search: These messages and what the chains gather from them.
    """

    head: int
    messages: int
    search: int

    @property
    def total(self) -> int:
        """Bytes that the largest stage needs."""
        return max(self)


def budget_of(supergraph: SuperGraph) -> PaddingBudget:
    """Reads the budget off the shapes of a super-graph, or of a stack of them."""
    return PaddingBudget(
        num_nodes=supergraph.node_mask.shape[-1],
        num_edges=supergraph.graph.senders.shape[-1],
        num_systems=supergraph.system_mask.shape[-2],
        max_nodes=supergraph.system_mask.shape[-1],
        max_degree=supergraph.slot_mask.shape[-1],
    )


def predict_bytes(
    model: RelationalModel,
    budget: PaddingBudget,
    num_frames: int,
    config: InferenceConfig,
    *,
    num_chains: int | None = None,
    receiver_chunk: int | None = None,
) -> MemoryNeed:
    """Predicts the memory of the search of one batch.

    Args:
      model: The model.
      budget: Static sizes of the batch.
      num_frames: Observed frames.
      config: The search.
      num_chains: Chains per problem on one device; None for all of `config`.
      receiver_chunk: Receivers at once, where they are independent, 0 for all; None
        for that of the model.

    Raises:
      ValueError: If the search refuses problems of these sizes.
    """
    if num_chains is None:
        num_chains = config.num_chains
    if receiver_chunk is None:
        receiver_chunk = model.memory.receiver_chunk
    bank = model.bank.config
    is_coupled = model.energy.couples_receivers
    slots = budget.max_degree
    rows = budget.num_nodes
    if is_coupled:
        rows = max(rows, budget.num_systems * budget.max_nodes)
    elif receiver_chunk:
        rows = min(receiver_chunk, rows)
    num_problems = budget.num_systems if is_coupled else rows
    num_inputs = num_frames - 1
    width = bank.num_node_modules * model.bank.num_projected
    widest = max(width, *model.bank.edge_module.sizes)
    per_receiver = _FLOAT_BYTES * slots * num_inputs
    # Inputs, outputs and a transposed copy of the widest layer, for every module.
    per_receiver_built = 3 * bank.num_relations * per_receiver * widest
    if bank.path == "interpolated":
        per_receiver_built *= bank.num_points  # all points of a path at once
    elif bank.path == "two_body":
        per_receiver_built *= 2  # from both ends, one step after the other
    if model.keeps_messages:
        messages = rows * per_receiver_built
        per_module = 2 * bank.num_relations + num_chains
        searched = rows * per_module * per_receiver * width
    elif model.energy.form == "one_step":
        messages = 0
        searched = num_problems * num_chains * per_receiver_built
    else:
        messages = 0
        # Roll-outs start at every `horizon`-th frame.
        segments = -(-num_inputs // model.energy.horizon)
        searched = rows * num_chains * per_receiver_built * segments // num_inputs
    per_chain = _chain_bytes(model, budget, num_inputs, config)
    searched += num_problems * num_chains * per_chain
    head = _head_bytes(model, budget.num_nodes * slots, num_frames)
    if model.network.reads_evidence:
        one_receiver = (
            per_receiver_built
            + _derivative_bytes(model, slots, num_inputs)
            + decoding.num_bytes(
                num_inputs * model.bank.layout.num_targets, slots, bank.num_relations
            )
        )
        # Without chains in between, half of the copies are never made.
        head += min(evidence.CHUNK, budget.num_nodes) * one_receiver // 2
    return MemoryNeed(head=head, messages=messages, search=searched)


def _chain_bytes(
    model: RelationalModel,
    budget: PaddingBudget,
    num_inputs: int,
    config: InferenceConfig,
) -> int:
    """What one chain of a search holds of one problem, messages excepted."""
    options = dict(config.options)
    if "num_node_modules" in search.options_of(config.algorithm):
        options["num_node_modules"] = model.num_node_modules
    shapes = search.SearchShapes(
        num_receivers=budget.max_nodes if model.energy.couples_receivers else 1,
        num_slots=budget.max_degree,
        num_modules=model.num_relations,
        num_residuals=num_inputs * model.bank.layout.num_targets,
    )
    num_bytes = search.bytes_per_chain(config.algorithm, shapes, **options)
    if search.spec_of(config.algorithm).needs.residuals:
        num_bytes += _derivative_bytes(model, budget.max_degree, num_inputs)
    return num_bytes


def _derivative_bytes(model: RelationalModel, num_slots: int, num_inputs: int) -> int:
    """Derivatives of the outputs for a receiver by its edges, before the residuals."""
    bank = model.bank
    num_weights = num_slots * bank.config.num_relations
    widest = bank.num_projected if bank.is_additive else max(bank.config.node_sizes)
    # Of a layer's inputs, its outputs and what the activation makes of them; or three
    # copies of those of the summed messages.
    derivatives = 3 * num_weights * num_inputs * bank.config.num_node_modules * widest
    return _FLOAT_BYTES * derivatives


def _head_bytes(model: RelationalModel, num_slots: int, num_frames: int) -> int:
    per_slot = 0
    for kind in model.network.proposal.encoder.split("+"):
        if kind == "cnn":
            # Convolved frames before and after the activation, windows, the maxima.
            per_slot = max(per_slot, 4 * num_frames * model.network.proposal.width)
        elif kind in ("mlp", "evidence"):
            per_slot = max(per_slot, 9 * model.network.proposal.width)
        elif kind == "denoiser":
            per_slot = max(per_slot, 9 * model.network.proposal.denoiser_width)
    return _FLOAT_BYTES * num_slots * (per_slot + 2 * model.num_relations)


def available_bytes() -> int | None:
    """Memory of the device, or of the machine if the device has none of its own.

    None where neither can be told.
    """
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return int(statistics["bytes_limit"])
    if not hasattr(os, "sysconf"):
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check(
    model: RelationalModel,
    budget: PaddingBudget,
    num_frames: int,
    config: InferenceConfig,
    *,
    num_chains: int | None = None,
    receiver_chunk: int | None = None,
) -> None:
    """Refuses a search that would not fit; arguments as for `predict_bytes`.

    Shapes alone are looked at, so that it may be called while a function is traced.

    Raises:
      MemoryError: If it would not fit. The message states what is needed, what there
        is, and what to change.
      ValueError: If the search refuses problems of these sizes.
    """
    available = available_bytes()
    if available is None:
        return
    usable = int(_USABLE * available)
    if num_chains is None:
        num_chains = config.num_chains

    def need_of(receiver_chunk: int | None) -> MemoryNeed:
        return predict_bytes(
            model,
            budget,
            num_frames,
            config,
            num_chains=num_chains,
            receiver_chunk=receiver_chunk,
        )

    need = need_of(receiver_chunk)
    if need.total <= usable:
        return
    stages = ", ".join(
        f"{name} {size / _GIBIBYTE:.3g}" for name, size in need._asdict().items()
    )
    raise MemoryError(
        f"memory: found {usable / _GIBIBYTE:.3g} GiB, expected at least "
        f"{need.total / _GIBIBYTE:.3g} GiB ({stages}) for {budget.num_systems} systems "
        f"per batch, {budget.num_nodes - 1} nodes in all, up to {budget.max_degree} "
        f"incoming edges each, {num_frames} frames and {num_chains} chains; "
        f"{_advice(model, budget, need_of(1), usable)}"
    )


def _advice(
    model: RelationalModel, budget: PaddingBudget, one: MemoryNeed, usable: int
) -> str:
    """What to change, given the need of one receiver at a time."""
    advice = []
    if not model.energy.couples_receivers:
        chunk = usable // max(one.messages, one.search)
        if chunk:
            advice.append(f"set receiver_chunk to at most {chunk}")
    elif model.keeps_messages:
        advice.append("set messages to 'recompute'")
    if one.head > usable:
        advice.append("choose a smaller proposal encoder")
    advice.append("limit candidate edges by num_neighbors or radius")
    if budget.num_systems > 1:
        advice.append("take fewer systems per batch")
    return "; or ".join(advice)
