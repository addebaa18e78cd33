#!/usr/bin/env bash
# model-signing installed by pip cannot be imported: it loads pyOpenSSL, which nothing installs any more.
#
# model-signing 1.1.1 with sigstore 4.5.1. Its module for certificates imports OpenSSL, its package imports that module,
# and its requirements do not name pyOpenSSL, which came along with older releases of sigstore. Even a signature by a
# plain key cannot be made. The extra opentrans-cli[sign] names pyOpenSSL itself.
#
# Seen:
#   pip install model-signing: No module named 'OpenSSL'
#   and pyopenssl: imported
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
cat > seen.py <<'PY'
try:
    import model_signing  # noqa: F401

    print("imported")
except ImportError as error:
    print(error)
PY
venv/bin/pip install --quiet --disable-pip-version-check model-signing==1.1.1 sigstore==4.5.1
echo "pip install model-signing: $(venv/bin/python seen.py)" | tee seen.txt
venv/bin/pip install --quiet --disable-pip-version-check pyopenssl==26.4.0
echo "and pyopenssl: $(venv/bin/python seen.py)" | tee -a seen.txt
diff - seen.txt <<'TXT'
pip install model-signing: No module named 'OpenSSL'
and pyopenssl: imported
TXT
