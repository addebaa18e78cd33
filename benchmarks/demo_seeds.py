"""Run the full demo, or with --short the default one, for several seeds and write the figures as a dated report.

    python benchmarks/demo_seeds.py --seeds 0 1 2 --work demo-seeds --out benchmarks/results/DATE-demo.md

Each run is a process of its own. The report gives every seed and the mean; the folders stay in --work.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean
from typing import Any

TOWER_COLUMNS = ("sparsity", "miou", "miou_seen", "miou_unseen", "params_kept", "macs", "bundle_bytes")
SHARE_ALLOWED = 0.20  # of the bytes of the dense prunable weights


def run(seed: int, work: Path, extra: list[str]) -> dict[str, Any]:
    """One demo; an existing report of the same seed is read instead."""
    folder = work / f"seed{seed}"
    if not (folder / "report.json").exists():
        command = [sys.executable, "-m", "opentrans_cli", "demo", "--seed", str(seed), "--out", str(folder), *extra]
        subprocess.run([*command, "--json"], check=True, stdout=subprocess.DEVNULL)
    return {**json.loads((folder / "report.json").read_text()), "sizes": sizes(folder / "subnet")}


def sizes(bundle: Path) -> dict[str, int]:
    """Bytes of the subnet's bundle, of its dense prunable weights, and of all its other tensors, as float32."""
    from opentrans_cli.bundle.store import open_bundle
    from opentrans_cli.files.tensorfile import tensor_headers

    opened = open_bundle(bundle)
    manifest = opened.manifest
    kept = 4 * manifest.kept
    stored = sum(entry.bytes for entry in manifest.files if entry.name == "weights.safetensors")
    header = int.from_bytes((bundle / "weights.safetensors").read_bytes()[:8], "little") + 8
    assert tensor_headers(bundle / "weights.safetensors")
    return {"bundle": opened.size_bytes, "prunable": 4 * manifest.total, "untouched": stored - kept - header}


def table(reports: dict[int, dict[str, Any]], key: str, columns: tuple[str, ...]) -> list[str]:
    """Markdown: a line per row name, each figure as "mean (seed, seed, ...)"."""
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for number, row in enumerate(next(iter(reports.values()))[key]):
        cells = []
        for column in columns:
            values = [report[key][number][column] for report in reports.values()]
            if column.startswith("miou"):
                each = ", ".join(f"{100 * value:.1f}" for value in values)
                cells.append(f"**{100 * mean(values):.1f}** ({each})")
            else:
                cells.append(f"{mean(values):,.4g}" if column == "sparsity" else f"{mean(values):,.0f}")
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return lines


def gaps(reports: dict[int, dict[str, Any]]) -> list[str]:
    """The subnet's lead over each control, by seed, in points of mIoU."""
    lines = []
    for control in ("random", "random_distilled"):
        for column in ("miou", "miou_seen", "miou_unseen"):
            values = []
            for report in reports.values():
                by_name = {row["name"]: row for row in report["rows"]}
                values.append(100 * (by_name["subnet"][column] - by_name[control][column]))
            each = ", ".join(f"{value:+.1f}" for value in values)
            lines.append(f"- subnet - {control}, {column}: mean {mean(values):+.1f} ({each})")
    return lines


def report(reports: dict[int, dict[str, Any]]) -> str:
    """The whole report as Markdown."""
    first = next(iter(reports.values()))
    settings = dict(first["settings"])
    environment = settings.pop("environment")
    size = first["sizes"]
    allowed = SHARE_ALLOWED * size["prunable"] + size["untouched"]
    seconds = ", ".join(f"{entry['seconds']:.0f}" for entry in reports.values())
    parts = [
        f"# `opentrans demo`, seeds {', '.join(map(str, reports))}",
        "",
        f"Environment: {json.dumps(environment)}",
        "",
        f"Settings: {json.dumps({k: v for k, v in settings.items() if k not in ('towers', 'seed')})}",
        "",
        f"Seconds for a whole run: {seconds}",
        "",
        "mIoU in %, mean over the seeds (each seed). MACs at 96 x 96, pruned weights not counted.",
        "",
        *table(reports, "rows", TOWER_COLUMNS),
        "",
        *gaps(reports),
        "",
        "Fine-tuning the subnet:",
        "",
        *table(
            reports,
            "finetune_rows",
            ("miou", "miou_seen", "miou_unseen", "training_macs", "training_macs_unmasked", "frozen_layers"),
        ),
        "",
        f"Size of the subnet's bundle: {size['bundle']:,} bytes. Dense prunable weights {size['prunable']:,} bytes, "
        f"untouched tensors {size['untouched']:,} bytes; {SHARE_ALLOWED} x prunable + untouched = {allowed:,.0f} "
        f"bytes: {'kept' if size['bundle'] <= allowed else 'exceeded'}. Without the untouched tensors the bundle is "
        f"{(size['bundle'] - size['untouched']) / size['prunable']:.3f} of the dense prunable weights.",
    ]
    return "\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--short", action="store_true", help="the default form of the demo instead of the full one")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    reports = {seed: run(seed, args.work, [] if args.short else ["--full"]) for seed in args.seeds}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(report(reports))
    print(args.out)


if __name__ == "__main__":
    main()
