from __future__ import annotations

import base64
import hashlib
import os
import shutil
import socket
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, urljoin

import psutil
import pytest

from serve.serving import API, Fresh, Server, make_product
from support import wait_until
from surgeline.context.records import Product

CONTENT = bytes(range(256)) * 400
SECRET = b"root:x:0:0"


@pytest.fixture(scope="module")
def path(server: Server) -> str:
    """Where the content of a product is."""
    products = f"{API}{server.session('good')}/products"
    (cube,) = [product for product in server.json(products.removeprefix(API))["items"] if product["kind"] == "cube"]
    return urljoin(products, cube["content"])


def test_a_products_content_comes_with_its_checksum_and_its_name(server: Server, path: str) -> None:
    answer = server.get(path)
    assert (answer.status, answer.body) == (200, CONTENT)
    digest = hashlib.sha256(CONTENT)
    assert answer.headers["etag"] == f'"{digest.hexdigest()}"'
    assert answer.headers["repr-digest"] == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
    assert answer.headers["content-type"] == "application/fits"
    assert answer.headers["content-length"] == str(len(CONTENT))
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-disposition"] == (
        "attachment; filename=\"NGC_5921_.fits\"; filename*=UTF-8''NGC%205921%20%C3%BC.fits"
    )


@pytest.mark.parametrize(
    ("asked", "begin", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=5-9", 5, 10),
        ("bytes=102000-", 102_000, 102_400),
        ("bytes=102399-", 102_399, 102_400),
        ("bytes=-10", 102_390, 102_400),
        ("bytes=-999999", 0, 102_400),
        ("bytes=100-999999", 100, 102_400),
    ],
)
def test_part_of_a_product_can_be_had(server: Server, path: str, asked: str, begin: int, end: int) -> None:
    answer = server.get(path, Range=asked)
    assert (answer.status, answer.body) == (206, CONTENT[begin:end])
    assert answer.headers["content-range"] == f"bytes {begin}-{end - 1}/102400"
    assert answer.headers["content-length"] == str(end - begin)


@pytest.mark.parametrize("asked", ["bytes=102400-", "bytes=999999-9999999", "bytes=-0"])
def test_a_part_beyond_the_end_is_refused_with_the_size(server: Server, path: str, asked: str) -> None:
    answer = server.get(path, Range=asked)
    assert answer.status == 416
    assert answer.headers["content-range"] == "bytes */102400"
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "asked",
    ["bytes=", "bytes=-", "bytes=9-5", "bytes=a-b", "lines=1-2", "bytes=0-1,5-6", "bytes=" + "9" * 5000 + "-"],
)
def test_what_is_no_single_range_is_passed_over(server: Server, path: str, asked: str) -> None:
    assert server.get(path, Range=asked).status == 200


def test_who_has_a_product_already_is_not_sent_it_again(server: Server, path: str) -> None:
    tag = server.get(path).headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = server.get(path, If_None_Match=known)
        assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", tag)
    assert server.get(path, If_None_Match='"other"').status == 200
    # Who has a part of another file is sent all of this one.
    assert server.get(path, If_Range=tag, Range="bytes=1-2").status == 206
    assert server.get(path, If_Range='"other"', Range="bytes=1-2").status == 200


def test_a_large_product_does_not_have_to_fit_into_memory(fresh: Fresh) -> None:
    size = 300_000_000
    (fresh.folder / "products").mkdir(parents=True)
    with (fresh.folder / "products" / "large.fits").open("wb") as file:
        file.truncate(size)
    large = Product(path="products/large.fits", kind="cube", size=size, sha256="0" * 64)
    with closing(fresh.begin()) as context:
        context.commit("export", [large])
    process = psutil.Process(fresh.server.process.pid)
    before = process.memory_info().rss
    path = f"{API}{fresh.path}/products/products/large.fits"
    assert len(fresh.server.get(path).body) == size
    assert process.memory_info().rss - before < 50_000_000
    # A client that leaves in the middle leaves no open file behind.
    with socket.create_connection(fresh.server.address) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert client.recv(100)
    wait_until(lambda: all("products" not in file.path for file in process.open_files()), 5, "the file is closed")


