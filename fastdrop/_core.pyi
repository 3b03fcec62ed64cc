from typing import final

from fastdrop import _core_in_python, _reference
from fastdrop._core_in_python import DropoutState as DropoutState
from fastdrop._core_in_python import MaskState as MaskState
from fastdrop._core_in_python import PlainCalls as PlainCalls
from fastdrop._core_in_python import StreamState as StreamState
from fastdrop._core_in_python import are_plain as are_plain
from fastdrop._core_in_python import plain_apply as plain_apply
from fastdrop._core_in_python import plain_dropout as plain_dropout
from fastdrop._core_in_python import plain_dropout_at as plain_dropout_at

@final
class Chunks(_core_in_python.Chunks): ...

class Kernels(_reference.Kernels):
    def __init__(self, name: str) -> None: ...

def use(kernels: Kernels | None, elements: int) -> None: ...
def key_of_seed(seed: int) -> int: ...
def built() -> tuple[str, ...]: ...
def supported() -> tuple[str, ...]: ...
