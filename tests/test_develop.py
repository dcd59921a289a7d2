"""``develop.py`` installs once, runs every check and reports the results."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SOURCE = Path(__file__).parents[1] / "develop.py"


class Machine:
    """Replaces every process that develop.py would start."""

    def __init__(self) -> None:
        self.ran: list[list[str]] = []
        self.environment: dict[str, str] = {}
        self.all_installed: list[list[str]] = []
        self.failing: set[str] = set()
        self.status = 1

    @property
    def installed(self) -> list[list[str]]:
        """Into the main environment, or before it."""
        return [command for command in self.all_installed if command not in self.panels]

    @property
    def panels(self) -> list[list[str]]:
        """Into one of those that serve the panel."""
        return [command for command in self.all_installed if "[ui" in command[-1]]

    def run(self, command: list[str], more: dict[str, str] | None = None) -> int:
        self.ran.append(command)
        self.environment |= more or {}
        return self.status if self.failing & set(command) else 0

    def must(self, command: list[str], otherwise: str, environment: dict[str, str] | None = None) -> None:
        self.all_installed.append(command)


@pytest.fixture
def develop(tmp_path: Path) -> ModuleType:
    """The script as a module, at work in an empty folder."""
    spec = importlib.util.spec_from_file_location("develop_under_test", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    vars(module).update(ROOT=tmp_path, VENV=tmp_path / ".venv")
    for name in (*module.PANELS, "."):
        (module.VENV / name).mkdir(parents=True, exist_ok=True)
    (tmp_path / "pyproject.toml").write_text("[project]\n", "utf-8")
    return module


@pytest.fixture
def machine(develop: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    for name in ("CI", "RESIZE_LORA_PYTHONS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(develop, "_run", made.run)
    monkeypatch.setattr(develop, "_must", made.must)
    monkeypatch.setattr(develop, "_works", lambda folder: True)
    monkeypatch.setattr(develop, "_pip_version", lambda python: (25, 0))
    monkeypatch.setattr(develop, "_found", lambda program: "")
    return made


def test_the_second_call_installs_nothing(develop: ModuleType, machine: Machine) -> None:
    assert develop.main(["demo"]) == 0
    assert len(machine.installed) == 1
    assert develop.main(["demo"]) == 0
    assert len(machine.installed) == 1
    assert len(machine.ran) == 2


def test_new_requirements_are_installed(develop: ModuleType, machine: Machine) -> None:
    develop.main(["demo"])
    (develop.ROOT / "pyproject.toml").write_text("[project]\ndependencies = []\n", "utf-8")
    develop.main(["demo"])
    assert len(machine.installed) == 2


def test_the_demo_finds_what_the_tests_installed_but_not_the_other_way(develop: ModuleType, machine: Machine) -> None:
    develop.main(["demo"])
    develop.main(["test"])
    assert [command[-1].endswith("[test,docs]") for command in machine.installed] == [False, True]
    develop.main(["demo"])
    assert len(machine.installed) == 2


def test_an_installation_that_failed_is_tried_again(
    develop: ModuleType, machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise develop.SetupError("no network")

    monkeypatch.setattr(develop, "_must", fail)
    assert develop.main(["demo"]) == 1
    assert "no network" in capsys.readouterr().err
    assert machine.ran == []
    monkeypatch.setattr(develop, "_must", machine.must)
    assert develop.main(["demo"]) == 0
    assert len(machine.installed) == 1


def test_all_checks_run_in_order_and_the_last_line_names_those_that_fail(
    develop: ModuleType, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.failing = {"format", "mypy"}
    assert develop.main(["test"]) == 1
    assert [command[2:] for command in machine.ran[1:]] == [list(one) for one in develop.CHECKS.values()]
    assert [command[2] for command in machine.ran[1:]] == ["ruff", "ruff", "mypy", "mkdocs", "pytest"]
    assert capsys.readouterr().out.splitlines()[-1].startswith("Failed: ruff format, mypy (")


@pytest.fixture
def node(develop: ModuleType, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Node.js is there, and nothing of it is installed in the folder."""
    (develop.ROOT / "package-lock.json").write_text("{}", "utf-8")
    monkeypatch.setattr(develop, "_found", lambda program: f"/bin/{program}")
    monkeypatch.setattr(develop, "_node_lack", lambda: "")


@pytest.mark.usefixtures("node")
def test_where_node_is_there_the_page_is_checked_first_and_npm_runs_once(
    develop: ModuleType, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert develop.main(["test"]) == 0
    npm = [command for command in machine.ran if command[0] == "/bin/npm"]
    assert [command[1] for command in npm] == ["ci"]
    checks = machine.ran[2:]
    assert [command[0] for command in checks[:3]] == ["/bin/node"] * 3
    assert [command[1].rpartition("/")[2] for command in checks[:3]] == ["prettier.cjs", "eslint.js", "--test"]
    names = ", ".join([*develop.PAGE_CHECKS, *develop.CHECKS])
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"All is well: {names} (")
    (develop.ROOT / "node_modules").mkdir()
    (develop.ROOT / "node_modules" / ".package-lock.json").write_text("{}", "utf-8")
    develop.main(["test"])
    assert len([command for command in machine.ran if command[0] == "/bin/npm"]) == 1


