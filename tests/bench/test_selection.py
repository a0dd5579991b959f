"""Each selection equals its definition, written as plainly as possible, on thousands of random small cases."""

import contextlib
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import UserError
from bench.kernels.base import Embedding, squared_norms
from bench.selection.distances import nearest_centres
from bench.selection.lcmd import LargestClusterMaximumDistance
from bench.selection.max_det import MaxDet
from bench.selection.max_diag import MaxDiag
from bench.selection.max_dist import MaxDist

GENERATOR = np.random.default_rng(0)
MANY = settings(max_examples=1000, deadline=None)


@st.composite
def cases(draw, integer):
    """Pools with ties, duplicates and zero features; batches up to the whole pool; training sets down to nothing."""
    n_pool, n_train, d = draw(st.integers(1, 9)), draw(st.integers(0, 4)), draw(st.integers(1, 4))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    if integer:
        pool = generator.integers(-2, 3, (n_pool, d)).astype(float)
        training = generator.integers(-2, 3, (n_train, d)).astype(float)
    else:
        pool, training = generator.normal(size=(n_pool, d)), generator.normal(size=(n_train, d))
        pool[generator.random(n_pool) < 0.2] = 0
        if n_pool > 1 and generator.random() < 0.3:
            pool[1] = pool[0]
    return pool, training, draw(st.integers(1, n_pool))


def small_blocks():
    """Blocks, groups and candidate sets so small that every path is taken on small cases."""
    return [
        mock.patch.multiple("bench.selection.distances", ROWS=3, CENTRES=4, GROUP=2),
        mock.patch("bench.selection.base.CANDIDATES", 2),
        mock.patch.multiple("bench.selection.lcmd", AHEAD=3, MEMBERS=2),
    ]


def both_ways(select):
    """The picks with ordinary and with tiny blocks."""
    with contextlib.ExitStack() as stack:
        yield select()
        for patch in small_blocks():
            stack.enter_context(patch)
        yield select()


def embedding(pool, training):
    features = torch.from_numpy(pool)
    return Embedding(squared_norms(features), features, torch.from_numpy(training))


def check(scores_of, picked, exact):
    """Each pick's score under the definition, given the picks before it, is the best there is."""
    for step, pick in enumerate(picked):
        scores = scores_of(picked[:step])
        best = max(scores.values())
        if exact:
            assert pick == min(s for s in scores if scores[s] == best)
        else:
            assert scores[pick] >= best - 1e-10 * max(abs(best), 1e-3)
    assert len(set(picked)) == len(picked)


def plain_max_diag(pool, training):
    def scores(batch):
        return {s: pool[s] @ pool[s] for s in range(len(pool)) if s not in batch}

    return scores


def plain_lcmd(pool, training):
    """Eqs. (29)-(31); the score of a point outside the largest cluster is −1.

    Integers are exact in floating point. On reals two centres as near as each other, or two clusters as large, are
    told apart by rounding alone: there every point scores 0 and any pick is right.
    """
    rounding = 0.0 if (pool == pool.round()).all() and (training == training.round()).all() else 1e-10

    def scores(batch):
        centres = [*training, *(pool[b] for b in batch)]
        free = [s for s in range(len(pool)) if s not in batch]
        if not centres:
            return {s: pool[s] @ pool[s] for s in free}
        distance, cluster = {}, {}
        for s in free:
            to_centres = [((pool[s] - centre) ** 2).sum() for centre in centres]
            distance[s], cluster[s] = min(to_centres), to_centres.index(min(to_centres))
            if rounding and sum(d < distance[s] + rounding for d in to_centres) > 1:
                return dict.fromkeys(free, 0.0)
        sizes = [sum(distance[s] for s in free if cluster[s] == c) for c in range(len(centres))]
        occupied = sorted(set(cluster.values()))
        largest = max(occupied, key=lambda c: (sizes[c], -c))
        if rounding and sum(sizes[c] > sizes[largest] - rounding for c in occupied) > 1:
            return dict.fromkeys(free, 0.0)
        return {s: distance[s] if cluster[s] == largest else -1.0 for s in free}

    return scores


