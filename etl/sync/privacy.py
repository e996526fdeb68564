"""Whether rows are written by the privacy rules that are configured (docs/privacy.md)."""

import sqlalchemy as sa
import structlog

from etl import errors
from etl.config import Settings
from etl.domain.privacy import PrivacyRules, RulesChange, check_of, rules_by
from etl.warehouse import leases, privacy_rules
from etl.warehouse.connection import Warehouse
from etl.warehouse.engines.base import Engine

log = structlog.get_logger()

_KEYS_OF_THE_PAST = (
    "deleted rows and past images may hold hashes by an earlier key that privacy.old_keys does not "
    "name: the identity is not found by them"
)


def rules_of(settings: Settings) -> PrivacyRules:
    """Return the configured rules."""
    privacy = settings.privacy
    return rules_by(privacy.identity, privacy.endpoint, privacy.key_bytes)


def require_agreement(conn: sa.Connection, engine: Engine, rules: PrivacyRules) -> None:
    """Refuse to write by other rules than rows were written by; an empty warehouse takes these.

    Until the transaction ends no re-keying begins.

    Raises:
        ConfigurationError: they are others, or a re-keying was broken off.
        LeaseHeld: a re-keying is under way.
    """
    if not privacy_rules.hold(conn, engine):
        look_for_agreement(conn, engine, rules)
        privacy_rules.record(conn, engine, rules)
        privacy_rules.hold(conn, engine)
    look_for_agreement(conn, engine, rules)


def look_for_agreement(conn: sa.Connection, engine: Engine, rules: PrivacyRules) -> None:
    """Refuse likewise for somebody who only reads.

    Raises:
        ConfigurationError, LeaseHeld: as `require_agreement`.
    """
    recorded = privacy_rules.read(conn)
    if recorded.following is not None:
        raise _in_the_middle(conn, engine)
    _require_same(recorded.current or privacy_rules.infer(conn, rules), rules)


def require_known_keys(warehouse: Warehouse, settings: Settings) -> None:
    """Refuse to look for a person whose hashes cannot be made; warn where that is so of old ones.

    Raises:
        ConfigurationError: rows are hashed by a key that the configuration does not name.
    """
    recorded = warehouse.read(privacy_rules.read)
    known = {None, *map(check_of, settings.privacy.known_keys)}
    used = {rules.key_check for rules in (recorded.current, recorded.following) if rules}
    if recorded.past_key_checks - known:
        log.warning("erase.incomplete", reason=_KEYS_OF_THE_PAST)
    if used - known:
        raise errors.ConfigurationError(
            "the warehouse was hashed by a key that is neither privacy.key nor among "
            "privacy.old_keys, so that nobody would be found in it: nothing was done; "
            "name that key in privacy.old_keys"
        )


def _require_same(before: PrivacyRules, after: PrivacyRules) -> None:
    change = RulesChange(before, after)
    if not change.is_none:
        raise errors.ConfigurationError(
            "the warehouse was written by other privacy rules than the configuration has; "
            f"different: {', '.join(change.in_words)}. Nothing was done; put the setting back, or "
            "see what `bindings-etl rekey --dry-run` says and then run `bindings-etl rekey`"
        )


def _in_the_middle(conn: sa.Connection, engine: Engine) -> errors.EtlError:
    for lease in leases.live(conn, engine):
        if lease.chat_service_sid == privacy_rules.EVERY_SERVICE.chat_service_sid:
            return errors.LeaseHeld(
                f"the warehouse is being rewritten to other privacy rules by run {lease.run_id} "
                f"on {lease.host}; run again when that has ended"
            )
    return errors.ConfigurationError(
        "the warehouse is half rewritten to other privacy rules: a re-keying was broken off, and "
        "nothing is written until it is done; run `bindings-etl rekey` again to finish it"
    )
