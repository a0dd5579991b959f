"""Units: inside everything is eV and Å; kcal/mol appears where results are written (CODATA values through ASE)."""

from ase import units

from bench.errors import UserError, nearest

KCAL_PER_MOL: float = units.kcal / units.mol
"""One kcal/mol in eV."""

ENERGY_UNITS: dict[str, float] = {
    "eV": 1.0,
    "meV": 1e-3,
    "kcal/mol": KCAL_PER_MOL,
    "kJ/mol": units.kJ / units.mol,
    "Hartree": units.Hartree,
    "Rydberg": units.Rydberg,
}
LENGTH_UNITS: dict[str, float] = {"Å": 1.0, "Angstrom": 1.0, "Bohr": units.Bohr, "nm": units.nm}


def energy_unit(name: str) -> float:
    """Return one `name` in eV. Raises UserError for an unknown unit."""
    return _look_up(name, ENERGY_UNITS, "energy unit")


def length_unit(name: str) -> float:
    """Return one `name` in Å. Raises UserError for an unknown unit."""
    return _look_up(name, LENGTH_UNITS, "length unit")


def force_unit(name: str) -> float:
    """Return one `name` in eV/Å: an energy per length, such as Hartree/Bohr. Raises UserError for an unknown unit."""
    energy, slash, length = name.rpartition("/")
    if not slash or energy not in ENERGY_UNITS or length not in LENGTH_UNITS:
        raise UserError(f"forces unit {name!r} is not known: give an energy per length, such as eV/Å or Hartree/Bohr")
    return ENERGY_UNITS[energy] / LENGTH_UNITS[length]


def _look_up(name: str, table: dict[str, float], kind: str) -> float:
    if name not in table:
        raise UserError(f"{kind} {name!r} is not known: {nearest(name, table)}")
    return table[name]
