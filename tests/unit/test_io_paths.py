"""Which files a path means; what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from etlkit.errors import ConfigError, InputError
from etlkit.io.paths import expand, open_input


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.txt", "a.txt", "sub/c.txt", "sub/_tmp.txt", ".hidden", "_SUCCESS", "_dir/x.txt", ".etlkit-1/p.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def names(tree: Path, *paths: str) -> list[str]:
    return [os.path.relpath(record.path, tree) for record in expand(paths)]


def test_folder_is_walked_sorted_without_hidden_names(tree: Path) -> None:
    assert names(tree, str(tree)) == ["a.txt", "b.txt", "sub/c.txt"]


def test_glob_is_sorted_and_folders_it_matches_are_walked(tree: Path) -> None:
    assert names(tree, f"{tree}/*.txt") == ["a.txt", "b.txt"]
    assert names(tree, f"{tree}/s*") == ["sub/c.txt"]
    assert names(tree, f"{tree}/**/*.txt") == ["a.txt", "b.txt", "sub/c.txt"]


def test_list_keeps_its_order(tree: Path) -> None:
    assert names(tree, f"{tree}/b.txt", f"{tree}/a.txt") == ["b.txt", "a.txt"]


def test_hidden_name_said_outright_is_read(tree: Path) -> None:
    assert names(tree, f"{tree}/_SUCCESS") == ["_SUCCESS"]
    assert names(tree, f"{tree}/_dir/*.txt") == ["_dir/x.txt"]


def test_file_with_magic_characters_in_its_name_is_a_file(tree: Path) -> None:
    (tree / "x[1].txt").write_text("x")
    assert names(tree, f"{tree}/x[1].txt") == ["x[1].txt"]


@pytest.mark.parametrize("path", ["missing", "*.parquet", "empty"])
def test_nothing_found_names_path_and_remedy(tree: Path, path: str) -> None:
    (tree / "empty").mkdir()
    with pytest.raises(ConfigError) as caught:
        expand([f"{tree}/{path}"])
    assert path in caught.value.message and caught.value.remedy


def test_a_file_reached_twice_is_refused(tree: Path) -> None:
    with pytest.raises(ConfigError, match="twice"):
        expand([str(tree), f"{tree}/a.txt"])


@pytest.mark.parametrize(
    "url", ["s3://key:secret@bucket/x", "sftp://u:secret@host/x", "simplecache::ftp://u:secret@h/x"]
)
def test_url_with_password_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        expand([url])
    assert "secret" not in str(caught.value) and "password" in str(caught.value)


def test_changed_file_is_refused_by_name(tree: Path) -> None:
    record = expand([f"{tree}/a.txt"])[0]
    (tree / "a.txt").write_text("longer than before")
    with pytest.raises(InputError, match=r"a\.txt.*changed"):
        open_input(record)


def test_vanished_file_is_refused_by_name(tree: Path) -> None:
    record = expand([f"{tree}/a.txt"])[0]
    (tree / "a.txt").unlink()
    with pytest.raises(InputError, match=r"a\.txt.*gone"):
        open_input(record)


def test_same_size_rewrite_has_another_version(tree: Path) -> None:
    before = expand([f"{tree}/a.txt"])[0]
    (tree / "a.txt").write_text("a.txu")
    os.utime(tree / "a.txt", ns=(1, 1))
    assert expand([f"{tree}/a.txt"])[0].version != before.version


def test_fsspec_url(tree: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for name in ("/in/b.txt", "/in/a.txt", "/in/_x/c.txt", "/in/.d"):
        memory.pipe(name, b"0123456789")
    try:
        found = expand(["memory://in"])
        assert [record.path for record in found] == ["memory:///in/a.txt", "memory:///in/b.txt"]
        assert found[0].size_bytes == 10 and found[0].version
        assert expand(["memory://in/*.txt"]) == found
        with open_input(found[0]) as opened:
            opened.seek(3)
            assert opened.read(4) == b"3456"
        with pytest.raises(ConfigError, match="no input file"):
            expand(["memory://nowhere"])
    finally:
        memory.rm("/in", recursive=True)


def test_unknown_scheme_names_the_extra() -> None:
    with pytest.raises(ConfigError, match="etlkit-runtime"):
        expand(["nosuch://bucket/x"])


def test_local_paths_do_not_import_fsspec(tree: Path) -> None:
    code = (
        f"import sys; from etlkit.io.paths import expand; expand([{str(tree)!r}]); assert 'fsspec' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
