"""A submission's process without a sandbox, on any system: ``python alone.py PORT MODULE,MODULE``.

What `python -m autograder check` runs a file in. It answers orders as a fork of `zygote` does, over a connection to
this machine's own address; the line that it sends first is in its environment.
"""

from __future__ import annotations

import os
import socket
import sys

import orders
import wire

if __name__ == "__main__":
    word = os.environ.pop("LORA_CHECK")
    warmed = orders.warm(sys.argv[2].split(","))
    channel = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    wire.send(channel, {"word": word})
    orders.serve(*warmed, channel)
