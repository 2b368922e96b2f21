"""Make up names of towns, people, companies and things from syllables and words."""

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
    """The names in one text."""

    town: str
    person: str
    company: str
    thing: str


def draw_names(random: Random, count: int) -> tuple[Names, ...]:
    """Draw names; no two share a town, a person, a company or a thing.

    Raises:
        ValueError: count is above 192, the number of towns.
    """

    def draw(*parts: tuple[str, ...], joined_by: str = "") -> list[str]:
        return random.sample([joined_by.join(names) for names in product(*parts)], count)

    towns = draw(_TOWN_STARTS, _TOWN_ENDS)
    people = draw(_FIRST_NAMES, tuple(map("".join, product(_SURNAME_STARTS, _SURNAME_ENDS))), joined_by=" ")
    companies = draw(tuple(map("".join, product(_COMPANY_STARTS, _COMPANY_ENDS))), _COMPANY_KINDS, joined_by=" ")
    things = draw(_ADJECTIVES, _NOUNS, joined_by=" ")
    return tuple(map(Names, towns, people, companies, things))
