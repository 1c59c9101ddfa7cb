"""The check of prose finds what it should in every kind of document, and leaves code, formulas and quotations alone."""

import json

import pytest

import prose


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Whoever waits", ["Whoever"]),
        ("equal to the bit", ["to the bit"]),
        ("a training takes", ["a training"]),
        ("two trainings", ["trainings"]),
        ("a training run, a training pair and a training loop", []),
        ("it does everything and anything", []),
        ("the `dustbin` and “two hands” and \"the thing\"", []),
        ("$thing$ and [a link](thing.md) and ![a thing](thing.svg)", []),
        ("```python\nthing = 1\n```\nwords", []),
        ("| thing | x |\n|---|---|", ["thing"]),
    ],
)
def test_words_of_the_list_are_found_in_prose_only(text, found):
    assert [word for word, _ in prose.stumbling(text)] == found


def test_every_document_is_read_with_its_places(tmp_path):
    names = {path.relative_to(prose.ROOT).as_posix() for path in prose.documents()}
    assert {"README.md", "data/README.md", "docs/teaching.md", "lcl/train/loop.py"} <= names
    assert "notebooks/05_bipartite_matching.ipynb" in names
    module = tmp_path / "module.py"
    module.write_text('"""First."""\n\nx = "a thing"  # a comment\n\n\ndef f():\n    """Second."""\n', encoding="utf-8")
    assert sorted(prose.comments_of(module)) == [("1", "First."), ("3", "# a comment"), ("7", "Second.")]
    notebook = tmp_path / "x.ipynb"
    code = {"cell_type": "code", "source": ["thing"], "outputs": ["thing"]}
    cells = [{"cell_type": "markdown", "source": ["a ", "thing"]}, code]
    notebook.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    assert prose.markdown_of(notebook) == [("cell 0", "a thing")]


def test_a_typing_mistake_is_named_with_its_place():
    texts = {prose.ROOT / "README.md": [("7", "all is well"), ("8", "the recieved pictures")]}  # codespell:ignore
    assert prose.misspelt(texts) == ["README.md:8: recieved ==> received"]  # codespell:ignore
    assert prose.misspelt({prose.ROOT / "README.md": [("1", "the received pictures")]}) == []


def test_sentences_semicolons_and_pronouns_are_counted():
    words, length, semicolons, one = prose.measures("You see three words. One can see; this has seven words here.")
    assert (words, length) == (12, 6.0) and semicolons == pytest.approx(1000 / 12) and one == pytest.approx(1000 / 12)
    assert prose.measures("") == (0, 0, 0, 0)


def test_installed_packages_are_not_prose_of_the_project(tmp_path, monkeypatch):
    for name in ("tools/own.md", "tools/exhibits/node_modules/other/README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("words", encoding="utf-8")
    monkeypatch.setattr(prose, "ROOT", tmp_path)
    assert [path.name for path in prose.documents()] == ["own.md"]
