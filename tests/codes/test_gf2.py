"""Row reduction and rank against galois, the one module that imports it (it is slow to load)."""

import galois
import numpy as np
from hypothesis import given

from flexor_search.codes import gf2_rank, gf2_row_reduce

from .strategies import matrices, user_codes

GF2 = galois.GF(2)


@given(matrices())
def test_the_rank_is_that_of_galois(matrix):
    assert gf2_rank(matrix) == np.linalg.matrix_rank(GF2(matrix))


@given(matrices())
def test_the_echelon_form_is_that_of_galois(matrix):
    echelon, pivots = gf2_row_reduce(matrix)
    expected = np.asarray(GF2(matrix).row_reduce())
    expected = expected[expected.any(axis=1)]
    assert echelon.tolist() == expected.tolist()
    assert pivots == tuple(int(np.flatnonzero(row)[0]) for row in expected)


@given(matrices())
def test_the_pivot_columns_and_the_echelon_form_factor_the_matrix(matrix):
    echelon, pivots = gf2_row_reduce(matrix)
    product = GF2(np.ascontiguousarray(matrix[:, list(pivots)])) @ GF2(echelon) if pivots else np.zeros_like(matrix)
    assert (np.asarray(product) == matrix).all()


@given(matrices())
def test_the_matrix_given_is_left_alone(matrix):
    before = matrix.copy()
    gf2_row_reduce(matrix)
    assert (matrix == before).all()


@given(user_codes())
def test_reduced_codes_have_the_column_space_of_the_original(code):
    reduced = code.reduced().code
    both = np.hstack([code.matrix, reduced.matrix])
    assert np.linalg.matrix_rank(GF2(both)) == np.linalg.matrix_rank(GF2(reduced.matrix)) == reduced.n_in
