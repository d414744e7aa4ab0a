"""The YAML writer: what it writes is read back as the same data, whatever the text looks like."""

from __future__ import annotations

import pytest
import yaml as pyyaml
from hypothesis import example, given
from hypothesis import strategies as st

from etlkit.manifest.yaml import document, documents, note, plain

ODD = [
    "y", "no", "On", "null", "~", "0x1f", "0440", "012", "1e3", ".5", "1_000", "12:30", "2024-01-01", "2024-01-01T00:00:00Z",
    "-", "-x", "--set=a=b", "a: b", "a #b", "- x", "=", "<<", "a:", "?", "!x", "%", "@a", "`", "&a", "*a", "{", "[", "x,y", "", " ",
    "a ", " a",
    "line\nother\n", "x\n y", "\n", "key: |\n  z\n", "tab\there", "\u2028", "\U0001f600", "\x85", "\ufeff", "...", "---",
]  # fmt: skip
LEAF = st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.text(max_size=12) | st.sampled_from(ODD)
TREE = st.recursive(
    LEAF,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.sampled_from(ODD), inner, max_size=3)
    ),
    max_leaves=12,
)


def noted(draw, value):
    """The same data with notes at random places."""
    if isinstance(value, dict):
        value = {key: noted(draw, item) for key, item in value.items()}
    elif isinstance(value, list):
        value = [noted(draw, item) for item in value]
    return (
        note(draw(st.sampled_from(["why", "two\nlines", "a: b # c", "word " * 60])), value)
        if draw(st.booleans())
        else value
    )


@given(st.dictionaries(st.text(min_size=1, max_size=5), TREE, max_size=4), st.data())
def test_any_data_comes_back_with_notes_and_without(data, draw):
    assert pyyaml.safe_load(document(data)) == data
    commented = noted(draw.draw, data)
    assert plain(commented) == data
    assert pyyaml.safe_load(document(commented)) == data


@pytest.mark.parametrize("text", ODD)
def test_text_that_yaml_would_take_for_something_else(text):
    assert pyyaml.safe_load(document({"k": text, text: "v", "l": [text], "m": [{"x": text}]})) == {
        "k": text,
        text: "v",
        "l": [text],
        "m": [{"x": text}],
    }


@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("\U0001f600\x00")
def test_any_text_at_all(text):
    assert pyyaml.safe_load(document({"k": text}))["k"] == text


def test_a_note_stands_above_what_it_is_about():
    written = document(
        {"spec": {"a": note("why a", 1), "list": [note("first", {"name": "x"}), {"name": note("in", "z")}]}}
    )
    assert written.splitlines() == [
        "spec:",
        "  # why a",
        "  a: 1",
        "  list:",
        "    # first",
        "    - name: x",
        "    # in",
        "    - name: z",
    ]


def test_documents_are_separated():
    assert list(pyyaml.safe_load_all(documents([{"a": 1}, note("b", {"b": 2})]))) == [{"a": 1}, {"b": 2}]


def test_what_json_can_not_say_is_refused():
    with pytest.raises(TypeError, match="object"):
        document({"k": object()})