def plain_max_dist(pool, training):
    """Eq. (28), in squared distances."""

    def scores(batch):
        centres = [*training, *(pool[b] for b in batch)]
        free = [s for s in range(len(pool)) if s not in batch]
        if not centres:
            return {s: pool[s] @ pool[s] for s in free}
        return {s: min(((pool[s] - centre) ** 2).sum() for centre in centres) for s in free}

    return scores


def plain_max_det(pool):
    def scores(batch):
        found = {}
        for s in range(len(pool)):
            if s not in batch:
                chosen = pool[[*batch, s]]
                before = np.linalg.det(pool[batch] @ pool[batch].T) if batch else 1.0
                found[s] = np.linalg.det(chosen @ chosen.T) / before
        return found

    return scores


DEFINED = (
    (MaxDiag("MaxDiag"), plain_max_diag),
    (MaxDist("MaxDist"), plain_max_dist),
    (LargestClusterMaximumDistance("LCMD"), plain_lcmd),
)


@MANY
@given(cases(integer=True))
def test_exact_on_integers(case):
    pool, training, n = case
    for method, plain in DEFINED:
        for selected in both_ways(lambda m=method: m.select(embedding(pool, training), n, GENERATOR)):
            picked = selected.rows.tolist()
            assert len(picked) == n
            check(plain(pool, training), picked, exact=True)


@MANY
@given(cases(integer=False))
def test_best_score_on_reals(case):
    pool, training, n = case
    for method, plain in DEFINED:
        for selected in both_ways(lambda m=method: m.select(embedding(pool, training), n, GENERATOR)):
            check(plain(pool, training), selected.rows.tolist(), exact=False)


@MANY
@given(cases(integer=False), st.booleans())
def test_max_det_is_greedy_in_the_determinant(case, random):
    pool, training, n = case
    rank = np.linalg.matrix_rank(pool)
    method = MaxDet("MaxDet", on_deficit="random" if random else "fail")
    if n > rank and not random:
        with pytest.raises(UserError, match=f"MaxDet found {rank} of {n} structures"):
            method.select(embedding(pool, training), n, GENERATOR)
        return
    for selected in both_ways(lambda: method.select(embedding(pool, training), n, GENERATOR)):
        picked = selected.rows.tolist()
        assert selected.n_random == max(0, n - rank)
        assert len(set(picked)) == n
        check(plain_max_det(pool), picked[: n - selected.n_random], exact=False)


def test_a_deficit_is_filled_up_so_that_a_smaller_batch_begins_a_larger_one():
    pool = np.random.default_rng(0).normal(size=(30, 3))
    method = MaxDet("MaxDet", on_deficit="random")
    small, large = (
        method.select(embedding(pool, np.zeros((0, 3))), n, np.random.default_rng(1)).rows.tolist() for n in (5, 12)
    )
    assert large[:5] == small and len(set(large)) == 12


def test_ties_go_to_the_lowest_row():
    pool = np.array([[0.0, 1.0], [1.0, 0.0], [-1.0, 0.0], [0.0, -1.0]])
    for method in (MaxDiag("MaxDiag"), MaxDet("MaxDet"), MaxDist("MaxDist"), LargestClusterMaximumDistance("LCMD")):
        assert method.select(embedding(pool, np.zeros((1, 2))), 2, GENERATOR).rows[0] == 0


def test_more_asked_than_there_are():
    pool = np.eye(3)
    for method in (MaxDiag("MaxDiag"), MaxDet("MaxDet"), MaxDist("MaxDist"), LargestClusterMaximumDistance("LCMD")):
        with pytest.raises(UserError, match="batch_size = 4 but the pool holds 3"):
            method.select(embedding(pool, np.zeros((0, 3))), 4, GENERATOR)


