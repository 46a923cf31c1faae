"""Whether the objects of val keep their query: what is matched, what is compared, what a killed run left."""

import itertools

import numpy as np
import pytest
import torch

from opendetr.loss.matcher import CostWeights, matching_cost
from opendetr.scoring import FocalScoring, SoftmaxScoring
from opendetr.structures import DetrOutput, Target, Targets
from opendetr.training.run_folder import MATCHES, RunFolder
from opendetr.training.stability import origins_of_matches, share_kept

COSTS, CLASSES, QUERIES = CostWeights(), 3, 5


def random_output(layers, images, seed, queries=QUERIES, proposals=None):
    draw = torch.Generator().manual_seed(seed)
    boxes = 0.2 + 0.3 * torch.rand(layers, images, queries, 4, generator=draw)
    return DetrOutput(torch.randn(layers, images, queries, CLASSES, generator=draw), boxes, proposals)


def random_targets(counts, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return Targets.stack(
        [
            Target(torch.randint(CLASSES, (count,), generator=draw), 0.2 + 0.3 * torch.rand(count, 4, generator=draw))
            for count in counts
        ]
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_learned_query_is_its_own_origin(seed):
    """Against the cheapest of all assignments of the last layer, tried one by one."""
    counts, scoring = [2, 0, 3], FocalScoring()
    output, targets = random_output(2, 3, seed), random_targets(counts, seed)
    cost = matching_cost(output, targets, scoring, COSTS)[-1].numpy()  # [B, T, Q]
    expected = [
        [QUERIES, *min(itertools.permutations(range(QUERIES), count),
                       key=lambda queries: sum(cost[image, row, query] for row, query in enumerate(queries)))]
        for image, count in enumerate(counts)
    ]  # fmt: skip
    assert origins_of_matches(output, targets, scoring, COSTS) == expected


def test_a_selected_query_has_its_cell_as_origin_whatever_its_rank():
    cells, promise = 9, torch.randn(1, 2, 9, CLASSES, generator=torch.Generator().manual_seed(1))
    targets = random_targets([3, 2])
    for change in (1.0, 3.0):  # the order of the cells is another
        logits = promise * torch.linspace(1, change, cells)[:, None]
        best = logits[0].amax(-1).argsort(dim=1, descending=True)[:, :QUERIES]  # [B, Q]
        output = random_output(1, 2, 0, proposals=DetrOutput(logits, torch.full((1, 2, cells, 4), 0.5)))
        plain = origins_of_matches(DetrOutput(output.logits, output.boxes_cxcywh), targets, FocalScoring(), COSTS)
        found = origins_of_matches(output, targets, FocalScoring(), COSTS)
        for image, (possible, *queries) in enumerate(plain):
            assert possible == QUERIES
            assert found[image] == [cells, *best[image, queries].tolist()]


def test_an_object_without_a_query_or_a_cell_has_no_origin():
    targets = random_targets([4])
    few = origins_of_matches(random_output(1, 1, 0, queries=2), targets, FocalScoring(), COSTS)
    assert sorted(few[0][1:]) == [-1, -1, 0, 1]
    cells = DetrOutput(torch.zeros(1, 1, 3, CLASSES + 1), torch.full((1, 1, 3, 4), 0.5))
    output = DetrOutput(torch.zeros(1, 1, QUERIES, CLASSES + 1), torch.full((1, 1, QUERIES, 4), 0.5), cells)
    ((possible, *origins),) = origins_of_matches(output, targets, SoftmaxScoring(), COSTS)
    assert (possible, len(origins)) == (3, 4)
    assert -1 in origins  # five queries, three cells


def test_the_share_is_that_of_objects_counted_one_by_one():
    rng = np.random.default_rng(0)
    before, now = ([[7, *rng.integers(0, 3, count).tolist()] for count in (0, 4, 9, 2)] for _ in range(2))
    same = [one == other for a, b in zip(before, now) for one, other in zip(a[1:], b[1:])]
    assert 0 < sum(same) < len(same) == 15
    assert share_kept(before, now) == pytest.approx(np.mean(same), abs=1e-6)  # six digits are written
    assert share_kept(now, now) == 1
    assert share_kept([[7, 1, 2]], [[7, 2, 1]]) == 0  # two objects have changed their queries


@pytest.mark.parametrize(
    ("before", "now", "share"),
    [
        (None, [[7, 1]], None),  # the first evaluation
        ([[7, 1]], [[9, 1]], None),  # pictures of another size: other cells
        ([[7, 1], [7, 1]], [[], [7, 1]], 1.0),  # a picture that could not be read
        ([[7, 1, 2]], [[7, 1]], None),  # other data
        ([[7, 1, -1]], [[7, 1, -1]], 1.0),  # no query for an object, twice: nothing was kept, and nothing changed
        ([[7, 1, -1]], [[7, 1, 4]], 0.5),
        ([[]], [[]], None),
        (["?", 3], [[7, 1], [7, 1]], None),  # a damaged file
        (3, [[7, 1]], None),
        ({"a": 1}, [[7, 1]], None),
    ],
)
def test_what_cannot_be_compared_does_not_count(before, now, share):
    assert share_kept(before, now) == share


def test_an_evaluation_that_is_made_again_is_compared_with_the_one_before_it(tmp_path):
    folder, a, b, c = RunFolder(tmp_path), [[5, 1]], [[5, 2]], [[5, 3]]
    assert folder.exchange_matches(10, a) is None
    assert folder.exchange_matches(20, b) == a
    for _ in range(3):  # killed before the line was written, and resumed
        assert RunFolder(tmp_path).exchange_matches(20, b) == a
    assert RunFolder(tmp_path).exchange_matches(30, c) == b
    assert RunFolder(tmp_path, is_written=False).exchange_matches(40, c) is None
    (tmp_path / MATCHES).write_text('{"20": [[5, 2')
    assert folder.exchange_matches(30, c) is None  # a damaged file only costs a figure
