"""The page in a headless Chromium: what people do there is what comes out."""

import threading
import time

import pytest
from browser_tools import SIZES, launched, needs_browser
from labeling_page_tools import (
    HOSTILE,
    HOSTILE_NAME,
    PASSWORDS,
    Team,
    answers_of_models,
    make_store,
    opened,
    prompts,
    samples,
)

from data_prep.labeling.export import exported_rows
from data_prep.labeling.store import Item

pytest.importorskip("gradio", reason="the extra `label` is not installed")

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = needs_browser

BOARD = "#label-board .page:not([data-screen=loading])"


@pytest.fixture(scope="module")
def browser():
    with launched() as browser:
        yield browser


@pytest.fixture
def visit(browser):
    """Opens an address in a browser of its own; instructions closed."""
    contexts = []

    def opens(url, size="wide", name=None, wait=BOARD, **more):
        context = browser.new_context(viewport=SIZES[size], **more)
        contexts.append(context)
        page = context.new_page()
        page.asked, page.errors = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("dialog", lambda dialog: page.errors.append(dialog.message))
        page.goto(url)
        if name is not None:
            log_in(page, name)
        page.wait_for_selector(wait)
        if page.locator(".drawer").is_visible():
            page.keyboard.press("i")
        return page

    yield opens
    for context in contexts:
        for page in context.pages:
            assert page.errors == []
        context.close()


def log_in(page, name: str) -> None:
    page.get_by_label("username").fill(name)
    page.get_by_label("password").fill(PASSWORDS[name])
    page.get_by_role("button", name="Login").click()


def press(page, keys: str) -> None:
    for key in keys.split():
        page.keyboard.press(key)


def saved(page) -> None:
    page.wait_for_function("document.querySelector('.saved').textContent === 'Saved.'")


def shown_numbers(page, selector: str) -> list[int]:
    """The number in the row of each output in the order that it is shown: "3 of 7" is 3."""
    texts = page.locator(f"{selector} .text").all_inner_texts()
    return [int(text.split()[0]) for text in texts]


def by_row(values_as_shown: list, numbers: list[int]) -> list:
    """By place on the page -> in the order of the row."""
    found = dict(zip(numbers, values_as_shown, strict=True))
    return [found[number] for number in sorted(found)]


def the_row(store) -> dict:
    [row] = exported_rows(store)
    return row


def judge_each(page, qualities: list[int]) -> None:
    for quality in qualities:
        press(page, f"{quality} Enter")


def drag(page, place: int, target, where: float = 0.5) -> None:
    """With the mouse: by the handle of an output to a place in a target, 0 its top, 1 its end."""
    handle = page.get_by_role("group", name=f"Output {place}, ").locator(".handle")
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    page.mouse.move(box["x"] + 30, box["y"] + box["height"] / 2)
    page.mouse.down()
    to = target.bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 30, steps=3)
    page.mouse.move(to["x"] + to["width"] / 2, to["y"] + where * to["height"], steps=8)
    page.mouse.up()


def test_five_outputs_ranked_by_drag(visit, tmp_path):
    store, project = make_store(tmp_path / "l.sqlite", samples(1, 5))
    with opened(store, project) as url:
        page = visit(url)
        press(page, "7 a l Enter")
        judge_each(page, [5, 3, 2, 1])
        numbers = shown_numbers(page, ".tray")
        group = page.locator(".group")
        drag(page, 2, page.locator(".empty"))
        # below the only one
        drag(page, 4, page.locator(".gap").last)
        # a tie with the first
        drag(page, 1, group.nth(0))
        # between the two
        drag(page, 5, page.locator(".gap").nth(1))
        # best of all, then out of the ranking again, and last
        drag(page, 3, page.locator(".gap").first)
        drag(page, 3, page.locator(".tray"))
        assert page.get_by_text("To rank: 1").is_visible()
        drag(page, 3, page.locator(".gap").last)
        page.get_by_role("button", name="Save").click()
        saved(page)
    row = the_row(store)
    # as shown: 1 and 2 tied, then 5, 4, 3
    assert row["ranks"] == by_row([1, 1, 4, 3, 2], numbers)
    assert row["quality"] == by_row([7, 5, 3, 2, 1], numbers)
    flags = [["fails_instruction", "moral_judgement"], [], [], [], []]
    assert row["flags"] == by_row(flags, numbers)
    assert row["completions"] == [f"{k} of 0" for k in range(5)] and row["labeler"] == "labeler"


