"""A stand-in for the package `breez_sdk_spark`, for tests: the real sidecar runs on it, as far as it uses the SDK.

The operators and the provider are one SQLite file that all processes share. They accept a transfer's id once, and check
nothing else: who pays an invoice twice under two ids has paid twice. What a wallet knows without asking them is a file in
its storage directory, which only a sync and a send that was answered write, as with the SDK.
"""

import asyncio
import enum
import hashlib
import json
import os
import signal
import sqlite3
import time
import types

LEDGER = None  # set by whoever starts it

# Invoices (BOLT 11), signed by the provider.

P = 2**256 - 2**32 - 977
N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
G = (0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
     0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8)
CHARS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def add(a, b):
    if a is None or b is None:
        return a or b
    if a[0] == b[0]:
        if (a[1] + b[1]) % P == 0:
            return None
        slope = 3 * a[0] * a[0] * pow(2 * a[1], -1, P)
    else:
        slope = (b[1] - a[1]) * pow(b[0] - a[0], -1, P)
    x = (slope * slope - a[0] - b[0]) % P
    return x, (slope * (a[0] - x) - a[1]) % P


def times(count, point=G):
    total = None
    while count:
        if count & 1:
            total = add(total, point)
        point, count = add(point, point), count >> 1
    return total


def public(secret):
    x, y = times(secret)
    return bytes([2 + y % 2]) + x.to_bytes(32, "big")


def sign(secret, digest):
    z = int.from_bytes(digest, "big")
    k = int.from_bytes(hashlib.sha256(secret.to_bytes(32, "big") + digest).digest(), "big") % N
    x, y = times(k)
    r = x % N
    s = pow(k, -1, N) * (z + r * secret) % N
    odd = y % 2
    if s > N // 2:
        s, odd = N - s, 1 - odd
    return r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes([odd])


def fives(data):
    bits = "".join(f"{it:08b}" for it in data)
    bits += "0" * (-len(bits) % 5)
    return [int(bits[at:at + 5], 2) for at in range(0, len(bits), 5)]


def number(value, words):
    return [value >> 5 * at & 31 for at in reversed(range(words))]


def checksum(hrp, data):
    check = 1
    values = [ord(it) >> 5 for it in hrp] + [0] + [ord(it) & 31 for it in hrp] + data + [0] * 6
    for value in values:
        top, check = check >> 25, (check & 0x1FFFFFF) << 5 ^ value
        for at, part in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            check ^= part if top >> at & 1 else 0
    return [(check ^ 1) >> 5 * (5 - at) & 31 for at in range(6)]


def bolt11(payment_hash, sats, memo, made, expiry):
    hrp = f"lnbcrt{sats * 10}n"
    data = number(made, 7)
    for tag, words in ((1, fives(payment_hash)), (13, fives(memo.encode())), (6, number(expiry, 4)),
                       (16, fives(hashlib.sha256(b"secret" + payment_hash).digest())), (5, [16, 8, 0])):
        data += [tag] + number(len(words), 2) + words
    bits = "".join(f"{it:05b}" for it in data)
    bits += "0" * (-len(bits) % 8)
    signed = bytes(int(bits[at:at + 8], 2) for at in range(0, len(bits), 8))
    data += fives(sign(0x5EED, hashlib.sha256(hrp.encode() + signed).digest()))
    return hrp + "1" + "".join(CHARS[it] for it in data + checksum(hrp, data))


# The ledger.

TABLES = """
CREATE TABLE IF NOT EXISTS wallets (id TEXT PRIMARY KEY, balance INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS invoices (bolt11 TEXT PRIMARY KEY, hash TEXT NOT NULL, wallet TEXT NOT NULL,
  sats INTEGER NOT NULL, preimage TEXT, expires INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS transfers (id TEXT PRIMARY KEY, payer TEXT NOT NULL, payee TEXT NOT NULL, hash TEXT NOT NULL,
  sats INTEGER NOT NULL, fee INTEGER NOT NULL, status TEXT NOT NULL, preimage TEXT, at INTEGER NOT NULL,
  lands TEXT, lands_ms INTEGER);
CREATE TABLE IF NOT EXISTS rules (number INTEGER PRIMARY KEY, rule TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS arrivals (number INTEGER PRIMARY KEY, point TEXT NOT NULL);
"""


