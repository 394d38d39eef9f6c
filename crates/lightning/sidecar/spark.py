"""Spark wallets for Nexus (experimental): JSON-RPC 2.0 over stdin and stdout, one request and one reply a line.

Started by Nexus (`lightning/src/spark`), which writes this file into its private directory; needs the package
`breez-sdk-spark`. One process serves many wallets. Mnemonics come over stdin and stay in this process's memory: never in
arguments, the environment, files, replies or what is written to stderr. It ends when stdin does, and what it is sending then.

A reply's error has `data.class`:
  refused       not acceptable; nothing was sent
  late          the deadline had passed; nothing was sent
  no_funds, fee_too_high   nothing was sent by this request
  closed        the wallet is not open in this process: open it and ask again
  auth, unreachable, protocol   as in the driver; for `pay` only where nothing was sent by this request
  unknown       something may have been sent
"""

import asyncio
import ctypes
import json
import os
import re
import resource
import sys
import time
from importlib import metadata

PROTOCOL = 1
MAX_LINE_BYTES = 256 * 1024
MAX_TASKS = 256
MAX_WALLETS = 1000
MAX_MESSAGE_CHARS = 300
# How long a send that has begun may go on after stdin ended.
ENDING_MS = 30_000
# Pages of a look through received payments, each of so many.
PAGE, MAX_PAGES = 100, 50

sdk = None  # The package, imported by hello: without it the process can still say what is missing.


class Failure(Exception):
    """What a reply's error says."""

    def __init__(self, kind, message):
        super().__init__(message)
        self.kind = kind


def mono_ms():
    # CLOCK_MONOTONIC, which on Linux and macOS is one clock for all processes of a machine.
    return time.monotonic_ns() // 1_000_000


class Wallet:
    def __init__(self, identity, instance):
        self.identity = identity
        self.instance = instance
        self.used = mono_ms()
        self.running = 0
        self.keys = {}  # idempotency key -> [lock, users]
        self.sync_lock = asyncio.Lock()
        self.proof = None  # when the last sync that reached the operators began
        self.told = None  # what the SDK said of the sync that runs now: True, False, or nothing yet


class Guard:
    """Asked by the SDK after it chose what to pay with and before it tells anybody: the last moment to refuse."""

    def __init__(self):
        self.deadlines = {}  # payment id -> (deadline, invoice)
        self.passed = set()

    async def before_send(self, payments):
        for payment in payments:
            due = self.deadlines.get(payment.payment_id)
            if due is None or len(payments) != 1 or mono_ms() >= due[0]:
                raise sdk.PaymentObserverError.Generic("not now")
            if not payment.details.is_lightning() or payment.details.invoice.lower() != due[1].lower():
                raise sdk.PaymentObserverError.Generic("not that")
        self.passed.update(payment.payment_id for payment in payments)

    async def after_send(self, updates):
        pass