def test_without_node_the_page_is_not_checked_and_the_reason_is_shown(
    develop: ModuleType, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert develop.main(["test"]) == 0
    assert "the checks of the page are left out: no Node.js with npm here" in capsys.readouterr().out


def test_in_ci_a_lack_of_node_is_a_failure(
    develop: ModuleType, machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CI", "true")
    assert develop.main(["test"]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("Failed: the checks of the page: no Node.js with npm")
    assert len(machine.ran) == 1 + len(develop.CHECKS)


@pytest.mark.usefixtures("node")
def test_packages_of_the_page_that_cannot_be_had_are_named(
    develop: ModuleType, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.failing = {"ci"}
    assert develop.main(["test"]) == 0
    assert "the checks of the page are left out: npm ci failed" in capsys.readouterr().out


def test_an_old_node_is_refused_by_its_version(develop: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(develop, "_found", lambda program: develop.sys.executable)
    monkeypatch.setattr(develop, "OLDEST_NODE", 9999)
    assert "9999 or newer is needed" in develop._node_lack()


def test_a_check_that_was_killed_is_reported_as_killed(
    develop: ModuleType, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.failing, machine.status = {"pytest"}, -9
    assert develop.main(["test"]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("Failed: pytest (killed by signal 9) (")


def test_where_all_is_well_the_last_line_reports_it(
    develop: ModuleType, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert develop.main(["test"]) == 0
    assert (
        capsys.readouterr()
        .out.splitlines()[-1]
        .startswith("All is well: ruff format, ruff check, mypy, mkdocs, pytest (")
    )


def test_the_tests_have_an_environment_for_each_gradio(develop: ModuleType, machine: Machine) -> None:
    develop.main(["test"])
    assert [command[-1].rpartition("[")[2] for command in machine.panels] == ["ui-gradio3]", "ui-gradio4]"]
    served_by = machine.environment["RESIZE_LORA_PYTHONS"].split(develop.os.pathsep)
    assert served_by == [command[command.index("--python") + 1] for command in machine.panels]
    assert [Path(python).parents[1].name for python in served_by] == ["gradio3", "gradio4"]
    develop.main(["test"])
    assert len(machine.panels) == 2


def test_the_suite_for_webuis_runs_by_itself_in_the_tests_environment(develop: ModuleType, machine: Machine) -> None:
    develop.main(["test"])
    installed, ran = len(machine.all_installed), len(machine.ran)
    assert develop.main(["hosts", "http://127.0.0.1:7860", "--patience", "300"]) == 0
    assert len(machine.all_installed) == installed
    (command,) = machine.ran[ran:]
    assert command[1:] == ["-m", *develop.HOSTS, "http://127.0.0.1:7860", "--patience", "300"]


def test_the_suite_for_webuis_wants_an_address(
    develop: ModuleType, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert develop.main(["hosts"]) == 2
    assert "hosts URL" in capsys.readouterr().out
    assert machine.ran == []


def test_the_demo_makes_no_environment_for_gradio(develop: ModuleType, machine: Machine) -> None:
    develop.main(["demo"])
    assert machine.panels == []


def test_pythons_that_are_named_already_are_taken(
    develop: ModuleType, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESIZE_LORA_PYTHONS", "/somewhere/python")
    develop.main(["test"])
    assert machine.panels == []
    assert machine.environment["RESIZE_LORA_PYTHONS"] == "/somewhere/python"


@pytest.fixture
def no_gradio3(develop: ModuleType, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def must(command: list[str], *rest: Any) -> None:
        if "[ui-gradio3]" in command[-1]:
            raise develop.SetupError("no wheel of numpy")
        machine.must(command, *rest)

    monkeypatch.setattr(develop, "_must", must)


@pytest.mark.usefixtures("no_gradio3")
def test_a_gradio_that_cannot_be_had_is_named_and_the_rest_runs(
    develop: ModuleType, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert develop.main(["test"]) == 0
    assert "the browser tests leave gradio3 out: no wheel of numpy" in capsys.readouterr().out
    assert [Path(machine.environment["RESIZE_LORA_PYTHONS"]).parents[1].name] == ["gradio4"]
    assert len(machine.ran) == 1 + len(develop.CHECKS)


@pytest.mark.usefixtures("no_gradio3")
def test_in_ci_a_gradio_that_cannot_be_had_is_a_failure(
    develop: ModuleType, machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CI", "true")
    assert develop.main(["test"]) == 1
    assert "no wheel of numpy" in capsys.readouterr().err
    assert machine.ran == []


def test_an_old_pip_first_fetches_a_new_one(
    develop: ModuleType, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(develop, "_pip_version", lambda python: (21, 3))
    develop.main(["demo"])
    assert [("--target" in command, "--python" in command) for command in machine.installed] == [
        (True, False),
        (False, True),
    ]


def test_a_python_without_pip_is_reported(
    develop: ModuleType, machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(develop, "_pip_version", lambda python: None)
    assert develop.main(["demo"]) == 1
    assert "no pip" in capsys.readouterr().err


def test_an_old_python_is_refused_by_its_version(
    develop: ModuleType, machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(develop, "OLDEST_PYTHON", (99, 0))
    assert develop.main(["test"]) == 1
    assert "99.0 or newer is needed" in capsys.readouterr().err
    assert machine.installed == []
