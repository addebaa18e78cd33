#!/usr/bin/env bash
# torch's FlopCounterMode counts the weight gradient of a grouped convolution `groups` times, and a frozen attention never.
#
# torch 2.13.0. The formula of the backward pass of a convolution does not know the groups for the weight gradient. An
# nn.MultiheadAttention whose parameters need no gradients takes its fast path in eval mode, one fused operator that has no
# formula, so its projections and products cost nothing. `opentrans` counts by its own formulas; its tests compare
# them with torch's counter after both are corrected.
#
# Seen (1 = what the forward pass counts):
#   convolution, groups 1: weight gradient 1
#   convolution, groups 8: weight gradient 8
#   attention with gradients: 16384 multiply-adds or more, frozen: 0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.2.6
cat > seen.py <<'PY'
import warnings

warnings.simplefilter("ignore")
import torch
from torch.utils.flop_counter import FlopCounterMode


def counted(run) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() // 2


for groups in (1, 8):
    layer, x = torch.nn.Conv2d(16, 16, 3, groups=groups, bias=False), torch.randn(1, 16, 8, 8)
    forward = counted(lambda: layer(x))
    both = counted(lambda: layer(x).sum().backward())
    print(f"convolution, groups {groups}: weight gradient {(both - forward) // forward}")

attention, x = torch.nn.MultiheadAttention(32, 2, batch_first=True).eval(), torch.randn(1, 4, 32)
needs = counted(lambda: attention(x, x, x))
with torch.no_grad():
    frozen = counted(lambda: attention.requires_grad_(False)(x, x, x))
least = 4 * 4 * 32 * 32  # four projections of four vectors
print(f"attention with gradients: {least} multiply-adds or more, frozen: {frozen}" if needs >= least else needs)
PY
venv/bin/python seen.py | tee seen.txt
diff - seen.txt <<'TXT'
convolution, groups 1: weight gradient 1
convolution, groups 8: weight gradient 8
attention with gradients: 16384 multiply-adds or more, frozen: 0
TXT
