"""Ends with the exit status that it is given."""

import sys

print("it ends")
sys.exit(int(sys.argv[1]))
