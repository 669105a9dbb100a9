"""Makes Celery's broker of files safe for several processes. Imported by test programs."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

from kombu.transport import filesystem
from kombu.utils.json import dumps


def _put(channel: Any, queue: str, payload: Any, **_: Any) -> None:
    # kombu creates a message's file before it writes it. A worker that takes the file in between
    # reads an empty message, and ends by it.
    message = Path(channel.data_folder_out, f"{time.monotonic_ns()}_{uuid.uuid4()}.{queue}.msg")
    unfinished = Path(f"{message}.part")
    unfinished.write_text(dumps(payload))
    unfinished.rename(message)


filesystem.Channel._put = _put  # type: ignore[assignment, method-assign]
