"""Code beside the weights: a saved model that opens where this package isn't installed."""

import ast
import hashlib
import json
import re
from importlib.util import find_spec
from pathlib import Path

from longspan import __version__, models
from longspan.data.atomic import atomic_text
from longspan.integrations.registration import AUTO_CLASSES, CONFIGS, SECOND_CLASSES

# Modules that only some calls need; the code works without them and says what it lacks.
_OPTIONAL = {"longspan.attention.drawing"}
# Auto classes of this package, not of transformers.
_OWN_AUTO_CLASSES = {
    "hierarchical-transformer": {
        "AutoModelForSequentialSentenceClassification": "HATForSequentialSentenceClassification"
    },
    "longformer": {"AutoModelForSequentialSentenceClassification": "LongformerForSequentialSentenceClassification"},
}
_HEADER = f"# From longspan {__version__} (Apache-2.0)."
_ENTRANCE = "modeling_longspan"
_OPERATOR = "@torch.library.custom_op("
# A package that only some devices have; its modules are imported when one is used.
_KERNELS = re.compile(r"^((?:import|from) triton\b.*)$", re.MULTILINE)
_IMPORT = re.compile(r"^( *)from (longspan[\w.]*) import", re.MULTILINE)


def add_remote_code(directory: str | Path) -> Path:
    """Put this package's model code into a saved model's directory, to be opened with ``trust_remote_code=True``.

    ``AutoModel.from_pretrained(directory, trust_remote_code=True)`` then builds this package's classes on a machine
    that has only ``torch`` and ``transformers``. Without the flag ``transformers`` opens the directory as before,
    with its own classes where it has them. The files are ``modeling_longspan.py`` and ``longspan_*.py``;
    ``config.json`` gets an ``auto_map`` that names a class for every head, whichever the weights were saved with.
    Calling it again replaces the code.

    Args:
        directory: of a Longformer, LED or causal model, as ``save_pretrained`` wrote it.

    Returns:
        The directory.

    Raises:
        FileNotFoundError: it has no ``config.json``.
        ValueError: ``config.json`` isn't JSON, or is of a model of another type.
        OSError: a file can't be written.
    """
    directory = Path(directory).expanduser()
    path = directory / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{directory} has no config.json; save the model there first, with save_pretrained")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error})") from error
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if model_type not in CONFIGS:
        raise ValueError(f"{path} is of a model of type {model_type!r}; longspan has code for {', '.join(CONFIGS)}")

    names = {"AutoConfig": CONFIGS[model_type], **AUTO_CLASSES[model_type], **_OWN_AUTO_CLASSES.get(model_type, {})}
    for (of_type, auto), name in SECOND_CLASSES.items():
        if of_type == model_type and name in (config.get("architectures") or []):
            names[auto] = name
    classes = {auto: getattr(models, name) for auto, name in names.items() if hasattr(models, name)}
    for name, text in _sources({cls.__module__ for cls in classes.values()}).items():
        atomic_text(directory / f"{_flat(name)}.py", text, "the model's code")
    # One entrance to all classes: transformers loads a file and what it imports anew for each file it is pointed at.
    imports = {f"from .{_flat(cls.__module__)} import {cls.__name__}  # noqa: F401" for cls in classes.values()}
    atomic_text(directory / f"{_ENTRANCE}.py", "\n".join([_HEADER, *sorted(imports), ""]), "the model's code")
    config["auto_map"] = {auto: f"{_ENTRANCE}.{cls.__name__}" for auto, cls in classes.items()}
    atomic_text(path, json.dumps(config, indent=2, sort_keys=True) + "\n", "the configuration")
    return directory


def _sources(roots: set[str]) -> dict[str, str]:
    """The modules and all they import of this package, by name, rewritten to stand in one flat folder."""
    sources: dict[str, str] = {}
    waiting = sorted(roots)
    while waiting:
        name = waiting.pop()
        if name in sources:
            continue
        text = _without_type_checking(_read(name))
        waiting += [found for _, found in _IMPORT.findall(text) if found not in _OPTIONAL]
        sources[name] = text
    version = hashlib.sha256("".join(sources[name] for name in sorted(sources)).encode()).hexdigest()[:12]
    return {name: _rewrite(text, version) for name, text in sources.items()}


def _read(name: str) -> str:
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_text(encoding="utf-8")


def _without_type_checking(text: str) -> str:
    """Without ``if TYPE_CHECKING:`` blocks, whose imports transformers would take for requirements."""
    lines = text.splitlines(keepends=True)
    for node in reversed(ast.parse(text).body):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            del lines[node.lineno - 1 : node.end_lineno]
    return "".join(lines)


def _rewrite(text: str, version: str) -> str:
    def relative(found: re.Match[str]) -> str:
        indent, name = found.groups()
        return found.group() if name in _OPTIONAL else f"{indent}from .{_flat(name)} import"

    text = _IMPORT.sub(relative, text)
    if _OPERATOR in text:
        # One name means one operator in a process, be it the installed package's or another directory's.
        namespace = f'_NAMESPACE = "longspan_{version}_" + sha256(__name__.encode()).hexdigest()[:12]'
        text = text.replace(_OPERATOR, f"from hashlib import sha256\n\n{namespace}\n\n\n{_OPERATOR}", 1)
        text = text.replace(f'{_OPERATOR}"longspan::', f'{_OPERATOR}f"{{_NAMESPACE}}::')
    # transformers ignores imports inside of try, and takes the others for requirements.
    text = _KERNELS.sub(r"try:\n    \1\nexcept ImportError:\n    raise", text)
    for name in _OPTIONAL:
        text = re.sub(
            rf"^( *)(from {re.escape(name)} import \w+)$",
            r"\1try:\n\1    \2\n\1except ImportError as error:\n"
            r'\1    raise ImportError("this needs longspan itself: pip install longspan") from error',
            text,
            flags=re.MULTILINE,
        )
    return f"{_HEADER}\n{text}"


def _flat(name: str) -> str:
    return name.replace(".", "_")
