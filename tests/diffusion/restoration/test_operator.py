"""Operators against their matrices; what is not linear, or has no adjoint, is refused."""

import math

import pytest
import torch

import likeli
from likeli.diffusion.restoration import Blur, Crop, Grey, Linear, Mask, Pool, Stacked, affine, take_reading

F64 = torch.float64
HALF = torch.arange(48).reshape(3, 4, 4) % 2 == 0

OPERATORS = {
    "mask": Mask(HALF, (3, 4, 4)),
    "masks": Mask(torch.stack([HALF, ~HALF]), (3, 4, 4)),
    "pool": Pool((3, 4, 4), 2),
    "grey": Grey((3, 4, 4)),
    "blur": Blur((3, 4, 4), 0.8),
    "crop": Crop((3, 4, 4), 1, 0, 2, 3),
    "matrix": Linear((3, 4, 4), torch.randn(5, 48, generator=torch.Generator().manual_seed(0))),
    "callable": Linear((3, 4, 4), lambda x: x.cumsum(2)),
    "composed": Pool((4, 4), 2) @ Grey((3, 4, 4)),
    "stacked": Stacked(Grey((3, 4, 4)), Pool((3, 4, 4), 2)),
}


def matrix_of(operator):
    """A, (M, D), of the first row."""
    operator = operator.at(torch.zeros(1, dtype=torch.long))
    rows = [operator.A(e.reshape(1, *operator.shape)).flatten() for e in torch.eye(math.prod(operator.shape), dtype=F64)]
    return torch.stack(rows, 1)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_adjoint_is_the_transpose(name):
    operator = OPERATORS[name]
    one = operator.at(torch.zeros(1, dtype=torch.long))
    back = [one.adjoint(e.reshape(1, *operator.out)).flatten() for e in torch.eye(math.prod(operator.out), dtype=F64)]
    assert torch.allclose(torch.stack(back), matrix_of(operator), atol=1e-12)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_gram_is_known_exactly_where_it_is_diagonal(name):
    operator, unit = OPERATORS[name], torch.rand(3, 4, 4, dtype=F64, generator=torch.Generator().manual_seed(1)) + 0.5
    reading = take_reading(operator, torch.zeros(2, *operator.out, dtype=F64), 0.1, unit, torch.zeros(3, 4, 4, dtype=F64))
    scaled = matrix_of(operator) * unit.flatten() / reading.gain
    full = scaled @ scaled.T
    diagonal = bool((full - full.diagonal().diag_embed()).abs().max() < 1e-12)
    assert diagonal == (name in ("mask", "masks", "pool", "grey", "crop", "composed"))
    assert (reading.gram is not None) == diagonal
    if diagonal:
        assert torch.allclose(reading.gram[0].flatten(), full.diagonal(), atol=1e-12)
    r = torch.randn(2, *operator.out, dtype=F64, generator=torch.Generator().manual_seed(2))
    r = torch.where(operator.seen(), r, 0)
    solved = reading.solve(r, 0.3)
    assert torch.allclose(solved[0].flatten(), torch.linalg.solve(full + 0.3 * torch.eye(len(full)), r[0].flatten()), atol=1e-9)


@pytest.mark.parametrize("name", ["mask", "pool", "grey", "blur", "stacked"])
def test_a_projection_meets_the_reading_and_moves_least(name):
    operator, generator = OPERATORS[name], torch.Generator().manual_seed(0)
    unit, mean = torch.full((3, 4, 4), 127.5, dtype=F64), torch.full((3, 4, 4), 127.0, dtype=F64)
    x = 255 * torch.rand(2, 3, 4, 4, dtype=F64, generator=generator)
    reading = take_reading(operator, operator.A(x), 0.0, unit, mean)
    u = torch.randn(2, 3, 4, 4, dtype=F64, generator=generator)
    near = reading.projected(u)
    assert (operator.A(near * unit + mean) - operator.A(x)).abs().max() < 1e-6
    rows = matrix_of(operator) * unit.flatten()
    least = torch.linalg.lstsq(rows, (reading.residual(u) * reading.gain)[0].flatten(), driver="gelsd").solution
    assert torch.allclose((near - u)[0].flatten(), least, atol=1e-6)


