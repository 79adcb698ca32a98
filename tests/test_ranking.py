"""Which class is predicted: against plain Python, with ties, in every dtype, and where an answer is not finite."""

import math

import pytest
import torch

from lorattt.ranking import NO_CLASS, is_answer, is_right, top_k

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def in_order(row: list[float]) -> list[int]:
    """The rule, written once more: the larger first, of equal ones the lower number."""
    return sorted(range(len(row)), key=lambda number: (-row[number], number))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [1, 2, 7, 300])
@pytest.mark.parametrize("values", [2, 5, 10**5], ids=["two values", "few values", "all differ"])
def test_the_first_classes_by_plain_python(dtype: torch.dtype, classes: int, values: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randint(-values, values, (40, classes), generator=generator).double().div(7).to(dtype)
    logits[0] = 0
    logits[0, ::2] = -0.0  # equal to 0
    label = torch.randint(-1, classes, (40,), generator=generator)
    expected = [in_order(row) for row in logits.float().tolist()]
    for k in (1, 2, 5, classes, classes + 3):
        assert top_k(logits, k).tolist() == [order[:k] for order in expected]
        right = [known in order[:k] for known, order in zip(label.tolist(), expected, strict=True)]
        assert is_right(logits, label, k).tolist() == right


@pytest.mark.parametrize("tied", [(0, 999), (998, 999), (3, 500)])
def test_two_equal_maxima_of_many_classes(tied: tuple[int, int]) -> None:
    """As of ImageNet's two classes of one name, at places where fast selections take either."""
    logits = torch.randn(64, 1000, generator=torch.Generator().manual_seed(0))
    logits[:, list(tied)] = 9.0
    assert top_k(logits, 2).tolist() == [list(tied)] * 64
    for place, number in enumerate(tied):
        assert is_right(logits, torch.full((64,), number)).tolist() == [place == 0] * 64


@pytest.mark.parametrize("bad", [[math.nan, 0, 1], [0, 1, math.inf], [-math.inf] * 3, [math.nan] * 3])
def test_an_answer_that_is_not_finite_predicts_no_class_and_is_wrong(bad: list[float]) -> None:
    logits = torch.tensor([bad, [0.0, 2.0, 1.0]])
    assert is_answer(logits).tolist() == [False, True]
    assert top_k(logits, 2).tolist() == [[NO_CLASS, NO_CLASS], [1, 2]]
    for label in range(3):
        for k in (1, 3):
            assert not is_right(logits, torch.tensor([label, label]), k)[0]


def test_an_impossible_class_is_the_last() -> None:
    logits = torch.tensor([[-math.inf, 1.0, -math.inf]])
    assert top_k(logits, 3).tolist() == [[1, 0, 2]]
    assert is_answer(logits).all()


def test_no_image() -> None:
    assert top_k(torch.zeros(0, 4), 2).shape == (0, 2)
    assert is_right(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)).shape == (0,)
