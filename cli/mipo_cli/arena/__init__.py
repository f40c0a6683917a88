"""Two ways to vote: a page on this machine, and the terminal."""
