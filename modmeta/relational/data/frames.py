"""The frames of nodes as programs see them: states, when, and which were observed."""

from __future__ import annotations

from typing import Any, NamedTuple


class Frames(NamedTuple):
    """Frames of nodes; leading axes `[tasks, nodes]`, or `[N]` in a super-graph.

    Fields that say nothing are None, and the programs are then those of regular,
    gapless trajectories.

    Attributes:
      states: `[..., T, F]` normalised, filled where nothing was observed.
      times: `[..., T]` in frame intervals; None where frame t is at time t.
      is_observed: `[..., T]`; None where all are.
      is_present: `[..., T]` false before the first and after the last frame of a
        recording that saw a node; None where all nodes are always there.
      breaks: `[..., T]` true at a frame that does not follow from the one before it;
        None where all do.
    """

    states: Any
    times: Any = None
    is_observed: Any = None
    is_present: Any = None
    breaks: Any = None

    @property
    def is_plain(self) -> bool:
        """Whether states are all there is to say."""
        return all(leaf is None for leaf in self[1:])


def as_frames(states: Any) -> Frames:
    """States `[..., T, F]` as frames; frames as they are."""
    return states if isinstance(states, Frames) else Frames(states)


def rollout_states(states: Any) -> Any:
    """States that free roll-outs start from and are scored by.

    Raises:
      ValueError: If frames are missing, irregular or of several recordings.
    """
    frames = as_frames(states)
    if not frames.is_plain:
        raise ValueError(
            "form: found 'rollout' with missing frames, irregular times or breaks, "
            "expected 'one_step': roll-outs are scored at every frame"
        )
    return frames.states
