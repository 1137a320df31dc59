"""The demo's folder: gone afterwards, kept when its logs are needed, and never somebody else's."""

from __future__ import annotations

import os
import tempfile
import time
from typing import TYPE_CHECKING

import pytest

from relay.demo.folder import PREFIX, STALE_SECONDS, demo_folder, keep

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def aged(folder: Path) -> Path:
    """The folder, as if made long ago."""
    long_ago = time.time() - 2 * STALE_SECONDS
    os.utime(folder, (long_ago, long_ago))
    return folder


def test_a_temporary_folder_is_gone_afterwards_and_others_may_enter_it() -> None:
    with demo_folder(None) as folder:
        (folder / "data").write_text("x")
        assert folder.stat().st_mode & 0o777 == 0o755
    assert not folder.exists()


def test_a_chosen_folder_stays(tmp_path: Path) -> None:
    with demo_folder(tmp_path / "a" / "b") as folder:
        pass
    assert folder == tmp_path / "a" / "b"
    assert folder.is_dir()


@pytest.mark.parametrize(("error", "stays"), [(RuntimeError, True), (OSError, False), (KeyboardInterrupt, False)])
def test_after_an_error_the_logs_stay_but_not_after_ctrl_c_or_the_end_of_the_terminal(
    error: type[BaseException], stays: bool
) -> None:
    folder = None

    def fail() -> None:
        nonlocal folder
        with demo_folder(None) as folder:
            (folder / "relay.log").write_text("why")
            raise error

    with pytest.raises(error):
        fail()
    assert folder is not None
    assert folder.exists() == stays


def test_after_an_error_without_logs_nothing_stays() -> None:
    with pytest.raises(RuntimeError), demo_folder(None) as folder:
        raise RuntimeError
    assert not folder.exists()


def test_evidence_stays_also_when_later_demos_tidy_up() -> None:
    with demo_folder(None) as folder:
        keep(folder)
    aged(folder)
    with demo_folder(None):
        pass
    assert folder.exists()


def test_what_a_killed_demo_left_is_removed_but_not_what_is_new_or_in_use_or_not_ours(tmp_path: Path) -> None:
    left = tmp_path / f"{PREFIX}left"
    (left / "postgres").mkdir(parents=True)
    aged(left)
    new = tmp_path / f"{PREFIX}new"
    new.mkdir()
    other = tmp_path / "something-else"
    other.mkdir()
    aged(other)
    link = tmp_path / f"{PREFIX}link"
    link.symlink_to(other)
    with demo_folder(None) as in_use:
        aged(in_use)
        with demo_folder(None):
            assert not left.exists()
            assert all(path.exists() for path in (new, other, in_use))
