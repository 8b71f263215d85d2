"""Cleaning: a pool mapped to a pool, with every row that left it and the reason in one more file of rejects.

Rooms: `steps` (what a recipe or a verb asks for), `leaving` (rows that a cleaner drops), `patching` (rows that a
transform changes), `written` (pools as they come out: counts of files, history, a folder of their own). Who carries
steps out, with the signals and columns that they need, is `tamis.stages.clean`.
"""
