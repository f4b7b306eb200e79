"""What lies in `deploy/` fits the server: its settings, ports and files. The chart is rendered by Helm itself."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from signaling.settings import Settings
from signaling.settings_sources import CONFIG_VARIABLE, leaves, load

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm/callyard"
SECRET = "0123456789abcdef0123456789abcdef"
_CREDENTIALS = {"credentials.key": "k", "credentials.secret": SECRET}


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built from its module; the first build takes minutes."""
    program = tmp_path_factory.mktemp("helm") / "helm"
    go = shutil.which("go") or str(ROOT / ".venv/bin/go")
    command = [go, "build", "-o", str(program), "helm.sh/helm/v3/cmd/helm"]
    subprocess.run(command, cwd=Path(__file__).parent / "helm", check=True)
    return program


def render(helm: Path, **values: str | int | bool) -> list[dict[str, Any]]:
    """All that the chart makes of these values. `CalledProcessError` if it refuses them."""
    command = [str(helm), "template", "calls", str(CHART)]
    for name, value in values.items():
        shown = str(value).lower() if isinstance(value, bool) else str(value)
        command += ["--set", f"{name}={shown}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def of_kind(documents: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {found["metadata"]["name"]: found for found in documents if found["kind"] == kind}


def pod_of(documents: list[dict[str, Any]]) -> dict[str, Any]:
    pod: dict[str, Any] = of_kind(documents, "StatefulSet")["calls"]["spec"]["template"]
    return pod


def settings_of(documents: list[dict[str, Any]], folder: Path) -> Settings:
    """As the server would read them in that pod."""
    (container,) = pod_of(documents)["spec"]["containers"]
    known = {"metadata.name": "calls-1", "status.hostIP": "192.0.2.7"}
    environ: dict[str, str] = dict(of_kind(documents, "Secret")["calls"]["stringData"])
    for variable in container["env"]:
        source = variable.get("valueFrom", {})
        value = variable.get("value") or known.get(source.get("fieldRef", {}).get("fieldPath", ""))
        environ[variable["name"]] = value or "postgresql://db.example.org/calls"
    environ["CALLYARD_PUBLIC_URL"] = environ.get("CALLYARD_PUBLIC_URL", "").replace("$(POD_NAME)", environ["POD_NAME"])
    file = folder / "callyard.yaml"
    file.write_text(of_kind(documents, "ConfigMap")["calls"]["data"]["callyard.yaml"], encoding="utf-8")
    environ[CONFIG_VARIABLE] = str(file)
    return load(options={}, environ=environ).settings


@pytest.mark.parametrize("file", ["compose.yaml", "Dockerfile", "systemd/callyard.service"])
def test_every_variable_is_a_setting(file: str) -> None:
    named = set(re.findall(r"CALLYARD_[A-Z_]+", (DEPLOY / file).read_text(encoding="utf-8")))
    assert named
    assert named <= {leaf.variable for leaf in leaves()} | {CONFIG_VARIABLE}


def test_the_chart_is_as_helm_wants_it(helm: Path) -> None:
    command = [str(helm), "lint", "--strict", str(CHART), "--set", "credentials.existingSecret=x"]
    assert "0 chart(s) failed" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_one_pod_with_the_machine_s_address_and_ports(helm: Path, tmp_path: Path) -> None:
    documents = render(helm, **_CREDENTIALS, host="call.example.org", workers=3, **{"config.http.connections_max": 500})
    settings = settings_of(documents, tmp_path)
    assert (settings.node.workers, settings.node.udp_port, settings.http.connections_max) == (3, 7882, 500)
    assert [str(ip) for ip in settings.node.node_ip] == ["192.0.2.7"]
    assert settings.public_url == "https://call.example.org"
    assert settings.keyring == {"k": SECRET}
    pod = pod_of(documents)["spec"]
    assert pod["terminationGracePeriodSeconds"] > settings.drain.deadline_seconds + settings.drain.leave_seconds
    ports = [(port["containerPort"], port.get("protocol", "TCP")) for port in pod["containers"][0]["ports"]]
    media = [(port, over) for port in (7882, 7883, 7884) for over in ("UDP", "TCP")]
    assert ports == [(settings.port, "TCP"), *media]
    assert pod["hostNetwork"]
    assert not pod["enableServiceLinks"], "a Service called callyard would stop the server"


def test_several_pods_have_a_name_each_and_one_database(helm: Path, tmp_path: Path) -> None:
    several: dict[str, str | int | bool] = {"replicas": 2, "database.existingSecret": "db", "ingress.enabled": True}
    documents = render(helm, **_CREDENTIALS, host="call.example.org", **several)
    settings = settings_of(documents, tmp_path)
    assert settings.public_url == "https://calls-1.call.example.org"
    assert settings.database_url == "postgresql://db.example.org/calls"
    labels = pod_of(documents)["metadata"]["labels"]
    services = of_kind(documents, "Service")
    (ingress,) = of_kind(documents, "Ingress").values()
    leads = {rule["host"]: rule["http"]["paths"][0]["backend"]["service"] for rule in ingress["spec"]["rules"]}
    assert set(leads) == {"call.example.org", "calls-0.call.example.org", "calls-1.call.example.org"}
    for host, backend in leads.items():
        service = services[backend["name"]]["spec"]
        assert {port["name"] for port in service["ports"]} == {backend["port"]["name"]}
        pod = {"statefulset.kubernetes.io/pod-name": host.partition(".")[0]} if host.startswith("calls-") else {}
        assert service["selector"].items() <= (labels | pod).items()
        assert pod.items() <= service["selector"].items()


def test_prometheus_reads_the_pods_under_the_name_that_the_alerts_know(helm: Path) -> None:
    assert "PodMonitor" not in {document["kind"] for document in render(helm, **_CREDENTIALS)}
    found: dict[str, str | int | bool] = {"podMonitor.enabled": True, "podMonitor.labels.release": "prometheus"}
    documents = render(helm, **_CREDENTIALS, **found)
    monitor = of_kind(documents, "PodMonitor")["calls"]
    labels = monitor["metadata"]["labels"]
    assert (labels["release"], labels["app.kubernetes.io/name"]) == ("prometheus", "callyard")
    pod = pod_of(documents)
    assert monitor["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    job = pod["metadata"]["labels"][monitor["spec"]["jobLabel"]]
    assert f'up{{job="{job}"}} == 0' in (DEPLOY / "prometheus/rules.yml").read_text(encoding="utf-8")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in {port.get("name") for port in pod["spec"]["containers"][0]["ports"]}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "credentials.existingSecret"),
        ({"credentials.key": "k", "credentials.secret": "short"}, "at least 32 characters"),
        ({**_CREDENTIALS, "replicas": 2}, "database.existingSecret"),
        ({**_CREDENTIALS, "ingress.enabled": True}, "set host"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_made(
    helm: Path, values: Mapping[str, str | int | bool], sentence: str
) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refusal:
        render(helm, **values)
    assert sentence in refusal.value.stderr
