"""`aragora-q receipt`: write the receipt of an ended job, and verify one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from aragora_q.cli import SETTINGS, output
from aragora_q.cli.options import AsJson, LoadConfig, check_ids, with_config, with_queue
from aragora_q.cli.reports import OutputFile
from aragora_q.errors import InvalidPayload

if TYPE_CHECKING:
    from aragora_q.report.receipt import Verification
    from aragora_q.streams.queue import RedisStreamsQueue


class ReceiptGroup(TyperGroup):
    """A group whose first argument may be a job id."""

    default = "show"
    """The subcommand of a line that names none: `receipt ID`."""

    def with_subcommand(self, args: Sequence[str]) -> list[str]:
        """Return the arguments with the default subcommand, if they name none and do not ask for help."""
        is_complete = not args or args[0] in self.commands or args[0] in ("-h", "--help")
        return [*args] if is_complete else [self.default, *args]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments."""
        return super().parse_args(ctx, self.with_subcommand(args))


receipt = typer.Typer(cls=ReceiptGroup, no_args_is_help=True, add_completion=False, **SETTINGS)


@receipt.callback(
    epilog="\b\nExamples:\n  aragora-q receipt 5c1d0e9a -o 5c1d0e9a.receipt.json\n"
    "  aragora-q receipt verify 5c1d0e9a.receipt.json"
)
def _receipt() -> None:
    """Write the receipt of an ended job, or verify one.

    A receipt is one line of canonical JSON (RFC 8785): payload, result, cost and every call, with a SHA-256
    and, with the setting receipt_key, an HMAC. How the result is degraded stands first.
    `receipt ID` is `receipt show ID`.
    """


@receipt.command(
    epilog="\b\nExamples:\n  aragora-q receipt 5c1d0e9a | tee a.json | aragora-q receipt verify -\n\n\b\n"
    "Exit codes:\n  0 ok   2 usage   3 no such job\n"
    "  65 corrupted data in Redis, or a number that canonical JSON cannot hold\n"
    "  69 Redis unreachable   75 the job has not ended, or try again\n"
    "  77 access denied   78 invalid configuration, or the file cannot be written"
)
@with_queue
async def show(
    queue: RedisStreamsQueue,
    *,
    job_id: Annotated[str, typer.Argument(metavar="ID", show_default=False, help="Job id.")],
    file: OutputFile = None,
) -> None:
    """Write the receipt of a job that has ended.

    Completed, failed or cancelled. The same job makes the same bytes on every host with the same key.
    """
    from aragora_q.output_file import write_file
    from aragora_q.views import read_receipt

    check_ids([job_id])
    found = await read_receipt(queue, job_id) + b"\n"
    if file is not None and str(file) != "-":
        write_file(file, found)
    elif sys.stdout.isatty():
        _show_on_terminal(found.decode().removesuffix("\n"))
    else:
        output.data(found)


def _show_on_terminal(text: str) -> None:
    """Write a receipt with what could control the terminal escaped, and say so."""
    output.line(text)
    if output.safe_text(text) != text:
        output.info(
            "control characters are escaped here, so this copy does not verify: use --output FILE"
        )


@receipt.command(
    epilog="\b\nExamples:\n  aragora-q receipt verify 5c1d0e9a.json --require-signature\n"
    "  ARAGORA_QUEUE_RECEIPT_KEY_FILE=old.key aragora-q receipt verify a.json\n\n\b\n"
    "Exit codes:\n  0 verified   1 it does not verify: the lines say what\n"
    "  2 usage, or FILE cannot be read   65 not a receipt\n  78 invalid configuration"
)
@with_config
def verify(
    load: LoadConfig,
    *,
    file: Annotated[
        str, typer.Argument(metavar="FILE", show_default=False, help="A receipt; - is stdin.")
    ],
    requires_signature: Annotated[
        bool,
        typer.Option(
            "--require-signature", help="Fail unless the key of the configuration signed it."
        ),
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Verify a receipt: form, digest and signature.

    How the result is degraded is printed first. The file must be as it was written, byte for byte; one
    newline at its end may be missing. No Redis server is needed.
    """
    from aragora_q.report import receipt as receipts

    key = load().receipt_key
    secret = key.get_secret_value() if key else None
    try:
        found = receipts.verify(_read(file, receipts.MAX_BYTES), secret)
    except InvalidPayload as error:
        place = "standard input" if file == "-" else file
        raise InvalidPayload(f"{place}: {error}", hint=error.hint) from None
    is_verified = found.is_verified(requires_signature=requires_signature)
    if as_json:
        output.json_line(_verification_json(found, is_verified=is_verified))
    else:
        output.lines(_lines(found, receipts.key_id(secret) if secret else ""))
        if found.signature != "ok" and requires_signature:
            output.error("--require-signature: the receipt is not signed by the configured key")
    return 0 if is_verified else 1


def _read(source: str, max_bytes: int) -> bytes:
    """Return the content of a file. Raises typer.BadParameter, and InvalidPayload if it is too long."""
    from aragora_q.cli import bulk

    data = bytearray()
    with bulk.open_source(source) as stream:
        for chunk in bulk.read_chunks(stream):
            data += chunk
            if len(data) > max_bytes:
                raise InvalidPayload(f"not a receipt: longer than {max_bytes:,} bytes")
    return bytes(data)


def _lines(found: Verification, own_key_id: str) -> list[str]:
    """Return what is known about a receipt, as text: what is degraded first."""
    from aragora_q.loose import text

    receipt, facts = found.receipt, found.receipt["receipt"]
    rows = [
        f"degraded   {text(each.get('code'))}: {text(each.get('text'))}"
        for each in receipt["degradation"]
    ]
    ended = f"{text(facts.get('status'))} {text(facts.get('ended_at'))}"
    signed_by = receipt["key_id"] or ""
    signatures = {
        "ok": f"ok, by key {signed_by}",
        "differs": f"DIFFERS: not made by key {own_key_id} of this content",
        "none": "none: the receipt is not signed",
        "unknown_key": f"not checked: by key {signed_by}, the configured one is {own_key_id}",
        "no_key": f"not checked: by key {signed_by}, and receipt_key is not set",
    }
    return [
        *(rows or ["degraded   no"]),
        f"job        {text(facts.get('id'))} of queue {text(facts.get('queue'))}, {ended}",
        "form       " + ("ok" if found.is_canonical else "DIFFERS: not canonical JSON (RFC 8785)"),
        "digest     "
        + (
            f"ok, sha256 {receipt['sha256']}" if found.digest == "ok" else "DIFFERS: it was changed"
        ),
        f"signature  {signatures[found.signature]}",
    ]


def _verification_json(found: Verification, *, is_verified: bool) -> dict[str, Any]:
    receipt = found.receipt
    return {
        "verified": is_verified,
        "degradation": receipt["degradation"],
        "canonical": found.is_canonical,
        "digest": found.digest,
        "signature": found.signature,
        "key_id": receipt["key_id"],
        "sha256": receipt["sha256"],
        "queue": receipt["receipt"].get("queue"),
        "id": receipt["receipt"].get("id"),
        "status": receipt["receipt"].get("status"),
    }