def test_nine_outputs_ranked_by_keys_with_two_ties(visit, tmp_path):
    store, project = make_store(tmp_path / "l.sqlite", samples(1, 9), ranking_only=True)
    with opened(store, project) as url:
        page = visit(url)
        numbers = shown_numbers(page, ".tray")
        # 4 best, 2 and 9 tied, then 1; 7 is moved up past 1; 3, 5 and 8 tied; 6 last
        press(page, "4 2 9 = 1 7 ArrowUp 3 5 = 8 = 6")
        # a slip, undone
        press(page, "4 ArrowDown u Enter")
        saved(page)
        assert page.get_by_text("Nothing is left for you").is_visible()
    row = the_row(store)
    assert row["ranks"] == by_row([4, 2, 5, 1, 5, 6, 3, 5, 2], numbers)
    assert row["quality"] == [None] * 9 and row["flags"] == [[]] * 9


def test_ranking_by_buttons(visit, tmp_path):
    store, project = make_store(tmp_path / "l.sqlite", samples(1, 4), ranking_only=True)
    with opened(store, project) as url:
        page = visit(url, "narrow")
        numbers = shown_numbers(page, ".tray")
        for place in (1, 2, 3, 4):
            page.get_by_role("button", name=f"Rank next: Output {place}").click()
        page.get_by_role("button", name="Better: Output 4").click()
        page.get_by_role("button", name="Worse: Output 1").click()
        page.get_by_role("button", name="Tie with the one above, or end the tie: Output 3").click()
        page.get_by_role("button", name="Save").click()
        saved(page)
    # 1 2 3 4 -> 1 2 4 3 -> 2 1 4 3 -> 2 1 (4 3)
    assert the_row(store)["ranks"] == by_row([2, 1, 3, 3], numbers)


@pytest.mark.parametrize(("key", "ranks"), [("1", [1, 2]), ("2", [2, 1]), ("=", [1, 1])])
def test_a_pair_is_judged_blind(visit, tmp_path, key, ranks):
    items = answers_of_models(1)
    store, project = make_store(tmp_path / "l.sqlite", items, kind="judgements")
    with opened(store, project) as url:
        page = visit(url)
        judge_each(page, [6, 2])
        numbers = shown_numbers(page, ".side")
        assert "SECRET" not in page.content()
        press(page, f"{key} Enter")
        saved(page)
    row = the_row(store)
    assert row["ranks"] == by_row(ranks, numbers) and row["quality"] == by_row([6, 2], numbers)
    assert row["order"] == numbers and row["models"] == ["SECRET-a", "SECRET-b"]


def test_demonstrations_of_the_log_and_of_ones_own(visit, tmp_path):
    store, project = make_store(tmp_path / "l.sqlite", prompts(3), kind="demonstrations")
    with opened(store, project) as url:
        page = visit(url)
        page.get_by_label("Your answer").fill("An answer.\n\nIn two parts: <b>שלום</b>")
        page.keyboard.press("Control+Enter")
        saved(page)
        page.get_by_label("A prompt of my own instead").check()
        page.get_by_label("Few-shot").check()
        page.get_by_label("Instruction", exact=True).fill("Translate.")
        for i, (query, response) in enumerate([("one", "eins"), ("two", "zwei")], 1):
            page.get_by_label(f"Query {i}").fill(query)
            page.get_by_label(f"Response {i}").fill(response)
        page.get_by_label("Last query, which you answer").fill("three")
        page.get_by_label("Response to the last query").fill("drei")
        page.get_by_role("button", name="Save").click()
        page.get_by_text("Question 2?").wait_for()
        page.get_by_label("A prompt of my own instead").check()
        page.get_by_label("User-based").check()
        page.get_by_role("combobox", name="Use case").fill("letters of complaint")
        page.get_by_label("Your prompt").fill("My toaster burns everything.")
        page.get_by_label("Your answer").fill("Dear Sir or Madam, …")
        page.get_by_role("button", name="Save").click()
        page.get_by_text("Nothing is left for you").wait_for()
    log, few_shot, user_based = exported_rows(store)
    assert log["prompt"] == [{"role": "user", "content": "Question 0?"}]
    assert log["completion"][0]["content"] == "An answer.\n\nIn two parts: <b>שלום</b>"
    assert few_shot["prompt"][0]["content"] == (
        "Translate.\n\nQuery: one\nResponse: eins\n\nQuery: two\nResponse: zwei\n\n"
        "Query: three\nResponse:"
    )
    assert few_shot["completion"][0]["content"] == "drei"
    assert few_shot["request_form"] == "few_shot"
    assert user_based["category"] == "letters of complaint"
    assert user_based["prompt"][0]["content"] == "My toaster burns everything."


