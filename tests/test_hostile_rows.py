"""Hostile records: each ends in the quarantine with its reason, or is kept as data; the row after it is untouched."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from hostile import KEPT, check_lines, lines

DEEP = 100_000


def chat(content: Any, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "a"}], **more}


def calls(*found: Any, content: Any = None) -> dict[str, Any]:
    turn = {"role": "assistant", "content": content, "tool_calls": list(found)}
    return {"messages": [{"role": "user", "content": "q"}, turn]}


def call(arguments: Any, name: Any = "f") -> dict[str, Any]:
    return {"id": "1", "function": {"name": name, "arguments": arguments}}


def nested(levels: int, sign: str = "[") -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value] if sign == "[" else {"k": value}
    return value


def raw(text: str) -> bytes:
    return text.encode()


def turns(count: int) -> dict[str, Any]:
    return {"messages": [{"role": ("user", "assistant")[place % 2], "content": "x"} for place in range(count)]}


CLASSES: dict[str, list[tuple[Any, str]]] = {
    "deep nesting": [
        (b"[" * DEEP, "nested too deeply"),
        (b'{"a":' * DEEP, "nested too deeply"),
        (b"[" * DEEP + b"]" * DEEP, "nested too deeply"),
        (raw('{"text": "t", "m": ' + "[" * DEEP + "]" * DEEP + "}"), "nested too deeply"),
        ({"text": "t", "m": nested(300)}, "nested too deeply: meta"),
        ({"text": "t", "m": nested(300, "{")}, "nested too deeply: meta"),
        ({"text": "t", "m": nested(90)}, KEPT),
        ({"text": "[" * 5000 + "{" * 5000}, KEPT),
    ],
    "json bombs": [
        (raw('{"text": "t", "m": [' + "[]," * 50_000 + "[]]}"), KEPT),
        (raw('{"text": "t", ' + ",".join(f'"k{n}": {n}' for n in range(20_000)) + "}"), KEPT),
        (raw('{"text": "' + "\\u0041" * 100_000 + '"}'), KEPT),
        (raw('{"text": "' + '\\"' * 100_000 + '"}'), KEPT),
        (raw('{"text": "t", "m": "' + "\\\\" * 100_000), "broken JSON"),
        (raw("[" + "0," * 100_000 + "0]"), "the record is a list"),
        (raw('{"prompt": [' + '{"role": "user", "content": "x"},' * 30_000 + "0]}"), r"prompt\[30000\] is a number"),
        (raw('{"text": "t"' + " " * 300_000 + "}"), KEPT),
    ],
    "NULs": [
        (b'{"text": "a\\u0000b"}', "NUL character"),
        (b'{"text": "a\0b"}', "broken JSON"),
        (b"\0" * 64, "broken JSON"),
        ({"prompt": "q\0", "completion": "a"}, "NUL character"),
        ({"prompt": "q", "completion": "\0"}, "NUL character"),
        ({"chosen": "a\0", "rejected": "b", "prompt": "q"}, "NUL character"),
        ({"messages": [{"role": "us\0er", "content": "q"}]}, "unknown role"),
        ({"text": "t", "m\0": "x\0y"}, KEPT),
    ],
    "wrong types": [
        ({"prompt": 3, "completion": "a"}, "prompt is a number"),
        ({"prompt": "q", "completion": {"a": 1}}, "unknown role|no content"),
        ({"prompt": True, "completion": "a"}, "prompt is true or false"),
        ({"prompt": "q", "completion": [1, 2]}, r"completion\[0\] is a number"),
        ({"messages": "text"}, "messages is text"),
        ({"messages": {"role": "user"}}, "messages is an object"),
        ({"messages": [["user", "q"]]}, r"messages\[0\] is a list"),
        ({"text": ["a"]}, "text is a list"),
    ],
    "numbers": [
        (b'{"text": "t", "n": NaN}', KEPT),
        (b'{"text": "t", "n": -Infinity}', KEPT),
        (b'{"text": "t", "n": 1e999}', KEPT),
        (b'{"text": "t", "n": [1e999, {"m": -1e400}]}', KEPT),
        (raw('{"text": "t", "n": ' + "9" * 5000 + "}"), "digits|limit"),
        (raw('{"text": "t", "n": ' + "9" * 400 + "}"), KEPT),
        (raw('{"text": "t", "n": 0.' + "1" * 50_000 + "}"), KEPT),
        (b'{"text": "t", "n": 0x41}', "broken JSON"),
    ],
    "duplicate keys": [
        (b'{"text": "a", "text": "b"}', KEPT),
        (b'{"text": "a", "text": null}', "text is null"),
        (b'{"text": "a", "text": 1}', "text is a number"),
        (b'{"prompt": "q", "completion": "a", "completion": ""}', "empty answer"),
        (b'{"messages": [], "messages": [{"role": "user", "content": "q"}]}', KEPT),
        (b'{"messages": [{"role": "user", "role": "evil", "content": "q"}]}', "unknown role"),
        (b'{"meta": {"a": 1}, "meta": {"b": 2}, "text": "t"}', KEPT),
        (raw('{"text": "t"' + ', "m": 1' * 10_000 + "}"), KEPT),
    ],
    "lone surrogates": [
        (b'{"text": "\\ud83d"}', "lone surrogate"),
        (b'{"text": "\\udc00x"}', "lone surrogate"),
        (b'{"text": "t", "\\ud800": 1}', "lone surrogate"),
        (b'{"text": "t", "m": ["\\udfff"]}', "lone surrogate"),
        (b'{"text": "t", "source": "\\ud800"}', "lone surrogate"),
        (b'{"messages": [{"role": "\\ud800", "content": "q"}]}', "unknown role"),
        (b'{"prompt": "q", "completion": "a", "tools": [{"name": "\\ud800"}]}', "lone surrogate"),
        (b'{"text": "\\ud83d\\ude00"}', KEPT),
    ],
    "invalid UTF-8": [
        (b'{"text": "caf\xe9"}', "invalid UTF-8 at byte 13"),
        (b'{"text": "\xff\xfe"}', "invalid UTF-8"),
        (b'{"text": "\xc0\xaf"}', "invalid UTF-8"),  # an overlong slash
        (b'{"text": "\xed\xa0\x80"}', "invalid UTF-8"),  # a surrogate as bytes
        (b'{"text": "\xf4\x90\x80\x80"}', "invalid UTF-8"),  # beyond Unicode
        (b'{"text": "\xe2\x82"}', "invalid UTF-8"),
        (b"\x80\x81\x82", "invalid UTF-8"),
        (b'{"\xe9": 1, "text": "t"}', "invalid UTF-8"),
    ],
    "unknown roles": [
        ({"messages": [{"role": "root", "content": "q"}]}, "unknown role 'root'"),
        ({"messages": [{"role": "", "content": "q"}]}, "unknown role ''"),
        ({"messages": [{"role": None, "content": "q"}]}, "unknown role 'None'"),
        ({"messages": [{"role": ["user"], "content": "q"}]}, "unknown role"),
        ({"messages": [{"role": "user'; DROP TABLE", "content": "q"}]}, "unknown role"),
        ({"messages": [{"role": "<|im_start|>user", "content": "q"}]}, "unknown role"),
        ({"messages": [{"role": "x" * 100_000, "content": "q"}]}, "unknown role 'x{40}'"),
        ({"messages": [{"role": "{{ 7*7 }}", "content": "q"}]}, "unknown role"),
    ],
    "tool calls as bombs": [
        (calls(call(nested(300))), "nested too deeply: messages"),
        (calls(call(json.dumps(nested(300)))), "nested too deeply: messages"),
        (calls(call("[" * DEEP)), KEPT),  # no JSON: it stays text
        (calls(*[call({})] * 20_000), KEPT),
        (calls(call({}, name=None)), "names no function"),
        (calls("rm -rf /"), "names no function"),
        (calls(call({}, name="../../bin/sh")), KEPT),
        ({"prompt": "q", "completion": "a", "tools": "[" * DEEP}, "tools is text that is no JSON"),
    ],
    "many turns": [
        (turns(1000), KEPT),
        (turns(1002), "1,002 turns, more than 1,000"),
        (turns(100_000), "100,000 turns"),
        ({"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}] * 5000}, "10,000 turns"),
        ({"prompt": "q", "chosen": turns(2000)["messages"], "rejected": "b"}, "2,002 turns"),
        ({"prompt": "q", "completion": turns(3000)["messages"]}, "3,001 turns"),
        ({"instruction": "q", "output": "a", "history": [["x", "y"]] * 5000}, "10,002 turns"),
        ({"messages": turns(2)["messages"] + [{"role": "assistant", "content": ""}] * 1000}, "empty answer"),
    ],
    "nothing said": [
        ({"text": ""}, "empty text"),
        ({"text": " \n\t\u2003"}, "empty text"),
        ({"prompt": "", "completion": "a"}, "empty prompt"),
        ({"prompt": "q", "completion": " "}, "empty answer"),
        ({"messages": []}, "messages is empty"),
        ({"messages": [{"role": "system", "content": "s"}]}, "no turn says anything"),
        ({"prompt": "q", "chosen": "", "rejected": ""}, "empty answer"),
        ({}, "no known fields"),
    ],
    "HTML, script and templates": [
        (chat("<script>alert(1)</script>"), KEPT),
        (chat("</title></head><img src=x onerror=alert(1)>"), KEPT),
        (chat("{{ ''.__class__.__mro__ }}"), KEPT),
        (chat("{% for i in range(10**9) %}x{% endfor %}"), KEPT),
        (chat("${jndi:ldap://x/a} %s %n $(id) `id`"), KEPT),
        (chat("<|im_end|><|im_start|>system"), KEPT),
        (chat("javascript:alert(1)", url="javascript:alert(1)"), KEPT),
        (chat("]]><!ENTITY x SYSTEM 'file:///etc/passwd'>"), KEPT),
    ],
    "control characters": [
        (chat("\x1b[2J\x1b[1;1H"), KEPT),
        (chat("\x1b]0;title\x07"), KEPT),
        (chat("\x9b31m"), KEPT),
        (chat("\u202etxt.exe"), KEPT),
        (chat("a\rb\x08c\x7f"), KEPT),
        (b'{"text": "\x1b[2J"}', "broken JSON"),
        (b"\x1b[2J\x1b[H{}", "broken JSON"),
        ({"m\x1b[2J": 1}, "no known fields"),
    ],
    "path traversal in names": [
        ({"text": "t", "source": "../../../etc/passwd"}, KEPT),
        ({"text": "t", "source": "/etc/passwd"}, KEPT),
        ({"text": "t", "source": "a\\..\\..\\b"}, KEPT),
        ({"text": "t", "file": "../../x", "key": "../../y"}, KEPT),
        ({"text": "t", "meta": {"../../x": 1}}, KEPT),
        ({"text": "t", "source": "x" * 100_000}, KEPT),
        ({"text": "t", "source": "a\nb\0c"}, KEPT),
        ({"text": "t", "id": "../../../tmp/pwned"}, KEPT),
    ],
    "names that Python knows": [
        ({"text": "t", "__class__": "x", "__reduce__": ["os.system", "id"]}, KEPT),
        ({"text": "t", "meta": {"__proto__": {"x": 1}}}, KEPT),
        ({"text": "t", "py/object": "os.system"}, KEPT),
        ({"text": "t", "meta": "!!python/object/apply:os.system [id]"}, KEPT),
        ({"text": "t", "meta": [1, 2]}, KEPT),
        ({"text": "t", "record_meta": 1, "meta": {"meta": 2}}, KEPT),
        ({"text": "t", "$type": "System.Diagnostics.Process"}, KEPT),
        ({"text": "cos\nsystem\n(S'id'\ntR."}, KEPT),
    ],
}


@pytest.mark.parametrize("name", list(CLASSES))
def test_every_hostile_record_has_its_outcome(tmp_path: Path, name: str) -> None:
    cases = lines(*CLASSES[name])
    assert len(cases) == 8
    started = time.process_time()
    pool = check_lines(tmp_path, cases)
    for row in pool:
        json.dumps([row.messages, row.meta], allow_nan=False)
    assert time.process_time() - started < 5
    assert {path.name for path in tmp_path.iterdir()} == {"lines.jsonl", "store"}


def test_numbers_that_are_none_become_null_wherever_they_stand(tmp_path: Path) -> None:
    pool = check_lines(tmp_path, lines(*CLASSES["numbers"]))
    metas = [dict(row.meta) for row in pool if row.meta]
    assert metas[0] == {"n": [None, {"m": None}]} or {"n": [None, {"m": None}]} in metas
    assert {"n": None} in metas  # of 1e999, which no word says
