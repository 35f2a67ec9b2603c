"""The outside world: a payment provider, a warehouse and a carrier, simulated on SQLite.

Clients of real services will replace this file. It keeps the rule by which they make retries safe:
a second request with the same idempotency key has no effect, and gets the same answer. One view has
the books of all services:

    uv run python -m sqlite3 shop.db "SELECT * FROM ledger"
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from secrets import token_hex
from threading import Lock

from order_fulfillment.shared import CATALOGUE, Card, parse_card_expiry

INITIAL_STOCK = dict.fromkeys(CATALOGUE, 100_000) | {"temporal-poster": 10}

TABLES = """
CREATE TABLE IF NOT EXISTS stock (
    sku TEXT PRIMARY KEY,
    on_hand INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS authorizations (
    idempotency_key TEXT PRIMARY KEY,
    reference TEXT NOT NULL UNIQUE,
    amount_cents INTEGER NOT NULL,
    currency TEXT NOT NULL,
    lapses_at TEXT NOT NULL,
    captured_at TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS holds (
    idempotency_key TEXT NOT NULL,
    sku TEXT NOT NULL,
    quantity INTEGER NOT NULL,
    reference TEXT NOT NULL,
    lapses_at TEXT NOT NULL,
    shipped_at TEXT,
    PRIMARY KEY (idempotency_key, sku)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS shipments (
    idempotency_key TEXT PRIMARY KEY,
    tracking_number TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS references_of_holds ON holds (reference);
CREATE INDEX IF NOT EXISTS live_holds ON holds (sku, lapses_at) WHERE shipped_at IS NULL;
CREATE VIEW IF NOT EXISTS ledger AS
    SELECT idempotency_key, reference FROM authorizations
    UNION ALL SELECT DISTINCT idempotency_key, reference FROM holds
    UNION ALL SELECT idempotency_key, tracking_number FROM shipments;
"""

AVAILABLE = """
SELECT on_hand - coalesce(
    (SELECT sum(quantity) FROM holds
     WHERE holds.sku = stock.sku AND shipped_at IS NULL AND lapses_at > ?), 0
) FROM stock WHERE sku = ?
"""
"""The stock on hand, less the goods that are held."""

CAPTURE = """
UPDATE authorizations SET captured_at = :now
WHERE reference = :reference AND captured_at IS NULL AND lapses_at > :now
"""
SHIP = """
UPDATE holds SET shipped_at = :now
WHERE reference = :reference AND shipped_at IS NULL AND lapses_at > :now
"""
TAKE_FROM_STOCK = """
UPDATE stock SET on_hand = on_hand - quantity
FROM holds WHERE holds.sku = stock.sku AND reference = ?
"""


class PaymentValidationError(Exception):
    """The card has expired, its expiry cannot be read, or the amount is below one cent."""


class OutOfStockError(Exception):
    """Less is available than was wanted, or less than one piece was wanted."""


class LapsedError(Exception):
    """The authorization or the hold has lapsed: the delivery comes too late."""


class UnknownItemError(Exception):
    """The warehouse does not know an article: the shop that took the order has a bug."""


class ShopServices:
    """All three services, and their books in one file. Any thread may call them."""

    def __init__(self, file: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Open the books, or begin new ones with a full stock; OSError if that cannot be."""
        self._now = now
        self._lock = Lock()  # The connection does one transaction at a time.
        try:
            # While another worker writes, a call waits for two seconds, and then fails.
            self._books = sqlite3.connect(
                file, timeout=2, isolation_level=None, check_same_thread=False
            )
            # Readers do not block writers, and a commit is on disk before it returns.
            self._books.execute("PRAGMA journal_mode = WAL")
            self._books.execute("PRAGMA synchronous = FULL")
            self._books.executescript(TABLES)
            fill = "INSERT OR IGNORE INTO stock VALUES (?, ?)"
            with self._transaction() as books:
                books.executemany(fill, INITIAL_STOCK.items())
        except sqlite3.Error as error:
            raise OSError(f"cannot keep the services' books in {str(file)!r}: {error}") from None

    def authorize(self, key: str, amount_cents: int, card: Card, lapses_after: float) -> str:
        """Payment provider: authorize an amount, or raise PaymentValidationError."""
        now = self._now()
        with self._transaction() as books:
            known = "SELECT reference FROM authorizations WHERE idempotency_key = ?"
            if row := books.execute(known, (key,)).fetchone():
                return str(row[0])
            if amount_cents < 1:
                raise PaymentValidationError(f"cannot take {amount_cents} cents")
            try:
                if (now.year, now.month) > parse_card_expiry(card.expiry):
                    raise PaymentValidationError(f"the card expired at the end of {card.expiry}")
            except ValueError as error:
                raise PaymentValidationError(str(error)) from None
            reference = f"auth-{token_hex(6)}"
            lapses_at = str(now + timedelta(seconds=lapses_after))
            insert = "INSERT INTO authorizations VALUES (?, ?, ?, 'USD', ?, NULL)"
            books.execute(insert, (key, reference, amount_cents, lapses_at))
            return reference

    def hold(self, key: str, items: list[tuple[str, int]], lapses_after: float) -> str:
        """Warehouse: hold the goods of an order, or raise one of two errors and hold nothing."""
        now = self._now()
        with self._transaction() as books:
            known = "SELECT reference FROM holds WHERE idempotency_key = ?"
            if row := books.execute(known, (key,)).fetchone():
                return str(row[0])
            # The fix of scenario 7 can make one article out of two.
            insert = "INSERT INTO holds VALUES (?, ?, ?, ?, ?, NULL)"
            insert += " ON CONFLICT DO UPDATE SET quantity = quantity + excluded.quantity"
            reference = f"hold-{token_hex(6)}"
            lapses_at = str(now + timedelta(seconds=lapses_after))
            for sku, wanted in items:
                available = books.execute(AVAILABLE, (str(now), sku)).fetchone()
                if not available:
                    raise UnknownItemError(f"the warehouse does not know {sku!r}")
                if not 1 <= wanted <= available[0]:
                    raise OutOfStockError(f"{wanted} {sku} wanted, {available[0]} available")
                books.execute(insert, (key, sku, wanted, reference, lapses_at))
            return reference

    def deliver(self, key: str, authorization: str, hold: str) -> str:
        """Carrier: capture the payment and ship the goods, or raise LapsedError and do neither.

        A real provider and a real carrier need a step each: see docs/exercises.md.
        """
        with self._transaction() as books:
            known = "SELECT tracking_number FROM shipments WHERE idempotency_key = ?"
            if row := books.execute(known, (key,)).fetchone():
                return str(row[0])
            now = str(self._now())
            for take, reference in (CAPTURE, authorization), (SHIP, hold):
                if books.execute(take, {"reference": reference, "now": now}).rowcount == 0:
                    raise LapsedError(f"{reference} has lapsed, or is not in these books")
            books.execute(TAKE_FROM_STOCK, (hold,))
            tracking_number = f"track-{token_hex(6)}"
            books.execute("INSERT INTO shipments VALUES (?, ?)", (key, tracking_number))
            return tracking_number

    def close(self) -> None:
        """Close the books. If no other worker has them open, they are then in the one file."""
        with self._lock:
            self._books.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All of it or nothing, and on disk at the end."""
        with self._lock, self._books:
            # IMMEDIATE: no other worker writes between this one's reading and writing.
            self._books.execute("BEGIN IMMEDIATE")
            yield self._books
