"""Stages as plain functions: ingest, measure, score, select, train, evaluate, compare. Prefect tasks are thin over them."""
