"""Queries are classified by the nearest text, a learned embedding stands for no object."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from opentrans_cli.frameworks.base import ClassText
from opentrans_cli.frameworks.query_segmentor import PooledQueryClassifier, QueryClassifier, text_logits

CLASS_INDICES = (1, 0, 1, 2, 2, 1)


@pytest.fixture
def words():
    rows = F.normalize(torch.randn(6, 16, generator=torch.Generator().manual_seed(5)), dim=1)
    return ClassText(rows, CLASS_INDICES, (True, False, True))


@pytest.fixture
def states():
    return torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(6))


@pytest.fixture
def seen_by_masks():
    generator = torch.Generator().manual_seed(7)
    return torch.randn(2, 32, 6, 5, generator=generator), torch.randn(2, 7, 6, 5, generator=generator)


def test_a_class_has_the_logit_of_its_best_synonym(words):
    embeddings = torch.randn(2, 7, 16)
    logits = text_logits(embeddings, words, scale=torch.tensor(3.0))
    assert logits.shape == (2, 7, 3)
    for c in range(3):
        synonyms = [s for s in range(6) if CLASS_INDICES[s] == c]
        expected = (3 * embeddings @ words.embeddings[synonyms].T).max(-1).values
        torch.testing.assert_close(logits[..., c], expected)


def test_query_classifier_is_the_cosine_with_text_and_with_no_object(words, states):
    torch.manual_seed(0)
    classifier = QueryClassifier(32, 16)
    classifier.logit_scale.data.fill_(6.0)  # exp(6) is beyond CLIP's bound, which does not hold here
    hidden = classifier.class_embed(states).clamp(min=0)
    embeddings = hidden @ classifier.embed_proj.weight.T + classifier.embed_proj.bias
    names = torch.cat([words.embeddings, classifier.non_object_embedding])
    cosine = F.cosine_similarity(embeddings[:, :, None], names, dim=-1) * torch.tensor(6.0).exp()
    expected = torch.stack(
        [*(cosine[..., [s for s in range(6) if CLASS_INDICES[s] == c]].amax(-1) for c in range(3)), cosine[..., -1]], -1
    )
    torch.testing.assert_close(classifier(states, words).logits, expected, atol=1e-3, rtol=1e-4)


def test_pooled_classifier_adds_what_is_in_the_mask_to_the_state(words, states, seen_by_masks):
    torch.manual_seed(0)
    classifier = PooledQueryClassifier(32, 16)
    features, masks = seen_by_masks
    masks[1, 2] = -1.0  # empty
    logits = classifier(states, features, masks, words).logits
    assert logits.shape == (2, 7, 4)
    for b, q in [(0, 0), (0, 5), (1, 2), (1, 6)]:
        inside = features[b][:, masks[b, q] > 0]
        pooled = inside.mean(1) if inside.shape[1] else torch.zeros(32)
        pooled = classifier.pool_proj(F.layer_norm(pooled, (32,)))
        embedding = classifier.class_embed(pooled + states[b, q])
        names = torch.cat([words.embeddings, classifier.void_embedding])
        cosine = F.cosine_similarity(embedding, names, dim=-1) / 0.07
        expected = [cosine[[s for s in range(6) if CLASS_INDICES[s] == c]].max() for c in range(3)] + [cosine[-1]]
        torch.testing.assert_close(logits[b, q], torch.stack(expected), atol=1e-5, rtol=1e-4)


def test_the_scale_of_the_pooled_classifier_is_bounded_and_masks_learn_nothing_from_classes(
    words, states, seen_by_masks
):
    classifier = PooledQueryClassifier(32, 16)
    classifier.logit_scale.data.fill_(9.0)
    features, masks = (part.requires_grad_() for part in seen_by_masks)
    logits = classifier(states, features, masks, words).logits
    assert logits.abs().max() <= 100.001
    logits.square().sum().backward()
    assert masks.grad is None and features.grad.any()


@pytest.mark.parametrize("kind", [QueryClassifier, PooledQueryClassifier])
def test_logits_are_those_of_the_embeddings_beside_the_text_and_every_parameter_learns(
    kind, states, words, seen_by_masks
):
    torch.manual_seed(0)
    classifier = kind(32, 16)
    more = seen_by_masks if kind is PooledQueryClassifier else ()
    found = classifier(states, *more, words)
    assert found.state.shape == (2, 7, 32)
    torch.testing.assert_close(found.embedding.norm(dim=-1), torch.ones(2, 7))
    again = text_logits(found.embedding, words, scale=classifier.logit_scale.exp())
    torch.testing.assert_close(found.logits[..., :-1], again)
    found.logits.square().sum().backward()
    for name, parameter in classifier.named_parameters():
        assert torch.isfinite(parameter.grad).all() and parameter.grad.any(), name
    alone = ClassText(F.normalize(torch.ones(1, 16), dim=1), (0,), (True,))
    assert classifier(states, *more, alone).logits.shape == (2, 7, 2)
