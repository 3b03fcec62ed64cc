from collections.abc import Callable
from typing import TypeVar, final

from fastdrop import _core_in_python
from fastdrop._core_in_python import DropoutState as DropoutState
from fastdrop._core_in_python import MaskState as MaskState
from fastdrop._core_in_python import StreamState as StreamState
from fastdrop._core_in_python import plain_apply as plain_apply
from fastdrop._core_in_python import plain_dropout as plain_dropout
from fastdrop._kernels import Kernels as KernelsProtocol

@final
class Chunks(_core_in_python.Chunks): ...

class Kernels(KernelsProtocol):
    def __init__(self, name: str) -> None: ...

def use(kernels: Kernels | None, elements: int) -> None: ...
def key_of_seed(seed: int) -> int: ...
def built() -> tuple[str, ...]: ...
def supported() -> tuple[str, ...]: ...
