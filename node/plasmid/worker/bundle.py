"""A bundle's Python, run from the text in the document: the only place that does.

Rules
-----
1. Modules come from the text that was digested, never from a file. They form the package
   that the recipe names, and import what the site has installed as any module does.
2. What a function returns is taken as a float64 vector of the declared size, finite, or it is
   ``run.bundle``. So is whatever it raises, its text left out: it may quote a row.
3. What it prints goes nowhere. What it fails with is told at home by the name of a built-in exception and the
   lines of the bundle that led there.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plasmid.core.errors import RunFailed
from plasmid.recipes.python import PACKAGE

if TYPE_CHECKING:
    import torch

Function = Callable[..., Any]


class BundleCode(MetaPathFinder, Loader):
    """The modules of one bundle, those of *package*, importable once :meth:`install` has been called.

    Raises
    ------
    RunFailed
        ``run.bundle``: a file is not Python.
    """

    def __init__(self, files: Mapping[str, str], package: str = PACKAGE) -> None:
        self._package = package
        self._code: dict[str, CodeType] = {}
        with _told("its files"):
            for name, text in files.items():
                module = f"{package}.{name.removesuffix('.py')}"
                self._code[module] = compile(text, f"<{name}>", "exec", dont_inherit=True)

    def install(self) -> None:
        """Let this process import the modules, and none of another bundle.

        Raises
        ------
        RunFailed
            ``run.bundle``: the package is called like one that is in use here.
        """
        forget()
        with _told(f"its package {self._package}, called like one that is in use"):
            if self._package in sys.modules:
                raise ImportError
        sys.meta_path.insert(0, self)

    def function(self, entry: str, name: str) -> Function:
        """Return the function *name* of the module *entry*, which is run for it.

        Raises
        ------
        RunFailed
            ``run.bundle``: importing the module fails, or it defines no such function.
        """
        with _told(f"the import of {entry}"):
            function = getattr(__import__(f"{self._package}.{entry}", fromlist=[name]), name)
            if not callable(function):
                raise TypeError
        found: Function = function
        return found

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - importlib's signature
        target: ModuleType | None = None,  # noqa: ARG002 - importlib's signature
    ) -> ModuleSpec | None:
        """See :class:`importlib.abc.MetaPathFinder`."""
        if fullname == self._package or fullname in self._code:
            return ModuleSpec(fullname, self, is_package=fullname == self._package)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Take Python's default."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's text."""
        code = self._code.get(module.__name__)
        if code is not None:
            exec(code, module.__dict__)  # noqa: S102 - the bundle's own, which the site has approved


def forget() -> None:
    """Take the modules of every bundle out of this process."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, BundleCode)]
    for name, module in list(sys.modules.items()):
        if isinstance(getattr(getattr(module, "__spec__", None), "loader", None), BundleCode):
            del sys.modules[name]


def called(what: str, function: Function, *arguments: Any) -> Any:
    """Return ``function(*arguments)``. Raises RunFailed (``run.bundle``) for whatever it raises."""
    with _told(what):
        return function(*arguments)


def as_vector(value: Any, size: int) -> NDArray[np.float64]:
    """Return what a bundle gave back as a vector of its own, float64 [size].

    Raises
    ------
    RunFailed
        ``run.bundle``: it is not that many finite numbers in one dimension.
    """
    with _told("what it returned"):
        vector = np.asarray(value)
        if vector.dtype.kind not in "biuf" or vector.shape != (size,) or not np.isfinite(vector).all():
            raise ValueError
        return vector.astype(np.float64)


def as_losses(value: Any, rows: int) -> torch.Tensor:
    """Return what a bundle's loss gave back, float32 [rows].

    Raises
    ------
    RunFailed
        ``run.bundle``: it is not a tensor of one floating-point number for each row.
    """
    import torch

    with _told("what it returned"):
        if not (isinstance(value, torch.Tensor) and value.is_floating_point() and value.shape == (rows,)):
            raise ValueError
        return value.float()


class _Nowhere(io.TextIOBase):
    def write(self, text: str, /) -> int:
        return len(text)


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    log = sys.stderr
    try:
        with contextlib.redirect_stdout(_Nowhere()), contextlib.redirect_stderr(_Nowhere()):
            yield
    except BaseException as error:  # noqa: BLE001 - SystemExit is a bundle's failure as well
        print(f"bundle: {what}: {place(error)}", file=log, flush=True)
        raise failure() from None


def place(error: BaseException) -> str:
    """Return the kind of *error*, if it is a built-in one, and the lines of the bundle that led to it."""
    kind = type(error).__name__
    known = kind if getattr(builtins, kind, None) is type(error) else "an exception of its own"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith("<")]
    return " < ".join([known, *(f"{frame.filename}:{frame.lineno}" for frame in reversed(frames[-6:]))])


def failure() -> RunFailed:
    """Return the error of a bundle that failed, in constant words."""
    return RunFailed(
        "run.bundle", "The recipe's own Python failed.", "Its lines are in worker.log in the site's folder."
    )
