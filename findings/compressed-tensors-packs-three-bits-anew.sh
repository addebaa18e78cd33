#!/usr/bin/env bash
# compressed-tensors 0.18 packs weights of 3, 5, 6 and 7 bits in another way than 0.17, and reads the older files wrong.
#
# compressed-tensors 0.17.1 and 0.20.1 with torch 2.13.0. Up to 0.17 a word of 32 bits holds whole numbers (ten of 3 bits,
# two bits unused); since 0.18 numbers follow each other without a gap. Names, types and `weight_shape` are the same, and
# no version is in the file. The newer release unpacks a file of the older one without an error or a warning, and its
# weights are noise: an error of 170 % in place of 20 %. 1, 2, 4 and 8 bits are the same in both. `opentrans` tells the two
# apart by the number of words in a row, and reads both.
#
# Seen (error of the unpacked weights against the dense ones):
#   3 bits: packed by 0.17.1, read by 0.17.1: below 0.3, read by 0.20.1: above 1
#   4 bits: packed by 0.17.1, read by 0.17.1: below 0.3, read by 0.20.1: below 0.3
#   6 bits: packed by 0.17.1, read by 0.17.1: below 0.3, read by 0.20.1: above 1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.2.6 transformers==5.24.0 \
    safetensors==0.8.0 pydantic==2.12.5 loguru==0.7.3 psutil==7.2.2
for version in 0.17.1 0.20.1; do
    venv/bin/pip install --quiet --disable-pip-version-check --no-deps --target "$version" "compressed-tensors==$version"
done
cat > pack.py <<'PY'
import sys

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import load_file, save_file

step, bits = sys.argv[1], int(sys.argv[2])
torch.manual_seed(0)
weight = torch.randn(16, 64)
arguments = QuantizationArgs(num_bits=bits, type="int", strategy="group", group_size=16, symmetric=True)
scheme = QuantizationScheme(targets=["Linear"], weights=arguments)
packer = BaseCompressor.get_value_from_registry("pack-quantized")
if step == "pack":
    scale = weight.view(16, 4, 16).abs().amax(2) / (2 ** (bits - 1) - 0.5)
    packed = packer.compress({"weight": weight, "weight_scale": scale}, scheme)
    save_file({name: tensor.contiguous() for name, tensor in packed.items()}, "packed.safetensors")
else:
    read = packer.decompress(load_file("packed.safetensors"), scheme)["weight"]
    error = float((read - weight).norm() / weight.norm())
    print("below 0.3" if error < 0.3 else "above 1" if error > 1 else f"{error:.2f}")
PY
for bits in 3 4 6; do
    PYTHONPATH=0.17.1 venv/bin/python pack.py pack "$bits" 2>>messages.txt
    old=$(PYTHONPATH=0.17.1 venv/bin/python pack.py read "$bits" 2>>messages.txt)
    new=$(PYTHONPATH=0.20.1 venv/bin/python pack.py read "$bits" 2>>messages.txt)
    echo "$bits bits: packed by 0.17.1, read by 0.17.1: $old, read by 0.20.1: $new"
done | tee seen.txt
diff - seen.txt <<'TXT'
3 bits: packed by 0.17.1, read by 0.17.1: below 0.3, read by 0.20.1: above 1
4 bits: packed by 0.17.1, read by 0.17.1: below 0.3, read by 0.20.1: below 0.3
6 bits: packed by 0.17.1, read by 0.17.1: below 0.3, read by 0.20.1: above 1
TXT
