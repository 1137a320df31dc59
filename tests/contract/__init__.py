"""What a port promises, held to the adapter and to the fake alike."""