def test_skip_with_a_reason_and_back_to_the_last_item(visit, tmp_path):
    store, project = make_store(tmp_path / "l.sqlite", samples(3, 3), ranking_only=True)
    with opened(store, project) as url:
        page = visit(url)
        press(page, "s")
        page.get_by_role("button", name="It contains personal data").click()
        page.get_by_text("Question 1?").wait_for()
        press(page, "3 2 1 Enter")
        page.get_by_text("Question 2?").wait_for()
        press(page, "u")
        page.get_by_text("Question 1?").wait_for()
        # as it was left: the last becomes the best
        press(page, "1 ArrowUp ArrowUp Enter")
        page.get_by_text("Question 2?").wait_for()
    history = list(store.history())
    assert [step["reason"] for step in history] == ["It contains personal data", None, None]
    assert len({step["item"] for step in history}) == 2, "the change is a row of its own"


def test_a_reason_is_chosen_and_not_hit(visit, tmp_path):
    """Enter is the key used all day: it takes no reason that nobody chose."""
    store, project = make_store(tmp_path / "l.sqlite", samples(3, 2), ranking_only=True)
    with opened(store, project) as url:
        page = visit(url)
        press(page, "s Enter")
        dialog = page.locator(".ask")
        skips = dialog.get_by_role("button", name="Skip", exact=True)
        assert dialog.is_visible()
        skips.click()
        assert page.locator(".missing").inner_text() == "Write the reason, or choose one above."
        # a digit in a reason of one's own is a digit
        press(page, "4")
        assert dialog.locator("textarea").input_value() == "4"
        # what is typed at once is the beginning of a reason, and no shortcut is one
        press(page, "Escape s Control+1 Alt+1 n o 1")
        assert dialog.locator("textarea").input_value() == "no1"
        press(page, "Escape s 4")
        page.get_by_text("Question 1?").wait_for()
        press(page, "s")
        dialog.locator("textarea").fill("no idea")
        press(page, "Control+Enter")
        page.get_by_text("Question 2?").wait_for()
    assert [one["reason"] for one in store.history()] == ["It contains personal data", "no idea"]


def test_what_is_said_of_an_item_does_not_stay_on_the_next(visit, tmp_path):
    store, project = make_store(tmp_path / "l.sqlite", samples(3, 2), ranking_only=True)
    with opened(store, project) as url:
        page = visit(url)
        back = page.get_by_role("button", name="Back to last item")
        assert back.is_disabled()
        press(page, "Enter")
        assert page.locator(".spoken").inner_text() == "Choose first: 1, 2 or = for equal."
        press(page, "1 Enter")
        page.get_by_text("Question 1?").wait_for()
        assert page.locator(".spoken").inner_text() == "" and back.is_enabled()
        press(page, "u")
        page.get_by_text("Question 0?").wait_for()
        assert page.locator(".spoken").inner_text().startswith("You saved this before")
        press(page, "Enter")
        page.get_by_text("Question 1?").wait_for()
        assert page.locator(".spoken").inner_text() == ""


def test_nothing_is_entered_unseen_under_the_instructions(visit, tmp_path):
    store, project = make_store(tmp_path / "l.sqlite", samples(1, 3))
    with opened(store, project) as url:
        phone, screen = visit(url, "narrow"), visit(url)
        for page in (phone, screen):
            press(page, "i 7 Enter")
        # all over the work: nothing but closing them
        assert phone.locator(".drawer").is_visible()
        assert phone.locator(".step[aria-current]").inner_text() == "1"
        press(phone, "Escape 7 Enter")
        assert phone.locator(".step").first.inner_text() == "1 · 7/7"
        # beside it
        assert screen.locator(".step").first.inner_text() == "Output 1 · 7/7"
        right = screen.locator(".drawer").bounding_box()["x"]
        for part in (".work", ".actions", ".menu"):
            box = screen.locator(f"#label-board {part}").bounding_box()
            assert box["x"] + box["width"] <= right


def test_what_was_left_out_says_so_when_it_comes_back(visit, tmp_path):
    store, project = make_store(tmp_path / "l.sqlite", samples(2, 2), ranking_only=True)
    with opened(store, project) as url:
        page = visit(url)
        press(page, "s 4")
        page.get_by_text("Question 1?").wait_for()
        press(page, "u")
        page.get_by_text("Question 0?").wait_for()
        assert (
            page.locator(".spoken").inner_text() == "You left this out: It contains personal data"
        )


def test_seconds_before_a_reload_are_worked_ones(visit, tmp_path):
    store, project = make_store(tmp_path / "l.sqlite", samples(2, 2), ranking_only=True)
    with opened(store, project) as url:
        page = visit(url)
        page.wait_for_timeout(2000)
        page.reload()
        page.get_by_text("Question 0?").wait_for()
        press(page, "1 Enter")
        page.get_by_text("Question 1?").wait_for()
        press(page, "1 Enter")
        page.get_by_text("Nothing is left").wait_for()
    first, second = (given["seconds"] for given in store.answers())
    assert 2 <= first and second < 2


