"""Coreference: the format of CoNLL-2012 read and written, and its three metrics on cases worked by hand."""

import gzip
from pathlib import Path

import pytest

from longspan.tasks.coreference import CoreferenceDocument, Mention, merge_clusters, read_conll, write_conll
from longspan.tasks.coreference_metric import evaluate_coreference, score_coreference


def line(word: str, marks: str = "-", number: int = 0, speaker: str = "Speaker#1") -> str:
    return f"bc/cctv/00/cctv_0000   0   {number}   {word}   NN   (NP*)   -   -   -   {speaker}   *   (A0*)   {marks}"


GOLD = "\n".join(
    [
        "#begin document (bc/cctv/00/cctv_0000); part 000",
        line("The", "(1|(2", 0),
        line("court", "2)", 1),
        line("of", "-", 2),
        line("Oslo", "(3)|1)", 3),
        "",
        line("It", "(1)", 0, "-"),
        line("likes", "-", 1, "-"),
        line("Oslo", "(3)", 2, "-"),
        line("itself", "(2)", 3, "-"),
        "",
        "#end document",
        "#begin document (bc/cctv/00/cctv_0000); part 001",
        line("Yes", "-"),
        "",
        "#end document",
        "",
    ]
)


def clusters(*texts: str) -> tuple[tuple[Mention, ...], ...]:
    """``"ab"`` is a cluster of two mentions of a word each."""
    return tuple(tuple(Mention(ord(letter), ord(letter)) for letter in text) for text in texts)


def test_official_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.v4_gold_conll").write_text(GOLD, encoding="utf-8")
    first, second = read_conll(tmp_path / "a.v4_gold_conll")
    assert first.key == "bc/cctv/00/cctv_0000_0"
    assert first.sentences == (("The", "court", "of", "Oslo"), ("It", "likes", "Oslo", "itself"))
    assert first.speakers == (("Speaker#1",) * 4, ("-",) * 4)
    assert first.clusters == (((0, 1), (7, 7)), ((0, 3), (4, 4)), ((3, 3), (6, 6)))
    assert (second.part, second.clusters) == (1, ())
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.gold_conll.gz").write_bytes(gzip.compress(GOLD.replace("cctv_0000", "x").encode()))
    (tmp_path / "deep" / "b.onf").write_text("something else")
    assert [document.name for document in read_conll(tmp_path)] == ["bc/cctv/00/cctv_0000"] * 2 + ["bc/cctv/00/x"] * 2


