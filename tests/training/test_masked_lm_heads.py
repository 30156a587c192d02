"""Loading masked LMs, their limits, and the output layer at masked tokens only."""

from pathlib import Path

import pytest
import torch
from tiny_text import save_roberta, tiny_bert
from torch import nn
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    DistilBertConfig,
    DistilBertForMaskedLM,
    LongformerConfig,
    LongformerForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    T5Config,
)

from longspan.models.causal_configuration import LongformerCausalConfig
from longspan.models.hat_configuration import HATConfig
from longspan.training.masked_lm import (
    check_model_fits,
    load_masked_lm,
    load_tokenizer,
    masked_logits,
    masked_nats,
    max_sequence_length,
)


def tiny_longformer(vocabulary: int) -> PreTrainedModel:
    torch.manual_seed(3)
    config = LongformerConfig(
        vocab_size=vocabulary, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=66, attention_window=8, pad_token_id=1, bos_token_id=0, eos_token_id=2,
        type_vocab_size=1,
    )  # fmt: skip
    return LongformerForMaskedLM(config).eval()


def tiny_distilbert(vocabulary: int) -> PreTrainedModel:
    config = DistilBertConfig(vocab_size=vocabulary, dim=16, n_layers=1, n_heads=2, hidden_dim=32)
    return DistilBertForMaskedLM(config).eval()


