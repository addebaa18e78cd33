"""How sparsity grows from round to round."""

from __future__ import annotations

from opentrans_cli.errors import OptionError, unknown

SCHEDULES = ("rounds", "one-shot", "linear", "cubic")

# 1 - 0.9**2 is 0.18999999999999995 in floating point; no third round is wanted for a target of 0.19.
_ROUNDING = 1e-9


def schedule(name: str, target: float, *, start: float = 0.0, rate: float = 0.1, rounds: int = 10) -> tuple[float, ...]:
    """Sparsity after each round, rising, from above `start` to exactly `target`; one round if they are equal.

    rounds: every round removes the share `rate` of what a dense tower would have left (OpenTrans, Alg. 1).
    one-shot: a single round.
    linear, cubic: `rounds` rounds, s_k = target + (start - target) (1 - k / rounds)^1 or ^3; cubic is gradual pruning
    as in Zhu & Gupta 2017, Eq. 1: fast at first, while many weights are not needed.

    Raises OptionError for an unknown name, a target outside [0, 1), a start outside [0, target], a rate outside
    (0, 1), or fewer than one round.
    """
    check_sparsity(target)
    if name not in SCHEDULES:
        raise OptionError(unknown("schedule", name, SCHEDULES))
    if rounds < 1:
        raise OptionError(f"rounds out of range: {rounds}; choose at least 1")
    if not 0 <= start <= target:
        raise OptionError(f"start of the schedule out of range: {start}; choose a number from 0 to the target {target}")
    if name == "one-shot" or (name != "rounds" and target - start <= _ROUNDING):
        return (target,)
    if name == "rounds":
        steps = imp_sparsities(target, rate=rate)
        return tuple(step for step in steps if step > start + _ROUNDING) or (target,)
    power = 1 if name == "linear" else 3
    gradual = (target + (start - target) * (1 - k / rounds) ** power for k in range(1, rounds))
    return (*gradual, target)


def imp_sparsities(target: float, *, rate: float = 0.1) -> tuple[float, ...]:
    """Sparsity after each round of iterative magnitude pruning (OpenTrans, arXiv 2404.07448, Alg. 1).

    Every round removes the fraction `rate` of what remains: 1 - (1 - rate)**k after round k. The last round
    is clipped, so that the last entry is exactly `target`. There is always at least one round; 0.9 at rate
    0.1 takes 22.
    Raises OptionError for a target outside [0, 1) or a rate outside (0, 1).
    """
    check_sparsity(target)
    if not 0 < rate < 1:
        raise OptionError(f"pruning rate out of range: {rate}; choose a number above 0 and below 1")
    sparsities: list[float] = []
    while (reached := 1 - (1 - rate) ** (len(sparsities) + 1)) < target - _ROUNDING:
        sparsities.append(reached)
    return (*sparsities, target)


def check_sparsity(sparsity: float) -> None:
    """Raises OptionError unless `sparsity` is in [0, 1)."""
    if not 0 <= sparsity < 1:
        raise OptionError(f"sparsity out of range: {sparsity}; choose a number from 0 to just below 1")
