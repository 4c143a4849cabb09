"""A hub of one's own: a real HTTP server that answers what huggingface_hub asks, from repositories in folders.

Only what `list_repo_tree`, `repo_info` and `hf_hub_download` call: pages of a tree, a commit, HEAD and GET of a file,
with ranges; large files are redirected to another host as the hub does. It can drop a connection half way, damage a
file, refuse, and claim a size.
"""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.mirror.hub_layout import etag

_PAGE = 3
_TREE = re.compile(r"^/api/(dataset|model)s/([^/]+/[^/]+)/tree/([^/]+)$")
_INFO = re.compile(r"^/api/(dataset|model)s/([^/]+/[^/]+)(?:/revision/([^/]+))?$")
_FILE = re.compile(r"^/(datasets/|storage/dataset/|storage/model/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)$")


@dataclass
class Served:
    """A repository that the server offers.

    Attributes:
        folder: Its files.
        commit: The only commit that it has; `main` is that commit too.
        gated: Nobody may read it.
        sizes: File -> the size that its listing claims.
        drops: File -> how many times its transfer still ends half way.
        damaged: Files that come with one byte changed.
        lost: Files whose transfer ends before it begins, every time.
    """

    folder: Path
    commit: str
    gated: bool = False
    sizes: dict[str, int] = field(default_factory=dict)
    drops: dict[str, int] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)

    def files(self) -> list[str]:
        """Return its files, without what a download noted beside them."""
        found = [path.relative_to(self.folder) for path in sorted(self.folder.rglob("*")) if path.is_file()]
        return [path.as_posix() for path in found if path.parts[0] != ".cache"]


class Hub:
    """The server, on a free port of this machine, until `close`.

    Attributes:
        served: (kind, name) -> repository.
        sent: `NAME/FILE` of every file that was asked for by GET, as often as it was.
        ranges: The same of those that were asked for from the middle.
        asked: Every path that was asked for.
    """

    def __init__(self) -> None:
        self.served: dict[tuple[str, str], Served] = {}
        self.sent: list[str] = []
        self.ranges: list[str] = []
        self.asked: list[str] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        """What HF_ENDPOINT is set to."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def storage(self) -> str:
        """Where large files are redirected to: the same machine by another name."""
        return f"http://localhost:{self._server.server_port}/storage"

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self) -> None:
        path, query = unquote(urlsplit(self.path).path), parse_qs(urlsplit(self.path).query)
        self.hub.asked.append(path)
        tree, info, file = _TREE.match(path), _INFO.match(path), _FILE.match(path)
        if tree and (one := self._found(tree[1], tree[2], tree[3])):
            self._tree(one, f"{self.hub.endpoint}{path}", int(query.get("cursor", ["0"])[0]))
        elif info and (one := self._found(info[1], info[2], info[3])):
            self._json({"id": info[2], "sha": one.commit, "siblings": [], "tags": []})
        elif file and (one := self._found("dataset" if "dataset" in (file[1] or "") else "model", file[2], file[3])):
            self._file(one, file[2], file[4], stored="storage" in (file[1] or ""))

    def _found(self, kind: str, name: str, revision: str | None) -> Served | None:
        one = self.hub.served.get((kind, name))
        if one is None:
            self._refuse(401, "", "Invalid username or password.")
        elif one.gated:
            self._refuse(403, "GatedRepo", f"Access to {kind} {name} is restricted.")
        elif revision not in {None, "main", one.commit}:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return one
        return None

    def _refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        self._send(status, b"", headers)

    def _json(self, value: Any, headers: dict[str, str] | None = None) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _tree(self, one: Served, url: str, start: int) -> None:
        names = one.files()
        entries = []
        for name in names[start : start + _PAGE]:
            digest, size = etag(one.folder / name), one.sizes.get(name, (one.folder / name).stat().st_size)
            entry: dict[str, Any] = {"type": "file", "path": name, "size": size, "oid": digest}
            if _large(digest):
                entry |= {"oid": "0" * 40, "lfs": {"oid": digest, "size": size, "pointerSize": 130}}
            entries.append(entry)
        more = start + _PAGE < len(names)
        self._json(entries, {"Link": f'<{url}?recursive=True&cursor={start + _PAGE}>; rel="next"'} if more else None)

    def _file(self, one: Served, name: str, file: str, *, stored: bool) -> None:
        path = one.folder / file
        if not path.is_file():
            self._refuse(404, "EntryNotFound", "Entry not found")
            return
        digest, content = etag(path), path.read_bytes()
        headers = {"ETag": f'"{digest}"', "X-Repo-Commit": one.commit, "Accept-Ranges": "bytes"}
        if _large(digest) and not stored:
            kind = "dataset" if self.path.startswith("/datasets/") else "model"
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
            headers["Location"] = f"{self.hub.storage}/{kind}/{name}/resolve/{one.commit}/{file}"
            self._send(302, b"", headers)
            return
        if file in one.lost:
            self.close_connection = True
            return
        if file in one.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        if self.command == "GET":
            self.hub.sent.append(f"{name}/{file}")
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        if start:
            self.hub.ranges.append(f"{name}/{file}")
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(206 if start else 200, content[start:], headers, half=self._drops(one, file))

    def _drops(self, one: Served, file: str) -> bool:
        if self.command != "GET" or not one.drops.get(file):
            return False
        one.drops[file] -= 1
        return True

    def _send(self, status: int, content: bytes, headers: dict[str, str], *, half: bool = False) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[: len(content) // 2] if half else content)
        if half:
            self.close_connection = True


def _large(digest: str) -> bool:
    return len(digest) == 64
