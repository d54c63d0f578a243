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
"""A whole number of one machine word: of Python, or of numpy with a sign or without."""
Function = TypeVar("Function", bound=Callable[..., Any])


def _use_cache_of_this_version() -> None:
    """Keep machine code in a folder named by the source of all kernels.

    Numba itself sees only changes of the module that a kernel is in, not of those it calls.
    """
    config: Any = numba.config
    folder = Path(__file__).parent
    source = blake2b(b"".join(path.read_bytes() for path in sorted(folder.glob("*.py"))), digest_size=8)
    caches = Path(config.CACHE_DIR or folder / "__pycache__")
    config.CACHE_DIR = str(caches / f"kernels-{source.hexdigest()}")


def compiled(function: Function) -> Function:
    """Compile at the first call, and keep the machine code for later processes.

    It is kept in NUMBA_CACHE_DIR, else in the package's __pycache__, else in the user's cache folder. Where none can be
    written, each process compiles anew, which takes some ten seconds.
    """
    return _compiled(function, _nrt=True)


def inner(function: Function) -> Function:
    """The same for what makes no array: without counting references to arrays it is several times as fast."""
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
"""a * b + c, rounded once: so DuckDB interpolates quantiles."""

_use_cache_of_this_version()