def test_whoever_logged_in_since_goes_on_as_who_he_is(visit, tmp_path):
    store, project = make_store(tmp_path / "l.sqlite", samples(4, 2), ranking_only=True)
    with opened(store, project, Team(), "owner") as url:
        page = visit(url, wait="label:has-text('username')")
        log_in(page, "ada")
        page.wait_for_selector(BOARD)
        other = page.context.new_page()
        other.errors = []
        other.goto(f"{url}/logout")
        other.goto(url)
        log_in(other, "owner")
        other.wait_for_selector(BOARD)
        page.bring_to_front()
        if page.locator("#label-board .drawer").is_visible():
            press(page, "i")
        press(page, "1 Enter")
        page.get_by_text("opened under another name").wait_for()
        page.get_by_role("button", name="Leave it").click()
        page.wait_for_function("document.querySelector('.who').textContent === 'owner'")
        press(page, "1 Enter")
        saved(page)
    assert [given["labeler"] for given in store.answers()] == ["owner"]


def test_the_prompt_stays_in_sight_while_many_are_ranked(visit, tmp_path):
    [item] = samples(1, 9)
    long = Item({**item.row, "completions": [f"{n} of 0 " + "word " * 300 for n in range(9)]})
    store, project = make_store(tmp_path / "l.sqlite", [long], ranking_only=True)
    with opened(store, project) as url:
        page = visit(url)
        press(page, "1 2 3 4 5 6 7 8 9")
        page.mouse.wheel(0, 1500)
        page.wait_for_function("scrollY > 1000")
        assert 0 <= page.get_by_text("Question 0?").bounding_box()["y"] < 200


def test_who_lost_an_item_goes_on_with_another(visit, tmp_path):
    store, project = make_store(tmp_path / "l.sqlite", samples(2, 2), ranking_only=True)
    with opened(store, project) as url:
        page = visit(url)
        # 61 minutes later the item is another's
        store.now = lambda: time.time() + 3660
        store.take("bob")
        press(page, "1 Enter")
        page.get_by_text("went to another labeler").wait_for()
        assert "failed" in page.locator("#label-board .saved").get_attribute("class")
        page.get_by_role("button", name="Leave it").click()
        page.get_by_text("Question 1?").wait_for()
        assert page.locator("#label-board .trouble").inner_text() == ""
        press(page, "2 Enter")
        saved(page)
    assert [given["labeler"] for given in store.answers()] == ["labeler"]


def test_what_was_written_outlives_its_tab(visit, tmp_path):
    store, project = make_store(tmp_path / "l.sqlite", prompts(1), kind="demonstrations")
    with opened(store, project) as url:
        page = visit(url)
        page.get_by_label("Your answer").fill("An hour's work")
        another = page.context.new_page()
        another.errors = []
        page.close()
        another.goto(url)
        another.get_by_text("Question 0?").wait_for()
        assert another.get_by_label("Your answer").input_value() == "An hour's work"
        another.get_by_role("button", name="Save").click()
        another.get_by_text("Nothing is left for you").wait_for()
        assert another.evaluate("Object.keys(localStorage).filter(k => /draft/.test(k))") == []


def test_nothing_is_saved_before_the_store_says_so(visit, tmp_path, monkeypatch):
    store, project = make_store(tmp_path / "l.sqlite", samples(2, 3), ranking_only=True)
    with opened(store, project) as url:
        page = visit(url)
        looked = threading.Event()

        def fails(*_):
            looked.wait(60)
            raise OSError("no disk")

        monkeypatch.setattr(store, "answer", fails)
        press(page, "1 2 3 Enter")
        assert page.locator("#label-board .saved").inner_text() == "Saving …"
        # what was entered now would be in no answer
        press(page, "1 ArrowDown u s")
        with pytest.raises(sync_api.TimeoutError):
            page.get_by_role("button", name="Take out of the ranking: Output 1").click(timeout=500)
        assert page.locator(".group").count() == 3 and not page.locator(".ask").is_visible()
        looked.set()
        page.get_by_role("alert").get_by_text("Nothing is lost here").wait_for()
        assert page.locator("#label-board .saved").inner_text() == "Not saved"
        monkeypatch.undo()
        # a reload, as after a crash: what was entered is still there
        page.reload()
        page.wait_for_selector(".group")
        assert page.locator(".group").count() == 3
        press(page, "Enter")
        saved(page)
    assert store.progress("labeler")["done"] == 1


