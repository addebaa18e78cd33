#!/usr/bin/env bash
# huggingface_hub reads an entry of .eval_results/*.yaml and writes it without its evaluation_framework.
#
# huggingface_hub 2.4.0 and 1.33.0. The Hub's page on evaluation results lists `evaluation_framework`, which an entry
# needs to be shown as verified. `EvalResultEntry` has no such field: parsing keeps no trace of it and says nothing, so
# that a tool which reads the entries of a repo, adds its own and writes all of them takes the mark from the others.
# `opentrans` has a file of its own in that folder and never writes one anew that others made.
#
# Seen:
#   2.4.0 kept dataset, notes, source, value; lost evaluation_framework
#   1.33.0 kept dataset, notes, source, value; lost evaluation_framework
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
cat > seen.py <<'PY'
from huggingface_hub import __version__, eval_result_entries_to_yaml, parse_eval_result_entries

entry = {
    "dataset": {"id": "Idavidrein/gpqa", "task_id": "gpqa_diamond"},
    "value": 0.412,
    "source": {"url": "https://huggingface.co/org/name"},
    "evaluation_framework": "inspect-ai",
    "notes": "no-tools",
}
(written,) = eval_result_entries_to_yaml(parse_eval_result_entries([entry]))
print(f"{__version__} kept {', '.join(sorted(written))}; lost {', '.join(sorted(set(entry) - set(written)))}")
PY
for release in 2.4.0 1.33.0; do
  venv/bin/pip install --quiet --disable-pip-version-check "huggingface_hub==$release"
  venv/bin/python seen.py
done | tee seen.txt
diff - seen.txt <<'TXT'
2.4.0 kept dataset, notes, source, value; lost evaluation_framework
1.33.0 kept dataset, notes, source, value; lost evaluation_framework
TXT
