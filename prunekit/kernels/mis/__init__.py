"""The greedy (lexicographically first) maximal independent set of each sample, without a graph in memory.

The rule is the textbook one: walk the tokens from the best to the worst, take a token unless a neighbour was
taken before, stop when the room is used. What differs is what is computed: see `plan`. Stopping early is
exact, for the first n of the full walk are the walk stopped at n.
"""

from __future__ import annotations

from jaxtyping import Bool, Int
from torch import Tensor

from prunekit.kernels.engine import Engine
from prunekit.kernels.mis.cells import Cells
from prunekit.kernels.mis.lazy import lazy
from prunekit.kernels.mis.plan import Plan, plan_for
from prunekit.kernels.mis.prefix import prefix
from prunekit.kernels.mis.stencil import stencil
from prunekit.kernels.mis.walk import Independent, Web
from prunekit.kernels.ranking import NEVER


def greedy_mis(
    key: Int[Tensor, "batch tokens"],
    room: Int[Tensor, " batch"],
    web: Web,
    around: Bool[Tensor, "batch tokens"] | None = None,
    *,
    positions: Int[Tensor, "batch tokens 3"] | None = None,
    engine: Engine = "host",
    most: int | None = None,
) -> tuple[Independent, Plan]:
    """The first `room` tokens of the greedy maximal independent set of each sample; fewer where it runs dry.

    Args:
        key: Priorities from `packed_key`; `NEVER` for tokens that are no candidates.
        room: How many tokens each sample may take.
        web: A symmetric graph. Loops do not matter.
        around: Tokens taken beforehand: their neighbours are not taken.
        positions: Where tokens stand, for graphs whose edges do not reach far.
        engine: Whether values may be read.
        most: The most that `room` or `around` can be, for the `device` engine, which must not look; by
            default as many as there are tokens.

    Returns:
        What was taken, and in which way.
    """
    tokens = key.shape[-1]
    if engine == "device":
        most = tokens if most is None else most
        plan = plan_for(engine, tokens, most, None)
        return prefix(key, room, web, around, block=plan.block, most=most), plan
    most = int(room.max()) if room.numel() else 0
    reach = None if positions is None else web.reach
    plan = plan_for(engine, tokens, most, reach)
    if plan.way == "stencil" and positions is not None and reach is not None:
        taking_part = key != NEVER if around is None else (key != NEVER) | around
        cells = Cells.of(positions, taking_part, reach)
        if cells is not None:
            return stencil(key, room, web, cells, around, block=plan.block), plan
        plan = plan_for(engine, tokens, most, None)
    return lazy(key, room, web, around, block=plan.block), plan
