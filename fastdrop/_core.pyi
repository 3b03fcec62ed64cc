from fastdrop import _reference
from fastdrop._core_in_python import DropoutState as DropoutState
from fastdrop._core_in_python import MaskState as MaskState
from fastdrop._core_in_python import PlainCalls as PlainCalls
from fastdrop._core_in_python import StreamState as StreamState
from fastdrop._core_in_python import are_plain as are_plain
from fastdrop._core_in_python import ask_for_threads as ask_for_threads
from fastdrop._core_in_python import has_just_shared as has_just_shared
from fastdrop._core_in_python import plain_apply as plain_apply
from fastdrop._core_in_python import plain_dropout as plain_dropout
from fastdrop._core_in_python import plain_dropout_at as plain_dropout_at
from fastdrop._core_in_python import set_threads_of_clients as set_threads_of_clients
from fastdrop._core_in_python import usable_cpus as usable_cpus

client: object  # a PyCapsule

class Kernels(_reference.Kernels):
    def __init__(self, name: str) -> None: ...

def use(kernels: Kernels | None, elements: int, shared: int, chunk: int) -> None: ...
def key_of_seed(seed: int) -> int: ...
def built() -> tuple[str, ...]: ...
def supported() -> tuple[str, ...]: ...
