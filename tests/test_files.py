"""Whole files: written through what they meet, never half, never lost; read without waiting."""

from __future__ import annotations

import errno
import os
import pathlib
import signal
import stat
import subprocess
import sys
import threading
import time

import pytest

from longtail_tf import files
from longtail_tf.errors import UserError
from longtail_tf.files import (
    NotAFileError,
    clean_litter,
    new_folder,
    open_file,
    read_bytes,
    replacing,
    replacing_by_name,
    write_atomically,
    write_csv,
    write_json,
)

ROOT = pathlib.Path(__file__).resolve().parents[1]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device nodes")


def test_write_replaces_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    write_atomically(path, "one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["a.txt"]


@pytest.mark.parametrize("name", [None, ".a.txt.0123456789ab.part"])
@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_write_keeps_the_old_file_when_writing_fails(tmp_path, monkeypatch, call, name):
    path = tmp_path / "a.txt"
    write_atomically(path, "one")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device", name and str(tmp_path / name))

    monkeypatch.setattr(files.os, call, fail)
    with pytest.raises(OSError, match="No space left") as told:
        write_atomically(path, "two")
    assert told.value.filename == str(path), "the user's path, not that of the file beside"
    assert path.read_text() == "one"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_the_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            files.os, name, lambda *args, name=name, real=real: (calls.append(name), real(*args))
        )
    write_atomically(tmp_path / "a", "x")
    assert calls == ["fsync", "replace", "fsync"], "the last is the folder's"


def test_written_files_have_the_users_permissions(tmp_path):
    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


def test_a_file_that_is_there_keeps_its_permissions(tmp_path):
    path = tmp_path / "a"
    path.write_text("before")
    path.chmod(0o640)
    write_atomically(path, "after")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_write_csv_quotes(tmp_path):
    write_csv(tmp_path / "a.csv", ("id", "name"), [(0, 'a "b", c'), (1, None)])
    assert (tmp_path / "a.csv").read_text() == 'id,name\n0,"a ""b"", c"\n1,\n'


def test_text_is_utf8_and_a_name_that_is_none_goes_back_to_its_bytes(tmp_path):
    write_atomically(tmp_path / "a", "é " + os.fsdecode(b"caf\xe9"))
    assert (tmp_path / "a").read_bytes() == "é ".encode() + b"caf\xe9"
    write_atomically(tmp_path / "b", "\ud800")
    assert (tmp_path / "b").read_bytes() == b"\\ud800"


# What is no regular file stays what it is


def test_a_link_stays_and_its_file_is_written(tmp_path):
    (tmp_path / "far").mkdir()
    real, link = tmp_path / "far" / "real", tmp_path / "link"
    real.write_text("before")
    link.symlink_to("far/real")
    write_atomically(link, "after")
    assert link.is_symlink() and os.readlink(link) == "far/real"
    assert real.read_text() == "after" and os.listdir(real.parent) == ["real"]


def test_a_link_to_nothing_makes_the_file_it_names(tmp_path):
    (tmp_path / "link").symlink_to("later")
    write_atomically(tmp_path / "link", "x")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "later").read_text() == "x"


@needs_root
@pytest.mark.parametrize("through_link", [False, True])
def test_a_device_stays_a_device(tmp_path, through_link):
    device = tmp_path / "nul"
    os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    path = device
    if through_link:
        path = tmp_path / "link"
        path.symlink_to("nul")
    write_atomically(path, "swallowed")
    status = device.lstat()
    assert stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3)
    assert path.is_symlink() == through_link


@needs_root
def test_a_device_on_which_the_disk_is_full_is_told_with_its_path(tmp_path):
    device = tmp_path / "full"
    os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 7))
    with pytest.raises(OSError, match="No space left on device") as told:
        write_atomically(device, "x")
    assert told.value.filename == str(device) and stat.S_ISCHR(device.lstat().st_mode)