def test_what_is_typed_while_an_answer_is_saved_is_not_lost_unseen(visit, tmp_path, monkeypatch):
    store, project = make_store(tmp_path / "l.sqlite", prompts(2), kind="demonstrations")
    with opened(store, project) as url:
        page = visit(url)
        looked = threading.Event()

        def fails(*_):
            looked.wait(60)
            raise OSError("no disk")

        monkeypatch.setattr(store, "answer", fails)
        answer = page.get_by_label("Your answer")
        answer.fill("First.")
        page.keyboard.press("Control+Enter")
        page.wait_for_function("document.querySelector('.saved').textContent === 'Saving …'")
        page.keyboard.type(" Lost.")
        # what the server has been sent is what is seen
        assert answer.input_value() == "First."
        looked.set()
        page.get_by_role("alert").get_by_text("Nothing is lost here").wait_for()
        monkeypatch.undo()
        # where he was, he goes on
        page.keyboard.type(" Second.")
        page.get_by_role("button", name="Try again").click()
        saved(page)
        page.get_by_text("Question 1?").wait_for()
        page.get_by_label("Your answer").fill("Third.")
    [row] = exported_rows(store)
    assert row["completion"][0]["content"] == "First. Second."


def test_two_tabs_save_no_answer_to_another_item(visit, tmp_path):
    store, project = make_store(tmp_path / "l.sqlite", samples(2, 3), ranking_only=True)
    with opened(store, project) as url:
        one = visit(url)
        other = one.context.new_page()
        other.errors = []
        other.goto(url)
        other.locator("#label-board .card").first.wait_for()
        press(other, "1 2 3 Enter")
        other.get_by_text("Question 1?").wait_for()
        # the first tab still shows what the other has saved
        press(one, "3 2 1 Enter")
        one.get_by_role("alert").get_by_text("was saved before").wait_for()
        for _ in range(2):
            one.get_by_role("button", name="Try again").click()
            one.get_by_role("alert").get_by_text("was saved before").wait_for()
        assert one.get_by_text("Question 0?").is_visible()
    assert [step["item"] for step in store.history()] == [1]


def test_a_card_in_hand_is_put_down_before_the_next_item(visit, tmp_path):
    store, project = make_store(tmp_path / "l.sqlite", samples(2, 3), ranking_only=True)
    with opened(store, project) as url:
        page = visit(url)
        press(page, "1 2 3")
        handle = page.get_by_role("group", name="Output 1, ").locator(".handle")
        box = handle.bounding_box()
        page.mouse.move(box["x"] + 30, box["y"] + 5)
        page.mouse.down()
        page.mouse.move(box["x"] + 90, box["y"] + 90, steps=4)
        press(page, "Enter")
        assert page.locator(".ghost").count() == 1
        press(page, "Escape")
        page.mouse.up()
        assert not list(store.history())
        press(page, "Enter")
        saved(page)
        assert page.locator(".group").count() == 0


def test_who_is_logged_out_is_told_and_loses_nothing(visit, tmp_path):
    store, project = make_store(tmp_path / "l.sqlite", samples(1, 3), ranking_only=True)
    with opened(store, project, Team()) as url:
        page = visit(url, name="ada")
        press(page, "3 1 2")
        # as after a restart of the server, which keeps no sessions
        page.context.clear_cookies()
        press(page, "Enter")
        page.get_by_role("alert").get_by_text("You are logged out").wait_for()
        page.reload()
        log_in(page, "ada")
        page.wait_for_selector(".group")
        press(page, "Enter")
        saved(page)
    assert store.progress("ada")["done"] == 1


def test_the_next_labeler_in_a_tab_finds_no_draft_of_anothers(visit, tmp_path):
    items = samples(1, 3)
    store, project = make_store(tmp_path / "l.sqlite", items, ranking_only=True, overlap=1.0)
    with opened(store, project, Team()) as url:
        page = visit(url, name="ada")
        press(page, "3 1 2")
        page.context.clear_cookies()
        page.reload()
        log_in(page, "owner")
        page.locator("#label-board .card").first.wait_for()
        assert page.locator(".who").inner_text() == "owner"
        assert page.locator(".group").count() == 0
        # hers waits for her
        page.context.clear_cookies()
        page.reload()
        log_in(page, "ada")
        page.locator("#label-board .card").first.wait_for()
        assert page.locator(".group").count() == 3


def test_a_tab_that_another_labeler_opened_saves_nothing_for_this_one(visit, tmp_path):
    items = samples(1, 3)
    store, project = make_store(tmp_path / "l.sqlite", items, ranking_only=True, overlap=1.0)
    with opened(store, project, Team()) as url:
        hers = visit(url, name="ada")
        press(hers, "3 1 2")
        # the browser's cookie is the other's from now on
        hers.context.clear_cookies()
        other = hers.context.new_page()
        other.errors = []
        other.goto(url)
        log_in(other, "owner")
        other.locator("#label-board .card").first.wait_for()
        press(hers, "Enter")
        hers.get_by_role("alert").get_by_text("load the page again").wait_for()
    assert not list(store.history())


