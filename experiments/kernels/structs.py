"""kernels/icd_kernels.h as ctypes: its structs are read from the header itself, so they cannot drift."""
import ctypes
import pathlib
import re

HEADER = pathlib.Path(__file__).resolve().parents[2] / "kernels" / "icd_kernels.h"
SCALARS = {"int64_t": ctypes.c_int64, "int32_t": ctypes.c_int32, "float": ctypes.c_float}
F32, F16, BF16 = 0, 1, 2  # ICD_F32, ICD_F16, ICD_BF16


def read_structs(text):
    """{name: ctypes.Structure} of every `typedef struct name {...} name;`."""
    structs = {}
    for name, body in re.findall(r"typedef struct (\w+) \{(.*?)\} \1;",
                                 re.sub(r"/\*.*?\*/", "", text, flags=re.S), re.S):
        fields = []
        for line in filter(None, (line.strip() for line in body.split(";"))):
            kind, field = line.rsplit(None, 1)
            pointer = "*" in line
            fields.append((field.lstrip("*"), ctypes.c_void_p if pointer
                           else SCALARS.get(kind) or structs[kind]))
        structs[name] = type(name, (ctypes.Structure,), {"_fields_": fields})
    return structs


class Library:
    """libicd_kernels.so: call("selective_scan", batch=1, ...) runs icd_selective_scan on a stream."""

    def __init__(self, path):
        self.structs = read_structs(HEADER.read_text())
        self.library = ctypes.CDLL(str(path))
        self.library.icd_kernels_error.restype = ctypes.c_char_p
        self.library.icd_kernels_why_no_device.restype = ctypes.c_char_p

    def args(self, name, **fields):
        return self.structs[f"icd_{name}_args"](**fields)

    def tensor(self, data, batch, token=0, channel=1):
        """A (batch, token, channel) view of a PyTorch tensor; strides in elements."""
        return self.structs["icd_tensor"](data.data_ptr(), batch, token, channel)

    def workspace(self, name, args):
        bytes_of = getattr(self.library, f"icd_{name}_workspace")
        bytes_of.restype = ctypes.c_int64
        return bytes_of(ctypes.byref(args))

    def call(self, name, args, stream):
        status = getattr(self.library, f"icd_{name}")(ctypes.byref(args), ctypes.c_void_p(stream))
        if status != 0:
            raise RuntimeError(f"icd_{name}: {self.library.icd_kernels_error().decode()}")
