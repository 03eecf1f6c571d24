"""The web chat in a real Chromium: against a real server, and against a scripted one for what a model seldom says."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync"
).split()
ATTACK = "window.hacked=1"
XSS = rf"""<script>{ATTACK}</script> <img src=x onerror="{ATTACK}"> <svg/onload={ATTACK}>

# <iframe srcdoc="<script>parent.{ATTACK}</script>"></iframe>

[click](javascript:{ATTACK}) [tab](java&#9;script:{ATTACK}) [data](data:text/html,<script>{ATTACK}</script>)
<javascript:{ATTACK}>
![picture](http://127.0.0.1:9/picture.png) [ok](https://example.org/a"onclick="{ATTACK}) **<b onclick={ATTACK}>**

```"><script>{ATTACK}</script>
</code></pre><script>{ATTACK}</script>
```

`<img src=x onerror={ATTACK}>` $\text{{<img src=x onerror={ATTACK}>}}$ $\href{{javascript:{ATTACK}}}{{x}}$

$$\frac{{<script>{ATTACK}</script>}}{{2}}$$

| <script>{ATTACK}</script> | b |
|---|---|
| <img src=x onerror={ATTACK}> | [x](vbscript:{ATTACK}) |

- <details open ontoggle={ATTACK}>
> <style>*{{display:none}}</style>
"""
RICH = r"""## Title

Some **bold**, *slanted*, ~~gone~~, `code`, snake_case_name and $5 or $6.

1. one
2. two
   - inner

| a | b |
|---|--:|
| 1 | 2 |

```python
print("hi")
```

Inline $x^2 + \frac{1}{2}$ and \(\sqrt{2}\):

$$\boxed{\sum_{i=1}^{n} i = \frac{n(n+1)}{2}}$$

See https://example.org/page."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=chromium, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    """`visit(url, **context)`: a page in a fresh profile; fails where the page's own code failed."""
    contexts, errors = [], []

    def go(url: str, width: int = 1100, **given: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 700}, **{"locale": "en-US", **given})
        context.set_default_timeout(15000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url)
        return page

    yield go
    for context in contexts:
        context.close()
    assert errors == []


def ask(page: Any, text: str, wait: bool = True) -> None:
    page.fill("#text", text)
    page.press("#text", "Enter")
    if wait:
        page.wait_for_selector(".message.reply .facts:not(:empty)")


def event(**delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


async def script(text: str) -> AsyncIterator[str]:
    """What the scripted model answers to a message."""
    yield f"data: {json.dumps(event(reasoning_content='first '))}\n\n"
    if text == "slow":
        for i in range(400):
            yield f"data: {json.dumps(event(reasoning=f'step {i} '))}\n\n"
            await asyncio.sleep(0.05)
    answer = {"xss": XSS, "rich": RICH}.get(text, f"You said: {text}")
    for start in range(0, len(answer), 7):
        yield f"data: {json.dumps(event(content=answer[start : start + 7]))}\n\n"
    if text == "cut":
        return
    yield f"data: {json.dumps({'choices': [{'index': 0, 'delta': {}, 'finish_reason': 'stop'}]})}\n\n"
    usage = {"prompt_tokens": 1000, "completion_tokens": 500, "completion_tokens_details": {"reasoning_tokens": 123}}
    yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n"


@pytest.fixture(scope="module")
def scripted() -> Iterator[Any]:
    """A server of the page with a scripted model: (url, list of request bodies)."""
    pytest.importorskip("fastapi")
    import uvicorn
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse, StreamingResponse
    from starlette.routing import Mount, Route

    from doran.serve.page import Page
    from doran.serve.security import WEB

    bodies: list[Any] = []

    async def models(request: Any) -> Any:
        return JSONResponse({"data": [{"id": "scripted"}]})

    async def tokenize(request: Any) -> Any:
        return JSONResponse({"count": 7})

    async def chat(request: Any) -> Any:
        bodies.append(await request.json())
        text = bodies[-1]["messages"][-1]["content"]
        for word, status in (("busy", 429), ("key", 401)):
            if text == word and sum(b["messages"][-1]["content"] == word for b in bodies) == 1:
                return JSONResponse({"error": {"message": "no"}}, status, {"Retry-After": "3"})
        return StreamingResponse(script(text), media_type="text/event-stream")

    app = Starlette(
        routes=[
            Route("/v1/models", models),
            Route("/tokenize", tokenize, methods=["POST"]),
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Mount("/", Page(directory=WEB, html=True)),
        ]
    )
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/", bodies
    server.should_exit = True
    thread.join(10)


def test_real_server_answers_and_the_conversation_survives_a_reload(running: Any, visit: Any) -> None:
    page = visit(f"{running.url}/")
    ask(page, "3 + 4 = ?")
    shown = page.inner_text(".message.reply")
    assert "tokens/s" in shown and "tiny" in page.inner_text("#model")
    page.reload()
    page.wait_for_selector(".message.reply")
    assert page.inner_text(".message.reply") == shown
    assert page.inner_text("#history .open") == "3 + 4 = ?"
    assert running.settled()


def test_page_reaches_only_its_own_server(running: Any) -> None:
    import httpx

    for path in ("/", "/app.js", "/first.js"):
        answer = httpx.get(running.url + path)
        policy = answer.headers["content-security-policy"]
        assert answer.status_code == 200 and "default-src 'none'" in policy and "unsafe" not in policy
    assert httpx.get(running.url + "/app.js").headers["content-type"].startswith("text/javascript")
    assert "http" not in httpx.get(running.url + "/").text


def test_thought_streams_unfolds_and_esc_stops(scripted: Any, visit: Any) -> None:
    page = visit(scripted[0])
    ask(page, "slow", wait=False)
    page.wait_for_selector(".live .thought summary")
    assert not page.is_visible(".thought-text")
    page.click(".thought summary")
    page.wait_for_selector(".thought-text:has-text('step 3')")
    assert "Thinking" in page.inner_text(".thought summary")
    page.keyboard.press("Escape")
    page.wait_for_selector(".message.reply .facts:not(:empty)")
    assert page.is_visible(".thought-text") and "Stopped." in page.inner_text(".note")
    assert "7 tokens" in page.inner_text(".thought summary")
    assert page.is_visible("#send")


def test_what_a_model_writes_stays_inert(scripted: Any, visit: Any) -> None:
    page = visit(scripted[0])
    fetched: list[str] = []
    page.on("request", lambda request: fetched.append(request.url))
    ask(page, "xss")
    page.wait_for_timeout(200)
    assert page.evaluate("window.hacked") is None
    inside = "script, img, svg, iframe, style, details, object, embed, form, input"
    assert page.query_selector(".answer p") and not page.query_selector(f".answer :is({inside})")
    attributes = page.evaluate("[...document.querySelectorAll('.answer *')].flatMap(n => n.getAttributeNames())")
    assert not [name for name in attributes if name.startswith("on") or name in ("style", "src", "srcdoc")]
    links = page.evaluate("[...document.querySelectorAll('.answer a')].map(a => a.protocol)")
    assert links and set(links) <= {"http:", "https:", "mailto:"}
    assert all(url.startswith(scripted[0]) for url in fetched)
    assert "<script>" in page.inner_text(".answer")


def test_markdown_code_and_math_become_elements(scripted: Any, visit: Any) -> None:
    page = visit(scripted[0])
    ask(page, "rich")
    elements = ["h4", "strong", "em", "s", "ol ul li", "table td.right", "figure.code pre code"]
    for wanted in [
        *elements,
        "math mfrac",
        "math msqrt",
        "math[display=block] .math-box munderover",
        "a[href='https://example.org/page']",
    ]:
        assert page.query_selector(f".answer {wanted}"), wanted
    assert "snake_case_name and $5 or $6." in page.inner_text(".answer")


def test_settings_go_into_the_request_and_prices_are_shown(scripted: Any, visit: Any) -> None:
    page = visit(scripted[0])
    ask(page, "one")
    assert "$" not in page.inner_text(".facts") and "123 tokens" in page.inner_text(".thought summary")
    page.click("#settings-open")
    values = {"temperature": "0.3", "topP": "0.9", "maxTokens": "50", "budget": "20"}
    for name, value in {**values, "priceInput": "1", "priceOutput": "4"}.items():
        page.fill(f"[data-setting={name}]", value)
    page.select_option("[data-setting=thinkLanguage]", "ko")
    page.keyboard.press("Escape")
    page.wait_for_selector(".facts:has-text('$0.00300')")
    ask(page, "two")
    page.wait_for_selector(".message.last.reply .facts:not(:empty)")
    body = scripted[1][-1]
    assert (body["temperature"], body["top_p"], body["max_tokens"], body["thinking_token_budget"]) == (0.3, 0.9, 50, 20)
    assert body["think_language"] == "ko" and "answer_language" not in body
    assert [m["content"] for m in body["messages"]] == ["one", "You said: one", "two"]


def test_refusals_are_one_line_and_retry_works(scripted: Any, visit: Any) -> None:
    page = visit(scripted[0])
    for word, line in (("busy", "Wait 3 s"), ("key", "API key")):
        page.click("#new")
        ask(page, word, wait=False)
        page.wait_for_selector("#trouble:not([hidden])")
        assert line in page.inner_text("#trouble") and page.inner_text(".said") == word
        page.click("#trouble [data-act=retry]")
        page.wait_for_selector(".message.reply .facts:not(:empty)")
        assert not page.is_visible("#trouble") and f"You said: {word}" in page.inner_text(".answer")
    page.click("#new")
    ask(page, "cut")
    assert "Incomplete" in page.inner_text(".note") and "connection broke" in page.inner_text("#trouble")
    page.context.set_offline(True)
    ask(page, "lost?", wait=False)
    page.wait_for_selector("#trouble:has-text('does not answer')")
    assert page.inner_text(".said >> nth=1") == "lost?"


def test_edit_resends_and_history_renames_deletes_and_undoes(scripted: Any, visit: Any) -> None:
    page = visit(scripted[0])
    ask(page, "first")
    page.click("[data-act=edit]")
    page.fill(".edit-text", "better")
    page.press(".edit-text", "Enter")
    page.wait_for_selector(".answer p:text-is('You said: better')")
    page.wait_for_selector("#send:visible")
    page.click("[data-act=rename]")
    page.fill("#history input", "My chat")
    page.press("#history input", "Enter")
    assert page.inner_text("#title") == "My chat"
    with page.expect_download() as download:
        page.click("[data-act=export]")
    exported = json.loads(open(download.value.path(), encoding="utf-8").read())
    assert [m["content"] for m in exported["chats"][0]["messages"]] == ["better", "You said: better"]
    page.click("[data-act=delete]")
    assert page.query_selector("#history li") is None
    page.click("#toast [data-act=undo]")
    assert page.inner_text("#history .open") == "My chat"


def test_an_edit_can_be_undone_while_its_answer_comes(scripted: Any, visit: Any) -> None:
    page = visit(scripted[0])
    for text in ("a", "b"):
        ask(page, text)
        page.wait_for_selector(f".last .answer p:text-is('You said: {text}')")
        page.wait_for_selector("#send", state="visible")
    page.click("[data-act=edit] >> nth=0")
    page.fill(".edit-text", "slow")
    page.press(".edit-text", "Enter")
    page.wait_for_selector(".live .thought summary")
    page.click("#toast [data-act=undo]")
    page.wait_for_selector("#send", state="visible")
    for _ in range(2):
        assert page.locator(".said").all_inner_texts() == ["a", "b"]
        page.reload()
        page.wait_for_selector(".said")


def test_language_follows_the_browser_and_the_switch_is_remembered(scripted: Any, visit: Any) -> None:
    page = visit(scripted[0], locale="ko-KR")
    assert page.inner_text("#send") == "보내기" and page.get_attribute("html", "lang") == "ko"
    page.click("#switch-language")
    page.reload()
    assert page.inner_text("#send") == "Send" and page.get_attribute("html", "lang") == "en"
    words = page.evaluate("import('./words.js').then(m => [m.WORDS.en, m.WORDS.ko].map(w => Object.keys(w).join()))")
    assert words[0] == words[1]


def test_narrow_phone_has_no_sideways_scroll(scripted: Any, visit: Any) -> None:
    page = visit(scripted[0], width=320)
    ask(page, "rich")
    wide = "[document.documentElement, document.querySelector('#scroll')].some(n => n.scrollWidth > n.clientWidth)"
    assert not page.evaluate(wide)
    page.click("#side-open")
    page.wait_for_selector("#history .open", state="visible")
    page.keyboard.press("Escape")
    page.wait_for_selector("#history .open", state="hidden")
    page.click("#settings-open")
    assert not page.evaluate(wide.replace("#scroll", "#settings"))


def test_every_control_has_a_name_and_a_draft_survives(scripted: Any, visit: Any) -> None:
    page = visit(scripted[0])
    ask(page, "rich")
    nameless = """[...document.querySelectorAll('button, input, select, textarea')].filter(n =>
        !n.textContent.trim() && !n.labels?.length && !n.getAttribute('aria-label')).map(n => n.outerHTML)"""
    assert page.evaluate(nameless) == []
    page.type("#text", "half a thou")
    page.press("#text", "Shift+Enter")
    page.type("#text", "ght")
    page.reload()
    assert page.input_value("#text") == "half a thou\nght"
