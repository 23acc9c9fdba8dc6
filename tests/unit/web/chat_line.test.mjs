// Tests of web/arena/chat_line.js, run by node's own runner from test_sdk.py.
import assert from "node:assert/strict";
import test from "node:test";

import { MAX_TEXT, meaning } from "../../../web/arena/chat_line.js";

test("a line goes to the zone, a whisper to one player, an answer to who whispered last", () => {
  assert.deepEqual(meaning("  hello  there "), { to: "", text: "hello  there" });
  for (const verb of ["w", "W", "tell", "whisper", "msg"]) assert.deepEqual(meaning(`/${verb}  bob.2  a b `), { to: "bob.2", text: "a b" });
  assert.deepEqual(meaning("/r so be it", "ann"), { to: "ann", text: "so be it" });
  assert.deepEqual(meaning("/w bob /w ann"), { to: "bob", text: "/w ann" });
  assert.equal(meaning(" \t "), null);
});

test("what goes to nobody says why, and what the gateway would close the connection for is not sent", () => {
  for (const typed of ["/", "/dance", "/w", "/w bob", "/r", "/r hi", `/w ${"n".repeat(33)} hi`, "/w <b> hi", "/w bö hi", "x".repeat(MAX_TEXT + 1)]) {
    assert.ok(meaning(typed).fault, typed);
  }
  assert.ok(meaning("/r ", "ann").fault);
  assert.equal(meaning("😀".repeat(MAX_TEXT)).text.length, 2 * MAX_TEXT); // characters, not halves of them
});
