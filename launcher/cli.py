"""The command line: `serve`, `key`, `test`, `repository build`. Reads flags, calls commands, prints an error.

Imports nothing but the standard library, so that help and mistakes are told before anything is installed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from launcher.checkpoint import default_name
from launcher.commands import LOG_LEVELS
from launcher.errors import LauncherError
from launcher.flags import add_engine_flags, add_gateway_flags, gateway_settings_from, parameters_from, positive
from launcher.options import ROOT, Checkpoint, ModelOptions, ServeOptions, project_version
from launcher.ports import Ports

HOST = "127.0.0.1"
USAGE = """A gRPC-first inference backend for text, images and speech on NVIDIA Triton.

environment:
  TRIMODAL_VENV   a virtual environment to use as it is, instead of .venv in the checkout; nothing is installed into it
"""


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        # `--max-p` for `--max-pixels` would change its meaning with the next flag that is added.
        super().__init__(**{**options, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        raise LauncherError(f"{message}; see {self.prog} --help")


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    try:
        return _run(list(arguments))
    except LauncherError as error:
        print(f"trimodal: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        # A file that cannot be read or written is the user's to mend; anything else is a fault of ours.
        if error.filename is None:
            raise
        print(f"trimodal: {error.filename}: {error.strerror}", file=sys.stderr)
        return LauncherError.exit_code
    except KeyboardInterrupt:
        return 130


def _run(arguments: list[str]) -> int:
    # pytest's arguments are its own: argparse would take the flags among them for ours.
    if arguments[:1] == ["test"]:
        from launcher.testing import run_tests

        return run_tests(arguments[1:])
    given = make_parser().parse_args(arguments)
    if given.command == "repository":
        return _build_repository(given)
    if given.command == "key":
        from launcher.key import add_key

        limits = {
            name: getattr(given, name) for name in ("requests_per_minute", "tokens_per_minute", "max_concurrency")
        }
        print(add_key(given.file, given.name, limits, given.models, given.admin))
        return 0
    from launcher.serve import serve

    return serve(serve_options(given))


def make_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="trimodal", description=USAGE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"trimodal {project_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_serve(commands.add_parser("serve", help="start tritonserver and the gateway"))
    _add_key(commands.add_parser("key", help="make an API key for the gateway"))
    commands.add_parser("test", help="run the tests; further arguments go to pytest", add_help=False)
    repository = commands.add_parser("repository", help="write a model repository without starting it")
    build = repository.add_subparsers(dest="action", metavar="ACTION", required=True).add_parser(
        "build", help="write a model repository for the given checkpoints"
    )
    build.add_argument("out", type=Path, metavar="OUT", help="the folder to write; it must be new or empty")
    _add_models(build)
    return parser


def check(arguments: Sequence[str]) -> None:
    """Answer --help and --version by SystemExit, a wrong command line by LauncherError."""
    if list(arguments[:1]) != ["test"]:
        make_parser().parse_args(list(arguments))


def serve_options(given: argparse.Namespace) -> ServeOptions:
    if not given.gateway and given.host != HOST:
        raise LauncherError(f"--host {given.host} is the gateway's; with --no-gateway say --triton-host {given.host}")
    return ServeOptions(
        host=given.host,
        ports=Ports(given.port, given.grpc_port, given.metrics_port, given.triton_http_port),
        model_repository=given.model_repository,
        models=model_options(given),
        port_file=given.port_file,
        log_file=given.log_file,
        log_level=given.log_level,
        gateway=given.gateway,
        triton_host=given.triton_host,
        gateway_settings=gateway_settings_from(given),
    )


def model_options(given: argparse.Namespace) -> ModelOptions:
    """Pair names with checkpoints; a single speech model may be named by --served-model-name."""
    names, speech_name = list(given.served_model_name), given.speech_served_model_name
    if given.speech_model and not given.model and len(names) == 1 and not speech_name:
        speech_name = names.pop()
    if len(names) > len(given.model):
        raise LauncherError(f"--served-model-name {names[-1]} has no --model to name; give as many names as models")
    if speech_name and not given.speech_model:
        raise LauncherError(f"--speech-served-model-name {speech_name} has no --speech-model to name")
    names += [default_name(source) for source in given.model[len(names) :]]
    speech = (
        Checkpoint(given.speech_model, speech_name or default_name(given.speech_model)) if given.speech_model else None
    )
    chat = tuple(Checkpoint(source, name) for source, name in zip(given.model, names, strict=True))
    _refuse_twins([*chat, *([speech] if speech else [])])
    return ModelOptions(chat, speech, parameters_from(given))


def _refuse_twins(checkpoints: list[Checkpoint]) -> None:
    names = [checkpoint.name for checkpoint in checkpoints]
    for name in names:
        if names.count(name) > 1:
            raise LauncherError(f"two models would be served as {name}; tell them apart with --served-model-name")


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default=HOST, help=f"address the gateway listens on (default {HOST})")
    parser.add_argument(
        "--triton-host",
        default=HOST,
        metavar="HOST",
        help=f"address tritonserver listens on (default {HOST}); whoever reaches it needs no key and may unload models",
    )
    parser.add_argument(
        "--port", type=int, default=8000, help="the gateway's (default 8000); 0, here and below: any free port"
    )
    parser.add_argument("--grpc-port", type=int, default=8001, metavar="PORT", help="Triton's gRPC (default 8001)")
    parser.add_argument(
        "--metrics-port", type=int, default=8002, metavar="PORT", help="Triton's metrics (default 8002)"
    )
    parser.add_argument(
        "--triton-http-port", type=int, default=8003, metavar="PORT", help="Triton's HTTP (default 8003)"
    )
    parser.add_argument(
        "--port-file", type=Path, metavar="FILE", help="write the ports as JSON once everything answers"
    )
    parser.add_argument(
        "--log-file", metavar="FILE", help="the processes' output; - is standard error (default: in .cache)"
    )
    parser.add_argument("--log-level", choices=LOG_LEVELS, default="info")
    parser.add_argument(
        "--no-gateway", dest="gateway", action="store_false", help="tritonserver alone, for gRPC clients"
    )
    add_gateway_flags(parser)
    _add_models(parser)


def _add_key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="the key file; it is made if there is none")
    parser.add_argument("name", metavar="NAME", help="whose key it is")
    parser.add_argument("--requests-per-minute", type=positive, metavar="N")
    parser.add_argument("--tokens-per-minute", type=positive, metavar="N", help="of prompts and answers together")
    parser.add_argument("--max-concurrency", type=positive, metavar="N", help="requests at once")
    parser.add_argument("--models", metavar="ID,...", help="the only ones that it may use")
    parser.add_argument("--admin", action="store_true", help="it may load and unload models")


def _add_models(parser: argparse.ArgumentParser) -> None:
    default = ROOT / "model_repository"
    parser.add_argument("--model-repository", type=Path, default=default, metavar="DIR", help="the entries to serve")
    group = parser.add_argument_group(
        "checkpoints", "given any, only these are served, by the entries of the repository"
    )
    many = {"action": "append", "default": []}
    group.add_argument("--model", **many, metavar="PATH_OR_HUB_ID", help="a chat model; repeatable")  # type: ignore[arg-type]
    group.add_argument("--served-model-name", **many, metavar="NAME", help="its id at the gateway; repeatable")  # type: ignore[arg-type]
    group.add_argument("--speech-model", metavar="PATH_OR_HUB_ID", help="a Whisper checkpoint")
    group.add_argument("--speech-served-model-name", metavar="NAME", help="its id at the gateway")
    add_engine_flags(parser)


def _build_repository(given: argparse.Namespace) -> int:
    from launcher.repository import render

    if given.out.exists() and (not given.out.is_dir() or any(given.out.iterdir())):
        raise LauncherError(f"{given.out} is not an empty folder; name a new one")
    render(given.model_repository, given.out, model_options(given))
    print(f"wrote {given.out}: {', '.join(sorted(path.name for path in given.out.iterdir()))}")
    return 0
