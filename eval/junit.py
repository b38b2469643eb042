"""Test results as JUnit XML, the form that CI servers read and show."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

__all__ = ["JunitCase", "junit_xml"]

_NOT_XML = re.compile(r"[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold (section 2.2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JunitCase:
    """One test: what was wrong, a line each (nothing where it passed), and further words on it."""

    name: str
    problems: tuple[str, ...] = ()
    details: str = ""


def junit_xml(suite: str, cases: Sequence[JunitCase], *, duration_s: float = 0.0) -> str:
    """One test suite as an XML document; characters that XML cannot hold become question marks."""
    n_failed = sum(bool(case.problems) for case in cases)
    counts = {"tests": str(len(cases)), "failures": str(n_failed), "errors": "0", "time": f"{duration_s:.3f}"}
    root = ElementTree.Element("testsuites", counts)
    parent = ElementTree.SubElement(root, "testsuite", {"name": _clean(suite), **counts})
    for case in cases:
        element = ElementTree.SubElement(parent, "testcase", {"name": _clean(case.name), "classname": _clean(suite)})
        if case.problems:
            failure = ElementTree.SubElement(element, "failure", {"message": _clean("; ".join(case.problems))})
            failure.text = _clean("\n".join((*case.problems, case.details)).strip())
        elif case.details:
            ElementTree.SubElement(element, "system-out").text = _clean(case.details)
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _clean(text: str) -> str:
    return _NOT_XML.sub("?", text)
