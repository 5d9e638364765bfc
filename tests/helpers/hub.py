"""A stand-in of the Hugging Face Hub on this machine: tests use the real huggingface_hub against it, without a network.

It answers what the client asks to make a repository, to upload, list and download, and it refuses as the Hub does. What it does not
know it refuses with 501, so that no test passes on a guess.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote

import pytest
import yaml
from huggingface_hub import constants, hf_api
from huggingface_hub.utils import _cache_manager, _http

LFS = (".flac", ".mp3", ".parquet", ".safetensors", ".wav")  # these are uploaded one by one, and so is what is larger than LARGE
LARGE = 10 * 2**20
ROLES = {"hf_writer": "write", "hf_reader": "read"}  # the tokens; who sends none has the role ""
USER = "user"  # whose tokens they are

Answer = tuple[int, Any, dict[str, str]]  # status, what to send as JSON or bytes, headers


class Refused(Exception):
    """An error answer. The client chooses its exception by the code more than by the status."""

    def __init__(self, status: int, message: str, code: str = "", body: dict | None = None, headers: dict | None = None):
        named = {"X-Error-Message": message.encode("ascii", "replace").decode()} | ({"X-Error-Code": code} if code else {})
        self.answer: Answer = (status, {"error": message} | (body or {}), named | (headers or {}))


def is_large(path: str, size: int) -> bool:
    return size > 0 and (path.endswith(LFS) or size > LARGE)


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def described(path: str, data: bytes) -> dict[str, Any]:
    """A file as the Hub lists it: git holds a pointer to a large file, and the client expects the hashes of both."""
    if not is_large(path, len(data)):
        return {"type": "file", "path": path, "size": len(data), "oid": git_hash(data)}
    sha = hashlib.sha256(data).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha}\nsize {len(data)}\n".encode()
    lfs = {"oid": sha, "sha256": sha, "size": len(data), "pointerSize": len(pointer)}
    return {"type": "file", "path": path, "size": len(data), "oid": git_hash(pointer), "lfs": lfs}


def metadata(card: str) -> Any:
    """What stands between the --- lines at the top of a model card; None if there are none."""
    top = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", card, re.DOTALL)
    return yaml.safe_load(top[1]) if top else None


@dataclass
class Repo:
    id: str
    private: bool
    gated: str | bool = False  # a test sets it to "auto"
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)  # all files at each revision, by its sha
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def sha(self, revision: str) -> str:
        if sha := self.branches.get(revision) or self.tags.get(revision) or (revision if revision in self.commits else None):
            return sha
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        state = [self.id, len(self.commits), {path: git_hash(data) for path, data in files.items()}]
        sha = hashlib.sha1(json.dumps(state).encode()).hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        return sha

    def info(self, revision: str, blobs: bool) -> dict[str, Any]:
        sha = self.sha(revision)
        entries = [described(path, data) for path, data in sorted(self.commits[sha].items())]
        siblings = [{"rfilename": each["path"]} | ({**each, "blobId": each["oid"]} if blobs else {}) for each in entries]
        card = metadata(self.commits[sha].get("README.md", b"").decode())
        named = {"id": self.id, "author": self.id.split("/")[0], "sha": sha, "private": self.private, "gated": self.gated}
        return named | {"siblings": siblings, "cardData": card, "tags": []}


class Hub:
    """with Hub() as hub: it listens at hub.url, hub.requests logs (method, path), hub.stop() takes it down earlier."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.repos: dict[str, Repo] = {}
        self.large: dict[str, bytes] = {}  # uploaded, by sha256: in a repository only once a commit names it
        self.lock = threading.RLock()

    def __enter__(self) -> Self:
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.hub = self
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """From now on connections are refused."""
        self.server.shutdown()
        self.server.server_close()

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """What a repository holds. As on the Hub, that begins with .gitattributes."""
        with self.lock:
            repo = self.repos[repo_id]
            return dict(repo.commits[repo.sha(revision)])

    def answer(self, method: str, target: str, token: str, body: bytes) -> Answer:
        path, _, query = target.partition("?")
        with self.lock:
            self.requests.append((method, path))
            if token and token not in ROLES:
                raise Refused(401, "Invalid credentials in Authorization header")
            role = ROLES.get(token, "")
            match [method, *map(unquote, path.strip("/").split("/"))]:
                case ["PUT", "lfs", oid]:  # without a token, as the client sends it to the Hub's storage
                    if hashlib.sha256(body).hexdigest() != oid:
                        raise Refused(400, "The content does not have the announced sha256")
                    self.large[oid] = body
                    return 200, {}, {}
                case ["GET", "api", "whoami-v2"]:
                    if not role:
                        raise Refused(401, "Invalid username or password.")
                    return 200, {"type": "user", "name": USER, "orgs": [], "auth": {"accessToken": {"role": role}}}, {}
                case ["POST", "api", "validate-yaml"]:
                    return self.validate(json.loads(body)["content"])
                case ["POST", "api", "repos", "create"]:
                    return self.create(json.loads(body), role)
                case ["GET", "api", "models", user, name, *rest]:
                    return 200, self.listed(self.repo(f"{user}/{name}", role), rest, parse_qs(query)), {}
                case ["POST", "api", "models", user, name, what, at] if "create_pr" not in query:
                    return 200, self.write(self.repo(f"{user}/{name}", role, write=True), what, at, body), {}
                case ["POST", user, name, "info", "lfs", "objects", "batch"]:
                    self.repo(f"{user}/{name.removesuffix('.git')}", role, write=True)
                    return 200, {"transfer": "basic", "objects": [self.wanted(each) for each in json.loads(body)["objects"]]}, {}
                case ["GET" | "HEAD", user, name, "resolve", revision, *file]:
                    return self.resolve(self.repo(f"{user}/{name}", role), revision, "/".join(file), role)
        raise Refused(501, f"The stand-in knows no {method} {target}")

    def repo(self, repo_id: str, role: str, write: bool = False) -> Repo:
        """The repository, if the role may do this. A stranger is not told whether it is missing or private."""
        repo = self.repos.get(repo_id)
        if repo and (role == "write" or not (write or repo.private)):
            return repo
        if not role:
            raise Refused(401, "Invalid username or password.", "RepoNotFound")
        if repo and not repo.private:
            raise Refused(403, f"You don't have the rights to write to {repo_id}")
        raise Refused(404, "Repository not found", "RepoNotFound")

    def validate(self, card: str) -> Answer:
        """The client asks before it uploads a model card."""
        try:
            found = metadata(card)
        except yaml.YAMLError as error:
            raise Refused(400, "Invalid YAML", body={"errors": [{"message": str(error)}]}) from error
        return 200, {"errors": [], "warnings": [] if found else [{"message": "empty or missing yaml metadata in repo card"}]}, {}

    def create(self, asked: dict[str, Any], role: str) -> Answer:
        repo_id, kind = f"{asked.get('organization') or USER}/{asked['name']}", asked.get("type", "model")
        if kind != "model":
            raise Refused(501, f"The stand-in knows no {kind} repositories")
        if role != "write":
            raise Refused(403 if role else 401, f"You don't have the rights to create {repo_id}")
        url = {"url": f"{self.url}/{repo_id}"}
        if repo_id in self.repos:
            raise Refused(409, "You already created this model repo", body=url)
        self.repos[repo_id] = Repo(repo_id, private=asked.get("visibility") == "private")
        rules = "".join(f"*{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in LFS)
        self.repos[repo_id].commit("main", {".gitattributes": rules.encode()})
        return 200, url, {}

    def listed(self, repo: Repo, rest: list[str], asked: dict[str, list[str]]) -> Any:
        """What the client wants to know of a repository before it downloads."""
        match rest:
            case [] | ["revision", _]:
                return repo.info(rest[1] if rest else "main", blobs="blobs" in asked)
            case ["tree", revision] if asked.get("recursive") == ["true"]:
                return [described(path, data) for path, data in sorted(repo.commits[repo.sha(revision)].items())]
        raise Refused(501, f"The stand-in knows no {'/'.join(rest)} of a repository")

    def write(self, repo: Repo, what: str, at: str, body: bytes) -> dict[str, Any]:
        """Make a branch or tag, or take an upload to a branch: preupload asks how, commit does it."""
        if what in ("branch", "tag"):
            asked = json.loads(body)
            name, start = (at, asked.get("startingPoint", "main")) if what == "branch" else (asked["tag"], at)
            refs = repo.branches if what == "branch" else repo.tags
            if name in refs:
                raise Refused(409, f"Reference {name} exists already")
            refs[name] = repo.sha(start)
            return {}
        if at not in repo.branches:
            raise Refused(404, f"Invalid rev id: {at}", "RevisionNotFound")
        if what == "preupload":
            return {"files": [self.way(repo.commits[repo.branches[at]], each) for each in json.loads(body)["files"]]}
        if what == "commit":
            sha = repo.commit(at, self.changed(repo.commits[repo.branches[at]], repo.branches[at], body))
            return {"success": True, "commitOid": sha, "commitUrl": f"{self.url}/{repo.id}/commit/{sha}"}
        raise Refused(501, f"The stand-in knows no {what} of a repository")

    def way(self, files: dict[str, bytes], asked: dict[str, Any]) -> dict[str, Any]:
        """How a file is to be sent, and the hash of what is there: the client leaves out what did not change."""
        path, mode = asked["path"], "lfs" if is_large(asked["path"], asked["size"]) else "regular"
        there = described(path, files[path]) if path in files else {}
        return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": there.get("lfs", there).get("oid")}

    def wanted(self, large: dict[str, Any]) -> dict[str, Any]:
        """Where to send a large file, unless it is there."""
        oid = large["oid"]
        return large | ({} if oid in self.large else {"actions": {"upload": {"href": f"{self.url}/lfs/{oid}"}}})

    def changed(self, files: dict[str, bytes], head: str, body: bytes) -> dict[str, bytes]:
        """The files after a commit, which comes as a line for its header and one for each file."""
        files = dict(files)
        for key, value in ((line["key"], line["value"]) for line in map(json.loads, body.splitlines())):
            if key == "header":
                if value.get("parentCommit", head) != head:
                    raise Refused(412, "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in self.large:
                    raise Refused(400, f"The content of {value['path']} was not uploaded")
                files[value["path"]] = self.large[value["oid"]]
            elif key != "deletedFile":
                raise Refused(501, f"The stand-in knows no {key} in a commit")
            elif files.pop(value["path"], None) is None:
                raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
        return files

    def resolve(self, repo: Repo, revision: str, path: str, role: str) -> Answer:
        """A file. The Hub redirects to its storage for a large one; here it comes at once, with the headers that the client reads."""
        if repo.gated and role != "write":
            raise Refused(403 if role else 401, f"Access to model {repo.id} is restricted", "GatedRepo")
        sha = repo.sha(revision)
        if path not in repo.commits[sha]:
            raise Refused(404, "Entry not found", "EntryNotFound", headers={"X-Repo-Commit": sha})
        data = repo.commits[sha][path]
        entry = described(path, data)
        tag = f'"{entry.get("lfs", entry)["oid"]}"'
        linked = {"X-Linked-Etag": tag, "X-Linked-Size": str(len(data))} if "lfs" in entry else {}
        return 200, data, {"ETag": tag, "X-Repo-Commit": sha, "Accept-Ranges": "bytes"} | linked


class Server(ThreadingHTTPServer):
    request_queue_size = 64  # the client connects from many threads at once
    hub: Hub


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.0, a connection for each request: a hub that was stopped is then unreachable at once."""

    server: Server

    def handle_request(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        try:
            status, content, headers = self.server.hub.answer(self.command, self.path, token, body)
        except Refused as refused:
            status, content, headers = refused.answer
        except Exception as error:  # an error of the stand-in: the client is to show it rather than to try again
            status, content, headers = 501, {"error": f"The stand-in failed: {error!r}"}, {}
        data = content if isinstance(content, bytes) else json.dumps(content, default=str).encode()  # a card may hold dates
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if part and status == 200:  # a download that goes on where it was cut off
            start, end, size = int(part[1]), int(part[2] or len(data) - 1), len(data)
            status, data, headers = 206, data[start : end + 1], headers | {"Content-Range": f"bytes {start}-{end}/{size}"}
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        for name, value in (headers | {"Content-Type": kind, "Content-Length": str(len(data))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request

    def log_message(self, *_: object) -> None:
        """Nothing: hub.requests is the log."""


def point_to(monkeypatch: pytest.MonkeyPatch, hub: Hub, cache_folder: Path) -> None:
    """Send huggingface_hub in this process, and in those it starts, to the stand-in, with an empty cache and nobody logged in.

    The client reads its environment when it is imported, so both the variables and what it made of them are set. A test logs in
    with monkeypatch.setenv("HF_TOKEN", "hf_writer"), and goes offline with monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True).
    """
    tokens = cache_folder / "no-token"  # instead of those of whoever runs the tests
    settings: dict[str, Any] = {
        "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(cache_folder), "HF_TOKEN_PATH": str(tokens), "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": False, "HF_HUB_DISABLE_TELEMETRY": True, "HF_HUB_DISABLE_XET": True,
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
        monkeypatch.setattr(constants, "ENDPOINT" if name == "HF_ENDPOINT" else name, value)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(tokens) + "s")
    monkeypatch.setattr(_cache_manager, "HF_HUB_CACHE", str(cache_folder))
    monkeypatch.setattr(hf_api.api, "endpoint", hub.url)  # that of the functions, as huggingface_hub.upload_folder
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr(_http, "_GLOBAL_CLIENT", None)  # the next one reads no_proxy
    for name in ("base_wait_time", "max_wait_time"):  # who waits 23 s for a stopped hub tests nothing more
        monkeypatch.setitem(_http.http_backoff.__kwdefaults__, name, 0.01)
