"""A score in place of the head: any family opens as a classifier, learns as one, and is a reward model of TRL's."""

import pytest
import torch
from hf_example import rows
from torch.nn import functional as F

pytest.importorskip("transformers")

from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import positronic
from positronic.adapters.hf import PositronicForSequenceClassification
from positronic.errors import CheckpointError, GenerationError


@pytest.fixture
def scorer(folder):
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)


def padded(on_the_left):
    """Two rows, the second of which has five tokens of padding."""
    tokens, mask = rows(2, 12), torch.ones(2, 12, dtype=torch.long)
    mask[1, slice(0, 5) if on_the_left else slice(7, 12)] = 0
    return tokens, mask


def test_scores_are_read_off_the_last_real_token(scorer, theirs):
    assert type(scorer) is PositronicForSequenceClassification
    with torch.no_grad():
        for on_the_left in (False, True):
            tokens, mask = padded(on_the_left)
            found = scorer(tokens, attention_mask=mask).logits
            assert found.shape == (2, 3)
            for row in range(2):
                alone = theirs.base_model(tokens[row : row + 1, mask[row].bool()]).last_hidden_state[:, -1]
                wanted = alone @ scorer.score.weight.T
                assert (found[row] - wanted[0]).abs().max() < 1e-4 * wanted.abs().max()


def test_padding_tokens_say_where_a_row_ends_if_no_mask_does(scorer):
    tokens, mask = padded(on_the_left=False)
    tokens = tokens.masked_fill(mask == 0, scorer.config.pad_token_id)
    with torch.no_grad():
        found, wanted = scorer(tokens).logits, scorer(tokens, attention_mask=mask).logits
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()


@pytest.mark.parametrize(
    ("n", "labels", "cost"),
    [
        (3, torch.tensor([2, 0]), F.cross_entropy),
        (1, torch.tensor([0.5, -1.0]), lambda scores, labels: F.mse_loss(scores[:, 0], labels)),
        (3, torch.tensor([[1.0, 0, 1], [0, 0, 1]]), F.binary_cross_entropy_with_logits),
    ],
)
def test_the_loss_is_that_of_its_labels_and_reaches_the_core(n, labels, cost, folder):
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=n).train()
    out = model(rows(2, 12), labels=labels)
    assert out.loss.item() == pytest.approx(cost(out.logits, labels).item(), rel=1e-6)
    out.loss.backward()
    assert model.score.weight.grad.abs().sum() > 0
    assert model.get_input_embeddings().weight.grad.abs().sum() > 0


def test_a_classifier_is_saved_with_its_scores_and_is_no_language_model(scorer, tmp_path):
    scorer.save_pretrained(tmp_path)
    again, tokens = AutoModelForSequenceClassification.from_pretrained(tmp_path), rows(2, 9)
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, scorer(tokens).logits)
    with pytest.raises(CheckpointError, match=r"score\.weight"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError):
        positronic.load(tmp_path)


def test_what_the_base_refuses_a_classifier_refuses(scorer):
    with pytest.raises(TypeError, match="not_an_argument"):
        scorer(rows(1, 4), not_an_argument=1)
    with pytest.raises(GenerationError, match="give one of the two"):
        scorer()


def test_trls_reward_trainer_learns_which_answer_is_preferred(folder, tmp_path):
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    from start import PAIRS, settings

    how = settings(tmp_path, learning_rate=3e-3, per_device_train_batch_size=8)
    trainer = trl.RewardTrainer(
        AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1),
        args=trl.RewardConfig(max_length=128, **how),
        train_dataset=datasets.Dataset.from_list(PAIRS),
        eval_dataset=datasets.Dataset.from_list(PAIRS),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < 0.5 * before["eval_loss"]
    assert after["eval_accuracy"] > 0.95
