"""The card holders of the stream: identities, usual amounts and merchants. Time and fraud are in cards.py."""

from __future__ import annotations

import random
from dataclasses import dataclass

from fraud_lakehouse.demo.card_record import stable_user_id

_FIRST = """
Aaron, Abigail, Alan, Amanda, Amber, Angela, Anthony, Ashley, Barbara, Benjamin, Brandon, Brian, Carol, Catherine,
Charles, Christina, Daniel, David, Deborah, Dennis, Diana, Donald, Edward, Elizabeth, Emily, Eric, Frank, George,
Hannah, Heather, Jacob, James, Jason, Jennifer, Jessica, John, Joseph, Joshua, Karen, Kenneth, Kevin, Laura,
Linda, Lisa, Margaret, Maria, Mark, Mary, Matthew, Megan, Melissa, Michael, Michelle, Nancy, Nathan, Nicole,
Pamela, Patricia, Patrick, Paul, Rachel, Rebecca, Richard, Robert, Ruth, Ryan, Samantha, Samuel, Sandra, Sarah,
Scott, Sharon, Stephanie, Stephen, Steven, Susan, Thomas, Timothy, Tyler, William
"""
_LAST = """
Adams, Allen, Anderson, Baker, Bell, Bennett, Brooks, Brown, Butler, Campbell, Carter, Chavez, Clark, Coleman,
Collins, Cook, Cooper, Cox, Cruz, Davis, Diaz, Edwards, Evans, Fisher, Flores, Foster, Garcia, Gomez, Gonzalez,
Gray, Green, Griffin, Hall, Harris, Hayes, Henderson, Hernandez, Hill, Howard, Hughes, Jackson, Jenkins, Johnson,
Jones, Kelly, Kim, King, Lee, Lewis, Long, Lopez, Martin, Martinez, Miller, Mitchell, Moore, Morgan, Morris,
Murphy, Nelson, Nguyen, Ortiz, Parker, Patel, Perez, Perry, Peterson, Phillips, Powell, Price, Ramirez, Reed,
Reyes, Rivera, Roberts, Robinson, Rogers, Ross, Russell, Sanchez, Sanders, Scott, Smith, Stewart, Sullivan,
Taylor, Thomas, Thompson, Torres, Turner, Walker, Ward, Washington, Waters, Watson, White, Williams, Wilson, Wood,
Wright, Young
"""
_MERCHANTS = """
Abshire Ltd, Baumbach and Sons, Bins-Rice, Boyer PLC, Brakus Inc, Cormier LLC, Cremin-Hamill, Cummerata-Jones,
Dare-Marvin, Deckow Group, Dooley and Sons, Eichmann Bogan, Ferry-Lynch, Funk Group, Gerlach Inc, Goyette-Herzog,
Hackett-Lueilwitz, Harber Inc, Heller Gutmann, Hickle Group, Huels-Hahn, Jast-Kling, Kassulke PLC, Kerluke Inc,
Kilback LLC, Koepp-Parker, Kuhn LLC, Kutch Group, Lakin-Weber, Langworth LLC, Lesch Ltd, Lind-Buckridge, Lowe PLC,
Lynch Ltd, Mante Group, Medhurst PLC, Monahan-Morar, Mraz-Herzog, Murray-Smitham, Nader-Heller, Olson Becker,
Padberg-Welch, Pouros-Haag, Reichel Inc, Rippin Kub, Robel-Cummerata, Rowe-Vandervort, Ruecker Group, Schmeler
Inc, Schumm PLC, Sporer-Keebler, Stamm-Rodriguez, Swift Bradtke, Terry-Huel, Thiel PLC, Torphy-Goyette, Turcotte-
Halvorson, Vandervort-Funk, Waelchi Inc, Zboncak Ltd
"""


def _names(text: str) -> list[str]:
    return " ".join(text.split()).split(", ")


# The price of a purchase by category, as a multiple of the person's usual amount.
CATEGORIES = {
    "entertainment": 0.95,
    "food_dining": 0.85,
    "gas_transport": 0.95,
    "grocery_net": 0.85,
    "grocery_pos": 1.15,
    "health_fitness": 0.9,
    "home": 1.0,
    "kids_pets": 0.95,
    "misc_net": 1.0,
    "misc_pos": 0.9,
    "personal_care": 0.85,
    "shopping_net": 1.1,
    "shopping_pos": 1.05,
    "travel": 1.2,
}
MERCHANTS = [
    (f"fraud_{name}", list(CATEGORIES)[index % len(CATEGORIES)]) for index, name in enumerate(_names(_MERCHANTS))
]
_SPREAD = 0.28  # sigma of the logarithm of a person's amounts within a category


@dataclass(frozen=True, slots=True)
class Cardholder:
    """One person with one card; `usual` is the median amount of a purchase, `shops` the merchants frequented."""

    first: str
    last: str
    dob: str
    zipcode: str
    cc_num: int
    user_id: int
    usual: float
    shops: list[tuple[str, str]]

    def amount(self, chance: random.Random, category: str) -> float:
        """A usual amount: log-normal around the person's typical amount in the category."""
        return round(self.usual * CATEGORIES[category] * chance.lognormvariate(0.0, _SPREAD), 2)


def cardholders(seed: int, count: int) -> list[Cardholder]:
    """The first `count` people of a seed; the n-th does not depend on `count`."""
    found: list[Cardholder] = []
    identities: set[tuple[str, str, str]] = set()
    chance = random.Random(f"cardholders {seed}")
    first_names, last_names = _names(_FIRST), _names(_LAST)
    while len(found) < count:
        first, last = chance.choice(first_names), chance.choice(last_names)
        dob = f"{chance.randint(1, 12)}/{chance.randint(1, 28)}/{chance.randint(35, 99)}"
        zipcode, cc_num = f"{chance.randint(1001, 99950):05d}", chance.randint(4 * 10**15, 5 * 10**15 - 1)
        usual, shops = chance.uniform(35, 95), chance.sample(MERCHANTS, 8)
        if (last, first, dob) not in identities:
            identities.add((last, first, dob))
            user_id = stable_user_id(last, first, dob)
            found.append(Cardholder(first, last, dob, zipcode, cc_num, user_id, usual, shops))
    return found
