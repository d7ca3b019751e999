"""Commonsense: kinds of things, what they are for, where they are, what they can do."""

from __future__ import annotations

from random import Random

from calibration.datasets.builtin.family import Family, choice, pick, pick_some, text, whole
from calibration.datasets.builtin.material import KINDS
from calibration.items import Item

# What one does, and with what; things that could do each other's job share a group.
TOOLS: tuple[tuple[str, str, str], ...] = (
    ("cut paper", "scissors", "cutting"),
    ("cut bread", "a bread knife", "cutting"),
    ("cut down a tree", "a saw", "cutting"),
    ("mow the grass", "a lawn mower", "cutting"),
    ("drive a nail into a wall", "a hammer", "building"),
    ("turn a screw", "a screwdriver", "building"),
    ("make a hole in a wall", "a drill", "building"),
    ("climb onto a roof", "a ladder", "climbing"),
    ("write a letter", "a pen", "writing"),
    ("draw a straight line", "a ruler", "writing"),
    ("rub out a pencil mark", "an eraser", "writing"),
    ("paint a wall", "a brush", "writing"),
    ("sweep the floor", "a broom", "cleaning"),
    ("wash your hands", "soap", "washing"),
    ("brush your teeth", "a toothbrush", "brushing"),
    ("dry yourself after a bath", "a towel", "drying"),
    ("comb your hair", "a comb", "brushing"),
    ("eat soup", "a spoon", "eating"),
    ("boil water", "a kettle", "cooking"),
    ("bake a cake", "an oven", "cooking"),
    ("fry an egg", "a pan", "cooking"),
    ("keep milk cold", "a refrigerator", "cooling"),
    ("drink tea", "a cup", "drinking"),
    ("open a locked door", "a key", "keys"),
    ("see in the dark", "a flashlight", "light"),
    ("read in bed at night", "a lamp", "light"),
    ("tell the time", "a clock", "time"),
    ("see which day it is", "a calendar", "time"),
    ("stay dry in the rain", "an umbrella", "rain"),
    ("sew a button on a shirt", "a needle", "sewing"),
    ("iron a shirt", "an iron", "ironing"),
    ("wash clothes", "a washing machine", "washing"),
    ("dig a hole", "a shovel", "digging"),
    ("water the flowers", "a watering can", "watering"),
    ("catch a fish", "a fishing rod", "fishing"),
    ("take a photo", "a camera", "phones"),
    ("call a friend", "a phone", "phones"),
    ("measure your temperature", "a thermometer", "measuring"),
    ("find out how heavy you are", "a scale", "measuring"),
    ("look at the stars", "a telescope", "looking"),
    ("see tiny living things", "a microscope", "looking"),
    ("read small print with weak eyes", "glasses", "looking"),
    ("cross a river by water", "a boat", "travel"),
    ("fly to another country", "an airplane", "travel"),
    ("carry clothes on a journey", "a suitcase", "carrying"),
    ("carry books to school", "a backpack", "carrying"),
    ("send a letter", "a stamp", "post"),
    ("put out a fire", "water", "fire"),
    ("light a candle", "a match", "light"),
    ("sleep outdoors", "a tent", "camping"),
    ("find north", "a compass", "finding"),
    ("find a street in a city", "a map", "finding"),
    ("pay in a shop", "money", "money"),
    ("add large numbers", "a calculator", "sums"),
    ("keep your neck warm", "a scarf", "clothes"),
    ("keep your hands warm", "gloves", "clothes"),
    ("hold papers together", "a paper clip", "holding"),
    ("mend a torn page", "sticky tape", "holding"),
    ("hit a tennis ball", "a racket", "sport"),
    ("score a goal in soccer", "a ball", "sport"),
    ("hang up wet clothes", "a clothesline", "drying"),
    ("see yourself", "a mirror", "mirror"),
    ("sit at a table", "a chair", "furniture"),
    ("store books", "a bookshelf", "furniture"),
    ("sleep at night", "a bed", "furniture"),
    ("slide down a snowy hill", "a sled", "snow"),
    ("cover a small wound", "a bandage", "healing"),
    ("hear a heartbeat", "a stethoscope", "healing"),
    ("peel a potato", "a peeler", "cutting"),
    ("listen to music on a bus", "headphones", "listening"),
)

