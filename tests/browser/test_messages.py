"""Messages of the server in the reader's language: errors, warnings, notes and failed jobs."""

# ruff: noqa: RUF001 (punctuation of Japanese)
from __future__ import annotations

from typing import Any

from tests.browser.browser_kit import expect, row, setup

ONE_GRADIO = True  # see conftest.py

GONE = "/loras/<b>{1}</b> $&.safetensors: no such file. Check the path, and that the drive is connected."
CUT = (
    "hogs.safetensors: the file is cut off: 12 bytes are missing of 40 bytes of tensor data; expected a whole file. "
    "Download or copy the file again."
)
NOTES = [
    "unknown model family; layer names are kept",
    "3 layers (a, b and 1 more) kept in full: factors of that rank would be no smaller",
]


def _analysed(page: Any, name: str = "hogs") -> None:
    row(page, name).click()
    page.locator("#resize_lora_medium").check(force=True)


def test_an_error_is_shown_in_japanese_with_its_values_unchanged(japanese: Any) -> None:
    setup(japanese, errors={"analyse": ["file", GONE]})
    row(japanese, "hogs").click()
    toasts = japanese.locator("#resize_lora_toasts")
    expect(toasts).to_contain_text("/loras/<b>{1}</b> $&.safetensors：ファイルがありません。パスと、ドライブの接続を")
    expect(toasts).not_to_contain_text("no such file")


def test_an_error_without_a_translation_has_a_japanese_title(japanese: Any) -> None:
    setup(japanese, errors={"analyse": ["file", "a sentence of a newer server."]})
    row(japanese, "hogs").click()
    expect(japanese.locator("#resize_lora_toasts")).to_contain_text(
        "ファイルを使えません: a sentence of a newer server."
    )


def test_warnings_and_notes_are_shown_in_japanese(japanese: Any) -> None:
    setup(japanese, notes=NOTES)
    _analysed(japanese, "flat-extracted")
    shown = japanese.locator("#resize_lora_warnings")
    expect(shown).to_contain_text("効果はわずかです。「高」で減るのは 3 % だけです。")
    expect(shown).to_contain_text("未知のモデル系統です。層の名前は変えません")
    expect(shown).to_contain_text("3 層（a, b ほか 1 件）はそのまま残しました。")


def test_a_refused_plan_is_shown_in_japanese(japanese: Any) -> None:
    message = "size=1: the smallest file that this recipe allows has 3.250 MiB. Give that size or more."
    setup(japanese, errors={"plan": ["refused", message]})
    _analysed(japanese)
    expect(japanese.locator("#resize_lora_warnings")).to_contain_text(
        "size=1：このレシピでの最小は 3.250 MiB です。そのサイズ以上にしてください。"
    )


def test_a_failed_job_and_the_notes_of_a_result_are_shown_in_japanese(japanese: Any) -> None:
    setup(japanese, failure=["file", CUT])
    _analysed(japanese)
    japanese.click("#resize_lora_generate")
    expect(japanese.locator(".resize-lora-job").last).to_contain_text(
        "hogs.safetensors：ファイルが途中で切れています。テンソルデータ 40 バイトのうち 12 バイトがありません。"
    )
    setup(japanese, notes=NOTES[:1])
    _analysed(japanese)
    japanese.click("#resize_lora_generate")
    expect(japanese.locator(".resize-lora-result-note")).to_contain_text("未知のモデル系統です。層の名前は変えません")


def test_messages_are_english_for_an_english_reader(page: Any) -> None:
    setup(page, errors={"analyse": ["file", GONE]})
    row(page, "hogs").click()
    expect(page.locator("#resize_lora_toasts")).to_contain_text(GONE)
