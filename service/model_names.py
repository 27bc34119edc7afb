"""Names of models that installed packages bring along, such as `toy`."""

import importlib.metadata
from pathlib import Path


def resolve_model(model: str) -> str:
    """A model's folder or hub name. Other names than the packages' own are returned as they are.

    A package names a model by an entry point of the group `prefstream.models`: its folder.
    """
    named = importlib.metadata.entry_points(group="prefstream.models", name=model)
    return str(next(iter(named)).load()) if named else model


def absolute_model(model: str) -> str:
    """The same model for whoever works in another folder: a folder by its whole path, other names
    as they are."""
    if resolve_model(model) == model and Path(model).is_dir():
        return str(Path(model).absolute())
    return model
