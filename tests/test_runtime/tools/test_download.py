"""Downloads from servers that are slow, cut off, lie, redirect and send pages: the right file or none, and a sentence that says why."""

from __future__ import annotations

import hashlib
import io
import json
import re
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sdic_runtime.cli.app import main
from sdic_runtime.errors import ArgumentError, FileError, MissingExtraError, SdicError
from sdic_runtime.tools import download, public_files
from sdic_runtime.tools.download import DownloadOptions, Fetched, agree, fetch, need_consent, places_of_environment
from sdic_runtime.tools.public_files import PUBLIC_FILES, PublicFile, address_of, wanted, where
from sdic_runtime.tools.resume import Patience

HURRIED = Patience(connect=2, read=0.3, slowest=1, window=60, goes=3, pause=0.01)
HTML = b"<!DOCTYPE html><html><body>Google Drive - Quota exceeded</body></html>"


def weights(size: int = 3000, seed: int = 7) -> bytes:
    """What torch.save writes, as far as a reader of names can see."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + bytes((seed * index) % 251 for index in range(size)))
    return stream.getvalue()


WEIGHTS = weights()
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()


@dataclass
class Server:
    """A server on the loopback whose answer to a request is the function `answer`."""

    answer: Callable[[Server, BaseHTTPRequestHandler], None]
    asked: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    def body(
        self, handler: BaseHTTPRequestHandler, content: bytes, length: int | None = None, send: int | None = None, **headers: str
    ) -> None:
        """Answer `content`, or the part that was asked for; announce `length` bytes and send the first `send`."""
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        if asked and start >= len(content):
            handler.send_response(416)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        handler.send_response(206 if asked else 200)
        if asked:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{length or len(content)}")
        part = content[start:]
        handler.send_header("Content-Length", str((length or len(content)) - start))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(part[:send])
        handler.wfile.flush()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    started = []

    def start(answer: Callable[[Server, BaseHTTPRequestHandler], None]) -> Server:
        server = Server(answer)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append({"path": self.path, **self.headers})
                answer(server, self)
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                """Nothing."""

        http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        started.append(http)
        server.url = f"http://127.0.0.1:{http.server_address[1]}"
        return server

    yield start
    for http in started:
        http.shutdown()
        http.server_close()


def entry(**changes: object) -> PublicFile:
    facts = {"names": ("model.pt", "MODEL.pth"), "what": "a model", "bytes": len(WEIGHTS), "sha256": DIGEST, "licence": "MIT"}
    return PublicFile(**{**facts, "places": ("drive:abc",), **changes})  # type: ignore[arg-type]


UNHASHED = {"bytes": None, "sha256": None}


def get(folder: Path, *places: str, force: bool = False, **changes: object) -> Fetched:
    return fetch(entry(**changes), DownloadOptions(folder, places, force, HURRIED))


def fails(folder: Path, *places: str, error: type[SdicError] = FileError, **changes: object) -> str:
    """The sentence of a failed download, behind which nothing is left under the file's name, and nothing that would be resumed wrongly."""
    with pytest.raises(error) as caught:
        get(folder, *places, **changes)
    assert not (folder / "model.pt").exists()
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    assert "\n" not in str(caught.value) and not str(caught.value).endswith(".")
    return str(caught.value)


def whole(server: Server, handler: BaseHTTPRequestHandler) -> None:
    server.body(handler, WEIGHTS)


def test_a_file_comes_whole_with_its_hash_and_is_not_fetched_again(tmp_path: Path, serve: Callable[..., Server]) -> None:
    server = serve(whole)
    fetched = get(tmp_path, server.url)
    assert fetched.path.read_bytes() == WEIGHTS and fetched.path == tmp_path / "model.pt"
    assert (fetched.sha256, fetched.place, fetched.checked) == (DIGEST, f"{server.url}/model.pt", "as published")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
    (tmp_path / "plain").touch()
    assert fetched.path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    again = get(tmp_path, server.url)
    assert again.place is None and len(server.asked) == 1


