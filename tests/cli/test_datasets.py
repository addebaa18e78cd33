"""opentrans datasets prepare: what it says, writes and refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from benchmark_downloads import DOWNLOADS
from PIL import Image

from opentrans_cli.bundle.schema import check_document


def test_a_download_is_prepared_and_then_all_is_there(
    run_cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    DOWNLOADS["voc-20"](tmp_path)
    result = run_cli("datasets", "prepare", "voc-20", "--root", tmp_path)
    labels = tmp_path / "pascal_voc_d2/annotations_pascal20/validation"
    assert (result.exit_code, result.stdout.strip()) == (0, str(labels))
    assert "converting" in result.stderr
    assert len([*labels.iterdir()]) == 3

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    again = run_cli("datasets", "prepare", "voc-20", "--json")
    document = json.loads(again.stdout)
    check_document(document, "prepare_report")
    assert (document["written"], document["there"], document["bytes"], document["bad"]) == (0, 3, 0, [])
    assert document["labels"] == str(labels)


def test_bad_pictures_are_told_and_the_exit_code_says_so(run_cli: Any, tmp_path: Path) -> None:
    DOWNLOADS["voc-21"](tmp_path)
    made = tmp_path / "VOCdevkit/VOC2012/SegmentationClass"
    Image.open(made / "2008_000003.png").crop((0, 0, 9, 9)).save(made / "2008_000003.png")
    data = (made / "2009_000012.png").read_bytes()
    (made / "2009_000012.png").write_bytes(data[:-40])
    result = run_cli("datasets", "prepare", "voc-21", "--root", tmp_path, "--json")
    assert result.exit_code == 1
    bad = json.loads(result.stdout)["bad"]
    assert [each["name"] for each in bad] == ["2008_000003", "2009_000012"]
    assert "image is 64x48 but its label map 9x9" in bad[0]["problem"]
    for each in bad:
        assert f"{each['name']}.png" in each["problem"]
        assert each["problem"] in result.stderr
    assert result.stderr.splitlines()[-1] == (
        "opentrans: error: 2 pictures were not converted; mend them, then the same command goes on"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("voc-22",), 2, "unknown published data set: 'voc-22'; choose one of .*; did you mean voc-2"),
        (("folder",), 2, "unknown published data set: 'folder'; choose one of coco, "),
        (("voc-20", "--layout", "fcclip"), 2, "unknown layout of voc-20: 'fcclip'; choose one of fc-clip"),
        (("voc-20", "--split", "test"), 2, "unknown split: 'test'; choose one of train, val"),
        (("voc-20",), 1, "data set not found: voc-20"),
        (("ade20k-847",), 1, "data set not found: ade20k-847"),
    ],
)
def test_what_cannot_be_prepared_is_one_line(
    arguments: tuple[str, ...], code: int, message: str, run_cli: Any, tmp_path: Path
) -> None:
    result = run_cli("datasets", "prepare", *arguments, "--root", tmp_path)
    assert result.exit_code == code
    (line,) = result.stderr.strip().splitlines()
    assert re.search(message, line), line
    assert not [*tmp_path.iterdir()]


def test_without_a_root_it_asks_for_one(run_cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    result = run_cli("datasets", "prepare", "voc-20")
    assert result.exit_code == 2
    assert "add --root DIR, or set $DETECTRON2_DATASETS" in result.stderr


def test_all_are_listed_in_the_width_of_a_screen(run_cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    DOWNLOADS["voc-21"](tmp_path)
    listed = run_cli("datasets", "--root", tmp_path, "--json")
    document = json.loads(listed.stdout)
    check_document(document, "datasets_report")
    assert {each["name"] for each in document["datasets"]} == DOWNLOADS.keys()
    bare = run_cli("datasets")
    assert bare.exit_code == 0 and "add --root DIR, or set $DETECTRON2_DATASETS" in bare.stderr
    screen = run_cli("datasets", "--root", tmp_path).stdout
    lines = [line.rstrip() for line in screen.splitlines()]
    assert max(map(len, lines)) <= 80
    assert next(line.split()[:4] for line in lines if "voc-21" in line) == ["voc-21", "21", "1", "3"]
    assert "coco/annotations/panoptic_{train,val}2017.json" in screen
    for each in document["datasets"]:
        whole = all(split["whole"] for split in each["splits"])
        assert each["name"] in screen and (each["download"] in screen or whole), each["name"]


def test_what_is_to_be_prepared_is_a_command_that_can_be_run_as_it_stands(
    run_cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    (tmp_path / "my data/ADE20K_2021_17_01/images/ADE/validation").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    screen = run_cli("datasets", "--root", "my data").stdout
    assert "opentrans datasets prepare ade20k-847 --root 'my data'" in screen
    assert "opentrans datasets prepare ade20k-847 --split train --root 'my data'" in screen
    monkeypatch.setenv("DETECTRON2_DATASETS", "my data")
    assert "opentrans datasets prepare ade20k-847\n" in re.sub(" +\n", "\n", run_cli("datasets").stdout)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prepare",), "which data set? opentrans datasets prepare; add its name"),
        (("--layout", "fc-clip"), "nothing to prepare: --split, --layout; put `prepare NAME` before them"),
        (("prepar",), "unknown action: 'prepar'; choose one of prepare; did you mean prepare?"),
    ],
)
def test_what_cannot_be_listed_is_one_line(arguments: tuple[str, ...], message: str, run_cli: Any) -> None:
    result = run_cli("datasets", *arguments)
    assert result.exit_code == 2 and message in result.stderr and len(result.stderr.strip().splitlines()) == 1
