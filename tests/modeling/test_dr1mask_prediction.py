"""Instance prediction modules: in boxes and over the image."""

import pytest
import torch

from adet_ext.layers.blend_reference import crop_bases, merge_crops
from adet_ext.modeling.mask.dr1prediction import FactoredPrediction, FullPrediction, VectorPrediction

CROP = {"size": 8, "scale": 0.25, "sampling_ratio": 1, "pooler_type": "ROIAlignV2"}
WIDTH = 5


def make(kind: str):
    torch.manual_seed(0)
    maps = {"num_bases": 4, "side": 4, "top_interp": "bilinear"}
    if kind == "vector":
        return VectorPrediction(width=WIDTH, crop=CROP)
    if kind == "full":
        return FullPrediction(width=WIDTH, crop=CROP, **maps)
    return FactoredPrediction(width=WIDTH, crop=CROP, rank=3, softmax=kind == "factored", **maps)


KINDS = ["vector", "full", "factored", "factored as printed"]


@pytest.mark.parametrize("kind, length", list(zip(KINDS, [WIDTH, 64, WIDTH * 4 + 12, WIDTH * 4 + 12])))
def test_embeddings_have_the_length_of_their_parts(kind, length):
    assert make(kind).embedding_length == length


def test_attention_lengths_are_those_of_the_thesis():
    maps = {"num_bases": 4, "side": 14, "top_interp": "bilinear", "crop": CROP, "width": 32}
    assert FullPrediction(**maps).embedding_length == 784
    assert FactoredPrediction(**maps, rank=4, softmax=True).lengths == [32 * 4, 16]


def test_factored_attention_equals_full_attention_with_its_maps():
    factored = make("factored").double()
    bases = torch.randn(2, WIDTH, 20, 24, dtype=torch.float64)
    boxes = torch.tensor([[4.0, 9, 61, 70], [30, 2, 90, 55], [0, 0, 96, 80]], dtype=torch.float64)
    image = torch.tensor([0, 1, 1])
    embeddings = torch.randn(3, factored.embedding_length, dtype=torch.float64)
    full = []
    for embedding, crop in zip(embeddings, crop_bases(bases, boxes, image, **CROP)):
        t, sigma = embedding[: WIDTH * 4].view(4, WIDTH), embedding[WIDTH * 4 :].view(4, 3)
        projected = torch.stack([(weights[:, None, None] * crop).sum(0) for weights in t])  # equation 5.7
        maps = torch.stack([factored.u[k].T @ sigma[k].diag() @ factored.v[k] for k in range(4)])  # equation 5.8
        full.append(merge_crops(projected[None], maps[None])[0])
    torch.testing.assert_close(factored(bases, embeddings, boxes, image), torch.stack(full))


def test_components_are_the_maps_of_one_hot_factors():
    factored = make("factored")
    components = factored.components()
    for k in range(4):
        for d in range(3):
            embedding = torch.zeros(1, factored.embedding_length)
            embedding[0, WIDTH * 4 + 3 * k + d] = 1
            torch.testing.assert_close(factored.attentions(embedding)[0, k], components[k, d])


@pytest.mark.parametrize("kind", KINDS)
def test_over_the_image_an_instance_is_what_it_is_in_its_box(kind):
    """In a box whose R x R samples are places of the bases, both give the same logits."""
    prediction = make(kind).double()
    bases = torch.randn(1, WIDTH, 20, 24, dtype=torch.float64)
    boxes = torch.tensor([[16.0, 8, 48, 40], [40, 32, 72, 64]], dtype=torch.float64)
    embeddings = torch.randn(2, prediction.embedding_length, dtype=torch.float64)
    inside = prediction(bases, embeddings, boxes, torch.tensor([0, 0]))
    over = prediction.over_image(bases[0], embeddings, boxes)
    assert over.shape == (2, 20, 24)
    for g, (x, y) in enumerate([(4, 2), (10, 8)]):
        torch.testing.assert_close(over[g, y : y + 8, x : x + 8], inside[g])


@pytest.mark.parametrize("kind", KINDS)
def test_a_strip_of_rows_is_that_part_of_the_image(kind):
    prediction = make(kind)
    bases = torch.randn(WIDTH, 20, 24)
    boxes = torch.tensor([[5.0, 9, 47, 66], [0, 0, 96, 80]])
    embeddings = torch.randn(2, prediction.embedding_length)
    whole = prediction.over_image(bases, embeddings, boxes)
    torch.testing.assert_close(prediction.over_image(bases[:, 7:15], embeddings, boxes, 7), whole[:, 7:15])


@pytest.mark.parametrize("kind", KINDS)
def test_no_instances_give_no_masks(kind):
    prediction = make(kind)
    none = torch.zeros(0, prediction.embedding_length)
    empty = prediction(torch.randn(1, WIDTH, 6, 7), none, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert empty.shape == (0, 8, 8)
    assert prediction.over_image(torch.randn(WIDTH, 6, 7), none, torch.zeros(0, 4)).shape == (0, 6, 7)


def test_without_softmax_the_factors_start_at_one():
    assert make("factored").initial_embedding().abs().sum() == 0
    start = make("factored as printed").initial_embedding()
    assert start[: WIDTH * 4].abs().sum() == 0 and (start[WIDTH * 4 :] == 1).all()