@pytest.mark.parametrize("family", ["roberta", "bert", "longformer", "distilbert"])
def test_scores_at_masked_tokens_are_those_of_the_whole_model(
    family: str, roberta_dir: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    makers = {"bert": tiny_bert, "longformer": tiny_longformer, "distilbert": tiny_distilbert}
    size = len(tokenizer)
    model = load_masked_lm(roberta_dir).eval() if family == "roberta" else makers[family](size)
    ids = torch.randint(5, size, (2, 16))
    labels = torch.where(torch.rand(2, 16) < 0.3, ids, -100)
    chosen = labels != -100
    whole = model(input_ids=ids, labels=labels)
    logits = masked_logits(model, {"input_ids": ids}, chosen)
    assert logits.shape == (int(chosen.sum()), size)
    torch.testing.assert_close(logits, whole.logits[chosen])
    torch.testing.assert_close(masked_nats(logits, labels[chosen]).mean(), whole.loss)
    gradients = [
        torch.autograd.grad(loss, model.get_input_embeddings().weight)[0]
        for loss in (whole.loss, masked_nats(logits, labels[chosen]).mean())
    ]
    torch.testing.assert_close(*gradients)
    assert model(input_ids=ids).logits.shape == (2, 16, size), "the model is as it was"


def test_the_output_layer_sees_masked_tokens_only(roberta_dir: Path) -> None:
    model = load_masked_lm(roberta_dir)
    seen: list[torch.Size] = []
    model.lm_head.dense.register_forward_hook(lambda module, args, output: seen.append(args[0].shape))
    chosen = torch.zeros(2, 16, dtype=torch.bool)
    chosen[0, 3] = chosen[1, 5] = True
    masked_logits(model, {"input_ids": torch.full((2, 16), 9)}, chosen)
    assert seen == [(2, 16)]  # two tokens of hidden size 16


def test_a_batch_without_masked_tokens_has_a_gradient_of_zero(roberta_dir: Path) -> None:
    model = load_masked_lm(roberta_dir)
    logits = masked_logits(model, {"input_ids": torch.full((1, 4), 9)}, torch.zeros(1, 4, dtype=torch.bool))
    masked_nats(logits, torch.zeros(0, dtype=torch.long)).sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_limits_are_counted_in_tokens(roberta_dir: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    assert max_sequence_length(load_masked_lm(roberta_dir)) == 64  # 66 rows, the first two unused
    assert max_sequence_length(tiny_bert(300)) == 64
    # The tables of Chalkidis et al. have a row more than their configurations let texts reach.
    model = load_masked_lm(roberta_dir)
    model.config.model_max_length = 63
    assert max_sequence_length(model) == 63
    model.config.model_max_length = 1024
    assert max_sequence_length(model) == 64
    model = load_masked_lm(roberta_dir)
    model(input_ids=torch.full((1, 64), 9))
    with pytest.raises((IndexError, RuntimeError), match="out of"):
        model(input_ids=torch.full((1, 65), 9))


def test_a_model_with_too_few_positions_names_convert(roberta_dir: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    model = load_masked_lm(roberta_dir)
    check_model_fits(model, tokenizer, 64)
    with pytest.raises(
        ValueError, match=r"65, but the model has 64 positions; .*longspan convert .* --max-positions 65"
    ):
        check_model_fits(model, tokenizer, 65)
    with pytest.raises(ValueError, match=r"tokenizer has \d+ tokens, but the model knows 100"):
        check_model_fits(tiny_bert(100), tokenizer, 64)
    with pytest.raises(ValueError, match="global_tokens is 'cls', but RobertaForMaskedLM has no global attention"):
        check_model_fits(model, tokenizer, 64, "cls")


def test_longformer_folders_become_ours(tmp_path: Path) -> None:
    import longspan.models

    stock = tiny_longformer(300)
    stock.save_pretrained(tmp_path)
    ours = load_masked_lm(tmp_path).eval()
    assert isinstance(ours, longspan.models.LongformerForMaskedLM)
    ids = torch.randint(5, 300, (1, 24))
    torch.testing.assert_close(ours(ids).logits, stock(ids).logits, atol=1e-5, rtol=1e-5)


def test_random_weights_come_from_the_configuration(roberta_dir: Path) -> None:
    first, again = (load_masked_lm(roberta_dir, init="random", seed=4) for _ in range(2))
    other = load_masked_lm(roberta_dir, init="random", seed=5)
    kept = load_masked_lm(roberta_dir)
    weights = [model.roberta.embeddings.word_embeddings.weight for model in (first, again, other, kept)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(weights[3], AutoModelForMaskedLM.from_pretrained(roberta_dir).get_input_embeddings().weight)
    assert all(isinstance(model, nn.Module) and model.dtype == torch.float32 for model in (first, kept))


def test_a_model_without_the_head_is_refused_or_gets_one(tmp_path: Path, roberta_dir: Path) -> None:
    AutoModelForSequenceClassification.from_pretrained(roberta_dir).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks the head of a RobertaForMaskedLM \(lm_head\).*\(longspan pretrain\)"):
        load_masked_lm(tmp_path)
    first, again, other = (load_masked_lm(tmp_path, new_head=True, seed=seed) for seed in (4, 4, 5))
    heads = [model.lm_head.dense.weight for model in (first, again, other)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_a_model_of_another_kind_is_sent_to_its_verb(tmp_path: Path) -> None:
    LongformerCausalConfig(vocab_size=30).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a character language model; use longspan evaluate-lm, or longspan generate"):
        load_masked_lm(tmp_path)
    T5Config().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a 't5', which writes texts and tells no masked tokens"):
        load_masked_lm(tmp_path)
    HATConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a 'hierarchical-transformer', which is no masked language model"):
        load_masked_lm(tmp_path)


def test_weights_saved_in_half_are_trained_in_single(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    save_roberta(tmp_path, tokenizer)
    AutoModelForMaskedLM.from_pretrained(tmp_path).half().save_pretrained(tmp_path)
    assert load_masked_lm(tmp_path).dtype == torch.float32


def test_what_cannot_be_loaded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, roberta_dir: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no model folder"):
        load_masked_lm(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        load_masked_lm(tmp_path)
    (tmp_path / "config.json").write_text((roberta_dir / "config.json").read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"the weights of model .* can't be loaded: .*init 'random'"):
        load_masked_lm(tmp_path)
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match="can't be loaded"):
        load_masked_lm(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no tokenizer can be loaded from .*; name one as tokenizer"):
        load_tokenizer(tmp_path)
