"""ZERO and its votes against a plain count, ties of every kind included."""

import math
from collections import Counter
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from lorattt.errors import UserError
from lorattt.methods.mean_of_views import count_votes, mean_log_probability, vote_logits
from lorattt.methods.zero import ZERO, ZeroSpec, zero_votes
from lorattt.views.crops import ViewSpec

Ties = Literal["number", "confident"]
E, V, K = 40, 10, 4


@pytest.fixture(scope="module")
def logits() -> Tensor:
    """Few classes and voters: about half of the images have a tie."""
    return 2 * torch.randn(E, V, K, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def naive_zero(views: Tensor, gamma: float, ties: Ties) -> tuple[dict[int, int], list[int], bool]:
    """One image: votes by class, the voters, and whether there was a tie."""
    p = views.softmax(-1)
    entropies = [-sum(float(x) * math.log(float(x)) for x in row) for row in p]
    order = sorted(range(len(views)), key=lambda v: entropies[v])
    count = int(len(views) * gamma)
    winners = [int(row.argmax()) for row in p]
    votes = Counter(winners[v] for v in order[:count])
    best = max(votes.values())
    tied = {label for label, n in votes.items() if n == best}
    if len(tied) > 1:
        further = order[count:] if ties == "confident" else range(count, len(views))
        decided = next((winners[v] for v in further if winners[v] in tied), None)
        if decided is None:
            mean = p[order[:count]].mean(0)
            decided = max(tied, key=lambda label: float(mean[label]))
        votes[decided] += 1
    return dict(votes), order[:count], len(tied) > 1


@pytest.mark.parametrize("ties", ["number", "confident"])
@pytest.mark.parametrize("gamma", [0.2, 0.4, 1.0])
def test_equals_a_plain_count(gamma: float, ties: Ties, logits: Tensor) -> None:
    votes, voters = zero_votes(logits, ZeroSpec(gamma, ties))
    after = vote_logits(votes, mean_log_probability(logits[torch.arange(E)[:, None], voters]))
    tied = 0
    for e in range(E):
        expected, order, was_tied = naive_zero(logits[e], gamma, ties)
        assert {k: n for k, n in enumerate(votes[e].tolist()) if n} == expected
        assert voters[e].tolist() == order
        assert int(after[e].argmax()) == max(expected, key=lambda label: expected[label])
        tied += was_tied
    assert tied > 5, "the comparison says nothing about ties"


def test_the_two_ways_to_break_a_tie_differ() -> None:
    # Views 0 and 1 vote for classes 0 and 1; view 2 is the least confident and votes for 1, view 3 for 0.
    logits = torch.tensor([[[9.0, 0, 0], [0, 8.0, 0], [0, 1.0, 0], [5.0, 0, 0]]])
    assert zero_votes(logits, ZeroSpec(0.5, "number"))[0].tolist() == [[1, 2, 0]]
    assert zero_votes(logits, ZeroSpec(0.5, "confident"))[0].tolist() == [[2, 1, 0]]
    # By number, views that voted already may decide: the first of them here is view 2.
    assert zero_votes(logits[:, [2, 3, 0, 1]], ZeroSpec(0.5, "number"))[0].tolist() == [[2, 1, 0]]


def test_an_episode_with_a_tie_worked_by_hand() -> None:
    """Ten views in an order of their own; the four most confident split 2 : 2, the fifth votes for neither class."""
    # (class voted for, its probability); the rest is shared by the other two, so a larger share is a lower entropy.
    ballots = [(0, 0.5), (1, 0.95), (2, 0.7), (0, 0.9), (0, 0.85), (1, 0.65), (0, 0.6), (1, 0.8), (2, 0.45), (0, 0.55)]
    p = torch.tensor([[share if k == label else (1 - share) / 2 for k in range(3)] for label, share in ballots])
    # By confidence: views 1 3 4 7 vote (1 0 0 1); then view 2 (class 2, not tied), then view 5, which says 1.
    votes, voters = zero_votes(p.log()[None], ZeroSpec(0.4))
    assert voters.tolist() == [[1, 3, 4, 7]]
    assert votes.tolist() == [[2, 3, 0]]
    # By number: view 4 is the first from int(10 * 0.4) on, and says 0.
    assert zero_votes(p.log()[None], ZeroSpec(0.4, "number"))[0].tolist() == [[3, 2, 0]]


def test_a_tie_that_no_view_breaks_goes_to_the_larger_mean() -> None:
    logits = torch.tensor([[[2.0, 0, 0], [0, 3.0, 0], [0, 0, 1.0], [0, 0, 1.0]]])
    for ties in ("number", "confident"):
        assert zero_votes(logits, ZeroSpec(0.5, ties))[0].tolist() == [[1, 2, 0]]  # type: ignore[arg-type]
    assert zero_votes(logits[:, :2], ZeroSpec(1.0))[0].tolist() == [[1, 2, 0]]


def test_batch_and_the_order_of_views_do_not_matter(logits: Tensor) -> None:
    spec = ZeroSpec(0.4, "confident")
    together, _ = zero_votes(logits, spec)
    for e in range(E):
        assert torch.equal(zero_votes(logits[e : e + 1], spec)[0][0], together[e])
    order = torch.randperm(V, generator=torch.Generator().manual_seed(1))
    assert torch.equal(zero_votes(logits[:, order], spec)[0], together)


def test_a_view_that_is_not_finite_does_not_vote(logits: Tensor) -> None:
    broken = logits.clone()
    broken[:, 3] = torch.nan
    spec = ZeroSpec(0.4, "confident")
    rest = [v for v in range(V) if v != 3]
    expected, _ = zero_votes(logits[:, rest], ZeroSpec(0.45, "confident"))  # as many voters of one view less
    votes, voters = zero_votes(broken, spec)
    assert (voters != 3).all()
    assert torch.equal(votes, expected)


def test_logits_of_a_vote_have_its_shares(logits: Tensor) -> None:
    votes = torch.tensor([[3, 0, 1, 0]])
    mean = torch.tensor([[0.3, 0.1, 0.2, 0.4]])
    p = vote_logits(votes, mean.log()).softmax(-1)
    share = votes / 4
    torch.testing.assert_close(p, (1 - 1e-6) * share + 1e-6 * mean)
    assert p[0].argsort(descending=True).tolist() == [0, 2, 3, 1]
    # Nothing underflows: a class nobody thinks of still has a finite logit.
    extreme = mean_log_probability(torch.tensor([[[0.0, 900.0], [0.0, 800.0]]]))
    assert vote_logits(torch.tensor([[0, 2]]), extreme).isfinite().all()
    assert count_votes(torch.tensor([[1, 1, 3]]), 5).tolist() == [[0, 2, 0, 1, 0]]


def test_mean_log_probability(logits: Tensor) -> None:
    torch.testing.assert_close(mean_log_probability(logits), logits.softmax(-1).mean(1).log(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gamma": 0.0}, r"^zero\.gamma 0\.0: the fraction of views that vote must be in \(0, 1\]$"),
        ({"gamma": 1.1}, r"^zero\.gamma 1\.1"),
        ({"gamma": math.nan}, r"^zero\.gamma nan"),
        ({"ties": "coin"}, r"^zero\.ties 'coin': must be confident or number$"),
    ],
)
def test_constants_without_meaning(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ZeroSpec(**values)


def test_too_few_views() -> None:
    with pytest.raises(UserError, match=r"^zero\.gamma 0\.3 of 3 views: none votes"):
        ZERO(views=ViewSpec(number=3))
    assert ZeroSpec().voters(64) == 19
