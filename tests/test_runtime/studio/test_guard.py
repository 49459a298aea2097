"""Who may talk to the studio."""

from __future__ import annotations

from typing import Any

import pytest

fastapi = pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from fastapi.testclient import TestClient  # noqa: E402 - it needs both

from sdic_runtime.studio.guard import Guard  # noqa: E402

TOKEN = "a-token-of-the-test"


def client(**options: Any) -> TestClient:
    app = fastapi.FastAPI()
    for path in ("/", "/health", "/api/bundles"):
        app.add_api_route(path, lambda: {"here": True})
    app.add_api_route("/edit", lambda: {"here": True}, methods=["POST"])
    return TestClient(Guard(app, **options), base_url="http://localhost:8000", follow_redirects=False)


@pytest.mark.parametrize(
    ("host", "status"), [("localhost:8000", 200), ("127.0.0.1", 200), ("[::1]:9", 200), ("evil", 421), ("", 421), ("localhost.evil", 421)]
)
def test_a_name_that_is_not_ours_is_not_answered(host: str, status: int) -> None:
    assert client().get("/api/bundles", headers={"host": host}).status_code == status


def test_further_names_are_allowed_by_the_user() -> None:
    assert client(hosts=["studio.local"]).get("/", headers={"host": "studio.local:8000"}).status_code == 200
    assert client(hosts=["*"]).get("/", headers={"host": "anything"}).status_code == 200

    for given in ("MyBox.local", "mybox.local"):
        assert client(hosts=[given]).get("/", headers={"host": "MYBOX.local:8000"}).status_code == 200
    headers = {"host": "MyBox.local:8000", "origin": "http://mybox.local:8000"}
    assert client(hosts=["mybox.local"]).post("/edit", headers=headers).status_code == 200


@pytest.mark.parametrize("host", ["192.168.1.20:8000", "10.0.0.1", "[fe80::1]:8000"])
def test_addresses_are_allowed_where_others_can_reach_it(host: str) -> None:
    assert client().get("/", headers={"host": host}).status_code == 421
    assert client(addresses=True).get("/", headers={"host": host}).status_code == 200
    assert client(addresses=True).get("/", headers={"host": "192.168.1.20.evil.example"}).status_code == 421


def test_headers_that_cannot_be_read_are_refused() -> None:
    for host in ("[", "[zz]", "[::1"):
        for addresses in (False, True):
            answer = client(addresses=addresses).get("/", headers={"host": host})
            assert answer.status_code == 421 and "does not answer as" in answer.json()["error"]
    for origin in ("http://[", "http://[zz]", "http://[::1"):
        assert client().post("/edit", headers={"origin": origin}).status_code == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # a script
        ({"origin": "http://localhost:8000", "sec-fetch-site": "same-origin"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://localhost:9000"}, 403),  # another service of this machine
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, 403),
    ],
)
def test_pages_of_other_sites_are_refused(headers: dict[str, str], status: int) -> None:
    answer = client().post("/edit", headers=headers)
    assert answer.status_code == status
    assert "access-control-allow-origin" not in answer.headers


def test_a_link_on_another_site_may_lead_to_the_page_alone() -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert client().get("/", headers=headers).status_code == 200
    assert client().get("/api/bundles", headers=headers).status_code == 403


def test_a_token_is_asked_for_and_becomes_a_cookie() -> None:
    guarded = client(token=TOKEN)
    for path in ("/", "/api/bundles", "/?token=wrong", f"/api/bundles?token={TOKEN}"):
        answer = guarded.get(path)
        assert answer.status_code == 401 and "a token is needed" in answer.json()["error"]
    assert guarded.get("/health").status_code == 200
    assert guarded.get("/api/bundles", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert guarded.get("/api/bundles", headers={"authorization": "Bearer a"}).status_code == 401
    opened = guarded.get(f"/?token={TOKEN}")
    assert opened.status_code == 303 and opened.headers["location"] == "/"
    assert "HttpOnly" in opened.headers["set-cookie"] and "SameSite=Strict" in opened.headers["set-cookie"]
    assert guarded.get("/api/bundles").status_code == 200  # the client has kept the cookie


def test_mounted_elsewhere_it_is_about_the_path_below() -> None:
    outer = fastapi.FastAPI()
    outer.mount("/my studio", client(token=TOKEN).app)
    mounted = TestClient(outer, base_url="http://localhost:8000", follow_redirects=False)
    assert mounted.get("/my%20studio/api/bundles").status_code == 401
    assert mounted.get("/my%20studio/health").status_code == 200
    opened = mounted.get(f"/my%20studio/?token={TOKEN}", headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"})
    assert (opened.status_code, opened.headers["location"]) == (303, "/my%20studio/")
    assert mounted.get(opened.headers["location"]).status_code == 200  # the client has kept the cookie
    assert mounted.get("/my%20studio/api/bundles").status_code == 200


def test_answers_may_not_be_framed_stored_or_read_elsewhere() -> None:
    headers = client().get("/").headers
    assert "default-src 'self'" in headers["content-security-policy"] and "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store" and headers["cross-origin-resource-policy"] == "same-origin"