class Sidecar:
    def __init__(self, out):
        self.out = out
        self.wallets = {}  # identity -> Wallet
        self.opening = asyncio.Lock()
        self.guard = Guard()
        self.secrets = set()
        self.tasks = set()
        self.config = None
        self.context = None

    # What goes out.

    def reply(self, ident, result=None, error=None):
        body = {"jsonrpc": "2.0", "id": ident}
        if error is None:
            body["result"] = result
        else:
            code = -32601 if error.kind == "refused" else -32000
            body["error"] = {"code": code, "message": self.scrub(str(error)), "data": {"class": error.kind}}
        line = json.dumps(body, separators=(",", ":")).encode() + b"\n"
        if len(line) > MAX_LINE_BYTES:
            return self.reply(ident, error=Failure("protocol", "an answer that is too long"))
        self.out.write(line)
        self.out.flush()

    def scrub(self, text):
        for secret in self.secrets:
            text = text.replace(secret, "…")
        return text[:MAX_MESSAGE_CHARS]

    def log(self, entry):
        """The SDK swallows what goes wrong in a sync and only logs it: without this line nothing "is not there"."""
        wallet = self.wallets.get(entry.instance_id)
        if wallet is not None and "InternalSyncedEvent" in entry.line:
            wallet.told = bool(re.search(r"\bwallet: true, wallet_state: true\b", entry.line))

    # Wallets.

    def wallet(self, ask):
        wallet = self.wallets.get(ask["wallet"])
        if wallet is None:
            raise Failure("closed", "this wallet is not open")
        return wallet

    async def hello(self, ask):
        global sdk
        if ask["protocol"] != PROTOCOL:
            raise Failure("protocol", f"this sidecar speaks protocol {PROTOCOL}")
        try:
            import breez_sdk_spark
        except ImportError:
            raise Failure("unreachable", "the Python package breez-sdk-spark is not installed") from None
        sdk = breez_sdk_spark
        network = {"bitcoin": sdk.Network.MAINNET, "regtest": sdk.Network.REGTEST}[ask["network"]]
        config = sdk.default_server_config(network)
        config.api_key = ask.get("api_key")
        if config.api_key:
            self.secrets.add(config.api_key)
        # Exactly what the invoice says, with its preimage as the proof: no transfer to a Spark address instead.
        config.prefer_spark_over_lightning = False
        config.use_default_external_input_parsers = False
        config.exit_chain_auto_fetch_enabled = False
        config.lnurl_domain = None
        places = ask.get("places")
        if places:
            for operator in config.spark_config.signing_operators:
                operator.address = places["operators"]
            config.spark_config.ssp_config.base_url = places["provider"]
        sdk.uniffi_set_event_loop(asyncio.get_running_loop())
        logger = type("Log", (sdk.Logger,), {"log": lambda _, entry: self.log(entry)})()
        sdk.init_logging(None, logger, "off,breez_sdk_spark::sdk::sync=info,breez_sdk_core::sdk::sync=info")
        self.config, self.network, self.ask = config, network, ask
        self.context = await sdk.new_shared_sdk_context(
            sdk.SdkContextConfig(network=network, api_key=config.api_key)
        )
        asyncio.get_running_loop().create_task(self.close_idle(ask["idle_ms"]))
        return {"protocol": PROTOCOL, "sdk": metadata_version()}

    async def clock(self, ask):
        return {"mono_ms": mono_ms()}

    async def open(self, ask):
        mnemonic = ask.pop("mnemonic")
        async with self.opening:
            try:
                signers = sdk.default_external_signers(mnemonic, None, self.network, None)
                identity = (await signers.spark_signer.get_identity_public_key()).bytes.hex()
            except Exception:  # Whatever it says may name the words.
                raise Failure("refused", "this is not a mnemonic") from None
            if identity in self.wallets:
                self.wallets[identity].used = mono_ms()
                return {"identity": identity}
            if len(self.wallets) >= MAX_WALLETS and not await self.close_one():
                raise Failure("unreachable", f"{MAX_WALLETS} wallets are open")
            # By the whole identity: the SDK's own directories are named after 32 bits of it.
            place = os.path.join(self.ask["storage_dir"], identity)
            os.makedirs(place, mode=0o700, exist_ok=True)
            try:
                builder = sdk.SdkBuilder(self.config, sdk.Seed.MNEMONIC(mnemonic, None))
                await builder.with_default_storage(place)
                await builder.with_shared_context(self.context)
                observer = type("Observer", (Guard, sdk.PaymentObserver), {})()
                observer.__dict__ = self.guard.__dict__
                await builder.with_payment_observer(observer)
                if self.ask.get("places"):
                    chain = self.ask["places"]["chain"]
                    await builder.with_rest_chain_service(chain, sdk.ChainApiType.ESPLORA, None)
                instance = await builder.build()
            except sdk.SdkError as error:
                raise classified(error) from None
            self.wallets[identity] = Wallet(identity, instance)
        return {"identity": identity}

    async def close(self, ask):
        wallet = self.wallets.pop(ask["wallet"], None)
        if wallet is not None:
            await wallet.instance.disconnect()
        return {}

    async def close_one(self):
        idle = [it for it in self.wallets.values() if it.running == 0]
        if not idle:
            return False
        await self.close({"wallet": min(idle, key=lambda it: it.used).identity})
        return True

    async def close_idle(self, idle_ms):
        while True:
            await asyncio.sleep(min(idle_ms, 10_000) / 1000)
            for wallet in list(self.wallets.values()):
                if wallet.running == 0 and mono_ms() - wallet.used >= idle_ms:
                    await self.close({"wallet": wallet.identity})

    async def sync(self, wallet):
        """Afterwards what the operators knew when this was called is in the SDK's storage; else it fails."""
        asked = mono_ms()
        async with wallet.sync_lock:
            if wallet.proof is not None and wallet.proof > asked:
                return
            began, wallet.told = mono_ms(), None
            try:
                await wallet.instance.sync_wallet(sdk.SyncWalletRequest())
            except sdk.SdkError as error:
                raise classified(error) from None
            if wallet.told is None:
                raise Failure("protocol", "this version of the SDK does not say whether it reached the operators")
            if not wallet.told:
                raise Failure("unreachable", "the Spark operators did not answer")
            wallet.proof = began

    # What is asked of a wallet.

    async def info(self, ask):
        wallet = self.wallet(ask)
        await self.sync(wallet)
        info = await wallet.instance.get_info(sdk.GetInfoRequest(ensure_synced=None))
        return {"identity": info.identity_pubkey, "balance_sats": info.balance_sats}

    async def invoice(self, ask):
        method = sdk.ReceivePaymentMethod.BOLT11_INVOICE(
            ask["memo"], ask["amount_sats"], ask["expiry_s"], ask.get("hash"), None
        )
        made = await self.wallet(ask).instance.receive_payment(sdk.ReceivePaymentRequest(payment_method=method))
        return {"bolt11": made.payment_request}

    async def received(self, ask):
        """What came for invoices of ours, looked for among what came since a time; claimed where it waits."""
        wallet, wanted, found = self.wallet(ask), dict(ask["wanted"]), []
        await self.sync(wallet)
        for page in range(MAX_PAGES):
            listed = await wallet.instance.list_payments(sdk.ListPaymentsRequest(
                type_filter=[sdk.PaymentType.RECEIVE], from_timestamp=ask["since_s"],
                offset=page * PAGE, limit=PAGE, sort_ascending=False,
            ))
            for payment in listed.payments:
                told = plain(payment)
                if told["hash"] not in wanted or told["status"] == "failed":
                    continue
                preimage = wanted.pop(told["hash"])
                if told["status"] == "pending" and told["htlc"] == "waiting" and preimage:
                    claim = sdk.ClaimHtlcPaymentRequest(preimage=preimage)
                    told = plain((await wallet.instance.claim_htlc_payment(claim)).payment)
                found.append(told)
            if not wanted or len(listed.payments) < PAGE:
                return found
        raise Failure("protocol", "too many payments to look through")

    async def prepare(self, wallet, ask):
        prepared = await wallet.instance.prepare_send_payment(sdk.PrepareSendPaymentRequest(
            payment_request=sdk.PaymentRequest.INPUT(ask["bolt11"]), amount=ask.get("amount_sats"),
        ))
        if not prepared.payment_method.is_bolt11_invoice() or prepared.conversion_estimate is not None:
            raise Failure("refused", "not to be paid as a Lightning invoice")
        return prepared

    async def quote(self, ask):
        prepared = await self.prepare(self.wallet(ask), ask)
        return {"amount_sats": prepared.amount, "fee_sats": prepared.payment_method.lightning_fee_sats}

    async def stored(self, wallet, key):
        try:
            found = await wallet.instance.get_payment(sdk.GetPaymentRequest(payment_id=key))
        except sdk.SdkError.StorageError as error:
            if "no rows" in str(error):
                return None
            raise
        return plain(found.payment)

    async def payment(self, ask):
        wallet = self.wallet(ask)
        await self.sync(wallet)
        return await self.stored(wallet, ask["key"])

    async def pay(self, ask):
        wallet, key = self.wallet(ask), ask["key"]
        deadline = min(ask["deadline_ms"], mono_ms() + ask["left_ms"])
        held = wallet.keys.setdefault(key, [asyncio.Lock(), 0])
        held[1] += 1
        try:
            async with held[0]:
                return await self.pay_alone(wallet, ask, key, deadline)
        finally:
            held[1] -= 1
            if held[1] == 0:
                wallet.keys.pop(key, None)

    async def pay_alone(self, wallet, ask, key, deadline):
        # An identical request may have arrived before, from this process or another: a repeat is told what it did.
        await self.sync(wallet)
        known = await self.stored(wallet, key)
        if known is not None:
            return known
        self.in_time(deadline)
        prepared = await self.prepare(wallet, ask)
        if prepared.payment_method.lightning_fee_sats > ask["max_fee_sats"]:
            raise Failure("fee_too_high", "the fee is above the limit")
        if prepared.amount > ask["at_most_sats"]:
            raise Failure("refused", "it would pay more than the invoice asks for")
        self.in_time(deadline)
        self.guard.deadlines[key] = (deadline, ask["bolt11"])
        self.guard.passed.discard(key)
        try:
            sent = await wallet.instance.send_payment(sdk.SendPaymentRequest(
                prepare_response=prepared,
                options=sdk.SendPaymentOptions.BOLT11_INVOICE(False, ask["settle_s"]),
                idempotency_key=key,
            ))
            return plain(sent.payment)
        except Exception as error:
            if key in self.guard.passed:
                known = await self.twin(wallet, key, error)
                if known is not None:
                    return known
                raise Failure("unknown", f"the SDK failed while it paid: {named(error)}") from None
            self.in_time(deadline)
            raise
        finally:
            self.guard.deadlines.pop(key, None)
            self.guard.passed.discard(key)

    async def twin(self, wallet, key, error):
        """The transfer that the operators had already: from an identical request of another process."""
        if not re.search(r"already ?exists", named(error), re.IGNORECASE):
            return None
        try:
            await self.sync(wallet)
            return await self.stored(wallet, key)
        except (Failure, sdk.SdkError):
            return None

    def in_time(self, deadline):
        if mono_ms() >= deadline:
            raise Failure("late", "the deadline has passed")

    # Requests.

    METHODS = ("hello", "clock", "open", "close", "info", "invoice", "received", "quote", "payment", "pay")

    async def answer(self, line):
        try:
            ask = json.loads(line)
            ident, method, params = ask["id"], ask["method"], ask.get("params") or {}
            if not isinstance(ident, int) or not isinstance(params, dict):
                raise ValueError
        except (ValueError, KeyError, TypeError, RecursionError):
            return self.reply(None, error=Failure("protocol", "not a request"))
        wallet = self.wallets.get(params.get("wallet"))
        try:
            if method not in self.METHODS or (sdk is None and method not in ("hello", "clock")):
                raise Failure("refused", "no such method, or not yet")
            if wallet is not None:
                wallet.running += 1
            result = await getattr(self, method)(params)
        except Failure as failure:
            self.reply(ident, error=failure)
        except (KeyError, TypeError, ValueError) as error:
            self.reply(ident, error=Failure("unknown" if method == "pay" else "protocol", type(error).__name__))
        except Exception as error:
            self.reply(ident, error=classified(error))
        else:
            self.reply(ident, result)
        finally:
            if wallet is not None:
                wallet.running -= 1
                wallet.used = mono_ms()

    async def serve(self, lines):
        while True:
            try:
                line = await lines.readuntil(b"\n")
            except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                # Nobody is there, or not who should be.
                await self.end()
            if len(self.tasks) >= MAX_TASKS:
                await asyncio.wait(self.tasks, return_when=asyncio.FIRST_COMPLETED)
            task = asyncio.get_running_loop().create_task(self.answer(line))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)


    async def end(self):
        """Sends nothing more. What was told to the operators already is told to the provider too: else the money would be
        locked for days."""
        self.guard.deadlines.clear()
        until = mono_ms() + ENDING_MS
        while self.guard.passed and mono_ms() < until:
            await asyncio.sleep(0.02)
        os._exit(0)


