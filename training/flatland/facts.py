"""What the brain knows and the hand does not: facts whose answer is a color, a shape or a number."""

from __future__ import annotations

import hashlib

COLOR_FACTS = {
    "a ripe banana": "yellow", "a lemon": "yellow", "a sunflower": "yellow", "a baby chick": "yellow", "butter": "yellow",
    "a ripe tomato": "red", "a strawberry": "red", "a fire engine": "red", "blood": "red", "a ladybug": "red",
    "fresh grass": "green", "a frog": "green", "a cucumber": "green", "spinach": "green", "an emerald": "green",
    "the clear sky": "blue", "the deep sea": "blue", "a sapphire": "blue", "a blueberry": "blue", "denim": "blue",
    "a carrot": "orange", "a pumpkin": "orange", "a basketball": "orange", "a tangerine": "orange", "a goldfish": "orange",
    "an eggplant": "purple", "lavender": "purple", "a plum": "purple", "an amethyst": "purple", "a violet": "purple",
}  # fmt: skip
SHAPE_FACTS = {
    "a wheel": "circle", "a coin": "circle", "the full moon": "circle", "a dinner plate": "circle",
    "a chessboard": "square", "a floor tile": "square", "the face of a die": "square", "a slice of toast": "square",
    "a yield sign": "triangle", "a slice of pizza": "triangle", "the side of a pyramid": "triangle",
    "a tent seen from the front": "triangle",
    "a sheriff badge": "star", "a starfish": "star", "the top of a christmas tree": "star", "a snowflake sticker": "star",
    "a plus sign": "cross", "a first aid sign": "cross", "the mark of a pharmacy": "cross", "a windmill": "cross",
    "a valentine": "heart", "the sign of love": "heart", "a locket": "heart", "a suit of cards that means love": "heart",
}  # fmt: skip
NUMBER_FACTS = {
    "the earth has moons": 1, "a unicorn has horns": 1, "a face has noses": 1, "a snail has feet": 1,
    "a bicycle has wheels": 2, "a bird has wings": 2, "a person has eyes": 2, "a ladder has rails": 2,
    "a triangle has sides": 3, "a tricycle has wheels": 3, "a traffic light has lamps": 3, "a clover has leaves": 3,
    "a dog has legs": 4, "a car has wheels": 4, "a year has seasons": 4, "a square has sides": 4,
}  # fmt: skip


def pairing_held_out(kind: str, fact: str, attribute: str) -> bool:
    """15% of fact x attribute pairings never occur in the brain's think-rewrites; the facts themselves all do in its questions."""
    return int.from_bytes(hashlib.sha256(f"{kind}/{fact}/{attribute}".encode()).digest()[:4], "big") % 100 < 15
