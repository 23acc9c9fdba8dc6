// Tests of web/perdure.js, run by node's own runner from test_sdk.py, which makes the fixtures with the Python encoder.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

import { fly, headingOf } from "../../../web/arena/ship_rules.js";
import { Client, ClientClosed, ClientProtocol, CommandRefused, NotReady, OutcomeUnknown, ProtocolError, SnapshotError } from "../../../web/perdure.js";
import { decode, encode } from "../../../web/vendor/msgpack.js";

const fixtures = JSON.parse(readFileSync(process.env.PERDURE_FIXTURES, "utf8"));
const bytes = (hex) => Uint8Array.from(Buffer.from(hex, "hex"));
const { setTimeout: really } = globalThis; // also where a test has put its own clock in its place
const later = () => new Promise((resolve) => really(resolve, 5));
const until = async (condition) => {
  for (let k = 0; k < 2000 && !condition(); k++) await later();
  assert.ok(condition(), `did not come to hold: ${condition}`);
};

test("any course of a world decodes to what the Python client has of the same bytes", () => {
  for (const course of fixtures.courses) {
    const protocol = new ClientProtocol();
    protocol.receive(bytes(fixtures.welcome));
    for (const step of course) {
      const { snapshot } = protocol.receive(bytes(step.message));
      assert.deepEqual(snapshot.entered, step.entered);
      assert.deepEqual([...snapshot.left].sort(), [...step.left].sort());
      assert.deepEqual(snapshot.events.map(({ name, fields }) => ({ name, fields })), step.events);
      const seen = Object.fromEntries([...protocol.world.entities.values()].map((entity) => [entity.id, entity.fields]));
      assert.deepEqual(seen, step.entities);
    }
  }
});

test("a welcome's key above 2^53 is a big integer, and the rest are numbers", () => {
  const { welcome } = new ClientProtocol().receive(bytes(fixtures.welcome));
  assert.equal(welcome.key, BigInt(fixtures.key));
  assert.equal(typeof welcome.session, "number");
  assert.equal(welcome.schema.entities[0].fields[0].name, "x");
});

test("messages of every number become typed events, and unknown ones are ignored", () => {
  const protocol = new ClientProtocol();
  for (const { message, received } of fixtures.messages) {
    const got = protocol.receive(bytes(message));
    if (got.type === "names") got.names = Object.fromEntries([...got.names].map(([key, name]) => [String(key), name]));
    assert.deepEqual(got, received);
  }
});

test("what a server garbles is a typed error", () => {
  const protocol = new ClientProtocol();
  protocol.receive(bytes(fixtures.welcome));
  for (const hex of fixtures.garbage) {
    assert.throws(() => protocol.receive(bytes(hex)), (error) => error instanceof ProtocolError || error instanceof SnapshotError, hex);
  }
});

test("commands are encoded as the Python client does, and wrong ones never sent", () => {
  const protocol = new ClientProtocol();
  protocol.receive(bytes(fixtures.welcome));
  assert.throws(() => protocol.command("steer", {}), NotReady);
  protocol.receive(bytes(fixtures.first));
  for (const { name, fields, seq, message } of fixtures.commands) {
    const made = protocol.command(name, fields);
    assert.equal(made.seq, seq);
    assert.deepEqual(decode(made.message), decode(bytes(message)));
  }
  for (const fields of [{ mx: 2 }, { mx: 0.5 }, { nope: 1 }, { mx: NaN }, { mx: "1" }]) {
    assert.throws(() => protocol.command("steer", fields), ProtocolError);
  }
  assert.throws(() => protocol.command("aim", { angle: true }), ProtocolError, "the gateway closes on a boolean for a float");
  assert.throws(() => protocol.command("jump", {}), ProtocolError);
});

test("a ship moves as the rules of the arena move it", () => {
  for (const { x, y, heading, mx, my, after } of fixtures.flights) {
    const ship = { x, y };
    fly(ship, mx, my, 0.05, { width: 4096, height: 4096 });
    assert.deepEqual([ship.x, ship.y, Math.round(headingOf(mx, my, heading))], after);
  }
});

// --- the client, on a socket double ---------------------------------------------------------------------------------

class SocketDouble {
  static all = [];
  constructor(url) {
    Object.assign(this, { url, sent: [], readyState: 0 });
    SocketDouble.all.push(this);
    queueMicrotask(() => {
      this.readyState = 1;
      this.onopen();
    });
  }
  send(data) { this.sent.push(decode(data, { useBigInt64: true })); }
  close() { this.readyState = 3; }
  hear(hex) { this.onmessage({ data: bytes(hex).buffer }); }
  break(code = 1006, reason = "") {
    this.readyState = 3;
    this.onclose({ code, reason });
  }
}

