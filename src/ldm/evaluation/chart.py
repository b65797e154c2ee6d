"""Line charts as inline SVG."""

import html
import math
from collections.abc import Mapping, Sequence

Points = Sequence[tuple[float, float]]
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 240, 56, 28, 12, 12


def smooth(points: Points, weight: float = 0.9) -> list[tuple[float, float]]:
    """Exponential moving average of the values, corrected for its start."""
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


def line_chart(series: Mapping[str, Points], x_label: str, log_y: bool = False, raw: Points = ()) -> str:
    """An SVG chart of named series over a common x axis; "" when there is nothing to draw.

    Args:
        series: name -> (x, y) points; y > 0 when `log_y`.
        x_label: below the x axis.
        log_y: logarithmic y axis.
        raw: points drawn faintly behind.
    """
    everything = [p for points in series.values() for p in points]
    if len(everything) < 2:
        return ""

    def scale_y(y: float) -> float:
        return math.log10(y) if log_y else y

    xs, ys = [x for x, _ in everything], [scale_y(y) for _, y in everything]
    (x0, x1), (y0, y1) = (min(xs), max(xs)), (min(ys), max(ys))
    x1, pad = x1 if x1 > x0 else x0 + 1, 0.05 * (y1 - y0) or 0.5
    y0, y1 = y0 - pad, y1 + pad

    def px(x: float) -> float:
        return LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)

    def py(y: float) -> float:
        return HEIGHT - BOTTOM - (min(max(y, y0), y1) - y0) / (y1 - y0) * (HEIGHT - BOTTOM - TOP)

    def path(points: Points, style: str) -> str:
        line = " ".join(f"{px(x):.1f},{py(scale_y(y)):.1f}" for x, y in points)
        return f'<polyline class="{style}" points="{line}"/>'

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">']
    for y in ticks(y0, y1, 4):
        label = f"{10**y:.3g}" if log_y else f"{y:.3g}"
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{py(y):.1f}" y2="{py(y):.1f}"/>'
        )
        parts.append(f'<text x="{LEFT - 6}" y="{py(y) + 4:.1f}" text-anchor="end">{label}</text>')
    for x in ticks(x0, x1, 6):
        parts.append(f'<text x="{px(x):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{x:,.0f}</text>')
    parts.append(
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 20}" text-anchor="end">{html.escape(x_label)}</text>'
    )
    if raw:
        parts.append(path(raw, "raw"))
    for i, (name, points) in enumerate(series.items()):
        parts.append(path(points, f"s{i % 10}"))
        if len(series) > 1:
            x, y = points[-1]
            parts.append(
                f'<text class="name" x="{px(x) - 4:.1f}" y="{py(scale_y(y)) - 4:.1f}" text-anchor="end">'
                f"{html.escape(name)}</text>"
            )
    return "".join(parts) + "</svg>"
