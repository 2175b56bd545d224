"""Every promise stands in the documentation, and has tests that hold it."""

import re
from pathlib import Path

import pytest

from .promises import PROMISES

ROOT = Path(__file__).parents[2]
PAGES = "".join((ROOT / "docs" / name).read_text() for name in ("benchmark.md", "clusters.md"))
PAGE = " ".join(PAGES.split())


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.sentence[:40])
def test_a_promise_is_in_the_docs_and_its_tests_exist(promise):
    assert promise.sentence in PAGE
    assert promise.tests
    for name in promise.tests:
        file, _, test = name.rpartition("::")
        assert re.search(rf"^ *def {test}\(", (ROOT / file.partition("::")[0]).read_text(), re.M)


def test_every_sentence_on_what_can_be_trusted_is_a_promise():
    section = PAGE.partition("## What can be trusted ")[2].partition(" ## ")[0]
    sentences = re.split(r"(?<=[.:]) (?=[A-Z`])", section)
    assert len(sentences) > 5
    known = " ".join(promise.sentence for promise in PROMISES)
    assert [sentence for sentence in sentences if sentence not in known] == []
