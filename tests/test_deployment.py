"""Images, compose files, dashboards and Kubernetes manifests, read by real parsers. Nothing is built or run."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from gateway.metrics import Metrics
from gateway.settings import Settings
from launcher.commands import EXIT_TIMEOUT_S, STUB_TIMEOUT_S
from python_backends import metrics as backend_metrics
from tests.source_tree import ROOT

DOCKER, DEPLOY = ROOT / "docker", ROOT / "deploy"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
OVERLAYS = ["gpu", "encoder", "trtllm"]
ENTRIES = {path.parent.name for path in (ROOT / "model_repository").glob("*/config.pbtxt")}
# What Triton itself shows: https://github.com/triton-inference-server/server/blob/main/docs/user_guide/metrics.md
TRITON_METRICS = {
    "nv_inference_request_success",
    "nv_inference_request_failure",
    "nv_inference_pending_request_count",
    "nv_gpu_utilization",
    "nv_gpu_memory_used_bytes",
    "nv_gpu_memory_total_bytes",
}
# Told to the entries and to docker/tritonserver.sh, not to the gateway.
OTHER_VARIABLES = {"TRIMODAL_VISION_ENDPOINT"}


def tool(name: str) -> str:
    """A program beside Python, or on PATH; the test is skipped, with its name, where there is none."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


def run(*command: str | Path, **more: Any) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False, **more)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def known_variables() -> set[str]:
    return {f"TRIMODAL_{name.upper()}" for name in Settings.__dataclass_fields__} | OTHER_VARIABLES


def known_metrics() -> set[str]:
    own = {value.name for value in vars(backend_metrics).values() if isinstance(value, backend_metrics.Metric)}
    # As Prometheus sees them: a counter of this library ends in _total.
    gateway = {
        f"{family.name}_total" if family.type == "counter" else family.name for family in Metrics().registry.collect()
    }
    return own | gateway | TRITON_METRICS


def metrics_of(expression: str) -> set[str]:
    names = set(re.findall(r"\b(?:trimodal|nv)_\w+", expression))
    return {re.sub(r"_(bucket|sum|count)$", "", name) if name not in TRITON_METRICS else name for name in names}


# Images


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: str(file.stem))
def test_dockerfiles_pass_the_linter(file: Path) -> None:
    assert run(tool("hadolint"), "--config", DOCKER / ".hadolint.yaml", file) == ""


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: str(file.stem))
def test_dockerfiles_copy_what_exists_and_run_as_nobody_special(file: Path) -> None:
    lines = re.sub(r"\\\n\s*", " ", file.read_text()).splitlines()
    copies = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    for source in itertools.chain(*copies):
        assert (ROOT / source).exists(), f"{file.name} copies {source}"
    last = [line for line in lines if line.startswith(("USER ", "HEALTHCHECK", "ENTRYPOINT", "CMD"))]
    assert last[0] == "USER 10001:10001" and last[1].startswith("HEALTHCHECK") and len(last) == 3
    named = {name for line in lines for name in re.findall(r"TRIMODAL_\w+", line)}
    assert named <= known_variables()


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: str(file.stem))
def test_what_an_image_is_built_on_is_one_argument_that_takes_a_digest(file: Path) -> None:
    text, readme = file.read_text(), (DOCKER / "README.md").read_text()
    arguments = dict(re.findall(r"^ARG (\w+_IMAGE)=(\S+)$", text, re.MULTILINE))
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {f"${{{name}}}" for name in arguments} != set()
    for name, image in arguments.items():
        assert re.fullmatch(r"[a-z.]+(/[a-z]+)+:[\w.-]+", image) and f"`{name}`" in readme


@pytest.fixture
def server_command(tmp_path: Path) -> Any:
    """docker/tritonserver.sh with a program in tritonserver's place that says its arguments, one a line."""
    fake = tmp_path / "tritonserver"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    # A file for each entry, so that an unguarded * would become their names.
    (tmp_path / "llm").touch()

    def command(**variables: str) -> list[str]:
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "MODEL_REPOSITORY": "/models", **variables}
        return run("sh", DOCKER / "tritonserver.sh", "--log-info=false", env=environment, cwd=tmp_path).splitlines()

    return command


