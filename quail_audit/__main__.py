"""`python -m quail_audit` is `quail`."""

from quail_audit.cli.main import main

main()