def test_another_database_behind_the_same_address_has_no_draft(visit, tmp_path):
    store, project = make_store(tmp_path / "l.sqlite", prompts(1), kind="demonstrations")
    with opened(store, project) as url:
        page = visit(url)
        page.get_by_label("Your answer").fill("Of the first database.")
        page.reload()
        page.get_by_label("Your answer").wait_for()
        assert page.get_by_label("Your answer").input_value() == "Of the first database."
        store.database = "another"
        page.reload()
        page.get_by_label("Your answer").wait_for()
        assert page.get_by_label("Your answer").input_value() == ""


def test_a_prompt_of_ones_own_keeps_its_kind_when_it_is_changed(visit, tmp_path):
    store, project = make_store(tmp_path / "l.sqlite", prompts(2), kind="demonstrations")
    few_shot = {"prompt": "Do.\n\nQuery: a\nResponse: b\n\nQuery: c\nResponse:"}
    few_shot |= {"completion": "d", "request_form": "few_shot"}
    user_based = {"prompt": "Complain.", "completion": "No.", "request_form": "user_based"}
    for answer in (few_shot, {**user_based, "use_case": "letters"}):
        store.answer("labeler", store.take("labeler").item, answer, 1.0)
    with opened(store, project) as url:
        page = visit(url)
        page.get_by_role("button", name="Back to last item").click()
        page.get_by_text("Question 1?").wait_for()
        page.get_by_label("Your answer").fill("Never.")
        page.get_by_role("button", name="Back to last item").click()
        page.get_by_text("Question 0?").wait_for()
        assert page.get_by_label("Few-shot").is_checked()
        assert "Query: c" in page.get_by_label("Your prompt, examples included").input_value()
        page.get_by_label("Response to the last query").fill("D")
        page.get_by_role("button", name="Save").click()
        page.get_by_text("Question 1?").wait_for()
        page.get_by_label("Your answer").fill("Never.")
        page.get_by_role("button", name="Save").click()
        page.get_by_text("Nothing is left for you").wait_for()
    now = [given["answer"] for given in store.answers()]
    assert now == [
        {**few_shot, "completion": "D", "use_case": None},
        {**user_based, "completion": "Never.", "use_case": "letters"},
    ]


def fail_to_save(page, store, monkeypatch, keys: str) -> None:
    """Sends an answer that the store does not take, and waits until that is told."""

    def fails(*_):
        raise OSError("no disk")

    monkeypatch.setattr(store, "answer", fails)
    press(page, keys)
    page.get_by_role("button", name="Try again").wait_for()
    monkeypatch.undo()


def test_what_is_changed_after_a_failure_is_what_is_tried_again(visit, tmp_path, monkeypatch):
    store, project = make_store(tmp_path / "l.sqlite", samples(1, 3), ranking_only=True)
    with opened(store, project) as url:
        page = visit(url)
        numbers = shown_numbers(page, ".tray")
        fail_to_save(page, store, monkeypatch, "1 2 3 Enter")
        press(page, "3 Backspace")
        page.get_by_role("button", name="Try again").click()
        assert page.get_by_text("Still to rank: Output 3.").is_visible()
        fail_to_save(page, store, monkeypatch, "3 ArrowUp Enter")
        press(page, "3 ArrowUp")
        page.get_by_role("button", name="Try again").click()
        saved(page)
    assert the_row(store)["ranks"] == by_row([2, 3, 1], numbers)


def test_what_is_written_after_a_failure_is_what_is_tried_again(visit, tmp_path, monkeypatch):
    store, project = make_store(tmp_path / "l.sqlite", prompts(1), kind="demonstrations")
    with opened(store, project) as url:
        page = visit(url)
        page.get_by_label("Your answer").fill("A slip.")
        fail_to_save(page, store, monkeypatch, "Control+Enter")
        page.get_by_label("Your answer").fill("An answer.")
        page.get_by_role("button", name="Try again").click()
        saved(page)
    assert the_row(store)["completion"][0]["content"] == "An answer."


def test_a_pair_chosen_anew_after_a_failure_is_what_is_tried_again(visit, tmp_path, monkeypatch):
    items = answers_of_models(1)
    store, project = make_store(tmp_path / "l.sqlite", items, kind="judgements")
    with opened(store, project) as url:
        page = visit(url)
        judge_each(page, [6, 2])
        numbers = shown_numbers(page, ".side")
        fail_to_save(page, store, monkeypatch, "1 Enter")
        press(page, "2")
        page.get_by_role("button", name="Try again").click()
        saved(page)
    assert the_row(store)["ranks"] == by_row([2, 1], numbers)


