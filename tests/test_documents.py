from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from ssltool import documents
from ssltool.documents import DocumentError, parse_json, read_json, read_toml, validated

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=50)
@given(VALUES)
def test_json_is_read_as_it_was_written(value: object) -> None:
    assert parse_json(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no JSON"),
        (b'{"a": 1', "no JSON"),
        (b'{"a": 1, "a": 2}', "'a' is there twice"),
        (b'{"b": {"a": 1, "a": 1}}', "'a' is there twice"),
        (b"[NaN]", "NaN is not a finite number"),
        (b"[-Infinity]", "-Infinity is not a finite number"),
        (b"[1e400]", "1e400 is not a finite number"),
        (b"[9223372036854775808]", "19 digits, beyond 64 bits"),
        (b"[" + b"9" * 100_000 + b"]", "100,000 digits, beyond 64 bits"),
        (b"[" * 100_000, "more than 64 levels"),
        (b"[" * 100 + b"]" * 100, "more than 64 levels"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "more than 64 levels"),
        (b'{"\xff": 1}', "not UTF-8 at byte 2"),
        ("{}".encode("utf-16"), "not UTF-8"),
    ],
)
def test_damaged_json_is_one_short_line(content: bytes, words: str) -> None:
    with pytest.raises(DocumentError, match=words) as caught:
        parse_json(content)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_what_other_programs_write_is_read() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": [1e308, -9223372036854775808]}')
    assert parse_json("[" * 64 + "]" * 64)
    assert parse_json(r'"\udcff"') == "\udcff"  # a file name of undecodable bytes
    assert parse_json("[NaN]", finite=False)


def test_the_size_is_checked_before_the_content_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    path.touch()
    os.truncate(path, 2**40)  # a sparse file
    with pytest.raises(DocumentError, match="more than 67,108,864 bytes"):
        read_json(path)


def test_no_file_that_never_ends_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(DocumentError, match="no regular file"):
            read_json(path)
    with pytest.raises(DocumentError, match="no such file"):
        read_json(tmp_path / "missing")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = ", "no TOML"),
        ("a = 1\na = 2", "no TOML"),
        ("a = " + "9" * 5000, "no TOML"),
        ("a = " + "[" * 100_000, "64 levels"),
        ("a = " + "[" * 80 + "]" * 80, "64 levels"),
    ],
)
def test_damaged_toml_is_one_short_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(DocumentError, match=words) as caught:
        read_toml(tmp_path / "c.toml")
    assert "\n" not in str(caught.value)


def test_faults_of_a_model_are_named_and_cut() -> None:
    class Model(BaseModel, extra="forbid"):
        a: int

    assert validated(Model, {"a": 1}).a == 1
    for document, words in [
        ([], "the document: "),
        ({}, "a: is required"),
        ({"a": "x"}, "a: should be an integer"),
        ({"a": 1, "b\n" + "x" * 10_000: 1}, r"b x+\.\.\.: "),
    ]:
        with pytest.raises(DocumentError, match=words) as caught:
            validated(Model, document)
        assert not re.search(r"\n|.{500}", str(caught.value))


def test_cut_leaves_short_text_as_it_is() -> None:
    assert documents.cut("a b") == "a b"
    assert documents.cut("a\nb") == "a b"
