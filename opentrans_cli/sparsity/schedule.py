"""How sparsity grows from round to round."""

from __future__ import annotations

from opentrans_cli.errors import OptionError

# 1 - 0.9**2 is 0.18999999999999995 in floating point; no third round is wanted for a target of 0.19.
_ROUNDING = 1e-9


def imp_sparsities(target: float, *, rate: float = 0.1) -> tuple[float, ...]:
    """Sparsity after each round of iterative magnitude pruning (OpenTrans, arXiv 2404.07448, Alg. 1).

    Every round removes the fraction `rate` of what remains: 1 - (1 - rate)**k after round k. The last round
    is clipped, so that the last entry is exactly `target`. There is always at least one round; 0.9 at rate
    0.1 takes 22.
    Raises OptionError for a target outside [0, 1) or a rate outside (0, 1).
    """
    _check_target(target)
    if not 0 < rate < 1:
        raise OptionError(f"pruning rate out of range: {rate}; choose a number above 0 and below 1")
    sparsities: list[float] = []
    while (reached := 1 - (1 - rate) ** (len(sparsities) + 1)) < target - _ROUNDING:
        sparsities.append(reached)
    return (*sparsities, target)


def one_shot(target: float) -> tuple[float, ...]:
    """The schedule of a single round; raises OptionError for a target outside [0, 1)."""
    _check_target(target)
    return (target,)


def _check_target(target: float) -> None:
    if not 0 <= target < 1:
        raise OptionError(f"sparsity out of range: {target}; choose a number from 0 to just below 1")
