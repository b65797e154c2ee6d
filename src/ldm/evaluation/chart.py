"""Line charts as inline SVG."""

import html
import math
from collections.abc import Mapping, Sequence

Points = Sequence[tuple[float, float]]
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 250, 56, 40, 12, 12
LEGEND = 20  # height of a row of names
NAMES_A_ROW = 5


def smooth(points: Points, weight: float = 0.9) -> list[tuple[float, float]]:
    """Mean of the exponential moving averages of the values from the left and from the right: without lag."""
    forward, backward = _average(points, weight), _average(points[::-1], weight)[::-1]
    return [(x, (a + b) / 2) for (x, a), (_, b) in zip(forward, backward, strict=True)]


def _average(points: Points, weight: float) -> list[tuple[float, float]]:
    total, norm, result = 0.0, 0.0, []
    for x, y in points:
        total, norm = weight * total + (1 - weight) * y, weight * norm + (1 - weight)
        result.append((x, total / norm))
    return result


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers between two values."""
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((m for m in (1, 2, 2.5, 5, 10) if m * power >= raw), default=10) * power
    first = math.ceil(low / step) * step
    return [first + i * step for i in range(int((high - first) / step + 1e-9) + 1)]


def log_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers between two positive values, for a logarithmic axis: 1, 2, 5 times powers of ten."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for mantissas in ((1, 2, 5), (1, 3), (1,)):
        found = [m * 10.0**e for e in range(first, last + 1) for m in mantissas]
        found = [y for y in found if low <= y <= high]
        if len(found) <= count:
            return found if len(found) > 2 else ticks(low, high, count - 1)
    return found[:: -(-len(found) // count)]


def drawable(points: Points, log_y: bool) -> list[tuple[float, float]]:
    """The points that have a place: finite and, on a logarithmic axis, positive."""
    return [(x, y) for x, y in points if math.isfinite(y) and (y > 0 or not log_y)]


class _Frame:
    """Maps values to pixels of the plot area."""

    def __init__(self, points: Points, log_y: bool, top: int) -> None:
        self.log_y, self.top = log_y, top
        xs, ys = [x for x, _ in points], [self._scale(y) for _, y in points]
        self.x0, self.x1 = min(xs), max(xs)
        self.x1 = self.x1 if self.x1 > self.x0 else self.x0 + 1
        pad = 0.05 * (max(ys) - min(ys)) or 0.05
        self.y0, self.y1 = min(ys) - pad, max(ys) + pad

    def _scale(self, y: float) -> float:
        return math.log10(y) if self.log_y else y

    def x(self, x: float) -> float:
        return LEFT + (x - self.x0) / (self.x1 - self.x0) * (WIDTH - LEFT - RIGHT)

    def y(self, y: float) -> float:
        part = (self._scale(y) - self.y0) / (self.y1 - self.y0)
        return HEIGHT - BOTTOM - part * (HEIGHT - BOTTOM - self.top)

    def y_ticks(self) -> list[float]:
        return log_ticks(10**self.y0, 10**self.y1) if self.log_y else ticks(self.y0, self.y1, 4)

    def line(self, points: Points, style: str) -> str:
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        return f'<polyline class="{style}" points="{path}"/>'


def line_chart(
    series: Mapping[str, Points], x_label: str, log_y: bool = False, raw: Points = (), style: str = "s"
) -> str:
    """An SVG chart of named series over a common x axis; "" when there is nothing to draw.

    Args:
        series: name -> (x, y) points; what is not finite, or not positive when `log_y`, is left out.
        x_label: below the x axis.
        log_y: logarithmic y axis.
        raw: points drawn faintly behind.
        style: CSS class of the first series is `{style}0`, of the next `{style}1`, ...
    """
    shown = {name: points for name, p in series.items() if (points := drawable(p, log_y))}
    behind = drawable(raw, log_y)
    if sum(map(len, shown.values())) < 2:
        return ""
    rows = -(-len(shown) // NAMES_A_ROW) if len(shown) > 1 else 0
    frame = _Frame([p for points in (*shown.values(), behind) for p in points], log_y, TOP + rows * LEGEND)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">', *_axes(frame, x_label)]
    if behind:
        parts.append(frame.line(behind, "raw"))
    for i, (name, points) in enumerate(shown.items()):
        parts.append(frame.line(points, f"{style}{i % 10}"))
        if rows:
            parts.append(_legend(name, i, f"{style}{i % 10}"))
    return "".join(parts) + "</svg>"


def _axes(frame: _Frame, x_label: str) -> list[str]:
    parts = []
    for value in frame.y_ticks():
        y = frame.y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    for value in ticks(frame.x0, frame.x1, 6):
        label = f"{value:,.0f}" if value == int(value) else f"{value:g}"
        x, y = frame.x(value), HEIGHT - BOTTOM + 16
        parts.append(f'<text x="{x:.1f}" y="{y}" text-anchor="middle">{label}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    label = html.escape(x_label)
    return [*parts, f'<text x="{middle:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{label}</text>']


def _legend(name: str, i: int, style: str) -> str:
    row, column = divmod(i, NAMES_A_ROW)
    x, y = LEFT + column * (WIDTH - LEFT - RIGHT) / NAMES_A_ROW, TOP + row * LEGEND
    return (
        f'<polyline class="{style}" points="{x:.0f},{y} {x + 16:.0f},{y}"/>'
        f'<text x="{x + 21:.0f}" y="{y + 4}">{html.escape(name)}</text>'
    )
