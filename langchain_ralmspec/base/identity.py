"""What a cached answer is kept under: names of objects, and why some have none."""

from __future__ import annotations

import uuid
import weakref

_known: dict[int, tuple[weakref.ref[object], str]] = {}


def name_of(thing: object) -> str:
    """A name that no other object has had or will have, as long as the object lives.

    Python uses the ``id()`` of a freed object again, so a cache must not be asked by
    it. What takes no weak references has another name each time: it is never found.
    """
    key = id(thing)
    reference, name = _known.get(key, (None, ""))
    if reference is not None and reference() is thing:
        return name
    name = uuid.uuid4().hex
    try:
        reference = weakref.ref(thing, lambda _: _known.pop(key, None))
    except TypeError:
        return name
    # Two threads may name one thing at once: the first name stays.
    return _known.setdefault(key, (reference, name))[1]
