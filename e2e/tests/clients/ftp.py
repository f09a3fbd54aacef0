"""Gets a file from ADDRESS by active FTP, and prints it."""

import ftplib
import sys

with ftplib.FTP(sys.argv[1], timeout=8) as client:
    client.login()
    client.set_pasv(False)
    client.retrlines("RETR file")
