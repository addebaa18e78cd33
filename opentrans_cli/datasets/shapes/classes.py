"""Class names of `shapes`, and which of them are never labelled in training."""

from __future__ import annotations

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "black")
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "crescent", "bar")
GROUNDS = ("grass", "sky", "sand", "water", "brick", "snow")

OBJECTS = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
CLASSES = OBJECTS + GROUNDS
"""64 objects (index = 8 * colour + shape), then the 6 grounds."""

# A Latin pattern: every colour and every shape is seen six times and unseen twice, so an unseen class is always a
# new combination of known words, and no colour or shape is easier than another.
UNSEEN = tuple(
    f"{colour} {shape}" for c, colour in enumerate(COLOURS) for s, shape in enumerate(SHAPES) if (c + s) % 4 == 0
)
SEEN = tuple(name for name in CLASSES if name not in UNSEEN)


def with_article(name: str) -> str:
    """`name` after "a" or "an"."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def caption(objects: tuple[str, ...], ground: str | None) -> str:
    """A sentence that names `objects` (class names; may be empty if `ground` is given) and the ground."""
    things = " and ".join(with_article(name) for name in objects)
    if ground is None:
        return things
    return f"{things} on {ground}" if things else ground
