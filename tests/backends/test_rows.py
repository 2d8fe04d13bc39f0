"""The layout of a step: every token has its row, and neighbours attend together only where that is worth it."""

from __future__ import annotations

import random

from python_backends.torch_engine.rows import Extent, Rows


def test_decodes_come_first_in_the_order_of_slots_and_chunks_keep_their_names() -> None:
    rows = Rows([(5, 0, 3), (2, 7, 8), (0, 9, 10)])
    assert rows.extents == [Extent(5, 2, 5, 0, 3), Extent(2, 1, 2, 7, 8), Extent(0, 0, 1, 9, 10)]
    assert rows.decodes == [rows.extents[2], rows.extents[1]]
    assert rows.chunks == [rows.extents[0]]
    assert rows.order == [2, 1, 0]


def test_a_small_step_is_padded() -> None:
    assert Rows([(0, 4, 5)], min_rows=4).num_padding == 3
    assert Rows([(0, 0, 9)], min_rows=4).num_padding == 0


def test_neighbours_attend_in_one_run_and_gaps_are_bridged_while_they_are_cheap() -> None:
    near = Rows([(0, 99, 100), (1, 79, 80), (3, 89, 90)])
    assert [(run.first_slot, run.last_slot, run.members) for run in near.runs] == [(0, 4, [0, 1, 3])]
    assert near.runs[0].has_gaps and near.runs[0].ends == [100, 80, 1, 90] and near.runs[0].length == 100
    far = Rows([(0, 999, 1000), (40, 999, 1000)])
    assert [run.members for run in far.runs] == [[0], [0]]


def test_a_long_sequence_does_not_make_short_neighbours_pay() -> None:
    runs = Rows([(slot, 99, 100) for slot in range(8)] + [(8, 3999, 4000)]).runs
    assert [len(run.members) for run in runs] == [8, 1]


def test_random_steps_give_every_token_one_row_and_every_decode_one_place_in_a_run() -> None:
    dice = random.Random(7)
    for _ in range(300):
        chunks = []
        for slot in dice.sample(range(64), dice.randint(1, 40)):
            start = dice.randint(0, 3000)
            chunks.append((slot, start, start + dice.choice((1, 1, 1, dice.randint(2, 50)))))
        rows = Rows(chunks)
        taken = [row for extent in rows.extents for row in range(extent.first, extent.last)]
        assert sorted(taken) == list(range(sum(end - start for _, start, end in chunks)))
        assert [(extent.slot, extent.start, extent.end) for extent in rows.extents] == chunks
        assert [chunks[index][0] for index in rows.order] == [e.slot for e in (*rows.decodes, *rows.chunks)]
        found = [
            (run.first_slot + member, run.ends[member], run.first + place)
            for run in rows.runs
            for place, member in enumerate(run.members)
        ]
        assert found == [(extent.slot, extent.end, extent.first) for extent in rows.decodes]
