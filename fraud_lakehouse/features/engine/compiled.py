"""How kernels are compiled."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

import numba
import numpy.typing as npt
from numba.extending import intrinsic

Array: TypeAlias = npt.NDArray[Any]
Word: TypeAlias = Any
"""An integer of one machine word: Python's, or numpy's, signed or unsigned."""
Function = TypeVar("Function", bound=Callable[..., Any])


def _use_cache_of_this_version() -> None:
    """Store machine code in a folder named after the source of all kernels.

    Numba itself detects changes only in a kernel's own module, not in the modules it calls.
    """
    config: Any = numba.config
    folder = Path(__file__).parent
    source = blake2b(b"".join(path.read_bytes() for path in sorted(folder.glob("*.py"))), digest_size=8)
    caches = Path(config.CACHE_DIR or folder / "__pycache__")
    config.CACHE_DIR = str(caches / f"kernels-{source.hexdigest()}")


def compiled(function: Function) -> Function:
    """Compile at the first call, and cache the machine code for later processes.

    The cache is NUMBA_CACHE_DIR, else the package's __pycache__, else the user's cache folder. If none is writable,
    each process compiles again, which takes about ten seconds.
    """
    return _compiled(function, _nrt=True)


def inner(function: Function) -> Function:
    """The same for functions that create no array: without reference counting they are several times as fast."""
    return _compiled(function, _nrt=False)


def _compiled(function: Function, **options: bool) -> Function:
    njit: Any = numba.njit
    try:
        return cast("Function", njit(cache=True, nogil=True, **options)(function))
    except RuntimeError:  # no folder can be written
        return cast("Function", njit(nogil=True, **options)(function))


def _fused(_context: Any, _a: Any, _b: Any, _c: Any) -> Any:
    signature = numba.float64(numba.float64, numba.float64, numba.float64)
    return signature, lambda _target, builder, _signature, arguments: builder.fma(*arguments)


multiply_add = cast("Callable[[float, float, float], float]", intrinsic(_fused))
"""a * b + c, rounded once, as in DuckDB's interpolation of quantiles."""

_use_cache_of_this_version()
