"""Words that the shipped data are made of: names, things by category, adjectives, sentences. All written for tamis."""

from __future__ import annotations

NAMES = tuple(
    (
        "Ada Amir Anna Ben Carla Chen Clara David Dora Elias Emma Farid Fiona George Hana Hugo Ines Ivan Jonas Julia "
        "Kofi Lara Leo Maria Mila Nadia Noah Olga Omar Paul Petra Rosa Samir Sofia Tara Tomas Vera Yusuf Zoe Oscar"
    ).split()
)

CATEGORIES: dict[str, tuple[str, ...]] = {
    "fruits": tuple("apple pear plum fig cherry banana grape mango peach lemon melon kiwi".split()),
    "tools": tuple("hammer saw drill wrench chisel file pliers ladder spade axe rake level".split()),
    "animals": tuple("horse otter fox rabbit tiger badger camel whale lizard goat wolf bear".split()),
    "colours": tuple("red blue green yellow purple crimson brown violet scarlet amber teal grey".split()),
    "vehicles": tuple("bus tram bicycle lorry ferry train scooter canoe taxi van yacht tractor".split()),
    "instruments": tuple("violin flute drum cello harp trumpet piano guitar oboe banjo organ tuba".split()),
    "vegetables": tuple("carrot onion leek potato cabbage spinach turnip pepper celery bean beet pea".split()),
    "clothes": tuple("coat scarf glove shirt sock skirt jacket boot belt hat dress sweater".split()),
    "furniture": tuple("table chair shelf desk sofa bench stool cabinet wardrobe bed dresser cradle".split()),
    "metals": tuple("iron copper zinc titanium platinum tin nickel lead chromium steel brass cobalt".split()),
}

WORDS = tuple(
    (
        "planet garden window silver market bridge candle forest hammer island jungle kettle lantern mirror needle "
        "orange pencil quiver rocket saddle temple umbrella velvet winter yellow anchor basket camera dragon "
        "engine feather guitar harbour insect jacket kitchen ladder marble notebook oyster parrot ribbon shadow "
        "thunder valley whisper blanket compass dolphin elephant fountain glacier horizon lobster meadow network "
        "orchard pyramid railway sandwich teacher village walnut zebra button circus desert falcon ginger hollow"
    ).split()
)

CITIES = tuple(
    (
        "Oslo Lima Cairo Turin Quito Delhi Kyoto Porto Accra Dakar Hanoi Tunis Leeds Basel Malmo Sofia Perth Osaka "
        "Natal Izmir"
    ).split()
)

# (verb in the past, participle, object)
ACTIONS = (
    ("painted", "painted", "the fence"), ("wrote", "written", "the letter"), ("fixed", "fixed", "the old radio"),
    ("broke", "broken", "the blue vase"), ("baked", "baked", "the bread"), ("drew", "drawn", "the map"),
    ("sold", "sold", "the house"), ("cleaned", "cleaned", "the kitchen"), ("found", "found", "the lost key"),
    ("built", "built", "the small boat"), ("stole", "stolen", "the bicycle"), ("opened", "opened", "the heavy door"),
    ("carried", "carried", "the boxes"), ("planted", "planted", "the roses"), ("chose", "chosen", "the winning photo"),
    ("washed", "washed", "the car"), ("read", "read", "the report"), ("sang", "sung", "the last song"),
    ("ate", "eaten", "the cake"), ("hid", "hidden", "the present"), ("cooked", "cooked", "the dinner"),
    ("moved", "moved", "the piano"), ("lost", "lost", "the ticket"), ("signed", "signed", "the contract"),
)  # fmt: skip

GOOD = (
    "bright",
    "helpful",
    "delicious",
    "comfortable",
    "reliable",
    "friendly",
    "quick",
    "charming",
    "excellent",
    "fresh",
)
BAD = ("broken", "rude", "tasteless", "noisy", "slow", "dirty", "boring", "overpriced", "useless", "cold")
REVIEWED = (
    "hotel room", "soup", "waiter", "headset", "novel", "film", "train ride", "phone", "museum", "coffee", "jacket",
    "concert", "lesson", "bakery", "printer", "tour guide", "blender", "campsite", "podcast", "taxi driver",
)  # fmt: skip
MONTHS = tuple(("January February March April May June July August September October November December").split())
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