# A thing, and where one most likely finds it; no thing fits two of the places.
PLACES: tuple[tuple[str, str], ...] = (
    ("a pillow", "on a bed"),
    ("a blanket", "on a bed"),
    ("a frying pan", "in a kitchen"),
    ("a refrigerator", "in a kitchen"),
    ("a toaster", "in a kitchen"),
    ("an oven", "in a kitchen"),
    ("a bathtub", "in a bathroom"),
    ("a toothbrush", "in a bathroom"),
    ("a shower", "in a bathroom"),
    ("a blackboard", "in a school"),
    ("pupils", "in a school"),
    ("a classroom", "in a school"),
    ("a cow", "on a farm"),
    ("a tractor", "on a farm"),
    ("pigs", "on a farm"),
    ("a surgeon", "in a hospital"),
    ("an ambulance", "in a hospital"),
    ("patients", "in a hospital"),
    ("a pilot", "at an airport"),
    ("a runway", "at an airport"),
    ("airplanes", "at an airport"),
    ("a whale", "in the ocean"),
    ("a shark", "in the ocean"),
    ("a coral reef", "in the ocean"),
    ("an octopus", "in the ocean"),
    ("a camel", "in the desert"),
    ("a cactus", "in the desert"),
    ("sand dunes", "in the desert"),
    ("a movie screen", "in a cinema"),
    ("popcorn", "in a cinema"),
    ("a bank teller", "in a bank"),
    ("a safe full of money", "in a bank"),
    ("the Moon", "in space"),
    ("an astronaut", "in space"),
    ("a satellite", "in space"),
    ("a planet", "in space"),
    ("a waiter", "in a restaurant"),
    ("a menu", "in a restaurant"),
    ("an altar", "in a church"),
    ("a choir and an organ", "in a church"),
    ("a judge", "in a court"),
    ("a jury", "in a court"),
    ("a goalkeeper", "in a stadium"),
    ("thousands of football fans", "in a stadium"),
    ("a polar bear", "in the Arctic"),
    ("an iceberg", "in the Arctic"),
    ("a clown", "in a circus"),
    ("an acrobat", "in a circus"),
    ("a steering wheel", "in a car"),
    ("a windshield", "in a car"),
    ("a seat belt", "in a car"),
    ("a prisoner", "in a jail"),
    ("a cell with bars", "in a jail"),
    ("thousands of books to borrow", "in a library"),
    ("a librarian", "in a library"),
    ("dinosaur bones on show", "in a museum"),
    ("famous old paintings", "in a museum"),
    ("an egg that is about to hatch", "in a nest"),
    ("chicks waiting to be fed by a bird", "in a nest"),
    ("honey before it is put into jars", "in a beehive"),
    ("a queen bee", "in a beehive"),
    ("a lifeguard and lanes", "at a swimming pool"),
    ("a diving board", "at a swimming pool"),
    ("train tracks and a platform", "at a station"),
    ("a conductor with a whistle", "at a station"),
    ("sailors", "on a ship"),
    ("an anchor", "on a ship"),
    ("a captain's cabin", "on a ship"),
    ("tall trees and moss", "in a forest"),
    ("wild deer", "in a forest"),
    ("mushrooms and squirrels", "in a forest"),
    ("bread fresh from the oven, for sale", "in a bakery"),
    ("a baker at work", "in a bakery"),
    ("a bottle of medicine for sale", "in a pharmacy"),
    ("a pharmacist", "in a pharmacy"),
)

# From small to large; neighbours are too close to ask about, things five places apart are not.
SIZES: tuple[str, ...] = (
    *("a grain of sand", "a flea", "an ant", "a ladybird", "a bee", "a grape", "a walnut"),
    *("an egg", "an apple", "a grapefruit", "a football", "a cat", "a sheep", "a lion"),
    *("a horse", "a rhinoceros", "an elephant", "a bus", "a blue whale", "a football field"),
    *("a village", "a big city", "France", "Africa", "the Moon", "the Earth", "the Sun"),
)

YES = (
    "Can a bird build a nest?",
    "Can a fish swim?",
    "Do cats have whiskers?",
    "Is fire hot?",
    "Is ice cold?",
    "Is water wet?",
    "Do trees have leaves?",
    "Can a dog bark?",
    "Is an elephant heavier than a mouse?",
    "Can people walk on two legs?",
    "Do cows give milk?",
    "Is the Sun a star?",
    "Can you eat an apple?",
    "Do bicycles have two wheels?",
    "Is a baby younger than its mother?",
    "Can glass break?",
    "Does wood float on water?",
    "Do bees make honey?",
    "Can a frog jump?",
    "Is sugar sweet?",
    "Is a lemon sour?",
    "Do birds lay eggs?",
    "Does snow melt in the sun?",
    "Can bats fly?",
    "Is a mountain taller than a house?",
    "Do plants need water?",
    "Can a parrot copy human speech?",
    "Is gold a metal?",
    "Is a whale a mammal?",
    "Do spiders have eight legs?",
    "Can a kangaroo hop?",
    "Is silk soft?",
    "Does salt dissolve in water?",
    "Are there penguins at the South Pole or near it?",
    "Is a diamond harder than wood?",
    "Do humans breathe air?",
    "Is a car faster than a bicycle?",
    "Do fish have gills?",
    "Can paper burn?",
    "Is a winter day in Canada often cold?",
)

