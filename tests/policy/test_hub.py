"""To the Hub and back, over a real connection: a small server on this machine speaks the endpoints that are needed."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from gato.episodes.manifest import render_manifest
from gato.errors import UsageError
from gato.model import Gato, GatoConfig
from gato.model.bundle import Bundle, TaskCard
from gato.policy import Agent, load
from gato.policy.card import model_card
from gato.policy.hub import split_address
from gato.rollouts import ExpertPolicy, LocalSlot, Unit, rollout
from gato.worlds import find

TASK, TOKEN = "dummy/count", "hf_" + "a" * 34


class Hub(ThreadingHTTPServer):
    """Repositories as {name: [{path: bytes}, …]}, a commit after the other, and what was asked."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, list[dict[str, bytes]]] = {}
        self.private: dict[str, bool] = {}
        self.stored: dict[str, bytes] = {}  # large files by their SHA-256
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit_id(self, name, index):
        return hashlib.sha1(f"{name} {index}".encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def may(self, name):
        """Private repositories are there for those with the token alone; nothing is written without it."""
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        reads = self.command in ("GET", "HEAD")
        if not known and (not reads or self.server.private.get(name, True)):
            code = {"X-Error-Code": "RepoNotFound"} if reads else {}
            self.answer(404 if reads else 401, {"error": "no"}, **{k.replace("-", "_"): v for k, v in code.items()})
            return False
        return True

    def do_POST(self):
        server, body = self.server, self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server.asked.append(f"POST {self.path}")
        if self.path == "/api/repos/create":
            said = json.loads(body)
            name = "/".join(filter(None, (said.get("organization"), said["name"])))
            if not self.may(name):
                return None
            server.private.setdefault(name, said.get("visibility") == "private" or bool(said.get("private")))
            server.repositories.setdefault(name, [{}])
            return self.answer(200, {"url": f"{server.url}/{name}", "name": name, "id": name})
        if self.path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", self.path.split("?")[0]):
            name, verb = found.groups()
            if not self.may(name):
                return None
            if verb == "preupload":
                files = [
                    {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular", "shouldIgnore": False}
                    for f in json.loads(body)["files"]
                ]  # fmt: skip
                return self.answer(200, {"files": files})
            now = dict(server.repositories[name][-1])
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    now[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    now[value["path"]] = server.stored[value["oid"]]
                elif line["key"] == "deletedFile":
                    del now[value["path"]]
            server.repositories[name].append(now)
            commit = server.commit_id(name, len(server.repositories[name]) - 1)
            url = f"{server.url}/{name}/commit/{commit}"
            return self.answer(200, {"success": True, "commitUrl": url, "commitOid": commit, "hookOutput": ""})
        if found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.path):
            if not self.may(found[1]):
                return None
            objects = [
                {**wanted, "actions": {"upload": {"href": f"{server.url}/store/{wanted['oid']}"}}}
                for wanted in json.loads(body)["objects"]
            ]
            return self.answer(200, {"transfer": "basic", "objects": objects})
        return self.answer(404, {"error": self.path})

    def do_PUT(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append("PUT /store")
        self.server.stored[hashlib.sha256(data).hexdigest()] = data
        self.answer(200)

    def do_GET(self):
        server, path = self.server, self.path.split("?")[0]
        server.asked.append(f"{self.command} {path}")
        for pattern in (
            r"/api/models/(?P<name>[^/]+/[^/]+)(/revision/(?P<revision>[^/]+))?",
            r"/api/models/(?P<name>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)",
            r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)",
        ):
            if found := re.fullmatch(pattern, path):
                break
        else:
            return self.answer(404, {"error": path})
        name, revision, file = found["name"], found["revision"] or "main", found.groupdict().get("file")
        if name not in server.repositories:
            return self.answer(404, {"error": "no"}, X_Error_Code="RepoNotFound")
        if not self.may(name):
            return None
        commits = {server.commit_id(name, i): i for i in range(len(server.repositories[name]))}
        index = len(commits) - 1 if revision == "main" else commits.get(revision)
        if index is None:
            return self.answer(404, {"error": "no"}, X_Error_Code="RevisionNotFound")
        files, commit = server.repositories[name][index], server.commit_id(name, index)
        if "/tree/" in path:
            listed = [
                {"type": "file", "path": p, "size": len(d), "oid": hashlib.sha1(d).hexdigest()}
                for p, d in files.items()
            ]
            return self.answer(200, listed)
        if file is None:
            siblings = [{"rfilename": p} for p in files]
            return self.answer(
                200,
                {
                    "id": name,
                    "modelId": name,
                    "sha": commit,
                    "siblings": siblings,
                    "private": server.private[name],
                    "tags": [],
                },
            )
        if file not in files:
            return self.answer(404, {"error": "no"}, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        etag = hashlib.sha256(files[file]).hexdigest()
        return self.answer(200, files[file], ETag=f'"{etag}"', X_Repo_Commit=commit)

    do_HEAD = do_GET


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, tokenizer):
    torch.manual_seed(0)
    config = GatoConfig.tiny().replace(
        layer_width=64, num_attention_heads=2, feedforward_hidden_size=128, num_transformer_blocks=1,
        vocabulary_size=tokenizer.size, token_sequence_length=256,
    )  # fmt: skip
    task = find(TASK)
    [prompt] = rollout([Unit(TASK, 0)], [LocalSlot()], ExpertPolicy())
    facts = {"recipe": {"name": "tiny"}, "steps": 1234, "tokens": 5678910, "seconds": 9.5}
    ways = {"discrete": "greedy", "continuous": "mean", "temperature": 1.0}
    made = Bundle(config, Gato(config).eval(), tokenizer, {TASK: TaskCard(task.spec, None, prompt)}, ways, facts)
    return made.save(tmp_path_factory.mktemp("bundle") / "bundle")


@pytest.fixture
def hub():
    server = Hub()
    yield server
    server.shutdown()
    server.server_close()


SCRIPT = """
import json, os, shutil, sys
import gato
from gato.errors import GatoError
for line in sys.stdin:
    (verb, *words), token, clear = json.loads(line)
    os.environ.pop("HF_TOKEN", None)
    if token:
        os.environ["HF_TOKEN"] = token
    if clear:
        shutil.rmtree(os.path.join(os.environ["HF_HOME"], "hub"), ignore_errors=True)
    try:
        if verb == "push":
            said = {"address": gato.load(words[0]).push_to_hub(words[1], private=words[2:] != ["public"])}
        else:
            agent = gato.load(words[0])
            said = {"sum": [float(p.detach().double().sum()) for p in agent.bundle.model.parameters()], "tasks": agent.tasks}
    except GatoError as error:
        said = {"code": error.code, "what": error.what, "fix": error.fix}
    print("said " + json.dumps(said), flush=True)
"""


class Client:
    """A process of its own, since the library reads its settings once."""

    def __init__(self, url, home, **more):
        env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | {
            "HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **more,
        }  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=env,
            text=True,
        )

    def __call__(self, *words, token="", clear=False):
        self._process.stdin.write(json.dumps([[str(w) for w in words], token, clear]) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("said "):
                return json.loads(line[5:])
        raise AssertionError(f"the client ended with {self._process.wait()}")

    def end(self):
        self._process.stdin.close()
        self._process.wait(30)


@pytest.fixture
def client(hub, tmp_path):
    made = Client(hub.url, tmp_path / "home")
    yield made
    made.end()


@pytest.mark.slow
def test_there_and_back(hub, client, bundle, tmp_path):
    first = client("push", bundle, "lab/agent", token=TOKEN)["address"]
    assert re.fullmatch(r"hf://lab/agent@[0-9a-f]{40}", first) and hub.private == {"lab/agent": True}
    [_, held] = hub.repositories["lab/agent"]
    assert set(held) == {str(f.relative_to(bundle)) for f in bundle.rglob("*") if f.is_file()} | {"README.md"}
    assert all(
        held[name] == (bundle / name).read_bytes() for name in ("model.safetensors", "tokenizer.model", "config.json")
    )
    assert "PUT /store" in hub.asked and b"| training steps | 1,234 |" in held["README.md"]

    expected = [float(p.detach().double().sum()) for p in load(bundle).bundle.model.parameters()]
    for address in (first, "hf://lab/agent"):
        assert client("load", address, token=TOKEN, clear=True) == {"sum": expected, "tasks": [TASK]}
    offline = Client(hub.url, tmp_path / "home", HF_HUB_OFFLINE="1")
    assert offline("load", "hf://lab/agent")["sum"] == expected  # from the cache alone
    assert offline("load", "hf://lab/agent", clear=True)["code"] == "resources"
    offline.end()
    # Private, and unknown names and revisions.
    assert client("load", "hf://lab/agent")["code"] == "checkpoint-missing"
    assert client("load", "hf://lab/nobody", token=TOKEN)["code"] == "checkpoint-missing"
    missing = client("load", "hf://lab/agent@v9", token=TOKEN)
    assert missing["code"] == "checkpoint-missing" and "revision" in missing["what"]
    refused = client("push", bundle, "lab/agent")
    assert refused["code"] in ("usage", "checkpoint-missing") and "HF_TOKEN" in refused["fix"]
    assert client("load", "hf://agent")["code"] == "usage"
    hub.shutdown()
    hub.server_close()
    late = Client(hub.url, tmp_path / "elsewhere")  # the other may have a connection that is still open
    assert late("load", "hf://lab/agent", token=TOKEN)["code"] == "resources"
    late.end()


def test_what_comes_down_is_checked_and_is_what_the_manifest_lists(hub, client, bundle):
    client("push", bundle, "lab/agent", "public", token=TOKEN)
    held = hub.repositories["lab/agent"][-1]
    assert hub.private == {"lab/agent": False}
    held |= {"pytorch_model.bin": b"a pickle", "evil.py": b"raise SystemExit"}
    hub.asked.clear()
    assert client("load", "hf://lab/agent")["tasks"] == [TASK]
    assert not [line for line in hub.asked if "pytorch_model" in line or "evil" in line or "README" in line]
    weights = bytearray(held["model.safetensors"])
    weights[-1] ^= 1
    held["model.safetensors"] = bytes(weights)
    spoilt = client("load", "hf://lab/agent", clear=True)
    assert spoilt["code"] == "checkpoint-corrupt" and "SHA-256" in spoilt["what"]
    for name in ("../escape.json", "model.pkl", "/etc/passwd.json"):
        held["MANIFEST.json"] = render_manifest("bundle", {name: {"bytes": 1, "sha256": "0"}}, {})
        said = client("load", "hf://lab/agent", clear=True)
        assert said["code"] == "checkpoint-corrupt" and name in said["what"]
    del held["MANIFEST.json"]
    assert "not a bundle" in client("load", "hf://lab/agent", clear=True)["what"]


def test_addresses_and_the_card(bundle):
    assert split_address("hf://lab/agent@v1.0") == ("lab/agent", "v1.0") and split_address("hf://lab/agent") == (
        "lab/agent",
        None,
    )
    for wrong in ("hf://agent", "hf://a/b/c", "hf://../x/y", "hf://"):
        with pytest.raises(UsageError, match="no place on the Hub"):
            split_address(wrong)
    agent = load(bundle)
    assert isinstance(agent, Agent)
    card = model_card(agent.bundle, "lab/agent", address="hf://lab/agent")
    for said in (
        'gato.load("hf://lab/agent")',
        f"{agent.bundle.model.num_parameters:,}",
        TASK,
        "5,678,910",
        "stick: continuous 2",
    ):
        assert said in card, said
    with pytest.raises(UsageError):
        agent.push_to_hub("nowhere")