def test_places_are_tried_in_order_and_a_folder_is_one(tmp_path: Path, serve: Callable[..., Server]) -> None:
    def missing(server: Server, handler: BaseHTTPRequestHandler) -> None:
        handler.send_error(404)

    first, second, folder = serve(missing), serve(whole), tmp_path / "here"
    folder.mkdir()
    assert get(tmp_path, str(folder), first.url, second.url + "/deep/").place == f"{second.url}/deep/model.pt"
    assert [request["path"] for request in first.asked] == ["/model.pt", "/MODEL.pth"]
    (folder / "MODEL.pth").write_bytes(WEIGHTS)
    copied = get(tmp_path / "out", str(folder), second.url)
    assert copied.place == str(folder / "MODEL.pth") and copied.path.read_bytes() == WEIGHTS
    assert copied.path.stat().st_mode == (folder / "MODEL.pth").stat().st_mode
    assert get(tmp_path / "third", f"{second.url}/x?download=1").path.read_bytes() == WEIGHTS
    assert get(tmp_path / "fourth", str(folder / "MODEL.pth")).path.read_bytes() == WEIGHTS
    message = fails(tmp_path / "here", first.url)
    assert "model.pt: it answers 404 Not Found" in message and "is in none of the places named; it is public at https://drive" in message
    with pytest.raises(ArgumentError, match='there is no folder "s3://bucket", and it is no address'):
        get(tmp_path / "fifth", "s3://bucket")


def test_what_is_cut_off_is_continued_within_a_run(tmp_path: Path, serve: Callable[..., Server]) -> None:
    def cut(server: Server, handler: BaseHTTPRequestHandler) -> None:
        server.body(handler, WEIGHTS, send=1000, ETag='"one"')

    server = serve(cut)
    assert get(tmp_path, server.url).path.read_bytes() == WEIGHTS
    assert [request.get("Range") for request in server.asked] == [None, "bytes=1000-", "bytes=2000-", "bytes=3000-"]
    assert server.asked[1]["If-Range"] == '"one"'
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_what_another_run_began_is_continued_or_begun_again(tmp_path: Path, serve: Callable[..., Server]) -> None:
    server = serve(whole)
    (tmp_path / "model.pt.part").write_bytes(WEIGHTS[:1234])
    assert get(tmp_path, server.url).path.read_bytes() == WEIGHTS and server.asked[0]["Range"] == "bytes=1234-"
    (tmp_path / "model.pt").unlink()
    (tmp_path / "model.pt.part").write_bytes(b"of another file" * 9)  # the hash tells in the end, and it starts anew
    assert get(tmp_path, server.url).path.read_bytes() == WEIGHTS and "Range" not in server.asked[2]
    (tmp_path / "model.pt").unlink()
    (tmp_path / "model.pt.part").write_bytes(WEIGHTS)  # all was there
    assert get(tmp_path, server.url).path.read_bytes() == WEIGHTS


