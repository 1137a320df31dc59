"""What people's commands read and change in PostgreSQL, each on one connection of its own."""
