"""Line charts and histograms as SVG, without a library: every page can have them."""

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 460, 280  # of a chart, in its own units
LEFT, RIGHT, TOP, BOTTOM = 46, 22, 48, 40  # around the plot
COLOURS = ("#1f77b4", "#d95f02", "#2ca02c", "#9467bd", "#8c564b", "#c2388f", "#6b7280", "#a16207")
LETTER, LINE = 7.6, 17  # of the legend: the mean width of a letter, the height of a line
LONGEST = 26  # letters of a curve's name in the legend
MOST_POINTS = 400  # of a curve: more could not be told apart
TICKS = 5  # about so many on an axis

Points = Sequence[tuple[float, float]]


def line_chart(
    title: str,
    curves: Mapping[str, Points],
    x_label: str,
    highest: float | None = None,
    *,
    dashed: str = "",
    with_values: bool = True,
) -> str:
    """Curves over a common x axis, as many as `COLOURS`.

    Both axes begin at 0, that of y ends at `highest` or where the largest value is. The legend has the last value of
    every curve, except with `with_values` False. The curve named `dashed` is one to compare others with: it is grey
    and has no value.
    """
    curves = {name: thinned(points) for name, points in curves.items() if points}
    every = [point for points in curves.values() for point in points]
    colours = {name: "#999" if name == dashed else colour for name, colour in zip(curves, COLOURS)}
    wordings = [(_short(name) + (f" {points[-1][1]:.3g}" if with_values and name != dashed else ""), colours[name])
                for name, points in curves.items() if name in colours]  # fmt: skip
    legend, lines = _legend(wordings)
    axes = _Axes(0, max((x for x, _ in every), default=1), highest or _top(every), TOP + LINE * (lines - 1))
    drawn = ""
    for name, colour in colours.items():
        places = [f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in curves[name]]
        pattern = ' stroke-dasharray="5"' if name == dashed else ""
        line = f'<polyline points="{" ".join(places)}" fill="none" stroke="{colour}" stroke-width="2"{pattern}'
        drawn += f"{line}><title>{escape(name)}</title></polyline>"
        if len(places) <= TICKS * 6 and name != dashed:
            drawn += "".join(
                f'<circle cx="{place.split(",")[0]}" cy="{place.split(",")[1]}" r="3" fill="{colour}"/>'
                for place in places
            )
    return _chart(title, axes.drawn(x_label) + drawn + legend)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"


def _legend(wordings: Sequence[tuple[str, str]]) -> tuple[str, int]:
    """Texts, each with its colour, in as many lines as they need, and the number of these lines."""
    drawn, used, line = "", 0.0, 0
    for text, colour in wordings:
        width = LETTER * len(text) + 12
        if used and LEFT + used + width > WIDTH:
            used, line = 0.0, line + 1
        place = 'dx="12"' if used else f'x="{LEFT}" y="{38 + LINE * line}"'
        drawn += f'<tspan {place} fill="{colour}">{escape(text)}</tspan>'
        used += width
    return f'<text font-size="13" font-weight="600">{drawn}</text>', line + 1


def histogram(
    title: str, edges: Sequence[float], counts: Sequence[int], x_label: str, marks: Mapping[float, str] | None = None
) -> str:
    """Counts between the edges, which are drawn at equal distances; marks are vertical lines at values of x."""
    axes = _Axes(0, len(counts), max([1, *counts]))
    drawn = ""
    for number, count in enumerate(counts):
        left, right, top = axes.x(number), axes.x(number + 1), axes.y(count)
        about = f"<title>{edges[number]:g} to {edges[number + 1]:g}: {count:,}</title>"
        place = f'x="{left + 1:.1f}" y="{top:.1f}" width="{right - left - 2:.1f}" height="{axes.y(0) - top:.1f}"'
        drawn += f'<rect {place} fill="{COLOURS[0]}">{about}</rect>'
    every = math.ceil(len(edges) / (2 * TICKS))
    for number in range(0, len(edges), every):
        drawn += _text(axes.x(number), HEIGHT - BOTTOM + 16, f"{edges[number]:g}", "middle")
    for value, name in (marks or {}).items():
        if edges[0] < value < edges[-1]:
            x = axes.x(_position(value, edges))
            ends = f'x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 4}" y2="{axes.y(0):.1f}"'
            drawn += f'<line {ends} stroke="#222" stroke-dasharray="4"/>'
            drawn += _text(x, TOP - 8, name, "middle")
    return _chart(title, axes.drawn(x_label, ticks=False) + drawn)


def thinned(points: Points) -> list[tuple[float, float]]:
    """At most `MOST_POINTS` points: the means of neighbours, and the last one as it is."""
    several = math.ceil(len(points) / MOST_POINTS)
    if several <= 1:
        return list(points)
    parts = [points[start : start + several] for start in range(0, len(points) - 1, several)]
    means = [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]
    return [*means[: MOST_POINTS - 1], points[-1]]


def round_ticks(low: float, high: float) -> list[float]:
    """Round values between two others, about `TICKS` of them."""
    rough = max(high - low, 1e-9) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


class _Axes:
    """From values to places in a chart: x from `first` to `last`, y from 0 to `highest`, which is at `top`."""

    def __init__(self, first: float, last: float, highest: float, top: float = TOP) -> None:
        self.first, self.last, self.highest, self.top = first, max(last, first + 1e-9), highest, top

    def x(self, value: float) -> float:
        """The place of a value on the x axis."""
        return LEFT + (value - self.first) / (self.last - self.first) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """The place of a value on the y axis; one above the top is drawn at the top."""
        return HEIGHT - BOTTOM - min(value / self.highest, 1.0) * (HEIGHT - self.top - BOTTOM)

    def drawn(self, x_label: str, *, ticks: bool = True) -> str:
        """The axes, with grid lines; the values below the x axis are left out without `ticks`."""
        drawn = ""
        for value in round_ticks(0, self.highest):
            y, stroke = self.y(value), "#888" if value == 0 else "#e4e4e4"
            drawn += f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{stroke}"/>'
            drawn += _text(LEFT - 6, y + 4, f"{value:,.6g}", "end")
        for value in round_ticks(self.first, self.last) if ticks else ():
            drawn += _text(self.x(value), HEIGHT - BOTTOM + 16, f"{value:,.6g}", "middle")
        return drawn + _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_label, "middle")


def _top(points: Points) -> float:
    """The largest value, without the few highest of a long curve: a loss begins far above where it stays."""
    values = sorted(y for _, y in points)
    return max(1e-6, 1.05 * values[int(0.98 * (len(values) - 1))]) if values else 1.0


def _position(value: float, edges: Sequence[float]) -> float:
    """Where between the edges, counted from 0, a value lies; edges grow by factors."""
    after = next(number for number, edge in enumerate(edges) if edge > value)
    low, high = edges[after - 1], edges[after]
    share = math.log(value / low) / math.log(high / low) if low > 0 else value / high
    return after - 1 + share


def _text(x: float, y: float, text: str, anchor: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} font-size="12" fill="#555">{escape(text)}</text>'


def _chart(title: str, content: str) -> str:
    heading = f'<text x="{LEFT}" y="18" font-size="15" font-weight="600" fill="#222">{escape(title)}</text>'
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    return f'<svg {size} role="img" font-family="system-ui,sans-serif">{heading}{content}</svg>'
