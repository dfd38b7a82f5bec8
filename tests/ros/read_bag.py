"""Prints as JSON what rosbags, which shares no code with this project, reads in a bag: by topic its type and messages.

Messages are read by the definitions that the bag itself holds. Of each, the fields that are numbers, texts and stamps are
told, and when it was received; a list is told as its length.
"""

import json
import sys
from pathlib import Path

from rosbags.highlevel import AnyReader


def told(value: object) -> object:
    if isinstance(value, (bool, int, float, str)):
        return value
    if hasattr(value, "nanosec"):
        return value.sec * 1_000_000_000 + value.nanosec
    if hasattr(value, "__len__"):
        return len(value)
    return {name: told(getattr(value, name)) for name in value.__dataclass_fields__ if name != "__msgtype__"}


def main() -> None:
    found = {}
    with AnyReader([Path(sys.argv[1])]) as reader:
        for connection, received_ns, data in reader.messages():
            topic = found.setdefault(connection.topic, {"type": connection.msgtype, "messages": []})
            message = reader.deserialize(data, connection.msgtype)
            topic["messages"].append({"received_ns": received_ns, **told(message)})
    print(json.dumps(found))


main()
