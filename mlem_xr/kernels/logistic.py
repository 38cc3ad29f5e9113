"""Penalized logistic regression with few sentences and many units, or the other way round.

The Newton steps and the stopping rule are those of scikit-learn's solver newton-cholesky, so that
the classifiers are the same; the steps are cheaper. The minimum lies in the span of the sentences,
so with fewer sentences than units a step is a weighted ridge regression on their inner products:
one matrix of the size of the sentences for each class, in place of one of units x classes. A
rotation to the span in front of scikit-learn's solver would do less (its matrix would still be of
sentences x classes) and would move its stopping rule, which looks at the gradient unit by unit.
"""

from collections.abc import Callable
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_TOLERANCE = 1e-4
_MAX_ITERATIONS = 100
_MAX_HALVINGS = 20
_SUFFICIENT_DECREASE = 2.0**-11
_PRECISION = float(np.finfo(np.float64).eps)
_SMALLEST = 1e-100

_DIGITS = 12
"""Log-odds that agree to so many digits of the largest one are equal."""


class Problem(NamedTuple):
    """A weighted logistic regression, but for its penalty."""

    activation: NDArray
    """float64 (sentence, unit)"""
    gram: NDArray | None
    """Inner products of the sentences (sentence, sentence); None: work on units."""
    member: NDArray
    """1 where the sentence is of the output's class, else 0: (sentence, output)"""
    weight: NDArray
    """(sentence)"""


class Classifier(NamedTuple):
    """A linear classifier: one output for two classes, else one per class."""

    coefficient: NDArray
    """(unit, output)"""
    intercept: NDArray
    """(output)"""


def scores(classifier: Classifier, activation: NDArray) -> NDArray:
    """Score sentences by how probable each output's class is: (sentence, output).

    Only their order means something. It is that of the probabilities, but where these round to the
    same number, as those of small activations do, it is that of the log-odds.
    """
    added = activation @ classifier.coefficient
    if np.abs(added).max() >= 1.0:
        return _link(added + classifier.intercept)
    odds = _added_log_odds(added, classifier.intercept)
    largest = np.abs(odds).max(axis=0)
    # The outputs of equal sentences may differ by rounding.
    return np.round(odds / np.where(largest > 0, largest, 1.0), _DIGITS)


def _added_log_odds(added: NDArray, intercept: NDArray) -> NDArray:
    """Say what small numbers, added to intercepts, add to the log-odds: (sentence, output).

    To their own last digit, which is lost in the sum.
    """
    from scipy.special import softmax

    if added.shape[1] == 1:
        return added
    columns = []
    for output in range(added.shape[1]):
        share = softmax(np.delete(intercept, output))
        others = np.expm1(np.delete(added, output, axis=1)) @ share
        columns.append(added[:, output] - np.log1p(others))
    return np.stack(columns, axis=1)


def newton(problem: Problem, penalty_inverse: float, start: Classifier) -> Classifier:
    """Train a classifier by Newton's method.

    With weights s_i that add up to S, outputs f_i = w.a_i + b and the log-loss l of two classes
    (logistic) or more (softmax), minimize

        sum_i s_i l(y_i, f_i) / S + |w|^2 / (2 C S)

    until neither the gradient nor half the squared Newton decrement exceeds 1e-4.

    Parameters
    ----------
    problem : Problem
        Activations, classes and weights.
    penalty_inverse : float
        C.
    start : Classifier
        Where to start.

    Returns
    -------
    Classifier
        The minimum.
    """
    problem, penalty = _scale(problem, penalty_inverse)
    current, raw = start, problem.activation @ start.coefficient + start.intercept
    for _ in range(_MAX_ITERATIONS):
        target = _step(problem, penalty, raw)
        step = Classifier(*(new - old for new, old in zip(target, current, strict=True)))
        raw_step = problem.activation @ step.coefficient + step.intercept
        slope = float(np.vdot(_residual(problem, raw), raw_step))
        slope += penalty * float(np.vdot(current.coefficient, step.coefficient))
        size = _step_size(_objective_along(problem, penalty, current, raw, step, raw_step), slope)
        current = Classifier(*(old + size * s for old, s in zip(current, step, strict=True)))
        raw = raw + size * raw_step
        flat = -slope / 2 <= _TOLERANCE
        if size == 0 or (flat and _steepest(problem, penalty, current, raw) <= _TOLERANCE):
            break
    return current


