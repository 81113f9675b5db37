"""What users may name: the public modules, and what they export."""

import inspect
from importlib import import_module

MODULES = [
    "halfspace",
    "halfspace.arrow",
    "halfspace.attention",
    "halfspace.attention.hf",
    "halfspace.bench",
    "halfspace.datasets",
    "halfspace.faiss",
    "halfspace.ray",
    "halfspace.sklearn",
    "halfspace.text",
]


def exported():
    """Every public object by its full name."""
    for module in map(import_module, MODULES):
        for name in module.__all__:
            yield f"{module.__name__}.{name}", getattr(module, name)


def callables():
    """Public functions, classes, and what public classes define or inherit from this package, by their full names.

    What overrides a method of another library's class is that library's to explain.
    """
    for name, thing in exported():
        if not callable(thing):
            continue
        yield name, thing
        if not inspect.isclass(thing):
            continue
        for part in dir(thing):
            method = inspect.unwrap(getattr(thing, part))
            ours = callable(method) and str(getattr(method, "__module__", "")).startswith("halfspace")
            foreign = [base for base in thing.__mro__[:-1] if not base.__module__.startswith("halfspace")]
            if ours and not part.startswith("_") and not any(part in vars(base) for base in foreign):
                yield f"{name}.{part}", method


def named(name):
    """The public module, or the object in one, of a full name."""
    if name in MODULES:
        return import_module(name)
    home, _, last = name.rpartition(".")
    return getattr(named(home), last)
