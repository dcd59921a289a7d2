"""Answers the questions of the page: one JSON text each way, in the form of docs/panel-protocol.md."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from ..hosts.host import Host
from . import recovery
from .analyses import Analyses
from .archives import Archives
from .desk import Desk, hidden
from .estimates import Estimates
from .faults import Fault
from .hiding import KnownFolders
from .images import Images
from .library import Library
from .methods import ANSWERS
from .picturing.finds import Finds
from .previews import Previews
from .protocol.methods import METHODS
from .questions import check_session, id_of, plain, read_question
from .queue import Queue
from .records import new_id
from .refreshing import Refresher
from .results import Results
from .runs.control import Runs
from .versions import Versions


class Service:
    """The service of one host. Every method may be called from any thread."""

    def __init__(self, host: Host, cache: Path | None = None) -> None:
        """`cache` is the file of known headers; None for the user's own."""
        folders, archives, session = KnownFolders(host), Archives(host), new_id()
        library = Library(host, cache, lambda: {home: entry.id for home, entry in archives.by_home().items()})
        queue = Queue(host, lambda error: hidden(error, folders))
        self.desk = Desk(
            host=host,
            session=session,
            library=library,
            versions=Versions(host, library),
            analyses=Analyses(host),
            queue=queue,
            results=Results(host, session),
            images=Images(),
            previews=Previews(),
            folders=folders,
            refresher=Refresher(host),
            archives=archives,
            runs=Runs(host, queue, archives),
            estimates=Estimates(host, library, queue, archives),
            finds=Finds(lambda job: queue.knows(job, active=True)),
            recovered=threading.Event(),
        )
        self.recovering = recovery.start(self.desk)

    def call(self, text: str) -> str:
        """Answer one question; both are JSON texts. Never raises."""
        id: Any = None
        try:
            question = read_question(text)
            id = id_of(question)
            check_session(question, self.desk.session)
            answer = {"id": id, "result": plain(self.ask(question.get("method"), question.get("params")))}
            return json.dumps(answer, allow_nan=False)
        except Exception as error:  # the page needs an answer, with any exception
            return json.dumps({"id": id, "error": self.desk.error(error)}, allow_nan=False)

    def ask(self, method: Any, params: Any = None) -> Any:
        """Answer a question given as Python values. Raises ResizeError; `faults.error_json` has its kind."""
        declared = METHODS.get(method) if isinstance(method, str) else None
        if declared is None:
            raise Fault("request", f"no method {str(method)[:60]!r}; known are {', '.join(METHODS)}.")
        return ANSWERS[declared.name](self.desk, declared.read(params))

    def close(self) -> None:
        """Cancel all jobs, for a host that is unloaded."""
        self.desk.runs.close()
        self.desk.queue.close()
        self.desk.runs.release_all()
        self.desk.finds.close()
        self.desk.refresher.close()
        self.desk.library.save()
