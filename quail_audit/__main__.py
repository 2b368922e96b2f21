"""`python -m quail_audit` is `quail`."""

from quail_audit.cli import main

main()
