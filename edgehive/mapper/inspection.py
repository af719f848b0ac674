"""Whether a class is a driver, and the driver of a file; what is wrong is said in one sentence."""

import inspect
import sys
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

from edgehive.mapper.driver import Driver

#: Entry points of installed drivers.
INSTALLED = "edgehive.mappers"
#: Each method and what it is called with.
METHODS = {"open": ("config",), "read": ("visitor",), "write": ("visitor", "value"), "close": ()}
#: Those a driver may have besides.
MORE_METHODS = {
    "call": ("method", "visitor", "value"),
    "detect": ("visitor", "value", "config"),
    "prepare": ("device", "visitors"),
}


class NotADriver(Exception):
    """The text says what is wrong and how to mend it."""


def require_driver(driver: type) -> None:
    """Raises NotADriver."""
    if not inspect.isclass(driver):
        raise NotADriver(f"{driver!r} is no class; give the class itself, as in run(Thermometer)")
    if fault := _fault_of(driver):
        raise NotADriver(f"{driver.__name__} is not a driver: {fault}")


def load(named: Path) -> type[Driver]:
    """The driver of a file, or one that is installed, by its name; raises NotADriver."""
    shipped = entry_points(group=INSTALLED)
    if named.suffix != ".py" and str(named) in shipped.names and not named.exists():
        return _installed(shipped[str(named)])
    if named.suffix != ".py":
        raise NotADriver(f"{named} is no Python file, and the installed drivers are {', '.join(sorted(shipped.names))}")
    return _in_file(named)


def _installed(found: EntryPoint) -> type[Driver]:
    try:
        driver: type[Driver] = found.load()
    except ImportError as error:
        raise NotADriver(f"driver {found.name} needs {error.name}: pip install 'edgehive[{found.name}]'") from None
    require_driver(driver)
    return driver


def _in_file(path: Path) -> type[Driver]:
    """The one driver class that a file defines."""
    module = _module(path)
    classes = [
        item
        for item in vars(module).values()
        if inspect.isclass(item) and item.__module__ == module.__name__ and not getattr(item, "_is_protocol", False)
    ]
    near = [item for item in classes if _looks_like_one(item)]
    if not near:
        raise NotADriver(f"{path} has no driver: no class in it has {', '.join(METHODS)}")
    good = [item for item in near if not _fault_of(item)]
    if len(good) > 1:
        raise NotADriver(
            f"{path} has {len(good)} drivers ({', '.join(item.__name__ for item in good)}); keep one a file"
        )
    require_driver(good[0] if good else near[0])
    found: type[Driver] = good[0]  # type: ignore[assignment]
    return found


def _module(path: Path) -> ModuleType:
    if not path.is_file():
        raise NotADriver(f"there is no file {path}")
    loader = SourceFileLoader(f"driver_{path.stem}", str(path))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    sys.modules[loader.name] = module
    try:
        loader.exec_module(module)
    except SyntaxError as error:
        raise NotADriver(f"{path} line {error.lineno}: {error.msg}") from None
    except ModuleNotFoundError as error:
        raise NotADriver(f"{path} imports {error.name!r}, which is not installed: pip install {error.name}") from None
    except Exception as error:  # a user's file may raise anything
        line = _line_in(error, path)
        raise NotADriver(f"{path}{line} fails when it is imported: {type(error).__name__}: {error}") from error
    return module


def _line_in(error: BaseException, path: Path) -> str:
    place = error.__traceback__
    line = ""
    while place is not None:
        if place.tb_frame.f_code.co_filename == str(path):
            line = f" line {place.tb_lineno}"
        place = place.tb_next
    return line


def _looks_like_one(item: type) -> bool:
    return sum(callable(getattr(item, name, None)) for name in METHODS) >= 2


def _fault_of(driver: type) -> str:
    protocol = getattr(driver, "protocol", None)
    if not isinstance(protocol, str) or not protocol:
        return f'it names no protocol; write protocol = "{driver.__name__.lower()}" in the class'
    for name, parameters in METHODS.items():
        method = getattr(driver, name, None)
        if not callable(method):
            return f"it has no method {name}; add: async def {name}({', '.join(('self', *parameters))})"
        if fault := _method_fault(driver, name, method, parameters):
            return fault
    for name, parameters in MORE_METHODS.items():
        method = getattr(driver, name, None)
        if callable(method) and (fault := _method_fault(driver, name, method, parameters)):
            return fault
    return _construction_fault(driver)


def _method_fault(driver: type, name: str, method: Callable[..., object], parameters: tuple[str, ...]) -> str:
    wanted = f"async def {name}({', '.join(('self', *parameters))})"
    if isinstance(inspect.getattr_static(driver, name), staticmethod | classmethod):
        return f"{name} is static; write {wanted}"
    if inspect.isasyncgenfunction(method):
        return f"{name} has a yield in it; return the value instead"
    if not inspect.iscoroutinefunction(method):
        return f"{name} is not async; write {wanted}"
    try:
        inspect.signature(method).bind(None, *parameters)
    except TypeError:
        given = ", ".join(parameters) or "nothing"
        return f"{name}{inspect.signature(method)} cannot be called with {given}; write {wanted}"
    return ""


def _construction_fault(driver: type) -> str:
    """Drivers are made without arguments: what they need comes with `open`."""
    try:
        inspect.signature(driver).bind()
    except (TypeError, ValueError):
        return "its __init__ needs arguments; a driver gets what it needs in open(config)"
    return ""