def test_a_product_is_found_by_its_checksum_also_when_another_has_taken_its_place(fresh: Fresh) -> None:
    contents = [b"the first", b"the other"]
    products = [
        Product(path="products/cube.fits", kind="cube", size=9, sha256=hashlib.sha256(content).hexdigest())
        for content in contents
    ]
    with closing(fresh.begin()) as context:
        first = context.commit("export", products[:1])
        for place, content in ((f"replaced/{first}/products", contents[0]), ("products", contents[1])):
            (fresh.folder / place).mkdir(parents=True)
            (fresh.folder / place / "cube.fits").write_bytes(content)
        context.commit("rerun", [], withdrawn=[first])
        context.commit("export", products[1:])
    for product, content in zip(products, contents, strict=True):
        assert fresh.server.get(f"{API}{fresh.path}/artifacts/{product.sha256}").body == content
    # What is kept no longer is not taken for what has its name now.
    shutil.rmtree(fresh.folder / "replaced")
    assert fresh.server.get(f"{API}{fresh.path}/artifacts/{products[0].sha256}").status == 404


@pytest.fixture
def hostile(fresh: Fresh, tmp_path: Path) -> Fresh:
    """A session whose facts name files that nobody should be sent."""
    root, folder = tmp_path, fresh.folder
    (root / "secret").write_bytes(SECRET)
    (root / "elsewhere").mkdir()
    (root / "elsewhere" / "secret").write_bytes(SECRET)
    inside = make_product(folder, "inside.txt", SECRET)
    products = folder / "products"
    (products / "leaving").symlink_to(root / "secret")
    (products / "away").symlink_to(root / "elsewhere")
    (products / "staying").symlink_to("inside.txt")
    (products / "loop").symlink_to("loop")
    (products / "nowhere").symlink_to("nothing")
    (products / "folder").mkdir()
    os.mkfifo(products / "pipe")
    make_product(folder, "changed.txt", b"before")
    (products / "changed.txt").write_bytes(b"and after")
    names = [
        "../../secret", "products/../../../secret", str(root / "secret"), "products/leaving", "products/away/secret",
        "products/staying", "products/loop", "products/nowhere", "products/folder", "products/pipe", "products",
        "", ".", "products/\0", "context.db", "products/changed.txt", "products/none\nsuch",
    ]  # fmt: skip
    odd = make_product(folder, "odd.txt", b"odd").model_copy(update={"sha256": '"\r\nx: y'})
    facts = [inside.model_copy(update={"path": name}) for name in names]
    (folder.parent.parent / "secret").write_bytes(SECRET)
    with closing(fresh.begin()) as context:
        context.commit("export", [inside, odd, *facts])
    return fresh


def test_no_path_leads_out_of_a_working_folder(hostile: Fresh, tmp_path: Path) -> None:
    server, products = hostile.server, f"{API}{hostile.path}/products/"

    def asked(name: str) -> int:
        answer = server.get(products + name)
        assert answer.status == 200 or SECRET not in answer.body
        return answer.status

    assert asked("products/inside.txt") == 200
    assert asked("products/staying") == 200
    # What no fact names is not there, whatever the file system says.
    for name in ("run.json", "products/%2e%2e/products/inside.txt", "products//inside.txt", "%2fetc%2fpasswd",
                 "..%2f..%2f..%2fetc%2fpasswd", "../../../../etc/passwd", "products/inside.txt%00"):  # fmt: skip
        assert asked(name) == 404
    # What a fact names is not sent when it is elsewhere, or no file.
    for name in ("../../secret", "products/../../../secret", str(tmp_path / "secret"), "products/leaving",
                 "products/away/secret"):  # fmt: skip
        assert asked(quote(name, safe="")) == 403
        assert asked(name) in (403, 404)
    for name in ("products/loop", "products/nowhere", "products/folder", "products/pipe", "products", ".",
                 "products/\0", "products/none\nsuch"):  # fmt: skip
        assert asked(quote(name, safe="")) == 404
    assert asked("") == 404
    # What is not what was recorded is not sent under its checksum.
    for name in ("products/changed.txt", "context.db", "products/odd.txt"):
        assert asked(name) == 409
    assert len(server.every(f"{hostile.path}/products?limit=5")) == 19
