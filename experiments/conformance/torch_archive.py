"""Conformance of icd's PyTorch archives with PyTorch itself.

    torch_archive.py make  tests/data/torch     writes the archives that the tests read
    torch_archive.py check FOLDER               loads what torch_writer_test left in FOLDER

For `check` run the test first:  ICD_KEEP=FOLDER torch_writer_test
Made with torch 2.11.0. The tests need the committed files only, not this script.
"""

import argparse
import collections
import pathlib
import sys

import numpy
import torch


def counted(shape, dtype=torch.float32, start=0):
    elements = int(numpy.prod(shape, dtype=numpy.int64))
    return (torch.arange(start, start + elements).to(dtype)).reshape(shape)


def make(folder):
    folder.mkdir(parents=True, exist_ok=True)

    plain = collections.OrderedDict()
    plain["weight"] = counted((2, 3))
    plain["bias"] = counted((3,), start=10)
    torch.save(plain, folder / "plain.pt")
    torch.save(plain, folder / "protocol4.pt", pickle_protocol=4)

    model = torch.nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.copy_(counted((2, 3)))
        model.bias.copy_(counted((2,), start=6))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    with torch.no_grad():
        model.weight.copy_(counted((2, 3)))
    torch.save(
        {
            "state_dict": model.state_dict(),  # an OrderedDict with _metadata
            "optimizer": optimizer.state_dict(),
            "epoch": 3,
            "layers": [counted((1,), start=7), (counted((1,), start=8),)],
            "hyper_parameters": argparse.Namespace(lr=1e-3, name="x"),
            "loss": numpy.float64(0.5),
            "device": torch.device("cpu"),
            "dtype": torch.float32,
            "size": torch.Size([1, 2]),
            "seen": collections.Counter("ab"),
            "log": collections.defaultdict(list, {"loss": [0.5]}),
            "big": 2**100,
        },
        folder / "nested.pt",
    )

    base = counted((4, 6))
    torch.save(
        {
            "base": base,
            "transposed": base.t(),
            "rows": base[1:3],
            "columns": base[:, 2:4],
            "stepped": base[::2, 1],
        },
        folder / "views.pt",
    )

    shared = counted((3, 2))
    torch.save({"embedding": shared, "lm_head": shared}, folder / "tied.pt")

    dtypes = [
        torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32,
        torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128,
        torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2,
        torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu,
    ]
    torch.save(
        {str(dtype).removeprefix("torch."): torch.tensor([1.0, 2.0]).to(dtype) for dtype in dtypes},
        folder / "dtypes.pt",
    )

    torch.save(
        {
            "parameter": torch.nn.Parameter(counted((2, 2))),
            "empty": torch.zeros(0, 4),
            "scalar": torch.tensor(1.5),
        },
        folder / "shapes.pt",
    )
    torch.save({"a": counted((2,))}, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(counted((2,)), folder / "bare.pt")
    torch.save({"a": counted((2, 2)).to_sparse()}, folder / "sparse.pt")
    torch.save({"a": torch.conj(counted((2,), torch.complex64))}, folder / "conjugate.pt")
    torch.save({"a": torch.zeros(1).expand(4)}, folder / "expanded.pt")
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), folder / "script.pt")
    torch.save(torch.nn.Linear(1, 1), folder / "module.pt")
    torch.serialization.set_crc32_options(False)
    torch.save(plain, folder / "no_crc.pt")

    for file in sorted(folder.glob("*.pt")):
        assert file.stat().st_size < 20_000, file
        print(f"{file.stat().st_size:6d} {file.name}")


# As in tests/core/torch_writer_test.cpp, EveryStorageType.
WRITTEN = [
    torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64,
]


def check(folder):
    file = folder / "every_storage_type.bin"
    expected = {}
    for dtype in WRITTEN:
        name = str(dtype).removeprefix("torch.")
        bytes_each = torch.empty(0, dtype=dtype).element_size()
        data = bytearray(i % 2 for i in range(6 * bytes_each))
        expected[name] = torch.frombuffer(data, dtype=dtype).reshape(2, 3)
    expected["tied"] = expected["float32"]
    expected["empty"] = torch.zeros(0, 4)
    expected["scalar"] = torch.frombuffer(bytearray([0, 1, 0, 1]), dtype=torch.float32)[0]
    for mmap in (False, True):
        loaded = torch.load(file, weights_only=True, mmap=mmap)
        assert type(loaded) is collections.OrderedDict, type(loaded)
        assert list(loaded) == list(expected), list(loaded)
        for name, tensor in expected.items():
            found = loaded[name]
            assert found.dtype == tensor.dtype and found.shape == tensor.shape, name
            assert found.is_contiguous() and not found.requires_grad, name
            same = found.reshape(-1).view(torch.uint8) if found.ndim else found.reshape(1).view(torch.uint8)
            want = tensor.reshape(-1).view(torch.uint8)
            assert torch.equal(same, want), name
            if found.numel():
                assert mmap or found.data_ptr() % found.element_size() == 0, name
        assert loaded["tied"].data_ptr() == loaded["float32"].data_ptr()
        print(f"{file.name}: {len(expected)} tensors are equal, mmap={mmap}")
    reader = torch._C.PyTorchFileReader(str(file))
    for record in reader.get_all_records():
        assert reader.get_record_offset(record) % 64 == 0, record
    print(f"{len(reader.get_all_records())} records are aligned to 64 bytes")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("make", "check"):
        sys.exit(__doc__)
    {"make": make, "check": check}[sys.argv[1]](pathlib.Path(sys.argv[2]))