def _scale(problem: Problem, penalty_inverse: float) -> tuple[Problem, float]:
    """Bring the sum of the weights to 1, and say what the penalty is then."""
    total = problem.weight.sum()
    share = problem.weight / total
    squares = np.einsum("su,su->s", problem.activation, problem.activation)
    # Next to very large activations, float64 cannot tell a small penalty from none.
    smallest = 10 * _PRECISION * float(share @ squares)
    return problem._replace(weight=share), max(1 / (penalty_inverse * total), smallest)


def _link(raw: NDArray) -> NDArray:
    from scipy.special import expit, softmax

    return expit(raw) if raw.shape[1] == 1 else softmax(raw, axis=1)


def _residual(problem: Problem, raw: NDArray) -> NDArray:
    """Differentiate the loss by the outputs."""
    return problem.weight[:, np.newaxis] * (_link(raw) - problem.member)


def _steepest(problem: Problem, penalty: float, current: Classifier, raw: NDArray) -> float:
    """Return the largest entry of the gradient."""
    residual = _residual(problem, raw)
    gradient = problem.activation.T @ residual + penalty * current.coefficient
    return max(np.abs(gradient).max(), np.abs(residual.sum(axis=0)).max())


def _objective_along(
    problem: Problem,
    penalty: float,
    current: Classifier,
    raw: NDArray,
    step: Classifier,
    raw_step: NDArray,
) -> Callable[[float], float]:
    """Return the objective as a function of the step's size."""

    def objective(size: float) -> float:
        moved = raw + size * raw_step
        true = (problem.member * moved).sum(axis=1)
        # One output is the difference of two, the other of which is 0.
        every = moved if moved.shape[1] > 1 else np.insert(moved, 0, 0.0, axis=1)
        loss = np.logaddexp.reduce(every, axis=1) - true
        coefficient = current.coefficient + size * step.coefficient
        return float(problem.weight @ loss + penalty / 2 * np.vdot(coefficient, coefficient))

    return objective


def _step_size(objective: Callable[[float], float], slope: float) -> float:
    """Halve the step until the objective decreases; 0: float64 resolves no decrease."""
    before = objective(0.0)
    for size in 0.5 ** np.arange(_MAX_HALVINGS + 1):
        change = objective(size) - before
        unresolved = abs(change) <= 16 * _PRECISION * abs(before)
        if unresolved or change <= _SUFFICIENT_DECREASE * size * slope:
            return float(size)
    return 0.0


def _step(problem: Problem, penalty: float, raw: NDArray) -> Classifier:
    """Minimize the quadratic approximation of the objective at the outputs `raw`."""
    if problem.gram is None:
        return _step_over_units(problem, penalty, raw)
    p = _link(raw)
    one_output = raw.shape[1] == 1
    curvature = np.maximum(p * (1 - p) if one_output else p, _SMALLEST)
    response = raw + (problem.member - (p if one_output else 0)) / curvature
    root = np.sqrt(problem.weight[:, np.newaxis] * curvature)
    ridge = _ridge_of_one_output if one_output else _ridge_of_many_outputs
    dual, intercept = ridge(problem.gram, root, response, penalty)
    return Classifier(problem.activation.T @ dual, intercept)