def now_ms():
    return time.time_ns() // 1_000_000


class Ledger:
    def __init__(self):
        self.base = sqlite3.connect(LEDGER, isolation_level=None, timeout=60)
        self.base.row_factory = sqlite3.Row

    def __enter__(self):
        self.base.execute("BEGIN IMMEDIATE")
        for row in self.base.execute(
            "SELECT * FROM transfers WHERE status = 'pending' AND lands_ms <= ?", (now_ms(),)
        ).fetchall():
            self.land(row, row["lands"] == "settle")
        return self

    def __exit__(self, kind, *_):
        self.base.execute("COMMIT" if kind is None else "ROLLBACK")
        self.base.close()

    def one(self, sql, *values):
        return self.base.execute(sql, values).fetchone()

    def do(self, sql, *values):
        return self.base.execute(sql, values)

    def land(self, row, settle):
        preimage = self.one("SELECT preimage FROM invoices WHERE hash = ?", row["hash"])["preimage"]
        if settle and preimage is None:
            # An invoice under the payee's own hash: the money waits for it.
            self.do("UPDATE transfers SET status = 'held' WHERE id = ?", row["id"])
        elif settle:
            self.do("UPDATE transfers SET status = 'completed', preimage = ? WHERE id = ?", preimage, row["id"])
            self.do("UPDATE wallets SET balance = balance + ? WHERE id = ?", row["sats"], row["payee"])
        else:
            self.do("UPDATE transfers SET status = 'failed' WHERE id = ?", row["id"])
            self.do("UPDATE wallets SET balance = balance + ? WHERE id = ?", row["sats"] + row["fee"], row["payer"])

    def of(self, wallet):
        return self.base.execute("SELECT * FROM transfers WHERE ? IN (payer, payee)", (wallet,)).fetchall()


def arrive(point):
    with Ledger() as ledger:
        ledger.do("INSERT INTO arrivals (point) VALUES (?)", point)


# What the sidecar uses of the package.

Network = enum.Enum("Network", "MAINNET REGTEST")
PaymentStatus = enum.Enum("PaymentStatus", "COMPLETED PENDING FAILED")
PaymentType = enum.Enum("PaymentType", "SEND RECEIVE")
SparkHtlcStatus = enum.Enum("SparkHtlcStatus", "WAITING_FOR_PREIMAGE PREIMAGE_SHARED RETURNED")
ChainApiType = enum.Enum("ChainApiType", "ESPLORA MEMPOOL_SPACE")


class SdkError(Exception):
    pass


for name in ("SparkError", "InsufficientFunds", "InvalidUuid", "InvalidInput", "NetworkError", "StorageError", "Generic"):
    setattr(SdkError, name, type(name, (SdkError,), {}))


class PaymentObserverError(Exception):
    pass


PaymentObserverError.Generic = type("Generic", (PaymentObserverError,), {})


class Record(types.SimpleNamespace):
    pass


def record(*names):
    """A class of the package with these fields; what is not given is nothing."""
    class Made(Record):
        def __init__(self, *values, **named):
            super().__init__(**{**dict.fromkeys(names), **dict(zip(names, values)), **named})
    return Made


class Variant(Record):
    def is_lightning(self):
        return self.kind == "lightning"

    def is_bolt11_invoice(self):
        return self.kind == "bolt11"


SyncWalletRequest = record()
GetInfoRequest = record("ensure_synced")
GetPaymentRequest = record("payment_id")
SdkContextConfig = record("network", "api_key")
ReceivePaymentRequest = record("payment_method")
ClaimHtlcPaymentRequest = record("preimage")
PrepareSendPaymentRequest = record("payment_request", "amount")
SendPaymentRequest = record("prepare_response", "options", "idempotency_key")
ListPaymentsRequest = record("type_filter", "from_timestamp", "offset", "limit", "sort_ascending")
ReceivePaymentMethod = Record(BOLT11_INVOICE=record("memo", "sats", "expiry", "hash", "receiver"))
PaymentRequest = Record(INPUT=record("input"))
SendPaymentOptions = Record(BOLT11_INVOICE=record("prefer_spark", "completion_timeout_secs"))
Seed = Record(MNEMONIC=record("mnemonic", "passphrase"))


