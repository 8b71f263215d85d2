"""The skills of the shipped data: name, maker of tasks, and the phrasings of their instructions.

The first phrasings are used in the pool and in the few-shot targets; the last `HELD_OUT` only in evaluation files.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from tamis.data import skill_numbers, skill_python, skill_words
from tamis.data.skill_numbers import Task

HELD_OUT = 2


@dataclass(frozen=True)
class Skill:
    """A maker of tasks, the phrasings of its instruction, and its share of the pool in [0, 1]."""

    make: Callable[[random.Random, bool], Task]
    phrasings: tuple[str, ...]
    share: float

    @property
    def pool_phrasings(self) -> range:
        """Numbers of the phrasings that may occur outside the evaluation files."""
        return range(len(self.phrasings) - HELD_OUT)

    @property
    def held_out_phrasings(self) -> range:
        """Numbers of the phrasings that occur only in the evaluation files."""
        return range(len(self.phrasings) - HELD_OUT, len(self.phrasings))


SKILLS: dict[str, Skill] = {
    "arithmetic": Skill(
        skill_numbers.arithmetic,
        (
            "Calculate {expr} and show every step.",
            "What is {expr}? Show your working.",
            "Work out {expr} step by step.",
            "Find {expr}, writing down each step.",
            "Compute {expr}.",
            "Please evaluate {expr} and explain how you got there.",
            "How much is {expr}? Take it slowly.",
        ),
        0.08,
    ),
    "units": Skill(
        skill_numbers.units,
        (
            "Convert {amount} to {unit}.",
            "How many {unit} are {amount}?",
            "Express {amount} in {unit}.",
            "Change {amount} into {unit} and say how.",
            "I have {amount}. What is that in {unit}?",
            "Rewrite the quantity {amount} using {unit} instead.",
            "Someone measured {amount}. Tell me the same in {unit}.",
        ),
        0.08,
    ),
    "dates": Skill(
        skill_numbers.dates,
        (
            "Find {question}.",
            "What is {question}?",
            "Tell me {question}.",
            "Using the calendar, determine {question}.",
            "I am planning something and need {question}.",
            "Could you look up {question} for my diary?",
            "Give {question} with a short explanation.",
        ),
        0.08,
    ),
    "roman": Skill(
        skill_numbers.roman,
        (
            "Write {what}.",
            "Give {what}.",
            "How do you write {what}?",
            "Show {what}, part by part.",
            "Please put down {what}.",
            "A clockmaker asks for {what}. Help out.",
            "State {what} and explain its parts.",
        ),
        0.08,
    ),
    "comparison": Skill(
        skill_numbers.comparison,
        (
            "Whose {thing} is greater: {a} or {b}?",
            "Compare the {thing} of {a} and {b}. Which is more?",
            "For the {thing}, who is ahead, {a} or {b}?",
            "Decide which {thing} is the larger one: {a}, {b}.",
            "Here are two results ({thing}): {a}; {b}. Who has the higher number?",
            "Look at the {thing} of {a} and {b} and name the bigger.",
            "Between {a} and {b}, who got the higher {thing}?",
        ),
        0.08,
    ),
    "strings": Skill(
        skill_words.strings,
        (
            "Please {task}.",
            "Can you {task}?",
            "I want you to {task}.",
            "Your task is to {task}.",
            "Try to {task} and show the letters.",
            "Would you kindly {task} for me?",
            "For a word game, {task}.",
        ),
        0.08,
    ),
    "sorting": Skill(
        skill_words.sorting,
        (
            "Sort the list {rule}.",
            "Put these items {rule}.",
            "Arrange the following {rule}.",
            "Order these {rule}:",
            "Write the list again, {rule}.",
            "The entries below are shuffled. List them {rule}.",
            "Bring this list into shape, {rule}.",
        ),
        0.085,
    ),
    "counting": Skill(
        skill_words.counting,
        (
            "How many {category} are in the list?",
            "Count the {category} below.",
            "Tell me the number of {category} in this list.",
            "Go through the list and count all {category}.",
            "Find out how many of these are {category}.",
            "Of the things named below, how many count as {category}?",
            "Pick out the {category} and give their number.",
        ),
        0.085,
    ),
    "tables": Skill(
        skill_words.tables,
        (
            "From the table, find {question}.",
            "Read the table and give {question}.",
            "Look up {question}.",
            "What is {question} in this table?",
            "Use the table below to find {question}.",
            "According to the figures that follow, state {question}.",
            "Search the rows below for {question}.",
        ),
        0.09,
    ),
    "rewriting": Skill(
        skill_words.rewriting,
        (
            "Rewrite the sentence {style}.",
            "Put this sentence {style}.",
            "Say the same thing {style}.",
            "Rephrase the following {style}.",
            "Write the sentence again, {style}.",
            "Here is a sentence. Give me a version {style}.",
            "Turn the text below into one written {style}.",
        ),
        0.085,
    ),
    "odd_one_out": Skill(
        skill_words.odd_one_out,
        (
            "Which word does not belong: {items}?",
            "Find the odd one out: {items}.",
            "One of these is different: {items}. Which one?",
            "Pick the word that does not fit among {items}.",
            "Look at {items}. Which is the odd one?",
            "Somebody put a stranger into this group: {items}. Name it.",
            "Spot the intruder in the following words: {items}.",
        ),
        0.085,
    ),
    "sentiment": Skill(
        skill_words.sentiment,
        (
            "Is this {kind} positive, negative or mixed?",
            "Classify the opinion in this {kind}.",
            "What does the writer of the {kind} feel?",
            "Judge the mood of the following {kind}.",
            "Read the {kind} and name its sentiment.",
            "Would you call the {kind} below favourable?",
            "Describe the attitude of this short {kind}.",
        ),
        0.08,
    ),
    "ordering": Skill(
        skill_words.ordering,
        (
            "Who is the {asked}?",
            "From these facts, find the {asked} person.",
            "Given the statements, name the {asked} of the four.",
            "Work out from the facts who is the {asked}.",
            "Four people are compared. Which one is the {asked}?",
            "Put the clues together: who must be the {asked}?",
            "Tell me the {asked} person according to the clues.",
        ),
        0.08,
    ),
    "python": Skill(
        skill_python.python,
        (
            "Write a Python function `{name}` that takes a {kind} and {what}.",
            "In Python, define `{name}` so that it {what}; the argument is a {kind}.",
            "Give me a short Python function called `{name}`. For a {kind} it {what}.",
            "Implement `{name}`, which {what} for a given {kind}, in Python.",
            "Code a function `{name}` in Python. Its argument is a {kind}, and it {what}.",
            "I need Python code: `{name}` receives a {kind} and {what}.",
            "Please program a helper `{name}` that, given a {kind}, {what}.",
        ),
        0.035,
    ),
}


def instruction(name: str, phrasing: int, task: Task) -> str:
    """Write the instruction of a task in one of its skill's phrasings."""
    return SKILLS[name].phrasings[phrasing].format(**task.fields)