def test_a_pipe_with_a_reader_is_written_through(tmp_path):
    path, got = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:  # until the reader has opened it
        try:
            write_atomically(path, b"x" * 200_000)
            break
        except OSError as error:
            assert error.errno == errno.ENXIO
            time.sleep(0.01)
    reader.join(60)
    assert got == [b"x" * 200_000] and stat.S_ISFIFO(path.lstat().st_mode)


def test_a_pipe_nobody_reads_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="No such device or address"):
        write_atomically(tmp_path / "pipe", "x")


def _file(path):
    path.write_text("before")
    return path


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: (p / "folder").mkdir() or p / "folder", IsADirectoryError, "Is a directory"),
        (lambda p: _file(p / "a") / "below", NotADirectoryError, "Not a directory"),
        (lambda p: _file(p / "a") / "deep" / "below", NotADirectoryError, "Not a directory"),
        (lambda p: p / ("x" * 300), OSError, "File name too long"),
        (lambda p: (p / "loop").symlink_to("loop") or p / "loop", OSError, "symbolic links"),
    ],
    ids=["folder", "below a file", "deep below a file", "long name", "link to itself"],
)
def test_places_that_cannot_be_written_are_told_with_their_path(tmp_path, make, error, message):
    path = make(tmp_path)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(error, match=message) as told:
        write_atomically(path, "x")
    assert told.value.filename == str(path)
    assert sorted(os.listdir(tmp_path)) == before


def test_the_longest_name_there_is_can_be_written(tmp_path):
    for name in ("x" * 255, "é" * 127):
        write_atomically(tmp_path / name, "one")
        write_atomically(tmp_path / name, "two")
        assert (tmp_path / name).read_text() == "two"
    assert len(os.listdir(tmp_path)) == 2


def _as_plain_user(code):
    """Runs code in a process for which permissions count even as root."""
    start = "from tests.sweep.fork_server import drop_file_powers; drop_file_powers(); "
    return subprocess.run(
        [sys.executable, "-c", start + code], cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.parametrize("what", ["closed folder", "read-only file"])
def test_what_may_not_be_written_is_refused_and_stays(tmp_path, what):
    path = tmp_path / "closed" / "a"
    path.parent.mkdir()
    path.write_text("before")
    (path.parent if what == "closed folder" else path).chmod(
        0o500 if what == "closed folder" else 0o400
    )
    code = (
        f"from longtail_tf.files import write_atomically\n"
        f"try: write_atomically({str(path)!r}, 'after')\n"
        f"except PermissionError as error: print(error.filename)"
    )
    done = _as_plain_user(code)
    path.parent.chmod(0o700)
    assert done.stdout == f"{path}\n", done.stderr
    assert path.read_text() == "before" and os.listdir(path.parent) == ["a"]


# What libraries write


def test_a_library_writes_by_a_name_of_its_own_and_the_file_is_replaced_whole(tmp_path):
    path = tmp_path / "a.weights.h5"
    path.write_text("before")
    with replacing_by_name(path) as inside:
        assert inside.name == path.name and inside.parent.parent == tmp_path
        assert files.is_litter(inside.parent.name)
        inside.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after" and os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Can't decrement id ref count (errno = 28, 'No space left on device')"),
        OSError("Unable to create file (No space left on device)"),
        type("ResourceExhaustedError", (Exception,), {})("x.index; No space left on device"),
    ],
    ids=["HDF5", "HDF5 without a number", "TensorFlow"],
)
@pytest.mark.parametrize("writing", [replacing_by_name, new_folder, files.foreign_errors])
def test_what_a_library_says_of_a_full_disk_is_an_oserror_with_the_path(tmp_path, writing, error):
    path = tmp_path / "a"
    with pytest.raises(OSError, match="No space left on device") as told:
        with writing(path):
            raise error
    assert (told.value.errno, told.value.filename) == (errno.ENOSPC, str(path))
    assert os.listdir(tmp_path) == []