class PaymentObserver:
    pass


class Logger:
    pass


logger = None


def init_logging(_, given, __):
    global logger
    logger = given


def uniffi_set_event_loop(_):
    pass


async def new_shared_sdk_context(config):
    return config


def default_server_config(network):
    return Record(network=network, spark_config=Record(signing_operators=[], ssp_config=Record()))


def identity(mnemonic):
    if len(mnemonic.split()) != 12:
        raise SdkError.Generic(mnemonic)
    return public(int.from_bytes(hashlib.sha256(mnemonic.encode()).digest(), "big") % N)


def default_external_signers(mnemonic, *_):
    async def get_identity_public_key():
        return Record(bytes=identity(mnemonic))
    return Record(spark_signer=Record(get_identity_public_key=get_identity_public_key))


class SdkBuilder:
    def __init__(self, config, seed):
        self.seed = seed

    async def with_default_storage(self, place):
        self.place = place

    async def with_shared_context(self, _):
        pass

    async def with_payment_observer(self, observer):
        self.observer = observer

    async def build(self):
        return BreezSdk(identity(self.seed.mnemonic).hex(), self.place, self.observer)


def fee_of(sats):
    return 2 + sats // 200


class BreezSdk:
    def __init__(self, ident, place, observer):
        self.id, self.observer = ident, observer
        self.local = sqlite3.connect(os.path.join(place, "storage.sql"), isolation_level=None, timeout=60)
        self.local.execute("CREATE TABLE IF NOT EXISTS payments (id TEXT PRIMARY KEY, at INTEGER, told TEXT)")
        with Ledger() as ledger:
            ledger.do("INSERT OR IGNORE INTO wallets VALUES (?, 0)", self.id)

    async def disconnect(self):
        self.local.close()

    def store(self, row):
        told = json.dumps(dict(row))
        self.local.execute("INSERT OR REPLACE INTO payments VALUES (?, ?, ?)", (row["id"], row["at"], told))

    def payment(self, row):
        outgoing = row["payer"] == self.id
        status = {"completed": PaymentStatus.COMPLETED, "failed": PaymentStatus.FAILED}
        htlc = {"completed": SparkHtlcStatus.PREIMAGE_SHARED, "failed": SparkHtlcStatus.RETURNED}
        details = Record(payment_hash=row["hash"], preimage=row["preimage"], expiry_time=row["at"] + 1_000_000,
                         status=htlc.get(row["status"], SparkHtlcStatus.WAITING_FOR_PREIMAGE))
        return Record(id=row["id"], payment_type=PaymentType.SEND if outgoing else PaymentType.RECEIVE,
                      status=status.get(row["status"], PaymentStatus.PENDING), amount=row["sats"],
                      fees=row["fee"] if outgoing else 0, timestamp=row["at"],
                      details=Variant(kind="lightning", htlc_details=details))

    async def sync_wallet(self, _):
        with Ledger() as ledger:
            rows = ledger.of(self.id)
        for row in rows:
            if row["payer"] == self.id or row["status"] in ("completed", "held"):
                self.store(row)
        line = "sync_wallet_internal: completed: InternalSyncedEvent { wallet: true, wallet_state: true, deposits: true }"
        logger.log(Record(level="INFO", instance_id=self.id, line=line))

    async def get_info(self, _):
        with Ledger() as ledger:
            row = ledger.one("SELECT balance FROM wallets WHERE id = ?", self.id)
        return Record(identity_pubkey=self.id, balance_sats=row["balance"])

    async def receive_payment(self, request):
        ask, made, preimage = request.payment_method, int(time.time()), os.urandom(32)
        payment_hash = bytes.fromhex(ask.hash) if ask.hash else hashlib.sha256(preimage).digest()
        text = bolt11(payment_hash, ask.sats, ask.memo, made, ask.expiry)
        with Ledger() as ledger:
            taken = ledger.one("SELECT wallet FROM invoices WHERE hash = ?", payment_hash.hex())
            if taken is not None and taken["wallet"] != self.id:
                raise SdkError.SparkError("the hash is taken")
            ledger.do("INSERT OR IGNORE INTO invoices VALUES (?, ?, ?, ?, ?, ?)", text, payment_hash.hex(), self.id,
                      ask.sats, None if ask.hash else preimage.hex(), made + ask.expiry)
        return Record(payment_request=text)

    async def list_payments(self, ask):
        rows = [json.loads(told) for told, in self.local.execute("SELECT told FROM payments ORDER BY at DESC, id")]
        found = [self.payment(row) for row in rows if row["at"] >= ask.from_timestamp]
        found = [it for it in found if it.payment_type in ask.type_filter]
        return Record(payments=found[ask.offset:ask.offset + ask.limit])

    async def claim_htlc_payment(self, ask):
        payment_hash = hashlib.sha256(bytes.fromhex(ask.preimage)).hexdigest()
        with Ledger() as ledger:
            ledger.do("UPDATE invoices SET preimage = ? WHERE hash = ?", ask.preimage, payment_hash)
            row = ledger.one("SELECT * FROM transfers WHERE hash = ? AND payee = ? AND status = 'held'", payment_hash, self.id)
            if row is None:
                raise SdkError.InvalidInput("No claimable HTLC with the given payment hash")
            ledger.land(row, True)
            row = ledger.one("SELECT * FROM transfers WHERE id = ?", row["id"])
        self.store(row)
        return Record(payment=self.payment(row))

    async def prepare_send_payment(self, ask):
        with Ledger() as ledger:
            row = ledger.one("SELECT * FROM invoices WHERE bolt11 = ?", ask.payment_request.input)
        if row is None:
            raise SdkError.InvalidInput("invalid input")
        method = Variant(kind="bolt11", lightning_fee_sats=fee_of(row["sats"]), row=row)
        return Record(payment_method=method, amount=row["sats"], conversion_estimate=None)

    async def get_payment(self, ask):
        row = self.local.execute("SELECT told FROM payments WHERE id = ?", (ask.payment_id,)).fetchone()
        if row is None:
            raise SdkError.StorageError("Underlying implementation error: Query returned no rows")
        return Record(payment=self.payment(json.loads(row[0])))

    async def send_payment(self, ask):
        key, row = ask.idempotency_key, ask.prepare_response.payment_method.row
        try:
            return await self.get_payment(GetPaymentRequest(key))
        except SdkError.StorageError:
            pass
        sats, fee = row["sats"], ask.prepare_response.payment_method.lightning_fee_sats
        with Ledger() as ledger:
            if ledger.one("SELECT balance FROM wallets WHERE id = ?", self.id)["balance"] < sats + fee:
                raise SdkError.InsufficientFunds("no")
            rule = ledger.one("SELECT * FROM rules ORDER BY number LIMIT 1")
            if rule is not None:
                ledger.do("DELETE FROM rules WHERE number = ?", rule["number"])
        rule = json.loads(rule["rule"]) if rule is not None else {}
        await pause(rule, "asked")
        details = Variant(kind="lightning", invoice=row["bolt11"])
        await self.observer.before_send([Record(payment_id=key, amount=sats, details=details)])
        await pause(rule, "sending")
        if rule.get("dropped"):
            raise SdkError.NetworkError("connection reset")
        with Ledger() as ledger:
            if ledger.one("SELECT 1 FROM transfers WHERE id = ?", key) is not None:
                raise SdkError.SparkError("AlreadyExists: transfer")
            ledger.do("UPDATE wallets SET balance = balance - ? WHERE id = ?", sats + fee, self.id)
            lands_ms = rule.get("lands_ms", 0)
            ledger.do("INSERT INTO transfers VALUES (?, ?, ?, ?, ?, ?, 'pending', NULL, ?, ?, ?)", key, self.id,
                      row["wallet"], row["hash"], sats, fee, int(time.time()), rule.get("lands", "settle"),
                      None if lands_ms is None else now_ms() + lands_ms)
        await pause(rule, "sent")
        if rule.get("lost"):
            raise SdkError.SparkError("Transport error: connection reset")
        until = time.monotonic() + ask.options.completion_timeout_secs
        while True:
            with Ledger() as ledger:
                row = ledger.one("SELECT * FROM transfers WHERE id = ?", key)
            if row["status"] in ("completed", "failed") or time.monotonic() >= until:
                self.store(row)
                return Record(payment=self.payment(row))
            await asyncio.sleep(0.01)