NO = (
    "Can a stone swim?",
    "Can a pig fly?",
    "Do fish ride bicycles?",
    "Is fire cold?",
    "Is the Moon made of cheese?",
    "Can a snake ride a horse?",
    "Do cats lay eggs?",
    "Is a mouse bigger than an elephant?",
    "Can a tree run?",
    "Do dogs have wings?",
    "Is milk black?",
    "Can a person live without water for a year?",
    "Does a car have feathers?",
    "Is a feather heavier than a brick?",
    "Can you eat a hammer?",
    "Does the Sun rise in the west?",
    "Do snakes have legs?",
    "Can an ostrich fly?",
    "Is sugar salty?",
    "Is a desert full of water?",
    "Is a pillow harder than a rock?",
    "Can a chair sing?",
    "Is a spider an insect?",
    "Do penguins live in the Sahara?",
    "Can a book read itself aloud without any device?",
    "Is a snail faster than a horse?",
    "Do cows have six legs?",
    "Is an hour shorter than a minute?",
    "Can iron float on water like wood?",
    "Does ice sink to the bottom of a glass of water?",
    "Is the sea made of sweet water?",
    "Do bananas grow underground?",
    "Is a lamp a kind of animal?",
    "Can people see in complete darkness?",
    "Is a grandmother younger than her grandchild?",
    "Is the Earth flat?",
    "Do whales live in trees?",
    "Can you cut bread with a spoonful of soup?",
    "Is lead lighter than air?",
    "Do chickens give milk?",
)


def _kind(rng: Random) -> Item:
    n = pick(rng, (2, 2, 3, 4))
    kinds = pick_some(rng, tuple(KINDS), n)
    members = [pick(rng, KINDS[kind]) for kind in kinds]
    return choice(rng, f"Which of these is {kinds[0]}?", members[0], members[1:])


def _tool(rng: Random) -> Item:
    task, right, group = pick(rng, TOOLS)
    others = [tool for _, tool, its_group in TOOLS if its_group != group]
    wrong = pick_some(rng, others, pick(rng, (1, 2, 3)))
    return choice(rng, f"Which of these do you need to {task}?", right, wrong)


def _place(rng: Random) -> Item:
    thing, right = pick(rng, PLACES)
    others = tuple(dict.fromkeys(place for _, place in PLACES if place != right))
    wrong = pick_some(rng, others, pick(rng, (1, 2, 3)))
    return choice(rng, f"Where would you most likely find {thing}?", right, wrong)


def _size(rng: Random) -> Item:
    n = pick(rng, (2, 2, 3))
    start = whole(rng, 0, len(SIZES) - 1 - 5 * (n - 1))
    room = len(SIZES) - 1 - 5 * (n - 1) - start
    steps = sorted(whole(rng, 0, room) for _ in range(n - 1))
    chosen = [SIZES[start], *(SIZES[start + 5 * (i + 1) + step] for i, step in enumerate(steps))]
    word, right = pick(rng, (("biggest", chosen[-1]), ("smallest", chosen[0])))
    return choice(
        rng, f"Which of these is the {word}?", right, [thing for thing in chosen if thing != right]
    )


def _yes_or_no(rng: Random) -> Item:
    question, answer = pick(rng, (*((q, "yes") for q in YES), *((q, "no") for q in NO)))
    return text(f"{question} Answer yes or no.", answer)


_DOMAIN = "commonsense"

FAMILIES: tuple[Family, ...] = (
    Family("kind", _DOMAIN, "which thing is of a kind", "choice", _kind, asks_options=True),
    Family("tool", _DOMAIN, "what one needs for a task", "choice", _tool, size=70),
    Family("place", _DOMAIN, "where a thing is usually found", "choice", _place),
    Family("size", _DOMAIN, "the biggest or smallest thing", "choice", _size, asks_options=True),
    Family("yes-or-no", _DOMAIN, "what things can do and are", "free", _yes_or_no),
)
