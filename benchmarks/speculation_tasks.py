"""What is asked to see what guessing gains: texts to copy and to edit, and questions.

The texts are such that the default model, of 135M parameters, copies them: where a model says
something else than the text before it, nothing can be guessed.
"""

from __future__ import annotations

_RECORDS = "".join(
    f'{{"id": {i}, "name": "{name}", "city": "{city}", "active": true}}\n'
    for i, (name, city) in enumerate(
        zip(
            ["Anna", "Boris", "Clara", "David", "Elena", "Frank"],
            ["Oslo", "Lima", "Rome", "Kyiv", "Cairo", "Quito"],
            strict=True,
        ),
        start=101,
    )
)
_STORY = (
    "The old mill stands by the river at the end of the village. Every morning the miller opened "
    "the gate and the water turned the wheel. Farmers brought their grain in carts and waited in "
    "the yard. In winter the river froze and the mill was silent.\n"
)
_STEPS = (
    "1. Open the valve and wait for two minutes.\n2. Check that the pressure is below four bar.\n"
    "3. Close the valve and remove the cap.\n4. Clean the filter with warm water.\n"
    "5. Put the filter back and tighten the cap.\n6. Open the valve again and look for leaks.\n"
)
_CLASS = """\
class Account:
    def __init__(self, owner, balance=0):
        self.owner = owner
        self.balance = balance

    def deposit(self, amount):
        self.balance += amount
        return self.balance

    def withdraw(self, amount):
        if amount > self.balance:
            raise ValueError("not enough money")
        self.balance -= amount
        return self.balance
"""
_SETTINGS = """\
[server]
host = "127.0.0.1"
port = 8080
workers = 4

[database]
url = "postgres://localhost/app"
pool_size = 10
timeout = 30

[logging]
level = "info"
file = "/var/log/app.log"
"""

TASKS = {
    "copy": tuple(
        f"Repeat the following text exactly as it is:\n\n{text}"
        for text in (_RECORDS, _STORY, _STEPS, _CLASS, _SETTINGS)
    ),
    "edit": (
        f"Write these lines again, with Boris living in Paris:\n\n{_RECORDS}",
        f"Repeat this text, but replace the word 'river' by 'lake':\n\n{_STORY}",
        f"Write these steps again, with 'six bar' instead of 'four bar':\n\n{_STEPS}",
        f"Rename the method `deposit` to `pay_in` and write the whole class again:\n\n{_CLASS}",
        f"Write this file again with port 9090:\n\n{_SETTINGS}",
    ),
    "free": (
        "Write a long story about a lighthouse keeper who finds a letter in a bottle.",
        "Explain how a bicycle stays upright, for a curious child.",
        "Describe a market in a small harbour town on a rainy morning.",
        "Give advice to somebody who moves to another country for work.",
        "Why do leaves change their colour in autumn?",
        "Tell me about the history of the printing press.",
        "What should I think about before I adopt a dog?",
        "Write a poem about the first snow of the year.",
        "How does a refrigerator keep food cold?",
        "Describe your ideal library.",
        "Write a letter to a friend whom you have not seen for ten years.",
        "What makes a good teacher?",
        "Explain the difference between weather and climate.",
        "Write a dialogue between a cat and a mouse who become friends.",
        "How would you plan a week of hiking in the mountains?",
        "Tell a joke and explain why it is funny.",
        "What are the advantages and disadvantages of working from home?",
        "Describe how bread is made, from the field to the table.",
        "Why did many old cities grow beside rivers?",
        "Write the beginning of a detective novel set in a train.",
        "Explain recursion in programming with an example.",
        "Write a Python function that checks whether a number is prime, and explain it.",
        "Summarise what vaccines do in the body.",
        "Give me ideas for a birthday party for a seven year old.",
    ),
}