async def pause(rule, point):
    """Where a test waits, slows down, or kills the sidecar."""
    if rule.get("watched"):
        arrive(point)
    if rule.get("dies") == point:
        os.kill(os.getpid(), signal.SIGKILL)
    if rule.get("slow_at") == point:
        await asyncio.sleep(rule["slow_ms"] / 1000)


def create(path):
    base = sqlite3.connect(path)
    base.execute("PRAGMA journal_mode = WAL")
    base.executescript(TABLES)
    base.close()


# What a test asks: `fake.py LEDGER COMMAND …`.

def command(name, *given):
    with Ledger() as ledger:
        if name == "fund":
            ledger.do("INSERT OR IGNORE INTO wallets VALUES (?, 0)", identity(given[0]).hex())
            ledger.do("UPDATE wallets SET balance = balance + ? WHERE id = ?", int(given[1]), identity(given[0]).hex())
        elif name == "invoice":
            # One of a wallet's, with a preimage that the ledger knows.
            preimage, made = os.urandom(32), int(time.time())
            payment_hash = hashlib.sha256(preimage).digest()
            text = bolt11(payment_hash, int(given[1]), "crash", made, 3600)
            ledger.do("INSERT OR IGNORE INTO wallets VALUES (?, 0)", identity(given[0]).hex())
            ledger.do("INSERT INTO invoices VALUES (?, ?, ?, ?, ?, ?)", text, payment_hash.hex(),
                      identity(given[0]).hex(), int(given[1]), preimage.hex(), made + 3600)
            return text
        elif name == "rule":
            ledger.do("INSERT INTO rules (rule) VALUES (?)", given[0])
        elif name == "no_rules":
            ledger.do("DELETE FROM rules")
        elif name == "land":
            row = ledger.one("SELECT * FROM transfers WHERE hash = ? AND status = 'pending'", given[0])
            ledger.land(row, given[1] == "settle")
        elif name == "arrived":
            return ledger.one("SELECT count(*) AS n FROM arrivals WHERE point = ?", given[0])["n"]
        elif name == "look":
            # All money there is, and how often each invoice was paid or is being paid.
            total = ledger.one("SELECT coalesce(sum(balance), 0) AS n FROM wallets")["n"]
            flying = ledger.one("SELECT coalesce(sum(sats + fee), 0) AS n FROM transfers WHERE status IN ('pending', 'held')")
            fees = ledger.one("SELECT coalesce(sum(fee), 0) AS n FROM transfers WHERE status = 'completed'")
            most = ledger.one("SELECT coalesce(max(n), 0) AS n FROM (SELECT count(*) AS n FROM transfers"
                              " WHERE status <> 'failed' GROUP BY hash) AS counted")
            return json.dumps({"sats": total + flying["n"] + fees["n"], "most": most["n"]})
        elif name == "paid":
            row = ledger.one("SELECT count(*) AS n FROM transfers WHERE hash = ? AND status = 'completed'", given[0])
            return row["n"]
        else:
            raise SystemExit(f"no command {name}")


if __name__ == "__main__":
    import sys

    LEDGER = sys.argv[1]
    if sys.argv[2] == "create":
        create(LEDGER)
    else:
        print(command(*sys.argv[2:]))
