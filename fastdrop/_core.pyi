from typing import Any, TypeAlias, TypeGuard, final

import numpy as np
import numpy.typing as npt

Dims: TypeAlias = tuple[tuple[int, int], ...] | None
Bits: TypeAlias = npt.NDArray[np.uint8] | None

@final
class Chunks:
    def __init__(self, size: int, length: int) -> None: ...
    def wait(self, polls: int) -> bool: ...

@final
class Kernels:
    name: str
    def __init__(self, name: str) -> None: ...
    def are_plain(self, x: object, out: object) -> TypeGuard[np.ndarray[Any, Any]]: ...
    def philox(self, counter: tuple[int, ...], key: tuple[int, int], rounds: int = 10) -> tuple[int, ...]: ...
    def apply(
        self,
        x: np.ndarray[Any, Any],
        out: np.ndarray[Any, Any],
        start: int,
        stop: int,
        key: int,
        call: int,
        threshold: int,
        scale: float,
        offset: int = 0,
        dims: Dims = None,
        bits: Bits = None,
        stream: bool = False,
        chunks: Chunks | None = None,
        from_front: bool = False,
        op: int = 0,
        other: np.ndarray[Any, Any] | None = None,
        bias: np.ndarray[Any, Any] | None = None,
        shift: float = 0.0,
        fill: float = 0.0,
    ) -> None: ...
    def keep(
        self,
        out: npt.NDArray[np.bool_],
        start: int,
        stop: int,
        key: int,
        call: int,
        threshold: int,
        offset: int = 0,
        dims: Dims = None,
        bits: Bits = None,
    ) -> None: ...
    def keep_bits(self, n: int, key: int, call: int, threshold: int, start: int = 0) -> npt.NDArray[np.uint8]: ...

def built() -> tuple[str, ...]: ...
def supported() -> tuple[str, ...]: ...
