"""Stand-ins for packages that a peer imports and the benchmark never calls (torchvision, for one, would swap torch itself)."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types


class _Anything(types.ModuleType):
    """A module that has every attribute, each of them callable and each a usable base class or decorator."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda self, *args, **kwargs: None})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        wanted = name.partition(".")[0] in self.names
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if wanted else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Anything(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def stand_in(*names: str) -> None:
    """Let `import name` and `from name.sub import thing` succeed for packages that are not installed.

    For the peers of `peers-no-deps.txt`: denoising_diffusion_pytorch needs torchvision; k_diffusion needs it too, and skimage,
    clip, cleanfid, dctorch, jsonmerge, torchdiffeq, torchsde and kornia.
    """
    sys.meta_path.append(_Finder(names))
