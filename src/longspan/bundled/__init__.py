"""Models that come with the package, so that a machine without a network has weights to begin with.

Each lies in a folder of its name, as ``save_pretrained`` writes it, with its model card. Everything of this package
that takes the name of a model takes theirs; :func:`bundled_model` gives the folder to everything else.
"""

from pathlib import Path

_FOLDER = Path(__file__).parent


def bundled_names() -> list[str]:
    """The models that come with this installation."""
    return sorted(file.parent.name for file in _FOLDER.glob("*/config.json"))


def bundled_model(name: str = "longspan-mini") -> Path:
    """The folder of a model that comes with the package, with tokenizer and model card; not to be written to.

    ``AutoTokenizer.from_pretrained(bundled_model())`` and ``AutoModelForMaskedLM.from_pretrained(bundled_model())`` of
    ``transformers`` open it.

    Args:
        name: of the model.

    Raises:
        ValueError: there is none of that name.
    """
    names = bundled_names()
    if name not in names:
        raise ValueError(f"no model named {name!r} comes with longspan; there is {', '.join(names) or 'none'}")
    return _FOLDER / name


def model_source(model: str | Path) -> str:
    """Where to load a model from: of a bundled one its folder, of any other what it was named by.

    Args:
        model: a folder, a hub name, or the name of a bundled model. A folder of that name is meant before a bundled
            model is, as it is before a hub name.
    """
    name = str(model)
    return str(_FOLDER / name) if name in bundled_names() and not Path(name).exists() else name
