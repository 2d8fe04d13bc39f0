"""What the command line makes of its flags, and how it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.cli import main, make_parser, serve_options
from launcher.commands import gateway_command, triton_command
from launcher.errors import LauncherError
from launcher.flags import byte_size
from launcher.options import Checkpoint, ServeOptions
from launcher.ports import Ports
from launcher.testing import QUICK, pytest_arguments
from launcher.triton_install import TritonInstallation


def options(*flags: str) -> ServeOptions:
    return serve_options(make_parser().parse_args(["serve", *flags]))


def test_without_flags_the_bundled_repository_is_served_on_the_loopback() -> None:
    plain = options()
    assert plain.host == "127.0.0.1"
    assert (plain.ports.http, plain.ports.grpc, plain.ports.metrics, plain.ports.triton_http) == (
        8000,
        8001,
        8002,
        8003,
    )
    assert plain.models.is_empty
    assert plain.gateway


def test_engine_flags_become_parameters() -> None:
    flags = "--dtype bfloat16 --max-model-len 512 --kv-cache-bytes 2GiB --limit-mm-per-prompt image=4,video=1"
    more = "--no-enable-prefix-caching --trust-remote-code --gpu-memory-utilization 0.5 --tensor-parallel-size 2"
    parameters = options(*flags.split(), *more.split()).models.parameters
    assert json.loads(parameters["limit_mm_per_prompt"]) == {"image": 4, "video": 1}
    assert {key: value for key, value in parameters.items() if key != "limit_mm_per_prompt"} == {
        "dtype": "bfloat16",
        "max_model_len": "512",
        "kv_cache_bytes": str(2 << 30),
        "enable_prefix_caching": "false",
        "trust_remote_code": "true",
        "gpu_memory_utilization": "0.5",
        "tensor_parallel_size": "2",
    }


def test_adapters_are_absolute_folders_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").touch()
    monkeypatch.chdir(tmp_path)
    parameters = options("--lora-adapters", "legal=one,medical=two").models.parameters
    assert json.loads(parameters["lora_adapters"]) == {"legal": str(tmp_path / "one"), "medical": str(tmp_path / "two")}


@pytest.mark.parametrize(
    ("text", "size"),
    [("1024", 1024), ("2GiB", 2 << 30), ("512M", 512_000_000), ("1.5 kb", 1500), ("3gi", 3 << 30), ("1TiB", 1 << 40)],
)
def test_sizes(text: str, size: int) -> None:
    assert byte_size(text) == str(size)


def test_names_pair_up_with_models_in_order() -> None:
    models = options(
        "--model", "org/a", "--model", "org/b", "--served-model-name", "first", "--speech-model", "org/w"
    ).models
    assert models.chat == (Checkpoint("org/a", "first"), Checkpoint("org/b", "org/b"))
    assert models.speech == Checkpoint("org/w", "org/w")


def test_a_lone_speech_model_takes_the_served_model_name(tmp_path: Path) -> None:
    models = options("--speech-model", str(tmp_path), "--served-model-name", "bench").models
    assert models.speech == Checkpoint(str(tmp_path), "bench")
    assert models.chat == ()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--kv-cache-bytes 2Q", "'2Q' is not a size"),
        ("--dtype int3", "'int3' is not one of auto"),
        ("--max-num-seqs 0", "'0' is not a number above 0"),
        ("--gpu-memory-utilization 1.5", "between 0 and 1"),
        ("--limit-mm-per-prompt image", "image=4,video=1"),
        ("--lora-adapters legal=nowhere", "legal=nowhere is not a name and a folder with an adapter_config.json"),
        ("--chat-template nowhere.jinja", "there is no file nowhere.jinja"),
        ("--vision-endpoint here", "'here' is not HOST:PORT"),
        ("--served-model-name x", "--served-model-name x has no --model to name"),
        ("--speech-served-model-name x", "has no --speech-model to name"),
        ("--model a --model a", "two models would be served as a"),
        ("--max-mod 5", "unrecognized arguments: --max-mod"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(flags: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *flags.split()]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert "Traceback" not in told


def test_build_refuses_a_folder_with_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("precious")
    assert main(["repository", "build", str(tmp_path)]) == 2
    assert "is not an empty folder" in capsys.readouterr().err
    assert (tmp_path / "mine").read_text() == "precious"


def test_pytest_gets_its_arguments_and_the_quick_selection_unless_one_is_given() -> None:
    assert pytest_arguments(["-x", "tests/gateway"]) == ["-m", QUICK, "-x", "tests/gateway"]
    assert pytest_arguments(["-m", "slow"]) == ["-m", "slow"]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_text("a file, not a folder")
    flags = ["--log-file", str(tmp_path / "taken/serve.log"), "--port", "0", "--grpc-port", "0"]
    assert main(["serve", *flags, "--metrics-port", "0", "--triton-http-port", "0"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"trimodal: {tmp_path}/taken") and told.count("\n") == 1


def test_abbreviations_are_refused() -> None:
    with pytest.raises(LauncherError):
        options("--triton-http", "1")


def commands(*flags: str) -> tuple[list[str], list[str]]:
    """The command lines of tritonserver and of the gateway."""
    asked, ports = options(*flags), Ports(8000, 8001, 8002, 8003)
    nothing = Path("/nowhere")
    installation = TritonInstallation(nothing, nothing, nothing, nothing)
    triton = triton_command(installation, nothing, asked.triton_host, ports, "prefix", "info")
    return triton, gateway_command(asked, ports)


def test_an_open_gateway_leaves_triton_on_the_loopback() -> None:
    triton, gateway = commands("--host", "0.0.0.0")
    assert "--host=0.0.0.0" in gateway
    addresses = [word for word in triton if "-address=" in word]
    assert addresses == ["--grpc-address=127.0.0.1", "--http-address=127.0.0.1", "--metrics-address=127.0.0.1"]
    assert "0.0.0.0" not in " ".join(triton)
    assert {"--triton-grpc=127.0.0.1:8001", "--triton-metrics=127.0.0.1:8002"} <= set(gateway)


def test_triton_is_opened_on_its_own() -> None:
    triton, gateway = commands("--triton-host", "0.0.0.0")
    assert "--grpc-address=0.0.0.0" in triton and "--host=127.0.0.1" in gateway
    with pytest.raises(LauncherError, match=r"--triton-host 0\.0\.0\.0"):
        options("--no-gateway", "--host", "0.0.0.0")


def test_gateway_flags_are_handed_on(tmp_path: Path) -> None:
    for name in ("keys", "cert", "key"):
        (tmp_path / name).touch()
    files = ["--api-key-file", f"{tmp_path}/keys", "--tls-cert-file", f"{tmp_path}/cert", "--tls-key-file"]
    flags = [*files, f"{tmp_path}/key", "--workers", "2", "--cors-origins", "https://a.example"]
    _, gateway = commands(*flags)
    assert gateway[-5:] == [
        f"--api-key-file={tmp_path}/keys",
        f"--tls-cert-file={tmp_path}/cert",
        f"--tls-key-file={tmp_path}/key",
        "--cors-origins=https://a.example",
        "--workers=2",
    ]
    assert options(*flags).url(Ports(8443, 0, 0, 0)) == "https://127.0.0.1:8443"
    assert options().gateway_settings == {}
