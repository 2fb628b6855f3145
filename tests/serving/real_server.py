"""A real server on a port of its own, and how to ask it."""

import contextlib
import http.client
import json
import threading
import time

TASK = "dummy/count"


@contextlib.contextmanager
def running(agent, limits=None, token=None):
    """A server in a thread; its port."""
    import uvicorn

    from gato.serving.app import create_app
    from gato.serving.run import _listen

    listening = _listen("127.0.0.1", 0)
    config = uvicorn.Config(create_app(agent, limits, token), log_level="error", ws_max_size=1 << 20)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()
        assert not thread.is_alive()


def ask(port, method, path, body=None, **headers):
    """(status, headers, value) of one request; `body` is bytes, or becomes JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    headers = {k.replace("_", "-"): v for k, v in headers.items()}
    if body is not None:
        headers.setdefault("content-type", "application/json")
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    is_json = (answer.headers.get("content-type") or "").startswith("application/json")
    return answer.status, answer.headers, json.loads(content) if is_json else content
