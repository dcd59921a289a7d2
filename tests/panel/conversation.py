"""One conversation with all methods, for the service and for the stub that replaces it."""

from __future__ import annotations

from typing import Any

from tests.panel.declared import answer_faults, job_faults
from tests.panel.panelhost import Browser

LOW = {"target": {"preset": "low"}}


class Conversation:
    """Asks everything, and keeps which methods were asked and which fields are not as they are declared."""

    def __init__(self, browser: Browser) -> None:
        self.asked: set[str] = set()
        self.faults: list[str] = []
        self._browser = browser

    def ask(self, method: str, **params: Any) -> Any:
        answer = self._browser.reply(method, **params)
        self.asked.add(method)
        self.faults += answer_faults(method, answer)
        return answer.get("result", answer.get("error"))

    def job(self, method: str, **params: Any) -> Any:
        answer = self.ask(method, **params)
        job = self._browser.wait(answer["jobs"][0] if "jobs" in answer else answer["job"])
        self.faults += job_faults(job)
        return job["result"]

    def hold(self) -> None:
        """Ask all methods, with answers of each form."""
        self._look()
        made = self._work()
        self._prompts(made)
        self._results(made)
        self._runs()

    def _look(self) -> None:
        self.ask("hello")
        self._browser.listed()
        self.ask("library")
        self.ask("previews", names=["pastry"])
        self.ask("details", name="pastry")
        self.ask("open_folder", name="nobody")  # not opened: a test leaves no window behind
        self.ask("check_recipe", text="rank=8")
        self.ask("check_recipe", text="nonsense=1")

    def _work(self) -> dict[str, Any]:
        self.ask("plan", name="ink", **LOW)  # not analysed
        self.job("analyse", names=["pastry"])
        self.ask("library")
        self.ask("plan", name="pastry", **LOW)
        self.ask("plan", name="pastry", target={"size": 0.001})  # refused
        made: dict[str, Any] = self.job("resize", names=["pastry", "nobody"], **LOW)
        self.ask("resize", names=["pastry"], **LOW)  # the same again
        self.job("spectra", name="pastry")
        self.job("analyse", names=[made["output"]])  # with a warning
        self.ask("status")
        many = self.ask("analyse", names=["pastry", "ink"])
        self.ask("cancel", jobs=[many["job"]])
        return made

    def _prompts(self, made: dict[str, Any]) -> None:
        self.ask("prompt_tag", result=made["result"])
        self.ask("read_prompt", prompt="a cat <lora:pastry:0.5> <lora:nobody:1>")
        self.job("bake_plan", prompt="<lora:pastry:0.5> <lora:ink:1>")
        baked = self.job("bake", prompt="<lora:pastry:0.5> <lora:ink:1>", name="mix")
        self.ask("bake_into", result=baked["result"], prompt="a cat <lora:pastry:0.5>")
        self.ask("extract", **LOW)
        compared = self.job("compare", result=made["result"], settings={"prompt": "a cat"}, without=True)
        self.ask("picture", id=compared["pictures"][0]["id"])

        self._finds()

    def _finds(self) -> None:
        found = self.job("find", name="pastry", target=0.9, settings={"prompt": "a cat"}, seeds=2)
        if found["best"] is not None:
            self.ask("picture", id=found["best"]["pictures"][0]["id"])
        self.job("find_more", find=found["find"], direction="larger" if found["larger"] else "smaller")
        self.job("find_save", find=found["find"])
        many = self.ask("find", names=["ink", "nobody"], target=0.9, save=True)
        self.ask("find_stop", job=many["job"])
        self._browser.wait(many["job"])
        self.ask("find", name="pastry", target=2)  # no share

    def _results(self, made: dict[str, Any]) -> None:
        self.ask("results")
        self.ask("undo", result=made["result"])
        item = self.ask("trash")["items"][0]
        self.ask("restore", item=item["item"])
        self.ask("undo", result=made["result"])
        self.ask("results")
        self.ask("empty_trash", confirm=True)

    def _runs(self) -> None:
        self.job("estimate")
        self.ask("shrink_plan", **LOW)
        self.ask("shrink_plan", names=["pastry", "nobody"])
        self.ask("shrink", originals="none", **LOW)  # not confirmed
        run = self.job("shrink", names=["ink", "pastry"], least_gain=0.0, **LOW)
        self.ask("runs")
        self.ask("run", run=run["run"])
        self.ask("library")
        self.ask("run_control", run=run["run"], action="pause")  # it has ended
        stopped = self.ask("shrink", names=["pastry"], again=True, **LOW)
        self.ask("run_control", run=stopped["run"], action="stop")
        self.ask("run", run="0123456789abcdef")
        self.ask("archive")
        self.job("restore_originals", run=run["run"])
        self.job("shrink", names=["ink"], **LOW)
        self.ask("purge", all=True)
        self.ask("purge", all=True, confirm=True)
