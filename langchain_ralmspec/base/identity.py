"""What a cached answer is kept under: names of objects, and why some have none."""

from __future__ import annotations

import uuid

from langchain_ralmspec.registry import Registry

_names = Registry(lambda: uuid.uuid4().hex)


def name_of(thing: object) -> str:
    """A name that no other object has had or will have, as long as the object lives.

    What takes no weak references has another name each time: it is never found.
    """
    return _names.of(thing)
