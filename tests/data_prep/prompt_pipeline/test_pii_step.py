"""Personal information on its way through the pipeline."""

import hashlib
import json
from collections import Counter

from prompt_tools import adds_up, rows_of, run, write_lines


def test_removed_never_holds_personal_information(tmp_path):
    secret = "jo.smith@acme.org"
    log = [
        {"id": i, "prompt": f"{'Please answer this mail ' * 9}{i} {secret}", "user_id": f"u{i}"}
        for i in range(5)
    ]
    log += [
        {"id": 10 + i, "prompt": f"Question {i} from {secret} and 536-90-4399", "user_id": "v"}
        for i in range(5)
    ]
    source = write_lines(tmp_path / "log.jsonl", [*log, f'{{"prompt": "{secret}'])
    run(source, tmp_path / "out")
    removed = rows_of(tmp_path / "out", "removed")
    assert Counter(r["reason"] for r in removed) == {
        "duplicate_prefix": 4,
        "pii": 6,
        "malformed": 1,
    }
    assert secret not in json.dumps(removed) and "536-90-4399" not in json.dumps(removed)
    assert {k for r in removed for k in r["pii_kinds"] or ()} == {"email", "national_id"}
    hashes = {
        h
        for r in removed
        for k, h in zip(r["pii_kinds"] or (), r["pii_hashes"] or (), strict=True)
        if k == "email"
    }
    assert len(hashes) == 1  # the same address, told by its hash
    assert not any(h.startswith(hashlib.sha256(secret.encode()).hexdigest()[:8]) for h in hashes)
    run(source, tmp_path / "off", "--pii_off", "email", "national_id")
    assert adds_up(tmp_path / "off")["removed"] == {"duplicate_prefix": 4, "malformed": 1}
