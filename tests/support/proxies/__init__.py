"""Between a client and a server: delays, cuts, errors."""
