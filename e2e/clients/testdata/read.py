"""Prints the lines of a stream over plain HTTP as urllib receives them, and closes it after some messages.

    python3 read.py CA URL COUNT HEADER=VALUE...
"""

import ssl
import sys
import urllib.request

ca, url, count, *pairs = sys.argv[1:]
request = urllib.request.Request(url, headers=dict(pair.split("=", 1) for pair in pairs))
context = ssl.create_default_context(cafile=ca) if ca else None
messages = 0
with urllib.request.urlopen(request, context=context) as response:
    print(response.status, response.headers["content-type"], flush=True)
    for line in response:
        print(line.decode(), end="", flush=True)
        if b'"n":' in line:
            messages += 1
            if messages == int(count):
                break
print("left" if messages == int(count) else "the end", flush=True)
sys.stdin.read()  # what ends the connection is the close, and not the end of the process
