"""Every option of finetune out of range, misspelt or contradicting another: one line, a next move, nothing written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

SHORT = ("--steps", 2, "--batch-size", 2, "--crop", 32, "--limit", 2, "--device", "cpu", "--timing-steps", 0)
HAN = ("--framework", "han")
CACHE = ("--prefix-end", "stem", "--views", 2, "--cache-features")

OUT_OF_RANGE = {
    "--steps": (-1, 0, 10**23),
    "--batch-size": (-1, 0, 10**23),
    "--accumulate": (-1, 0, 10**23),
    "--crop": (-1, 31, 10**23),
    "--views": (-1, 10**23),
    "--lr": (-1, 0, "nan", "inf", 1e300),
    "--backbone-lr-factor": (-1, "nan", "inf", 1e300),
    "--weight-decay": (-1, "nan", "inf", 1e300),
    "--momentum": (-1, 1, "nan"),
    "--lr-warmup-steps": (-1, 3, 10**23),
    "--gamma": (-1, 0, 2, "nan"),
    "--grad-clip": (-1, "nan", "inf"),
    "--ema": (-1, 1, "nan"),
    "--class-weight": (-1, "nan", "inf", 1e300),
    "--mask-weight": (-1, "nan"),
    "--dice-weight": (-1, "nan"),
    "--no-object-weight": (-1, "nan"),
    "--points": (-1, 0, 10**23),
    "--oversample": (-1, 0.5, "nan"),
    "--importance": (-1, 1.5, "nan"),
    "--region-dropout": (-1, 1, "nan"),
    "--kd-weight": (-1, "nan", 1e300),
    "--grounding-weight": (-1, "nan"),
    "--freeze-ratio": (-1, 1.5, "nan"),
    "--warmup-steps": (-1, 3),
    "--timing-steps": (-1,),
    "--workers": (-1, 10**9),
    "--save-every": (-1, 0),
    "--max-minutes": (-1, 0, "nan", "inf"),
    "--eval-every": (-1,),
    "--eval-limit": (-1, 0),
    "--scale": ("1", "a,b", "1,2,3", "2,1", "nan,nan", "-1,2", "inf,inf", ""),
    "--milestones": ("a", "0.9,0.8", "2", "nan", ""),
}

NAMES = ("optimizer", "schedule", "precision", "scale-of", "freeze-scope", "recipe", "framework", "estimator", "freeze")


@pytest.mark.parametrize("option", OUT_OF_RANGE)
@pytest.mark.parametrize("estimating", [False, True], ids=["run", "estimate"])
def test_a_value_out_of_range(option: str, estimating: bool, refused: Any, desk: Path, bundle: Path) -> None:
    of_runs = ("--timing-steps", "--workers", "--save-every", "--max-minutes", "--eval-every", "--eval-limit")
    if estimating and option in of_runs:
        pytest.skip("an estimate takes no steps")
    more = ("--estimate",) if estimating else ("-o", desk / "f")
    for value in OUT_OF_RANGE[option]:
        message = refused("finetune", bundle, *SHORT, f"{option}={value}", *more, code=2)
        spelt = option[2:].replace("-", " ")
        assert any(name in message.replace("-", " ") for name in (spelt, *MEANT.get(option, ()))), message


MEANT = {"--lr": ("learning rate",), "--lr-warmup-steps": ("warm up",), "--warmup-steps": ("warm up",)}


@pytest.mark.parametrize("option", NAMES)
@pytest.mark.parametrize("estimating", [False, True], ids=["run", "estimate"])
def test_an_unknown_name(option: str, estimating: bool, refused: Any, desk: Path, bundle: Path) -> None:
    more = ("--estimate",) if estimating else ("-o", desk / "f")
    message = refused("finetune", bundle, *SHORT, f"--{option}=nonsense", *more, code=2)
    assert "nonsense" in message and ("choose" in message or "use " in message)


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
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
        (("--estimate", "--accounting", "guess"), 2, "choose exact or paper"),
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
    assert "no such block" in refused(*line, "--prefix-end", "layer9", code=2)
    message = refused(*line, "--lr", 1e-3, "--resume")
    assert "(lr was 0.002, now 0.001)" in message and "start again without --resume" in message
    assert run_cli(*line, "--resume").exit_code == 0
