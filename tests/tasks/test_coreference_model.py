"""The coarse-to-fine head: pruning, scores against a plain computation, learning, memory."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from one_step import one_step
from transformers import PreTrainedTokenizerBase

from longspan.tasks.coreference import CoreferenceDocument, Mention
from longspan.tasks.coreference_head import CoreferenceHead, best_without_crossing
from longspan.tasks.coreference_layout import CoreferenceLayout, decode_coreference
from longspan.tasks.coreference_metric import evaluate_coreference
from longspan.tasks.coreference_model import LongformerForCoreference

SIZES = {
    "hidden_size": 32,
    "feature_size": 4,
    "max_span_width": 6,
    "max_antecedents": 12,
    "dropout": 0.0,
    "top_span_ratio": 0.8,
}


def make_document(seed: int, sentences: int = 4, name: str = "bc/x") -> CoreferenceDocument:
    """Buyers and sellers, each named by one word and at times with an article, filler between."""
    draw = random.Random(seed)
    words: list[tuple[str, ...]] = []
    found: dict[str, list[Mention]] = {"buyer": [], "seller": [], "court": []}
    at = 0
    for _ in range(sentences):
        sentence = []
        for _ in range(3):
            who = draw.choice(sorted(found))
            mention = ["the", who] if draw.random() < 0.5 else [who]
            found[who].append(Mention(at, at + len(mention) - 1))
            filler = draw.sample(["price", "goods", "shall", "law"], 2)
            sentence += [*mention, *filler]
            at += len(mention) + 2
        words.append(tuple(sentence))
    return CoreferenceDocument(
        name=name,
        part=seed,
        sentences=tuple(words),
        speakers=tuple(tuple("-" * len(sentence)) for sentence in words),
        clusters=tuple(sorted(tuple(mentions) for mentions in found.values() if len(mentions) > 1)),
    )


def predict(model: Any, layout: CoreferenceLayout, documents: list[CoreferenceDocument]) -> dict[str, Any]:
    batch = layout.collate([layout.encode(document) for document in documents])
    with torch.no_grad():
        output = model.eval()(**{name: value for name, value in batch.items() if name != "labels"})
    return {
        document.key: decode_coreference(output.spans[at], output.antecedents[at], output.antecedent_scores[at])
        for at, document in enumerate(documents)
    }


def test_it_learns_a_small_corpus(words: PreTrainedTokenizerBase, build: Any) -> None:
    documents = [make_document(seed) for seed in range(3)]
    layout = CoreferenceLayout(words)
    model = build(LongformerForCoreference, words, coreference=SIZES)
    assert evaluate_coreference(documents, predict(model, layout, documents))["conll_f1"] < 0.5
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    batch = layout.collate([layout.encode(document) for document in documents])
    for _ in range(60):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    assert evaluate_coreference(documents, predict(model, layout, documents))["conll_f1"] > 0.9


def test_gradients_reach_every_weight(words: PreTrainedTokenizerBase, build: Any) -> None:
    layout = CoreferenceLayout(words)
    model = build(LongformerForCoreference, words, coreference=SIZES).train()
    model(**layout.collate([layout.encode(make_document(1))])).loss.backward()
    without = [
        name
        for name, weight in model.named_parameters()
        if (weight.grad is None or not weight.grad.any()) and "_global" not in name
    ]
    assert without == []


def test_accumulated_gradients_are_the_big_batchs(words: PreTrainedTokenizerBase, build: Any, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    from transformers import Trainer

    layout = CoreferenceLayout(words)
    examples = [layout.encode(make_document(seed)) for seed in range(2)]
    models = []
    for batch in (2, 1):
        torch.manual_seed(0)
        model = build(LongformerForCoreference, words, coreference=SIZES)
        arguments = one_step(tmp_path, batch, 2 // batch, 0.01, remove_unused_columns=False)
        Trainer(model, arguments, train_dataset=examples, data_collator=layout.collate).train()
        models.append(model)
    for (name, one), other in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-4, msg=name)


def test_documents_of_a_batch_and_rows_dont_mix(words: PreTrainedTokenizerBase, build: Any) -> None:
    first, second = make_document(1, 3), make_document(2, 9)
    layout = CoreferenceLayout(words)
    model = build(LongformerForCoreference, words, coreference=SIZES)
    alone = [model(**layout.collate([layout.encode(document)])) for document in (first, second)]
    both = model(**layout.collate([layout.encode(first), layout.encode(second)]))
    torch.testing.assert_close(both.loss, (alone[0].loss + alone[1].loss) / 2)
    kept = alone[0].spans.shape[1]
    assert torch.equal(both.spans[0, :kept], alone[0].spans[0])
    assert bool((both.spans[0, kept:] == -1).all())


def test_long_documents_go_on_in_further_rows(words: PreTrainedTokenizerBase, build: Any) -> None:
    document = make_document(5, 8)
    example = CoreferenceLayout(words, max_length=24).encode(document)
    assert len(example.input_ids) > 2
    assert all(len(row) <= 24 for row in example.input_ids)
    seen = [word for row in example.word_ids for word in row if word >= 0]
    assert seen == sorted(seen)
    assert set(seen) == set(range(sum(map(len, document.sentences))))
    model = build(LongformerForCoreference, words, coreference=SIZES)
    output = model(**CoreferenceLayout(words, max_length=24).collate([example]))
    assert output.spans[0, -1, 0] > example.word_ids[0][-2]
    crossing = [
        spans for spans in output.spans[0].tolist() if _sentence(document, spans[0]) != _sentence(document, spans[1])
    ]
    assert crossing == []


def _sentence(document: CoreferenceDocument, word: int) -> int:
    return int(np.searchsorted(np.cumsum([len(sentence) for sentence in document.sentences]), word, side="right"))


def test_scores_equal_a_plain_computation(words: PreTrainedTokenizerBase, build: Any) -> None:
    """Every span and every pair by the formulas of Lee et al. (2018), without blocks, splits or pruning of pairs."""
    sizes = {**SIZES, "max_antecedents": 500, "top_span_ratio": 0.9}
    model = build(LongformerForCoreference, words, coreference=sizes)
    head: CoreferenceHead = model.coreference
    with torch.no_grad():
        for weight in head.parameters():
            weight.normal_(0, 0.3)
    length = 40
    hidden = torch.randn(length, 24)
    words_of, speakers = torch.arange(length) // 2, torch.arange(length) // 7
    sentences = torch.arange(length) // 10
    found = head(hidden, words_of, sentences, speakers, torch.tensor(3))
    spans = [
        (begin, end)
        for begin in range(0, length, 2)
        for end in range(begin + 1, min(begin + 6, length), 2)
        if sentences[begin] == sentences[end]
    ]

    def vector(begin: int, end: int) -> torch.Tensor:
        inside = hidden[begin : end + 1]
        weights = head.head_attention(inside).softmax(0)
        return torch.cat(
            [hidden[begin], hidden[end], head.width_embeddings.weight[end - begin], (weights * inside).sum(0)]
        )

    def mention(span: tuple[int, int]) -> float:
        prior = head.width_scorer(head.width_prior_embeddings.weight[span[1] - span[0]])
        return (head.mention_scorer(vector(*span)) + prior).item()

    with torch.no_grad():
        scores = np.array([mention(span) for span in spans])
        begins, ends = np.array(spans).T
        chosen = best_without_crossing(begins, ends, scores, length, 36)
        kept = [spans[at] for at in chosen]
        assert found.spans.tolist() == [list(span) for span in kept]
        vectors = torch.stack([vector(*span) for span in kept])
        count = len(kept)
        coarse, fine = torch.zeros(count, count), torch.zeros(count, count)
        buckets = {
            distance: min(distance, 4) if distance < 5 else min(int(np.log2(distance)) + 3, 9) for distance in range(50)
        }
        for layer in range(2):
            for i in range(count):
                for j in range(i):
                    distance = buckets[i - j]
                    if layer == 0:
                        prior = head.distance_scorer(head.distance_prior_embeddings.weight[distance])
                        product = head.coarse_projection(vectors[i]) @ vectors[j]
                        coarse[i, j] = product + prior + mention(kept[i]) + mention(kept[j])
                    same = int(speakers[kept[i][0]] == speakers[kept[j][0]])
                    features = [
                        head.speaker_embeddings.weight[same],
                        head.genre_embeddings.weight[3],
                        head.distance_embeddings.weight[distance],
                    ]
                    pair = torch.cat([vectors[i], vectors[j], vectors[i] * vectors[j], *features])
                    fine[i, j] = head.antecedent_scorer(pair)
            if layer == 0:
                whole = (coarse + fine).masked_fill(torch.ones(count, count).triu().bool(), -torch.inf)
                weights = torch.cat([torch.zeros(count, 1), whole], dim=1).softmax(1)
                attended = weights[:, :1] * vectors + weights[:, 1:] @ vectors
                gate = head.refinement_gate(torch.cat([vectors, attended], dim=1)).sigmoid()
                vectors = gate * attended + (1 - gate) * vectors
        expected = (coarse + fine).masked_fill(torch.ones(count, count).triu().bool(), -torch.inf)
        made = torch.full((count, count), -torch.inf).scatter(1, found.antecedents, found.scores)
    torch.testing.assert_close(made, expected, rtol=2e-4, atol=2e-3)


def test_the_loss_is_the_marginal_likelihood(words: PreTrainedTokenizerBase, build: Any) -> None:
    model = build(LongformerForCoreference, words, coreference=SIZES)
    layout = CoreferenceLayout(words)
    document = make_document(3)
    with torch.no_grad():
        output = model(**layout.collate([layout.encode(document)]))
    cluster_of = {tuple(mention): number for number, cluster in enumerate(document.clusters) for mention in cluster}
    spans = [tuple(span) for span in output.spans[0].tolist()]
    loss = 0.0
    for span, antecedents, scores in zip(
        spans, output.antecedents[0].tolist(), output.antecedent_scores[0], strict=True
    ):
        powers = torch.cat([torch.zeros(1), scores]).softmax(0)
        right = [
            at + 1
            for at, (other, score) in enumerate(zip(antecedents, scores.tolist(), strict=True))
            if span in cluster_of and cluster_of.get(spans[other]) == cluster_of[span] and score > -np.inf
        ]
        loss -= float(powers[right or [0]].sum().log())
    assert output.loss.item() == pytest.approx(loss, rel=1e-4)


def test_pruning_prefers_better_spans_and_lets_none_cross() -> None:
    begins, ends = np.array([0, 1, 2, 4, 0]), np.array([2, 3, 2, 5, 5])
    scores = np.array([3.0, 4.0, 2.0, 1.0, 0.0])
    # (0, 2) crosses the better (1, 3); (2, 2) and (0, 5) nest with all.
    assert best_without_crossing(begins, ends, scores, 6, 9).tolist() == [4, 1, 2, 3]
    assert best_without_crossing(begins, ends, scores, 6, 2).tolist() == [1, 2]


def test_decoding_follows_links_and_leaves_nobody_alone() -> None:
    spans = torch.tensor([[0, 0], [2, 3], [5, 5], [7, 7], [-1, -1]])
    antecedents = torch.tensor([[0, 0], [0, 0], [1, 0], [2, 0], [0, 0]])
    scores = torch.tensor([[-9.0, -9.0], [1.0, -9.0], [-1.0, 0.5], [-0.1, -2.0], [-torch.inf, -torch.inf]])
    assert decode_coreference(spans, antecedents, scores) == (((0, 0), (2, 3), (5, 5)),)
    assert decode_coreference(spans, antecedents, scores - 9) == ()


def test_bad_input_is_one_sentence(words: PreTrainedTokenizerBase, build: Any) -> None:
    model = build(LongformerForCoreference, words, coreference=SIZES)
    ids = torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="word_ids and sentence_ids must be given"):
        model(ids)
    with pytest.raises(ValueError, match=r"speaker_ids must have shape \[R, N\] = \[1, 4\], got \[1, 3\]"):
        model(ids, word_ids=ids, sentence_ids=ids, speaker_ids=ids[:, :3])
    with pytest.raises(ValueError, match="document 0 has no word"):
        model(ids, word_ids=ids - 1, sentence_ids=ids)
    with pytest.raises(ValueError, match="coreference depth is 0; it must be greater than 0"):
        build(LongformerForCoreference, words, coreference={"depth": 0})


def test_one_word_is_a_document(words: PreTrainedTokenizerBase, build: Any) -> None:
    document = CoreferenceDocument(name="x", part=0, sentences=(("law",),), speakers=(("-",),), clusters=())
    model = build(LongformerForCoreference, words, coreference=SIZES)
    assert predict(model, CoreferenceLayout(words), [document]) == {"x_0": ()}


def test_memory_is_linear_in_the_document() -> None:
    """What the graph keeps for the backward pass, of twice the tokens."""

    class Config:
        hidden_size = 16
        coreference = {**SIZES, "max_antecedents": 8}  # noqa: RUF012

    head = CoreferenceHead(Config())  # type: ignore[arg-type]
    sizes = []
    for length in (1024, 2048):
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        numbers = torch.arange(length)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            found = head(torch.randn(length, 16, requires_grad=True), numbers, numbers // 20, numbers * 0, numbers[0])
        sizes.append(sum(kept.values()))
        assert found.scores.shape == (int(0.8 * length), 8)
    assert sizes[1] < 2.1 * sizes[0]
