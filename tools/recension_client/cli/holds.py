"""The command ``pins``: what the caller holds on a server, for how long, and to the end."""

from __future__ import annotations

from argparse import Namespace

from recension.model.digest import format_digest
from recension.model.errors import InvalidArgumentError, PinNotFoundError
from recension.model.instant import format_instant, parse_instant
from recension.model.pin import Pin
from recension_client.cli import forms, output
from recension_client.cli.arguments import OK, Commands, asking
from recension_client.client import Client
from recension_client.trust import trust_of


def register(commands: Commands) -> None:
    """Add the command."""
    one = commands.add("pins", "list your pins, or extend or delete one", asking(_pins))
    one.add_argument(
        "what", metavar="WHAT", nargs="*", help="nothing to list them; or: extend NAME; or: delete NAME"
    )
    one.add_argument("--until", metavar="T", type=parse_instant, help="until when an extended pin holds")
    one.add_argument("--tsv", action="store_true", help="name, until, expired, snapshot, labels")


def _pins(client: Client, options: Namespace) -> int:
    match options.what, options.until:
        case [], None:
            return _list(client, options)
        case ["extend", name], int(until):
            return _extend(client, name, until, options)
        case ["delete", name], None:
            return _delete(client, name, options)
        case _:
            raise InvalidArgumentError(
                "neither nothing, nor extend NAME --until T, nor delete NAME",
                hint="make a pin with: recension pin",
            )


def _extend(client: Client, name: str, until: int, options: Namespace) -> int:
    """Extend a pin, whose new statement has to be in the log that the server signs, if it signs one."""
    keys = client.server_info().signing_keys
    known = keys[-1].key if keys else ""
    trust = trust_of(known) if known else None
    if trust is not None:
        trust.refresh(client, known)  # before anything changes: of a log that is refused nothing is asked
    pin = client.extend_pin(name, until)
    if trust is not None:
        trust.check_pin(client, pin.statement, known)
    return _say(pin, options)


def _list(client: Client, options: Namespace) -> int:
    pins = client.pins()
    if options.json:
        for pin in pins:
            output.write_json(forms.pin_row(pin))
        return OK
    rows = map(_cells, pins)
    if options.tsv:
        for row in rows:
            output.write_tsv(row)
    else:
        output.write_table(["pin", "until", "expired", "snapshot", "labels"], rows)
    return OK


def _cells(pin: Pin) -> tuple[object, ...]:
    return (
        pin.name,
        format_instant(pin.readable_until),
        "yes" if pin.expired else "no",
        format_digest(pin.snapshot_id),
        ",".join(f"{key}={value}" for key, value in pin.labels.items()),
    )


def _say(pin: Pin, options: Namespace) -> int:
    if options.json:
        output.write_json(forms.pin_row(pin))
    else:
        output.write(f"{pin.name} holds until {format_instant(pin.readable_until)}\n".encode())
    return OK


def _delete(client: Client, name: str, options: Namespace) -> int:
    # The question itself is content with a pin that is not there, so that it can be asked again.
    if name not in {pin.name for pin in client.pins()}:
        raise PinNotFoundError(f"no pin {name!r}", hint="list them with: recension pins", pin=name)
    client.delete_pin(name)
    if options.json:
        output.write_json({"name": name, "deleted": True})
    else:
        output.write(f"{name} holds nothing any more\n".encode())
    return OK