def test_without_a_hash_only_the_same_file_is_continued(tmp_path: Path, serve: Callable[..., Server]) -> None:
    tag = '"one"'

    def answer(server: Server, handler: BaseHTTPRequestHandler) -> None:
        if handler.headers.get("If-Range", tag) != tag:
            del handler.headers["Range"]
        server.body(handler, WEIGHTS, ETag=tag)

    server = serve(answer)
    part, note = tmp_path / "model.pt.part", tmp_path / "model.pt.part.json"
    part.write_bytes(b"x" * 99)
    assert get(tmp_path, server.url, **UNHASHED).path.read_bytes() == WEIGHTS and "Range" not in server.asked[0]
    for noted, ranges in (('"one"', "bytes=1000-"), ('"old"', "bytes=1000-")):
        (tmp_path / "model.pt").unlink()
        part.write_bytes(WEIGHTS[:1000] if noted == tag else b"y" * 1000)
        note.write_text(json.dumps({"url": f"{server.url}/model.pt", "validator": noted}))
        fetched = get(tmp_path, server.url, **UNHASHED)
        assert fetched.path.read_bytes() == WEIGHTS and server.asked[-1]["Range"] == ranges
        assert fetched.checked.startswith("which no listing has")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_a_slow_server_is_left_for_the_next(tmp_path: Path, serve: Callable[..., Server]) -> None:
    def silent(server: Server, handler: BaseHTTPRequestHandler) -> None:
        server.body(handler, WEIGHTS, send=0)
        time.sleep(0.6)

    def dripping(server: Server, handler: BaseHTTPRequestHandler) -> None:
        server.body(handler, WEIGHTS, send=0)
        for index in range(10):
            time.sleep(0.05)
            handler.wfile.write(WEIGHTS[index : index + 1])

    slow, drip, good = serve(silent), serve(dripping), serve(whole)
    assert get(tmp_path / "a", f"{slow.url}/model.pt", good.url).place == f"{good.url}/model.pt"
    assert len(slow.asked) == HURRIED.goes
    strict = Patience(connect=2, read=2, slowest=1e6, window=0.1, goes=1, pause=0)
    with pytest.raises(FileError, match=r"it is too slow \(\d+ bytes per second\)"):
        fetch(entry(), DownloadOptions(tmp_path / "b", (f"{drip.url}/model.pt",), patience=strict))


@pytest.mark.parametrize(
    ("length", "send", "changes", "reason"),
    [
        (len(WEIGHTS) + 500, None, {}, f"it announces {len(WEIGHTS) + 500:,} bytes where the file has {len(WEIGHTS):,}"),
        (100, None, {}, f"it announces 100 bytes where the file has {len(WEIGHTS):,}"),
        (100, None, UNHASHED, "what it gives ends early after 100 bytes: the download was cut off"),
        (100, None, {"bytes": None}, "it gives another file: its SHA-256 is not the published one"),
        (len(WEIGHTS) + 500, None, UNHASHED, "the connection broke"),
    ],
)
def test_a_server_that_lies_about_the_length(
    length: int, send: int | None, changes: dict[str, object], reason: str, tmp_path: Path, serve: Callable[..., Server]
) -> None:
    def lie(server: Server, handler: BaseHTTPRequestHandler) -> None:
        server.body(handler, WEIGHTS, length, send)

    assert reason in fails(tmp_path, f"{serve(lie).url}/model.pt", **changes)


def test_a_file_that_ends_before_its_announced_length_counts_where_its_hash_is_right(tmp_path: Path, serve: Callable[..., Server]) -> None:
    server = serve(lambda server, handler: server.body(handler, WEIGHTS, len(WEIGHTS) + 7))
    assert get(tmp_path, server.url, bytes=None).path.read_bytes() == WEIGHTS


