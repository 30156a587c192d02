"""The official tasks by name."""

from longspan.data.spelling import hint
from longspan.tasks.official import OfficialTask
from longspan.tasks.official_coreference import Coreference
from longspan.tasks.official_labels import ContractNLI, EcthrArg, EcthrViolation, Hyperpartisan, Imdb, Quality, Race
from longspan.tasks.official_questions import HotpotQA, TriviaQA, WikiHop

TASKS: dict[str, type[OfficialTask]] = {
    task.name: task
    for task in (
        WikiHop,
        TriviaQA,
        HotpotQA,
        Coreference,
        Hyperpartisan,
        Imdb,
        ContractNLI,
        EcthrArg,
        EcthrViolation,
        Race,
        Quality,
    )
}
"""Name to class."""


def find_task(name: str) -> type[OfficialTask]:
    """The class of a task; ``_`` for ``-`` in its name is fine.

    Raises:
        ValueError: there is none of this name; the message has similar ones.
    """
    found = TASKS.get(name.replace("_", "-"))
    if found is None:
        meant = hint(name, TASKS, f"there are {', '.join(TASKS)}", most=2)
        raise ValueError(f"there is no task {name!r}; {meant}")
    return found