def test_grey_levels_and_reals_have_a_straight_scale():
    pixels, real = likeli.Pixels((2, 2), 256), likeli.Real((2,), (1.0, 2.0), (3.0, 4.0))
    for space, x in ((pixels, torch.tensor([[[0, 3], [100, 255]]])), (real, torch.tensor([[0.5, -7.0]]))):
        unit, mean = affine(space)
        assert torch.allclose(space.to_model(x, F64) * unit + mean, x.double(), atol=1e-9)
    for space in (likeli.Tokens(4, 7), likeli.Real((2,), stretch=(True, False))):
        with pytest.raises(likeli.Unsupported, match="reals on a straight scale and grey levels"):
            affine(space)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Linear((5,), lambda x: x + 1), "operator: expected a linear map"),
        (lambda: Linear((5,), lambda x: x.square()), "operator: expected a linear map"),
        (lambda: Linear((5,), lambda x: x.numpy()), "operator: expected a callable that returns a tensor, got ndarray"),
        (lambda: Linear((5,), lambda x: torch.from_numpy(x.detach().numpy() * 2)), "expected one with an adjoint, or one that"),
        (lambda: Linear((5,), lambda x: x.cumsum(1), lambda y: y.cumsum(1)), "operator: expected an adjoint with"),
        (lambda: Linear((5,), torch.zeros(2, 4)), r"operator: expected a matrix \(M, 5\), got \(2, 4\)"),
        (lambda: Mask(torch.ones(5), (5,)), "mask: expected some cells seen and some hidden, got all seen"),
        (lambda: Mask(torch.zeros(5), (5,)), "mask: expected some cells seen and some hidden, got all hidden"),
        (lambda: Mask(torch.tensor([0, 1, 2]), (3,)), "mask: expected true and false"),
        (lambda: Mask(torch.tensor([0, 1]), (3,)), r"mask: expected the shape of an example, \(3,\), got \(2,\)"),
        (lambda: Pool((5, 5), 2), "factor: expected a divisor of 5 and 5, got 2"),
        (lambda: Pool((4, 4), 1), "factor: expected a whole number of at least 2, got 1"),
        (lambda: Grey((4, 4)), "operator: expected images of two channels or more"),
        (lambda: Blur((4, 4), 2.0), "width: expected below a third of the image's side 4"),
        (lambda: Blur((4, 4), math.nan), "width: expected a positive number of cells"),
        (lambda: Crop((4, 4), 2, 2, 3, 1), "crop: expected a rectangle inside 4 × 4"),
        (lambda: Pool((4, 4), 2) @ Pool((4, 4), 2), r"operator: expected a second one of examples \(2, 2\)"),
        (lambda: Stacked(Pool((4, 4), 2), Pool((6, 6), 2)), "operator: expected operators on one shape to stack"),
    ],
)  # fmt: skip
def test_what_is_no_reading_is_refused_in_one_line(make, said):
    with pytest.raises(likeli.InputError, match=said) as refused:
        make()
    assert "\n" not in str(refused.value)


def test_an_image_with_holes_may_hold_anything_there():
    operator = OPERATORS["mask"]
    y = torch.where(HALF, torch.rand(3, 4, 4), math.nan)
    assert operator.readings(y).shape == (1, 3, 4, 4)
    with pytest.raises(likeli.InputError, match="y: expected finite numbers, got 24 that are not"):
        OPERATORS["callable"].readings(y)
    with pytest.raises(likeli.InputError, match=r"y: expected shape \(rows, 3, 4, 4\), got \(1, 4, 4\)"):
        operator.readings(torch.zeros(1, 4, 4))
