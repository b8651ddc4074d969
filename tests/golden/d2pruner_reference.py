"""D²Pruner (arXiv:2512.19443) once more: slow, in plain floats and loops, and independent of prunekit.

Nothing here comes from prunekit, and nothing is a tensor. Lists run over tokens in their given order. Where
the paper leaves a choice, the choice is an argument; see `Switches`.

Every comparison that decides something also reports how close it was (`Margins`), so that a test can leave
out cases which float32 may decide the other way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

Vector = list[float]
Cell = tuple[int, int, int]  # plane, row, column
Grid = list[list[float]]


@dataclass(frozen=True)
class Switches:
    """What the paper leaves open; the defaults are those of the pipeline for understanding."""

    heads: str = "mean"  # mean | max
    removal: str = "ratio"  # ratio | difference
    scaling: str = "clip"  # clip | shift | min_max
    falloff: str = "linear"  # linear | gaussian | radius
    sigma: float = 2.0
    radius: int = 1
    alpha: float = 1.0
    above: float = 0.8
    pivots: float = 0.7
    pivots_suppress: bool = False
    fill: str = "score"  # score | farthest


@dataclass
class Margins:
    """How close the nearest decision was."""

    edge: float = math.inf  # |similarity - threshold|, over all pairs
    score: float = math.inf  # relative distance of two scores that are not the same by their inputs
    farthest: float = math.inf  # distance between the farthest token and the next, copies not counted


@dataclass
class Outcome:
    """What is kept, by which step, and how sure that is."""

    kept: list[int]  # ascending
    step: dict[int, str]  # token → pivots | spread | fill
    scores: Vector
    margins: Margins = field(default_factory=Margins)


def d2pruner(  # noqa: PLR0912
    attention: list[Vector],  # heads × tokens: from the last prompt token, before the pruning layer
    bias: Vector,  # the prior at each token, already fitted to the grid
    features: list[Vector],
    cells: list[Cell],
    n: int,
    *,
    switches: Switches,
) -> Outcome:
    count = len(cells)
    n = min(n, count)
    margins = Margins()

    # Steps 1 to 3: attention, made one over heads, freed of its bias.
    scores = []
    for token in range(count):
        over_heads = [head[token] for head in attention]
        one = max(over_heads) if switches.heads == "max" else sum(over_heads) / len(over_heads)
        if switches.removal == "ratio":
            scores.append(one / (bias[token] + 1e-7))
        else:
            scores.append(one - bias[token])
    inputs = [(tuple(head[token] for head in attention), bias[token]) for token in range(count)]
    falling = sorted(range(count), key=lambda token: (-scores[token], token))
    for better, worse in pairwise(falling):
        if inputs[better] != inputs[worse]:
            scale = max(abs(scores[better]), abs(scores[worse]), 1e-3)
            margins.score = min(margins.score, (scores[better] - scores[worse]) / scale)

    # Step 4: pivots.
    step = dict.fromkeys(falling[: math.floor(switches.pivots * n)], "pivots")

    # Step 5: the hybrid graph.
    units = [_unit(vector) for vector in features]
    cosines = [[_dot(one, other) for other in units] for one in units]
    least, largest = min(map(min, cosines)), max(map(max, cosines))
    edge = [[False] * count for _ in range(count)]
    for i in range(count):
        for j in range(count):
            if i == j:
                continue
            alike = _scaled(cosines[i][j], least, largest, switches.scaling)
            near = _nearness(cells, i, j, switches)
            similarity = switches.alpha * alike + (1 - switches.alpha) * near
            margins.edge = min(margins.edge, abs(similarity - switches.above))
            edge[i][j] = similarity > switches.above

    # Step 6: the greedy independent set among the rest.
    taken = list(step) if switches.pivots_suppress else []
    for token in falling:
        if len(step) == n:
            break
        if token in step:
            continue
        if not any(edge[token][other] for other in taken):
            step[token] = "spread"
            taken.append(token)

    # Step 7: where it ran dry, fill.
    while len(step) < n:
        rest = [token for token in range(count) if token not in step]
        if switches.fill == "score" or not step:
            chosen = min(rest, key=lambda token: (-scores[token], token))
        else:
            nearest = {token: max(cosines[token][other] for other in step) for token in rest}
            chosen = min(rest, key=lambda token: (nearest[token], token))
            for token in rest:
                if features[token] != features[chosen]:
                    margins.farthest = min(margins.farthest, abs(nearest[token] - nearest[chosen]))
        step[chosen] = "fill"

    # Step 8: in order of the tokens.
    return Outcome(sorted(step), step, scores, margins)


def _unit(vector: Vector) -> Vector:
    """The vector at length 1; one of length 0 stays, and so is like no other."""
    length = math.sqrt(_dot(vector, vector))
    return [x / length for x in vector] if length else vector


def _dot(one: Vector, other: Vector) -> float:
    return sum(x * y for x, y in zip(one, other, strict=True))


def _scaled(cosine: float, least: float, largest: float, how: str) -> float:
    """A cosine as a similarity; min-max runs over all pairs of the sample, a token with itself included."""
    if how == "clip":
        return max(cosine, 0.0)
    if how == "shift":
        return (1 + cosine) / 2
    return (cosine - least) / (largest - least) if largest > least + 1e-6 else 0.0


def _nearness(cells: list[Cell], i: int, j: int, switches: Switches) -> float:
    """1 for the same place, falling with the distance on the grid; 0 across planes."""
    (plane, row, column), (other_plane, other_row, other_column) = cells[i], cells[j]
    if plane != other_plane:
        return 0.0
    down, right = abs(row - other_row), abs(column - other_column)
    distance = math.sqrt(down * down + right * right)
    if switches.falloff == "radius":
        return 1.0 if max(down, right) <= switches.radius else 0.0
    if switches.falloff == "gaussian":
        return math.exp(-(distance**2) / (2 * switches.sigma**2))
    rows = 1 + max(r for p, r, _ in cells if p == plane)
    columns = 1 + max(c for p, _, c in cells if p == plane)
    return 1 - distance / math.hypot(rows - 1, columns - 1)


def resized_in_two_dimensions(grid: Grid, rows: int, columns: int) -> Grid:
    """Bilinear, pixel centres at half cells, the rim continued; then rescaled to the mean it had."""
    if (rows, columns) == (len(grid), len(grid[0])):
        return grid
    new = [[0.0] * columns for _ in range(rows)]
    for row in range(rows):
        up, down, low = _between(row, rows, len(grid))
        for column in range(columns):
            left, right, east = _between(column, columns, len(grid[0]))
            above = (1 - east) * grid[up][left] + east * grid[up][right]
            below = (1 - east) * grid[down][left] + east * grid[down][right]
            new[row][column] = (1 - low) * above + low * below
    return _of_mean(new, _mean(grid))


def resized_in_one_dimension(grid: Grid, rows: int, columns: int) -> Grid:
    """Linear along the raster; then rescaled to the mean it had."""
    if (rows, columns) == (len(grid), len(grid[0])):
        return grid
    raster = [value for line in grid for value in line]
    flat = []
    for index in range(rows * columns):
        left, right, share = _between(index, rows * columns, len(raster))
        flat.append((1 - share) * raster[left] + share * raster[right])
    return _of_mean([flat[row * columns : (row + 1) * columns] for row in range(rows)], _mean(grid))


def _between(index: int, new: int, old: int) -> tuple[int, int, float]:
    """The two old places around a new one, and the share of the second."""
    place = max((index + 0.5) * old / new - 0.5, 0.0)
    first = min(int(place), old - 1)
    return first, min(first + 1, old - 1), min(place - first, 1.0)


def _mean(grid: Grid) -> float:
    return sum(map(sum, grid)) / (len(grid) * len(grid[0]))


def _of_mean(grid: Grid, mean: float) -> Grid:
    scale = mean / _mean(grid)
    return [[value * scale for value in line] for line in grid]
