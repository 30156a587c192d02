"""Names that are neither a folder nor a model on the hub, told at once: the hub's client tries for half a minute."""

from pathlib import Path

from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

_SECONDS = 10
_FILES = ("config.json", "tokenizer_config.json", "tokenizer.json")
"""Of a model or a tokenizer that was fetched before, one is in the hub's cache."""


def check_hub_name(name: str) -> None:
    """See that a model can be had by this name, by one short look at the hub unless it is here already.

    Args:
        name: a folder, or a name on the hub.

    Raises:
        FileNotFoundError: it is neither, or the hub can't be reached.
    """
    if Path(name).exists():
        return
    nowhere = f"there is no folder {name!r}"
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise FileNotFoundError(f"{nowhere}, and a model on the hub is named OWNER/NAME; correct the path") from error
    if any(isinstance(try_to_load_from_cache(name, file), str) for file in _FILES):
        return
    if constants.HF_HUB_OFFLINE:
        raise FileNotFoundError(
            f"{nowhere}, and no model of that name in the hub's cache; the hub isn't asked, since HF_HUB_OFFLINE is set"
        )
    try:
        HfApi().model_info(name, timeout=_SECONDS)
    except GatedRepoError:
        return  # transformers tells how to ask for it
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(f"{nowhere}, and no model of that name on the hub") from error
    except HfHubHTTPError:
        return  # a hub in trouble, which may still give the files
    except Exception as error:  # a connection's, of whatever library the client speaks through
        raise FileNotFoundError(
            f"{nowhere}, and the hub can't be reached to look for a model of that name ({type(error).__name__})"
        ) from error
