"""Messages between the web process and the one that computes: pickles, each after its length in eight bytes.

Both ends are ours: nothing that a request holds is ever unpickled.
"""

import pickle
import struct
from typing import Any, BinaryIO

_LENGTH = struct.Struct("<Q")
HEADER = _LENGTH.size


def packed(message: Any) -> bytes:
    """A message as bytes."""
    content = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(content)) + content


def length_of(header: bytes) -> int:
    """How many bytes follow the header."""
    length: int = _LENGTH.unpack(header)[0]
    return length


def unpacked(content: bytes) -> Any:
    """The message in the bytes after the header."""
    return pickle.loads(content)


def receive(file: BinaryIO) -> Any:
    """The next message of a file.

    Raises:
        EOFError: there is none: the other process has ended.
    """
    header = file.read(HEADER)
    if len(header) < HEADER:
        raise EOFError
    content = file.read(length_of(header))
    if len(content) < length_of(header):
        raise EOFError
    return unpacked(content)
