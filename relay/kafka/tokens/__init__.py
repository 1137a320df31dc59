"""Tokens for SASL OAUTHBEARER: asked for, kept while they are good, and renewed before they expire."""
