"""The outside world: a payment provider, a warehouse and a carrier, simulated on SQLite.

This file is what you replace by the clients of real services. It keeps the rule by which they make
retries safe: asked again with the same idempotency key, a service does nothing and gives the same
answer. What the services did can be read in their books:

    uv run python -m sqlite3 shop.db "SELECT * FROM ledger"
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from secrets import token_hex

from order_fulfillment.shared import CATALOGUE, Card, parse_card_expiry
from order_fulfillment.support.command_line import CommandError

BUSY_SECONDS = 2.0
"""How long to wait while another worker writes; then the call fails."""

TABLES = """
CREATE TABLE IF NOT EXISTS stock (
    sku TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    unit_price_cents INTEGER NOT NULL,
    on_hand INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS authorizations (
    idempotency_key TEXT PRIMARY KEY,
    reference TEXT NOT NULL UNIQUE,
    card_token TEXT NOT NULL,
    amount_cents INTEGER NOT NULL,
    currency TEXT NOT NULL,
    authorized_at TEXT NOT NULL,
    lapses_at TEXT NOT NULL,
    captured_at TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS holds (
    idempotency_key TEXT PRIMARY KEY,
    reference TEXT NOT NULL UNIQUE,
    held_at TEXT NOT NULL,
    lapses_at TEXT NOT NULL,
    shipped_at TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hold_items (
    reference TEXT NOT NULL REFERENCES holds (reference),
    sku TEXT NOT NULL,
    quantity INTEGER NOT NULL,
    PRIMARY KEY (reference, sku)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS shipments (
    idempotency_key TEXT PRIMARY KEY,
    tracking_number TEXT NOT NULL,
    payment_authorization TEXT NOT NULL,
    inventory_reservation TEXT NOT NULL,
    shipped_at TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS live_holds ON holds (lapses_at, reference) WHERE shipped_at IS NULL;
CREATE VIEW IF NOT EXISTS ledger AS
    SELECT idempotency_key, reference, authorized_at AS at FROM authorizations
    UNION ALL SELECT idempotency_key, reference, held_at FROM holds
    UNION ALL SELECT idempotency_key, tracking_number, shipped_at FROM shipments;
"""


AVAILABLE = """
SELECT sku, on_hand - coalesce(held, 0) FROM stock LEFT JOIN (
    SELECT sku, sum(quantity) AS held FROM holds JOIN hold_items USING (reference)
    WHERE shipped_at IS NULL AND lapses_at > ? GROUP BY sku
) USING (sku)
"""
"""What is on hand, less what is held for others."""


class RefusedError(Exception):
    """A service refuses, and would refuse again."""


class PaymentValidationError(RefusedError):
    """The card has expired, or its expiry cannot be read."""


class OutOfStockError(RefusedError):
    """Less is available than was wanted."""


class UnknownItemError(Exception):
    """The warehouse does not know an article: the shop that took the order has a bug."""


class LapsedError(RefusedError):
    """The authorization or the hold has lapsed: the delivery comes too late."""


class ShopServices:
    """All three services, and their books in one file. May be used by many threads at once."""

    def __init__(self, file: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Open the books, or begin new ones with a full stock.

        Raises:
            CommandError: when there can be no books at this place.
        """
        self._now = now
        self._lock = threading.Lock()
        stock = [
            (sku, article.name, article.unit_price_cents, article.on_hand)
            for sku, article in CATALOGUE.items()
        ]
        try:
            # One connection for all threads, since SQLite has one writer at a time anyway.
            self._books = sqlite3.connect(
                file, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            # Readers do not block writers, and a commit is on disk before it returns.
            self._books.execute("PRAGMA journal_mode = WAL")
            self._books.execute("PRAGMA synchronous = FULL")
            with self._transaction() as books:
                for statement in TABLES.split(";"):
                    books.execute(statement)
                books.executemany("INSERT OR IGNORE INTO stock VALUES (?, ?, ?, ?)", stock)
        except sqlite3.Error as error:
            raise CommandError(
                f"cannot keep books in {str(file)!r}: {error}; name another --shop-db"
            ) from None

    def authorize(
        self, key: str, amount_cents: int, currency: str, card: Card, lapses_after: timedelta
    ) -> str:
        """Payment provider: promise an amount of the card, and return the promise's reference.

        Raises:
            PaymentValidationError: when the card has expired, or its expiry cannot be read.
        """
        now = self._now()
        reference, lapses_at = f"auth-{token_hex(6)}", _text(now + lapses_after)
        with self._transaction() as books:
            if known := _find(books, "SELECT reference FROM authorizations", key):
                return known
            _check_card(card, now)
            books.execute(
                "INSERT INTO authorizations VALUES (?, ?, ?, ?, ?, ?, ?, NULL)",
                (key, reference, card.token, amount_cents, currency, _text(now), lapses_at),
            )
            return reference

    def hold(self, key: str, quantities: dict[str, int], lapses_after: timedelta) -> str:
        """Warehouse: keep goods for an order, and return the hold's reference.

        Raises:
            OutOfStockError: when too little is available; nothing is held then.
            UnknownItemError: when it does not know an article; nothing is held then.
        """
        with self._transaction() as books:
            if known := _find(books, "SELECT reference FROM holds", key):
                return known
            now = self._now()
            skus = ", ".join("?" * len(quantities))
            available = dict(
                books.execute(f"{AVAILABLE} WHERE sku IN ({skus})", (_text(now), *quantities))
            )
            for sku, wanted in quantities.items():
                if sku not in available:
                    raise UnknownItemError(f"the warehouse does not know {sku!r}")
                if wanted > available[sku]:
                    raise OutOfStockError(f"{wanted} {sku} wanted, {available[sku]} available")
            reference = f"hold-{token_hex(6)}"
            books.execute(
                "INSERT INTO holds VALUES (?, ?, ?, ?, NULL)",
                (key, reference, _text(now), _text(now + lapses_after)),
            )
            books.execute(
                f"INSERT INTO hold_items VALUES {', '.join(['(?, ?, ?)'] * len(quantities))}",
                [value for item in quantities.items() for value in (reference, *item)],
            )
            return reference

    def deliver(self, key: str, authorization: str, hold: str) -> str:
        """Capture an authorized payment, ship the held goods, and return the tracking number.

        Raises:
            LapsedError: when one of the two has lapsed; nothing is captured or shipped then.
        """
        with self._transaction() as books:
            if known := _find(books, "SELECT tracking_number FROM shipments", key):
                return known
            now = _text(self._now())
            for table, column, reference in (
                ("authorizations", "captured_at", authorization),
                ("holds", "shipped_at", hold),
            ):
                live = books.execute(
                    f"UPDATE {table} SET {column} = ? WHERE reference = ? AND lapses_at > ?",
                    (now, reference, now),
                )
                if not live.rowcount:
                    raise LapsedError(f"{reference} has lapsed, or is not in these books")
            books.execute(
                "UPDATE stock SET on_hand = on_hand - quantity FROM hold_items "
                "WHERE stock.sku = hold_items.sku AND reference = ?",
                (hold,),
            )
            tracking_number = f"track-{token_hex(6)}"
            books.execute(
                "INSERT INTO shipments VALUES (?, ?, ?, ?, ?)",
                (key, tracking_number, authorization, hold, now),
            )
            return tracking_number

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All of it or nothing, and on disk at the end."""
        with self._lock, self._books:
            # IMMEDIATE: no other worker writes between this one's reading and writing.
            self._books.execute("BEGIN IMMEDIATE")
            yield self._books


def _find(books: sqlite3.Connection, select: str, key: str) -> str | None:
    row = books.execute(f"{select} WHERE idempotency_key = ?", (key,)).fetchone()
    return str(row[0]) if row else None


def _check_card(card: Card, now: datetime) -> None:
    try:
        expiry = parse_card_expiry(card.expiry)
    except ValueError as error:
        raise PaymentValidationError(str(error)) from None
    if (now.year, now.month) > expiry:
        raise PaymentValidationError(f"the card expired at the end of {card.expiry}")


def _text(time: datetime) -> str:
    """A time as people read it and SQLite sorts it."""
    return time.isoformat(timespec="milliseconds")