def test_a_server_that_never_ends(tmp_path: Path, serve: Callable[..., Server]) -> None:
    def endless(server: Server, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(200):
            handler.wfile.write(b"x" * 10_000)

    assert f"it sends more than the {len(WEIGHTS):,} bytes of the file" in fails(tmp_path, f"{serve(endless).url}/model.pt")


def test_a_web_page_in_place_of_weights(tmp_path: Path, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    typed = serve(lambda server, handler: server.body(handler, HTML, Content_Type="text/html; charset=utf-8"))
    untyped = serve(lambda server, handler: server.body(handler, HTML, Content_Type="application/octet-stream"))
    for server, changes in ((typed, {}), (untyped, {"bytes": None}), (untyped, UNHASHED)):
        message = fails(tmp_path, f"{server.url}/model.pt", **changes)
        assert "is a web page, not weights: it speaks of a download quota" in message
    monkeypatch.setitem(public_files.ADDRESSES, "drive", typed.url + "/{0}")
    message = fails(tmp_path)
    assert "can be had with a browser at https://drive.google.com/file/d/abc/view" in message
    assert message.endswith("save it from there, and check it with: sdic-run download model.pt --from FOLDER")
    assert "can be had with a browser at https://there" in fails(tmp_path, places=("page:https://there",))
    assert "is at no public place that is known" in fails(tmp_path, places=())


def test_redirects(tmp_path: Path, serve: Callable[..., Server]) -> None:
    good = serve(whole)

    def redirect(server: Server, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header(
            "Location", server.url + "/again" if "loop" in handler.path or "again" in handler.path else good.url + "/model.pt"
        )
        handler.end_headers()

    server = serve(redirect)
    assert get(tmp_path, f"{server.url}/model.pt").path.read_bytes() == WEIGHTS
    (tmp_path / "loop").mkdir()
    assert "it redirects more than 5 times" in fails(tmp_path / "loop", f"{server.url}/loop?model.pt")


def test_a_wrong_hash_is_refused_and_nothing_stays(tmp_path: Path, serve: Callable[..., Server]) -> None:
    other = weights(seed=9)
    assert len(other) == len(WEIGHTS)
    wrong, good = serve(lambda server, handler: server.body(handler, other)), serve(whole)
    message = fails(tmp_path, f"{wrong.url}/model.pt")
    assert "it gives another file: its SHA-256 is not the published one" in message and not list(tmp_path.iterdir())
    assert "its SHA-256 does not begin as the published one" in fails(tmp_path, f"{wrong.url}/model.pt", sha256=DIGEST[:8])
    assert get(tmp_path, f"{wrong.url}/model.pt", f"{good.url}/model.pt").place == f"{good.url}/model.pt"
    assert get(tmp_path, sha256=DIGEST[:8]).checked.startswith("which begins as published")


def test_a_file_that_is_there_and_another_is_kept_unless_forced(tmp_path: Path, serve: Callable[..., Server]) -> None:
    server = serve(whole)
    (tmp_path / "model.pt").write_bytes(b"mine")
    with pytest.raises(
        FileError, match=r"model.pt is there already and not the public model.pt \(another file, or damaged\); replace it with --"
    ):
        get(tmp_path, server.url)
    assert (tmp_path / "model.pt").read_bytes() == b"mine" and not server.asked
    assert get(tmp_path, server.url, force=True).path.read_bytes() == WEIGHTS


def test_errors_of_this_machine(tmp_path: Path, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(whole)
    monkeypatch.setattr("sdic_runtime.tools.resume.shutil.disk_usage", lambda folder: type("Usage", (), {"free": 5}))
    assert "has 5 bytes free, and" in fails(tmp_path, server.url)
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="cannot write"):
        get(tmp_path / "file", server.url)
    monkeypatch.setitem(__import__("sys").modules, "pooch", None)
    assert 'sdic-toolkit[download]"' in fails(tmp_path, server.url, error=MissingExtraError)


def test_consent_is_asked_for_once_per_licence() -> None:
    free, bound = entry(), entry(names=("a.pt",), licence="non-commercial use", consent=True)
    other = entry(names=("b.pt",), licence="non-commercial use", consent=True)
    assert need_consent([free, bound, other]) == {"non-commercial use": ["a.pt", "b.pt"]}
    agree([free], False, None)
    agree([bound, other], True, None)
    questions: list[str] = []
    agree([bound, other], False, lambda question: not questions.append(question))
    assert questions == ["a.pt, b.pt: non-commercial use. Do you agree?"]
    for ask in (None, lambda question: False):
        with pytest.raises(ArgumentError, match="a.pt: non-commercial use; nothing was downloaded: agree with --accept-licence"):
            agree([bound], False, ask)


def test_the_table_names_places_and_models(monkeypatch: pytest.MonkeyPatch) -> None:
    for public in PUBLIC_FILES:
        for place in public.places:
            address = address_of(place)
            assert place.startswith("page:https://") or (address or "").startswith(("https://", "http://dlib.net/")), place
        assert public.consent == (not public.licence.startswith(("BSD", "MIT"))), public.name
        assert public.use
    assert len({(public.names, public.sha256) for public in PUBLIC_FILES}) == len(PUBLIC_FILES)  # each once
    assert [public.name for public in wanted("HyperStyle")] == ["hyperstyle_ffhq.pt", "faces_w_encoder.pt"]
    assert wanted("STYLEGAN2-ffhq-config-f.pt")[0].addresses and len(wanted("stylegan2-ffhq-config-f.pt")) == 1
    with pytest.raises(ArgumentError, match=r'no public file or model "hyperstile".*; did you mean "hyperstyle"\?$'):
        wanted("hyperstile")
    assert where("faces_w_encoder.pt") == (
        "faces_w_encoder.pt, at Google Drive 1M-hsL3W_cJKs77xM1mwq2e9-J0_m7rHP: sdic-run download faces_w_encoder.pt"
    )
    assert where("image_avg.png").endswith("with a browser") and where("nothing.pt") == '"nothing.pt"'
    assert not wanted("143_enc.pth")[0].addresses  # its licence forbids passing it on
    monkeypatch.setenv(download.PLACES_VARIABLE, " /a b ; https://c;")
    assert places_of_environment() == ("/a b", "https://c")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    files = (entry(models=("both",)), entry(names=("more.pt",), consent=True, licence="ask the authors", models=("both",), **UNHASHED))
    monkeypatch.setattr(public_files, "PUBLIC_FILES", files)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "model.pt").write_bytes(WEIGHTS)
    out = tmp_path / "out"
    assert main(["download"]) == 0
    listed = capsys.readouterr().out
    assert f"{len(WEIGHTS):,} bytes, SHA-256 {DIGEST}" in listed and "size unknown, SHA-256 unknown" in listed
    assert listed.endswith("both   model.pt, more.pt\n")
    assert main(["download", "--json", "-"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["model.pt", "more.pt"]
    assert main(["download", "both", "--out", str(out), "--from", str(tmp_path / "there")]) == 2
    assert "agree with --accept-licence" in capsys.readouterr().err and not out.exists()
    assert main(["download", "both", "--out", str(out), "--from", str(tmp_path / "there"), "--accept-licence"]) == 2
    said = capsys.readouterr()
    assert said.out == f"{out / 'model.pt'}\n" and "error: could not fetch more.pt" in said.err and "there is no such file" in said.err
    assert (out / "model.pt").read_bytes() == WEIGHTS
    monkeypatch.setenv(download.PLACES_VARIABLE, str(tmp_path / "there"))
    assert main(["download", "model.pt", "--out", str(tmp_path / "other")]) == 0
    capsys.readouterr()
    row = {"name": "model.pt", "path": str(out / "model.pt"), "sha256": DIGEST, "from": None, "error": None}
    failed = {"name": "more.pt", "path": None, "sha256": None, "from": None}
    words = ["both", "--out", str(out), "--accept-licence"]
    assert main(["download", *words, "--json", "-"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert found[0] == row and found[1].pop("error").startswith("could not fetch more.pt") and found[1] == failed
    assert main(["download", "model.pt", "--out", str(out), "--json", str(tmp_path / "new" / "list.json")]) == 0
    assert capsys.readouterr().out == f"{out / 'model.pt'}\n{tmp_path / 'new' / 'list.json'}\n"
    assert json.loads((tmp_path / "new" / "list.json").read_text()) == [row]
    assert main(["download", "model.pt", "--out", str(tmp_path / "fourth"), "--json", str(out)]) == 2  # before anything is fetched
    assert capsys.readouterr().err == f"error: {out} is a folder; name a file in it\n" and not (tmp_path / "fourth").exists()
