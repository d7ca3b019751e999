"""Names and everyday things that several domains draw from."""

from __future__ import annotations

GIRLS: tuple[str, ...] = (
    *("Anna", "Maria", "Lucy", "Emma", "Sara", "Nina", "Clara", "Julia", "Ella", "Rosa"),
    *("Alice", "Grace", "Mia", "Lena", "Amira", "Helen", "Ruth", "Zoe", "Ivy", "Priya"),
)

BOYS: tuple[str, ...] = (
    *("Tom", "Ben", "Paul", "David", "Omar", "Leo", "Max", "Jack", "Sam", "Peter"),
    *("Henry", "Oscar", "Luis", "Noah", "Adam", "Ravi", "Felix", "Hugo", "Ian", "Kofi"),
)

NAMES: tuple[str, ...] = GIRLS + BOYS

# One and many, so that sentences stay grammatical.
THINGS: tuple[tuple[str, str], ...] = (
    ("apple", "apples"),
    ("book", "books"),
    ("pencil", "pencils"),
    ("ball", "balls"),
    ("sticker", "stickers"),
    ("cookie", "cookies"),
    ("marble", "marbles"),
    ("card", "cards"),
    ("shell", "shells"),
    ("stamp", "stamps"),
    ("orange", "oranges"),
    ("coin", "coins"),
    ("button", "buttons"),
    ("balloon", "balloons"),
    ("candle", "candles"),
)

CITIES: tuple[str, ...] = (
    *("Lisbon", "Porto", "Madrid", "Paris", "London", "Berlin", "Rome", "Vienna", "Oslo"),
    *("Boston", "Chicago", "Toronto", "Tokyo", "Cairo", "Nairobi", "Lima", "Sydney", "Dublin"),
)

COLOURS: tuple[str, ...] = (
    *("red", "blue", "green", "yellow", "white", "black", "brown", "orange", "purple", "pink"),
)

DAYS: tuple[str, ...] = (
    *("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
)

MONTHS: tuple[str, ...] = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)

KINDS: dict[str, tuple[str, ...]] = {
    "a fruit": ("apple", "banana", "pear", "grape", "mango", "pineapple", "melon", "strawberry"),
    "a vegetable": ("carrot", "cabbage", "onion", "spinach", "broccoli", "lettuce", "leek"),
    "a mammal": ("dog", "horse", "tiger", "rabbit", "elephant", "monkey", "sheep", "camel"),
    "a bird": ("eagle", "sparrow", "owl", "pigeon", "swan", "robin", "crow"),
    "a tool": ("hammer", "saw", "screwdriver", "drill", "wrench", "pliers", "chisel"),
    "a piece of clothing": ("shirt", "coat", "sweater", "trousers", "skirt", "jacket", "sock"),
    "a piece of furniture": ("chair", "table", "sofa", "bookcase", "armchair", "wardrobe", "desk"),
    "a musical instrument": ("piano", "violin", "guitar", "flute", "trumpet", "cello", "harp"),
    "a vehicle": ("car", "bus", "truck", "bicycle", "train", "tractor", "motorcycle"),
    "a sport": ("tennis", "soccer", "swimming", "basketball", "hockey", "boxing", "judo"),
    "a colour": ("red", "blue", "green", "yellow", "purple", "white", "grey"),
    "a job": ("teacher", "nurse", "farmer", "plumber", "lawyer", "baker", "dentist"),
    "a part of the body": ("elbow", "knee", "shoulder", "ear", "nose", "finger", "ankle"),
    "a country": ("France", "Brazil", "Japan", "Kenya", "Canada", "India", "Norway"),
    "a day of the week": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Sunday"),
    "a metal": ("iron", "zinc", "tin", "nickel", "lead", "aluminium"),
    "a drink": ("tea", "coffee", "milk", "juice", "lemonade", "cocoa"),
    "a flower": ("tulip", "daisy", "lily", "daffodil", "orchid", "sunflower"),
}
