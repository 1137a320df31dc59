"""How commands write for people and for programs.

No command writes by any other way (a lint rule forbids `click.echo` and rich's own consoles and tables), so that
nobody has to remember that a text came from outside.

lines      lines, JSON, bytes; the traceback of a fault
console    a console for tables and progress bars; loads rich, as all below do
tables     tables, and how they fit a terminal
cells      cells of tables
ownership  the tables of replicas and lanes
payloads   the beginning of a payload
progress   a progress bar while a replay is followed
"""
