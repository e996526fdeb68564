"""The statement by which a transaction that writes takes its turn."""

# Every transaction that writes changes this one row first. Another's UPDATE of it waits until the
# transaction has ended, and each statement sees what was committed before it began: so no two find
# a row missing and both put it in, and none waits for another that waits for it. It is a change of
# a value, since one that changes nothing may be passed over. A migration has put the row in.
CLAIM = "UPDATE sync_gates SET passed = passed + 1 WHERE chat_service_sid = '*'"
