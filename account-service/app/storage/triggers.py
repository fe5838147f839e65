"""PostgreSQL triggers that reject inconsistent batches and changes of posted rows, whichever version writes them.

A batch that posts an entry twice, omits one or changes a balance without an entry is rejected and changes nothing.
Migrations 0003 (CHECK_ENTRIES), 0004 (APPEND_ONLY), 0006, 0009 (CHECK_REVERSALS) and 0010 (TRANSPARENCY_LOG) execute
these statements, so a change of behaviour needs a new migration. Existing databases keep the messages
of the version that migrated them.
"""

# Checks of accounts (migration 0011).
BALANCE_WITHIN_OVERDRAFT = "kind = 'cash' OR balance >= -coalesce(overdraft_limit, 0)"
HELD_IS_COVERED = "held >= 0 AND (kind = 'cash' OR held <= balance + coalesce(overdraft_limit, 0))"

# SQLSTATE of a violation; no error class of PostgreSQL begins with B.
VIOLATION = "BK001"

_FUNCTION = f"""
CREATE FUNCTION check_entries() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    found uuid;
BEGIN
    SELECT transaction_id INTO found FROM added GROUP BY transaction_id
        HAVING sum(amount) <> 0 OR count(*) < 2 OR count(*) <> count(DISTINCT account_id) LIMIT 1;
    IF found IS NOT NULL THEN
        RAISE EXCEPTION 'entries of transaction % are not a balanced double entry', found
            USING ERRCODE = '{VIOLATION}', CONSTRAINT = 'double_entry';
    END IF;
    SELECT a.id INTO found FROM accounts a JOIN
        (SELECT DISTINCT ON (account_id) account_id, seq, balance_after FROM added ORDER BY account_id, seq DESC) e
        ON e.account_id = a.id WHERE a.balance <> e.balance_after OR a.seq <> e.seq LIMIT 1;
    IF found IS NOT NULL THEN
        RAISE EXCEPTION 'balance of account % differs from its last entry', found
            USING ERRCODE = '{VIOLATION}', CONSTRAINT = 'balance_of_last_entry';
    END IF;
    RETURN NULL;
END $$"""  # nosec B608

_TRIGGER = """
CREATE TRIGGER check_entries AFTER INSERT ON entries REFERENCING NEW TABLE AS added
FOR EACH STATEMENT EXECUTE FUNCTION check_entries()"""

CHECK_ENTRIES = (_FUNCTION, _TRIGGER)

_REJECT_CHANGE = f"""
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on %: posted rows are immutable; post a reversal instead', TG_OP, TG_TABLE_NAME
        USING ERRCODE = '{VIOLATION}', CONSTRAINT = 'append_only';
END $$"""  # nosec B608


def append_only(table: str) -> str:
    """Return the statement that makes a table append-only."""
    return (
        f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}"
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )


# Applies to the owner of the tables as well; the service's role has no such privileges. Inserts are not affected.
APPEND_ONLY = (_REJECT_CHANGE, append_only("transactions"), append_only("entries"))
# Tables that are append-only as well.
TRANSPARENCY_LOG = ("ledger_leaves", "ledger_nodes", "ledger_roots", "ledger_keys")

# Runs only for reversals, so that other inserts have no overhead. The lock serializes concurrent reversals of the same
# transaction.
_CHECK_REVERSAL = f"""
CREATE FUNCTION check_reversal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(NEW.reverses::text, 0));
    IF (SELECT sum(amount) FROM transactions WHERE reverses = NEW.reverses)
        > coalesce((SELECT amount FROM transactions WHERE id = NEW.reverses), 0) THEN
        RAISE EXCEPTION 'reversals of transaction % exceed its amount', NEW.reverses
            USING ERRCODE = '{VIOLATION}', CONSTRAINT = 'reversals_within_original';
    END IF;
    RETURN NULL;
END $$"""  # nosec B608

CHECK_REVERSALS = (
    _CHECK_REVERSAL,
    """
CREATE TRIGGER check_reversal AFTER INSERT ON transactions
FOR EACH ROW WHEN (NEW.reverses IS NOT NULL) EXECUTE FUNCTION check_reversal()""",
)
