"""Stages as plain functions: ingest, measure, score, select, train, evaluate, compare. Prefect's tasks are thin."""