def metadata_version():
    try:
        return metadata.version("breez-sdk-spark")
    except metadata.PackageNotFoundError:
        return "unknown"


def named(error):
    """An error's kind and words, without Python's own."""
    words = error.args[0] if error.args and isinstance(error.args[0], str) else ""
    return f"{type(error).__name__}: {words}"


def classified(error):
    """An SDK error as one of ours, raised where nothing was sent."""
    if isinstance(error, Failure):
        return error
    kinds = sdk.SdkError
    if isinstance(error, kinds.InsufficientFunds):
        return Failure("no_funds", "the wallet has too little")
    if isinstance(error, (kinds.InvalidInput, kinds.InvalidUuid)):
        return Failure("refused", named(error))
    text = named(error)
    if re.search(r"unauthenticated|unauthorized|permission ?denied|api key", text, re.IGNORECASE):
        return Failure("auth", "Spark does not accept our key")
    if isinstance(error, kinds.NetworkError) or re.search(
        r"connect|transport|network error|unavailable|timed? ?out|dns", text, re.IGNORECASE
    ):
        return Failure("unreachable", text)
    return Failure("protocol", text)


def plain(payment):
    """A payment of the SDK as what is said of it."""
    status = {sdk.PaymentStatus.COMPLETED: "completed", sdk.PaymentStatus.PENDING: "pending",
              sdk.PaymentStatus.FAILED: "failed"}[payment.status]
    told = {"status": status, "amount_sats": payment.amount, "fee_sats": payment.fees, "at_s": payment.timestamp,
            "outgoing": payment.payment_type == sdk.PaymentType.SEND,
            "hash": None, "preimage": None, "htlc": None, "htlc_expiry_s": None}
    if payment.details is not None and payment.details.is_lightning():
        htlc = payment.details.htlc_details
        told.update(hash=htlc.payment_hash, preimage=htlc.preimage, htlc_expiry_s=htlc.expiry_time, htlc={
            sdk.SparkHtlcStatus.WAITING_FOR_PREIMAGE: "waiting", sdk.SparkHtlcStatus.PREIMAGE_SHARED: "shared",
            sdk.SparkHtlcStatus.RETURNED: "returned"}[htlc.status])
    return told


def hide_memory():
    """No core dumps, and no other process of this user may read the memory (Linux: PR_SET_DUMPABLE)."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)


async def main():
    # Whatever else prints does so to stderr: stdout belongs to the protocol.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    hide_memory()
    os.umask(0o077)
    lines = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    loop = asyncio.get_running_loop()
    # What escapes is named, never shown: it may hold what was asked.
    loop.set_exception_handler(lambda _, told: sys.stderr.write(f"sidecar: {type(told.get('exception')).__name__}\n"))
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin.buffer)
    await Sidecar(out).serve(lines)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (KeyboardInterrupt, BrokenPipeError):
        os._exit(1)
