"""The first half of docs/compatibility.md: every public name of Ray Core, and what Beeline makes of it.

`judgements.toml` holds one line for each name. `survey` finds the names in the installed Ray, and whether Beeline has
them; `judge` holds the lines against both; `page` writes what they say between two marks of the page.
"""
