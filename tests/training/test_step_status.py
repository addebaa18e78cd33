"""The text beside a progress bar."""

from __future__ import annotations

from opentrans_cli.training.loop import StepFigures
from opentrans_cli.training.step_status import StepStatus


def figures(step: int, seconds: float, **terms: float) -> StepFigures:
    return StepFigures(step=step, loss=sum(terms.values()), terms=terms, lr=0.1, grad_norm=1.0, seconds=seconds)


def test_it_says_speed_loss_terms_and_the_last_miou() -> None:
    status = StepStatus()
    assert (status.text(), status.steps_per_second) == ("", 0)
    status.step(figures(1, 0.5, pixels=1.25))
    assert status.text() == "2 steps/s, loss 1.25"
    status.step(figures(2, 0.5, classes=1.0, mask=0.25))
    status.evaluation({"miou": 0.3456, "pixel_accuracy": 0.9})
    assert status.text() == "2 steps/s, loss 1.25 (classes 1, mask 0.25), mIoU 34.6"
    status.evaluation({"pixel_accuracy": 0.9})
    assert status.text().endswith("mIoU 34.6")


def test_the_speed_is_the_median_of_the_last_steps() -> None:
    status = StepStatus()
    for seconds in (9.0, *[1.0] * 15, *[0.25] * 18):
        status.step(figures(1, seconds, pixels=1.0))
    assert status.steps_per_second == 4
    status.step(figures(1, 60.0, pixels=1.0))
    assert status.steps_per_second == 4
