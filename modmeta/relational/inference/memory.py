"""How much memory a search needs, told before anything is compiled.

The numbers are those of the largest arrays that are alive together, counted from the
shapes; factors were fitted to the buffers that XLA assigns on CPU. Letters as in
`modmeta.relational.energies.cached`; C receivers whose messages are held at once.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import jax

from modmeta import search
from modmeta.graphs.supergraphs import PaddingBudget, SuperGraph
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.modules import evidence

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
    *,
    algorithm: str = "simulated_annealing",
    num_chains: int = 1,
    receiver_chunk: int = 0,
) -> MemoryNeed:
    """Predicts the memory of the search of one batch.

    Args:
      model: The model.
      budget: Static sizes of the batch.
      num_frames: Observed frames.
      algorithm: The search, see `modmeta.search.SEARCHES`.
      num_chains: Chains per problem.
      receiver_chunk: Receivers at once, where they are independent; 0 for all.
    """
    bank, options = model.bank.config, model.search
    is_coupled = options.couples_receivers
    slots = budget.max_degree
    rows = budget.num_nodes
    if is_coupled:
        rows = max(rows, budget.num_systems * budget.max_nodes)
    elif receiver_chunk:
        rows = min(receiver_chunk, rows)
    num_inputs = num_frames - 1
    width = bank.num_node_modules * model.bank.num_projected
    widest = max(width, *model.bank.edge_module.sizes)
    per_receiver = _FLOAT_BYTES * slots * num_inputs
    # Inputs, outputs and a transposed copy of the widest layer, for every module.
    per_receiver_built = 3 * bank.num_relations * per_receiver * widest
    if options.keeps_messages:
        messages = rows * per_receiver_built
        per_module = 2 * bank.num_relations + num_chains
        searched = rows * per_module * per_receiver * width
    elif options.energy == "one_step":
        messages = 0
        problems = budget.num_systems if is_coupled else rows
        searched = problems * num_chains * per_receiver_built
    else:
        messages = 0
        # Roll-outs start at every `horizon`-th frame.
        segments = -(-num_inputs // options.horizon)
        searched = rows * num_chains * per_receiver_built * segments // num_inputs
    if search.spec_of(algorithm).needs.residuals:
        problems = budget.num_systems if is_coupled else rows
        one_receiver = _decoding_bytes(model, slots, num_inputs)
        searched += problems * num_chains * one_receiver
    head = _head_bytes(model, budget.num_nodes * slots, num_frames)
    if model.reads_evidence:
        one_receiver = per_receiver_built + _decoding_bytes(model, slots, num_inputs)
        # Without chains in between, half of the copies are never made.
        head += min(evidence.CHUNK, budget.num_nodes) * one_receiver // 2
    return MemoryNeed(
        head=head,
        messages=messages,
        search=searched,
    )


def _decoding_bytes(model: RelationalModel, num_slots: int, num_inputs: int) -> int:
    """Derivatives of a receiver's residuals by its edges, and their factors."""
    bank = model.bank
    num_residuals = num_inputs * bank.layout.num_targets
    num_weights = num_slots * bank.config.num_relations
    widest = bank.num_projected
    if not bank.is_additive:
        # Before and after a layer of the node module, and after its activation.
        widest = 3 * max(bank.config.node_sizes)
    derivatives = num_weights * num_inputs * bank.config.num_node_modules * widest
    num_free = num_slots * (bank.config.num_relations - 1)
    factors = 3 * (num_residuals + num_weights) * num_free
    return _FLOAT_BYTES * (derivatives + num_weights * num_residuals + factors)


def _head_bytes(model: RelationalModel, num_slots: int, num_frames: int) -> int:
    per_slot = 0
    for kind in model.proposal.encoder.split("+"):
        if kind == "cnn":
            # Convolved frames before and after the activation, windows, the maxima.
            per_slot = max(per_slot, 4 * num_frames * model.proposal.width)
        elif kind in ("mlp", "evidence"):
            per_slot = max(per_slot, 9 * model.proposal.width)
        elif kind == "denoiser":
            per_slot = max(per_slot, 9 * model.proposal.denoiser_width)
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
    *,
    algorithm: str = "simulated_annealing",
    num_chains: int = 1,
    receiver_chunk: int = 0,
) -> None:
    """Refuses a search that would not fit; arguments as for `predict_bytes`.

    Shapes alone are looked at, so that it may be called while a function is traced.

    Raises:
      MemoryError: If it would not fit. The message states what is needed, what there
        is, and what to change.
    """
    available = available_bytes()
    if available is None:
        return
    usable = int(_USABLE * available)
    options = {"algorithm": algorithm, "num_chains": num_chains}
    need = predict_bytes(
        model, budget, num_frames, **options, receiver_chunk=receiver_chunk
    )
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
        f"{_advice(model, budget, num_frames, options, usable)}"
    )


def _advice(
    model: RelationalModel,
    budget: PaddingBudget,
    num_frames: int,
    options: dict[str, Any],
    usable: int,
) -> str:
    advice = []
    one = predict_bytes(model, budget, num_frames, **options, receiver_chunk=1)
    if not model.search.couples_receivers:
        chunk = usable // max(one.messages, one.search)
        if chunk:
            advice.append(f"set receiver_chunk to at most {chunk}")
    elif model.search.keeps_messages:
        advice.append("set messages to 'recompute'")
    if one.head > usable:
        advice.append("choose a smaller proposal encoder")
    advice.append("limit candidate edges by num_neighbors or radius")
    if budget.num_systems > 1:
        advice.append("take fewer systems per batch")
    return "; or ".join(advice)
