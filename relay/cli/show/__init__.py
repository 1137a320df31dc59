"""How commands write for people and for programs.

No command writes by any other way (a lint rule forbids `click.echo` and rich's own consoles and tables), so that
nobody has to remember that a text came from outside.

lines    lines, JSON, bytes; the traceback of a fault
console  a console for tables and progress bars; loads rich
tables   tables; loads rich
"""
