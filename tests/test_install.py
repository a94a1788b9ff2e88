"""What an installation must have: what is imported is declared and pinned, and the configs."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from importlib.metadata import PackageNotFoundError, files, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from olmo_inject.config import configs_folder
from olmo_inject.utils.extras import BRINGS

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parent.parent
PACKAGES = ("olmo_inject", "launch", "analysis")
PYTHONS = ("3.10", "3.11", "3.12")  # of ai2-olmo, and so of constraints.txt
WITH_OLMO = ("olmo", "analysis", "transformers", "build", "s3")  # extras that can be installed together


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, unpacked: an installation that leaves the environment alone."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    unpacked = folder / "unpacked"
    with zipfile.ZipFile(built) as archive:
        archive.extractall(unpacked)
    return unpacked


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    (file,) = wheel.glob("*.dist-info/METADATA")
    return Parser().parsestr(file.read_text())


def requirements(metadata: Message, *extras: str) -> list[Requirement]:
    """What the project asks for without extras and with these."""
    asked = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    return [
        each
        for each in asked
        if each.name != "olmo-inject"  # an extra that holds others
        and (not each.marker or any(each.marker.evaluate({"extra": extra}) for extra in extras))
    ]


def pins(python: str, file: str = "constraints.txt") -> dict[str, str]:
    """Pinned version of each package on that Python, by canonical name."""
    found: dict[str, str] = {}
    for line in (REPOSITORY / file).read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            if pin.marker is None or pin.marker.evaluate({"python_version": python}):
                name = canonicalize_name(pin.name)
                assert name not in found, f"{name} is pinned twice on Python {python}"
                assert re.fullmatch(r"==[^,*+]+", str(pin.specifier)), f"{line}: not one public version"
                found[name] = str(pin.specifier)[2:]
    return found


def test_wheel_carries_every_config(wheel: Path) -> None:
    source = REPOSITORY / "configs"
    inside = wheel / "olmo_inject" / "configs"
    expected, found = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (source, inside)
    )
    assert found == expected
    assert {Path("models/olmo.yaml"), Path("texts/facts.jsonl")} <= expected.keys()


def test_installed_wheel_finds_its_configs(wheel: Path) -> None:
    code = "from olmo_inject.config import configs_folder; print(configs_folder()); import launch, analysis"
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(wheel)},
    )
    assert run.returncode == 0, run.stderr
    assert Path(run.stdout.strip()) == wheel / "olmo_inject" / "configs"


def test_checkout_finds_its_configs() -> None:
    """An editable installation leaves a copy of the configs in site-packages, which must not win."""
    assert configs_folder() == REPOSITORY / "configs"


def test_python_versions(metadata: Message) -> None:
    allowed = SpecifierSet(metadata["Requires-Python"])
    assert [minor for minor in range(8, 16) if f"3.{minor}.1" in allowed] == [10, 11, 12, 13, 14, 15]


@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_is_pinned_within_its_bounds(python: str, metadata: Message) -> None:
    check_pinned(requirements(metadata, *WITH_OLMO, "dev", "docs"), pins(python))


def test_every_requirement_of_olmo_core_is_pinned_within_its_bounds(metadata: Message) -> None:
    check_pinned(requirements(metadata, "olmo-core"), pins("3.11", "constraints-olmo-core.txt"))


def check_pinned(asked: list[Requirement], pinned: dict[str, str]) -> None:
    for requirement in asked:
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement}, pinned {version}"


def test_the_line_for_a_missing_package_names_its_extra(metadata: Message) -> None:
    core = {each.name for each in requirements(metadata)}
    for extra, packages in BRINGS.items():
        assert {*packages.values()} <= {each.name for each in requirements(metadata, extra)} - core


def test_numpy_2_and_numpy_1(metadata: Message) -> None:
    """The core takes both, ai2-olmo's extra the first alone."""
    for extras, allowed in (((), True), (("olmo",), False)):
        bounds = [each.specifier for each in requirements(metadata, *extras) if each.name == "numpy"]
        assert all(bound.contains("1.26.4") for bound in bounds)
        assert all(bound.contains("2.4.0") for bound in bounds) is allowed


