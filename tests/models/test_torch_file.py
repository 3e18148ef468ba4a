from __future__ import annotations

import collections
import io
import pickle
import struct
import zipfile

import numpy as np
import pytest

from longtail_tf.errors import UserError
from longtail_tf.models.torch_file import read_state_dict

MAGIC = 0x1950A86A20F9469CFC6C


class Global:
    """Pickles as a name, whether or not there is such a thing here."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """Pickles as a call of `function` with `args`, then what is put into it."""

    def __init__(self, function, *args, items=None, state=None):
        self.function, self.args, self.items, self.state = function, args, items, state


class Storage:
    def __init__(self, key, array, kind="FloatStorage", count=None, view=None, tail=True):
        self.key, self.array, self.kind = key, array, kind
        self.count = array.size if count is None else count
        self.view, self.tail = view, tail

    def pid(self):
        pid = ("storage", Global("torch", self.kind), self.key, "cpu", self.count)
        return (*pid, self.view) if self.tail else pid


class Writer(pickle._Pickler):
    """Writes what torch would, without torch: our own oracle of the format."""

    def persistent_id(self, thing):
        return thing.pid() if isinstance(thing, Storage) else None

    def save(self, thing, *args, **kwargs):
        if isinstance(thing, Global):
            self.write(f"c{thing.module}\n{thing.name}\n".encode())
        elif isinstance(thing, Call):
            self.save(thing.function)
            self.save(thing.args)
            self.write(pickle.REDUCE)
            if thing.items is not None:
                self._batch_setitems(thing.items.items())
            if thing.state is not None:
                self.save(thing.state)
                self.write(pickle.BUILD)
        else:
            super().save(thing, *args, **kwargs)


REBUILD = Global("torch._utils", "_rebuild_tensor_v2")


def tensor(storage, size, stride, offset=0):
    return Call(REBUILD, storage, offset, size, stride, False, collections.OrderedDict())


def pickled(thing):
    file = io.BytesIO()
    Writer(file, 2).dump(thing)
    return file.getvalue()


def legacy(content, storages, magic=MAGIC, little=True):
    system = {"protocol_version": 1001, "little_endian": little, "type_sizes": {"int": 4}}
    parts = [pickled(part) for part in (magic, 1001, system, content)]
    parts.append(pickled([storage.key for storage in storages]))
    for storage in storages:
        parts += [struct.pack("<q", storage.array.size), storage.array.tobytes()]
    return b"".join(parts)


def zipped(content, storages, compression=zipfile.ZIP_STORED, order=b"little"):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("net/data.pkl", pickled(content))
        archive.writestr("net/byteorder", order)
        for storage in storages:
            archive.writestr(f"net/data/{storage.key}", storage.array.tobytes())
    return file.getvalue()


FORMATS = pytest.mark.parametrize("write", [legacy, zipped])


def written(tmp_path, raw):
    path = tmp_path / "net.pth"
    path.write_bytes(raw)
    return path


def plain():
    numbers = np.arange(12, dtype="<f4")
    storage = Storage("100", numbers)
    return {"w": tensor(storage, (3, 4), (4, 1))}, [storage]


@FORMATS
def test_tensors_come_as_they_were_viewed(tmp_path, write):
    base = Storage("7", np.arange(12, dtype="<f4"))
    counts = Storage("8", np.array([41, 42], "<i8"), "LongStorage")
    state = collections.OrderedDict(
        whole=tensor(base, (3, 4), (4, 1)),
        turned=tensor(base, (4, 3), (1, 4)),
        part=tensor(base, (2, 2), (4, 1), offset=5),
        count=tensor(counts, (), (), offset=1),
        none=tensor(base, (0, 4), (4, 1)),
    )
    read = read_state_dict(written(tmp_path, write(state, [base, counts])))
    whole = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert list(read) == ["whole", "turned", "part", "count", "none"]
    np.testing.assert_array_equal(read["whole"], whole)
    np.testing.assert_array_equal(read["turned"], whole.T)
    np.testing.assert_array_equal(read["part"], [[5, 6], [9, 10]])
    assert read["count"] == 42 and read["count"].dtype == np.int64
    assert read["none"].shape == (0, 4)
    assert all(array.flags.c_contiguous and array.flags.owndata for array in read.values())


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("DoubleStorage", "<f8"), ("HalfStorage", "<f2"), ("IntStorage", "<i4"),
     ("ShortStorage", "<i2"), ("CharStorage", "<i1"), ("ByteStorage", "<u1"),
     ("BoolStorage", "|b1")],
)  # fmt: skip
@FORMATS
def test_every_kind_of_number_is_read(tmp_path, write, kind, dtype):
    numbers = np.array([1, 0, 1]).astype(dtype)
    storage = Storage("0", numbers, kind)
    read = read_state_dict(written(tmp_path, write({"w": tensor(storage, (3,), (1,))}, [storage])))
    np.testing.assert_array_equal(read["w"], numbers)
    assert read["w"].dtype == numbers.dtype


@FORMATS
def test_bfloat16_comes_as_float32(tmp_path, write):
    numbers = np.array([1.0, -2.5, 3e38], np.float32)
    upper = (numbers.view(np.uint32) >> 16).astype(np.uint16)
    storage = Storage("0", upper, "BFloat16Storage")
    read = read_state_dict(written(tmp_path, write({"w": tensor(storage, (3,), (1,))}, [storage])))
    np.testing.assert_allclose(read["w"], numbers, rtol=2**-7)
    assert read["w"].dtype == np.float32


@pytest.mark.parametrize("inside", ["state_dict", "model"])
@FORMATS
def test_weights_inside_a_checkpoint_are_found(tmp_path, write, inside):
    state, storages = plain()
    raw = write({"epoch": 3, "best": None, "lr": 0.1, inside: state}, storages)
    assert list(read_state_dict(written(tmp_path, raw))) == ["w"]


@FORMATS
def test_what_hangs_on_the_dictionary_is_dropped(tmp_path, write):
    state, storages = plain()
    named = Call(Global("collections", "OrderedDict"), items=state, state={"_metadata": 1})
    assert list(read_state_dict(written(tmp_path, write(named, storages)))) == ["w"]


def refusal(tmp_path, raw, match):
    with pytest.raises(UserError, match=match):
        read_state_dict(written(tmp_path, raw))


@pytest.mark.parametrize(
    ("module", "name"),
    [("os", "system"), ("posix", "system"), ("builtins", "exec"), ("torch", "load"),
     ("collections", "Counter"), ("torch.nn.modules.linear", "Linear"), ("torch", "__builtins__")],
)  # fmt: skip
@FORMATS
def test_whatever_else_a_file_asks_for_is_refused_unrun(tmp_path, write, module, name):
    mark = tmp_path / "run"
    hostile = Call(Global(module, name), f"touch {mark}")
    state, storages = plain()
    refusal(
        tmp_path,
        write({**state, "bad": hostile}, storages),
        rf"net.pth asks for {module}.{name}, which weights do not need; nothing in it was run",
    )
    assert not mark.exists()


@pytest.mark.parametrize("place", range(3))
def test_a_hostile_part_before_the_weights_is_refused_unrun(tmp_path, place):
    mark = tmp_path / "run"
    hostile = pickled(Call(Global("os", "system"), f"touch {mark}"))
    parts = [pickled(MAGIC), pickled(1001), pickled({"little_endian": True})]
    parts[place] = hostile
    refusal(tmp_path, b"".join(parts) + legacy(*plain()), "net.pth (asks for os.system|is no file)")
    assert not mark.exists()


@pytest.mark.parametrize(
    "state", [{"__defaults__": (1,)}, (None, {"__call__": 1}), (None, {"_make": 1})]
)
@pytest.mark.parametrize("target", [REBUILD, Global("torch", "FloatStorage")])
def test_a_file_cannot_change_what_reads_it(tmp_path, target, state):
    class Update:
        pass

    class Hostile(Writer):
        def save(self, thing, *args, **kwargs):
            if isinstance(thing, Update):
                super().save(target)
                super().save(state)
                self.write(pickle.BUILD)
            else:
                super().save(thing, *args, **kwargs)

    weights, storages = plain()
    file = io.BytesIO()
    Hostile(file, 2).dump({**weights, "x": Update()})
    raw = zipped(weights, storages)
    with (
        zipfile.ZipFile(io.BytesIO(raw)) as archive,
        zipfile.ZipFile(tmp_path / "net.pth", "w") as changed,
    ):
        for name in archive.namelist():
            content = file.getvalue() if name.endswith("data.pkl") else archive.read(name)
            changed.writestr(name, content)
    with pytest.raises(UserError, match="net.pth is damaged or cut off"):
        read_state_dict(tmp_path / "net.pth")
    read_state_dict(written(tmp_path, raw))


@pytest.mark.parametrize("raw", [b"", b"\x80", b"hello", b"\x89HDF\r\n\x1a\n" + bytes(99), b"}."])
def test_other_files_are_reported(tmp_path, raw):
    refusal(tmp_path, raw, "net.pth is no file of PyTorch weights: give what torch.save wrote")


def test_another_zip_file_is_reported(tmp_path):
    with zipfile.ZipFile(tmp_path / "net.pth", "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(UserError, match="is a zip file, but holds no PyTorch weights .no data.pkl"):
        read_state_dict(tmp_path / "net.pth")


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(UserError, match="lost.pth: there is no such file; give a .pth file of"):
        read_state_dict(tmp_path / "lost.pth")


@FORMATS
def test_every_cut_off_file_is_reported(tmp_path, write):
    raw = write(*plain())
    for length in range(0, len(raw), 7):
        refusal(tmp_path, raw[:length], "net.pth is (damaged or cut off|no file of PyTorch|a zip)")


@FORMATS
def test_a_damaged_byte_never_comes_through_as_an_error_of_another_kind(tmp_path, write):
    raw = write(*plain())
    draw = np.random.RandomState(0)
    for _ in range(400):
        damaged = bytearray(raw)
        damaged[draw.randint(len(raw))] ^= 1 << draw.randint(8)
        path = written(tmp_path, bytes(damaged))
        try:
            read = read_state_dict(path)
        except UserError:
            continue
        assert all(isinstance(array, np.ndarray) for array in read.values())


@pytest.mark.parametrize(
    "bad",
    [
        dict(size=(3, 5), stride=(5, 1)),
        dict(size=(3, 4), stride=(4, 1), offset=1),
        dict(size=(10**9, 10**9), stride=(0, 0)),
        dict(size=(3, 4), stride=(4,)),
        dict(size=(-1, 4), stride=(4, 1)),
        dict(size=(2, 2), stride=(-1, 1), offset=4),
        dict(size=(2.0,), stride=(1,)),
    ],
)
@FORMATS
def test_a_tensor_beyond_its_storage_is_refused(tmp_path, write, bad):
    storage = Storage("0", np.zeros(12, "<f4"))
    raw = write({"w": tensor(storage, **bad)}, [storage])
    refusal(tmp_path, raw, "net.pth is damaged or cut off .it holds a tensor (larger|of no known)")


@pytest.mark.parametrize("count", [2**62, 13, -1, "12"])
@FORMATS
def test_a_storage_of_another_size_is_refused(tmp_path, write, count):
    storage = Storage("0", np.zeros(12, "<f4"), count=count)
    refusal(tmp_path, write({"w": tensor(storage, (2,), (1,))}, [storage]), "net.pth is damaged or")


def test_numbers_nobody_asked_for_are_refused(tmp_path):
    state, storages = plain()
    raw = legacy(state, [*storages, Storage("9", np.zeros(3, "<f4"))])
    refusal(tmp_path, raw, "damaged or cut off .it holds numbers that no tensor uses")


@FORMATS
def test_missing_numbers_are_refused(tmp_path, write):
    state, _ = plain()
    refusal(tmp_path, write(state, []), "net.pth is damaged or cut off .*missing")


def test_a_compressed_file_is_refused(tmp_path):
    raw = zipped(*plain(), compression=zipfile.ZIP_DEFLATED)
    refusal(tmp_path, raw, "net.pth is damaged or cut off .a part of it is compressed")


def test_other_byte_orders_are_refused(tmp_path):
    match = "net.pth was written on a big-endian machine: save it again on another"
    refusal(tmp_path, legacy(*plain(), little=False), match)
    refusal(tmp_path, zipped(*plain(), order=b"big"), match)


@FORMATS
def test_old_views_are_refused(tmp_path, write):
    storage = Storage("0", np.zeros(12, "<f4"), view=("1", 0, 12))
    raw = write({"w": tensor(storage, (2,), (1,))}, [storage])
    refusal(tmp_path, raw, "net.pth holds a view of another storage, which only very old PyTorch")


@pytest.mark.parametrize("content", [{}, [1, 2], {"w": 3}, {"state_dict": {}}, 5])
@FORMATS
def test_a_file_without_tensors_is_reported(tmp_path, write, content):
    refusal(tmp_path, write(content, []), "net.pth holds no named tensors: save model.state_dict()")


@pytest.mark.parametrize("new", [True, False])
def test_what_torch_writes_is_read(tmp_path, new):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2).bfloat16()
    )
    path = tmp_path / "net.pth"
    torch.save(net.state_dict(), path, _use_new_zipfile_serialization=new)
    read = read_state_dict(path)
    assert list(read) == list(net.state_dict())
    for name, value in net.state_dict().items():
        plain = value.float() if value.dtype == torch.bfloat16 else value
        np.testing.assert_array_equal(read[name], plain.numpy())
    torch.save(net, path, _use_new_zipfile_serialization=new)
    with pytest.raises(UserError, match="asks for torch.nn.modules.container.Sequential, which"):
        read_state_dict(path)


def test_deep_nesting_is_refused(tmp_path):
    """A tuple nested 200,000 times would overflow the stack where it is hashed."""
    deep = b"\x80\x02}(" + b")" + b"\x85" * 200_000 + b"K\x01u."
    parts = [pickled(MAGIC), pickled(1001), pickled({"little_endian": True}), deep]
    refusal(tmp_path, b"".join(parts), "net.pth is damaged")


def test_deep_nesting_among_the_keys_is_refused(tmp_path):
    state, storages = plain()
    raw = legacy(state, storages)
    keys = pickled(["100"])
    deep = b"\x80\x02](" + b")" + b"\x85" * 200_000 + b"e."
    refusal(tmp_path, raw.replace(keys, deep), "net.pth is damaged or cut off .a tuple stands")
