"""Gets URL so often with urllib, and prints how often it succeeded."""

import sys
import urllib.request

tries, url = int(sys.argv[1]), sys.argv[2]
good = 0
for _ in range(tries):
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            good += answer.read() == b"origin"
    except OSError as error:
        print(error, file=sys.stderr)
print(f"{good} of {tries}")
