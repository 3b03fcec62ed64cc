# SPDX-License-Identifier: BSD-3-Clause
"""What PyTorch keeps of compiled code, which must tell apart the code with fastdrop's operators and that without.

Compiled code is kept in three places: in the process, to be used again if its guards hold; on the disk, by a key; and
for each operator there is where a tracer sends it. The first two depend on a tag in PyTorch's configuration that is
there to keep apart what is compiled: it is set while fastdrop's operators are in place.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import torch

from fastdrop._version import __version__

_TAG = f"fastdrop-{__version__}"
_is_guarded = False


def switched(is_on: bool, names: Iterable[str]) -> None:
    """Operators of these names have been replaced, or given back."""
    global _is_guarded
    for name in names:
        getattr(torch.ops.aten, name).default._dispatch_cache.clear()
    config = torch.compiler.config
    others = [part for part in config.cache_key_tag.split(" ") if part not in ("", _TAG)]
    config.cache_key_tag = " ".join([*others, _TAG] if is_on else others)
    # To import the compiler takes seconds, and who never compiles has nothing to be kept apart.
    if "torch._dynamo" in sys.modules and not _is_guarded:
        _is_guarded = _guard_by_tag()
        torch._dynamo.reset()  # what is there has no such guard


def _guard_by_tag() -> bool:
    """Let all that is compiled from now on be used only under the tag that was set then; whether that can be had.

    The compiler has guards for such states of the process, and no way for others to add one.
    """
    from torch._dynamo.guards import GuardBuilder
    from torch._dynamo.output_graph import OutputGraph

    try:
        from torch._dynamo.source import AttrSource, ImportSource
    except ImportError:  # as before PyTorch 2.10 or so: there everything is compiled anew after each switch
        return False

    output_graph: Any = OutputGraph
    add_others = output_graph.init_ambient_guards

    def init_ambient_guards(graph: Any) -> None:
        add_others(graph)
        source: Any = object.__new__(ImportSource)  # whose own way wants a graph that is further on
        object.__setattr__(source, "module_name", "torch")
        for name in ("compiler", "config", "cache_key_tag"):
            source = AttrSource(source, name)
        graph.guards.add(source.make_guard(GuardBuilder.CONSTANT_MATCH))

    output_graph.init_ambient_guards = init_ambient_guards
    return True