def test_other_errors_of_a_library_stay_what_they_are(tmp_path):
    for error in (RuntimeError("shapes differ"), UserError("No such file or directory: mend it")):
        with pytest.raises(type(error), match=str(error)), files.foreign_errors(tmp_path / "a"):
            raise error
    with pytest.raises(FileNotFoundError) as told, files.foreign_errors(tmp_path / "a"):
        os.stat("/nowhere/else")
    assert told.value.filename == "/nowhere/else", "an error of another file keeps its name"


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "1"
    with new_folder(path) as hidden:
        (hidden / "inner").mkdir()
        (hidden / "inner" / "file").write_text("x")
        assert files.is_litter(hidden.name) and not path.exists()
    assert (path / "inner" / "file").read_text() == "x" and os.listdir(path.parent) == ["1"]
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "2"):
        raise ZeroDivisionError
    with pytest.raises(FileExistsError), new_folder(path):
        pass
    assert os.listdir(tmp_path) == ["deep"] and os.listdir(path.parent) == ["1"]


# Litter


def test_what_a_kill_leaves_is_removed_by_the_next_writer(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from longtail_tf.files import replacing\n"
        "with replacing(sys.argv[1]) as file:\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.json"], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    [half] = os.listdir(tmp_path)
    assert files.is_litter(half)
    write_atomically(tmp_path / "another", "x")
    assert os.listdir(tmp_path) == ["another"]


def test_what_another_process_is_writing_is_no_litter(tmp_path):
    with replacing(tmp_path / "a") as file:
        file.write(b"going on")
        assert len(os.listdir(tmp_path)) == 1
        clean_litter(tmp_path)
        assert len(os.listdir(tmp_path)) == 1
    assert os.listdir(tmp_path) == ["a"]
    with new_folder(tmp_path / "b") as hidden:
        clean_litter(tmp_path)
        assert hidden.exists()
    dead = tmp_path / f".c.{files._machine()}01234567.part"
    (dead / "variables").mkdir(parents=True)
    clean_litter(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_what_another_machine_left_stays_for_a_day(tmp_path):
    other = "0000" if files._machine() != "0000" else "1111"
    path = tmp_path / f".a.{other}01234567.part"
    path.touch()
    clean_litter(tmp_path)
    assert path.exists()
    os.utime(path, (0, 0))
    clean_litter(tmp_path)
    assert not path.exists()


def test_files_of_others_are_no_litter(tmp_path):
    names = [
        ".a.12345678",
        "a.json.0123456789ab.part",
        ".a.part",
        ".a.0123456789AB.part",
        ".hidden",
    ]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / ".link.0123456789ab.part").symlink_to("nowhere")
    clean_litter(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([*names, ".link.0123456789ab.part"])


# Reading


def test_read_bytes_gives_the_content_through_links(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    (tmp_path / "link").symlink_to("a")
    assert read_bytes(tmp_path / "link", most_bytes=100_000) == b"x" * 100_000
    (tmp_path / "empty").touch()
    assert read_bytes(tmp_path / "empty", most_bytes=0) == b""


def test_a_file_larger_than_asked_for_is_refused_by_its_size(tmp_path):
    path = tmp_path / "sparse"
    path.touch()
    os.truncate(path, 20 << 30)
    with pytest.raises(OSError, match="it has 21,474,836,480 bytes, more than the 1,000") as told:
        read_bytes(path, most_bytes=1000)
    assert told.value.filename == str(path)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda path: path.mkdir(), "a folder"),
        (os.mkfifo, "a pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "a device"),
    ],
    ids=["folder", "pipe", "device"],
)
@pytest.mark.parametrize("read", [open_file, lambda p: read_bytes(p, most_bytes=9)])
def test_what_is_no_file_is_refused_without_waiting(tmp_path, make, kind, read):
    path = tmp_path / "odd"
    make(path)
    with pytest.raises(NotAFileError, match=f"it is {kind}, a file was expected") as told:
        read(path)
    assert told.value.filename == str(path)


def test_a_path_with_a_nul_is_an_oserror_too(tmp_path):
    with pytest.raises(OSError, match="null"):
        read_bytes("a\0b", most_bytes=9)
