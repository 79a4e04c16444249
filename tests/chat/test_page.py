"""The chat page in a real browser: talk, tools, plots, errors, keyboard, narrow screens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import Page, open_browser, program
from tests.chat.harness import Chat
from tests.chat.scripted import ScriptedLlm, call, refuse, say
from tests.gateway.harness import Gateway

pytestmark = pytest.mark.skipif(
    program() is None and not os.environ.get("CI"), reason="no Chromium: apt-get install chromium"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with open_browser() as page:
        yield page


@pytest.fixture
def page(browser: Page, chat: Chat, gateway: Gateway, llm: ScriptedLlm) -> Iterator[Page]:
    """The chat page, signed in by a link; at the end it must have complained about nothing."""
    browser.resize(1000, 800)
    browser.open(f"{chat.url}/#token={gateway.token()}")
    browser.until("!document.getElementById('composer').hidden")
    browser.errors.clear()
    yield browser
    # The page tells its user where the model or the gateway is slow to say that it is there.
    assert not [error for error in browser.errors if not error.endswith("/ready")]


def send(page: Page, text: str) -> None:
    page.until("document.activeElement.id === 'text'")
    page.type(text)
    page.press("Enter")


def answered(page: Page) -> str:
    page.until("document.querySelector('.assistant:last-child:not(.waiting)')")
    return page.text(".assistant:last-child")


def test_the_link_signs_in_and_leaves_no_token_in_the_address(page: Page) -> None:
    assert "token" not in page.eval("location.href")
    assert page.eval("document.getElementById('sign-in').hidden")
    assert page.text("#model") == "scripted"


def test_a_conversation_is_typed_and_read(page: Page, llm: ScriptedLlm) -> None:
    llm.play(say("Good ", "morning."), say("Still here."))
    send(page, "Hi")
    assert answered(page) == "Good morning."
    send(page, "And now?")
    page.until("document.querySelectorAll('.assistant').length === 2")
    assert answered(page) == "Still here."
    roles = [m["role"] for m in llm.requests[1]["messages"]]
    assert roles == ["system", "user", "assistant", "user"]


def test_tool_calls_unfold_with_arguments_and_result(page: Page, llm: ScriptedLlm) -> None:
    llm.play(call(("raw_echo", {"message": "hello tool"}), ("raw_fail", {})), say("Done."))
    send(page, "Go on")
    text = answered(page)
    assert "raw_echo" in text and "raw_fail" in text and text.endswith("Done.")
    assert page.eval("document.querySelectorAll('details.ended').length") == 1
    assert page.eval("document.querySelectorAll('details.failed').length") == 1
    page.eval("document.querySelector('details.ended summary').focus()")
    page.press("Enter")  # with the keyboard alone
    page.until("document.querySelector('details.ended').open")
    assert page.text("details.ended pre:last-child") == "hello tool"


def test_a_running_tool_shows_its_progress_and_escape_stops_it(
    page: Page, gateway: Gateway, llm: ScriptedLlm, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    llm.play(call(("raw_wait", {"file": str(file)})), say("never asked"))
    send(page, "Go on")
    page.until("document.querySelector('details.running progress')")
    page.press("Escape")
    assert "Stopped." in answered(page)
    assert "stopped" in page.text("details .state")
    gateway.wait(lambda: "cancelled" in file.read_text(), "the tool was cancelled")


def test_what_a_tool_and_a_model_write_stays_text(page: Page, llm: ScriptedLlm) -> None:
    attack = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    llm.play(
        call(("raw_echo", {"message": attack})), say(f"{attack} ```\n{attack}\n``` `{attack}`")
    )
    send(page, attack)
    assert attack in answered(page)
    assert page.eval("document.querySelectorAll('#messages img, #messages script').length") == 0
    assert page.eval("document.title") == "mcpcp chat"


def test_inline_script_and_other_origins_are_forbidden(page: Page) -> None:
    page.eval(
        "const s = document.createElement('script'); s.textContent = 'window.owned = 1';"
        " document.head.append(s); 1"
    )
    assert page.eval("window.owned") is None
    blocked = page.eval("fetch('http://127.0.0.1:1/').then(() => 'sent', (e) => String(e))")
    assert "TypeError" in blocked
    page.complained("script-src")
    page.complained("connect-src")
    page.complained("Fetch API")


def test_plots_are_shown(page: Page, llm: ScriptedLlm) -> None:
    llm.play(call(("pictures_test_image_content", {})), say("Here it is."))
    send(page, "Plot it")
    assert answered(page).endswith("Here it is.")
    page.until("document.querySelector('img.attachment').naturalWidth")
    assert page.eval("document.querySelector('img.attachment').alt")
    assert "shown to the user" in llm.requests[1]["messages"][-1]["content"]


def test_errors_can_be_read_and_the_question_asked_again(page: Page, llm: ScriptedLlm) -> None:
    llm.play(refuse(401, {}), say("Better."))
    send(page, "Hi")
    assert "set LLM_API_KEY" in answered(page)
    assert page.eval("document.querySelector('.error').getAttribute('role')") == "alert"
    page.until("document.activeElement.id === 'text'")
    page.complained("502")
    send(page, "Hi")
    page.until("document.querySelectorAll('.assistant').length === 2")
    assert answered(page) == "Better."
    assert [m["role"] for m in llm.requests[1]["messages"]] == ["system", "user"]


def test_tools_are_listed(page: Page) -> None:
    page.eval("document.getElementById('show-tools').click()")
    page.until("document.querySelector('#tools dt')")
    assert "raw_echo" in page.text("#tools")
    assert page.eval("document.getElementById('show-tools').ariaExpanded") == "true"


def test_shift_and_enter_begin_a_new_line(page: Page, llm: ScriptedLlm) -> None:
    page.until("document.activeElement.id === 'text'")
    page.type("one")
    page.press("Enter", shift=True)
    page.type("two")
    assert page.eval("document.getElementById('text').value") == "one\ntwo"
    assert not llm.requests


def test_a_narrow_screen_scrolls_nowhere_sideways(page: Page, llm: ScriptedLlm) -> None:
    page.resize(320, 640)
    llm.play(call(("raw_echo", {"message": "x" * 400})), say("y" * 400))
    send(page, "z" * 400)
    answered(page)
    assert page.eval("document.documentElement.scrollWidth") <= 320
    assert page.eval("document.getElementById('send').getBoundingClientRect().right") <= 320


def test_signing_out_and_pasting_a_token(page: Page, gateway: Gateway) -> None:
    page.eval("document.getElementById('sign-out').click()")
    page.until("document.activeElement.id === 'token'")
    assert page.eval("document.getElementById('composer').hidden")
    page.type(gateway.token())
    page.press("Enter")
    page.until("document.activeElement.id === 'text'")


def test_a_token_that_is_refused_leads_back_to_signing_in(page: Page) -> None:
    page.eval("sessionStorage.setItem('mcpcp-token', 'wrong')")
    send(page, "Hi")
    assert "does not accept the token" in answered(page)
    page.until("document.activeElement.id === 'token'")
    page.complained("401")
