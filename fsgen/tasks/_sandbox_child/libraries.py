"""A script that lists the shared libraries of this interpreter and of the standard library, one a line."""

import sys

sys.path.pop(0)  # the folder of this script

import ctypes
import os
from contextlib import suppress


class _Loaded(ctypes.Structure):
    _fields_ = (("address", ctypes.c_void_p), ("name", ctypes.c_char_p))


def libraries() -> list[str]:
    """The paths by which the loader found them; the modules themselves lie in the folders of `sys.path`."""
    modules = [
        os.path.join(folder, name)
        for folder in sys.path
        if os.path.isdir(folder)
        for name in os.listdir(folder)
        if name.endswith(".so") and not name.startswith("_tkinter")
    ]
    for path in [*modules, "libgcc_s.so.1"]:  # the last is what the C library loads when a thread is ended
        with suppress(OSError):
            ctypes.CDLL(path)
    found: list[str] = []

    def note(loaded: "ctypes._Pointer[_Loaded]", size: int, data: object) -> int:
        found.append(os.fsdecode(loaded.contents.name or b""))
        return 0

    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Loaded), ctypes.c_size_t, ctypes.c_void_p)
    ctypes.CDLL(None).dl_iterate_phdr(callback(note), None)
    return sorted(path for path in found if path.startswith("/") and path not in modules)


if __name__ == "__main__":
    sys.stdout.write("\n".join(libraries()))