def test_clusters_that_share_a_mention_become_one_and_single_ones_stay() -> None:
    first, second, third = Mention(0, 1), Mention(2, 2), Mention(5, 6)
    assert merge_clusters([{first, second}, {third}, {second, Mention(9, 9)}]) == (
        (first, second, Mention(9, 9)),
        (third,),
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("2)", "2", r"a.conll line 3: the last column is '2'; it must be '-' or marks such as \(7\|8\)\|\(9\)"),
        ("2)", "5)", "a.conll line 3: a mention of cluster 5 ends that never began"),
        ("2)", "-", "a.conll line 2: a mention of cluster 2 begins that never ends"),
        ("   *   (A0*)   2)", "", "a.conll line 3 has 10 columns; a word of CoNLL-2012 has at least 12"),
        ("#end document\n#begin", "#begin", "a.conll line 12 begins a document, but that of .*line 1 has no '#end"),
        ("part 001", "part 000", "a part 000 of document bc/cctv/00/cctv_0000 came before"),
        (
            "#begin document (bc",
            "#begin document bc",
            "a.conll line 1 is '#begin document bc.*must be '#begin document",
        ),
    ],
)
def test_malformed_files_are_one_sentence(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOLD
    (tmp_path / "a.conll").write_text(GOLD.replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        read_conll(tmp_path / "a.conll")


def test_missing_and_empty_files_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("")
    with pytest.raises(ValueError, match="holds no '#begin document'"):
        read_conll(tmp_path / "a.conll")
    with pytest.raises(FileNotFoundError, match="holds no file whose name ends in gold_conll"):
        read_conll(tmp_path)
    (tmp_path / "a.conll").write_text(GOLD[: GOLD.rindex("#end")])
    with pytest.raises(ValueError, match="line 13 begins a document that has no '#end document'"):
        read_conll(tmp_path / "a.conll")
    (tmp_path / "a.conll").write_text(line("Alone"))
    with pytest.raises(ValueError, match="line 1 stands outside of any document"):
        read_conll(tmp_path / "a.conll")


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text(GOLD)
    documents = read_conll(tmp_path / "a.conll")
    nested = (((0, 7), (0, 3), (1, 3), (2, 3), (3, 3)), ((0, 3 + 1), (4, 4)))
    made = tuple(tuple(sorted(Mention(*mention) for mention in cluster)) for cluster in nested)
    write_conll(tmp_path / "out.conll", documents, {documents[0].key: made})
    again = read_conll(tmp_path / "out.conll")
    assert again[0].clusters == tuple(sorted(made))
    assert (again[0].sentences, again[0].speakers) == (documents[0].sentences, documents[0].speakers)
    assert again[1].clusters == ()
    with pytest.raises(ValueError, match=r"mentions \(0, 2\) and \(1, 3\) of one cluster cross"):
        write_conll(tmp_path / "out.conll", documents, {documents[0].key: ((Mention(0, 2), Mention(1, 3)),)})
    with pytest.raises(ValueError, match=r"mention \(7, 8\) lies outside of its 8 words"):
        write_conll(tmp_path / "out.conll", documents, {documents[0].key: ((Mention(7, 8), Mention(1, 1)),)})
    assert read_conll(tmp_path / "out.conll") == again


def test_metrics_on_the_worked_example_of_the_reference_paper() -> None:
    """Key {a b c} {d e f g}, response {a b} {c d} {f g h i}: e is missed, h and i are invented."""
    scores = score_coreference([(clusters("abc", "defg"), clusters("ab", "cd", "fghi"))])
    assert scores["muc"] == pytest.approx((2 / 5, 2 / 5, 2 / 5))
    recall, precision = (4 / 3 + 1 / 3 + 1 / 4 + 4 / 4) / 7, (4 / 2 + 1 / 2 + 1 / 2 + 4 / 4) / 8
    assert scores["b_cubed"] == pytest.approx((recall, precision, 2 * recall * precision / (recall + precision)))
    # {a b c} with {a b}: 2 * 2 / 5; {d e f g} with {f g h i}: 2 * 2 / 8.
    assert scores["ceaf_e"][:2] == pytest.approx((1.3 / 2, 1.3 / 3))


@pytest.mark.parametrize(
    ("key", "response", "muc", "b_cubed", "ceaf"),
    [
        (("abc", "de"), ("abc", "de"), (1, 1), (1, 1), (1, 1)),
        (("abc",), (), (0, 0), (0, 0), (0, 0)),  # nothing found
        ((), ("ab",), (0, 0), (0, 0), (0, 0)),  # nothing to find
        (("ab",), ("cd",), (0, 0), (0, 0), (0, 0)),  # no mention in common
        # Clusters of one: no link is right or wrong, each is a mention in the two others.
        (("a", "b"), ("a", "b"), (0, 0), (1, 1), (1, 1)),
        (("ab", "c"), ("ab",), (1, 1), (2 / 3, 1), (1 / 2, 1)),
        # All in one: every link that is right is there, and one that isn't.
        (("ab", "cd"), ("abcd",), (1, 2 / 3), (1, 1 / 2), (2 / 3 / 2, 2 / 3)),
        # Everything apart.
        (("abcd",), ("ab", "cd"), (2 / 3, 1), (1 / 2, 1), (2 / 3, 2 / 3 / 2)),
        # Of two equal pairings only one is taken, and a mention without its twin stays in its cluster.
        (("abx",), ("a", "by"), (0, 0), ((1 + 1) / 3 / 3, (1 + 1 / 2) / 3), (2 / 4, 2 / 4 / 2)),
    ],
)
def test_metrics_on_cases_worked_by_hand(
    key: tuple[str, ...],
    response: tuple[str, ...],
    muc: tuple[float, float],
    b_cubed: tuple[float, float],
    ceaf: tuple[float, float],
) -> None:
    scores = score_coreference([(clusters(*key), clusters(*response))])
    assert scores["muc"][:2] == pytest.approx(muc)
    assert scores["b_cubed"][:2] == pytest.approx(b_cubed)
    assert scores["ceaf_e"][:2] == pytest.approx(ceaf)


def test_counts_are_summed_over_documents_not_scores() -> None:
    pairs = [(clusters("abcdefghi"), clusters("abcdefghi")), (clusters("ab"), clusters("a", "b"))]
    assert score_coreference(pairs)["muc"][:2] == pytest.approx((8 / 9, 1))


def test_official_score_is_the_mean_f1() -> None:
    words = (("a", "b", "c", "d"),)
    document = CoreferenceDocument(
        name="x", part=0, sentences=words, speakers=words, clusters=((Mention(0, 0), Mention(1, 1)),)
    )
    values = evaluate_coreference([document], {"x_0": ((Mention(0, 0), Mention(1, 1), Mention(2, 3)),)})
    assert values["muc_f1"] == pytest.approx(2 / 3)
    assert values["b_cubed_f1"] == pytest.approx(8 / 13)  # of 1 and (2 * 2 / 3) / 3
    assert values["ceaf_e_f1"] == pytest.approx(4 / 5)
    assert values["conll_f1"] == pytest.approx((2 / 3 + 8 / 13 + 4 / 5) / 3)
    assert evaluate_coreference([document], {})["conll_f1"] == 0
    with pytest.raises(ValueError, match="a prediction is for 'y_0', which is no part"):
        evaluate_coreference([document], {"y_0": ()})
    with pytest.raises(ValueError, match=r"mention \(1, 1\) is in two clusters"):
        evaluate_coreference([document], {"x_0": ((Mention(1, 1), Mention(0, 0)), (Mention(1, 1), Mention(2, 2)))})
