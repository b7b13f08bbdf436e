"""The Ray-compatible surface. `beeline/__init__.py` names what a program uses; nothing else imports from here."""
