"""`python -m poold` is `poold`."""

from poold.cli import main

main()
