"""Run the page's server."""

import ipaddress
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from radrep.errors import RadrepError

_LOOPBACK = "127.0.0.1"
_HTTP = 80  # a port that browsers leave out


@dataclass(frozen=True)
class Place:
    """Where the page is, and the token that it asks for; None on this machine alone."""

    host: str
    port: int
    token: str | None

    @property
    def hosts(self) -> frozenset[str]:
        """The Host headers that are answered."""
        names = {f"[{self.host}]" if ":" in self.host else self.host}
        if self.token is None:
            names |= {"localhost", _LOOPBACK, "[::1]"}
        ports = (f":{self.port}", "") if self.port == _HTTP else (f":{self.port}",)
        return frozenset(f"{name}{port}".lower() for name in names for port in ports)

    @property
    def address(self) -> str:
        """What a browser opens."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/" + (f"?token={self.token}" if self.token else "")


def choose_place(host: str, port: int) -> Place:
    """Where to serve; a token is drawn for every host that is not this machine itself.

    Raises:
        RadrepError: If the host is a wildcard, which no Host header can be compared with.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return Place(host, port, None if host == "localhost" else secrets.token_urlsafe(24))
    if address.is_unspecified:
        raise RadrepError(f"--host {host} is every address; name the one that browsers open")
    return Place(host, port, None if address.is_loopback else secrets.token_urlsafe(24))


def check_server() -> None:
    """Raise RadrepError if Starlette or uvicorn is not installed."""
    import importlib.util

    for name in ("starlette", "uvicorn"):
        if importlib.util.find_spec(name) is None:
            raise RadrepError(
                f"{name} is not installed. Install it with: pip install 'radrep[serve]'"
            )


def serve(app: object, place: Place, ready: Callable[[], None]) -> None:
    """Serve until Ctrl-C; `ready` is called once the port is taken."""
    import socket

    import uvicorn

    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((place.host, place.port))
            listening.listen()  # a browser may come before the server is up
        except OSError as error:
            raise RadrepError(
                f"{place.host}:{place.port} cannot be served: {error.strerror}; name another --port"
            ) from error
        config = uvicorn.Config(
            app,  # type: ignore[arg-type]
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=16,
            timeout_keep_alive=5,
        )
        ready()
        uvicorn.Server(config).run(sockets=[listening])