const ack = (number) => Buffer.from(encode([2, 0, 1, number + 10, 1, number, 0, ...Array(5).fill(new Uint8Array())])).toString("hex");
const welcome = (session) => {
  const body = decode(bytes(fixtures.welcome), { useBigInt64: true });
  Object.assign(body[1], { session, resume: `anna.${session}` });
  return Buffer.from(encode(body, { useBigInt64: true })).toString("hex");
};
async function playing(options = {}) {
  SocketDouble.all = [];
  const client = new Client(["ws://a", "ws://b"], { token: "t", WebSocket: SocketDouble, ...options });
  const connected = client.connect();
  await until(() => SocketDouble.all[0]?.sent.length);
  const [socket] = SocketDouble.all;
  assert.deepEqual(socket.sent[0], [1, { protocol: 1, schema: null, token: "t" }]);
  socket.hear(welcome(1));
  socket.hear(ack(0));
  await connected;
  return { client, socket };
}
async function next(count) {
  await until(() => SocketDouble.all.length === count && SocketDouble.all[count - 1].sent.length);
  return SocketDouble.all[count - 1];
}

test("a broken socket is made anew by resume, and what was not acknowledged is sent again", async () => {
  const { client, socket } = await playing();
  const outcomes = [1, 2, 3].map(() => client.command("steer", { mx: 1 }));
  socket.hear(ack(1));
  assert.equal(await outcomes[0], 1);
  socket.break();
  const second = await next(2);
  assert.equal(second.url, "ws://b");
  assert.deepEqual(second.sent[0][1].resume, "anna.1");
  second.hear(welcome(2));
  second.hear(ack(2));
  assert.deepEqual(second.sent.slice(1), [[2, 3, 1, 1, 0, 0]]);
  assert.equal(await outcomes[1], 2);
  second.hear(ack(3));
  assert.equal(await outcomes[2], 3);
  assert.equal(client.stats.reconnects, 1);
  client.close();
});

test("a used-up resume token is no reason to wait, however long the server was away", async () => {
  const { client, socket } = await playing();
  client.tries = 9; // the tenth would come after five seconds
  socket.break(4004, "bad resume token");
  assert.equal(client.tries, 1, "within 50 ms");
  assert.equal((await next(2)).sent[0][1].token, "t");
  client.close();
});

test("after another session was there, the outcome of a command is unknown, and the others are numbered anew", async () => {
  const { client, socket } = await playing();
  const [first, second] = [client.command("steer", { mx: 1 }), client.command("steer", { my: 1 })];
  first.catch(() => {});
  socket.break(4004, "bad resume token");
  const again = await next(2);
  assert.equal(again.sent[0][1].token, "t");
  again.hear(welcome(3)); // 2 was somebody else's
  again.hear(ack(1));
  await assert.rejects(first, OutcomeUnknown);
  assert.deepEqual(again.sent.slice(1), [[2, 2, 1, 0, 1, 0]]);
  again.hear(ack(2));
  assert.equal(await second, 2);
  client.close();
});

test("numbers go on after the lobby: what was applied before the logout is acknowledged, and not sent again", async () => {
  const { client, socket } = await playing();
  const outcomes = [1, 2, 3].map(() => client.command("steer", { mx: 1 }));
  for (const outcome of outcomes) outcome.catch(() => {});
  socket.hear(ack(1));
  socket.break();
  const second = await next(2);
  second.hear(welcome(2));
  second.hear(ack(2));
  assert.equal(await outcomes[1], 2);
  assert.deepEqual(second.sent.slice(1), [[2, 3, 1, 1, 0, 0]]);
  assert.equal(client.protocol.acknowledgedLost, 0);
  client.close();
});

test("where the world forgot what it acknowledged, no outcome is known and nothing is sent again", async () => {
  const { client, socket } = await playing();
  const outcomes = [1, 2, 3].map(() => client.command("steer", { mx: 1 }));
  for (const outcome of outcomes) outcome.catch(() => {});
  socket.hear(ack(2));
  socket.break();
  const second = await next(2);
  second.hear(welcome(2));
  second.hear(ack(1));
  await assert.rejects(outcomes[2], OutcomeUnknown);
  assert.deepEqual(second.sent.slice(1), []);
  assert.equal(client.protocol.acknowledgedLost, 1);
  const again = client.command("steer", { mx: 1 });
  assert.deepEqual(second.sent.slice(1), [[2, 2, 1, 1, 0, 0]]);
  second.hear(ack(2));
  assert.equal(await again, 2);
  client.close();
});

