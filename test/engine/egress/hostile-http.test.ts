import { describe, expect, it } from "vitest";
import { openRig, scripted } from "./rig.ts";

/** Bytes that mean something to somebody, and what is neither ASCII nor UTF-8. */
const odd = ["\0", "\x01", "\b", "\t", "\n", "\v", "\f", "\r", "\x1b", " ", "\x7f", "\x80", "\xff"];

describe("requests with odd bytes", () => {
  it.each(
    odd.flatMap((byte) => [
      [
        `${JSON.stringify(byte)} in the URL`,
        `GET http://ok.test:PORT/a${byte}b HTTP/1.1\r\nHost: ok.test:PORT\r\n\r\n`,
      ],
      [
        `${JSON.stringify(byte)} in a method`,
        `G${byte}T http://ok.test:PORT/ HTTP/1.1\r\nHost: ok.test:PORT\r\n\r\n`,
      ],
      [
        `${JSON.stringify(byte)} in a field`,
        `GET http://ok.test:PORT/ HTTP/1.1\r\nHost: ok.test:PORT\r\nX: a${byte}b\r\n\r\n`,
      ],
      [
        `${JSON.stringify(byte)} in a field's name`,
        `GET http://ok.test:PORT/ HTTP/1.1\r\nHost: ok.test:PORT\r\nX${byte}Y: b\r\n\r\n`,
      ],
      [
        `${JSON.stringify(byte)} in Host`,
        `GET http://ok.test:PORT/ HTTP/1.1\r\nHost: ok.test:PORT${byte}\r\n\r\n`,
      ],
      [
        `${JSON.stringify(byte)} in an upgrade`,
        `GET http://ok.test:PORT/a${byte} HTTP/1.1\r\nHost: ok.test:PORT\r\nConnection: upgrade\r\nUpgrade: a${byte}b\r\n\r\n`,
      ],
      [
        `${JSON.stringify(byte)} in CONNECT`,
        `CONNECT ok.test:PORT${byte} HTTP/1.1\r\nHost: ok.test:PORT\r\n\r\n`,
      ],
      [
        `${JSON.stringify(byte)} in a trailer`,
        `POST http://ok.test:PORT/ HTTP/1.1\r\nHost: ok.test:PORT\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n1\r\na\r\n0\r\nX: ${byte}\r\n\r\n`,
      ],
    ]),
  )("%s end nothing but themselves", async (_what, text) => {
    await using server = await scripted();
    await using rig = await openRig();
    const answer = await rig.say([text.replaceAll("PORT", String(server.port))], { timeoutMs: 300 });
    expect(answer).toMatch(/^(HTTP\/1\.1 (200|400|403|502) |$)/);
    // Nothing of it was taken for one more request, or for one more field.
    expect(server.text().match(/ HTTP\/1\.1\r\n/g)?.length ?? 0).toBeLessThanOrEqual(1);
    expect(server.text()).not.toMatch(/\r\n(b|Y)/);
    const plain = `GET http://ok.test:${server.port}/ HTTP/1.1\r\nHost: ok.test:${server.port}\r\n\r\n`;
    expect(await rig.say([plain])).toMatch(/^HTTP\/1\.1 200 /);
  });
});

describe("answers with odd bytes", () => {
  it.each([
    ["a status of 099", "HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n"],
    ["a status of 000", "HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n"],
    ["a status of 1000", "HTTP/1.1 1000 OK\r\nContent-Length: 0\r\n\r\n"],
    ["101 unasked", "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"],
    ["101 without a protocol", "HTTP/1.1 101 Switching\r\n\r\n"],
    ["102 for ever", "HTTP/1.1 102 P\r\n\r\n".repeat(100)],
    ["an end in its head", "HTTP/1.1 200 OK\r\nX: "],
    ["an end in its body", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nab"],
    ["an end in a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nab"],
    ["two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"],
    [
      "a length and chunks",
      "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
    ["a head without end", `HTTP/1.1 200 OK\r\n${"X: y\r\n".repeat(20_000)}`],
    ["no HTTP", "SSH-2.0-x\r\n"],
    ...odd.flatMap((byte) => [
      [`${JSON.stringify(byte)} in the reason`, `HTTP/1.1 200 a${byte}b\r\nContent-Length: 0\r\n\r\n`],
      [`${JSON.stringify(byte)} in a field`, `HTTP/1.1 200 OK\r\nX: a${byte}b\r\nContent-Length: 0\r\n\r\n`],
      [`${JSON.stringify(byte)} in a name`, `HTTP/1.1 200 OK\r\nX${byte}Y: b\r\nContent-Length: 0\r\n\r\n`],
      [
        `${JSON.stringify(byte)} in a trailer`,
        `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n0\r\nX: a${byte}b\r\n\r\n`,
      ],
    ]),
  ])("%s end nothing but themselves", async (_what, bytes = "") => {
    await using server = await scripted(bytes);
    await using rig = await openRig();
    const host = `ok.test:${server.port}`;
    const got = await rig.say([`GET http://${host}/ HTTP/1.1\r\nHost: ${host}\r\n\r\n`], {
      timeoutMs: 300,
    });
    expect(got).toMatch(/^(HTTP\/1\.1 (200|502) |$)/);
    const upgraded = await rig.say(
      [`GET http://${host}/ HTTP/1.1\r\nHost: ${host}\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n`],
      { timeoutMs: 300 },
    );
    expect(upgraded).toMatch(/^(HTTP\/1\.1 \d{3} |$)/);
  });
});
