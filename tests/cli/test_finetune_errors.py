"""Options of finetune that cannot be followed: one line, a next move, nothing written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

SHORT = ("--steps", 2, "--batch-size", 2, "--crop", 32, "--limit", 2, "--device", "cpu", "--timing-steps", 0)
HAN = ("--framework", "han")
CACHE = ("--prefix-end", "stem", "--views", 2, "--cache-features")


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        (("--lr", "nan"), 2, "out of range: --lr nan; give above 0, at most 1e+09"),
        (("--estimate", "--points", 0), 2, "out of range: --points 0; give 1 to 1e+06"),
        (("--estimator", "guess", "--freeze", "none"), 2, "unknown estimator: 'guess'; choose one of xmin_peak"),
        (("--recipe", "haan"), 2, "; did you mean han?"),
        (("--scale", "a,b"), 2, "not numbers with commas: --scale a,b; such as --scale 0.75,1.5"),
        (("--scale", "2,1"), 2, "not a range: --scale 2,1; give two numbers, the smaller first"),
        (("--scale", ""), 2, "not a range: --scale "),
        (("--milestones", "0.9,0.8"), 2, "not rising: --milestones 0.9,0.8"),
        (("--warmup-steps", 2), 2, "--warmup-steps 2 of 2 steps; choose 0 to 1"),
        (("--lr-warmup-steps", 3), 2, "--lr-warmup-steps 3 of 2 steps"),
        (("--framework", "maskclip"), 2, "segmentor has nothing to train: maskclip"),
        (("--device", "tpu"), 2, "device is not available here: 'tpu'"),
        (("--dataset", "folder"), 2, "--images and --labels and --classes missing"),
        (("--hold-out", "grass"), 2, "has no use for: --hold-out"),
        (("--batch-size", 3, "--accumulate", 2), 2, "use a multiple of 2"),
        (("--shard",), 2, "start several with torchrun"),
        (("--prefix-end", "layer9"), 2, "no such block: "),
        (("--freeze-prefix", "--freeze", "none"), 2, "nothing ends the prefix"),
        (("--cache-features", "{desk}/c"), 2, "add --views"),
        (("--views", 2, "--cache-features", "{desk}/c"), 2, "add --freeze-prefix"),
        (("--freeze-prefix", "--freeze-ratio", 0.1, "--views", 2, "--cache-features", "{desk}/c"), 2, "--prefix-end"),
        ((*CACHE, "{desk}/file"), 2, "cannot keep features: --cache-features "),
        ((*CACHE, "{desk}/file/c"), 2, "cannot keep features: --cache-features "),
        ((*CACHE, "{desk}/full"), 2, "has other files; name a new folder"),
        ((*CACHE, "{desk}/f"), 2, "the bundle and its state are to lie there: --cache-features "),
        (("--log", "{desk}/full"), 2, "a folder is where the log goes"),
        (("--log", "{desk}/file"), 2, "another file is where the log goes"),
        (("--log", "{desk}/file/log"), 2, "cannot write the log: "),
        (("--log", "{desk}/f"), 2, "the bundle and its state are to lie there: --log "),
        (("--log", "{desk}/f/log"), 2, "the bundle and its state are to lie there: --log "),
        (("--log", "{desk}/.f.resume.safetensors"), 2, "the bundle and its state are to lie there: --log "),
        (("--tensorboard", "{desk}/file"), 2, "not a folder: --tensorboard "),
        (("--tensorboard", "{desk}/file/t"), 2, "cannot write event files: --tensorboard "),
        (("--tensorboard", "{desk}/f"), 2, "the bundle and its state are to lie there: --tensorboard "),
        (("--eval-split-list", "{desk}/none"), 2, "leave it out"),
        (("--eval-every", 1, "--dataset", "folder"), 2, "--eval-split-list"),
        (("--captions", "{desk}/file"), 2, "give --grounding-weight as well"),
        (("--grounding-weight", 1), 2, "deeplabv3 has none: --grounding-weight"),
        ((*HAN, "--grounding-weight", 1), 2, "name their file with --captions"),
        ((*HAN, "--grounding-weight", 1, "--captions", "{desk}/none"), 1, "captions not found: "),
        ((*HAN, "--grounding-weight", 1, "--captions", "{desk}/file"), 1, "write STEM<tab>WORD,WORD"),
        ((*HAN, "--grounding-weight", 1, "--captions", "{desk}/full"), 1, "captions cannot be read: "),
        ((*HAN, "--class-weight", 0, "--mask-weight", 0, "--dice-weight", 0), 2, "nothing would be learned"),
        (("--accounting", "paper"), 2, "add --estimate"),
        (("--estimate", "--accounting", "guess"), 2, "unknown accounting: 'guess'; choose one of exact, paper"),
        (("--estimate", "--cache-features", "{desk}/c"), 2, "a cache of features needs a frozen prefix"),
    ],
)
def test_options_that_cannot_be_followed(
    options: tuple[Any, ...], code: int, named: str, refused: Any, desk: Path, bundle: Path
) -> None:
    (desk / "file").write_text("no such thing\n")
    (desk / "full").mkdir()
    (desk / "full" / "letter.txt").write_text("a letter\n")
    given = [str(part).format(desk=desk) for part in options]
    assert named in refused("finetune", bundle, *SHORT, *given, "-o", desk / "f", code=code)


def test_a_recipe_for_another_framework_than_the_bundle_s(refused: Any, desk: Path, segmentor: Path) -> None:
    line = ("finetune", segmentor, "--recipe", "han", *SHORT, "--warmup-steps", 0)
    for more in (("-o", desk / "f"), ("--estimate",)):
        assert "deeplabv3, not han" in refused(*line, *more, code=2)


def test_nothing_to_train_and_nowhere_to_write(refused: Any, desk: Path, bundle: Path) -> None:
    assert "BUNDLE to train is missing" in refused("finetune", "-o", desk / "f", code=2)
    assert "--out to write to is missing" in refused("finetune", bundle, code=2)
    assert "no such bundle" in refused("finetune", desk / "none", *SHORT, "-o", desk / "f")


def test_the_features_of_another_run(run_cli: Any, refused: Any, desk: Path, bundle: Path) -> None:
    line = ("finetune", bundle, *SHORT, *CACHE, desk / "c")
    assert run_cli(*line, "--quiet", "-o", desk / "first").exit_code == 0
    message = refused(*line, "--seed", 1, "-o", desk / "f", code=2)
    assert message.startswith("the cache holds the features of another run") and "name a new folder" in message


def test_a_refused_run_leaves_the_log_of_the_one_that_can_go_on(
    run_cli: Any, refused: Any, desk: Path, bundle: Path
) -> None:
    """`refused` compares every file: state, log and all."""
    line = ("finetune", bundle, *SHORT, "-o", desk / "f")
    assert run_cli(*line, "--max-minutes", 1e-6, "--quiet").exit_code == 75
    assert "out of range: --lr -1.0" in refused(*line, "--lr", -1, "--resume", code=2)
    assert "no such block" in refused(*line, "--prefix-end", "layer9", "--resume", code=2)
    message = refused(*line, "--lr", 1e-3, "--resume")
    assert "(lr was 0.002, now 0.001)" in message and "start anew with --force and without --resume" in message
    assert run_cli(*line, "--resume").exit_code == 0