def test_an_unfinished_item_is_not_sent(visit, tmp_path):
    store, project = make_store(tmp_path / "l.sqlite", samples(1, 4))
    with opened(store, project) as url:
        page = visit(url)
        press(page, "Enter")
        assert page.get_by_text("Give a quality first").is_visible()
        judge_each(page, [1, 2, 3, 4])
        press(page, "2 1 Enter")
        assert page.get_by_text("Still to rank: Output 3, Output 4.").is_visible()
    assert not list(store.answers())


def hostile_items() -> list[Item]:
    said = [{"role": "user", "content": "\n".join(HOSTILE[:4])}]
    return [Item({"prompt_id": "h", "prompt": said, "completions": list(HOSTILE)})]


def test_hostile_text_is_inert_and_readable(visit, tmp_path):
    instructions = "# " + "\n\n".join(HOSTILE[:4])
    store, project = make_store(tmp_path / "l.sqlite", hostile_items(), instructions=instructions)
    with opened(store, project, Team(), owner=HOSTILE_NAME) as url:
        page = visit(url, name=HOSTILE_NAME)
        assert page.locator(".who").inner_text() == HOSTILE_NAME
        press(page, "i")
        assert HOSTILE[0] in page.locator(".drawer").inner_text()
        assert "a link (javascript:alert(1))" in page.locator(".drawer").inner_text()
        press(page, "i")
        seen = page.locator(".reading").inner_text()
        for text in HOSTILE[:3]:
            assert text in seen
        assert "nul \\x00 and right-to-left \\u202egnp.exe\\u202c שלום" in seen
        judge_each(page, [1, 2, 3, 4, 5])
        page.get_by_role("button", name="Show all 1,000,000 characters").click()
        assert len(page.locator(".tray").inner_text()) > 1_000_000
        press(page, "1 2 3 4 5 Enter")
        saved(page)
        page.get_by_role("button", name="Owner's view").click()
        page.get_by_role("rowheader", name=HOSTILE_NAME).wait_for()
        assert page.title() == "Labeling"
        # elements that came out of a text would be these
        board = "#label-board :is(script, img, a, b, iframe), #label-owner :is(script, img, a, b)"
        assert page.locator(board).count() == 0
    row = the_row(store)
    assert row["completions"] == list(HOSTILE) and row["labeler"] == HOSTILE_NAME


def test_nothing_is_asked_of_another_address(visit, tmp_path):
    store, project = make_store(tmp_path / "l.sqlite", samples(1, 3))
    with opened(store, project) as url:
        page = visit(url)
        page.get_by_role("button", name="Owner's view").click()
        page.wait_for_selector(".numbers")
        assert len(page.asked) > 5
        assert [asked for asked in page.asked if not asked.startswith((url, "data:"))] == []


def test_the_owner_sees_progress_and_downloads_rows(visit, tmp_path):
    store, project = make_store(tmp_path / "l.sqlite", samples(2, 3), overlap=1.0)
    for name, best_first in [("ada", [1, 2, 3]), ("bob", [3, 2, 1])]:
        for _ in range(2):
            answer = {"ranks": best_first, "quality": [4] * 3, "flags": [[]] * 3}
            store.answer(name, store.take(name).item, answer, 30.0)
    with opened(store, project) as url:
        page = visit(url)
        page.get_by_role("button", name="Owner's view").click()
        page.get_by_text("0.0 % of 6 pairs (95 %").wait_for()
        assert page.get_by_text("3 of 3 pairs the other way round").count() == 2
        with page.expect_download() as download:
            page.get_by_role("button", name="Export").click()
        assert len(download.value.path().read_text().splitlines()) == 4


def test_the_owner_is_told_what_an_export_leaves_out(visit, tmp_path):
    row = samples(1, 2)[0].row
    screened = Item({**row, "prompt_id": "s"}, {"ranks": [1, 2], "flags": None})
    store, project = make_store(tmp_path / "l.sqlite", [Item(row), screened], ranking_only=True)
    for _ in range(2):
        store.answer("labeler", store.take("labeler").item, {"ranks": [1, 2]}, 1.0)
    with opened(store, project) as url:
        page = visit(url)
        page.get_by_role("button", name="Owner's view").click()
        page.wait_for_selector(".numbers")
        with page.expect_download():
            page.get_by_role("button", name="Export").click()
        told = "1 row: rankings.jsonl; left out: 1 answer to screening items"
        page.get_by_text(told, exact=True).wait_for()


