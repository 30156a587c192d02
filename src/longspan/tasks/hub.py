"""The tasks' data sets as the Hugging Face hub holds them, read with ``datasets`` into what the official files hold.

A source is ``hub:NAME`` or ``hub:NAME:CONFIG``; NAME is a data set's, or a folder that ``datasets`` reads. Needs the
extra ``train``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from longspan.data.stream import HUB
from longspan.tasks.contract_nli import LABELS as CONTRACT_LABELS
from longspan.tasks.contract_nli import ContractPair
from longspan.tasks.coreference import CoreferenceDocument, Mention, merge_clusters
from longspan.tasks.documents import LabelledText
from longspan.tasks.files import check_new, check_object, take, take_strings
from longspan.tasks.hotpotqa import HotpotQuestion, hotpotqa_questions
from longspan.tasks.hyperpartisan import clean_article, strip_markup
from longspan.tasks.imdb import without_breaks
from longspan.tasks.race import ChoiceQuestion, race_questions
from longspan.tasks.triviaqa import Domain, TriviaQADocument, TriviaQAQuestion, triviaqa_answers
from longspan.tasks.wikihop import WikiHopQuestion, wikihop_questions

Rows = Iterator[tuple[str, dict[str, Any]]]
"""``(place, row)``, the place being for messages."""

_SPLITS = {"train": ("train",), "eval": ("validation", "dev", "val"), "test": ("test",)}


def read_hub_rows(source: str, split: str) -> Rows:
    """The rows of a split.

    Args:
        source: ``hub:NAME`` or ``hub:NAME:CONFIG``.
        split: ``train``, ``eval`` (the hub's ``validation``) or ``test``.

    Raises:
        FileNotFoundError: there is no such data set. ValueError: it can't be read, or has no such split or no row.
    """
    import datasets

    name, _, config = source.removeprefix(HUB).partition(":")
    try:
        parts = datasets.load_dataset(name, config or None)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(f"data set {name!r} can't be found: {' '.join(str(error).split())}") from error
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"data set {name!r} can't be read: {' '.join(str(error).split())}") from error
    found = next((part for part in _SPLITS[split] if part in parts), None)
    if found is None:
        raise ValueError(f"{source} has no split {_SPLITS[split][0]!r}; it has {', '.join(parts)}")
    if not len(parts[found]):
        raise ValueError(f"{source} has no row in split {found!r}")
    for number, row in enumerate(parts[found], start=1):
        yield f"{source} {found} row {number}", row


def wikihop_from_hub(rows: Rows) -> list[WikiHopQuestion]:
    """``qangaroo:wikihop``: the official fields, with an empty answer in the test split."""
    return wikihop_questions((place, _without_empty(row, "answer")) for place, row in rows)


def hotpotqa_from_hub(rows: Rows) -> list[HotpotQuestion]:
    """``hotpotqa/hotpot_qa:distractor``: ``id``, ``question``, ``answer``, and ``context`` and ``supporting_facts``
    with a list for each of their fields.
    """

    def official(place: str, row: dict[str, Any]) -> dict[str, Any]:
        entry = {**row, "_id": take(row, "id", str, place)}
        for field, names in (("context", ("title", "sentences")), ("supporting_facts", ("title", "sent_id"))):
            entry[field] = [[held[name] for name in names] for held in _records(row, field, names, place)]
        return entry

    return hotpotqa_questions((place, official(place, row)) for place, row in rows)


def triviaqa_domain(source: str) -> Domain | None:
    """The domain that a source's configuration names, ``rc.wikipedia`` or ``rc.web``; None: it names neither."""
    config = source.removeprefix(HUB).partition(":")[2].lower()
    return "Web" if "web" in config else "Wikipedia" if "wikipedia" in config else None


def triviaqa_from_hub(rows: Rows, domain: Domain | None = None) -> list[TriviaQAQuestion]:
    """``mandarjoshi/trivia_qa:rc.wikipedia`` or ``:rc.web``: the evidence is in the rows.

    Args:
        rows: of a split.
        domain: of all its questions; None: one with results of a search is of the Web domain, others are of the
            Wikipedia domain.
    """
    questions = []
    seen: set[str] = set()
    for place, row in rows:
        check_new(take(row, "question_id", str, place), seen, place)
        documents = []
        for page in _records(row, "entity_pages", ("filename", "wiki_context"), place):
            filename, text = (take(page, name, str, f"{place} entity_pages") for name in ("filename", "wiki_context"))
            documents.append(TriviaQADocument(folder="wikipedia", filename=filename, text=text))
        results = list(_records(row, "search_results", ("filename", "search_context"), place))
        for page in results:
            filename, text = (
                take(page, name, str, f"{place} search_results") for name in ("filename", "search_context")
            )
            documents.append(TriviaQADocument(folder="web", filename=filename, text=text))
        if not documents:
            raise ValueError(f"{place} has no document in 'entity_pages' or 'search_results'; use a configuration rc")
        answer = take(row, "answer", dict, place)
        aliases = truths = None
        if answer.get("normalized_aliases"):
            fields = {"NormalizedAliases": "normalized_aliases", "Aliases": "aliases", "Value": "value"}
            official = {name: answer.get(hub) for name, hub in fields.items()}
            aliases, truths = triviaqa_answers({"Answer": official}, place)
        questions.append(
            TriviaQAQuestion(
                id=take(row, "question_id", str, place),
                domain=domain or ("Web" if results else "Wikipedia"),
                question=take(row, "question", str, place),
                aliases=aliases,
                truths=truths,
                documents=tuple(documents),
            )
        )
    return questions


def race_from_hub(rows: Rows) -> list[ChoiceQuestion]:
    """``ehovy/race:all``, ``:middle`` or ``:high``: a row for each question."""
    questions: list[ChoiceQuestion] = []
    counts: dict[str, int] = {}
    for place, row in rows:
        name = take(row, "example_id", str, place)
        number = counts[name] = counts.get(name, -1) + 1
        entry = {
            "id": name,
            "article": take(row, "article", str, place),
            "questions": [take(row, "question", str, place)],
            "answers": [take(row, "answer", str, place)],
            "options": [take_strings(row, "options", place)],
        }
        (question,) = race_questions(entry, place)
        questions.append(replace(question, id=f"{name}/{number}"))
    return questions


def hyperpartisan_from_hub(rows: Rows, *, clean: bool = True) -> list[LabelledText]:
    """``SemEvalWorkshop/hyperpartisan_news_detection:byarticle``: ``text`` with markup, and ``hyperpartisan``."""
    documents = []
    for number, (place, row) in enumerate(rows):
        text = strip_markup(take(row, "text", str, place))
        text = _not_empty(clean_article(text) if clean else text, place)
        label = int(take(row, "hyperpartisan", bool, place))
        documents.append(LabelledText(id=f"{number:07d}", text=text, label=label))
    return documents


def imdb_from_hub(rows: Rows) -> list[LabelledText]:
    """``stanfordnlp/imdb``: ``text``, and ``label`` 0 for negative and 1 for positive; it doesn't name the films."""
    documents = []
    for number, (place, row) in enumerate(rows):
        label = take(row, "label", int, place)
        if label not in (0, 1):
            raise ValueError(f"{place}: 'label' is {label}; it must be 0 or 1")
        text = _not_empty(without_breaks(take(row, "text", str, place)), place)
        documents.append(LabelledText(id=str(number), text=text, label=label))
    return documents


def contract_nli_from_hub(rows: Rows) -> list[ContractPair]:
    """``kiddothe2b/contract-nli:contractnli_b`` (whole contracts; ``_a`` has their evidence only): ``premise``,
    ``hypothesis`` and ``label`` in the order of the official choices.
    """
    pairs = []
    for number, (place, row) in enumerate(rows):
        label = take(row, "label", int, place)
        if not 0 <= label < len(CONTRACT_LABELS):
            raise ValueError(f"{place}: 'label' is {label}; it must be in 0 .. {len(CONTRACT_LABELS) - 1}")
        pairs.append(
            ContractPair(
                id=str(number),
                contract=take(row, "premise", str, place),
                hypothesis=take(row, "hypothesis", str, place),
                label=label,
                evidence=(),
            )
        )
    return pairs


def coreference_from_hub(rows: Rows) -> list[CoreferenceDocument]:
    """``ontonotes/conll2012_ontonotesv5:english_v4``: ``document_id`` and ``sentences`` with ``part_id``, ``words``,
    ``speaker`` and ``coref_spans``, each ``[cluster, first word, last word]`` counted in the sentence.
    """
    parts: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for place, row in rows:
        name = take(row, "document_id", str, place)
        names = ("part_id", "words", "speaker", "coref_spans")
        for sentence in _records(row, "sentences", names, place):
            words = take_strings(sentence, "words", f"{place} sentences", least=1)
            for span in take(sentence, "coref_spans", list, f"{place} sentences"):
                bounds = [bound for bound in span if type(bound) is int] if isinstance(span, (list, tuple)) else []
                if len(bounds) != 3 or not 0 <= bounds[1] <= bounds[2] < len(words):
                    raise ValueError(
                        f"{place}: 'coref_spans' holds {span} in a sentence of {len(words)} words; it must be "
                        f"[cluster, first word, last word], counted from 0"
                    )
            parts.setdefault((name, take(sentence, "part_id", int, f"{place} sentences")), []).append(sentence)
    documents = []
    for (name, part), sentences in parts.items():
        clusters: dict[int, set[Mention]] = {}
        at = 0
        for sentence in sentences:
            for cluster, first, last in sentence["coref_spans"]:
                clusters.setdefault(cluster, set()).add(Mention(at + first, at + last))
            at += len(sentence["words"])
        documents.append(
            CoreferenceDocument(
                name=name,
                part=part,
                sentences=tuple(tuple(sentence["words"]) for sentence in sentences),
                speakers=tuple((sentence["speaker"] or "-",) * len(sentence["words"]) for sentence in sentences),
                clusters=merge_clusters(clusters.values()),
            )
        )
    return documents


def _records(row: dict[str, Any], field: str, names: Sequence[str], place: str) -> Iterator[dict[str, Any]]:
    """Objects of a field, which ``datasets`` gives as a list of objects or as an object of lists."""
    if field not in row:
        raise ValueError(f"{place} has no field {field!r}; it has {', '.join(map(repr, row))}")
    held = row[field]
    if isinstance(held, dict):
        columns = [take(held, name, list, f"{place} {field}") for name in names]
        if len({len(column) for column in columns}) > 1:
            sizes = ", ".join(f"{len(column)} {name}" for name, column in zip(names, columns, strict=True))
            raise ValueError(f"{place} {field} has {sizes}; they must be as many of each")
        yield from (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))
        return
    for entry in held or ():
        entry = check_object(entry, f"{place} {field}")
        for name in names:
            if name not in entry:
                raise ValueError(f"{place} {field} has no field {name!r}; it has {', '.join(map(repr, entry))}")
        yield entry


def _not_empty(text: str, place: str) -> str:
    if not text:
        raise ValueError(f"{place} has no text; take the row out")
    return text


def _without_empty(row: dict[str, Any], field: str) -> dict[str, Any]:
    return row if row.get(field) else {name: value for name, value in row.items() if name != field}
