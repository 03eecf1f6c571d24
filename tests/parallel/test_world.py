"""Worlds: shares, sums, and one word from the first process."""

from __future__ import annotations

from doran.parallel.world import SOLO, Parallel, World


def test_a_world_of_one_needs_nobody() -> None:
    assert SOLO.first and not SOLO.shards and SOLO.own(7) == range(7)
    assert SOLO.gather("x") == ["x"] and SOLO.once(lambda: 3) == 3 and SOLO.spread(2, lambda own: list(own)) == [0, 1]
    assert not World(parallel=Parallel(data="fsdp")).shards  # the same recipe on a laptop


def test_shares_are_whole_and_even() -> None:
    for n in range(9):
        shares = [World(rank, 3).own(n) for rank in range(3)]
        assert [i for share in shares for i in share] == list(range(n))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_hands_cost_about_the_same_and_keep_their_order() -> None:
    costs = [9, 1, 1, 5, 4, 4, 2, 2]
    hands = World(0, 3).deal(costs)
    assert sorted(i for hand in hands for i in hand) == list(range(8))
    assert all(hand == sorted(hand) for hand in hands)
    held = [sum(costs[i] for i in hand) for hand in hands]
    assert max(held) - min(held) <= 2
    assert World(0, 3).deal([5]) == [[0], [], []]


def test_two_processes_tell_each_other(pair) -> None:
    for rank, told in enumerate(pair("rank_and_sums")):
        assert told == (
            rank, [0, 1], "from 0", {"a": 2.0, "b": 2.0}, {"a": 1.0}, [0, 10, 20, 30, 40],
            [3.0, 3.0, 3.0], [2, 2], [1.0, 1.0], None,
        )  # fmt: skip
