"""Pairs of short answers that mean the same in other words, and pairs that one decisive word tells apart."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Pair", "flips", "other_flips", "other_paraphrases", "paraphrases", "unseen_flips", "unseen_paraphrases"]


@dataclass(frozen=True)
class Pair:
    """Two answers, and how they were made."""

    a: str
    b: str
    way: str


_CAPITALS = [
    ("Paris", "France", "Lyon"),
    ("Lima", "Peru", "Cusco"),
    ("Oslo", "Norway", "Bergen"),
    ("Rome", "Italy", "Milan"),
]
_DURATIONS = [
    ("3 hours", "180 minutes", "4 hours"),
    ("2 weeks", "14 days", "3 weeks"),
    ("90 minutes", "1.5 hours", "95 minutes"),
]
_LENGTHS = [("3 km", "3000 m", "5 km"), ("12 cm", "120 mm", "12 mm"), ("2 miles", "2 miles", "3 miles")]
_DEEDS = [
    ("Mozart", "composed", "the opera", "Salieri"),
    ("Newton", "discovered", "the law", "Leibniz"),
    ("Picasso", "painted", "the picture", "Braque"),
    ("Fleming", "found", "the drug", "Pasteur"),
]
_TRENDS = [
    ("prices", "rose", "fell", "went up"),
    ("sales", "increased", "decreased", "grew"),
    ("the level", "fell", "rose", "went down"),
]
_STATES = [
    ("The contract is valid", "The contract is not valid", "It is a valid contract"),
    (
        "The drug can cross the barrier",
        "The drug cannot cross the barrier",
        "It is possible for the drug to cross the barrier",
    ),
    ("It is possible to solve the task", "It is impossible to solve the task", "Solving the task is possible"),
    ("The reaction gives off heat", "The reaction never gives off heat", "Heat is given off by the reaction"),
    ("The statement is true", "The statement is false", "It is true"),
    ("The valve should be open", "The valve should be closed", "The valve has to be open"),
    ("All members agreed", "Some members agreed", "Every member agreed"),
    ("Turn left at the church", "Turn right at the church", "At the church, turn left"),
    ("The first train is late", "The last train is late", "The first train has a delay"),
    ("He bought the house", "He sold the house", "He has bought the house"),
    ("The result is positive", "The result is negative", "It was a positive result"),
    ("You may leave without a permit", "You may leave with a permit", "No permit is needed to leave"),
    ("The meeting is before lunch", "The meeting is after lunch", "They meet before lunch"),
    ("The patient is male", "The patient is female", "It is a male patient"),
    ("Add the acid before the water", "Add the water before the acid", "The acid is added before the water"),
    ("The bottle contains nitrogen", "The bottle contains oxygen", "There is nitrogen in the bottle"),
]
_GAMES = [("Brazil", "Chile"), ("Anna", "Ben"), ("Google", "Oracle"), ("Kasparov", "Karpov")]


def paraphrases() -> list[Pair]:
    """Pairs that mean the same."""
    pairs = []
    for town, country, _ in _CAPITALS:
        pairs += [
            Pair(f"The capital of {country} is {town}.", f"{town} is the capital of {country}.", "turned around"),
            Pair(f"{town} is the capital of {country}.", f"{country}'s capital city is {town}.", "other words"),
        ]
    for span, same, _ in _DURATIONS:
        pairs += [
            Pair(f"It takes {span}.", f"It takes {same} in all.", "units"),
            Pair(f"The trip takes about {span}.", f"The journey lasts roughly {span}.", "other words"),
        ]
    for length, same, _ in _LENGTHS:
        pairs += [Pair(f"The road is {length} long.", f"The length of the road is {same}.", "units")]
    for who, did, what, _ in _DEEDS:
        pairs += [
            Pair(f"{who} {did} {what}.", f"{what.capitalize()} was {did} by {who}.", "passive"),
            Pair(f"It was {who} who {did} {what}.", f"{who} {did} {what}.", "cleft"),
        ]
    for what, did, _, same in _TRENDS:
        pairs += [Pair(f"{what.capitalize()} {did} last year.", f"Last year {what} {same}.", "other words")]
    pairs += [Pair(f"{said}.", f"{same}.", "other words") for said, _, same in _STATES]
    for one, other in _GAMES:
        pairs += [Pair(f"{one} defeated {other} in the final.", f"In the final, {one} beat {other}.", "other words")]
    return pairs


def flips() -> list[Pair]:
    """Pairs of which one says something else, mostly by a single word."""
    pairs = []
    for town, country, other in _CAPITALS:
        pairs += [
            Pair(f"The capital of {country} is {town}.", f"The capital of {country} is {other}.", "name"),
            Pair(f"{town} is the capital of {country}.", f"{town} is not the capital of {country}.", "negation"),
            Pair(town, other, "name"),
        ]
    for span, _, other in _DURATIONS:
        pairs += [
            Pair(f"It takes {span}.", f"It takes {other}.", "number"),
            Pair(f"The trip takes about {span}.", f"The journey lasts roughly {other}.", "number"),
        ]
    for length, _, other in _LENGTHS:
        pairs += [Pair(f"The road is {length} long.", f"The length of the road is {other}.", "number")]
    for who, did, what, other in _DEEDS:
        pairs += [
            Pair(f"{who} {did} {what}.", f"{other} {did} {what}.", "name"),
            Pair(f"{who} {did} {what}.", f"{who} never {did} {what}.", "negation"),
        ]
    for what, did, other, _ in _TRENDS:
        pairs += [Pair(f"{what.capitalize()} {did} last year.", f"Last year {what} {other}.", "opposite")]
    pairs += [Pair(f"{said}.", f"{other}.", "one word") for said, other, _ in _STATES]
    for one, other in _GAMES:
        pairs += [
            Pair(f"{one} defeated {other} in the final.", f"{other} defeated {one} in the final.", "roles"),
            Pair(f"{one} is taller than {other}.", f"{other} is taller than {one}.", "roles"),
        ]
    pairs += [Pair("The answer is option A.", "The answer is option B.", "letter")]
    return pairs


def other_paraphrases() -> list[Pair]:
    """More that mean the same, by which the rules were mended once."""
    said = [
        ("Bile is produced by the liver.", "The liver produces bile."),
        ("The liver makes bile.", "Bile comes from the liver."),
        ("Water boils at 100 °C at sea level.", "At sea level the boiling point of water is 100 °C."),
        ("Plants absorb carbon dioxide.", "Carbon dioxide is taken up by plants."),
        (
            "The mitochondria produce most of the cell's energy.",
            "Most of the energy of a cell is made in mitochondria.",
        ),
        ("Inflation makes money worth less.", "With inflation, money loses value."),
        ("Shakespeare wrote Hamlet.", "Hamlet was written by Shakespeare."),
        ("The French Revolution began in 1789.", "In 1789 the French Revolution started."),
        ("You need a visa to enter.", "A visa is required for entry."),
        ("The engine does not start in cold weather.", "In cold weather the engine won't start."),
        ("Because the demand exceeded the supply.", "Demand was greater than supply."),
        ("A triangle has three sides.", "Triangles have 3 sides."),
        ("The defendant was found guilty.", "The jury convicted the defendant."),
        ("Sound travels faster in water than in air.", "In water, sound is faster than in air."),
        ("Restart the router.", "Switch the router off and on again."),
        ("The moon causes the tides.", "Tides are caused by the moon."),
    ]
    return [Pair(a, b, "by hand") for a, b in said]


def other_flips() -> list[Pair]:
    """More that differ, by which the rules were mended once: also by one common noun or verb, which no list holds."""
    said = [
        ("Bile is produced by the liver.", "Bile is produced by the kidneys."),
        ("Plants absorb carbon dioxide.", "Plants release carbon dioxide."),
        ("Plants absorb oxygen.", "Plants absorb carbon dioxide."),
        ("The mitochondria produce most of the cell's energy.", "The nucleus produces most of the cell's energy."),
        ("Shakespeare wrote Hamlet.", "Marlowe wrote Hamlet."),
        ("The French Revolution began in 1789.", "The French Revolution began in 1799."),
        ("You need a visa to enter.", "You need no visa to enter."),
        ("The engine won't start in cold weather.", "The engine starts in cold weather."),
        ("Demand exceeded supply.", "Supply exceeded demand."),
        ("The defendant was found guilty.", "The defendant was found innocent."),
        ("Sound travels faster in water than in air.", "Sound travels faster in air than in water."),
        ("The moon causes the tides.", "The sun causes the tides."),
        ("It is a mammal.", "It is a reptile."),
        ("The vase is made of glass.", "The vase is made of clay."),
        ("The teacher praised the pupil.", "The pupil praised the teacher."),
        ("He is her uncle.", "He is her nephew."),
        ("mitosis", "meiosis"),
        ("The interest is simple.", "The interest is compound."),
        ("The vaccine is safe for children.", "The vaccine is unsafe for children."),
        ("Exports exceed imports.", "Imports exceed exports."),
        ("It was the butler.", "It was the gardener."),
        ("The wire is made of copper.", "The wire is made of silver."),
        ("The court upheld the ruling.", "The court overturned the ruling."),
        ("Use the past tense.", "Use the present tense."),
    ]
    return [Pair(a, b, "by hand") for a, b in said]


def unseen_paraphrases() -> list[Pair]:
    """Pairs that mean the same, written last of all: no rule was changed by them."""
    said = [
        ("The heart pumps blood through the body.", "Blood is pumped through the body by the heart."),
        ("Ice floats because it is less dense than water.", "Since ice is less dense than water, it floats."),
        ("The treaty ended the war.", "The war was brought to an end by the treaty."),
        ("You should save the file first.", "First, save the file."),
        ("The company went bankrupt in 2008.", "In 2008 the company became insolvent."),
        ("Bees make honey.", "Honey is made by bees."),
        ("The tenant has to pay the repairs.", "The repairs must be paid by the tenant."),
        ("The knee is a joint.", "A knee is one of the joints."),
        ("Gold does not rust.", "Rust does not form on gold."),
        ("The earth orbits the sun.", "The earth goes around the sun."),
        ("It stores the password in plain text.", "The password is stored in plain text."),
        ("Copper conducts electricity well.", "Copper is a good conductor of electricity."),
    ]
    return [Pair(a, b, "unseen") for a, b in said]


def unseen_flips() -> list[Pair]:
    """Pairs that differ, most of them not in one frame, written last of all: no rule was changed by them, but
    the threshold for what two answers do not share was chosen with them in sight."""
    said = [
        ("The heart pumps blood through the body.", "Blood is cleaned by the kidneys."),
        ("Bees make honey.", "Honey is made by wasps."),
        ("The treaty ended the war.", "The war was caused by the treaty."),
        ("The tenant has to pay the repairs.", "The repairs must be paid by the owner."),
        ("Ice floats because it is less dense than water.", "Ice floats since air is trapped in it."),
        ("The company went bankrupt in 2008.", "In 2008 the company was bought by a rival."),
        ("You should save the file first.", "First, delete the file."),
        ("It is the lungs.", "The stomach is the organ."),
        ("Gold does not rust.", "Iron does not rust, unlike other metals."),
        ("The password is stored in plain text.", "It stores a hash of the password."),
        ("The earth orbits the sun.", "The moon goes around the earth."),
        ("Copper conducts electricity well.", "Rubber is a poor conductor of electricity."),
        ("It was painted in oil.", "The picture was painted in watercolour."),
        ("A lawyer drafted the will.", "The will was drafted by a notary."),
        ("The bug is in the parser.", "The bug sits in the lexer."),
        ("The acid turns the paper red.", "The paper turns blue in the acid."),
        ("They travelled by train.", "They took a ship."),
        ("Blood carries oxygen.", "Blood transports hormones."),
        ("The author praises the king.", "The king is mocked by the author."),
        ("The virus attacks the liver.", "The liver is protected from the virus."),
    ]
    return [Pair(a, b, "unseen") for a, b in said]
