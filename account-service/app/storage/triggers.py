"""What PostgreSQL itself checks of every batch, and what it lets nobody do, whichever version of the service asks.

A release that posts twice, forgets an entry or moves a balance without one is refused, and changes nothing. The text
is that of migrations 0003 (STATEMENTS), 0004 (APPEND_ONLY) and 0006: a change of it is a new migration.
"""

# Of Postgres' classes of errors none begins with B; the service counts it as a violation.
VIOLATION = "BK001"

_FUNCTION = f"""
CREATE FUNCTION check_entries() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    found uuid;
BEGIN
    SELECT transaction_id INTO found FROM added GROUP BY transaction_id
        HAVING sum(amount) <> 0 OR count(*) < 2 OR count(*) <> count(DISTINCT account_id) LIMIT 1;
    IF found IS NOT NULL THEN
        RAISE EXCEPTION 'the entries of transaction % are no double entry', found
            USING ERRCODE = '{VIOLATION}', CONSTRAINT = 'double_entry';
    END IF;
    SELECT a.id INTO found FROM accounts a JOIN
        (SELECT DISTINCT ON (account_id) account_id, seq, balance_after FROM added ORDER BY account_id, seq DESC) e
        ON e.account_id = a.id WHERE a.balance <> e.balance_after OR a.seq <> e.seq LIMIT 1;
    IF found IS NOT NULL THEN
        RAISE EXCEPTION 'the balance of account % is not that of its last entry', found
            USING ERRCODE = '{VIOLATION}', CONSTRAINT = 'balance_of_last_entry';
    END IF;
    RETURN NULL;
END $$"""  # nosec B608

_TRIGGER = """
CREATE TRIGGER check_entries AFTER INSERT ON entries REFERENCING NEW TABLE AS added
FOR EACH STATEMENT EXECUTE FUNCTION check_entries()"""

STATEMENTS = (_FUNCTION, _TRIGGER)

_REFUSAL = f"""
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on %: what was posted stays; a mistake is corrected by a reversal', TG_OP, TG_TABLE_NAME
        USING ERRCODE = '{VIOLATION}', CONSTRAINT = 'append_only';
END $$"""  # nosec B608


def append_only(table: str) -> str:
    """Return the statement that keeps what is in a table as it is."""
    return (
        f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}"
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )


# For the owner, who migrates; the service's own role has no such privilege in the first place. Costs inserts nothing.
APPEND_ONLY = (_REFUSAL, append_only("transactions"), append_only("entries"))
