"""The stages of the flow, in order: claim, scan, (buffer), publish, settle; housekeeping beside them.

Each is a short loop around pure decisions and declares the narrow port it needs.
"""
