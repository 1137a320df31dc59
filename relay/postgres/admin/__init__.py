"""PostgreSQL for people's commands: what they read and change, each command on a connection of its own."""
