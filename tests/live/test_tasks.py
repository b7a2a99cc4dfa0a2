"""The four tasks with all kinds of clients: raw and multipart bodies, JSON, BentoML's client, many at once."""

import asyncio
import base64
import io
from collections.abc import Callable

import bentoml
import httpx
import numpy as np
import pytest
from PIL import Image

from service.tasks.fashion import CLASSES
from tests.paths import DIFFICULT_DIGITS, DIGIT
from training.data.images import MNIST, Pictures, load_images

PNG = {"Content-Type": "image/png"}
JPEG = {"Content-Type": "image/jpeg"}


def png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def digits() -> Pictures:
    return load_images(MNIST)[1][:300]


def test_a_raw_body_a_multipart_file_and_base64_give_the_same_digit(client: httpx.Client) -> None:
    picture = DIGIT.read_bytes()
    raw = client.post("/v1/digits", content=picture, headers=JPEG)
    part = client.post("/v1/digits", files=[("images", ("digit.jpg", picture, "image/png"))])
    encoded = client.post("/v1/digits", json={"images": [base64.b64encode(picture).decode()]})
    assert raw.status_code == 200
    assert raw.json() == part.json() == encoded.json()
    (prediction,) = raw.json()["predictions"]
    assert prediction["digit"] == 7
    assert prediction["confidence"] == max(prediction["probabilities"])
    assert sum(prediction["probabilities"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "write",
    [
        lambda picture: base64.encodebytes(picture).decode(),
        lambda picture: base64.urlsafe_b64encode(picture).decode().rstrip("="),
        lambda picture: "data:image/jpeg;base64," + base64.b64encode(picture).decode(),
        lambda picture: 'DATA:image/jpeg;name="a b";BASE64,' + base64.encodebytes(picture).decode(),
    ],
    ids=["in lines", "URL-safe", "data URI", "data URI in lines"],
)
def test_base64_is_accepted_in_all_its_forms(client: httpx.Client, write: Callable[[bytes], str]) -> None:
    picture = DIGIT.read_bytes()
    plain = client.post("/v1/digits", content=picture, headers=JPEG)
    answer = client.post("/v1/digits", json={"images": [write(picture)]})
    assert answer.json() == plain.json()


def test_predictions_have_the_order_of_the_pictures(client: httpx.Client, digits: Pictures) -> None:
    files = [("images", (f"{i}.png", png(picture), "image/png")) for i, picture in enumerate(digits.pictures[:64])]
    predictions = client.post("/v1/digits", files=files).json()["predictions"]
    right = [p["digit"] == label for p, label in zip(predictions, digits.labels, strict=False)]
    assert len(predictions) == 64
    assert sum(right) >= 62


def test_difficult_pictures_get_one_prediction_each_in_order(client: httpx.Client) -> None:
    files = [("images", (path.name, path.read_bytes(), "image/png")) for path in DIFFICULT_DIGITS]
    predictions = client.post("/v1/digits", files=files).json()["predictions"]
    assert [prediction["digit"] for prediction in predictions] == [int(path.stem[-1]) for path in DIFFICULT_DIGITS]


def test_each_version_of_digits_can_be_requested(client: httpx.Client) -> None:
    picture = DIGIT.read_bytes()
    answers = {
        version: client.post(f"/v1/digits?version={version}", content=picture, headers=JPEG).json() for version in "12"
    }
    assert [answer["version"] for answer in answers.values()] == ["1", "2"]
    assert answers["1"]["predictions"] != answers["2"]["predictions"]
    assert client.post("/v1/digits", content=picture, headers=JPEG).json() == answers["2"]


@pytest.mark.parametrize("body", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_a_damaged_picture_is_named_in_a_422(client: httpx.Client, body: bytes) -> None:
    good = DIGIT.read_bytes()
    response = client.post("/v1/digits", files=[("images", ("a", good)), ("images", ("b", body))])
    assert response.status_code == 422
    assert response.json()["errors"][0]["loc"] == ["images", 1]


def test_pixels_are_counted_before_a_picture_is_decoded(client: httpx.Client) -> None:
    just_fits, too_many = (Image.new("1", (5000, height)) for height in (5000, 5001))
    for picture, status in ((just_fits, 422), (too_many, 413)):  # 422: there is no digit in it
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        assert client.post("/v1/digits", content=buffer.getvalue(), headers=PNG).status_code == status


def test_a_deadline_holds_while_a_large_picture_is_decoded(client: httpx.Client) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((3000, 3000), 60).save(buffer, "PNG")
    headers = PNG | {"X-Request-Timeout": "0.02"}
    assert client.post("/v1/digits", content=buffer.getvalue(), headers=headers).status_code == 504


def test_a_request_has_at_most_64_pictures(client: httpx.Client) -> None:
    picture = DIGIT.read_bytes()
    for count, status in ((64, 200), (65, 422)):
        files = [("images", ("x.png", picture, "image/png"))] * count
        assert client.post("/v1/digits", files=files).status_code == status
        encoded = {"images": [base64.b64encode(picture).decode()] * count}
        assert client.post("/v1/digits", json=encoded).status_code == status


WHOLE = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n%s\r\n--x--\r\n'


@pytest.mark.parametrize("body", [b"", b"--x\r\n", WHOLE[:-9] % b"abc", b"--y--\r\n", WHOLE[:20]])
def test_broken_multipart_is_a_400(client: httpx.Client, body: bytes) -> None:
    for content_type in ("multipart/form-data; boundary=x", "multipart/form-data", 'multipart/form-data; boundary=""'):
        response = client.post("/v1/digits", content=body, headers={"Content-Type": content_type})
        assert response.status_code == 400


@pytest.mark.parametrize("parameter", ["", "; charset=undefined", "; charset=punycode", '; boundary="x"'])
def test_other_parameters_of_multipart_are_ignored(client: httpx.Client, parameter: str) -> None:
    picture = DIGIT.read_bytes()
    headers = {"Content-Type": f"multipart/form-data; boundary=x{parameter}"}
    response = client.post("/v1/digits", content=WHOLE % picture, headers=headers)
    assert response.json()["predictions"][0]["digit"] == 7


def test_no_url_is_ever_fetched(client: httpx.Client) -> None:
    async def check() -> None:
        visits = 0

        async def visited(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal visits
            visits += 1
            writer.close()

        trap = await asyncio.start_server(visited, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{trap.sockets[0].getsockname()[1]}/seven.png"

        def ask() -> list[int]:
            return [
                client.post("/v1/digits", json={"images": [url]}).status_code,
                client.post("/v1/digits", data={"images": url}, files={"images": ("", b"")}).status_code,
                client.post("/v1/digits", content=url.encode(), headers=PNG).status_code,
                client.post("/v1/sentiment", json={"reviews": [url]}).status_code,
            ]

        async with trap:
            assert await asyncio.to_thread(ask) == [422, 422, 422, 200]
        assert visits == 0

    asyncio.run(check())


def test_sentiment_distinguishes_praise_from_criticism(client: httpx.Client) -> None:
    reviews = ["An absolute masterpiece, moving and funny.", "A dull, badly acted waste of two hours.", "?"]
    predictions = client.post("/v1/sentiment", json={"reviews": reviews}).json()["predictions"]
    assert [p["label"] for p in predictions[:2]] == ["positive", "negative"]
    assert all(
        p["confidence"] == max(p["probability_positive"], 1 - p["probability_positive"])
        or p["confidence"] == pytest.approx(max(p["probability_positive"], 1 - p["probability_positive"]), abs=1e-6)
        for p in predictions
    )
    assert not any(p["truncated"] for p in predictions)


def test_mammogram_accepts_names_codes_and_missing_values(client: httpx.Client) -> None:
    by_name = {"age": 67, "shape": "irregular", "margin": "spiculated", "density": "low"}
    by_code = {"age": 67, "shape": 4, "margin": 5, "density": 3}
    answer = client.post("/v1/mammogram", json={"masses": [by_name, by_code, {"age": 30}]}).json()
    first, second, third = answer["predictions"]
    assert first == second
    assert (first["severity"], third["severity"]) == ("malignant", "benign")
    assert "not a diagnosis" in answer["notice"]


def test_fashion_returns_a_grid_or_single_pictures(client: httpx.Client) -> None:
    grid = client.post("/v1/fashion", json={"count": 10, "seed": 7})
    assert grid.headers["content-type"] == "image/png"
    assert grid.headers["x-seed"] == "7"
    assert min(Image.open(io.BytesIO(grid.content)).size) >= 28
    apart = client.post("/v1/fashion", json={"count": 10, "seed": 7}, headers={"Accept": "application/json"}).json()
    assert apart["seed"] == 7
    for prediction in apart["predictions"]:
        assert prediction["label"] in CLASSES
        assert Image.open(io.BytesIO(base64.b64decode(prediction["image"]))).size == (28, 28)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*", "image/png"),
        ("image/*", "image/png"),
        ("application/json", "application/json"),
        ("application/json;q=0.5, image/png;q=0.9", "image/png"),
        ("image/png;q=0.1, Application/JSON", "application/json"),
        ("image/png;q=0, */*", "application/json"),
        ("application/json, text/plain, */*", "application/json"),
        ("*/*;q=0.1, application/json;q=0.2", "application/json"),
        ("text/html", "image/png"),
        ("", "image/png"),
    ],
)
def test_fashion_returns_the_media_type_that_the_client_prefers(
    client: httpx.Client, accept: str, content_type: str
) -> None:
    response = client.post("/v1/fashion", json={"count": 1, "seed": 1}, headers={"Accept": accept})
    assert response.headers["content-type"] == content_type


def test_fashion_is_reproducible_with_a_seed_and_random_without(client: httpx.Client) -> None:
    assert client.post("/v1/fashion", json={"seed": 1}).content == client.post("/v1/fashion", json={"seed": 1}).content
    first, second = client.post("/v1/fashion"), client.post("/v1/fashion")
    assert first.headers["x-seed"] != second.headers["x-seed"]
    again = client.post("/v1/fashion", json={"seed": int(first.headers["x-seed"])})
    assert again.content == first.content


def test_bentomls_own_client_works_on_every_task(server: str) -> None:
    picture = base64.b64encode(DIGIT.read_bytes()).decode()
    with bentoml.SyncHTTPClient(server) as client:
        assert client.digits({"images": [picture]})["predictions"][0]["digit"] == 7
        assert client.sentiment({"reviews": ["A wonderful film."]})["predictions"][0]["label"] == "positive"
        assert client.mammogram({"masses": [{"age": 30}]})["predictions"][0]["severity"] == "benign"
        assert len(client.fashion({"count": 3, "seed": 1})["predictions"]) == 3


def test_the_models_endpoint_shows_every_card(client: httpx.Client) -> None:
    models = client.get("/v1/models").json()["models"]
    assert {"digits", "sentiment", "mammogram", "fashion"} <= {model["name"] for model in models}
    for model in models:
        for version in model["versions"]:
            assert version["state"] == "READY"
            shown = client.get(f"/v1/models/{model['name']}/versions/{version['version']}").json()
            assert {"inputs", "outputs", "figures", "data", "limits", "intended_use"} <= shown["card"].keys()
        newest = client.get(f"/v1/models/{model['name']}").json()
        assert newest["card"]["version"] == model["versions"][-1]["version"]
    assert client.get("/v1/models/nothing").status_code == 404
    assert client.get("/v1/models/digits/versions/9").status_code == 404