def test_the_owner_reads_why_items_were_skipped(visit, tmp_path):
    items = hostile_items() + samples(1, 2)
    store, project = make_store(tmp_path / "l.sqlite", items, ranking_only=True)
    for reason in ("too long", "\n".join(HOSTILE[:4])):
        store.skip(HOSTILE_NAME, store.take(HOSTILE_NAME).item, reason)
    with opened(store, project) as url:
        page = visit(url)
        page.get_by_role("button", name="Owner's view").click()
        skips = page.get_by_role("group", name="Skipped items")
        skips.wait_for()
        latest, earlier = skips.locator("tbody tr").all()
        assert "Question 0?" in latest.inner_text()
        for text in (*HOSTILE[:3], "\\x00 and right-to-left \\u202egnp", HOSTILE_NAME):
            assert text in latest.inner_text()
        assert "too long" in earlier.inner_text()
        assert skips.locator("script, img, a, b").count() == 0
        page.set_viewport_size(SIZES["narrow"])
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZES["narrow"]["width"]
        assert page.title() == "Labeling"


def test_the_owner_is_told_where_a_text_is_cut(visit, tmp_path):
    long = Item({**samples(1, 2)[0].row, "completions": ["w" * 5000, "short"]})
    store, project = make_store(tmp_path / "l.sqlite", [long], ranking_only=True, overlap=1.0)
    for name, ranks in [("ada", [1, 2]), ("bob", [2, 1])]:
        store.answer(name, store.take(name).item, {"ranks": ranks}, 1.0)
    with opened(store, project) as url:
        page = visit(url)
        page.get_by_role("button", name="Owner's view").click()
        page.get_by_text("The first 4,000 of 5,000 characters").wait_for()
        assert page.get_by_text("The first 4,000").count() == 1


def axe_findings(page) -> list[str]:
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    serious = [one for one in found if one["impact"] in ("serious", "critical")]
    return [f"{one['id']}: {[node['html'][:120] for node in one['nodes']]}" for one in serious]


@pytest.mark.parametrize("colors", ["light", "dark"])
@pytest.mark.parametrize("size", list(SIZES))
def test_every_screen_is_accessible_and_no_wider_than_the_window(visit, tmp_path, size, colors):
    pytest.importorskip("axe_playwright_python", reason="axe is not installed")

    def check():
        assert axe_findings(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size]["width"]

    long = [Item({**i.row, "completions": ["word " * 400, "w" * 500, *i.row["completions"]]})
            for i in samples(3, 3)]  # fmt: skip
    boards = [
        ("rankings", long),
        ("judgements", answers_of_models(2)),
        ("demonstrations", prompts(2)),
    ]
    for kind, items in boards:
        store, project = make_store(tmp_path / kind, items, kind=kind)
        with opened(store, project) as url:
            page = visit(url, size, color_scheme=colors)
            press(page, "i")
            check()
            press(page, "i")
            check()
            if kind == "demonstrations":
                page.get_by_label("A prompt of my own instead").check()
                page.get_by_label("Few-shot").check()
            else:
                judge_each(page, [4, 4, 4, 4, 4][: page.locator(".step").count() - 1])
                check()
                press(page, "1 2 = 3" if kind == "rankings" else "=")
            check()
            press(page, "s")
            assert page.locator(".ask").is_visible()
            check()
            press(page, "Escape")
            page.get_by_role("button", name="Owner's view").click()
            page.wait_for_selector(".numbers")
            check()


@pytest.mark.parametrize("colors", ["light", "dark"])
def test_the_login_is_accessible_too(visit, tmp_path, colors):
    pytest.importorskip("axe_playwright_python", reason="axe is not installed")
    with opened(*make_store(tmp_path / "l.sqlite", samples(1, 2)), Team(), "owner") as url:
        page = visit(url, color_scheme=colors, wait="label:has-text('username')")
        assert page.title() == "Labeling" and axe_findings(page) == []
        log_in(page, "ada")
        page.get_by_text("Question 0?").wait_for()
        assert page.title() == "Labeling"


def test_focus_is_seen_and_follows_the_keys(visit, tmp_path):
    store, project = make_store(tmp_path / "l.sqlite", samples(1, 3), ranking_only=True)
    with opened(store, project) as url:
        page = visit(url)
        press(page, "2")
        focused = page.locator(":focus")
        assert focused.get_attribute("aria-label") == "Output 2, rank 1 of 1"
        assert focused.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
        press(page, "Tab")
        assert page.locator(":focus").evaluate("e => getComputedStyle(e).outlineWidth") == "3px"
        assert page.locator(".spoken").inner_text() == "Output 2: rank 1 of 1"
        assert page.locator("#label-board [role=status].saved[aria-live=polite]").count() == 1
