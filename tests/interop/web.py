"""The client's side: HTTP and WebSocket over loopback, from the standard library alone.

Every name is looked for on this machine, so that subdomains need no DNS; the Host header still says
the name. Nothing is followed and nothing is retried: the callers want to see each answer.
"""

import base64
import http.client
import json
import os
import socket
import struct
from dataclasses import dataclass
from urllib.parse import urlsplit

TIMEOUT = 25.0


@dataclass(frozen=True)
class Answer:
    """One response, read to its end."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self):
        return json.loads(self.body)

    def __str__(self):
        return f"{self.status} {self.body[:300].decode(errors='replace')}"


def fetch(method, url, headers=None, body=None, timeout=TIMEOUT):
    """Sends one request; `body` becomes JSON."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    sent = {"Host": parts.netloc, **(headers or {})}
    if body is not None:
        body = json.dumps(body).encode()
        sent["Content-Type"] = "application/json"
    connection = http.client.HTTPConnection("127.0.0.1", parts.port or 80, timeout=timeout)
    try:
        connection.request(method, target, body, sent)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


class WebSocket:
    """One open WebSocket that sends and receives whole text messages."""

    def __init__(self, url, headers=None):
        parts = urlsplit(url)
        self.socket = socket.create_connection(("127.0.0.1", parts.port), TIMEOUT)
        key = base64.b64encode(os.urandom(16)).decode()
        sent = {
            "Host": parts.netloc,
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": key,
            **(headers or {}),
        }
        lines = [f"GET {parts.path} HTTP/1.1", *(f"{k}: {v}" for k, v in sent.items()), "", ""]
        self.socket.sendall("\r\n".join(lines).encode())
        self.stream = self.socket.makefile("rb")
        status = self.stream.readline().split()[1:2]
        while self.stream.readline().strip():
            pass
        if status != [b"101"]:
            self.socket.close()
            raise ConnectionError(f"the WebSocket handshake was answered {status}")

    def _send(self, opcode, payload):
        """One masked frame; the payload stays below 126 bytes."""
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
        self.socket.sendall(bytes([0x80 | opcode, 0x80 | len(payload)]) + mask + masked)

    def _receive(self):
        first, length = self._exactly(2)
        if length == 126:
            (length,) = struct.unpack("!H", self._exactly(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self._exactly(8))
        return first & 0x0F, self._exactly(length)

    def _exactly(self, count):
        data = self.stream.read(count)
        if len(data) != count:
            raise ConnectionError("the WebSocket was cut")
        return data

    def echo(self, text):
        """Sends a text and returns the next one that comes back; answers pings meanwhile."""
        self._send(0x1, text.encode())
        while True:
            opcode, payload = self._receive()
            if opcode == 0x1:
                return payload.decode()
            if opcode == 0x8:
                raise ConnectionError(f"the WebSocket was closed: {payload!r}")
            if opcode == 0x9:
                self._send(0xA, payload)

    def close(self):
        """Closes with a handshake, waiting for the other side's close or end."""
        try:
            self._send(0x8, struct.pack("!H", 1000))
            while self._receive()[0] != 0x8:
                pass
        except OSError:
            pass
        finally:
            self.stream.close()
            self.socket.close()
