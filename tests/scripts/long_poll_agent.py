"""A whole agent in plain Python, written from docs/TUNNELS.md alone.

usage: long_poll_agent.py GATEWAY TOKEN AGENT TUNNEL LOCAL-HOST LOCAL-PORT
"""

import base64
import http.client
import json
import sys
import threading
import urllib.parse

gateway, token, agent, tunnel, host, port = sys.argv[1:7]
where = urllib.parse.urlsplit(gateway)


def call(method, path, body=None, patience=60):
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=patience)
    text = None if body is None else json.dumps(body)
    connection.request(method, path, text, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    data = json.loads(answer.read())
    connection.close()
    if answer.status != 200:
        sys.exit(f"{path}: {answer.status}: {data.get('msg')}")
    return data


def serve(session, request):
    answer = {"session_id": session, "request_id": request["request_id"]}
    try:
        local = http.client.HTTPConnection(host, int(port), timeout=30)
        local.putrequest(request["method"], request["path"], skip_host=True, skip_accept_encoding=True)
        body = base64.b64decode(request["body_base64"])
        for name, value in request["headers"]:
            if name != "content-length":
                local.putheader(name, value)
        local.putheader("content-length", str(len(body)))
        local.endheaders(body)
        response = local.getresponse()
        answer["status"] = response.status
        answer["headers"] = [[name, value] for name, value in response.getheaders()]
        answer["body_base64"] = base64.b64encode(response.read()).decode()
        local.close()
    except OSError as problem:
        answer["error"] = str(problem)
    call("POST", "/api/agent/respond", answer)


registered = call(
    "POST", "/api/agent/register", {"agent_id": agent, "token": token, "tunnels": [tunnel]}
)
session = registered["session_id"]
print("lending", registered["tunnels"][0]["path"], flush=True)
while True:
    pulled = call("GET", f"/api/agent/pull?session_id={session}&wait=10")
    for request in pulled["requests"]:
        threading.Thread(target=serve, args=(session, request), daemon=True).start()
