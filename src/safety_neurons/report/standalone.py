"""A drawing as an SVG file of its own, for pages that are no report."""

from __future__ import annotations

import re
from collections.abc import Sequence

from markupsafe import Markup

from safety_neurons.report.charts.svg import element
from safety_neurons.report.templating import rendered

# The style sheet hides the wide drawing on a narrow page, and a small picture is one.
_ALWAYS_SHOWN = "svg.wide { display: block; }"
_SIZE = re.compile(r'viewBox="0 0 ([\d.]+) ([\d.]+)"')


def standalone(chart: Markup, legend: Sequence[Markup] = (), *, room: float = 0.0) -> str:
    """`chart` with the style sheet and paper of its own.

    Args:
        chart: an `svg` element, wide.
        legend: what stands above it.
        room: for the legend.

    Returns:
        The file's text.

    Raises:
        ValueError: if the chart says no size.
    """
    size = _SIZE.search(chart)
    if size is None:
        raise ValueError("the drawing has no viewBox")
    width, height = float(size[1]), float(size[2]) + room
    whole = element(
        "svg",
        element("style", Markup(rendered("style.css.jinja") + _ALWAYS_SHOWN)),
        element("rect", width="100%", height="100%", class_="paper"),
        *legend,
        element("g", chart, transform=f"translate(0 {room:g})"),
        xmlns="http://www.w3.org/2000/svg",
        width=width,
        height=height,
        viewBox=f"0 0 {width:g} {height:g}",
    )
    return f"{whole}\n"
