"""Upload to a local server that imitates a model hub."""

import base64
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from se_search import SEConfig, create_model, export_timm
from se_search.errors import ExportError
from se_search.export.hub import upload

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz0123"

EXPORT = """
import os, sys
from se_search import SEConfig, create_model, export_timm
from se_search.errors import ExportError
model = create_model(SEConfig.uniform("test_resnet", 8), num_classes=3)
for argument in sys.argv[1:]:
    repository, os.environ["HF_TOKEN"] = argument.split("=")
    try:
        print(export_timm(model, "exported", push_to_hub=repository).repository)
    except ExportError as error:
        print(f"Error: {error}")
"""


class Hub(ThreadingHTTPServer):
    """Records created repositories and commits; accepts one token."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.requests: list[str] = []
        self.repositories: dict[str, dict[str, bytes]] = {}

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.answer(None)

    def do_POST(self):
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer(body)

    def answer(self, body):
        hub, path = self.server, self.path.partition("?")[0]
        hub.requests.append(f"{self.command} {path}")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.send({"error": f"Invalid token {self.headers.get('Authorization')}"}, 401)
        if path == "/api/repos/create":
            wanted = json.loads(body)
            if wanted["name"] == "broken":
                self.close_connection = True  # the client waits for a response that never comes
                return None
            name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            hub.repositories.setdefault(name, {})
            return self.send({"url": f"{hub.url}/{name}", "id": name})
        if path == "/api/validate-yaml":
            return self.send({"errors": [], "warnings": []})
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(\w+)/main)?", path)
        if match is None or match[1] not in hub.repositories:
            return self.send({"error": "Not found"}, 404)
        if match[2] == "preupload":
            files = json.loads(body)["files"]
            modes = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]
            return self.send({"files": modes})
        if match[2] == "commit":
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    hub.repositories[match[1]][entry["value"]["path"]] = content
            return self.send({"commitUrl": f"{hub.url}/{match[1]}/commit/abc", "commitOid": "abc"})
        return self.send({"id": match[1], "sha": "0" * 40, "siblings": [], "private": False, "tags": []})

    def send(self, content, code=200):
        data = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def hub():
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def export_and_push(folder, endpoint, *pushes):
    """Export in a separate process, because the client reads its settings at import."""
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", EXPORT, *pushes]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=True)


def test_the_folder_is_uploaded_and_what_fails_is_told_in_one_sentence_without_the_token(tmp_path, hub):
    wrong = "hf_" + TOKEN[:2:-1]
    done = export_and_push(
        tmp_path, hub.url, f"me/network={wrong}", f"me/broken={TOKEN}", "me/network=", f"me/network={TOKEN}"
    )
    refused, broken, without, uploaded = done.stdout.splitlines()
    written = "Error: exported was written but not uploaded to me/"
    assert re.fullmatch(rf"{written}network: HfHubHTTPError: .*401.*", refused)
    assert re.fullmatch(rf"{written}broken: \w+: .+", broken)
    assert without == "Error: uploading to me/network requires a token: set HF_TOKEN or run `hf auth login`"
    assert uploaded == "me/network"

    (files,) = hub.repositories.values()
    here = {path.name: path.read_bytes() for path in (tmp_path / "exported").iterdir()}
    assert set(here) == {"config.json", "model.safetensors", "README.md"}
    assert files == here
    assert b'timm.create_model("hf-hub:me/network", pretrained=True)' in files["README.md"]

    told = done.stdout + done.stderr
    assert TOKEN not in told
    assert wrong not in told
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()


def test_an_address_at_which_nothing_answers_is_told_in_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        ExportError, match=r"^\S+ was written but not uploaded to me/network: Connect(ion)?Error: .+"
    ) as told:
        upload(tmp_path, "me/network", ["config.json"])
    assert TOKEN not in str(told.value)
    assert told.value.__cause__ is None


def test_without_a_token_nothing_is_written(monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ExportError, match="requires a token"):
        export_timm(create_model(SEConfig("test_resnet")), tmp_path / "exported", push_to_hub="me/network")
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize(
    "name", ["a/b/c", "network", "", "-x", "a b", "../x", "a..b", "https://me:hf_secret@hub/x", "name.git"]
)
def test_an_impossible_name_is_told_before_anything_is_written(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(ExportError, match="must be OWNER/NAME") as refused:
        export_timm(create_model(SEConfig("test_resnet")), tmp_path / "exported", push_to_hub=name)
    assert "secret" not in str(refused.value)
    assert not (tmp_path / "exported").exists()
