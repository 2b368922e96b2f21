"""Names of towns, people, companies and things that do not exist, for the demos' texts.

Each is put together from syllables or words. Not here: what the texts say (invented.py, invented_claims.py).
"""

from dataclasses import dataclass
from itertools import product
from random import Random

_TOWN_STARTS = ("Vel", "Orn", "Tas", "Quil", "Bru", "Ske", "Fal", "Dro", "Yar", "Nim", "Gav", "Ulm", "Pel", "Zor",
                "Hod", "Wem")  # fmt: skip
_TOWN_ENDS = ("mora", "wick", "dunna", "helm", "tiva", "garth", "sollow", "penny", "rusk", "berrin", "vale", "ickle")
_FIRST_NAMES = (
    "Tavi", "Odrel", "Minka", "Jorun", "Peska", "Ludo", "Ferrin", "Asmy", "Corvo", "Betri", "Hanno", "Silke",
    "Wendra", "Rufo", "Ilka", "Gorm", "Nessim", "Dalla", "Yoren", "Brana",
)  # fmt: skip
_SURNAME_STARTS = ("Osk", "Brand", "Thim", "Kell", "Harv", "Mund", "Wex", "Lor", "Stav", "Pind", "Rook", "Dask")
_SURNAME_ENDS = ("eldale", "ovar", "ingram", "efield", "amont", "ulsen", "erby", "ansky")
_COMPANY_STARTS = ("Zim", "Kor", "Blen", "Ux", "Trel", "Hap", "Mos", "Jin", "Ebb", "Sul", "Cra", "Wob")
_COMPANY_ENDS = ("vane", "dax", "olto", "rick", "essa", "umbo", "itra", "anza")
_COMPANY_KINDS = ("Works", "Mills", "Press", "Foods", "Motors", "Labs")
_ADJECTIVES = ("glass", "singing", "paper", "floating", "copper", "velvet", "frozen", "striped", "hollow", "golden",
               "whistling", "folding", "marble", "wooden")  # fmt: skip
_NOUNS = ("bridge", "clock", "bicycle", "kettle", "statue", "lantern", "piano", "balloon", "umbrella", "tractor",
          "fountain", "ladder", "telescope", "wagon")  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True)
class Names:
    """What one text is about."""

    town: str
    person: str
    company: str
    thing: str


def draw_names(random: Random, count: int) -> tuple[Names, ...]:
    """So many, of which no two share a town, a person, a company or a thing.

    Raises:
        ValueError: there are not so many (192).
    """

    def drawn(*parts: tuple[str, ...], joined_by: str = "") -> list[str]:
        return random.sample([joined_by.join(names) for names in product(*parts)], count)

    towns = drawn(_TOWN_STARTS, _TOWN_ENDS)
    people = drawn(_FIRST_NAMES, tuple(map("".join, product(_SURNAME_STARTS, _SURNAME_ENDS))), joined_by=" ")
    companies = drawn(tuple(map("".join, product(_COMPANY_STARTS, _COMPANY_ENDS))), _COMPANY_KINDS, joined_by=" ")
    things = drawn(_ADJECTIVES, _NOUNS, joined_by=" ")
    return tuple(map(Names, towns, people, companies, things))
