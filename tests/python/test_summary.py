"""What is said of a session at its end is read off this process's counts and the session's folder."""

import logging
import pathlib
import shutil
import tempfile

import pytest
import torch

from beeline.api import notices, summary
from beeline.transfer import Agent, Fault


@pytest.fixture
def session_dir(monkeypatch):
    """The folder of a session that there is not; short, for the sockets of agents in it."""
    monkeypatch.setattr(notices, "counts", {})
    monkeypatch.setattr(summary, "_said", type(summary._said)())
    folder = pathlib.Path(tempfile.mkdtemp(prefix="bl-", dir="/tmp"))
    (folder / "logs").mkdir()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def lines(session_dir):
    return summary.before_end(str(session_dir))


def test_of_a_session_in_which_all_went_as_asked_nothing_is_said(session_dir, caplog):
    (session_dir / "logs" / "beelined.err").write_text("")
    assert lines(session_dir) == []
    summary.say([])
    assert caplog.records == []


def test_a_session_without_its_folder_has_nothing_to_tell(session_dir):
    shutil.rmtree(session_dir)
    assert lines(session_dir) == [] and summary.after_end(str(session_dir)) == []


def test_options_without_effect_are_counted_for_each_session(session_dir):
    for _ in range(2):
        notices.without_effect("that", "there is none")
    notices.without_effect("other", "there is none")
    assert lines(session_dir) == ["without effect: other, asked for once", "without effect: that, asked for 2 times"]
    assert lines(session_dir) == []
    notices.without_effect("that", "there is none")
    assert lines(session_dir) == ["without effect: that, asked for once"]


def test_transfers_that_went_on_by_another_path_are_counted(session_dir):
    (session_dir / "agents").mkdir(mode=0o700)
    folder = str(session_dir / "agents")
    with (
        Agent("owner", folder=folder) as owner,
        Agent("reader", folder=folder, faults=[Fault("fail", "shm")]) as reader,
    ):
        tensor = owner.empty([1 << 18], torch.int64).fill_(3)  # where the path shm leads
        assert torch.equal(reader.fetch(owner.register(tensor)), tensor)
        (line,) = lines(session_dir)
    assert line.startswith("transfers: reader left the path shm once")


def test_what_the_daemon_wrote_last_is_shown(session_dir):
    (session_dir / "logs" / "beelined.err").write_text("beelined: a worker did not start: gone\n")
    assert lines(session_dir) == ["the daemon: a worker did not start: gone"]
    written = "".join(f"beelined: line {n}\n" for n in range(5))
    (session_dir / "logs" / "beelined.err").write_text(written)
    assert lines(session_dir) == [
        "the daemon: 2 lines or more before these",
        *(f"the daemon: line {n}" for n in (2, 3, 4)),
    ]


def test_what_cannot_be_read_does_not_stand_in_the_way(session_dir):
    (session_dir / "logs" / "beelined.err").mkdir()
    (line,) = lines(session_dir)
    assert line.startswith("no summary of daemon: IsADirectoryError")


def test_a_folder_that_is_left_behind_is_reported(session_dir):
    (line,) = summary.after_end(str(session_dir))
    assert str(session_dir) in line and "beeline stop" in line


def test_it_is_one_warning_of_the_logger_beeline(caplog):
    with caplog.at_level(logging.WARNING, "beeline"):
        summary.say(["one", "two"])
    (record,) = caplog.records
    assert record.name == "beeline" and record.message.splitlines()[1:] == ["  one", "  two"]
