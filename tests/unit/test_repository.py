"""The files around the code agree with it and with each other: deployment, settings, lock, commands, links."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from fraud_lakehouse.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("postgres", "kafka", "generator", "code", "webserver", "daemon", "docs")
PRODUCT = ("generator", "code", "webserver", "daemon", "docs")
VARIABLE = re.compile(r"\$\{([A-Z_]+)(?::?[-?+][^}]*)?\}")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load(read("docker-compose.yml"))


@pytest.fixture(scope="module")
def examples() -> dict[str, str]:
    """The variables of .env.example, commented out or not, with their values."""
    return dict(re.findall(r"^#?([A-Z][A-Z_]*)=(.*)$", read(".env.example"), flags=re.MULTILINE))


def test_compose_has_the_services_the_readme_promises(compose: dict[str, Any]) -> None:
    assert tuple(compose["services"]) == SERVICES


@pytest.mark.parametrize("name", SERVICES)
def test_service_has_a_health_check_and_survives_a_reboot(compose: dict[str, Any], name: str) -> None:
    service = compose["services"][name]
    check = service["healthcheck"]
    assert check["test"][0] == "CMD"
    assert {"interval", "timeout", "retries", "start_period"} <= set(check)
    assert service["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_bound_to_the_loopback_address(compose: dict[str, Any], name: str) -> None:
    for port in compose["services"][name].get("ports", []):
        assert port.startswith("127.0.0.1:"), port


@pytest.mark.parametrize("name", PRODUCT)
def test_product_services_share_one_image_and_the_volumes(compose: dict[str, Any], name: str) -> None:
    service = compose["services"][name]
    assert service["image"] == "fraud_lakehouse"
    assert {volume.split(":")[0] for volume in service["volumes"]} >= {"lake", "dagster"}
    for needed in service["depends_on"].values():
        assert needed == {"condition": "service_healthy"}


def test_every_named_volume_is_declared(compose: dict[str, Any]) -> None:
    used = {volume.split(":")[0] for service in compose["services"].values() for volume in service.get("volumes", [])}
    assert {volume for volume in used if not volume.startswith(".")} == set(compose["volumes"])
    for path in (volume for volume in used if volume.startswith(".")):
        assert (ROOT / path).is_file(), path


def test_no_password_stands_in_the_compose_file(compose: dict[str, Any]) -> None:
    secrets = {
        (name, key): value
        for name, service in compose["services"].items()
        for key, value in service.get("environment", {}).items()
        if "PASSWORD" in key
    }
    assert ("postgres", "POSTGRES_PASSWORD") in secrets
    for where, value in secrets.items():
        assert re.fullmatch(r"\$\{POSTGRES_PASSWORD:\?[^}]+\}", value), where
    assert not re.search(r"password=|://[^/\s]+:[^/\s]+@", read("docker-compose.yml"))


def test_every_variable_of_the_compose_file_is_in_the_example(
    compose: dict[str, Any], examples: dict[str, str]
) -> None:
    used = set(VARIABLE.findall(read("docker-compose.yml")))
    assert used
    assert used <= set(examples)


def test_the_example_names_every_setting_and_no_other(examples: dict[str, str]) -> None:
    settings = {f"FRAUD_{field.upper()}" for field in Settings.model_fields}
    assert {name for name in examples if name.startswith("FRAUD_")} == settings


def test_the_examples_values_are_the_defaults(examples: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in examples.items():
        if name != "FRAUD_POSTGRES_DSN":
            monkeypatch.setenv(name, value)
    monkeypatch.delenv("FRAUD_POSTGRES_DSN", raising=False)
    assert Settings() == Settings.model_construct()


def test_the_code_server_is_where_the_workspace_looks_for_it(compose: dict[str, Any]) -> None:
    [location] = yaml.safe_load(read("deploy/workspace.yaml"))["load_from"]
    server = location["grpc_server"]
    command = compose["services"][server["host"]]["command"]
    assert command[command.index("--port") + 1] == str(server["port"])
    module = command[command.index("--module-name") + 1]
    [local] = yaml.safe_load(read("workspace.yaml"))["load_from"]
    assert local["python_module"]["module_name"] == module
    assert local["python_module"]["location_name"] == server["location_name"]


def test_the_image_runs_as_a_user_and_installs_only_hashed_packages() -> None:
    stage = read("Dockerfile").rpartition("\nFROM ")[2]
    assert re.search(r"^USER (?!root)", stage, flags=re.MULTILINE)
    for install in re.findall(r"pip install ([^\n&]*)", read("Dockerfile")):
        assert "--require-hashes" in install or "--no-deps" in install


def test_the_lock_pins_hashes_and_names_no_address() -> None:
    text = read("requirements.lock")
    assert "://" not in text
    assert not re.search(r"^\s*-(?!-hash)", text, flags=re.MULTILINE)
    entries = re.split(r"\n(?=\S)", text.strip())
    assert len(entries) > 100
    for entry in entries:
        assert re.match(r"[a-z0-9.\-]+(\[[a-z,-]+\])?==\S+", entry), entry
        assert "--hash=sha256:" in entry, entry


def test_the_lock_covers_every_requirement() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    locked = set(re.findall(r"^([a-z0-9.\-]+)", read("requirements.lock"), flags=re.MULTILINE))
    names = {re.match(r"[A-Za-z0-9.\-]+", one).group().lower() for one in wanted}  # type: ignore[union-attr]
    assert names <= locked


def test_every_make_target_the_documents_name_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), flags=re.MULTILINE))
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    named = {target for path in documents for target in re.findall(r"\bmake ([a-z]+)\b`", path.read_text())}
    assert {"demo", "test"} <= named
    assert named <= targets
    assert {"help", "demo", "test", "lint", "docs", "bench", "clean"} <= targets


def test_every_relative_link_outside_the_site_leads_somewhere() -> None:
    broken = []
    for path in ROOT.glob("*.md"):  # those of docs/ are checked when the site is built
        for target in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8")):
            if "://" not in target and not (path.parent / target).exists():
                broken.append(f"{path.name}: {target}")
    assert not broken


def test_the_readme_is_short_and_has_its_two_commands() -> None:
    text = read("README.md")
    assert len(text.splitlines()) < 100
    assert "```console\nmake demo\nmake test\n```" in text


def test_ci_of_forks_runs_the_same_script() -> None:
    workflow = yaml.safe_load(read(".github/workflows/ci.yml"))
    commands = [step.get("run") for job in workflow["jobs"].values() for step in job["steps"]]
    assert "bash .ci/run" in commands
    script = read(".ci/run")
    assert "make lint" in script
    assert "make sbom" in script
    assert "for target in test test-slow" in script