test("a refused command is told, and its number is used again only when all refusals are in", async () => {
  const { client, socket } = await playing();
  const [first, second] = [client.command("steer"), client.command("steer")];
  socket.hear(Buffer.from(encode([5, 1, "too fast"])).toString("hex"));
  await assert.rejects(first, CommandRefused);
  assert.throws(() => client.send("steer"), NotReady);
  socket.hear(Buffer.from(encode([5, 2, "too fast"])).toString("hex"));
  await assert.rejects(second, CommandRefused);
  assert.equal(client.send("steer"), 1);
  client.close();
});

test("a close that is for good ends the client, and says why", async () => {
  const { client, socket } = await playing();
  const waiting = client.command("steer");
  socket.break(4010, "taken over");
  await assert.rejects(waiting, ClientClosed);
  assert.equal(client.ended.code, 4010);
  await later();
  assert.equal(SocketDouble.all.length, 1);
});

test("who leaves while the socket is broken leaves with the next one; the pings of the old one fail", async () => {
  const { client, socket } = await playing();
  const [ping, left] = [client.ping(), client.leave()];
  socket.break(4012, "logged out");
  await assert.rejects(ping, NotReady);
  await left;
});

/** Time that passes only when the test says so. */
function clock(t) {
  let now = 0;
  t.mock.timers.enable({ apis: ["setTimeout"] });
  t.mock.method(performance, "now", () => now);
  return (ms) => {
    for (let k = 0; k < ms; k += 100) {
      now += 100;
      t.mock.timers.tick(100);
    }
  };
}
const hexOf = (message) => Buffer.from(encode(message)).toString("hex");
const pings = (socket) => socket.sent.filter(([op]) => op === 3);

test("who waits in the queue waits as long as the gateway says so, and no longer", async (t) => {
  const pass = clock(t);
  SocketDouble.all = [];
  const client = new Client("ws://a", { token: "t", WebSocket: SocketDouble });
  const connected = client.connect();
  await until(() => SocketDouble.all[0]?.sent.length);
  for (let k = 0; k < 30; k++) {
    pass(1000);
    SocketDouble.all[0].hear(hexOf([9, 7, 30]));
  }
  assert.equal(client.ended, null);
  assert.equal(SocketDouble.all.length, 1);
  pass(14_900);
  assert.equal(client.ended, null);
  pass(100);
  await assert.rejects(connected, ClientClosed);
});

test("a socket that says nothing is asked, and one that does not answer is made anew without waiting for its close", async (t) => {
  const pass = clock(t);
  const { client, socket } = await playing();
  for (let k = 0; k < 20; k++) {
    pass(1000);
    socket.hear(ack(0));
  }
  assert.deepEqual(pings(socket), [], "what sends snapshots lives");
  pass(4900);
  assert.deepEqual(pings(socket), []);
  pass(100);
  assert.equal(pings(socket).length, 1);
  socket.hear(hexOf([4, pings(socket)[0][1]]));
  pass(9900);
  assert.equal(pings(socket).length, 2);
  assert.equal(socket.readyState, 1);
  const ends = [];
  client.on("disconnect", (end) => ends.push(end));
  pass(100);
  assert.deepEqual(ends, [{ code: 1006, reason: "nothing was heard for 10 s", again: true }]);
  assert.equal(socket.readyState, 3, "what it holds is given free");
  pass(100);
  const second = await next(2);
  assert.equal(second.sent[0][1].resume, "anna.1");
  socket.hear(ack(9)); // of a socket that is no longer ours
  assert.equal(client.protocol.acked, 0);
  client.close();
  pass(60_000);
  assert.equal(SocketDouble.all.length, 2);
});

test("a socket that does not open is given up too", async (t) => {
  const pass = clock(t);
  class Unanswered extends SocketDouble {
    set onopen(heard) {}
    get onopen() { return () => { this.readyState = 0; }; } // nobody accepts it
  }
  SocketDouble.all = [];
  const client = new Client(["ws://a", "ws://b"], { token: "t", WebSocket: Unanswered });
  client.connect().catch(() => {});
  await until(() => SocketDouble.all.length === 1);
  pass(9900);
  assert.equal(SocketDouble.all[0].readyState, 0);
  pass(200);
  await until(() => SocketDouble.all.length === 2);
  assert.deepEqual([SocketDouble.all[0].readyState, SocketDouble.all[0].sent], [3, []]);
  client.close();
});