def test_lcmd_prefers_the_largest_cluster_over_the_farthest_point():
    """A crowd at distance 1 outweighs one outlier at distance 2: representative, not only diverse."""
    crowd = np.array([[10.0 + np.cos(a), np.sin(a)] for a in np.linspace(0, 6, 9)])
    pool = np.concatenate([[[0.0, 2.0]], crowd])
    training = np.array([[0.0, 0.0], [10.0, 0.0]])
    picked = LargestClusterMaximumDistance("LCMD").select(embedding(pool, training), 1, GENERATOR).rows
    assert picked[0] != 0


@pytest.mark.parametrize("n_training", [0, 5])
def test_nothing_is_left_in_the_embedding(generator, n_training):
    """Distances from the training set are worked out once for an embedding: no selection changes them for the next."""
    pool, training = (generator.normal(size=(n, 3)) for n in (40, n_training))
    methods = [LargestClusterMaximumDistance("LCMD"), MaxDist("MaxDist")]
    expected = [m.select(embedding(pool, training), 8, generator).rows.tolist() for m in methods]
    shared = embedding(pool, training)
    for method, rows in [*zip(methods, expected, strict=True)] * 2:
        assert method.select(shared, 8, generator).rows.tolist() == rows


@pytest.mark.parametrize("exponent", [-400, -73, 64, 200])
def test_features_of_any_size(generator, exponent):
    """Beyond the range of single precision, too, in which distances are first estimated."""
    pool, training = generator.normal(size=(300, 5)), generator.normal(size=(100, 5))
    for method in (LargestClusterMaximumDistance("LCMD"), MaxDist("MaxDist")):
        expected, found = (
            method.select(embedding(pool * factor, training * factor), 5, GENERATOR).rows.tolist()
            for factor in (1.0, 2.0**exponent)
        )
        assert found == expected, method.name
    for beyond in (1e-200, np.nan, 1e200):
        nearest_centres(torch.from_numpy(pool), torch.from_numpy(training * beyond))


def naive(method, pool, training, n):
    """Each definition with one vectorised float64 update per pick: slow, for pools of thousands."""
    if method == "MaxDet":
        residual, columns, picked = (pool**2).sum(1), [], []
        for _ in range(n):
            best = int(np.argmax(residual))
            column = pool @ pool[best] - sum((c * c[best] for c in columns), np.zeros(len(pool)))
            columns.append(column / np.sqrt(column[best]))
            residual = residual - columns[-1] ** 2
            residual[best] = -np.inf
            picked.append(best)
        return picked
    to_centres = np.stack([((pool - centre) ** 2).sum(1) for centre in training])
    distance, centre, picked = to_centres.min(0), to_centres.argmin(0), []
    for step in range(n):
        if method == "MaxDist":
            scores = distance.copy()
        else:
            free = np.setdiff1d(np.arange(len(pool)), picked)
            sizes = np.bincount(centre[free], distance[free], len(training) + n)
            scores = np.where(centre == np.argmax(sizes), distance, -1.0)
        scores[picked] = -np.inf
        picked.append(int(np.argmax(scores)))
        new = ((pool - pool[picked[-1]]) ** 2).sum(1)
        centre = np.where(new < distance, len(training) + step, centre)
        distance = np.minimum(distance, new)
    return picked


@pytest.mark.parametrize("decay", [0.0, 1.0, 3.0])
def test_large_pools_equal_the_naive_algorithms(decay):
    """Beyond one candidate set, block and group: the same picks in order, with clusters and copies in the pool."""
    generator = np.random.default_rng(7)
    spectrum = np.arange(1, 41.0) ** -decay
    centres = 3 * generator.normal(size=(12, 40))
    pool = (centres[generator.integers(0, 12, 9000)] + generator.normal(size=(9000, 40))) * spectrum
    pool[5000:5200] = pool[100]
    training = (centres[generator.integers(0, 12, 70)] + generator.normal(size=(70, 40))) * spectrum
    for method in (MaxDet("MaxDet"), MaxDist("MaxDist"), LargestClusterMaximumDistance("LCMD")):
        n = 30 if method.name == "MaxDet" else 120
        picked = method.select(embedding(pool, training), n, GENERATOR).rows.tolist()
        assert picked == naive(method.name, pool, training, n), method.name
