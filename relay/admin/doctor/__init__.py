"""`relay doctor`: looks at everything that the relay rests on, and says what is wrong and what to do."""
