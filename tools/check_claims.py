"""Compare every result number of the prose with what the shipped tables say: python tools/check_claims.py [--write].

Prints claim, stored value, recomputed value and where it stands; ends with status 1 where two differ, where a name is unknown, or where
a shipped table is not the one that data/claims.json was written for. --write fills the prose and writes data/claims.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from claims import digests, filled, marked, recompute_claims

ROOT = Path(__file__).resolve().parent.parent
STORED = ROOT / "data" / "claims.json"


def prose() -> list[Path]:
    """The files whose results are marked."""
    pages = [ROOT / "README.md", ROOT / "data" / "tiny" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [*pages, *sorted((ROOT / "notebooks").glob("*.py"))]


def differences(values: dict[str, str], tables: dict[str, str]) -> list[tuple[str, str, str, str]]:
    """What does not agree: (claim or table, stored, recomputed, file)."""
    stored = json.loads(STORED.read_text()) if STORED.exists() else {"claims": {}, "tables": {}}
    found = [
        (name, said, values.get(name, "no such claim"), file.name)
        for file in prose() for name, said in marked(file.read_text()) if said != values.get(name)
    ]  # fmt: skip
    for kind, now in (("claims", values), ("tables", tables)):
        for name in sorted(stored[kind].keys() | now.keys()):
            if stored[kind].get(name) != now.get(name):
                found.append((name, str(stored[kind].get(name)), str(now.get(name)), STORED.name))
    return found


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--write", action="store_true", help="fill the prose and write data/claims.json")
    chosen = options.parse_args()
    values, tables = recompute_claims(), digests()
    if chosen.write:
        for file in prose():
            before = file.read_text()
            if (after := filled(before, values)) != before:
                file.write_text(after)
        STORED.write_text(json.dumps({"claims": values, "tables": tables}, indent=1, ensure_ascii=False) + "\n")
    for file in prose():
        for name, said in dict.fromkeys(marked(file.read_text())):
            print(f"{name:40} {said:30} {values.get(name, '-'):30} {file.name}")
    wrong = differences(values, tables)
    for name, said, now, where in wrong:
        print(f"DIFFERS: {name}: {said} in {where}, {now} recomputed")
    print(f"{len(values)} claims and {len(tables)} tables recomputed, {len(wrong)} differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
