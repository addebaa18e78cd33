#!/usr/bin/env bash
# webdataset takes what stands before the first dot of a name for the key of a sample, and joins only neighbours.
#
# webdataset 1.0.2. `street.day.jpg` and `street.night.jpg`, two photos with their label maps, become one sample with the
# key `street`; no warning is given, and a pipeline that decodes "jpg" finds none. Where the files of a sample do not
# follow each other in the archive, as in one that was written by sorted suffix, each of them becomes a sample of its
# own. `opentrans` keeps every photo of a shard, with its own label map.
#
# Seen:
#   names with two dots: 1 sample: street with day.jpg day.png night.jpg night.png
#   sorted by suffix: 4 samples: a with jpg, b with jpg, a with png, b with png
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check webdataset==1.0.2 numpy==2.2.6
cat > seen.py <<'PY'
import io
import tarfile

import webdataset


def samples(*names: str) -> str:
    with tarfile.open("shard.tar", "w") as archive:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = len(name)
            archive.addfile(entry, io.BytesIO(name.encode()))
    found = list(webdataset.WebDataset("shard.tar", shardshuffle=False))
    parts = [(one["__key__"], " ".join(key for key in one if not key.startswith("__"))) for one in found]
    count = f"{len(parts)} sample{'s' if len(parts) > 1 else ''}"
    return f"{count}: " + ", ".join(f"{key} with {suffixes}" for key, suffixes in parts)


print("names with two dots:", samples("street.day.jpg", "street.day.png", "street.night.jpg", "street.night.png"))
print("sorted by suffix:", samples("a.jpg", "b.jpg", "a.png", "b.png"))
PY
venv/bin/python seen.py | tee seen.txt
diff - seen.txt <<'TXT'
names with two dots: 1 sample: street with day.jpg day.png night.jpg night.png
sorted by suffix: 4 samples: a with jpg, b with jpg, a with png, b with png
TXT