def test_everything_that_comes_along_is_pinned(metadata: Message) -> None:
    """Follows what is installed; what only other platforms or extras need is not here to be followed."""
    pinned = pins(f"{sys.version_info.major}.{sys.version_info.minor}")
    waiting, seen = requirements(metadata, *WITH_OLMO, "dev", "docs"), set()
    while waiting:
        requirement = waiting.pop()
        for extra in ("", *requirement.extras):
            if (name := canonicalize_name(requirement.name), extra) in seen:
                continue
            seen.add((name, extra))
            try:
                children = [Requirement(line) for line in requires(name) or ()]
            except PackageNotFoundError:
                continue
            assert name in pinned, f"{name} is installed and constraints.txt does not have it"
            waiting += [child for child in children if not child.marker or child.marker.evaluate({"extra": extra})]
    assert len({name for name, _ in seen}) > 100, "the walk ended early"


def imported_by(package: str) -> dict[str, Path]:
    """Top-level names imported anywhere in a package, each with a file that does."""
    names: dict[str, Path] = {}
    for file in (REPOSITORY / package).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                modules = [node.module]
            else:
                continue
            names.update({module.partition(".")[0]: file for module in modules})
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_every_import_is_declared(package: str, metadata: Message) -> None:
    declared = [each.name for each in requirements(metadata, *WITH_OLMO)]
    provided = {path.parts[0].removesuffix(".py") for name in declared for path in files(name) or ()}
    provided |= {module for packages in BRINGS.values() for module in packages}  # of extras that are not installed too
    for name, file in imported_by(package).items():
        if name not in sys.stdlib_module_names and name not in PACKAGES:
            assert name in provided, f"{file.relative_to(REPOSITORY)} imports {name}: not in pyproject.toml"


def test_packages_depend_in_one_direction() -> None:
    """`launch` and `analysis` build on `olmo_inject`; only its command line knows them, lazily."""
    for file in (REPOSITORY / "olmo_inject").rglob("*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert not re.match(r"(import|from) (launch|analysis|tests|benchmarks)\b", ast.unparse(node)), file


def script(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


@pytest.fixture
def fresh_clone(tmp_path: Path) -> Path:
    """The files `make` reads before anything is installed, and a folder `bin` for PATH."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(REPOSITORY / name, tmp_path)
    (tmp_path / "bin").mkdir()
    return tmp_path


def make(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("make")
    assert program, "make is not on PATH"
    environment = {"PATH": str(clone / "bin")}
    return subprocess.run([program, *arguments], cwd=clone, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("target", ["demo", "test", "lint", "bench"])
def test_make_without_a_suitable_python_says_so_in_one_line(target: str, fresh_clone: Path) -> None:
    script(fresh_clone / "bin" / "python3.11", "echo 'python3.11: command not found' >&2; exit 127")  # a shim
    script(fresh_clone / "bin" / "python3", "exit 1")  # a Python that is too old
    run = make(fresh_clone, target)
    assert run.returncode == 2
    assert run.stdout == ""
    (line,) = run.stderr.splitlines()
    assert "no Python 3.10, 3.11 or 3.12" in line
    assert "PYTHON=" in line


def test_make_passes_over_a_shim_that_fails(fresh_clone: Path) -> None:
    script(fresh_clone / "bin" / "python3.11", "exit 127")
    script(fresh_clone / "bin" / "python3.12", f'exec "{sys.executable}" "$@"')
    run = make(fresh_clone, "--dry-run", "test")
    assert run.returncode == 0, run.stderr
    assert '"python3.12" -m venv .venv' in run.stdout
    assert len(re.findall("pip install", run.stdout)) == 1


def test_make_takes_the_python_it_is_told(fresh_clone: Path) -> None:
    script(fresh_clone / "bin" / "python3.11", f'exec "{sys.executable}" "$@"')
    run = make(fresh_clone, "--dry-run", "test", f"PYTHON={sys.executable}")
    assert f'"{sys.executable}" -m venv .venv' in run.stdout


def test_make_installs_again_only_when_the_pins_change(fresh_clone: Path) -> None:
    (fresh_clone / ".venv").mkdir()
    (fresh_clone / ".venv" / ".installed").touch()
    assert "pip install" not in make(fresh_clone, "--dry-run", "test").stdout
    newer = (fresh_clone / ".venv" / ".installed").stat().st_mtime + 1
    os.utime(fresh_clone / "constraints.txt", (newer, newer))
    script(fresh_clone / "bin" / "python3.11", f'exec "{sys.executable}" "$@"')
    assert "pip install" in make(fresh_clone, "--dry-run", "test").stdout
