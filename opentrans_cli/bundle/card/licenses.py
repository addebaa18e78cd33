"""Licences as the header of a model card names them.

The Hub shows and filters by identifiers of its own list (huggingface.co/docs/hub/repositories-licenses, as of 2026).
Most are SPDX identifiers in small letters, but not all: "openrail" or "llama3" are not SPDX, and many of SPDX are not
in the list. A licence outside the list is `other` with a `license_name` and a `license_link`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from opentrans_cli.errors import OptionError

OTHER = "other"
_HUB = """
afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0
cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0
cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0
cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2
fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 grok2-community h-research intel-research isc lgpl
lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by
ofl-1.1 openmdw-1.0 openmdw-1.1 openrail openrail++ osl-3.0 pddl postgresql unlicense wtfpl zlib
"""
HUB_LICENSES = frozenset(_HUB.split())
"""The Hub's identifiers, without "other" and "unknown", which name no licence."""

_FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}")
_LINK = re.compile(r"https://[!-~]{1,300}")
_SPDX_PAGE = "https://spdx.org/licenses/{}.html"
_LONGEST_NAME = 100  # characters


@dataclass(frozen=True)
class License:
    """The licence of what is published."""

    id: str  # for the Hub: one of its identifiers, or "other"
    name: str | None = None  # of another licence
    link: str | None = None  # to the text of another licence

    @property
    def known(self) -> bool:
        """Whether a reader can find out what the terms are."""
        return self.id in HUB_LICENSES or bool(self.name and self.link)


def license_of(text: str, *, name: str | None = None, link: str | None = None) -> License:
    """The licence that `text` names: an identifier of the Hub or of SPDX in any case, or "other" with name and link.

    Raises OptionError for text that is no identifier, and for a name or a link that the Hub would not take.
    """
    if not _FORM.fullmatch(text):
        raise OptionError(f"not an identifier of a license: {text[:80]!r}; write for example apache-2.0 or other")
    if name is not None and not (name.strip() and name.isprintable() and len(name) <= _LONGEST_NAME):
        raise OptionError(f"not a name of a license: {name[:80]!r}; write one line, at most {_LONGEST_NAME} characters")
    if link is not None and not _LINK.fullmatch(link):
        raise OptionError(f"not a link to a license: {link[:80]!r}; write an address that begins with https://")
    if text.lower() in HUB_LICENSES:
        return License(text.lower(), name, link)
    spdx = _spdx(text)
    if spdx is not None:
        return License(OTHER, name or spdx, link or _SPDX_PAGE.format(spdx))
    return License(OTHER, name or (None if text.lower() in (OTHER, "unknown") else text), link)


def _spdx(text: str) -> str | None:
    """The identifier of SPDX that `text` is, in its own case; None if it is none."""
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    try:
        found = canonicalize_license_expression(text)
    except InvalidLicenseExpression:
        return None
    return None if found.startswith("LicenseRef-") else str(found)
