"""SVG elements as safe strings; text and attributes are escaped."""

from __future__ import annotations

from markupsafe import Markup, escape

Attribute = str | float | int | None


def element(name: str, *children: str, **attributes: Attribute) -> Markup:
    """`<name attributes>children</name>`.

    Args:
        attributes: `stroke_width` becomes `stroke-width`, `class_` becomes `class`; None is left
            out.

    Returns:
        The element, safe to stand in a page.
    """
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _text(value))
        for key, value in attributes.items()
        if value is not None
    )
    inner = Markup("").join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), written, inner)


def titled(title: str, *children: str, **attributes: Attribute) -> Markup:
    """A group with a text that shows on hover and is read out."""
    return element("g", element("title", title), *children, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """From one point to another."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def text(x: float, y: float, content: str, class_: str, anchor: str = "start") -> Markup:
    """Letters at a point, which is their `anchor` (start, middle or end) on their base line."""
    return element("text", content, x=x, y=y, class_=class_, text_anchor=anchor)


def polygon(points: list[tuple[float, float]], class_: str) -> Markup:
    """A closed shape."""
    corners = " ".join(f"{_text(x)},{_text(y)}" for x, y in points)
    return element("polygon", points=corners, class_=class_)


def polyline(points: list[tuple[float, float]], class_: str) -> Markup:
    """Through all points in turn."""
    written = " ".join(f"{_text(x)},{_text(y)}" for x, y in points)
    return element("polyline", points=written, class_=class_)


def marker(x: float, y: float, shape: int, class_: str, size: float) -> Markup:
    """A disc, square, diamond or triangle by number, so that lines differ by more than colour."""
    if shape % 4 == 0:
        return element("circle", cx=x, cy=y, r=size, class_=class_)
    shapes: dict[int, list[tuple[float, float]]] = {
        1: [(-1, -1), (1, -1), (1, 1), (-1, 1)],
        2: [(0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)],
        3: [(0, -1.3), (1.2, 0.9), (-1.2, 0.9)],
    }
    points = " ".join(f"{_text(x + size * a)},{_text(y + size * b)}" for a, b in shapes[shape % 4])
    return element("polygon", points=points, class_=class_)


def drawing(width: float, height: float, label: str, *children: str, class_: str) -> Markup:
    """The outer element, with what a screen reader says of it."""
    return element(
        "svg",
        *children,
        viewBox=f"0 0 {width:g} {height:g}",
        width=width,
        height=height,
        role="img",
        aria_label=label,
        class_=class_,
    )


def _text(value: Attribute) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
