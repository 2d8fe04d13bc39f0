"""WebSocket /v1/realtime: transcription sessions with OpenAI's events."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import orjson
from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from gateway.deps import Services
from gateway.errors import GatewayError, InternalFault, InvalidRequest
from gateway.realtime.session import RealtimeSession

log = logging.getLogger("trimodal.gateway")

router = APIRouter()

# OpenAI ends a session after an hour as well.
MAX_SESSION_S = 3600.0
_TRY_AGAIN_LATER, _INTERNAL, _GOING_AWAY = 1013, 1011, 1001


@router.websocket("/v1/realtime")
async def realtime(socket: WebSocket) -> None:
    services: Services = socket.app.state.services
    # The official client offers `realtime`, and expects one of its offers back.
    offers = socket.scope.get("subprotocols") or []
    await socket.accept(subprotocol="realtime" if "realtime" in offers else None)
    session = RealtimeSession(services, lambda event: _send(socket, event), socket.query_params.get("model"))
    try:
        with services.admission.acquire():
            await asyncio.wait_for(_converse(socket, session), MAX_SESSION_S)
    except WebSocketDisconnect:
        services.metrics.count_gone()
    except asyncio.TimeoutError:
        await _end(
            socket, session, InvalidRequest("The session has lasted its hour.", code="session_expired"), _GOING_AWAY
        )
    except GatewayError as error:
        await _end(socket, session, error, _TRY_AGAIN_LATER)
    except Exception:  # a fault of ours: logged here, and told with a fixed text
        log.exception("internal fault in a realtime session")
        await _end(socket, session, InternalFault(), _INTERNAL)


async def _converse(socket: WebSocket, session: RealtimeSession) -> None:
    """Until the client leaves (WebSocketDisconnect), or one of the two tasks fails."""
    await session.open()
    tasks = [asyncio.ensure_future(_listen(socket, session)), asyncio.ensure_future(session.work())]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _listen(socket: WebSocket, session: RealtimeSession) -> None:
    while True:
        text = await socket.receive_text()
        try:
            event = orjson.loads(text)
        except orjson.JSONDecodeError:
            await session.say_error(InvalidRequest("The event is not valid JSON.", code="invalid_json"))
            continue
        await session.take(event)


async def _send(socket: WebSocket, event: dict[str, Any]) -> None:
    await socket.send_text(orjson.dumps(event).decode())


async def _end(socket: WebSocket, session: RealtimeSession, error: GatewayError, code: int) -> None:
    try:
        await session.say_error(error)
        await socket.close(code)
    except (WebSocketDisconnect, RuntimeError):
        # The client left first; Starlette says so in either way.
        pass