def _ridge_of_one_output(
    gram: NDArray, root: NDArray, response: NDArray, penalty: float
) -> tuple[NDArray, NDArray]:
    """Regress the response z with weights R^2, in terms of inner products G.

    w is the sum of the sentences times v = P (z - b), with P = R (R G R + penalty)^-1 R, and b is
    such that v adds up to 0.
    """
    p_response, p_one = _smooth(gram, root[:, 0], penalty, np.insert(response, 1, 1.0, axis=1)).T
    intercept = p_response.sum() / p_one.sum()
    return (p_response - intercept * p_one)[:, np.newaxis], np.array([intercept])


def _ridge_of_many_outputs(
    gram: NDArray, root: NDArray, response: NDArray, penalty: float
) -> tuple[NDArray, NDArray]:
    """Do the same with the weights diag(p) - p p' of a softmax, which tie the outputs together.

    P is then diag(P_c) - P_c (sum_c P_c)^-1 P_c' (Rasmussen & Williams 2006, algorithm 3.3). The
    last intercept is 0, as adding one number to all of them changes nothing.
    """
    from scipy.linalg import cho_factor, cho_solve

    identity = np.eye(len(gram))
    p = np.stack([_smooth(gram, column, penalty, identity) for column in root.T])
    total = cho_factor(p.sum(axis=0), overwrite_a=True, check_finite=False)
    p_one = p.sum(axis=2).T
    p_response = np.matmul(p, response.T[..., np.newaxis])[..., 0].T
    sides = np.column_stack([p_response.sum(axis=1), p_one])
    tied = p_one.T @ cho_solve(total, sides, check_finite=False)
    left, right = np.diag(p_one.sum(axis=0)) - tied[:, 1:], p_response.sum(axis=0) - tied[:, 0]
    intercept = np.append(np.linalg.solve(left[:-1, :-1], right[:-1]), 0.0)
    alone = p_response - intercept * p_one
    common = cho_solve(total, alone.sum(axis=1), check_finite=False)
    return alone - (p @ common).T, intercept


def _smooth(gram: NDArray, root: NDArray, penalty: float, sides: NDArray) -> NDArray:
    """Compute R (R G R + penalty)^-1 R x for each column x of `sides`."""
    from scipy.linalg import cho_factor, cho_solve

    matrix = root[:, np.newaxis] * gram * root
    matrix.flat[:: len(matrix) + 1] += penalty
    factor = cho_factor(matrix, overwrite_a=True, check_finite=False)
    root = root[:, np.newaxis]
    return root * cho_solve(factor, root * sides, overwrite_b=True, check_finite=False)


def _step_over_units(problem: Problem, penalty: float, raw: NDArray) -> Classifier:
    """Solve the normal equations of units x outputs, the better way with few units."""
    from scipy.linalg import cho_factor, cho_solve

    n, n_units = problem.activation.shape
    n_outputs = raw.shape[1]
    p = _link(raw)
    design = np.column_stack([problem.activation, np.ones(n)])
    hessian = np.empty((n_outputs, n_units + 1, n_outputs, n_units + 1))
    pull = -_residual(problem, raw)
    for c, d in combinations_with_replacement(range(n_outputs), 2):
        curvature = problem.weight * p[:, c] * ((c == d) - p[:, d])
        hessian[c, :, d] = hessian[d, :, c] = (design.T * curvature) @ design
        pull[:, c] += curvature * raw[:, d]
        if c != d:
            pull[:, d] += curvature * raw[:, c]
    size = n_outputs * (n_units + 1)
    diagonal = np.full((n_outputs, n_units + 1), penalty)
    diagonal[:, -1] = 0.0
    matrix = hessian.reshape(size, size)
    matrix.flat[:: size + 1] += diagonal.ravel()
    # The last of several intercepts is 0, as adding one number to all of them changes nothing.
    free = size if n_outputs == 1 else size - 1
    factor = cho_factor(matrix[:free, :free], check_finite=False)
    solution = np.zeros(size)
    solution[:free] = cho_solve(factor, (pull.T @ design).ravel()[:free], check_finite=False)
    both = solution.reshape(n_outputs, n_units + 1)
    return Classifier(both[:, :-1].T, both[:, -1])