def test_the_containers_command_is_the_launchers(server_command: Any) -> None:
    said = server_command(MODELS="*")
    assert {"--model-repository=/models", "--model-control-mode=explicit", "--load-model=*"} <= set(said)
    assert {f"--exit-timeout-secs={EXIT_TIMEOUT_S}", "--disable-auto-complete-config", "--log-info=false"} <= set(said)
    assert f"--backend-config=python,stub-timeout-seconds={STUB_TIMEOUT_S}" in said
    some = server_command(MODELS="llm tokenizer", EXIT_TIMEOUT_S="120", LAUNCHER="env A=b")
    assert [flag for flag in some if "load-model" in flag] == ["--load-model=llm", "--load-model=tokenizer"]
    assert "--exit-timeout-secs=120" in some


@contextmanager
def ready(entries: set[str]) -> Iterator[None]:
    """A server on Triton's port that says of these entries that they are ready."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            entry = re.fullmatch(r"/v2/models/(\w+)/ready", self.path)
            self.send_response(200 if entry and entry[1] in entries else 400)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["TRITON_HTTP_PORT"] = str(server.server_port)
    try:
        yield
    finally:
        del os.environ["TRITON_HTTP_PORT"]
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("models", "up", "code", "said"),
    [
        ("*", ENTRIES, 0, f"{len(ENTRIES)} entries are ready"),
        ("*", ENTRIES - {"llm"}, 1, "not ready: llm"),
        ("llm tokenizer", {"llm", "tokenizer"}, 0, "2 entries are ready"),
        ("llm tokenizer", {"llm"}, 1, "not ready: tokenizer"),
    ],
)
def test_the_health_check_asks_for_the_entries_that_are_served(models: str, up: set[str], code: int, said: str) -> None:
    with ready(up):
        environment = {**os.environ, "MODELS": models, "MODEL_REPOSITORY": str(ROOT / "model_repository")}
        command = [sys.executable, str(DOCKER / "models_ready.py")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (code, said)


# Compose


def compose(*overlays: str, **variables: str) -> dict[str, Any]:
    """As podman-compose understands the files: merged, with anchors and variables resolved."""
    files = [DOCKER / "compose.yml", *(DOCKER / f"compose.{name}.yml" for name in overlays)]
    flags = [flag for file in files for flag in ("--file", str(file))]
    command = (tool("podman-compose"), "--profile", "metrics", "--dry-run", *flags, "config")
    said = run(*command, cwd=DOCKER, env={**os.environ, **variables})
    found: dict[str, Any] = yaml.safe_load(said)
    return found


@pytest.mark.parametrize("overlay", [None, *OVERLAYS])
def test_compose_files_parse_and_are_hardened(overlay: str | None) -> None:
    found = compose(*([overlay] if overlay else []))
    assert {"triton", "gateway", "prometheus", "grafana"} <= set(found["services"])
    for name, service in found["services"].items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert set(service.get("depends_on", ())) <= set(found["services"]), name
        check_service(name, service, found)


def check_service(name: str, service: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    variables = service.get("environment", {})
    assert {key for key in variables if key.startswith("TRIMODAL_")} <= known_variables(), name
    assert set(variables.get("MODELS", "llm").split()) <= ENTRIES, name
    if build := service.get("build"):
        assert (ROOT / build["dockerfile"]).is_file(), name
    for volume in service.get("volumes", ()):
        source = volume.split(":")[0]
        assert source in found["volumes"] or (DOCKER / source).exists(), f"{name}: {volume}"


def test_gpus_are_asked_for_where_they_should_be() -> None:
    for overlay in ("gpu", "trtllm"):
        [device] = compose(overlay)["services"]["triton"]["deploy"]["resources"]["reservations"]["devices"]
        assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    apart = compose("encoder")["services"]
    served = [apart[name]["environment"]["MODELS"].split() for name in ("triton", "encoder")]
    assert "llm" in served[0] and served[1] == ["image_frontend", "vision_encoder", "vision"]
    assert apart["triton"]["environment"]["TRIMODAL_VISION_ENDPOINT"] == "encoder:8001"


def test_images_from_outside_are_pinned_by_the_environment() -> None:
    pinned = "docker.io/some/image:1@sha256:" + 64 * "0"
    services = compose("trtllm", PROMETHEUS_IMAGE=pinned, GRAFANA_IMAGE=pinned)["services"]
    assert services["prometheus"]["image"] == services["grafana"]["image"] == pinned
    # An argument without a value is the environment's, if it is there.
    passed = {name: set(service["build"]["args"]) for name, service in services.items() if "build" in service}
    assert passed["gateway"] == {"PYTHON_IMAGE"} and {"TRITON_IMAGE", "TRTLLM_IMAGE"} <= passed["triton"]


def test_prometheus_asks_the_services() -> None:
    jobs = yaml.safe_load((DOCKER / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert [job["static_configs"][0]["targets"] for job in jobs] == [["triton:8002"], ["gateway:8000"]]


@pytest.mark.parametrize("file", sorted(DOCKER.glob("grafana/dashboards/*.json")), ids=lambda file: str(file.stem))
def test_every_metric_of_a_dashboard_exists(file: Path) -> None:
    board = json.loads(file.read_text())
    panels = board["panels"]
    assert len(panels) >= 6 and len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["datasource"]["uid"] == "prometheus"
        for target in panel["targets"]:
            used = metrics_of(target["expr"])
            assert used and used <= known_metrics(), (panel["title"], used - known_metrics())


def test_a_metric_that_does_not_exist_would_be_noticed() -> None:
    assert metrics_of("rate(trimodal_no_such_bucket[1m])") - known_metrics() == {"trimodal_no_such"}
    assert metrics_of("sum(trimodal_gateway_requests)") - known_metrics()


def test_the_dashboards_show_every_metric_of_ours() -> None:
    shown = {
        name
        for file in DOCKER.glob("grafana/dashboards/*.json")
        for panel in json.loads(file.read_text())["panels"]
        for target in panel["targets"]
        for name in metrics_of(target["expr"])
    }
    # Misses are hits and calls told another way.
    assert known_metrics() - TRITON_METRICS - shown <= {"trimodal_encoder_cache_misses"}


# Kubernetes


def base() -> list[dict[str, Any]]:
    files = sorted((DEPLOY / "base").glob("*.yaml"))
    found = [each for file in files for each in yaml.safe_load_all(file.read_text())]
    return [each for each in found if each["kind"] != "Kustomization"]


def built(folder: str) -> list[dict[str, Any]]:
    """What `kubectl apply -k` would send."""
    return list(yaml.safe_load_all(run(tool("kubectl"), "kustomize", DEPLOY / folder)))


def of_kind(kind: str, resources: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in resources if each["kind"] == kind}


def validate(resources: list[dict[str, Any]]) -> None:
    assert len(resources) >= 18
    for each in resources:
        kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)


def test_the_base_fits_kubernetes_own_schemas() -> None:
    validate(base())


@pytest.mark.parametrize("folder", ["base", "overlays/gpu", "overlays/trtllm"])
def test_what_kustomize_builds_fits_kubernetes_own_schemas(folder: str) -> None:
    resources = built(folder)
    validate(resources)
    assert all(each["metadata"].get("namespace") == "trimodal" for each in resources if each["kind"] != "Namespace")


def test_a_field_that_kubernetes_does_not_know_is_noticed() -> None:
    wrong = {**of_kind("Service", base())["trimodal-llm"], "specs": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


def test_the_overlays_change_what_they_should() -> None:
    deployments = of_kind("Deployment", built("overlays/trtllm"))
    llm, encoder = (deployments[name]["spec"]["template"]["spec"]["containers"][0] for name in TRITONS)
    assert llm["image"] == "trimodal-trtllm:0.1.0" and encoder["image"] == "trimodal-triton:0.1.0"
    assert all(each["resources"]["limits"]["nvidia.com/gpu"] == 1 for each in (llm, encoder))
    variables = {each["name"]: each.get("value") for each in llm["env"]}
    assert variables["MODELS"] == "llm tokenizer" and variables["TRIMODAL_VISION_ENDPOINT"] == "trimodal-encoder:8001"
    assert {"name": "models", "mountPath": "/models", "readOnly": True} in llm["volumeMounts"]
    assert "nvidia.com/gpu" not in json.dumps(deployments["trimodal-gateway"])


TRITONS = ("trimodal-llm", "trimodal-encoder")
DEPLOYMENTS = ("trimodal-gateway", *TRITONS)


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_every_part_is_hardened_and_drains(name: str) -> None:
    pod = of_kind("Deployment", base())[name]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
    [container] = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    variables = {each["name"]: each.get("value") for each in container["env"]}
    assert {key for key in variables if key.startswith("TRIMODAL_")} <= known_variables()
    wait = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    drain = int(variables.get("EXIT_TIMEOUT_S") or variables["TRIMODAL_SHUTDOWN_S"])
    assert wait + drain < pod["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("name", TRITONS)
def test_probes_ask_the_model(name: str) -> None:
    [container] = of_kind("Deployment", base())[name]["spec"]["template"]["spec"]["containers"]
    served = next(each["value"] for each in container["env"] if each["name"] == "MODELS").split()
    assert set(served) <= ENTRIES
    for probe in ("startupProbe", "readinessProbe"):
        found = re.fullmatch(r"/v2/models/(\w+)/ready", container[probe]["httpGet"]["path"])
        assert found and found[1] in served
    assert container["livenessProbe"]["exec"]["command"][-1].endswith("models_ready.py")


def test_services_budgets_and_scalers_find_their_pods() -> None:
    resources = base()
    labels = {
        name: each["spec"]["template"]["metadata"]["labels"] for name, each in of_kind("Deployment", resources).items()
    }
    assert set(labels) == set(DEPLOYMENTS)
    services = of_kind("Service", resources)
    assert {name: each["spec"]["selector"] for name, each in services.items()} == labels
    assert all(services[name]["spec"]["clusterIP"] == "None" for name in TRITONS)
    budgets = of_kind("PodDisruptionBudget", resources)
    assert {name: each["spec"]["selector"]["matchLabels"] for name, each in budgets.items()} == labels
    scalers = of_kind("HorizontalPodAutoscaler", resources)
    assert {name: each["spec"]["scaleTargetRef"]["name"] for name, each in scalers.items()} == {n: n for n in labels}


def test_scalers_read_metrics_that_exist() -> None:
    adapter = yaml.safe_load((DEPLOY / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    text = json.dumps(adapter)
    made = {rule["name"]["as"] for rule in adapter if "name" in rule}
    assert metrics_of(text) - made <= known_metrics()
    for scaler in of_kind("HorizontalPodAutoscaler", base()).values():
        for metric in scaler["spec"]["metrics"]:
            if metric["type"] == "Pods":
                assert metric["pods"]["metric"]["name"] in text


def test_only_who_must_reaches_triton() -> None:
    policies = of_kind("NetworkPolicy", base())
    assert policies["trimodal-nothing-else"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    asks = {"trimodal-gateway": "trimodal-llm", "trimodal-llm": "trimodal-encoder"}
    for asker, asked in asks.items():
        [out] = policies[asker]["spec"]["egress"]
        [into] = policies[asked]["spec"]["ingress"]
        for rule, key, other in ((out, "to", asked), (into, "from", asker)):
            [peer] = rule[key]
            assert peer == {"podSelector": {"matchLabels": {"app.kubernetes.io/name": other}}}
            assert rule["ports"] == [{"protocol": "TCP", "port": 8001}]
